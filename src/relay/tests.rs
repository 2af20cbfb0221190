// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A relay between a guest and a broker that are both the test.

use super::{Broker, Fixed, Relay, Terms};
use crate::session::{Done, VmSession, Windows};
use crate::sys;
use dmabuf_protocol::wire::*;
use dmabuf_protocol::{Handle, Name, OpCode, PAGE_SIZE, Status, Uuid, WindowHeader};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

const P: u64 = PAGE_SIZE;
const UUID: Uuid = Uuid([7; 16]);

/// A sealed pool of four slots of one page.
fn pool() -> OwnedFd {
    let fd = sys::memfd_create("pool", 8 * P, false).unwrap();
    let header = WindowHeader::new(UUID, 8 * P, P, P, 4);
    rustix::io::pwrite(&fd, header.as_bytes(), 0).unwrap();
    sys::seal_for_good(fd.as_fd()).unwrap();
    fd
}

fn sealed(pages: u64) -> OwnedFd {
    let fd = sys::memfd_create("sealed", pages * P, false).unwrap();
    sys::seal_for_good(fd.as_fd()).unwrap();
    fd
}

/// Both ends.
struct Both {
    relay: Relay,
    listener: OwnedFd,
    broker: OwnedFd,
    path: PathBuf,
    pool: OwnedFd,
    token: u64,
}

/// A request as the broker sees it.
struct Asked {
    op: u32,
    tag: u64,
    body: Vec<u8>,
}

impl Both {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("dmabuf-relay-{}-{number}.sock", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_file(&path);
        let listener = sys::listen(&path).unwrap();
        let pool = pool();
        let link = format!("/proc/self/fd/{}", pool.as_raw_fd());
        let name = Name::new("vm").unwrap();
        let broker = Broker {
            path: path.clone(),
            terms: Terms {
                name,
                max_handles: 8,
                allocates: true,
            },
            fixed: vec![Fixed::open(link.as_ref()).unwrap()],
        };
        let windows = Windows::new(name, 8, None, vec![UUID]);
        let mut relay = Relay::new(Arc::new(broker), windows).unwrap();
        relay.reset();
        let broker = sys::accept(listener.as_fd()).unwrap();
        Self {
            relay,
            listener,
            broker,
            path,
            pool,
            token: 0,
        }
    }

    /// The guest sends a request; its token is the number of requests so far.
    fn send(
        &mut self,
        op: OpCode,
        tag: u64,
        body: &(impl IntoBytes + Immutable + ?Sized),
        capacity: usize,
    ) -> Option<Done> {
        self.token += 1;
        let header = RequestHeader {
            op: op.to_wire().into(),
            tag: tag.into(),
            ..FromZeros::new_zeroed()
        };
        let bytes = [header.as_bytes(), body.as_bytes()].concat();
        self.relay.handle(self.token, &bytes, capacity)
    }

    /// What the broker is asked.
    fn asked(&self) -> Option<Asked> {
        let mut buffer = [0; 1024];
        let got = sys::receive(self.broker.as_fd(), &mut buffer).ok()?;
        let (header, body) = RequestHeader::read_from_prefix(&buffer[..got.len]).ok()?;
        Some(Asked {
            op: header.op.get(),
            tag: header.tag.get(),
            body: body.to_vec(),
        })
    }

    fn say(&self, bytes: &[u8], fd: Option<BorrowedFd<'_>>) {
        sys::send(self.broker.as_fd(), bytes, fd).unwrap();
    }

    /// The broker answers; returns what the guest gets.
    fn answer(
        &mut self,
        asked: &Asked,
        status: Status,
        body: &[u8],
        fd: Option<BorrowedFd<'_>>,
    ) -> Vec<Done> {
        let header = ReplyHeader {
            op: asked.op.into(),
            status: status.0.into(),
            tag: asked.tag.into(),
        };
        self.say(&[header.as_bytes(), body].concat(), fd);
        self.relay.settle()
    }

