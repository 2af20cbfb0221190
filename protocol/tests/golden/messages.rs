// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Every vector once more, built from the wire structures.

use dmabuf_protocol::config::{CONFIG_MAGIC, DeviceConfig, WindowHeader};
use dmabuf_protocol::wire::*;
use dmabuf_protocol::{
    Access, Caching, Enforcement, Flags, HeapKind, Name, OpCode, PeerKind, Status, Uuid, VERSION,
};
use zerocopy::{FromZeros, Immutable, IntoBytes};

const UUID: Uuid = Uuid([
    0x5f, 0x0c, 0x1f, 0x6e, 0x93, 0xa1, 0x4f, 0x0e, 0x8f, 0x5a, 0x0d, 0x5b, 0x2c, 0x1a, 0x7e, 0x10,
]);
pub const HANDLE: u64 = 0x3_0000_0002;
pub const MAPPING: u64 = 0x1_0000_0005;
const MIB: u64 = 1 << 20;
const INFO_TAG: u64 = 0x1122_3344_5566_7788;

pub fn name(text: &str) -> [u8; 64] {
    Name::new(text).unwrap().to_wire()
}

pub fn format() -> Format {
    Format {
        fourcc: u32::from_le_bytes(*b"NV12").into(),
        width: 1280.into(),
        height: 720.into(),
        num_planes: 2.into(),
        offset: [0.into(), 921_600.into(), 0.into(), 0.into()],
        stride: [1280.into(), 1280.into(), 0.into(), 0.into()],
        ..FromZeros::new_zeroed()
    }
}

fn front() -> BufferInfo {
    BufferInfo {
        id: 7.into(),
        size: (2 * MIB).into(),
        access: Access::ReadOnly.to_wire().into(),
        enforcement: Enforcement::Sealed.to_wire().into(),
        heap: HeapKind::Udmabuf.to_wire().into(),
        flags: BUFFER_STATIC_WINDOW.into(),
        format: format(),
        name: name("front-camera/0"),
    }
}

pub fn request(op: OpCode, tag: u64, body: &(impl IntoBytes + Immutable)) -> Vec<u8> {
    let header = RequestHeader {
        op: op.to_wire().into(),
        tag: tag.into(),
        ..FromZeros::new_zeroed()
    };
    [header.as_bytes(), body.as_bytes()].concat()
}

pub fn reply(op: OpCode, tag: u64, status: Status, body: &(impl IntoBytes + Immutable)) -> Vec<u8> {
    let header = ReplyHeader {
        op: op.to_wire().into(),
        status: status.0.into(),
        tag: tag.into(),
    };
    [header.as_bytes(), body.as_bytes()].concat()
}

/// All vectors with their names.
pub fn all() -> Vec<(&'static str, Vec<u8>)> {
    let mut all = fixed();
    all.extend(consumer());
    all.extend(producer());
    all.extend(crate::fence_messages::all());
    all.extend(crate::stream_messages::all());
    all
}

fn fixed() -> Vec<(&'static str, Vec<u8>)> {
    let config = DeviceConfig {
        magic: CONFIG_MAGIC,
        version: VERSION.into(),
        windows: (WINDOW_BIT_DYNAMIC | WINDOW_BIT_STATIC).into(),
        window_size: (64 * MIB).into(),
        uuid: UUID.0,
        max_handles: 256.into(),
        max_mappings: 128.into(),
        max_inflight: 64.into(),
        num_static: 2.into(),
        reserved: 0.into(),
    };
    let window = WindowHeader::new(UUID, 16 * MIB, 4096, 2 * MIB, 4);
    let event = |kind: u32, sequence: u64| Event {
        kind: kind.into(),
        sequence: sequence.into(),
        buffer: 7.into(),
        name: name("front-camera/0"),
        ..FromZeros::new_zeroed()
    };
    vec![
        ("config", config.as_bytes().to_vec()),
        ("window", window.as_bytes().to_vec()),
        (
            "event.added",
            event(EVENT_BUFFER_ADDED, 1).as_bytes().to_vec(),
        ),
        (
            "event.withdrawn",
            event(EVENT_BUFFER_WITHDRAWN, 2).as_bytes().to_vec(),
        ),
        (
            "event.released",
            Event {
                value: 0x0102_0304_0506_0708.into(),
                ..event(EVENT_BUFFER_RELEASED, 3)
            }
            .as_bytes()
            .to_vec(),
        ),
        (
            "event.revoked",
            Event {
                value: 1500.into(),
                ..event(EVENT_BUFFER_REVOKED, 4)
            }
            .as_bytes()
            .to_vec(),
        ),
        (
            "event.free",
            Event {
                value: FREE_SHARED.into(),
                name: [0; 64],
                ..event(EVENT_BUFFER_FREE, 5)
            }
            .as_bytes()
            .to_vec(),
        ),
    ]
}

