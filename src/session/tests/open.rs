// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! GET_INFO, LIST, OPEN, CLOSE, DERIVE, and what every request has in common.

use super::peer::*;
use crate::session::{Host, Limits, Policy};
use dmabuf_protocol::wire::{BufferInfo, ListReply, ListRequest, ReplyHeader};
use dmabuf_protocol::{Access, Enforcement, Name, OpCode, Status};
use std::sync::Arc;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use Access::{ReadOnly, ReadWrite};

/// A host with `dma/0` to `dma/N-1` and the full pool `s/0`, `s/1`.
fn full_host(count: u32) -> (Arc<Host>, Peer) {
    let (host, _) = host(2);
    let mut producer = producer(&host);
    for number in 0..count {
        producer.share("dma", P, &format!("dma/{number}"));
    }
    producer.share("pool", P, "s/0");
    producer.share("pool", P, "s/1");
    (host, producer)
}

fn list(
    peer: &mut Peer,
    cursor: u64,
    max: u32,
    capacity: usize,
) -> Result<(Vec<String>, u64), Status> {
    let request = ListRequest {
        cursor: cursor.into(),
        max: max.into(),
        reserved: 0.into(),
    };
    let bytes = Peer::bytes(OpCode::List, 1, &request);
    let done = peer
        .session
        .handle(1, &bytes, capacity, Vec::new())
        .unwrap();
    assert!(done.reply.len() <= capacity);
    let body = answer(&done)?;
    let (head, entries) = ListReply::read_from_prefix(&body).unwrap();
    let entries = <[BufferInfo]>::ref_from_bytes(entries).unwrap();
    assert_eq!(usize::try_from(head.count.get()).unwrap(), entries.len());
    let names = entries
        .iter()
        .map(|entry| Name::from_wire(entry.name).unwrap().as_str().to_owned());
    Ok((names.collect(), head.next.get()))
}

#[test]
fn no_grant_no_access() {
    let (host, _producer) = full_host(1);
    let mut nobody = Peer::vm(&host, policy(), 8, &[]);
    assert_eq!(list(&mut nobody, 0, 0, CAPACITY), Ok((Vec::new(), 0)));
    for name in ["dma/0", "s/0", "absent"] {
        assert_eq!(
            nobody.open(name, ReadOnly),
            Err(Status::EACCES),
            "{name}: says nothing about what exists"
        );
    }
    assert_eq!(nobody.events(), Vec::new());
}

#[test]
fn a_grant_is_what_it_says() {
    let (host, _producer) = full_host(2);
    let grants = vec![
        buffers("dma/*", ReadOnly, Enforcement::Vmm),
        buffers("dma/1", ReadWrite, Enforcement::Derived),
        whole_pool(ReadOnly),
    ];
    let mut vm = Peer::vm(&host, Policy { grants, ..policy() }, 8, &[]);
    assert_eq!(vm.open("dma/0", ReadWrite), Err(Status::EACCES));
    assert_eq!(
        vm.open("dma/2", ReadOnly),
        Err(Status::ENOENT),
        "covered, and absent"
    );
    assert_eq!(vm.open("other", ReadOnly), Err(Status::EACCES));
    assert_eq!(vm.open("s/0", ReadWrite), Err(Status::EACCES));
    assert_eq!(
        vm.open("s/2", ReadOnly),
        Err(Status::EACCES),
        "a pool is not granted by names"
    );

    let opened = vm.open("dma/0", ReadOnly).unwrap();
    assert_eq!(
        (opened.buffer.access.get(), opened.buffer.enforcement.get()),
        (0, 1)
    );
    assert_eq!(
        (
            opened.buffer.size.get(),
            opened.buffer.heap.get(),
            opened.fd_offset.get()
        ),
        (P, 1, 0)
    );
    let opened = vm.open("dma/1", ReadWrite).unwrap();
    assert_eq!(
        (opened.buffer.access.get(), opened.buffer.enforcement.get()),
        (2, 0)
    );
    let opened = vm.open("s/0", ReadOnly).unwrap();
    assert_eq!(
        (opened.buffer.enforcement.get(), opened.buffer.size.get()),
        (4, 2 * P)
    );
    // The pattern covers no slot, whatever its name.
    let grants = vec![buffers("s/*", ReadOnly, Enforcement::Vmm)];
    let mut other = Peer::vm(&host, Policy { grants, ..policy() }, 8, &[]);
    assert_eq!(other.open("s/0", ReadOnly), Err(Status::EACCES));
}