    /// The guest has a handle.
    fn opened(&mut self, number: u64, access: u32, offset: u64, fd: BorrowedFd<'_>) -> OpenReply {
        let body = OpenRequest {
            name: Name::new("x").unwrap().to_wire(),
            flags: access.into(),
            enforcement: 0.into(),
        };
        assert!(self.send(OpCode::Open, 1, &body, 4096).is_none());
        let asked = self.asked().unwrap();
        let reply = open_reply(number, access, offset);
        let done = self.answer(&asked, Status::OK, reply.as_bytes(), Some(fd));
        OpenReply::read_from_bytes(ok(&done)).unwrap()
    }

    fn close(&mut self, handle: u64) -> Option<Done> {
        self.send(OpCode::Close, 2, &handle.to_le_bytes(), 16)
    }
}

impl Drop for Both {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn open_reply(number: u64, access: u32, offset: u64) -> OpenReply {
    OpenReply {
        handle: number.into(),
        fd_offset: offset.into(),
        buffer: BufferInfo {
            id: (number + 100).into(),
            size: P.into(),
            access: access.into(),
            enforcement: if access == 0 { 4 } else { 0 }.into(),
            heap: 3.into(),
            ..FromZeros::new_zeroed()
        },
    }
}

/// A guest with three handles of one buffer: 1 from ALLOC, 2 derived from that, 3 from OPEN.
fn with_three_handles() -> Both {
    let mut both = Both::new();
    let memory = sys::memfd_create("sized", P, false).unwrap();
    rustix::fs::fcntl_add_seals(&memory, rustix::fs::SealFlags::SHRINK).unwrap();
    let alloc = AllocRequest {
        heap: Name::new("h").unwrap().to_wire(),
        size: P.into(),
        ..FromZeros::new_zeroed()
    };
    let derive = DeriveRequest {
        handle: 1.into(),
        flags: 2.into(),
        enforcement: 0.into(),
    };
    let open = OpenRequest {
        name: Name::new("x").unwrap().to_wire(),
        flags: 2.into(),
        enforcement: 0.into(),
    };
    let requests = [
        (OpCode::Alloc, alloc.as_bytes()),
        (OpCode::Derive, derive.as_bytes()),
        (OpCode::Open, open.as_bytes()),
    ];
    for (number, (op, body)) in (1..).zip(requests) {
        assert!(both.send(op, 1, body, 4096).is_none());
        let asked = both.asked().unwrap();
        let mut reply = open_reply(number, 2, 0);
        reply.buffer.id = 9.into();
        let done = both.answer(&asked, Status::OK, reply.as_bytes(), Some(memory.as_fd()));
        ok(&done);
    }
    both
}

fn map_of(both: &mut Both, handle: u64) -> Status {
    let body = MapRequest {
        handle: handle.into(),
        length: P.into(),
        access: 2.into(),
        ..FromZeros::new_zeroed()
    };
    status(&both.send(OpCode::Map, 1, &body, 4096).unwrap())
}

fn there(both: &Both) -> [bool; 3] {
    [1, 2, 3].map(|handle| both.relay.handles[&Handle(handle)].is_some())
}

#[test]
fn what_is_revoked_goes_and_what_the_guest_has_made_stays() {
    let mut both = with_three_handles();
    // As if it were for ever.
    let event = Event {
        kind: EVENT_BUFFER_REVOKED.into(),
        sequence: 1.into(),
        buffer: 9.into(),
        value: u64::MAX.into(),
        ..FromZeros::new_zeroed()
    };
    both.say(event.as_bytes(), None);
    assert!(both.relay.settle().is_empty());
    let due = both.relay.next_deadline().unwrap();
    assert!(due < Instant::now() + Duration::from_secs(61));
    assert_eq!(map_of(&mut both, 3), Status::ESTALE, "from now on");
    assert!(both.relay.expire(due - Duration::from_millis(1)).is_empty());
    assert_eq!(there(&both), [true; 3]);
    assert!(both.relay.expire(due).is_empty());
    assert_eq!(there(&both), [true, true, false]);
    for handle in [1, 2, 3] {
        assert_eq!(map_of(&mut both, handle), Status::ESTALE);
    }
    assert!(both.relay.next_deadline().is_none());
    assert!(both.close(3).is_none());
    let asked = both.asked().unwrap();
    ok(&both.answer(&asked, Status::OK, &[], None));
}

#[test]
fn a_guest_that_revokes_hears_nothing_and_maps_nothing_new() {
    let mut both = with_three_handles();
    let body = RevokeRequest {
        handle: 1.into(),
        deadline_ms: 50.into(),
        ..FromZeros::new_zeroed()
    };
    assert!(both.send(OpCode::Revoke, 1, &body, 4096).is_none());
    let asked = both.asked().unwrap();
    ok(&both.answer(&asked, Status::OK, &[], None));
    let due = both.relay.next_deadline().unwrap();
    assert!(due <= Instant::now() + Duration::from_millis(50));
    assert_eq!(map_of(&mut both, 1), Status::ESTALE);
    assert!(both.relay.expire(due).is_empty());
    assert_eq!(there(&both), [true, true, false]);
}

/// The body of the only reply, which tells of success.
fn ok(done: &[Done]) -> &[u8] {
    let [done] = done else {
        panic!("{done:?}");
    };
    assert_eq!(status(done), Status::OK);
    &done.reply[16..]
}

fn status(done: &Done) -> Status {
    let (header, _) = ReplyHeader::read_from_prefix(&done.reply).unwrap();
    Status(header.status.get())
}

fn tag(done: &Done) -> u64 {
    let (header, _) = ReplyHeader::read_from_prefix(&done.reply).unwrap();
    header.tag.get()
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(6)
}

#[test]
fn a_slot_of_a_pool_is_in_the_static_window_and_nothing_else_is() {
    let mut both = Both::new();
    let pool = both.pool.try_clone().unwrap();
    let other = sealed(4);
    let slot = both.opened(1, 0, 2 * P, pool.as_fd());
    assert_eq!((slot.buffer.flags.get(), slot.fd_offset.get()), (1, 0));
    let none = both.opened(2, 0, 2 * P, other.as_fd());
    assert_eq!((none.buffer.flags.get(), none.fd_offset.get()), (0, 0));
    // The header is no slot.
    let head = both.opened(3, 0, 0, pool.as_fd());
    assert_eq!(head.buffer.flags.get(), 0);
    for (handle, expected) in [
        (1, Ok((WINDOW_STATIC, UUID.0, 2 * P))),
        (2, Err(Status::ENODEV)),
        (3, Err(Status::ENODEV)),
    ] {
        let body = MapRequest {
            handle: u64::into(handle),
            length: P.into(),
            ..FromZeros::new_zeroed()
        };
        let done = both.send(OpCode::Map, 1, &body, 4096).unwrap();
        let map = MapReply::read_from_bytes(&done.reply[16..])
            .map(|map| (map.window.get(), map.uuid, map.window_offset.get()))
            .map_err(|_| status(&done));
        assert_eq!(map, expected, "{handle}");
    }
    assert_eq!(status(&both.close(1).unwrap()), Status::EBUSY);
    assert_eq!(status(&both.close(9).unwrap()), Status::ESTALE);
    assert!(
        both.asked().is_none(),
        "the broker has nothing to do with it"
    );
}

#[test]
fn a_list_tells_what_is_in_a_static_window() {
    let mut both = Both::new();
    let pool = both.pool.try_clone().unwrap();
    let body = ListRequest::new_zeroed();
    let capacity = 32 + 3 * 160 + 100;
    assert!(both.send(OpCode::List, 5, &body, capacity).is_none());
    let asked = both.asked().unwrap();
    let request = ListRequest::read_from_bytes(&asked.body).unwrap();
    assert_eq!(request.max.get(), 3, "what the guest has room for");
    let entry = |id: u64, access: u32, enforcement: u32| BufferInfo {
        id: id.into(),
        size: P.into(),
        access: access.into(),
        enforcement: enforcement.into(),
        name: Name::new(&format!("b{id}")).unwrap().to_wire(),
        ..FromZeros::new_zeroed()
    };
    let entries = [entry(101, 0, 4), entry(102, 2, 0), entry(103, 0, 4)];
    let head = ListReply {
        count: 3.into(),
        ..FromZeros::new_zeroed()
    };
    let list = [head.as_bytes(), entries.as_bytes()].concat();
    assert!(both.answer(&asked, Status::OK, &list, None).is_empty());
    // Two of them can only be told by opening them.
    let asked = both.asked().unwrap();
    assert_eq!(asked.op, OpCode::Open.to_wire());
    assert_eq!(asked.body[..4], *b"b101");
    let slot = open_reply(1, 0, 3 * P);
    let done = both.answer(&asked, Status::OK, slot.as_bytes(), Some(pool.as_fd()));
    assert!(done.is_empty());
    let (closed, asked) = (both.asked().unwrap(), both.asked().unwrap());
    assert_eq!((closed.op, closed.body), (4, 1u64.to_le_bytes().to_vec()));
    assert_eq!(asked.body[..4], *b"b103");
    let done = both.answer(&asked, Status::EMFILE, &[], None);
    assert_eq!(tag(&done[0]), 5);
    let reply = <[BufferInfo; 3]>::read_from_bytes(&ok(&done)[16..]).unwrap();
    assert_eq!(reply.map(|entry| entry.flags.get()), [1, 0, 0]);
    // And then it is known.
    assert!(both.send(OpCode::List, 6, &body, capacity).is_none());
    let asked = both.asked().unwrap();
    let done = both.answer(&asked, Status::OK, &list, None);
    assert_eq!(ok(&done).len(), list.len());
}

#[test]
fn consumers_come_in_pages() {
    let mut both = Both::new();
    let consumers: Vec<ConsumerInfo> = (0..5u64)
        .map(|number| ConsumerInfo {
            joined: number.into(),
            ..FromZeros::new_zeroed()
        })
        .collect();
    let head = StreamStatsReply {
        consumers: 5.into(),
        count: 5.into(),
        ..FromZeros::new_zeroed()
    };
    let all = [head.as_bytes(), consumers.as_bytes()].concat();
    let (mut cursor, mut seen) = (0, Vec::new());
    loop {
        let body = StreamStatsRequest {
            name: Name::new("s").unwrap().to_wire(),
            cursor: u32::into(cursor),
            reserved: 0.into(),
        };
        let capacity = 16 + 40 + 2 * 112 + 111;
        assert!(both.send(OpCode::StreamStats, 1, &body, capacity).is_none());
        let asked = both.asked().unwrap();
        let done = both.answer(&asked, Status::OK, &all, None);
        let (head, page) = StreamStatsReply::read_from_prefix(ok(&done)).unwrap();
        assert_eq!(page.len(), head.count.get() as usize * 112);
        seen.extend(page.chunks(112).map(|entry| {
            let entry = ConsumerInfo::read_from_bytes(entry).unwrap();
            entry.joined.get()
        }));
        cursor = head.next.get();
        if cursor == 0 {
            break;
        }
    }
    assert_eq!(seen, [0, 1, 2, 3, 4]);
}

#[test]
fn a_cancel_finds_the_oldest_wait_with_its_tag() {
    let mut both = Both::new();
    let body = FenceWaitRequest {
        handle: 1.into(),
        usage: 1.into(),
        timeout_ms: 0.into(),
    };
    let cancel = |both: &mut Both| both.send(OpCode::FenceCancel, 8, &7u64.to_le_bytes(), 64);
    assert_eq!(status(&cancel(&mut both).unwrap()), Status::ENOENT);
    let waits: Vec<Asked> = (0..2)
        .map(|_| {
            assert!(both.send(OpCode::FenceWait, 7, &body, 64).is_none());
            both.asked().unwrap()
        })
        .collect();
    assert_ne!(waits[0].tag, waits[1].tag);
    assert!(cancel(&mut both).is_none());
    let asked = both.asked().unwrap();
    assert_eq!(asked.body, waits[0].tag.to_le_bytes());
    let ended = both.answer(&waits[0], Status::ECANCELED, &[], None);
    assert_eq!((tag(&ended[0]), ended[0].token), (7, 2));
    let done = both.answer(&asked, Status::OK, &[], None);
    assert_eq!((tag(&done[0]), done[0].token), (8, 4));
    let (_, _, fences) = both.relay.counts();
    assert_eq!(fences.waits, 1);
}

#[test]
fn what_comes_late_is_given_back() {
    let mut both = Both::new();
    let fd = sealed(1);
    let open = OpenRequest {
        name: Name::new("x").unwrap().to_wire(),
        ..FromZeros::new_zeroed()
    };
    let stream = StreamOpenRequest {
        name: Name::new("x").unwrap().to_wire(),
        mode: MODE_LATEST.into(),
        ..FromZeros::new_zeroed()
    };
    assert!(both.send(OpCode::Open, 1, &open, 4096).is_none());
    assert!(both.send(OpCode::StreamOpen, 2, &stream, 4096).is_none());
    let end = 5u64.to_le_bytes();
    assert!(both.send(OpCode::StreamAcquire, 3, &end, 4096).is_none());
    let asked: Vec<Asked> = (0..3).map(|_| both.asked().unwrap()).collect();
    assert!(both.relay.expire(Instant::now()).is_empty(), "not yet");
    let late = both.relay.expire(later());
    let told: Vec<_> = late.iter().map(|done| (tag(done), status(done))).collect();
    let out = Status::ETIMEDOUT;
    assert_eq!(told, [(1, out), (2, out), (3, out)]);
    assert!(both.relay.expire(later()).is_empty(), "answered once");

    let mut frame = FrameReply::new_zeroed();
    frame.sequence = 44.into();
    let mut opened = StreamOpenReply::new_zeroed();
    opened.stream = 6.into();
    let handle = open_reply(9, 0, 0);
    for (asked, body, fd) in [
        (&asked[0], handle.as_bytes(), Some(fd.as_fd())),
        (&asked[1], opened.as_bytes(), None),
        (&asked[2], frame.as_bytes(), None),
    ] {
        assert!(both.answer(asked, Status::OK, body, fd).is_empty());
    }
    let undone: Vec<_> = std::iter::from_fn(|| both.asked())
        .map(|asked| (asked.op, asked.body))
        .collect();
    let release = [5u64.to_le_bytes(), 44u64.to_le_bytes()].concat();
    let expected = [
        (OpCode::Close.to_wire(), 9u64.to_le_bytes().to_vec()),
        (OpCode::StreamClose.to_wire(), 6u64.to_le_bytes().to_vec()),
        (OpCode::StreamRelease.to_wire(), release),
    ];
    assert_eq!(undone, expected);
    assert_eq!(both.relay.counts().0, 0);
}

#[test]
fn a_wait_ends_when_the_broker_shows_no_sign_of_life() {
    let mut both = Both::new();
    let body = FenceWaitRequest {
        handle: 1.into(),
        usage: 1.into(),
        timeout_ms: 0.into(),
    };
    assert!(both.send(OpCode::FenceWait, 7, &body, 64).is_none());
    let wait = both.asked().unwrap();
    assert!(both.relay.next_deadline().is_some());
    assert!(both.relay.expire(later()).is_empty(), "it may take long");
    let life = both.asked().unwrap();
    assert_eq!(life.op, OpCode::GetInfo.to_wire());
    let info = InfoReply::new_zeroed();
    assert!(
        both.answer(&life, Status::OK, info.as_bytes(), None)
            .is_empty()
    );
    // Asked again, and silent.
    let at = later() + Duration::from_secs(6);
    assert!(both.relay.expire(at).is_empty());
    assert_eq!(both.asked().unwrap().op, OpCode::GetInfo.to_wire());
    let late = both.relay.expire(at + Duration::from_secs(6));
    assert_eq!(status(&late[0]), Status::ETIMEDOUT);
    let body = FenceWaitReply::new_zeroed();
    assert!(
        both.answer(&wait, Status::OK, body.as_bytes(), None)
            .is_empty()
    );
}

#[test]
fn a_reset_waits_for_the_end_of_the_session_before() {
    let mut both = Both::new();
    let fd = sealed(1);
    both.opened(1, 0, 0, fd.as_fd());
    both.relay.reset();
    let second = sys::accept(both.listener.as_fd()).unwrap();
    assert!(both.send(OpCode::GetInfo, 3, &(), 4096).is_none());
    let first = std::mem::replace(&mut both.broker, second);
    assert!(both.relay.settle().is_empty());
    assert!(
        both.asked().is_none(),
        "the broker is not done with the first"
    );
    drop(first);
    assert!(both.relay.settle().is_empty());
    let asked = both.asked().unwrap();
    let info = InfoReply::new_zeroed();
    let done = both.answer(&asked, Status::OK, info.as_bytes(), None);
    let info = InfoReply::read_from_bytes(ok(&done)).unwrap();
    assert_eq!((info.windows.get(), info.max_mappings.get()), (2, 8));
    assert_eq!(status(&both.close(1).unwrap()), Status::ESTALE);
}

#[test]
fn events_are_counted_and_states_told_once() {
    let mut both = Both::new();
    let event = |kind: u32, sequence: u64, buffer: u64| Event {
        kind: kind.into(),
        sequence: sequence.into(),
        buffer: buffer.into(),
        ..FromZeros::new_zeroed()
    };
    for (kind, sequence, buffer) in [
        (EVENT_BUFFER_ADDED, 1, 1),
        (EVENT_FRAME, 2, 9),
        (EVENT_FRAME, 3, 9),
        (EVENT_FRAME, 4, 8),
        // Two were lost.
        (EVENT_BUFFER_ADDED, 7, 2),
    ] {
        both.say(event(kind, sequence, buffer).as_bytes(), None);
    }
    assert!(both.relay.settle().is_empty());
    let seen: Vec<_> = std::iter::from_fn(|| both.relay.next_event())
        .map(|event| (event.sequence.get(), event.buffer.get()))
        .collect();
    assert_eq!(seen, [(1, 1), (2, 9), (3, 8), (6, 2)]);
    // A guest that takes none loses some, and can tell.
    for sequence in 8..1000 {
        both.say(
            event(EVENT_BUFFER_ADDED, sequence, sequence).as_bytes(),
            None,
        );
        both.relay.settle();
    }
    both.say(event(EVENT_FRAME, 1000, 9).as_bytes(), None);
    both.relay.settle();
    let seen: Vec<_> = std::iter::from_fn(|| both.relay.next_event())
        .map(|event| event.sequence.get())
        .collect();
    assert_eq!(
        (seen.len(), seen.first(), seen.last()),
        (257, Some(&743), Some(&999))
    );
}

#[test]
fn without_a_broker_everything_fails_but_unmap() {
    let mut both = Both::new();
    let pool = both.pool.try_clone().unwrap();
    both.opened(1, 0, P, pool.as_fd());
    let body = MapRequest {
        handle: 1.into(),
        length: P.into(),
        ..FromZeros::new_zeroed()
    };
    let map = both.send(OpCode::Map, 1, &body, 4096).unwrap();
    let map = MapReply::read_from_bytes(&map.reply[16..]).unwrap();
    assert!(both.send(OpCode::GetInfo, 3, &(), 4096).is_none());
    let (ours, _theirs) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    both.broker = ours;
    let done = both.relay.settle();
    assert_eq!((tag(&done[0]), status(&done[0])), (3, Status::EIO));
    let again = both.send(OpCode::Map, 1, &body, 4096).unwrap();
    assert_eq!(status(&again), Status::EIO);
    // As without a relay: what is malformed is that.
    let cut = both.send(OpCode::Map, 1, &(), 4096).unwrap();
    assert_eq!(status(&cut), Status::EINVAL);
    let unmap = both.send(OpCode::Unmap, 1, &map.mapping.get().to_le_bytes(), 16);
    assert_eq!(status(&unmap.unwrap()), Status::OK);
}
