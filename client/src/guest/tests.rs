// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The driver's header as a C compiler sees it; and what is no device of the driver. The calls themselves are tried in VMs.

use super::*;
use std::collections::BTreeMap;
use std::mem::offset_of;
use std::process::Command;

/// What C says: one line per structure, field and ioctl.
fn printed(source: &str) -> Option<BTreeMap<String, usize>> {
    if Command::new("cc").arg("--version").output().is_err() {
        println!("SKIP: there is no C compiler: install gcc or clang as cc");
        return None;
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let scratch = std::env::temp_dir().join(format!("dmabuf-guest-{}", std::process::id()));
    std::fs::create_dir_all(&scratch).unwrap();
    let (file, program) = (scratch.join("layout.c"), scratch.join("layout"));
    std::fs::write(&file, source).unwrap();
    let cc = Command::new("cc")
        .args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(here.join("../kernel/virtio_dmabuf/uapi"))
        .arg("-o")
        .args([&program, &file])
        .output()
        .unwrap();
    assert!(
        cc.status.success(),
        "{}",
        String::from_utf8_lossy(&cc.stderr)
    );
    let output = Command::new(&program).output().unwrap();
    std::fs::remove_dir_all(&scratch).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = |line: &str| {
        let (name, value) = line.split_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    Some(text.lines().map(line).collect())
}

#[test]
fn structures_and_ioctls_are_those_of_the_header() {
    let mut expected = BTreeMap::new();
    let mut lines = Vec::new();
    let mut line = |name: String, value: String, ours: usize| {
        lines.push(format!("printf(\"{name} %zu\\n\", (size_t)({value}));"));
        expected.insert(name, ours);
    };
    macro_rules! structures {
        ($($ours:ident $theirs:ident { $($field:ident)* })*) => {$(
            let c = concat!("struct virtio_dmabuf_", stringify!($theirs));
            let name = stringify!($ours);
            line(name.to_owned(), format!("sizeof({c})"), size_of::<raw::$ours>());
            $(line(
                format!("{name}.{}", stringify!($field)),
                format!("offsetof({c}, {})", stringify!($field)),
                offset_of!(raw::$ours, $field),
            );)*
        )*};
    }
    structures! {
        Info ioc_info { version windows window_size max_handles max_mappings handles mappings probe uuid name }
        Format ioc_format { fourcc width height num_planes modifier offset stride }
        Buffer ioc_buffer { id size access enforcement heap flags format name }
        List ioc_list { cursor next entries count }
        Open ioc_open { name flags fd enforcement size }
        Event ioc_event { kind sequence buffer value name }
        Publish ioc_publish { name fd flags format }
        Withdraw ioc_withdraw { name }
        StreamInfo ioc_stream_info { id produced buffers consumers format name }
        StreamOpen ioc_stream_open { name mode depth hold_ms flags options fd buffers max_held id format }
        Frame ioc_frame { sequence timestamp_ns skipped index flags hold_ms ready }
        StreamRelease ioc_stream_release { sequence }
        StreamBuffer ioc_stream_buffer { index flags enforcement fd size }
        StreamCreate ioc_stream_create { name format flags fd id }
        StreamAdd ioc_stream_add { fd index }
        StreamQueue ioc_stream_queue { index flags timestamp_ns sequence }
        StreamReclaim ioc_stream_reclaim { index }
    }
    let number = |opcode: rustix::ioctl::Opcode| usize::try_from(opcode).unwrap();
    for (name, ours) in [
        ("VIRTIO_DMABUF_IOC_INFO", number(sys::INFO)),
        ("VIRTIO_DMABUF_IOC_LIST", number(sys::LIST)),
        ("VIRTIO_DMABUF_IOC_OPEN", number(sys::OPEN)),
        ("VIRTIO_DMABUF_IOC_PUBLISH", number(sys::PUBLISH)),
        ("VIRTIO_DMABUF_IOC_WITHDRAW", number(sys::WITHDRAW)),
        ("VIRTIO_DMABUF_IOC_STREAM_LIST", number(sys::STREAM_LIST)),
        ("VIRTIO_DMABUF_IOC_STREAM_OPEN", number(sys::STREAM_OPEN)),
        (
            "VIRTIO_DMABUF_IOC_STREAM_CREATE",
            number(sys::STREAM_CREATE),
        ),
        (
            "VIRTIO_DMABUF_IOC_STREAM_RELEASE",
            number(sys::STREAM_RELEASE),
        ),
        (
            "VIRTIO_DMABUF_IOC_STREAM_BUFFER",
            number(sys::STREAM_BUFFER),
        ),
        ("VIRTIO_DMABUF_IOC_STREAM_ADD", number(sys::STREAM_ADD)),
        ("VIRTIO_DMABUF_IOC_STREAM_QUEUE", number(sys::STREAM_QUEUE)),
        (
            "VIRTIO_DMABUF_IOC_STREAM_RECLAIM",
            number(sys::STREAM_RECLAIM),
        ),
        ("DMA_HEAP_IOCTL_ALLOC", number(sys::HEAP_ALLOC)),
        (
            "VIRTIO_DMABUF_STREAM_FENCES",
            raw::STREAM_FENCES.try_into().unwrap(),
        ),
        (
            "VIRTIO_DMABUF_FRAME_FENCED",
            raw::FRAME_FENCED.try_into().unwrap(),
        ),
        (
            "VIRTIO_DMABUF_PUBLISH_KEEP",
            raw::PUBLISH_KEEP.try_into().unwrap(),
        ),
    ] {
        line(name.to_owned(), name.to_owned(), ours);
    }
    let includes = "#include <stddef.h>\n#include <stdio.h>\n#include <linux/dma-heap.h>\n#include \"virtio_dmabuf.h\"\n";
    let source = format!("{includes}int main(void) {{\n{}\n}}\n", lines.join("\n"));
    let Some(printed) = printed(&source) else {
        return;
    };
    assert_eq!(printed, expected);
}

#[test]
fn formats_survive_the_driver() {
    let format = crate::picture::layout(crate::picture::Fourcc::NV12, 320, 180, 384);
    let raw = raw::Format::from(format);
    assert_eq!(Some(Format::from(raw)), format);
    assert_eq!(picture(&raw.into()).unwrap(), format);
    let none = raw::Format::from(None);
    assert_eq!(picture(&none.into()).unwrap(), None);
    let many = raw::Format {
        num_planes: 5,
        ..raw
    };
    assert!(picture(&many.into()).is_err());
}

#[test]
fn other_files_are_no_device() {
    let missing = Device::open("/nonexistent/virtio-dmabuf0".as_ref()).unwrap_err();
    assert!(matches!(missing, Error::Device { .. }), "{missing}");
    let device = Device::open("/dev/null".as_ref()).unwrap();
    for error in [
        device.info().unwrap_err(),
        device.streams().unwrap_err(),
        device.produce("x", None).unwrap_err(),
        device.open_buffer("x", Access::ReadOnly).unwrap_err(),
    ] {
        assert!(
            matches!(&error, Error::Device { device, .. } if device == "/dev/null"),
            "{error}"
        );
    }
    let bad = device.open_buffer("no name", Access::ReadOnly).unwrap_err();
    assert!(matches!(bad, Error::BadName(_)), "{bad}");
    let heap = device.alloc("../../etc/passwd", 4096).unwrap_err();
    assert_eq!(heap.status(), Some(Status::ENOENT), "{heap}");
}

#[test]
fn what_the_driver_gives_is_checked() {
    let memfd = || crate::memory::sealed_copy("/proc/self/status".as_ref()).unwrap();
    for size in [0, 100, 4096] {
        let error = memory(memfd(), size, Access::ReadOnly).unwrap_err();
        assert!(matches!(error, Error::Protocol(_)), "{error}");
    }
    let refused = refused(OpCode::StreamRelease)(Errno::STALE);
    assert_eq!(refused.status(), Some(Status::ESTALE));
}

/// Lists of one page, of two, and those that are no lists.
#[test]
fn lists_have_an_end() {
    let numbers = |all: &'static [u64], next: fn(u64) -> u64| {
        pages(move |cursor, page: &mut [u64]| {
            let rest = all.iter().skip(usize::try_from(cursor).unwrap());
            let count = page.iter_mut().zip(rest).map(|(to, from)| *to = *from);
            Ok((count.count(), next(cursor)))
        })
    };
    assert_eq!(numbers(&[1, 2, 3], |_| 0), Ok(vec![1, 2, 3]));
    let two = |cursor| if cursor == 0 { 2 } else { 0 };
    assert_eq!(numbers(&[1, 2, 3], two), Ok(vec![1, 2, 3, 3]));
    assert_eq!(numbers(&[1], |_| 1), Err(Errno::PROTO), "stands still");
    let back = |cursor| if cursor == 0 { 3 } else { 2 };
    assert_eq!(numbers(&[1], back), Err(Errno::PROTO), "goes back");
    assert_eq!(
        numbers(&[1; 1 << 17], |cursor| cursor + 64),
        Err(Errno::PROTO)
    );
}