#[test]
fn enforcement_is_what_the_stricter_side_wants() {
    let (host, _producer) = full_host(1);
    let with = |least| Policy {
        grants: vec![buffers("dma/0", ReadOnly, least)],
        ..policy()
    };
    for least in [
        Enforcement::Sealed,
        Enforcement::Derived,
        Enforcement::Ioctl,
    ] {
        let mut vm = Peer::vm(&host, with(least), 8, &[]);
        assert_eq!(vm.open("dma/0", ReadOnly), Err(Status::EACCES), "{least:?}");
        assert_eq!(
            list(&mut vm, 0, 0, CAPACITY),
            Ok((Vec::new(), 0)),
            "not listed either"
        );
    }
    let mut vm = Peer::vm(&host, with(Enforcement::Vmm), 8, &[]);
    for (least, status) in [
        (0, None),
        (1, None),
        (2, Some(Status::EACCES)),
        (4, Some(Status::EACCES)),
    ] {
        assert_eq!(vm.open_with("dma/0", 0, least).err(), status, "{least}");
    }
}

#[test]
fn flags_of_open() {
    let (host, _producer) = full_host(1);
    let grants = vec![buffers("dma/*", ReadWrite, Enforcement::Vmm)];
    let mut vm = Peer::vm(&host, Policy { grants, ..policy() }, 8, &[]);
    for flags in [0, 2, 0x80000, 0x80002] {
        let opened = vm.open_with("dma/0", flags, 0).unwrap();
        assert_eq!(opened.buffer.access.get(), flags & 3);
    }
    for flags in [1, 3, 4, 0x800, 0x80001, 0x8000_0000] {
        assert_eq!(
            vm.open_with("dma/0", flags, 0),
            Err(Status::EINVAL),
            "{flags:#x}"
        );
        assert_eq!(
            vm.open_with("absent", flags, 0),
            Err(Status::EINVAL),
            "{flags:#x}"
        );
    }
}

#[test]
fn sealed_memory_without_a_dma_buf_is_not_given_out_for_writing() {
    let (host, _producer) = full_host(0);
    let policy = || Policy {
        grants: vec![whole_pool(ReadWrite)],
        ..policy()
    };
    for mut peer in [
        Peer::vm(&host, policy(), 8, &[]),
        Peer::client(&host, policy()),
    ] {
        assert_eq!(
            peer.open("s/0", ReadWrite),
            Err(Status::EACCES),
            "no mapping of it could be writable"
        );
        assert!(peer.open("s/0", ReadOnly).is_ok());
        assert_eq!(
            list(&mut peer, 0, 0, CAPACITY).unwrap().0,
            ["s/0", "s/1"],
            "listed, as read-only"
        );
    }
}

#[test]
fn a_list_comes_in_pages() {
    let (host, mut producer) = full_host(5);
    let grants = vec![
        buffers("dma/*", ReadWrite, Enforcement::Vmm),
        whole_pool(ReadOnly),
    ];
    let mut vm = Peer::vm(&host, Policy { grants, ..policy() }, 8, &[]);
    let all = ["dma/0", "dma/1", "dma/2", "dma/3", "dma/4", "s/0", "s/1"];
    assert_eq!(
        list(&mut vm, 0, 0, CAPACITY),
        Ok((all.map(str::to_owned).to_vec(), 0))
    );
    let head = size_of::<ReplyHeader>() + size_of::<ListReply>();
    for (max, capacity) in [(2, CAPACITY), (0, head + 2 * 160), (9, head + 3 * 160 - 1)] {
        let (mut names, mut cursor, mut pages) = (Vec::new(), 0, 0);
        loop {
            let (page, next) = list(&mut vm, cursor, max, capacity).unwrap();
            assert!(page.len() <= 2 && !page.is_empty());
            names.extend(page);
            (cursor, pages) = (next, pages + 1);
            if next == 0 {
                break;
            }
        }
        assert_eq!((names, pages), (all.map(str::to_owned).to_vec(), 4));
    }
    assert_eq!(list(&mut vm, 0, 0, head + 159), Err(Status::EMSGSIZE));
    assert_eq!(list(&mut vm, u64::MAX, 0, CAPACITY), Ok((Vec::new(), 0)));
    let (_, next) = list(&mut vm, 0, 2, CAPACITY).unwrap();
    producer.withdraw("dma/1").unwrap();
    let (page, _) = list(&mut vm, next, 2, CAPACITY).unwrap();
    assert_eq!(
        page,
        ["dma/2", "dma/3"],
        "a page that changes shifts nothing"
    );
}

