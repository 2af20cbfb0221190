// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The shape of requests and replies: every request, whole, cut, too long, with wrong bits, and with too little room.

use crate::client::Client;
use crate::daemon::{CONFIG, Daemon};
use crate::guest::{DATA, Descriptor, INDIRECT, NEXT, WRITE};
use crate::message::{
    PAGE, Peer, READ_ONLY, Reply, name, one_of_each, open_body, request, usage_body,
};
use crate::vmm::FrontEnd;
use crate::window::Answer;
use dmabuf_protocol::config::CONFIG_MAGIC;
use dmabuf_protocol::wire::{BufferInfo, ListReply, ReplyHeader};
use dmabuf_protocol::{OpCode, QUEUE_FENCE, Request, Status, VERSION};

/// Space for requests that a test lays out itself, and a descriptor that nobody else uses.
const OWN: u64 = DATA + 0x28_0000;
const HEAD: u16 = 200;

#[test]
pub fn config_space_and_shared_memory() {
    let daemon = Daemon::start(CONFIG);
    let vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    assert_eq!(vm.config.magic, CONFIG_MAGIC);
    assert_eq!(vm.config.version.get(), VERSION);
    assert_eq!(vm.config.windows.get(), 3);
    assert_eq!(vm.config.window_size.get(), 1 << 20);
    assert_eq!(vm.config.uuid[..4], [0x5f, 0x0c, 0x1f, 0x6e]);
    assert_eq!(vm.config.max_handles.get(), 8);
    assert_eq!(vm.config.max_mappings.get(), 6);
    assert_eq!(vm.config.num_static.get(), 1);
    assert_eq!(vm.config.reserved.get(), 0);
    let sizes = vm.shared_memory.unwrap();
    assert_eq!((sizes.nregions, sizes.memory_sizes[0]), (1, 1 << 20));

    let blind = FrontEnd::connect(&daemon, "blind", Answer::Honours);
    assert_eq!(blind.config.windows.get(), 0);
    assert_eq!(blind.config.window_size.get(), 0);
    assert_eq!(blind.config.uuid, [0; 16]);
    assert!(blind.shared_memory.is_none(), "no window, no SHMEM");
}

#[test]
pub fn info_tells_limits_and_what_is_held() {
    let daemon = Daemon::start(CONFIG);
    let mut producer = Client::connect(&daemon);
    let info = producer.info();
    assert_eq!(info.name, name("producer"));
    assert_eq!((info.windows.get(), info.window_size.get()), (0, 0));
    assert_eq!(info.max_handles.get(), 600);
    assert_eq!(info.max_mappings.get(), 0);
    let _slots = producer.fill_pool();
    assert_eq!(producer.info().handles.get(), 2);

    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let handle = vm.open("cam/0", READ_ONLY);
    let mapping = vm.map(handle, 0, PAGE, READ_ONLY).unwrap();
    let info = vm.info();
    assert_eq!(info.version.get(), VERSION);
    assert_eq!(info.name, name("a"));
    assert_eq!((info.windows.get(), info.window_size.get()), (3, 1 << 20));
    assert_eq!((info.max_handles.get(), info.max_mappings.get()), (8, 6));
    assert_eq!(info.max_inflight.get(), vm.config.max_inflight.get());
    assert_eq!((info.handles.get(), info.mappings.get()), (1, 1));
    assert_eq!(info.probe.get(), 0, "a static window needs no probe");
    assert_eq!(info.reserved.map(|word| word.get()), [0; 3]);
    vm.unmap(mapping.mapping.get()).unwrap();
    vm.close(handle).unwrap();
    let info = vm.info();
    assert_eq!((info.handles.get(), info.mappings.get()), (0, 0));
}

