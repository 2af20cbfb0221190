// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VM that allocates and publishes: what it is offered, its quota, and what a reset takes back.

use super::peer::*;
use crate::session::{Host, Limits, Pattern, Policy};
use dmabuf_protocol::wire::{EVENT_BUFFER_ADDED, EVENT_BUFFER_WITHDRAWN};
use dmabuf_protocol::{Access, Enforcement, HeapKind, Name, OpCode, Status};
use std::sync::Arc;

use Access::{ReadOnly, ReadWrite};

const LIMITS: Limits = Limits {
    waits: 200,
    handles: 8,
    buffers: 3,
    mappings: 8,
    bytes: 10 * P,
    ..Limits::DEFAULT
};

/// May allocate from the heaps `dma` and `memfd`, and publish `vm/…`.
fn allowed() -> Policy {
    Policy {
        allocate: ["dma", "memfd"].map(str::to_owned).to_vec(),
        publish: vec![Pattern::new("vm/*").unwrap()],
        limits: LIMITS,
        ..policy()
    }
}

/// A VM with a window of 8 pages.
fn vm(host: &Arc<Host>) -> Peer {
    Peer::vm(host, allowed(), 8, &[])
}

#[test]
fn a_vm_without_the_right_has_no_such_requests() {
    let (host, _) = host(1);
    let mut vm = Peer::vm(&host, policy(), 8, &[]);
    assert_eq!(vm.alloc("memfd", P).unwrap_err(), Status::EOPNOTSUPP);
    assert_eq!(vm.heap(0).unwrap_err(), Status::EOPNOTSUPP);
    assert_eq!(vm.publish(1, "vm/a", false), Err(Status::EOPNOTSUPP));
    assert_eq!(vm.withdraw("vm/a"), Err(Status::EOPNOTSUPP));
    let publishes_only = Policy {
        allocate: Vec::new(),
        ..allowed()
    };
    let mut vm = Peer::vm(&host, publishes_only, 8, &[]);
    assert_eq!(vm.alloc("memfd", P).unwrap_err(), Status::EOPNOTSUPP);
    assert_eq!(vm.withdraw("vm/a"), Err(Status::ENOENT));
}

#[test]
fn importing_stays_with_processes() {
    let (host, _) = host(1);
    let mut vm = vm(&host);
    assert_eq!(
        vm.import("vm/a", Vec::new()).unwrap_err(),
        Status::EOPNOTSUPP
    );
}

#[test]
fn heaps_are_listed_one_by_one() {
    let (host, _) = host(1);
    let mut vm = vm(&host);
    let (dma, memfd) = (vm.heap(0).unwrap(), vm.heap(1).unwrap());
    let name = |raw| Name::from_wire(raw).unwrap().as_str().to_owned();
    assert_eq!(
        (name(dma.name), dma.kind.get()),
        ("dma".to_owned(), HeapKind::DmaHeap.to_wire())
    );
    assert_eq!(
        (name(memfd.name), memfd.kind.get()),
        ("memfd".to_owned(), HeapKind::Memfd.to_wire())
    );
    assert_eq!((dma.count.get(), memfd.count.get()), (2, 2));
    assert_eq!(dma.max_size.get(), 8 * P, "what its window can show");
    assert_eq!(dma.reserved.map(|field| field.get()), [0, 0]);
    assert_eq!(vm.heap(2).unwrap_err(), Status::ENOENT);
    assert_eq!(vm.heap(u32::MAX).unwrap_err(), Status::ENOENT);

    let mut client = producer(&host);
    let sizes = [0, 1, 2].map(|index| client.heap(index).unwrap().max_size.get());
    assert_eq!(sizes, [64 * P, 64 * P, 2 * P], "the quota; a slot");
    assert_eq!(
        Peer::client(&host, policy()).heap(0).unwrap_err(),
        Status::ENOENT
    );
}

