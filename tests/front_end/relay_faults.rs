// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VM's device in a process of its own, and everything that can go wrong between it and the broker.

use crate::client::{Client, SEALED, memfd};
use crate::daemon::{CONFIG, Daemon, Directory, LIMIT, program};
use crate::message::{PAGE, Peer, READ_ONLY, READ_WRITE, open_body, request, usage_body};
use crate::relays::relayed;
use crate::vmm::FrontEnd;
use crate::window::Answer;
use dmabuf_protocol::wire::{
    BufferInfo, EVENT_BUFFER_REVOKED, Event, InfoReply, OpenReply, ReplyHeader, RequestHeader,
};
use dmabuf_protocol::{OpCode, QUEUE_FENCE, Status, VERSION};
use rustix::fs::{SealFlags, fcntl_add_seals};
use rustix::process::Signal;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use vhost_device_dmabuf::sys;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

const SIZED: SealFlags = SealFlags::SHRINK;

fn open_request(name: &str, access: u32) -> Vec<u8> {
    request(OpCode::Open.to_wire(), 9, &open_body(name, access, 0))
}

/// A VM with `rw/x` mapped.
fn mapped(daemon: &Daemon) -> (FrontEnd, u64, u64) {
    let mut vm = FrontEnd::connect(daemon, "a", Answer::Honours);
    let handle = vm.open("rw/x", READ_WRITE);
    let map = vm.map(handle, 0, PAGE, READ_WRITE).unwrap();
    (vm, map.mapping.get(), map.window_offset.get())
}

#[test]
fn a_broker_that_is_killed() {
    relayed(|| {
        let mut daemon = Daemon::start(CONFIG);
        let mut producer = Client::connect(&daemon);
        let memory = producer.share("rw/x", 1, SIZED);
        let (mut vm, mapping, at) = mapped(&daemon);
        let before = daemon.relays.with("a", |relay| relay.usage());
        // With a request on its way.
        daemon.signal(Signal::STOP);
        let sent = vm.send(&open_request("rw/x", READ_WRITE), 4096);
        daemon.kill();
        assert_eq!(vm.wait(sent).status, Status::EIO);
        daemon.logged(&["peer a", "has closed the connection"]);
        // The VM goes on, and so does its memory.
        assert_eq!(vm.try_open("rw/x", 0, 0).unwrap_err(), Status::EIO);
        memory.write(0, b"still there");
        assert_eq!(vm.window.read(at, 0, 11), b"still there");
        vm.unmap(mapping).unwrap();
        vm.reset();
        assert_eq!(vm.call(OpCode::GetInfo, &[0u8; 0]), Err(Status::EIO));
        daemon.logged(&["peer a", "refused"]);

        // It comes back.
        let mut command = program();
        command.arg("--config").arg(daemon.file("config.toml"));
        let _second = Daemon::start_beside(&daemon, command, Directory::new());
        crate::relays::open_to_all(&daemon);
        let mut producer = Client::connect(&daemon);
        let memory = producer.share("rw/x", 1, SIZED);
        assert_eq!(vm.call(OpCode::GetInfo, &[0u8; 0]), Err(Status::EIO));
        vm.reset();
        let handle = vm.open("rw/x", READ_WRITE);
        let map = vm.map(handle, 0, PAGE, READ_WRITE).unwrap();
        vm.window.write(map.window_offset.get(), 0, b"again");
        assert_eq!(memory.read(0, 5), b"again");
        daemon.relays.with("a", |relay| relay.returns_to(before));
    });
}

/// What it has announced is taken away all the same.
#[test]
fn a_broker_that_dies_before_a_deadline() {
    relayed(|| {
        let mut daemon = Daemon::start(CONFIG);
        let mut producer = Client::connect(&daemon);
        let _memory = producer.share("rw/x", 1, SIZED);
        let (mut vm, mapping, at) = mapped(&daemon);
        (0..8).for_each(|index| vm.offer_event(index, size_of::<Event>() as u32));
        producer.revoke("rw/x", 500).unwrap();
        while Event::read_from_bytes(&vm.wait_event()).unwrap().kind != EVENT_BUFFER_REVOKED {}
        daemon.kill();
        daemon.until("the mapping goes", || !vm.window.mapped().contains(&at));
        vm.unmap(mapping).unwrap();
    });
}

