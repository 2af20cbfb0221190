// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pools and heaps with real memfds; with udmabufs where the machine has them.

use super::*;
use crate::buffer::Memory;
use crate::error::Error;
use crate::sys;
use dmabuf_protocol::{HeapKind, PAGE_SIZE, Uuid, WindowHeader};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags, open};
use std::path::{Path, PathBuf};
use zerocopy::IntoBytes;

const P: u64 = PAGE_SIZE;

fn options(kind: HeapKind, slots: u32) -> PoolOptions {
    PoolOptions {
        name: "test".to_owned(),
        kind,
        slots,
        slot_size: 2 * P,
        huge_pages: false,
        uuid: Uuid([9; 16]),
        link: None,
    }
}

/// A path in a directory that is gone at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("dmabuf-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn take(heap: &PoolHeap) -> Slot {
    match heap.allocate(P).unwrap().memory {
        Memory::Slot(slot) => slot,
        other => panic!("{other:?} is no slot"),
    }
}

fn read_only(path: &Path) -> OwnedFd {
    open(path, OFlags::RDONLY, Mode::empty()).unwrap()
}

fn bytes(path: &Path, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    assert_eq!(
        rustix::io::pread(read_only(path), &mut bytes, offset),
        Ok(len)
    );
    bytes
}

#[test]
fn a_pool_is_a_power_of_two_with_room_for_its_header() {
    let size = |slots, slot_size, huge_pages| {
        let kind = HeapKind::Memfd;
        PoolOptions {
            slot_size,
            huge_pages,
            ..options(kind, slots)
        }
        .size()
    };
    assert_eq!(size(1, P, false), Some(2 * P));
    assert_eq!(size(3, P, false), Some(4 * P), "full to the last page");
    assert_eq!(size(4, P, false), Some(8 * P));
    assert_eq!(size(4, 2 << 20, false), Some(16 << 20));
    assert_eq!(size(3, 2 << 20, true), Some(8 << 20));
    assert_eq!(size(1024, 1 << 60, false), None);
    assert_eq!(size(1, 1 << 62, false), None, "more than a file can have");
}

#[test]
fn slots_of_whole_huge_pages_start_at_one() {
    for (slot_size, first) in [
        (P, P),
        (3 << 20, P),
        (2 << 20, 2 << 20),
        (16 << 20, 2 << 20),
    ] {
        let options = PoolOptions {
            slot_size,
            ..options(HeapKind::Memfd, 4)
        };
        assert_eq!(options.first_slot(), first, "{slot_size}");
    }
}

#[test]
fn the_header_describes_the_pool() {
    let pool = Pool::create(options(HeapKind::Memfd, 3)).unwrap();
    let header = WindowHeader::new(Uuid([9; 16]), 8 * P, P, 2 * P, 3);
    assert_eq!(bytes(&pool.proc_path(), 0, 64), header.as_bytes());
    assert!(
        bytes(&pool.proc_path(), 64, 4096 - 64)
            .iter()
            .all(|byte| *byte == 0)
    );
    assert_eq!(pool.size(), 8 * P);
    let heap = PoolHeap(pool);
    let slots = [take(&heap), take(&heap), take(&heap)];
    assert_eq!(slots.each_ref().map(Slot::offset), [P, 3 * P, 5 * P]);
    assert_eq!(heap.allocate(P).unwrap_err(), Status::EBUSY);
    assert_eq!(heap.allocate(2 * P + 1).unwrap_err(), Status::EINVAL);
}

#[test]
fn the_last_slot_seals_a_memfd_pool() {
    let scratch = Scratch::new("seal");
    let link = scratch.path("pool");
    let pool = Pool::create(PoolOptions {
        link: Some(link.clone()),
        ..options(HeapKind::Memfd, 2)
    })
    .unwrap();
    let heap = PoolHeap(Arc::clone(&pool));
    let (first, second) = (take(&heap), take(&heap));
    let source = second.source(false);
    let producer = sys::Mapping::new(source.fd, source.offset, 4096).unwrap();
    assert!(first.can_be_written());
    assert_eq!(pool.publish(&second), Ok(false));
    assert_eq!(
        pool.publish(&second),
        Ok(false),
        "the same slot counts once"
    );
    assert!(!pool.is_sealed());
    assert!(
        !link.exists(),
        "a VMM must not map a pool that isn't sealed"
    );
    assert_eq!(pool.publish(&first), Ok(true));
    assert!(pool.is_sealed());
    assert!(!first.can_be_written());

    producer.write(b"frame");
    assert_eq!(
        bytes(&link, second.offset(), 5),
        b"frame",
        "seen through the link"
    );
    for read_only in [true, false] {
        let source = second.source(read_only);
        assert_eq!(source.offset, second.offset());
        assert!(
            sys::Mapping::new(source.fd, source.offset, 4096).is_err(),
            "read-only: {read_only}"
        );
    }
    let through_link = open(&link, OFlags::RDWR, Mode::empty()).unwrap();
    assert_eq!(
        sys::Mapping::new(through_link.as_fd(), 0, 4096).unwrap_err(),
        rustix::io::Errno::PERM
    );

    pool.remove_link();
    assert!(std::fs::symlink_metadata(&link).is_err());
}

