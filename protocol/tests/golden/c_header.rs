// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The C header against the files: a C program fills the structures and prints them.

use crate::files;
use dmabuf_protocol::config::{DeviceConfig, WindowHeader};
use dmabuf_protocol::wire::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// What the C program prints, by the first word of the line; `None` where there is no C compiler.
fn printed() -> Option<&'static BTreeMap<String, String>> {
    static PRINTED: OnceLock<Option<BTreeMap<String, String>>> = OnceLock::new();
    PRINTED.get_or_init(run).as_ref()
}

/// A directory that is gone with its owner.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn run() -> Option<BTreeMap<String, String>> {
    if Command::new("cc").arg("--version").output().is_err() {
        return None;
    }
    let protocol = Path::new(env!("CARGO_MANIFEST_DIR"));
    let scratch = Scratch(
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("golden-{}", std::process::id())),
    );
    std::fs::create_dir_all(&scratch.0).unwrap();
    let program = scratch.0.join("vectors");
    let cc = Command::new("cc")
        .args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(protocol.join("../kernel/virtio_dmabuf/uapi"))
        .arg("-o")
        .arg(&program)
        .arg(protocol.join("tests/golden/vectors.c"))
        .output()
        .unwrap();
    assert!(
        cc.status.success(),
        "{}",
        String::from_utf8_lossy(&cc.stderr)
    );
    let output = Command::new(&program).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().map(|line| {
        let at = if line.starts_with("layout ") {
            line.find(' ').unwrap() + 1
        } else {
            0
        };
        let (name, rest) = line[at..].split_once(' ').unwrap();
        (format!("{}{name}", &line[..at]), rest.to_owned())
    });
    Some(lines.collect())
}

fn skip(test: &str) {
    println!("SKIP {test}: there is no C compiler: install gcc or clang as cc");
}

#[test]
fn the_header_builds_every_file() {
    let Some(printed) = printed() else {
        return skip("the_header_builds_every_file");
    };
    let built = printed
        .iter()
        .filter(|(name, _)| !name.starts_with("layout "));
    let built: BTreeMap<_, _> = built
        .map(|(name, hex)| (name.clone(), hex.clone()))
        .collect();
    let golden = files::all().into_iter().map(|(name, bytes)| {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        (name, hex)
    });
    assert_eq!(built, golden.collect());
}

macro_rules! layouts {
    ($($c:ident = $rust:ident { $($field:ident),* })*) => {{
        let mut expected = BTreeMap::new();
        $(
            expected.insert(format!("layout {}", stringify!($c)), format!("0 {}", size_of::<$rust>()));
            let value: $rust = zerocopy::FromZeros::new_zeroed();
            $(expected.insert(
                format!("layout {}.{}", stringify!($c), stringify!($field)),
                format!("{} {}", std::mem::offset_of!($rust, $field), size_of_val(&value.$field)),
            );)*
        )*
        expected
    }};
}

#[test]
fn the_header_has_the_same_layout() {
    let Some(printed) = printed() else {
        return skip("the_header_has_the_same_layout");
    };
    let c = printed
        .iter()
        .filter(|(name, _)| name.starts_with("layout "));
    let c: BTreeMap<_, _> = c
        .map(|(name, place)| (name.clone(), place.clone()))
        .collect();
    assert_eq!(c, rust_layouts());
}

fn rust_layouts() -> BTreeMap<String, String> {
    layouts! {
        config = DeviceConfig { magic, version, windows, window_size, uuid, max_handles, max_mappings, max_inflight, num_static, reserved }
        window = WindowHeader { magic, version, reserved, uuid, size, first_slot, slot_size, slots, reserved2 }
        req_hdr = RequestHeader { op, reserved, tag }
        resp_hdr = ReplyHeader { op, status, tag }
        format = Format { fourcc, width, height, num_planes, modifier, offset, stride, reserved }
        buffer = BufferInfo { id, size, access, enforcement, heap, flags, format, name }
        info_resp = InfoReply { version, windows, window_size, max_handles, max_mappings, max_inflight, handles, mappings, probe, reserved, name }
        list = ListRequest { cursor, max, reserved }
        list_resp = ListReply { count, reserved, next }
        open = OpenRequest { name, flags, enforcement }
        open_resp = OpenReply { handle, fd_offset, buffer }
        close = CloseRequest { handle }
        map = MapRequest { handle, offset, length, access, reserved }
        map_resp = MapReply { mapping, window_offset, length, access, enforcement, caching, window, uuid, reserved }
        unmap = UnmapRequest { mapping }
        derive = DeriveRequest { handle, flags, enforcement }
        use = ResourceUse { used, limit }
        peer_usage = PeerUsage { name, kind, sessions, per_session, reserved, uses }
        alloc = AllocRequest { heap, size, flags }
        import = ImportRequest { name, flags, format }
        publish = PublishRequest { handle, flags, name, format }
        withdraw = WithdrawRequest { name }
        heap_list = HeapListRequest { index, reserved }
        heap_list_resp = HeapReply { name, max_size, kind, count, reserved }
        revoke = RevokeRequest { handle, deadline_ms, reserved, name }
        stream_revoke = StreamRevokeRequest { stream, deadline_ms, reserved }
        stream_open = StreamOpenRequest { name, mode, depth, hold_ms, reserved }
        stream_open_resp = StreamOpenReply { stream, buffers, hold_ms, max_held, reserved, id, format }
        stream = StreamRequestBody { stream }
        stream_buffer = StreamBufferRequest { stream, index, enforcement }
        frame_resp = FrameReply { sequence, timestamp_ns, skipped, index, flags, hold_ms, ready }
        stream_release = StreamReleaseRequest { stream, sequence }
        stream_stats = StreamStatsRequest { name, cursor, reserved }
        stream_stats_resp = StreamStatsReply { produced, buffers, with_producer, free, consumers, count, next, reserved }
        consumer = ConsumerInfo { peer, mode, depth, joined, delivered, skipped, expired, ready, held }
        stream_info = StreamInfo { id, produced, buffers, consumers, reserved, format, name }
        stream_create = StreamCreateRequest { name, flags, format }
        stream_create_resp = StreamCreateReply { stream, id }
        stream_add = StreamAddRequest { stream, handle }
        stream_index_resp = StreamIndexReply { index, reserved }
        stream_queue = StreamQueueRequest { stream, timestamp_ns, index, flags }
        stream_queue_resp = StreamQueueReply { sequence }
        event = Event { kind, reserved, sequence, buffer, value, name }
        sync = SyncRequest { handle, flags, reserved }
        sync_resp = SyncReply { flags, open }
        fence_wait = FenceWaitRequest { handle, usage, timeout_ms }
        fence_wait_resp = FenceWaitReply { flags, fences, timestamp_ns }
        fence_cancel = FenceCancelRequest { tag }
        fence_query = FenceQueryRequest { handle, usage, reserved }
        fence_query_resp = FenceQueryReply { flags, fences, state, error }
        release = ReleaseRequest { handle, value }
        hold = HoldRequest { handle, usage, timeout_ms }
        hold_resp = HoldReply { timeout_ms, reserved }
    }
}