#[test]
fn a_broker_that_is_stopped() {
    relayed(|| {
        let daemon = Daemon::start(CONFIG);
        let mut producer = Client::connect(&daemon);
        producer.share("rw/x", 1, SIZED);
        let (mut vm, mapping, _) = mapped(&daemon);
        let handle = vm.open("rw/x", READ_WRITE);
        let before = daemon.relays.with("a", |relay| relay.usage());
        daemon.signal(Signal::STOP);
        let start = Instant::now();
        let sent: Vec<_> = (0..40)
            .map(|_| vm.send(&open_request("rw/x", READ_WRITE), 4096))
            .collect();
        // What doesn't need the broker doesn't wait for it.
        vm.unmap(mapping).unwrap();
        let again = vm.map(handle, 0, PAGE, READ_WRITE).unwrap();
        assert!(start.elapsed() < Duration::from_secs(3));
        for sent in sent {
            assert_eq!(vm.wait(sent).status, Status::ETIMEDOUT);
        }
        let took = start.elapsed();
        assert!((4..9).contains(&took.as_secs()), "{took:?}");
        // A wait has the grant's time, unless the broker shows no sign of life.
        let wait = request(OpCode::FenceWait.to_wire(), 3, &usage_body(handle, 1, 0));
        assert_eq!(vm.on_queue(QUEUE_FENCE, &wait).status, Status::ETIMEDOUT);

        daemon.signal(Signal::CONT);
        // The late handles are given back.
        let end = Instant::now() + LIMIT;
        while vm.info().handles.get() != 2 {
            assert!(Instant::now() < end, "{} handles", vm.info().handles.get());
        }
        daemon.relays.with("a", |relay| relay.returns_to(before));
        vm.unmap(again.mapping.get()).unwrap();
        vm.close(handle).unwrap();
        assert_eq!(vm.info().handles.get(), 1);
    });
}

#[test]
fn a_reset_while_the_broker_is_stopped() {
    relayed(|| {
        let daemon = Daemon::start(CONFIG);
        let mut producer = Client::connect(&daemon);
        producer.share("rw/x", 1, SIZED);
        let idle = daemon.usage();
        let (mut vm, ..) = mapped(&daemon);
        daemon.signal(Signal::STOP);
        let start = Instant::now();
        for _ in 0..5 {
            vm.reset();
        }
        assert!(start.elapsed() < Duration::from_secs(3));
        let sent = vm.send(&open_request("rw/x", READ_WRITE), 4096);
        daemon.signal(Signal::CONT);
        assert_eq!(vm.wait(sent).status, Status::OK);
        assert_eq!(vm.info().handles.get(), 1, "of this session alone");
        drop(vm);
        daemon.returns_to(idle);
    });
}

#[test]
fn a_relay_that_is_killed_takes_nobody_along() {
    relayed(|| {
        let daemon = Daemon::start(CONFIG);
        let mut producer = Client::connect(&daemon);
        producer.share("rw/x", 1, SIZED);
        let memory = producer.share("b/x", 1, SIZED);
        let mut b = FrontEnd::connect(&daemon, "b", Answer::Honours);
        let handle = b.open("b/x", READ_WRITE);
        let at = b.map(handle, 0, PAGE, READ_WRITE).unwrap().window_offset;
        let before = daemon.usage();
        let (vm, ..) = mapped(&daemon);
        assert_ne!(daemon.usage(), before);
        daemon.relays.with("a", Daemon::kill);
        assert!(vm.is_ended(LIMIT));
        daemon.returns_to(before);
        assert_eq!(b.info().handles.get(), 1);
        b.window.write(at.get(), 0, b"goes on");
        assert_eq!(memory.read(0, 7), b"goes on");
        assert_eq!(
            b.try_open("rw/x", READ_WRITE, 0).unwrap_err(),
            Status::EACCES
        );
    });
}

#[test]
fn a_read_only_mapping_of_a_read_write_handle_is_derived_by_the_broker() {
    relayed(|| {
        let daemon = Daemon::start(CONFIG);
        let mut producer = Client::connect(&daemon);
        let memory = producer.share("rw/x", 1, SIZED);
        let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
        let handle = vm.open("rw/x", READ_WRITE);
        // Nobody but the VMM could keep it read-only.
        let map = vm.map(handle, 0, PAGE, READ_ONLY).unwrap();
        assert_eq!(map.enforcement.get(), 1);
        fcntl_add_seals(&memory.file, SEALED).unwrap();
        let map = vm.map(handle, 0, PAGE, READ_ONLY).unwrap();
        assert_eq!(map.enforcement.get(), 4);
        assert_eq!(
            vm.map(handle, 0, PAGE, READ_WRITE).unwrap_err(),
            Status::EACCES
        );
        assert_eq!(vm.info().handles.get(), 1, "the derived one was given back");
        assert_eq!(vm.close(handle).unwrap_err(), Status::EBUSY);
    });
}