/// Everything that can be wrong with the bytes of a request, whoever sends them.
fn refuse_malformed(peer: &mut impl Peer) {
    for (op, good) in one_of_each() {
        for len in 1..good.len() {
            let reply = peer.exchange(&good[..len]);
            assert_eq!(
                reply.status,
                Status::EINVAL,
                "{} cut to {len} bytes",
                op.as_str()
            );
            let header = if len < 16 { (0, 0) } else { (op.to_wire(), 77) };
            assert_eq!((reply.op, reply.tag), header, "{}", op.as_str());
        }
        for more in [1, 8, 4096] {
            let long = [good.clone(), vec![0; more]].concat();
            let reply = peer.exchange(&long);
            assert_eq!(reply.status, Status::EINVAL, "{} + {more}", op.as_str());
            assert_eq!((reply.op, reply.tag), (op.to_wire(), 77));
        }
        // Reserved fields, and bits of flags without a meaning, by their place in the request.
        let reserved: &[usize] = match op {
            OpCode::List
            | OpCode::GetUsage
            | OpCode::SyncStart
            | OpCode::SyncEnd
            | OpCode::FenceQuery => &[28, 31],
            OpCode::Map => &[44, 47],
            OpCode::Alloc => &[88, 95],
            OpCode::Import => &[16 + 65, 16 + 71, 16 + 128, 16 + 135],
            OpCode::Publish => &[16 + 9, 16 + 15, 16 + 136, 16 + 143],
            OpCode::Open => &[16 + 63],
            OpCode::Withdraw => &[16 + 63],
            OpCode::Revoke => &[16 + 12, 16 + 15, 16 + 79],
            OpCode::StreamRevoke => &[16 + 12, 16 + 15],
            OpCode::HeapList => &[20, 23],
            OpCode::StreamOpen => &[16 + 63, 16 + 76, 16 + 79],
            OpCode::StreamStats => &[16 + 63, 16 + 68, 16 + 71],
            OpCode::StreamList => &[28, 31],
            OpCode::StreamCreate => &[16 + 63, 16 + 64, 16 + 71, 16 + 128, 16 + 135],
            OpCode::StreamQueue => &[16 + 20, 16 + 23],
            _ => &[],
        };
        for &at in [4, 5, 6, 7].iter().chain(reserved) {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            let reply = peer.exchange(&bad);
            assert_eq!(
                reply.status,
                Status::EINVAL,
                "{} with byte {at} set",
                op.as_str()
            );
        }
    }
    for op in [0, 9, 0x12, 0x25, 0x36, 0x4d, 0x50, 0x8000_0001, u32::MAX] {
        let reply = peer.exchange(&request(op, 3, &[0u8; 0]));
        assert_eq!(reply.status, Status::EOPNOTSUPP, "op {op:#x}");
        assert_eq!((reply.op, reply.tag), (op, 3));
    }
    assert_eq!(peer.info().handles.get(), 0);
}

#[test]
pub fn malformed_requests_on_a_virtqueue() {
    let daemon = Daemon::start(CONFIG);
    let idle = daemon.idle(3);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    refuse_malformed(&mut vm);
    drop(vm);
    daemon.returns_to(idle);
}

#[test]
pub fn malformed_requests_on_the_socket() {
    let daemon = Daemon::start(CONFIG);
    let idle = daemon.idle(3);
    let mut client = Client::connect(&daemon);
    refuse_malformed(&mut client);
    drop(client);
    daemon.returns_to(idle);
}

/// Fields with values that have no meaning, in requests of the right shape.
fn refuse_meaningless(peer: &mut impl Peer) {
    let open = |name: &[u8; 64]| {
        request(
            OpCode::Open.to_wire(),
            1,
            &[&name[..], &[0; 8]].concat()[..],
        )
    };
    let mut tail = [0; 64];
    (tail[0], tail[9]) = (b'a', b'b');
    for bad in [[0; 64], [b' '; 64], [0xc3; 64], [b'*'; 64], tail] {
        assert_eq!(peer.exchange(&open(&bad)).status, Status::EINVAL, "{bad:?}");
    }
    for flags in [3, 4, 0o4000, 0o2_000_003, u32::MAX] {
        assert_eq!(
            peer.try_open("rw/x", flags, 0).unwrap_err(),
            Status::EINVAL,
            "{flags:#o}"
        );
    }
    for enforcement in [5, u32::MAX] {
        assert_eq!(
            peer.try_open("rw/x", 0, enforcement).unwrap_err(),
            Status::EINVAL
        );
        assert_eq!(peer.derive(1, 0, enforcement).unwrap_err(), Status::EINVAL);
    }
    for access in [1, 3, 0o2_000_000] {
        assert_eq!(peer.map(1, 0, PAGE, access).unwrap_err(), Status::EINVAL);
    }
}

#[test]
pub fn meaningless_values() {
    let daemon = Daemon::start(CONFIG);
    refuse_meaningless(&mut FrontEnd::connect(&daemon, "a", Answer::Honours));
    refuse_meaningless(&mut Client::connect(&daemon));
}

