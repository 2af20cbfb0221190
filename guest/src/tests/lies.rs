// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A host that doesn't keep to SPEC.md: a clear error, nothing used, and what it gave is given back.

use super::hal::poke;
use super::host::{DYNAMIC_SIZE, Host, PAGE, Shared, UUID, header, name_of, start};
use crate::{Error, Result};
use core::mem::offset_of;
use core::ops::ControlFlow;
use dmabuf_protocol::wire::{BufferInfo, HeapReply, ListReply, MapReply, OpenReply};
use dmabuf_protocol::{Access, Enforcement, Name, OpCode, WindowHeader};
use std::boxed::Box;
use std::vec::Vec;
use zerocopy::IntoBytes;

const HEAD: usize = 16;
const BUFFER: usize = HEAD + offset_of!(OpenReply, buffer);
const ENTRY: usize = HEAD + size_of::<ListReply>();

/// Lets the host tell one lie: these bytes at that place of each reply to `op`.
fn lying(op: OpCode, at: usize, bytes: &[u8]) -> Shared {
    let host = Host::new();
    let bytes = bytes.to_vec();
    lie(&host, op, move |reply| {
        reply[at..at + bytes.len()].copy_from_slice(&bytes)
    });
    host
}

fn lie(host: &Shared, op: OpCode, mut change: impl FnMut(&mut Vec<u8>) + 'static) {
    host.borrow_mut().lie = Some(Box::new(move |of, reply| {
        if of == op {
            change(reply);
        }
    }));
}

/// Opens and maps: a frame for reading, or `rw/x` for writing.
fn open_and_map(host: &Shared, access: Access) -> Result<()> {
    let mut device = start(host)?;
    let name = match access {
        Access::ReadOnly => name_of(2),
        Access::ReadWrite => Name::new("rw/x").unwrap(),
    };
    let alias = device.open(name, access, Enforcement::None)?;
    let mapped = device.map(&alias, 0, PAGE, access).map(drop);
    host.borrow_mut().lie = None;
    if mapped.is_err() {
        assert!(host.borrow().mappings.is_empty(), "given back");
    }
    mapped
}

#[test]
fn replies_to_something_else() {
    for (at, what) in [(0, "op"), (8, "tag")] {
        let refused = open_and_map(&lying(OpCode::Open, at, &[0x77]), Access::ReadOnly);
        assert_eq!(
            refused,
            Err(Error::Protocol("a reply to something else")),
            "{what}"
        );
    }
}

#[test]
fn replies_of_another_length() {
    for op in [OpCode::Open, OpCode::Map] {
        for (less, more) in [(1, 0), (8, 0), (0, 1), (0, 8)] {
            let host = Host::new();
            lie(&host, op, move |reply| {
                reply.truncate(reply.len() - less);
                reply.resize(reply.len() + more, 0);
            });
            let refused = open_and_map(&host, Access::ReadOnly).unwrap_err();
            assert!(
                matches!(refused, Error::Protocol("a reply's length")),
                "{op:?} {refused}"
            );
        }
    }
    let host = Host::new();
    lie(&host, OpCode::Open, |reply| reply.truncate(7));
    assert!(matches!(
        open_and_map(&host, Access::ReadOnly),
        Err(Error::Protocol(_))
    ));
}

#[test]
fn a_buffer_that_can_not_be() {
    let lies: &[(usize, &[u8])] = &[
        (offset_of!(BufferInfo, id), &[0; 8]),
        (offset_of!(BufferInfo, size), &[0; 8]),
        (offset_of!(BufferInfo, size), &[1]),
        (offset_of!(BufferInfo, access), &[2]),
        (offset_of!(BufferInfo, access), &[1]),
        (offset_of!(BufferInfo, enforcement), &[0]),
        (offset_of!(BufferInfo, enforcement), &[5]),
        (offset_of!(BufferInfo, heap), &[9]),
        (offset_of!(BufferInfo, format), &[1]),
        (offset_of!(BufferInfo, name), b"other\0\0\0\0"),
        (offset_of!(BufferInfo, name), b"\0not"),
        (offset_of!(BufferInfo, name), b"fr me/1"),
    ];
    for (at, bytes) in lies {
        let host = lying(OpCode::Open, BUFFER + at, bytes);
        let refused = open_and_map(&host, Access::ReadOnly);
        assert!(
            matches!(refused, Err(Error::Protocol(_))),
            "{at}: {refused:?}"
        );
        assert!(host.borrow().handles.is_empty(), "{at}: given back");
    }
    let host = lying(OpCode::Open, HEAD, &[0; 8]);
    let refused = open_and_map(&host, Access::ReadOnly);
    assert_eq!(refused, Err(Error::Protocol("a number that isn't there")));
}

