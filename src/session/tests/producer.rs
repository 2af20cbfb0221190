// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! ALLOC, IMPORT, PUBLISH, WITHDRAW, quotas, and the sealing of a memfd pool.

use super::peer::*;
use crate::session::{Along, Limits, Pattern, Policy};
use crate::sys;
use dmabuf_protocol::wire::{EVENT_BUFFER_ADDED, EVENT_BUFFER_WITHDRAWN};
use dmabuf_protocol::{Access, Enforcement, OpCode, Status};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::SealFlags;

use Access::{ReadOnly, ReadWrite};

fn memfd(size: u64, seals: SealFlags) -> OwnedFd {
    let fd = sys::memfd_create("test", size, false).unwrap();
    sys::add_seals(fd.as_fd(), seals).unwrap();
    fd
}

fn shrink_sealed() -> OwnedFd {
    memfd(2 * P, SealFlags::SHRINK)
}

#[test]
fn alloc_needs_the_right_and_room() {
    let (host, _) = host(1);
    let allocate = ["memfd", "pool", "absent"].map(str::to_owned).to_vec();
    let limits = Limits {
        waits: 200,
        handles: 3,
        buffers: 3,
        mappings: 0,
        bytes: 4 * P,
        ..Limits::DEFAULT
    };
    let mut client = Peer::client(
        &host,
        Policy {
            allocate,
            limits,
            ..policy()
        },
    );
    assert_eq!(client.alloc("dma", P), Err(Status::EACCES));
    assert_eq!(client.alloc("absent", P), Err(Status::ENOENT));
    assert_eq!(
        client.alloc("memfd", 4 * P + 1),
        Err(Status::EDQUOT),
        "bytes"
    );
    assert_eq!(
        client.alloc("pool", 3 * P),
        Err(Status::EINVAL),
        "larger than a slot"
    );
    let first = client.alloc("memfd", 2 * P - 1).unwrap();
    assert_eq!(
        (first.buffer.size.get(), first.buffer.access.get()),
        (2 * P, 2)
    );
    assert_eq!(first.buffer.name, [0; 64]);
    client.alloc("memfd", P).unwrap();
    assert_eq!(client.alloc("memfd", P + 1), Err(Status::EDQUOT), "bytes");
    client.close(first.handle.get()).unwrap();
    client.alloc("memfd", P).unwrap();
    client.alloc("memfd", P).unwrap();
    assert_eq!(client.alloc("memfd", P), Err(Status::EMFILE), "handles");
}

#[test]
fn a_quota_is_for_all_connections_of_a_peer() {
    let (host, _) = host(1);
    let allocate = vec!["memfd".to_owned()];
    let limits = Limits {
        waits: 200,
        handles: 9,
        buffers: 9,
        mappings: 0,
        bytes: 2 * P,
        ..Limits::DEFAULT
    };
    let policy = || Policy {
        allocate: allocate.clone(),
        limits,
        ..policy()
    };
    let first = policy();
    let second = Policy {
        usage: first.usage.clone(),
        ..policy()
    };
    let mut first = Peer::client(&host, first);
    let mut second = Peer::client(&host, second);
    first.alloc("memfd", 2 * P).unwrap();
    assert_eq!(second.alloc("memfd", P), Err(Status::EDQUOT));
    first.session.end();
    assert!(
        second.alloc("memfd", 2 * P).is_ok(),
        "given back with the connection"
    );
}

#[test]
fn a_refused_alloc_costs_no_slot() {
    let (host, _) = host(2);
    let limits = Limits {
        waits: 200,
        handles: 1,
        buffers: 1,
        mappings: 0,
        bytes: 64 * P,
        ..Limits::DEFAULT
    };
    let allocate = vec!["pool".to_owned()];
    let mut client = Peer::client(
        &host,
        Policy {
            allocate,
            limits,
            ..policy()
        },
    );
    client.alloc("pool", P).unwrap();
    assert_eq!(client.alloc("pool", P), Err(Status::EMFILE));
    let mut other = producer(&host);
    assert!(
        other.alloc("pool", P).is_ok(),
        "the other slot is still there"
    );
    assert_eq!(producer(&host).alloc("pool", P), Err(Status::EBUSY));
}