fn consumer() -> Vec<(&'static str, Vec<u8>)> {
    let info = InfoReply {
        version: VERSION.into(),
        windows: (WINDOW_BIT_DYNAMIC | WINDOW_BIT_STATIC).into(),
        window_size: (64 * MIB).into(),
        max_handles: 256.into(),
        max_mappings: 128.into(),
        max_inflight: 64.into(),
        handles: 3.into(),
        mappings: 2.into(),
        probe: 1.into(),
        name: name("cluster"),
        ..FromZeros::new_zeroed()
    };
    let list = ListRequest {
        cursor: 6.into(),
        max: 2.into(),
        reserved: 0.into(),
    };
    let page = ListReply {
        count: 2.into(),
        next: 9.into(),
        reserved: 0.into(),
    };
    let scratch = BufferInfo {
        id: 9.into(),
        size: 65536.into(),
        access: Access::ReadWrite.to_wire().into(),
        heap: HeapKind::DmaHeap.to_wire().into(),
        name: name("scratch"),
        ..FromZeros::new_zeroed()
    };
    let open = OpenRequest {
        name: name("front-camera/0"),
        flags: Flags::from(Access::ReadOnly).0.into(),
        enforcement: Enforcement::Sealed.to_wire().into(),
    };
    let opened = OpenReply {
        handle: HANDLE.into(),
        fd_offset: (2 * MIB + 4096).into(),
        buffer: front(),
    };
    let close = CloseRequest {
        handle: HANDLE.into(),
    };
    let derive = DeriveRequest {
        handle: HANDLE.into(),
        flags: Access::ReadOnly.to_wire().into(),
        enforcement: Enforcement::Derived.to_wire().into(),
    };
    let derived = OpenReply {
        handle: 0x1_0000_0003.into(),
        fd_offset: 0.into(),
        buffer: BufferInfo {
            id: 10.into(),
            size: 4096.into(),
            enforcement: Enforcement::Derived.to_wire().into(),
            heap: HeapKind::Imported.to_wire().into(),
            ..FromZeros::new_zeroed()
        },
    };
    let usage = PeerUsage {
        name: name("cluster"),
        kind: PeerKind::Vm.to_wire().into(),
        sessions: 1.into(),
        per_session: 0x1f.into(),
        reserved: 0.into(),
        uses: std::array::from_fn(|n| {
            let n = u64::try_from(n).unwrap();
            ResourceUse {
                used: n.into(),
                limit: (256 + n).into(),
            }
        }),
    };
    let mut vectors = vec![
        ("get_info.request", request(OpCode::GetInfo, INFO_TAG, &())),
        (
            "get_info.reply",
            reply(OpCode::GetInfo, INFO_TAG, Status::OK, &info),
        ),
        ("list.request", request(OpCode::List, 2, &list)),
        (
            "list.reply",
            [
                reply(OpCode::List, 2, Status::OK, &page),
                [front(), scratch].as_bytes().to_vec(),
            ]
            .concat(),
        ),
        ("open.request", request(OpCode::Open, 3, &open)),
        ("open.reply", reply(OpCode::Open, 3, Status::OK, &opened)),
        ("open.refused", reply(OpCode::Open, 3, Status::EACCES, &())),
        ("close.request", request(OpCode::Close, 4, &close)),
        ("close.reply", reply(OpCode::Close, 4, Status::OK, &())),
        ("derive.request", request(OpCode::Derive, 8, &derive)),
        (
            "derive.reply",
            reply(OpCode::Derive, 8, Status::OK, &derived),
        ),
        ("get_usage.request", request(OpCode::GetUsage, 31, &list)),
        (
            "get_usage.reply",
            [
                reply(
                    OpCode::GetUsage,
                    31,
                    Status::OK,
                    &ListReply {
                        count: 1.into(),
                        ..page
                    },
                ),
                usage.as_bytes().to_vec(),
            ]
            .concat(),
        ),
    ];
    vectors.extend(mappings());
    vectors
}

