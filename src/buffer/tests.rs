// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The derive contract, what an alias hands out, and the list of published buffers.

use super::*;
use crate::heap::{Heap, MemfdHeap, PoolHeap, PoolOptions};
use dmabuf_protocol::wire::{EVENT_BUFFER_ADDED, EVENT_BUFFER_WITHDRAWN};
use dmabuf_protocol::{Name, PAGE_SIZE, Uuid};
use rustix::fs::{OFlags, SealFlags, fcntl_getfl};

use Access::{ReadOnly, ReadWrite};

const P: u64 = PAGE_SIZE;
const CLOEXEC: u32 = Flags::CLOEXEC;

fn plain() -> Arc<Buffer> {
    Buffer::new(MemfdHeap.allocate(2 * P).unwrap(), None)
}

/// What the daemon takes for a dma-buf; the kernel has no read-only route for it.
fn dma_buf() -> Arc<Buffer> {
    let fd = sys::memfd_create("fake-dma-buf", P, false).unwrap();
    let memory = Memory::DmaBuf {
        fd,
        deriver: Arc::default(),
    };
    Buffer::new(
        Parts {
            kind: HeapKind::DmaHeap,
            size: P,
            memory,
        },
        None,
    )
}

/// Memory with these seals besides the one against shrinking.
fn imported(seals: SealFlags) -> Arc<Buffer> {
    let fd = sys::memfd_create("imported", P, false).unwrap();
    sys::add_seals(fd.as_fd(), SealFlags::SHRINK | seals).unwrap();
    Buffer::new(crate::heap::import(fd, &Arc::default()).unwrap(), None)
}

fn pool(slots: u32) -> Arc<Pool> {
    Pool::create(PoolOptions {
        name: "pool".to_owned(),
        kind: HeapKind::Memfd,
        slots,
        slot_size: P,
        huge_pages: false,
        uuid: Uuid([1; 16]),
        link: None,
    })
    .unwrap()
}

#[test]
fn derive_follows_the_contract() {
    let buffer = plain();
    let parent = |access| buffer.alias(access, Enforcement::None).unwrap();
    let derive = |access, flags| {
        let derived = parent(access).derive(Flags(flags), Enforcement::None);
        derived.map(|alias| alias.access())
    };
    for close in [0, CLOEXEC] {
        assert_eq!(derive(ReadWrite, close), Ok(ReadOnly));
        assert_eq!(derive(ReadWrite, 2 | close), Ok(ReadWrite));
        assert_eq!(derive(ReadOnly, close), Ok(ReadOnly));
        assert_eq!(
            derive(ReadOnly, 2 | close),
            Err(Status::EACCES),
            "more than the parent has"
        );
        assert_eq!(
            derive(ReadOnly, 1 | close),
            Err(Status::EACCES),
            "O_WRONLY is write access"
        );
        assert_eq!(
            derive(ReadWrite, 1 | close),
            Err(Status::EINVAL),
            "and no mode of an alias"
        );
        for access in [ReadOnly, ReadWrite] {
            assert_eq!(
                derive(access, 3 | close),
                Err(Status::EINVAL),
                "access mode 3"
            );
        }
    }
    for flag in [
        OFlags::APPEND,
        OFlags::NONBLOCK,
        OFlags::DIRECT,
        OFlags::TRUNC,
    ] {
        assert_eq!(
            derive(ReadWrite, 2 | flag.bits()),
            Err(Status::EINVAL),
            "{flag:?}"
        );
    }
}

#[test]
fn a_derived_alias_is_the_same_memory_and_keeps_it() {
    let buffer = plain();
    let id = buffer.id();
    let weak = Arc::downgrade(&buffer);
    let parent = buffer.alias(ReadWrite, Enforcement::None).unwrap();
    let derived = parent.derive(Flags(0), Enforcement::None).unwrap();
    let again = derived.derive(Flags(0), Enforcement::None).unwrap();
    let inode = |alias: &Alias| sys::inode(alias.source().fd).unwrap();
    assert_eq!(inode(&parent), inode(&derived));
    assert_eq!(inode(&again), inode(&derived));
    drop((buffer, parent, derived));
    assert_eq!((again.buffer().id(), again.access()), (id, ReadOnly));
    drop(again);
    assert!(weak.upgrade().is_none(), "gone with its last alias");
}