#[test]
fn less_enforcement_than_asked_for() {
    let host = lying(
        OpCode::Open,
        BUFFER + offset_of!(BufferInfo, enforcement),
        &[1],
    );
    let mut device = start(&host).unwrap();
    let refused = device.open(name_of(2), Access::ReadOnly, Enforcement::Derived);
    assert!(matches!(refused, Err(Error::Protocol(_))), "{refused:?}");
    assert!(host.borrow().handles.is_empty(), "given back");
}

#[test]
fn a_mapping_that_can_not_be() {
    let last = DYNAMIC_SIZE - PAGE;
    let lies: &[(Access, usize, &[u8])] = &[
        (Access::ReadOnly, offset_of!(MapReply, window_offset), &[1]),
        (
            Access::ReadOnly,
            offset_of!(MapReply, window_offset),
            &[0; 8],
        ),
        (
            Access::ReadOnly,
            offset_of!(MapReply, window_offset),
            &(13 * PAGE).to_le_bytes(),
        ),
        (
            Access::ReadOnly,
            offset_of!(MapReply, window_offset),
            &(!0xfff_u64).to_le_bytes(),
        ),
        (
            Access::ReadOnly,
            offset_of!(MapReply, length),
            &(2 * PAGE).to_le_bytes(),
        ),
        (Access::ReadOnly, offset_of!(MapReply, access), &[2]),
        (Access::ReadOnly, offset_of!(MapReply, enforcement), &[0]),
        (Access::ReadOnly, offset_of!(MapReply, enforcement), &[1]),
        (Access::ReadOnly, offset_of!(MapReply, caching), &[0]),
        (Access::ReadOnly, offset_of!(MapReply, caching), &[4]),
        (Access::ReadOnly, offset_of!(MapReply, window), &[2]),
        (Access::ReadOnly, offset_of!(MapReply, window), &[0]),
        (Access::ReadOnly, offset_of!(MapReply, uuid), &[0; 16]),
        (
            Access::ReadWrite,
            offset_of!(MapReply, window_offset),
            &last.to_le_bytes(),
        ),
        (
            Access::ReadWrite,
            offset_of!(MapReply, window_offset),
            &(!0xfff_u64).to_le_bytes(),
        ),
        (Access::ReadWrite, offset_of!(MapReply, uuid), &UUID.0),
    ];
    for (access, at, bytes) in lies {
        let host = lying(OpCode::Map, HEAD + at, bytes);
        let refused = open_and_map(&host, *access);
        assert!(
            matches!(refused, Err(Error::Protocol(_))),
            "{access:?} {at} {bytes:?}: {refused:?}"
        );
    }
    // A static window is read-only, so that a writable mapping can't be there.
    let host = Host::new();
    lie(&host, OpCode::Map, |reply| {
        reply[HEAD + offset_of!(MapReply, window)] = 1;
        reply[HEAD + offset_of!(MapReply, uuid)..][..16].copy_from_slice(&UUID.0);
    });
    let refused = open_and_map(&host, Access::ReadWrite);
    assert_eq!(refused, Err(Error::Protocol("a mapping's window")));
}

#[test]
fn a_window_that_is_not_there() {
    let host = Host::new();
    host.borrow_mut().vms_window = false;
    let refused = open_and_map(&host, Access::ReadOnly);
    assert_eq!(refused, Err(Error::NoWindow(UUID)));
}