#[test]
fn a_client_is_listed_what_it_can_be_given() {
    let (host, _producer) = full_host(1);
    let grants = vec![buffers("dma/*", ReadOnly, Enforcement::Vmm)];
    let mut client = Peer::client(&host, Policy { grants, ..policy() });
    assert_eq!(
        client.open("dma/0", ReadOnly),
        Err(Status::EACCES),
        "a dma-buf is never handed out read-only"
    );
    assert_eq!(list(&mut client, 0, 0, CAPACITY), Ok((Vec::new(), 0)));
}

#[test]
fn derive_never_gives_more() {
    let (host, mut producer) = full_host(1);
    let grants = vec![
        buffers("dma/*", ReadWrite, Enforcement::Vmm),
        whole_pool(ReadOnly),
    ];
    let mut vm = Peer::vm(&host, Policy { grants, ..policy() }, 8, &[]);
    let writer = vm.open("dma/0", ReadWrite).unwrap();
    let reader = vm.derive(writer.handle.get(), 0, 0).unwrap();
    assert_eq!(reader.buffer.name, writer.buffer.name);
    assert_eq!(
        (reader.buffer.id, reader.buffer.access.get()),
        (writer.buffer.id, 0)
    );
    assert_ne!(reader.handle, writer.handle);
    for (flags, status) in [
        (1, Status::EACCES),
        (2, Status::EACCES),
        (3, Status::EINVAL),
        (4, Status::EINVAL),
    ] {
        assert_eq!(
            vm.derive(reader.handle.get(), flags, 0),
            Err(status),
            "{flags}"
        );
    }
    assert_eq!(vm.derive(writer.handle.get(), 1, 0), Err(Status::EINVAL));
    assert_eq!(
        vm.derive(writer.handle.get(), 0, 4),
        Err(Status::EACCES),
        "nothing seals a dma-buf"
    );
    assert!(vm.derive(writer.handle.get(), 0x80002, 0).is_ok());
    assert_eq!(vm.derive(77, 0, 0), Err(Status::ESTALE));

    // The result stays when the parent and even the name are gone.
    vm.close(writer.handle.get()).unwrap();
    producer.withdraw("dma/0").unwrap();
    let again = vm.derive(reader.handle.get(), 0, 0).unwrap();
    assert_eq!(again.buffer.name, [0; 64], "it has no name any more");
    assert_eq!(again.buffer.id, reader.buffer.id);
    assert_eq!(vm.open("dma/0", ReadOnly), Err(Status::ENOENT));
    let sealed = vm.open("s/0", ReadOnly).unwrap();
    assert_eq!(
        vm.derive(sealed.handle.get(), 0, 0)
            .unwrap()
            .buffer
            .enforcement
            .get(),
        4
    );
}

#[test]
fn handles_are_limited_and_go_stale() {
    let (host, _producer) = full_host(1);
    let grants = vec![buffers("dma/*", ReadWrite, Enforcement::Vmm)];
    let limits = Limits {
        waits: 200,
        handles: 2,
        buffers: 2,
        mappings: 1,
        bytes: 0,
        ..Limits::DEFAULT
    };
    let mut vm = Peer::vm(
        &host,
        Policy {
            grants,
            limits,
            ..policy()
        },
        8,
        &[],
    );
    let first = vm.open("dma/0", ReadWrite).unwrap().handle.get();
    vm.open("dma/0", ReadWrite).unwrap();
    assert_eq!(vm.open("dma/0", ReadWrite), Err(Status::EMFILE));
    assert_eq!(vm.derive(first, 0, 0), Err(Status::EMFILE));
    assert_eq!(vm.close(first), Ok(()));
    assert_eq!(vm.close(first), Err(Status::ESTALE));
    let next = vm.open("dma/0", ReadWrite).unwrap().handle.get();
    assert_ne!(next, first);
    assert_eq!(
        vm.close(first),
        Err(Status::ESTALE),
        "the old number means nothing"
    );
    assert_eq!(vm.info().handles.get(), 2);
}