fn mappings() -> Vec<(&'static str, Vec<u8>)> {
    let map = MapRequest {
        handle: HANDLE.into(),
        offset: 4096.into(),
        length: 12288.into(),
        access: Access::ReadOnly.to_wire().into(),
        reserved: 0.into(),
    };
    let in_static = MapReply {
        mapping: MAPPING.into(),
        window_offset: 0x20_2000.into(),
        length: 12288.into(),
        access: Access::ReadOnly.to_wire().into(),
        enforcement: Enforcement::Sealed.to_wire().into(),
        caching: Caching::Cached.to_wire().into(),
        window: WINDOW_STATIC.into(),
        uuid: UUID.0,
        reserved: 0.into(),
    };
    let in_dynamic = MapReply {
        mapping: MAPPING.into(),
        window_offset: MIB.into(),
        length: 65536.into(),
        access: Access::ReadWrite.to_wire().into(),
        enforcement: Enforcement::None.to_wire().into(),
        caching: Caching::Cached.to_wire().into(),
        window: WINDOW_DYNAMIC.into(),
        uuid: Uuid::NIL.0,
        reserved: 0.into(),
    };
    let unmap = UnmapRequest {
        mapping: MAPPING.into(),
    };
    vec![
        ("map.request", request(OpCode::Map, 5, &map)),
        (
            "map.static.reply",
            reply(OpCode::Map, 5, Status::OK, &in_static),
        ),
        (
            "map.dynamic.reply",
            reply(OpCode::Map, 6, Status::OK, &in_dynamic),
        ),
        ("unmap.request", request(OpCode::Unmap, 7, &unmap)),
        ("unmap.reply", reply(OpCode::Unmap, 7, Status::ESTALE, &())),
    ]
}

fn producer() -> Vec<(&'static str, Vec<u8>)> {
    let alloc = AllocRequest {
        heap: name("camera"),
        size: 1_382_400.into(),
        flags: 0.into(),
    };
    let import = ImportRequest {
        name: name("decoder/out"),
        flags: PUBLISH_KEEP.into(),
        format: FromZeros::new_zeroed(),
    };
    let publish = PublishRequest {
        handle: HANDLE.into(),
        flags: 0.into(),
        name: name(&("n".repeat(63) + "/")),
        format: format(),
    };
    let withdraw = WithdrawRequest {
        name: name("front-camera/0"),
    };
    let revoke = RevokeRequest {
        deadline_ms: 1500.into(),
        name: name("front-camera/0"),
        ..FromZeros::new_zeroed()
    };
    let which = HeapListRequest {
        index: 1.into(),
        reserved: 0.into(),
    };
    let heap = HeapReply {
        name: name("camera"),
        max_size: (2 * MIB).into(),
        kind: HeapKind::Udmabuf.to_wire().into(),
        count: 2.into(),
        ..FromZeros::new_zeroed()
    };
    vec![
        ("alloc.request", request(OpCode::Alloc, 9, &alloc)),
        ("import.request", request(OpCode::Import, 10, &import)),
        ("publish.request", request(OpCode::Publish, 11, &publish)),
        ("withdraw.request", request(OpCode::Withdraw, 12, &withdraw)),
        ("heap_list.request", request(OpCode::HeapList, 13, &which)),
        (
            "heap_list.reply",
            reply(OpCode::HeapList, 13, Status::OK, &heap),
        ),
        ("revoke.request", request(OpCode::Revoke, 31, &revoke)),
    ]
}