/// A broker that says what a test likes.
struct Fake {
    listener: OwnedFd,
    relay: Daemon,
}

impl Fake {
    fn start() -> Self {
        let directory = Directory::new();
        let path = directory.join("broker.sock");
        let listener = sys::listen(&path).unwrap();
        let mut command = program();
        command
            .arg("--broker")
            .arg(path)
            .arg("--socket-path")
            .arg(directory.join("vm.sock"))
            .args(["--window-size", "1M"]);
        let terms = std::thread::spawn(move || {
            let mut client = Client::of(accept(&listener));
            let info = InfoReply {
                version: VERSION.into(),
                max_handles: 8.into(),
                name: crate::message::name("vm"),
                ..FromZeros::new_zeroed()
            };
            answer(&mut client, Status::OK, info.as_bytes(), &[]);
            answer(&mut client, Status::ENOENT, &[], &[]);
            listener
        });
        let relay = Daemon::start_with(command, directory);
        let listener = terms.join().unwrap();
        Self { listener, relay }
    }
}

fn accept(listener: &OwnedFd) -> OwnedFd {
    sys::accept(listener.as_fd()).unwrap()
}

fn header(op: u32, status: Status, tag: u64) -> Vec<u8> {
    let header = ReplyHeader {
        op: op.into(),
        status: status.0.into(),
        tag: tag.into(),
    };
    header.as_bytes().to_vec()
}