#[test]
fn publish_rules() {
    let (host, _) = host(1);
    let mut client = Peer::client(
        &host,
        Policy {
            publish: vec![Pattern::new("mine/*").unwrap()],
            allocate: vec!["memfd".to_owned()],
            grants: vec![buffers("*", ReadWrite, Enforcement::Derived)],
            ..policy()
        },
    );
    let handle = client.alloc("memfd", P).unwrap().handle.get();
    assert_eq!(
        client.open("mine/a", ReadWrite),
        Err(Status::ENOENT),
        "nobody sees it before"
    );
    assert_eq!(client.publish(handle, "other", false), Err(Status::EACCES));
    assert_eq!(
        client.publish(handle + 1, "mine/a", false),
        Err(Status::ESTALE)
    );
    assert_eq!(client.publish(handle, "mine/a", false), Ok(()));
    assert_eq!(
        client.publish(handle, "mine/b", false),
        Err(Status::EINVAL),
        "it has a name"
    );
    let second = client.alloc("memfd", P).unwrap().handle.get();
    assert_eq!(client.publish(second, "mine/a", false), Err(Status::EEXIST));
    let opened = client.open("mine/a", ReadWrite).unwrap().handle.get();
    let derived = client.derive(handle, 2, 0).unwrap().handle.get();
    for foreign in [opened, derived] {
        assert_eq!(
            client.publish(foreign, "mine/c", false),
            Err(Status::EACCES)
        );
    }
    assert_eq!(client.withdraw("other"), Err(Status::EACCES));
    assert_eq!(client.withdraw("mine/b"), Err(Status::ENOENT));
    assert_eq!(client.withdraw("mine/a"), Ok(()));
    assert_eq!(client.open("mine/a", ReadWrite), Err(Status::ENOENT));
    assert_eq!(
        client.publish(handle, "mine/c", false),
        Ok(()),
        "again, under another name"
    );
}

#[test]
fn only_what_is_kept_outlives_its_producer() {
    let (host, _) = host(1);
    let grants = vec![buffers("*", ReadWrite, Enforcement::Derived)];
    let mut reader = Peer::client(&host, Policy { grants, ..policy() });
    let mut producer = producer(&host);
    producer.share("memfd", P, "gone");
    let handle = producer.alloc("memfd", P).unwrap().handle.get();
    producer.publish(handle, "kept", true).unwrap();
    let held = reader.open("gone", ReadWrite).unwrap();
    drop(producer);
    assert_eq!(reader.open("gone", ReadWrite), Err(Status::ENOENT));
    assert!(reader.open("kept", ReadWrite).is_ok());
    let again = reader.derive(held.handle.get(), 2, 0).unwrap();
    assert_eq!(again.buffer.id, held.buffer.id, "the alias lives on");
    let events: Vec<_> = reader
        .events()
        .into_iter()
        .map(|(kind, _, name)| (kind, name))
        .collect();
    let expected = [
        (EVENT_BUFFER_ADDED, "gone"),
        (EVENT_BUFFER_ADDED, "kept"),
        (EVENT_BUFFER_WITHDRAWN, "gone"),
    ];
    assert_eq!(events, expected.map(|(kind, name)| (kind, name.to_owned())));
}

#[test]
fn import_takes_only_what_cannot_shrink() {
    let (host, _) = host(1);
    let mut client = producer(&host);
    let pipe = || rustix::pipe::pipe().unwrap().0;
    assert_eq!(
        client.import("a", vec![pipe()]),
        Err(Status::EINVAL),
        "a pipe"
    );
    let file = OwnedFd::from(std::fs::File::open("/proc/self/exe").unwrap());
    assert_eq!(
        client.import("a", vec![file]),
        Err(Status::EINVAL),
        "a file"
    );
    assert_eq!(
        client.import("a", vec![memfd(P, SealFlags::empty())]),
        Err(Status::EINVAL),
        "it could shrink"
    );
    assert_eq!(
        client.import("a", vec![memfd(P + 1, SealFlags::SHRINK)]),
        Err(Status::EINVAL),
        "no whole pages"
    );
    assert_eq!(
        client.import("a", vec![memfd(0, SealFlags::SHRINK)]),
        Err(Status::EINVAL),
        "empty"
    );
    let read_only = sys::reopen_read_only(shrink_sealed().as_fd()).unwrap();
    assert_eq!(
        client.import("a", vec![read_only]),
        Err(Status::EACCES),
        "O_RDONLY"
    );
    assert_eq!(client.import("a", Vec::new()), Err(Status::EINVAL), "no fd");
    assert_eq!(
        client.import("a", vec![shrink_sealed(), shrink_sealed()]),
        Err(Status::EINVAL),
        "two fds"
    );
    assert_eq!(client.session.counts(), (0, 0));

    let imported = client.import("a", vec![shrink_sealed()]).unwrap();
    assert_eq!(
        (imported.buffer.size.get(), imported.buffer.heap.get()),
        (2 * P, 4)
    );
    assert_eq!(imported.buffer.name, name("a").to_wire());
    assert_eq!(
        client.import("a", vec![shrink_sealed()]),
        Err(Status::EEXIST)
    );
    assert_eq!(client.session.counts(), (1, 0), "its handle was taken back");
    assert_eq!(
        client.publish(imported.handle.get(), "b", false),
        Err(Status::EINVAL),
        "it has a name"
    );
    let grants = vec![buffers("a", ReadOnly, Enforcement::Derived)];
    let mut reader = Peer::client(&host, Policy { grants, ..policy() });
    assert_eq!(
        reader.open("a", ReadOnly),
        Err(Status::EACCES),
        "nothing keeps it from being re-opened for writing"
    );
}