#[test]
pub fn too_little_room_for_a_reply() {
    let daemon = Daemon::start(CONFIG);
    let mut producer = Client::connect(&daemon);
    let _slots = producer.fill_pool();
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    for (op, bytes) in one_of_each() {
        for room in [0, 1, 15] {
            let sent = vm.send(&bytes, room);
            assert_eq!(
                vm.wait_bytes(sent),
                [0u8; 0],
                "{} with {room} bytes",
                op.as_str()
            );
        }
        let least = op.min_reply() as u32;
        for room in [16, least - 1, least] {
            if room < 16 {
                continue;
            }
            let sent = vm.send(&bytes, room);
            let reply = vm.wait(sent);
            let too_small = reply.status == Status::EMSGSIZE;
            assert_eq!(
                too_small,
                room < least,
                "{} with {room} bytes: {reply:?}",
                op.as_str()
            );
            assert_eq!((reply.op, reply.tag), (op.to_wire(), 77));
        }
    }
    // What can't be answered isn't carried out.
    let open = request(OpCode::Open.to_wire(), 1, &open_body("cam/0", READ_ONLY, 0));
    for room in [0, 15, 16, 191] {
        let sent = vm.send(&open, room);
        vm.wait_bytes(sent);
    }
    assert_eq!(vm.info().handles.get(), 0);
    let sent = vm.send(&open, 192);
    assert_eq!(vm.wait(sent).status, Status::OK);
    assert_eq!(vm.info().handles.get(), 1);
}

#[test]
pub fn a_request_without_any_writable_part() {
    let daemon = Daemon::start(CONFIG);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let bytes = request(OpCode::GetInfo.to_wire(), 1, &[0u8; 0]);
    let ring = &mut vm.rings[0];
    ring.write(OWN, &bytes);
    ring.set(HEAD, Descriptor::new(OWN, bytes.len() as u32, 0, 0));
    ring.offer(HEAD);
    ring.kick();
    assert_eq!(ring.wait_used(), (HEAD, 0));
    assert_eq!(vm.info().handles.get(), 0, "the queue goes on");
}

#[test]
pub fn a_list_fills_the_room_it_gets() {
    let daemon = Daemon::start(CONFIG);
    let mut producer = Client::connect(&daemon);
    let _slots = producer.fill_pool();
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let list = request(OpCode::List.to_wire(), 1, &[0u8; 16]);
    let one = (size_of::<ReplyHeader>() + size_of::<ListReply>() + size_of::<BufferInfo>()) as u32;
    for (room, entries, last) in [(one, 1, false), (one + 159, 1, false), (one + 160, 2, true)] {
        let sent = vm.send(&list, room);
        let reply = vm.wait(sent);
        let (page, next) = crate::message::list_reply(&reply.body);
        assert_eq!((page.len(), next == 0), (entries, last), "{room} bytes");
    }
}

#[test]
pub fn requests_and_replies_in_pieces() {
    let daemon = Daemon::start(CONFIG);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let bytes = request(OpCode::GetInfo.to_wire(), 0xabcd, &[0u8; 0]);
    let (first, second) = (3, bytes.len() as u32 - 3);
    let reply_at = OWN + 0x1000;
    let pieces = [
        Descriptor::new(OWN, first, NEXT, HEAD + 1),
        Descriptor::new(OWN + 0x800, 0, NEXT, HEAD + 2),
        Descriptor::new(OWN + u64::from(first), second, NEXT, HEAD + 3),
        Descriptor::new(reply_at, 1, NEXT | WRITE, HEAD + 4),
        Descriptor::new(reply_at + 0x800, 0, NEXT | WRITE, HEAD + 5),
        Descriptor::new(reply_at + 1, 20, NEXT | WRITE, HEAD + 6),
        Descriptor::new(reply_at + 21, 4000, WRITE, 0),
    ];
    let ring = &mut vm.rings[0];
    ring.write(OWN, &bytes);
    for (index, piece) in (HEAD..).zip(pieces) {
        ring.set(index, piece);
    }
    ring.offer(HEAD);
    ring.kick();
    let (head, len) = ring.wait_used();
    assert_eq!((head, len), (HEAD, OpCode::GetInfo.min_reply() as u32));
    let direct = ring.read(reply_at, len as usize);
    assert_eq!(Reply::parse(&direct).status, Status::OK);
    assert_eq!(Reply::parse(&direct).tag, 0xabcd);

    // The same by an indirect table.
    let table = OWN + 0x2000;
    for (index, mut piece) in (0..).zip(pieces) {
        piece.next = piece.next.saturating_sub(HEAD);
        ring.set_in(table, index, piece);
    }
    ring.write(reply_at, &[0; 4096]);
    ring.set(
        HEAD,
        Descriptor::new(table, 16 * pieces.len() as u32, INDIRECT, 0),
    );
    ring.offer(HEAD);
    ring.kick();
    assert_eq!(ring.wait_used(), (HEAD, len));
    assert_eq!(ring.read(reply_at, len as usize), direct);
}