/// Answers the next request.
fn answer(client: &mut Client, status: Status, body: &[u8], fds: &[BorrowedFd<'_>]) {
    let (request, _) = client.receive(LIMIT).expect("a request");
    let (asked, _) = RequestHeader::read_from_prefix(&request).unwrap();
    let reply = [&header(asked.op.get(), status, asked.tag.get())[..], body].concat();
    client.send(&reply, fds).unwrap();
}

fn open_reply(access: u32, enforcement: u32, size: u64) -> OpenReply {
    OpenReply {
        handle: 77.into(),
        fd_offset: 0.into(),
        buffer: BufferInfo {
            id: 1.into(),
            size: size.into(),
            access: access.into(),
            enforcement: enforcement.into(),
            heap: 3.into(),
            ..FromZeros::new_zeroed()
        },
    }
}

#[test]
fn a_broker_that_lies() {
    let broker = Fake::start();
    let mut vm = FrontEnd::connect(&broker.relay, "vm", Answer::Honours);
    let mut client = Client::of(accept(&broker.listener));
    let (plain, sealed) = (memfd(1, SIZED), memfd(1, SEALED));
    let read_only = File::open(format!("/proc/self/fd/{}", plain.as_raw_fd())).unwrap();
    let before = broker.relay.usage();
    let rw = open_reply(READ_WRITE, 0, PAGE);
    let (op, fd) = (OpCode::Open.to_wire(), plain.as_fd());
    let said =
        |tag, reply: &OpenReply| [&header(op, Status::OK, tag)[..], reply.as_bytes()].concat();
    type Lie<'a> = (
        &'a str,
        Box<dyn Fn(u64) -> Vec<u8> + 'a>,
        Vec<BorrowedFd<'a>>,
    );
    let lies: Vec<Lie> = vec![
        (
            "another op",
            Box::new(|tag| [&header(7, Status::OK, tag)[..], rw.as_bytes()].concat()),
            vec![fd],
        ),
        ("another tag", Box::new(|tag| said(tag + 1, &rw)), vec![fd]),
        ("no whole header", Box::new(|_| vec![3, 0, 0, 0, 0]), vec![]),
        ("three bytes", Box::new(|_| vec![3, 0, 0]), vec![]),
        (
            "a short body",
            Box::new(|tag| said(tag, &rw)[..100].to_vec()),
            vec![fd],
        ),
        (
            "a long body",
            Box::new(|tag| [said(tag, &rw), vec![0; 8]].concat()),
            vec![fd],
        ),
        (
            "a very long body",
            Box::new(|tag| [said(tag, &rw), vec![0; 40 << 10]].concat()),
            vec![fd],
        ),
        ("no fd", Box::new(|tag| said(tag, &rw)), vec![]),
        ("two fds", Box::new(|tag| said(tag, &rw)), vec![fd; 2]),
        ("many fds", Box::new(|tag| said(tag, &rw)), vec![fd; 9]),
        (
            "a refusal with a body",
            Box::new(|tag| [header(op, Status::EACCES, tag), vec![0; 8]].concat()),
            vec![],
        ),
        (
            "a refusal with an fd",
            Box::new(|tag| header(op, Status::EACCES, tag)),
            vec![fd],
        ),
        (
            "an event with an fd",
            Box::new(|_| [&0x8000_0001u32.to_le_bytes()[..], &[0; 92]].concat()),
            vec![fd],
        ),
        (
            "half an event",
            Box::new(|_| [&0x8000_0001u32.to_le_bytes()[..], &[0; 20]].concat()),
            vec![],
        ),
        (
            "read-only, not sealed",
            Box::new(|tag| said(tag, &open_reply(READ_ONLY, 4, PAGE))),
            vec![fd],
        ),
        (
            "read-only by the VMM",
            Box::new(|tag| said(tag, &open_reply(READ_ONLY, 1, PAGE))),
            vec![sealed.as_fd()],
        ),
        (
            "larger than it is",
            Box::new(|tag| said(tag, &open_reply(READ_WRITE, 0, 2 * PAGE))),
            vec![fd],
        ),
        (
            "read-write by a read-only fd",
            Box::new(|tag| said(tag, &rw)),
            vec![read_only.as_fd()],
        ),
    ];
    for (what, reply, fds) in lies {
        let sent = vm.send(&open_request("x", READ_WRITE), 4096);
        let (asked, _) = client.receive(LIMIT).expect("a request");
        let (asked, _) = RequestHeader::read_from_prefix(&asked).unwrap();
        client.send(&reply(asked.tag.get()), &fds).unwrap();
        assert_eq!(vm.wait(sent).status, Status::EIO, "{what}");
        assert!(client.is_closed(LIMIT), "{what}");
        assert_eq!(
            vm.call(OpCode::GetInfo, &[0u8; 0]),
            Err(Status::EIO),
            "{what}"
        );
        vm.reset();
        client = Client::of(accept(&broker.listener));
    }
    broker.relay.returns_to(before);
    // A broker that behaves again is served again.
    let sent = vm.send(&open_request("x", READ_WRITE), 4096);
    answer(&mut client, Status::OK, rw.as_bytes(), &[fd]);
    assert_eq!(vm.wait(sent).status, Status::OK);
    assert!(vm.map(77, 0, PAGE, READ_WRITE).is_ok());
    // The same handle once more.
    let sent = vm.send(&open_request("x", READ_WRITE), 4096);
    answer(&mut client, Status::OK, rw.as_bytes(), &[fd]);
    assert_eq!(vm.wait(sent).status, Status::EIO);
}

#[test]
fn too_much_for_a_broker_that_does_not_answer() {
    let broker = Fake::start();
    let mut vm = FrontEnd::connect(&broker.relay, "vm", Answer::Honours);
    let client = Client::of(accept(&broker.listener));
    let reads = std::thread::spawn(move || while client.receive(2 * LIMIT).is_some() {});
    let wait = request(OpCode::StreamClose.to_wire(), 3, &[0u8; 8]);
    // More than the ring has room for, so in turns: those that timed out are still open.
    let mut seen = Vec::new();
    for _ in 0..5 {
        let sent: Vec<_> = (0..120).map(|_| vm.send(&wait, 64)).collect();
        seen.extend(sent.into_iter().map(|sent| vm.wait(sent).status));
    }
    let count = |status| seen.iter().filter(|seen| **seen == status).count();
    assert_eq!((count(Status::ETIMEDOUT), count(Status::EBUSY)), (512, 88));
    vm.reset();
    reads.join().unwrap();
    let mut client = Client::of(accept(&broker.listener));
    let sent = vm.send(&wait, 64);
    answer(&mut client, Status::ESTALE, &[], &[]);
    assert_eq!(vm.wait(sent).status, Status::ESTALE);
}