#[test]
fn an_allocated_buffer_is_mapped_read_write() {
    let (host, _) = host(1);
    let mut vm = vm(&host);
    for heap in ["dma", "memfd"] {
        let buffer = vm.alloc(heap, P + 1).unwrap();
        assert_eq!(
            (buffer.fd_offset.get(), buffer.buffer.size.get()),
            (0, 2 * P)
        );
        assert_eq!(buffer.buffer.access.get(), ReadWrite.to_wire());
        let handle = buffer.handle.get();
        let map = vm.mapped(handle, 2 * P, ReadWrite);
        assert_eq!((map.enforcement.get(), map.access.get()), (0, 2));
        assert!(vm.unmap(map.mapping.get()).is_none());
        let job = vm.job();
        vm.finish(&job, Ok(()));
        vm.close(handle).unwrap();
    }
    assert_eq!(vm.alloc("pool", P).unwrap_err(), Status::EACCES);
}

#[test]
fn the_quota_counts_what_lives() {
    let (host, _) = host(1);
    let mut vm = vm(&host);
    assert_eq!(vm.alloc("memfd", 11 * P).unwrap_err(), Status::EDQUOT);
    let first = vm.alloc("memfd", 8 * P).unwrap().handle.get();
    assert_eq!(
        vm.alloc("memfd", 3 * P).unwrap_err(),
        Status::EDQUOT,
        "bytes"
    );
    vm.alloc("memfd", P).unwrap();
    vm.alloc("dma", P).unwrap();
    vm.close(first).unwrap();
    vm.alloc("dma", P).unwrap();
    assert_eq!(vm.alloc("dma", P).unwrap_err(), Status::EDQUOT, "buffers");
    vm.session.reset();
    assert_eq!(vm.info().handles.get(), 0);
    vm.alloc("memfd", 10 * P).unwrap();
}

#[test]
fn what_a_vm_publishes_goes_with_a_reset() {
    let (host, _) = host(1);
    let mut vm = vm(&host);
    let grants = vec![buffers("vm/*", ReadWrite, Enforcement::Derived)];
    let mut other = Peer::client(&host, Policy { grants, ..policy() });
    let keeps = vm.alloc("memfd", P).unwrap().handle.get();
    vm.share("memfd", P, "vm/goes");
    vm.publish(keeps, "vm/stays", true).unwrap();
    assert_eq!(vm.publish(keeps, "else", false), Err(Status::EACCES));
    let opened = other.open("vm/goes", ReadWrite).unwrap().handle.get();
    vm.session.reset();
    assert_eq!(
        other.open("vm/goes", ReadWrite).unwrap_err(),
        Status::ENOENT
    );
    let seen = |kind, sequence, name: &str| (kind, sequence, name.to_owned());
    assert_eq!(
        other.events(),
        [
            seen(EVENT_BUFFER_ADDED, 1, "vm/goes"),
            seen(EVENT_BUFFER_ADDED, 2, "vm/stays"),
            seen(EVENT_BUFFER_WITHDRAWN, 3, "vm/goes"),
        ]
    );
    // What others have open is theirs, and still counts for the VM that has made it.
    assert_eq!(vm.alloc("memfd", 9 * P).unwrap_err(), Status::EDQUOT);
    other.close(opened).unwrap();
    vm.alloc("memfd", 9 * P).unwrap();
    vm.withdraw("vm/stays").unwrap();
    vm.session.end();
    assert_eq!(
        other.open("vm/stays", ReadOnly).unwrap_err(),
        Status::ENOENT
    );
}

#[test]
fn a_process_has_no_mappings() {
    let (host, _) = host(1);
    let mut client = producer(&host);
    let handle = client.alloc("memfd", P).unwrap().handle.get();
    assert_eq!(
        client.map(handle, 0, P, ReadWrite).unwrap().unwrap_err(),
        Status::EOPNOTSUPP
    );
    assert!(client.call(OpCode::HeapList, &[0u8; 4]).is_err());
}