#[test]
fn info_says_what_the_peer_has() {
    let (host, pool) = host(1);
    let mut vm = Peer::vm(&host, policy(), 7, &[&pool]);
    let info = vm.info();
    assert_eq!(
        (
            info.version.get(),
            info.windows.get(),
            info.window_size.get()
        ),
        (1, 3, 8 * P)
    );
    assert_eq!(
        (info.max_handles.get(), info.max_mappings.get()),
        (200, 200)
    );
    assert_eq!(
        (info.handles.get(), info.mappings.get(), info.probe.get()),
        (0, 0, 0)
    );
    assert_eq!(info.name, name("peer").to_wire());
    let info = Peer::client(&host, policy()).info();
    assert_eq!((info.windows.get(), info.window_size.get()), (0, 0));
}

#[test]
fn malformed_and_unknown_requests_are_answered() {
    let (host, _) = host(1);
    let mut vm = Peer::vm(&host, policy(), 8, &[]);
    let reply = |vm: &mut Peer, bytes: &[u8], capacity| {
        let done = vm.session.handle(9, bytes, capacity, Vec::new()).unwrap();
        let (header, _) = ReplyHeader::read_from_prefix(&done.reply).unwrap();
        (
            header.op.get(),
            Status(header.status.get()),
            header.tag.get(),
        )
    };
    assert_eq!(reply(&mut vm, &[], 16), (0, Status::EINVAL, 0));
    assert_eq!(reply(&mut vm, &[1; 15], 16), (0, Status::EINVAL, 0));
    let mut unknown = Peer::bytes(OpCode::GetInfo, 5, &());
    unknown[0] = 0x1f;
    assert_eq!(
        reply(&mut vm, &unknown, CAPACITY),
        (0x1f, Status::EOPNOTSUPP, 5)
    );
    let good = Peer::bytes(OpCode::GetInfo, 5, &());
    assert_eq!(reply(&mut vm, &good, 16 + 127), (1, Status::EMSGSIZE, 5));
    assert_eq!(reply(&mut vm, &good, 16 + 128), (1, Status::OK, 5));
    assert_eq!(
        reply(&mut vm, &[good, vec![0]].concat(), CAPACITY),
        (1, Status::EINVAL, 5)
    );
}

#[test]
fn a_virtqueue_has_no_producers() {
    let (host, _) = host(1);
    let mut vm = Peer::vm(&host, policy(), 8, &[]);
    assert_eq!(vm.alloc("dma", P), Err(Status::EOPNOTSUPP));
    assert_eq!(vm.import("a", Vec::new()), Err(Status::EOPNOTSUPP));
    assert_eq!(vm.publish(1, "a", false), Err(Status::EOPNOTSUPP));
    assert_eq!(vm.withdraw("a"), Err(Status::EOPNOTSUPP));
}

#[test]
fn a_reset_makes_handles_stale() {
    let (host, _producer) = full_host(1);
    let grants = vec![buffers("dma/*", ReadWrite, Enforcement::Vmm)];
    let mut vm = Peer::vm(&host, Policy { grants, ..policy() }, 8, &[]);
    let handle = vm.open("dma/0", ReadWrite).unwrap().handle.get();
    vm.session.reset();
    assert_eq!(vm.close(handle), Err(Status::ESTALE));
    let next = vm.open("dma/0", ReadWrite).unwrap().handle.get();
    assert_ne!(next, handle);
    assert_eq!(vm.info().handles.get(), 1);
}

#[test]
fn a_format_is_handed_on() {
    let (host, _) = host(1);
    let mut producer = producer(&host);
    let handle = producer.alloc("dma", P).unwrap().handle.get();
    let format = dmabuf_protocol::wire::Format {
        fourcc: 1.into(),
        width: 2.into(),
        height: 3.into(),
        num_planes: 1.into(),
        ..FromZeros::new_zeroed()
    };
    let request = dmabuf_protocol::wire::PublishRequest {
        handle: handle.into(),
        flags: 0.into(),
        name: name("f").to_wire(),
        format,
    };
    producer.call(OpCode::Publish, &request).unwrap();
    let grants = vec![buffers("f", ReadWrite, Enforcement::Vmm)];
    let mut vm = Peer::vm(&host, Policy { grants, ..policy() }, 8, &[]);
    let opened = vm.open("f", ReadWrite).unwrap();
    assert_eq!(opened.buffer.format.as_bytes(), format.as_bytes());
    let derived = vm.derive(opened.handle.get(), 0, 0).unwrap();
    assert_eq!(derived.buffer.format, format);
}