#[test]
fn the_fd_allows_what_the_alias_allows() {
    let mode = |alias: &Alias| fcntl_getfl(alias.source().fd).unwrap() & OFlags::RWMODE;
    let buffer = plain();
    assert_eq!(
        mode(&buffer.alias(ReadWrite, Enforcement::None).unwrap()),
        OFlags::RDWR
    );
    assert_eq!(
        mode(&buffer.alias(ReadOnly, Enforcement::None).unwrap()),
        OFlags::RDONLY
    );
    let pool = pool(1);
    let parts = PoolHeap(Arc::clone(&pool)).allocate(P).unwrap();
    let slot = Buffer::new(parts, None);
    let source = slot.alias(ReadWrite, Enforcement::None).unwrap();
    assert_eq!((mode(&source), source.source().offset), (OFlags::RDWR, P));
    assert_eq!(
        mode(&slot.alias(ReadOnly, Enforcement::None).unwrap()),
        OFlags::RDONLY
    );
}

#[test]
fn enforcement_is_never_claimed_where_it_is_not() {
    let all = SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
    assert_eq!(plain().best_enforcement(), Enforcement::Vmm);
    assert_eq!(dma_buf().best_enforcement(), Enforcement::Vmm);
    assert_eq!(imported(all).best_enforcement(), Enforcement::Sealed);
    for missing in [SealFlags::GROW, SealFlags::FUTURE_WRITE, SealFlags::SEAL] {
        let buffer = imported(all - missing);
        assert_eq!(
            buffer.best_enforcement(),
            Enforcement::Vmm,
            "without {missing:?}"
        );
        assert!(buffer.alias(ReadOnly, Enforcement::Sealed).is_err());
    }
    let pool = pool(1);
    let slot = Buffer::new(PoolHeap(Arc::clone(&pool)).allocate(P).unwrap(), None);
    assert_eq!(slot.best_enforcement(), Enforcement::Vmm, "not sealed yet");
    pool.publish(slot.slot().unwrap()).unwrap();
    assert_eq!(slot.best_enforcement(), Enforcement::Sealed);
    assert_eq!(
        slot.alias(ReadOnly, Enforcement::Sealed)
            .unwrap()
            .enforcement(),
        Enforcement::Sealed
    );
}

#[test]
fn an_enforcement_that_cannot_be_met_is_refused() {
    let buffer = dma_buf();
    for least in [
        Enforcement::Ioctl,
        Enforcement::Derived,
        Enforcement::Sealed,
    ] {
        assert_eq!(
            buffer.alias(ReadOnly, least).unwrap_err(),
            Status::EACCES,
            "{least:?}"
        );
    }
    let weak = buffer.alias(ReadOnly, Enforcement::Vmm).unwrap();
    assert_eq!(weak.enforcement(), Enforcement::Vmm);
    assert_eq!(
        weak.derive(Flags(0), Enforcement::Derived).unwrap_err(),
        Status::EACCES
    );
    let writer = buffer.alias(ReadWrite, Enforcement::Sealed).unwrap();
    assert_eq!(
        writer.enforcement(),
        Enforcement::None,
        "no meaning for read-write"
    );
}

#[test]
fn a_client_never_gets_more_than_its_alias() {
    let given = |buffer: &Arc<Buffer>, access| {
        let alias = buffer.alias(access, Enforcement::None).unwrap();
        alias.client_source().map(drop)
    };
    for buffer in [dma_buf(), plain(), imported(SealFlags::empty())] {
        assert_eq!(
            given(&buffer, ReadOnly),
            Err(Status::EACCES),
            "{:?}: it could be re-opened for writing",
            buffer.kind()
        );
        assert_eq!(given(&buffer, ReadWrite), Ok(()));
    }
    let sealed = imported(SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL);
    assert_eq!(given(&sealed, ReadOnly), Ok(()));
}