#[test]
fn a_window_whose_header_is_wrong() {
    let good = header();
    let lies: &[(usize, &[u8])] = &[
        (offset_of!(WindowHeader, magic), b"X"),
        (offset_of!(WindowHeader, version), &[2]),
        (offset_of!(WindowHeader, uuid), b"another"),
        (offset_of!(WindowHeader, size), &(8 * PAGE).to_le_bytes()),
        (offset_of!(WindowHeader, first_slot), &[0; 8]),
        (offset_of!(WindowHeader, first_slot), &[1]),
        (
            offset_of!(WindowHeader, first_slot),
            &(8 * PAGE).to_le_bytes(),
        ),
        (offset_of!(WindowHeader, slot_size), &[0; 8]),
        (
            offset_of!(WindowHeader, slot_size),
            &(!0xfff_u64).to_le_bytes(),
        ),
        (offset_of!(WindowHeader, slots), &[0; 4]),
        (offset_of!(WindowHeader, slots), &[0xff; 4]),
    ];
    for (at, bytes) in lies {
        let host = Host::new();
        let mut wrong = good.as_bytes().to_vec();
        wrong[*at..at + bytes.len()].copy_from_slice(bytes);
        let wrong: [u8; 64] = wrong.try_into().unwrap();
        poke(host.borrow().static_window, wrong);
        let refused = open_and_map(&host, Access::ReadOnly);
        assert_eq!(refused, Err(Error::NoWindow(UUID)), "{at} {bytes:?}");
    }
}

#[test]
fn a_list_that_does_not_end() {
    let lies: &[(usize, &[u8])] = &[
        (HEAD, &[4]),
        (HEAD, &[0xff; 4]),
        (HEAD + offset_of!(ListReply, next), &[1]),
        (HEAD + offset_of!(ListReply, next), &[0xff; 8]),
        (ENTRY, &[9]),
        (ENTRY + 160, &[1]),
        (ENTRY, &[0]),
    ];
    for (at, bytes) in lies {
        let host = lying(OpCode::List, *at, bytes);
        let mut device = start(&host).unwrap();
        let refused = device.list(|_| ControlFlow::Continue(()));
        assert!(
            matches!(refused, Err(Error::Protocol(_))),
            "{at} {bytes:?}: {refused:?}"
        );
        assert_eq!(host.borrow().requests.len(), 1);
    }
}

#[test]
fn heaps_that_can_not_be() {
    let lies: &[(usize, &[u8])] = &[
        (offset_of!(HeapReply, name), b"a b"),
        (offset_of!(HeapReply, kind), &[0]),
        (offset_of!(HeapReply, kind), &[9]),
        (offset_of!(HeapReply, count), &[0]),
    ];
    for (at, bytes) in lies {
        let host = lying(OpCode::HeapList, HEAD + at, bytes);
        let refused = start(&host).unwrap().heaps(|_| ControlFlow::Continue(()));
        assert!(
            matches!(refused, Err(Error::Protocol(_))),
            "{at}: {refused:?}"
        );
    }
}

#[test]
fn a_ring_that_lies_is_not_used_again() {
    // What the host puts into the used ring: a chain that it doesn't have, and more bytes than there was room for.
    for (id, length) in [(5, 16), (0xffff, 16), (0, 0x1_0000)] {
        let host = Host::new();
        let mut device = start(&host).unwrap();
        host.borrow_mut().holding = true;
        device.set_time_limit(core::time::Duration::ZERO);
        assert_eq!(device.info(), Err(Error::TimedOut));
        host.borrow_mut().give(0, id, length);
        assert_eq!(device.info(), Err(Error::Broken), "{id} {length}");
        let held = host.borrow().held.len();
        assert_eq!(device.info(), Err(Error::Broken));
        assert_eq!(device.event(), Err(Error::Broken));
        assert_eq!(host.borrow().held.len(), held, "nothing is sent any more");
    }
}

#[test]
fn a_chain_that_comes_back_twice() {
    let host = Host::new();
    let mut device = start(&host).unwrap();
    device.info().unwrap();
    host.borrow_mut().give(0, 0, 16);
    assert_eq!(device.info(), Err(Error::Broken));
}