#[test]
pub fn producers_requests_are_not_for_virtqueues() {
    let daemon = Daemon::start(CONFIG);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    for (op, bytes) in one_of_each() {
        let producers = matches!(
            op,
            OpCode::Alloc
                | OpCode::Import
                | OpCode::Publish
                | OpCode::Withdraw
                | OpCode::HeapList
                | OpCode::Revoke
                | OpCode::StreamRevoke
                | OpCode::StreamCreate
                | OpCode::StreamAdd
                | OpCode::StreamQueue
                | OpCode::StreamReclaim
        );
        let status = vm.exchange(&bytes).status;
        // An IMPORT without an fd is malformed anyhow.
        let refused = [Status::EOPNOTSUPP, Status::EINVAL].contains(&status);
        // Waits have a queue of their own.
        let expected = producers || op.queue() == QUEUE_FENCE;
        assert_eq!(refused, expected, "{}: {status}", op.as_str());
    }
    let mut client = Client::connect(&daemon);
    assert_eq!(
        client.map(1, 0, PAGE, READ_ONLY).unwrap_err(),
        Status::EOPNOTSUPP
    );
    assert_eq!(client.unmap(1).unwrap_err(), Status::EOPNOTSUPP);
}

#[test]
pub fn the_fence_queue_takes_nothing_else() {
    let daemon = Daemon::start(CONFIG);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    for (op, bytes) in one_of_each() {
        let status = vm.on_queue(QUEUE_FENCE, &bytes).status;
        let expected = match op {
            OpCode::FenceWait | OpCode::FenceQuery => Status::ESTALE,
            OpCode::FenceCancel => Status::ENOENT,
            _ => Status::EOPNOTSUPP,
        };
        assert_eq!(status, expected, "{}", op.as_str());
        let cut = &bytes[..bytes.len() - 1];
        assert_eq!(vm.on_queue(QUEUE_FENCE, cut).status, Status::EINVAL);
    }
    let ring = &mut vm.rings[2];
    let bytes = request(OpCode::FenceWait.to_wire(), 99, &usage_body(9, 1, 0));
    ring.write(OWN, &bytes);
    // A fence request without room, one with too little, and one that is longer than any request.
    ring.set(2, Descriptor::new(OWN, bytes.len() as u32, 0, 0));
    ring.offer(2);
    ring.set(3, Descriptor::new(OWN, bytes.len() as u32, NEXT, 4));
    ring.set(4, Descriptor::new(OWN + 0x1_1000, 31, WRITE, 0));
    ring.offer(3);
    ring.set(5, Descriptor::new(OWN, 0x1_0000, NEXT, 6));
    ring.set(6, Descriptor::new(OWN + 0x1_2000, 16, WRITE, 0));
    ring.offer(5);
    ring.kick();
    assert_eq!(ring.wait_used(), (2, 0));
    assert_eq!(ring.wait_used(), (3, 16));
    let reply = Reply::parse(&ring.read(OWN + 0x1_1000, 16));
    assert_eq!(
        (reply.op, reply.tag, reply.status),
        (0x20, 99, Status::EMSGSIZE)
    );
    assert_eq!(ring.wait_used(), (5, 16));
    let reply = Reply::parse(&ring.read(OWN + 0x1_2000, 16));
    assert_eq!(reply.status, Status::EINVAL);
}

#[test]
pub fn the_longest_request_is_known() {
    let longest = one_of_each().iter().map(|(_, bytes)| bytes.len()).max();
    assert_eq!(longest, Some(Request::MAX_LEN));
}

#[test]
pub fn replies_come_with_event_index_negotiated() {
    use crate::vmm::Manners;
    let daemon = Daemon::start(CONFIG);
    let manners = Manners {
        event_idx: true,
        queue_size: 8,
        ..Manners::default()
    };
    let mut vm = FrontEnd::connect(&daemon, "a", manners);
    // Round the ring a few times.
    for _ in 0..40 {
        assert_eq!(vm.info().handles.get(), 0);
    }
}