#[test]
fn only_an_import_takes_an_fd() {
    let (host, _) = host(1);
    let mut client = producer(&host);
    let done = client
        .send(OpCode::GetInfo, &(), vec![shrink_sealed()])
        .unwrap();
    assert_eq!(answer(&done), Err(Status::EINVAL));
}

#[test]
fn replies_with_a_handle_bring_the_alias() {
    let (host, _) = host(1);
    let mut client = producer(&host);
    let request = dmabuf_protocol::wire::AllocRequest {
        heap: name("pool").to_wire(),
        size: P.into(),
        flags: 0.into(),
    };
    let done = client.send(OpCode::Alloc, &request, Vec::new()).unwrap();
    let Some(Along::Alias(alias)) = &done.along else {
        panic!("an alias: {done:?}");
    };
    assert_eq!(
        alias.client_source().unwrap().offset,
        P,
        "behind the header"
    );
    let done = client.send(OpCode::GetInfo, &(), Vec::new()).unwrap();
    assert!(done.along.is_none());
}

#[test]
fn a_memfd_pool_is_sealed_by_its_last_slot() {
    let (host, pool) = host(2);
    let mut producer = producer(&host);
    let mut reader = Peer::client(
        &host,
        Policy {
            grants: vec![whole_pool(ReadOnly)],
            ..policy()
        },
    );
    let request = |name: &str| (name.to_owned(), EVENT_BUFFER_ADDED);
    let first = producer.alloc("pool", P).unwrap();
    let second = producer.alloc("pool", P).unwrap();
    assert_eq!((first.fd_offset.get(), second.fd_offset.get()), (P, 3 * P));
    producer.publish(second.handle.get(), "s/1", false).unwrap();
    assert!(!pool.is_sealed());
    assert_eq!(
        reader.open("s/1", ReadOnly),
        Err(Status::EACCES),
        "not before the pool is sealed"
    );
    assert_eq!(reader.events(), Vec::new());
    assert!(
        producer.derive(first.handle.get(), 2, 0).is_ok(),
        "its producer can still write"
    );

    producer.publish(first.handle.get(), "s/0", false).unwrap();
    assert!(pool.is_sealed());
    let events: Vec<_> = reader
        .events()
        .into_iter()
        .map(|(kind, _, name)| (name, kind))
        .collect();
    assert_eq!(events, [request("s/0"), request("s/1")]);
    let opened = reader.open("s/1", ReadOnly).unwrap();
    assert_eq!(
        (opened.fd_offset.get(), opened.buffer.enforcement.get()),
        (3 * P, 4)
    );
    assert_eq!(
        producer.derive(first.handle.get(), 2, 0),
        Err(Status::EACCES),
        "no more writing through the fd"
    );
}

#[test]
fn a_slot_that_is_given_back_unpublished_can_be_had_again() {
    let (host, pool) = host(2);
    let mut first = producer(&host);
    let handle = first.alloc("pool", P).unwrap().handle.get();
    first.close(handle).unwrap();
    let mut second = producer(&host);
    second.share("pool", P, "s/1");
    assert!(!pool.is_sealed());
    second.share("pool", P, "s/2");
    assert!(pool.is_sealed());
}

#[test]
fn imported_memory_can_be_sealed() {
    let (host, _) = host(1);
    let mut client = producer(&host);
    let all = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
    let imported = client.import("sealed", vec![memfd(P, all)]).unwrap();
    assert_eq!(imported.buffer.access.get(), 2, "its own");
    assert_eq!(
        client.derive(imported.handle.get(), 2, 0),
        Err(Status::EACCES)
    );
    let grants = vec![buffers("*", ReadWrite, Enforcement::Derived)];
    for mut peer in [
        Peer::client(
            &host,
            Policy {
                grants: grants.clone(),
                ..policy()
            },
        ),
        Peer::vm(&host, Policy { grants, ..policy() }, 8, &[]),
    ] {
        assert_eq!(peer.open("sealed", ReadWrite), Err(Status::EACCES));
        let opened = peer.open("sealed", ReadOnly).unwrap();
        assert_eq!(
            (opened.buffer.access.get(), opened.buffer.enforcement.get()),
            (0, 4)
        );
    }
}

#[test]
fn memory_that_is_sealed_later_is_not_mapped_writable() {
    let (host, _) = host(1);
    let mut client = producer(&host);
    let memory = shrink_sealed();
    client
        .import("a", vec![memory.try_clone().unwrap()])
        .unwrap();
    let grants = vec![buffers("a", ReadWrite, Enforcement::Derived)];
    let mut vm = Peer::vm(&host, Policy { grants, ..policy() }, 8, &[]);
    let handle = vm.open("a", ReadWrite).unwrap().handle.get();
    vm.mapped(handle, P, ReadWrite);
    sys::seal_for_good(memory.as_fd()).unwrap();
    assert_eq!(vm.map(handle, 0, P, ReadWrite), Some(Err(Status::EACCES)));
    assert!(
        vm.jobs().is_empty(),
        "the front-end was not asked: it would end"
    );
}