#[test]
fn a_link_replaces_links_and_nothing_else() {
    let scratch = Scratch::new("link");
    let stale = scratch.path("stale");
    std::os::unix::fs::symlink("/proc/1/fd/999", &stale).unwrap();
    let full = |link: &Path| {
        let pool = Pool::create(PoolOptions {
            link: Some(link.to_owned()),
            ..options(HeapKind::Memfd, 1)
        })
        .unwrap();
        let slot = take(&PoolHeap(Arc::clone(&pool)));
        (pool.publish(&slot), pool)
    };
    let (published, pool) = full(&stale);
    assert_eq!(published, Ok(true));
    assert_eq!(std::fs::read_link(&stale).unwrap(), pool.proc_path());
    let (published, newer) = full(&stale);
    assert_eq!(published, Ok(true));
    pool.remove_link();
    assert_eq!(
        std::fs::read_link(&stale).unwrap(),
        newer.proc_path(),
        "only its own link is taken away"
    );

    let precious = scratch.path("precious");
    std::fs::write(&precious, "data").unwrap();
    let refused = Pool::create(PoolOptions {
        link: Some(precious.clone()),
        ..options(HeapKind::Memfd, 1)
    });
    let message = refused.unwrap_err().to_string();
    assert!(message.contains("precious"), "{message}");
    // It can also come there later.
    let late = scratch.path("late");
    let pool = Pool::create(PoolOptions {
        link: Some(late.clone()),
        ..options(HeapKind::Memfd, 1)
    })
    .unwrap();
    std::fs::write(&late, "data").unwrap();
    let slot = take(&PoolHeap(Arc::clone(&pool)));
    assert_eq!(pool.publish(&slot), Err(rustix::io::Errno::EXIST));
    assert_eq!(std::fs::read_to_string(&precious).unwrap(), "data");
    let names: Vec<_> = std::fs::read_dir(&scratch.0)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names.len(), 3, "nothing is left over: {names:?}");
}

#[test]
fn a_slot_of_a_memfd_pool_is_zeroed_before_the_seals_and_not_used_again_after() {
    let scratch = Scratch::new("reuse");
    let link = scratch.path("link");
    let pool = Pool::create(PoolOptions {
        link: Some(link.clone()),
        ..options(HeapKind::Memfd, 1)
    })
    .unwrap();
    let heap = PoolHeap(Arc::clone(&pool));
    let slot = take(&heap);
    let offset = slot.offset();
    rustix::io::pwrite(slot.source(false).fd, b"left over", offset).unwrap();
    drop(slot);
    let slot = take(&heap);
    assert_eq!(pool.publish(&slot), Ok(true));
    assert_eq!(bytes(&link, offset, 9), [0; 9]);
    drop(slot);
    assert_eq!(
        heap.allocate(P).unwrap_err(),
        Status::EBUSY,
        "nobody could write to it"
    );
}

#[test]
fn a_memfd_of_its_own_has_a_fixed_size_and_fixed_seals() {
    let parts = MemfdHeap.allocate(P + 1).unwrap();
    assert_eq!((parts.kind, parts.size), (HeapKind::Memfd, 2 * P));
    let Memory::Memfd { fd, read_only } = parts.memory else {
        panic!("no memfd")
    };
    assert!(sys::Mapping::new(fd.as_fd(), 0, 8192).is_ok());
    assert_eq!(sys::seal_for_good(fd.as_fd()), Err(rustix::io::Errno::PERM));
    assert_eq!(
        sys::Mapping::new(read_only.as_fd(), 0, 4096).unwrap_err(),
        rustix::io::Errno::ACCESS
    );
}

#[test]
fn without_the_device_the_error_says_so() {
    if Path::new("/dev/udmabuf").exists() {
        return println!(
            "SKIP without_the_device_the_error_says_so: this machine has /dev/udmabuf"
        );
    }
    let error = Pool::create(options(HeapKind::Udmabuf, 1)).unwrap_err();
    assert!(matches!(error, Error::Heap { .. }));
    let text = error.to_string();
    assert!(
        text.contains("\"test\"") && text.contains("/dev/udmabuf"),
        "{text}"
    );
}

#[test]
fn a_udmabuf_pool_is_sealed_from_the_start() {
    if !Path::new("/dev/udmabuf").exists() {
        return println!("SKIP a_udmabuf_pool_is_sealed_from_the_start: no /dev/udmabuf");
    }
    let pool = Pool::create(options(HeapKind::Udmabuf, 2)).unwrap();
    assert!(pool.is_sealed());
    let heap = PoolHeap(Arc::clone(&pool));
    let slot = take(&heap);
    assert!(slot.can_be_written(), "through its dma-buf");
    let source = slot.source(false);
    assert!(sys::is_dma_buf(source.fd));
    let producer = sys::Mapping::new(source.fd, source.offset, 4096).unwrap();
    producer.write(b"frame");
    assert_eq!(bytes(&pool.proc_path(), slot.offset(), 5), b"frame");
    let source = slot.source(true);
    assert!(sys::Mapping::new(source.fd, source.offset, 4096).is_err());

    // Used again when nobody has it mapped, and zero then.
    let other = take(&heap);
    drop(slot);
    assert_eq!(heap.allocate(P).unwrap_err(), Status::EBUSY, "it is mapped");
    drop(producer);
    let again = take(&heap);
    assert_eq!(bytes(&pool.proc_path(), again.offset(), 5), [0; 5]);
    drop(other);
}