#[test]
fn sealed_memory_is_not_given_out_for_writing() {
    for seal in [SealFlags::WRITE, SealFlags::FUTURE_WRITE] {
        let buffer = imported(seal);
        assert!(!buffer.can_be_written());
        assert_eq!(
            buffer.alias(ReadWrite, Enforcement::None).unwrap_err(),
            Status::EACCES
        );
        assert_eq!(buffer.own_alias().access(), ReadWrite);
    }
    assert!(plain().can_be_written());
    assert!(dma_buf().can_be_written());
}

#[test]
fn a_fail_stop_fd_needs_the_host_module() {
    for buffer in [dma_buf(), plain()] {
        let alias = buffer.alias(ReadOnly, Enforcement::None).unwrap();
        assert_eq!(alias.fail_stop_fd().unwrap_err(), Status::EACCES);
    }
}

fn published(name: &str, buffer: &Arc<Buffer>, owner: Option<u64>) -> Published {
    Published {
        name: Name::new(name).unwrap(),
        buffer: Arc::clone(buffer),
        format: None,
        owner,
    }
}

#[test]
fn names_and_buffers_are_published_once() {
    let registry = Registry::default();
    let (a, b) = (plain(), plain());
    let name = Name::new("a").unwrap();
    assert_eq!(registry.publish(published("a", &a, None)), Ok(()));
    assert_eq!(
        registry.publish(published("a", &b, None)),
        Err(Status::EEXIST)
    );
    assert_eq!(
        registry.publish(published("b", &a, None)),
        Err(Status::EINVAL)
    );
    assert_eq!(registry.find(&name).unwrap().buffer.id(), a.id());
    assert_eq!(registry.withdraw(&name), Ok(()));
    assert_eq!(registry.withdraw(&name), Err(Status::ENOENT));
    assert!(registry.find(&name).is_none() && registry.published(a.id()).is_none());
    assert_eq!(
        registry.publish(published("b", &a, None)),
        Ok(()),
        "under another name"
    );
}

#[test]
fn a_producer_takes_along_what_it_does_not_leave() {
    let registry = Registry::default();
    let held: Vec<_> = (0..3).map(|_| plain()).collect();
    registry
        .publish(published("mine", &held[0], Some(1)))
        .unwrap();
    registry
        .publish(published("other", &held[1], Some(2)))
        .unwrap();
    registry.publish(published("kept", &held[2], None)).unwrap();
    registry.withdraw_all(1);
    let (page, more) = registry.page(0, 9, |_| true);
    let names: Vec<_> = page
        .iter()
        .map(|published| published.name.as_str())
        .collect();
    assert_eq!((names, more), (vec!["other", "kept"], false));
}

#[test]
fn every_subscriber_hears_every_change() {
    let registry = Registry::default();
    let before = registry.subscribe(1).unwrap();
    let buffer = plain();
    registry.publish(published("a", &buffer, None)).unwrap();
    let after = registry.subscribe(2).unwrap();
    registry.withdraw(&Name::new("a").unwrap()).unwrap();
    let kinds = |subscription: &Subscription| {
        let changes = std::iter::from_fn(|| subscription.next());
        changes
            .map(|(change, lost)| (change.kind, change.id, lost))
            .collect::<Vec<_>>()
    };
    let withdrawn = (EVENT_BUFFER_WITHDRAWN, buffer.id(), 0);
    assert_eq!(
        kinds(&before),
        [(EVENT_BUFFER_ADDED, buffer.id(), 0), withdrawn]
    );
    assert_eq!(kinds(&after), [withdrawn]);
}

#[test]
fn numbers_are_never_used_again() {
    let first = plain().id();
    let second = plain().id();
    assert!(second > first);
}
