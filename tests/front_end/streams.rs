// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Streams: every request, who gets which frame, what nobody can hold up, and what the counters say in the end.

use crate::client::{Client, SEALED, map, memfd, read};
use crate::daemon::{CONFIG, Daemon, LIMIT};
use crate::message::{PAGE, Peer, READ_ONLY, name, stream_create_body, stream_open_body, text};
use crate::vmm::FrontEnd;
use crate::window::Answer;
use dmabuf_protocol::wire::*;
use dmabuf_protocol::{FEATURE_STREAM, OpCode, Status};
use rustix::fs::fcntl_add_seals;
use std::fs::File;
use vhost::VhostBackend;
use vm_memory::VolatileMemory;
use vm_memory::mmap::MmapRegion;
use zerocopy::{FromBytes, FromZeros};

/// Everybody may consume what is called `t/…`; VM `a` may hold one frame only, for 100 ms.
fn config() -> String {
    let vm =
        "[[vm.grant]]\nstream = \"t/*\"\naccess = \"read-only\"\nmax-held = 1\nmax-hold-ms = 100\n";
    let client = "[[client.grant]]\nstream = \"t/*\"\naccess = \"read-only\"\nmax-held = 3\n";
    let at = CONFIG.find("[[vm]]\nname = \"b\"").unwrap();
    format!("{}{vm}\n{}{client}", &CONFIG[..at], &CONFIG[at..])
}

fn body<T: FromBytes>(bytes: &[u8]) -> T {
    T::read_from_bytes(bytes).unwrap()
}

/// The calls about streams.
trait Streams: Peer {
    fn create(&mut self, stream: &str) -> Result<u64, Status> {
        let reply = self.call(OpCode::StreamCreate, &stream_create_body(stream))?;
        Ok(body::<StreamCreateReply>(&reply).stream.get())
    }

    fn add(&mut self, stream: u64, handle: u64) -> Result<u32, Status> {
        let request = StreamAddRequest {
            stream: stream.into(),
            handle: handle.into(),
        };
        let reply = self.call(OpCode::StreamAdd, &request)?;
        Ok(body::<StreamIndexReply>(&reply).index.get())
    }

    fn queue(&mut self, stream: u64, index: u32) -> Result<u64, Status> {
        let request = StreamQueueRequest {
            stream: stream.into(),
            index: index.into(),
            ..FromZeros::new_zeroed()
        };
        let reply = self.call(OpCode::StreamQueue, &request)?;
        Ok(body::<StreamQueueReply>(&reply).sequence.get())
    }

    fn reclaim(&mut self, stream: u64) -> Result<u32, Status> {
        let reply = self.call(OpCode::StreamReclaim, &stream.to_le_bytes())?;
        Ok(body::<StreamIndexReply>(&reply).index.get())
    }

    /// `depth` 0 is latest.
    fn join(&mut self, stream: &str, depth: u32) -> Result<StreamOpenReply, Status> {
        let mode = if depth == 0 { MODE_LATEST } else { MODE_FIFO };
        let reply = self.call(OpCode::StreamOpen, &stream_open_body(stream, mode, depth))?;
        Ok(body(&reply))
    }

    fn leave(&mut self, stream: u64) -> Result<(), Status> {
        self.call(OpCode::StreamClose, &stream.to_le_bytes())
            .map(drop)
    }

    fn buffer(&mut self, stream: u64, index: u32) -> Result<OpenReply, Status> {
        let request = StreamBufferRequest {
            stream: stream.into(),
            index: index.into(),
            enforcement: 0.into(),
        };
        self.call(OpCode::StreamBuffer, &request)
            .map(|reply| body(&reply))
    }

    fn acquire(&mut self, stream: u64) -> Result<FrameReply, Status> {
        self.call(OpCode::StreamAcquire, &stream.to_le_bytes())
            .map(|reply| body(&reply))
    }

    fn release(&mut self, stream: u64, sequence: u64) -> Result<(), Status> {
        let request = [stream.to_le_bytes(), sequence.to_le_bytes()].concat();
        self.call(OpCode::StreamRelease, request.as_slice())
            .map(drop)
    }

    /// All pages.
    fn stats(&mut self, stream: &str) -> Result<(StreamStatsReply, Vec<ConsumerInfo>), Status> {
        let mut all = Vec::new();
        let mut cursor = 0;
        loop {
            let request = StreamStatsRequest {
                name: name(stream),
                cursor: cursor.into(),
                reserved: 0.into(),
            };
            let reply = self.call(OpCode::StreamStats, &request)?;
            let (head, rest) = StreamStatsReply::read_from_prefix(&reply).unwrap();
            let entries = rest
                .chunks(size_of::<ConsumerInfo>())
                .map(body::<ConsumerInfo>);
            let before = all.len();
            all.extend(entries);
            assert_eq!(all.len() - before, head.count.get() as usize);
            cursor = head.next.get();
            if cursor == 0 {
                assert_eq!(all.len(), head.consumers.get() as usize);
                return Ok((head, all));
            }
        }
    }

    fn streams(&mut self) -> Vec<String> {
        let request = ListRequest::new_zeroed();
        let reply = self.call(OpCode::StreamList, &request).unwrap();
        let (head, rest) = ListReply::read_from_prefix(&reply).unwrap();
        assert_eq!(head.next.get(), 0);
        let entries = rest.chunks(size_of::<StreamInfo>()).map(body::<StreamInfo>);
        entries.map(|entry| text(&entry.name)).collect()
    }
}

impl Streams for Client {}
impl Streams for FrontEnd {}

/// A producer with buffers that host processes can have read-only: memfds, sealed after they were mapped.
struct Camera {
    client: Client,
    stream: u64,
    memory: Vec<MmapRegion>,
}

impl Camera {
    fn new(daemon: &Daemon, stream: &str, buffers: usize) -> Self {
        let mut client = Client::connect(daemon);
        let number = client.create(stream).unwrap();
        let memory = (0..buffers).map(|index| {
            let file = memfd(1, rustix::fs::SealFlags::SHRINK);
            let region = map(&file, 0, PAGE, true).unwrap();
            let reply = client
                .import(&format!("buffers/{stream}/{index}"), 0, &file)
                .unwrap();
            fcntl_add_seals(&file, SEALED).unwrap();
            assert_eq!(
                client.add(number, reply.handle.get()),
                Ok(u32::try_from(index).unwrap())
            );
            region
        });
        let memory = memory.collect();
        Self {
            client,
            stream: number,
            memory,
        }
    }

    fn show(&mut self, index: u32, picture: u64) -> u64 {
        let slice = self.memory[index as usize].get_slice(0, 8).unwrap();
        slice.copy_from(&picture.to_le_bytes());
        self.client.queue(self.stream, index).unwrap()
    }

    /// A buffer that can be filled again; waits for it.
    fn get_back(&mut self) -> u32 {
        loop {
            match self.client.reclaim(self.stream) {
                Ok(index) => return index,
                Err(status) => assert_eq!(status, Status::EAGAIN),
            }
            self.client.event_of(EVENT_STREAM_FREE);
        }
    }
}

/// The picture that a consumer sees in a buffer.
struct View(MmapRegion);

impl View {
    fn of(client: &mut Client, stream: u64, index: u32) -> Self {
        let reply = client.buffer(stream, index).unwrap();
        assert_eq!(reply.buffer.access.get(), READ_ONLY);
        let file = File::from(client.the_fd());
        assert!(
            map(&file, reply.fd_offset.get(), PAGE, true).is_err(),
            "read-only"
        );
        Self(map(&file, reply.fd_offset.get(), PAGE, false).unwrap())
    }

    fn picture(&self) -> u64 {
        u64::from_le_bytes(read(&self.0, 0, 8).try_into().unwrap())
    }
}

#[test]
pub fn a_frame_goes_to_a_vm_and_to_a_process_and_comes_back() {
    let daemon = Daemon::start(&config());
    let idle = daemon.idle(3);
    let mut camera = Camera::new(&daemon, "t/front", 2);
    let mut viewer = Client::connect(&daemon);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    (0..8).for_each(|index| vm.offer_event(index, 96));
    assert_eq!(viewer.streams(), ["t/front"]);
    assert_eq!(vm.streams(), ["t/front"]);
    let opened = viewer.join("t/front", 4).unwrap();
    assert_eq!(
        (
            opened.buffers.get(),
            opened.hold_ms.get(),
            opened.max_held.get()
        ),
        (2, 1000, 3)
    );
    let in_vm = vm.join("t/front", 0).unwrap();
    assert_eq!((in_vm.hold_ms.get(), in_vm.max_held.get()), (100, 1));
    assert_eq!(opened.id, in_vm.id);

    assert_eq!(camera.show(1, 77), 1);
    let ready = viewer.event_of(EVENT_FRAME);
    assert_eq!(
        (ready.buffer, text(&ready.name)),
        (opened.stream, "t/front".to_owned())
    );
    let frame = viewer.acquire(opened.stream.get()).unwrap();
    assert_eq!(
        (frame.sequence.get(), frame.index.get(), frame.ready.get()),
        (1, 1, 0)
    );
    assert!(frame.timestamp_ns.get() > 0, "the daemon's clock");
    let view = View::of(&mut viewer, opened.stream.get(), 1);
    assert_eq!(view.picture(), 77);
    let told = Event::read_from_bytes(&vm.wait_event()).unwrap();
    let told = if told.kind.get() == EVENT_STREAM_ADDED {
        Event::read_from_bytes(&vm.wait_event()).unwrap()
    } else {
        told
    };
    assert_eq!((told.kind.get(), told.buffer), (EVENT_FRAME, in_vm.stream));
    assert_eq!(vm.acquire(in_vm.stream.get()).unwrap().sequence.get(), 1);
    let handle = vm.buffer(in_vm.stream.get(), 1).unwrap().handle.get();
    assert!(vm.map(handle, 0, PAGE, READ_ONLY).is_ok());
    assert_eq!(vm.map(handle, 0, PAGE, 2).unwrap_err(), Status::EACCES);

    // One more frame, then both buffers are out.
    camera.show(0, 78);
    assert_eq!(
        camera.client.queue(camera.stream, 1).unwrap_err(),
        Status::EBUSY,
        "not the producer's now"
    );
    viewer.release(opened.stream.get(), 1).unwrap();
    assert_eq!(
        viewer.release(opened.stream.get(), 1).unwrap_err(),
        Status::ESTALE
    );
    // The VM never gives its frame back: its hold ends by itself. The other frame is taken back from those who haven't
    // acquired it.
    let mut back = [camera.get_back(), camera.get_back()];
    back.sort_unstable();
    assert_eq!(back, [0, 1]);
    assert_eq!(
        vm.release(in_vm.stream.get(), 1).unwrap_err(),
        Status::ESTALE,
        "expired"
    );
    let (head, consumers) = viewer.stats("t/front").unwrap();
    assert_eq!(head.produced.get(), 2);
    for consumer in &consumers {
        adds_up(&head, consumer);
    }
    let of_vm = consumers
        .iter()
        .find(|consumer| text(&consumer.peer) == "a")
        .unwrap();
    assert_eq!(of_vm.expired.get(), 1);

    // The producer's end is the stream's.
    drop(camera);
    assert_eq!(
        viewer.event_of(EVENT_STREAM_WITHDRAWN).buffer,
        opened.stream
    );
    assert_eq!(viewer.streams(), [""; 0]);
    assert_eq!(
        viewer.acquire(opened.stream.get()).unwrap_err(),
        Status::ENODEV
    );
    assert_eq!(view.picture(), 77, "what was mapped stays");
    viewer.leave(opened.stream.get()).unwrap();
    assert_eq!(
        viewer.leave(opened.stream.get()).unwrap_err(),
        Status::ESTALE
    );
    drop((viewer, vm));
    daemon.returns_to(idle);
}

fn adds_up(head: &StreamStatsReply, consumer: &ConsumerInfo) {
    assert_eq!(
        head.produced.get() - consumer.joined.get(),
        consumer.delivered.get() + consumer.skipped.get() + u64::from(consumer.ready.get()),
        "{consumer:?}"
    );
}

#[test]
pub fn who_may_not_and_what_is_not_there() {
    let daemon = Daemon::start(&config());
    let mut camera = Camera::new(&daemon, "t/front", 1);
    let stream = camera.stream;
    let mut client = Client::connect(&daemon);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    assert_ne!(
        vm.frontend.get_features().unwrap() & (1 << FEATURE_STREAM),
        0
    );
    let mut other = FrontEnd::connect(&daemon, "b", Answer::Honours);
    // VM b has no grant: it can't tell whether the stream is there.
    assert_eq!(other.join("t/front", 0).unwrap_err(), Status::EACCES);
    assert_eq!(other.join("t/none", 0).unwrap_err(), Status::EACCES);
    assert_eq!(other.stats("t/front").unwrap_err(), Status::EACCES);
    assert_eq!(other.streams(), [""; 0]);
    assert_eq!(vm.join("t/none", 0).unwrap_err(), Status::ENOENT);
    assert_eq!(client.join("u/none", 0).unwrap_err(), Status::EACCES);
    // A VM that may not publish has no such requests.
    assert_eq!(vm.create("t/own").unwrap_err(), Status::EOPNOTSUPP);
    assert_eq!(client.create("t/front").unwrap_err(), Status::EEXIST);
    // Ends are of one session, and of one kind.
    let consumer = client.join("t/front", 1).unwrap().stream.get();
    for number in [0, stream ^ (1 << 32), u64::MAX] {
        assert_eq!(client.acquire(number).unwrap_err(), Status::ESTALE);
    }
    assert_eq!(client.queue(consumer, 0).unwrap_err(), Status::ESTALE);
    assert_eq!(client.reclaim(consumer).unwrap_err(), Status::ESTALE);
    assert_eq!(camera.client.acquire(stream).unwrap_err(), Status::ESTALE);
    assert_eq!(client.acquire(consumer).unwrap_err(), Status::EAGAIN);
    assert_eq!(client.buffer(consumer, 1).unwrap_err(), Status::EINVAL);
    assert_eq!(camera.client.queue(stream, 1).unwrap_err(), Status::EINVAL);
    assert_eq!(camera.client.add(stream, 99).unwrap_err(), Status::ESTALE);
    // A buffer that somebody else has made can't be added.
    let mut thief = Client::connect(&daemon);
    let own = thief.create("t/thief").unwrap();
    camera
        .client
        .share("rw/other", 1, rustix::fs::SealFlags::SHRINK);
    let opened = thief.open("rw/other", 2);
    assert_eq!(thief.add(own, opened).unwrap_err(), Status::EACCES);
    // So many ends and no more.
    for _ in 0..63 {
        client.join("t/front", 0).unwrap();
    }
    assert_eq!(client.join("t/front", 0).unwrap_err(), Status::EMFILE);
    client.leave(consumer).unwrap();
    client.join("t/front", 0).unwrap();
}

#[test]
pub fn a_slot_of_a_pool_goes_with_the_pool_only() {
    let text = config().replace(
        "[[client.grant]]\npool = \"cam\"\naccess = \"read-write\"\n",
        "",
    );
    let daemon = Daemon::start(&text);
    let mut producer = Client::connect(&daemon);
    let stream = producer.create("t/pool").unwrap();
    let slots = [
        producer.alloc("cam", 1).unwrap(),
        producer.alloc("cam", 1).unwrap(),
    ];
    for (i, (reply, _)) in slots.iter().enumerate() {
        producer.add(stream, reply.handle.get()).unwrap();
        producer
            .publish(reply.handle.get(), &format!("cam/{i}"), 0)
            .unwrap();
    }
    let mut client = Client::connect(&daemon);
    let consumer = client.join("t/pool", 0).unwrap().stream.get();
    assert_eq!(client.buffer(consumer, 0).unwrap_err(), Status::EACCES);
    daemon.logged(&["stream t/pool refused", "grant the pool"]);
    // A VM with the pool has it in its static window.
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let consumer = vm.join("t/pool", 0).unwrap().stream.get();
    let handle = vm.buffer(consumer, 1).unwrap().handle.get();
    let mapped = vm.map(handle, 0, PAGE, READ_ONLY).unwrap();
    assert_eq!(mapped.window.get(), WINDOW_STATIC);
}

#[test]
pub fn nobody_who_sleeps_holds_up_the_others() {
    let daemon = Daemon::start(&config());
    let mut camera = Camera::new(&daemon, "t/front", 4);
    let mut awake = Client::connect(&daemon);
    let consumer = awake.join("t/front", 2).unwrap().stream.get();
    // One that never reads its socket, one that holds a frame and says nothing, one that is dead.
    let mut deaf = Client::connect(&daemon);
    deaf.join("t/front", 64).unwrap();
    let mut greedy = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let held = greedy.join("t/front", 0).unwrap().stream.get();
    let mut dead = Client::connect(&daemon);
    let last = dead.join("t/front", 4).unwrap().stream.get();
    let mut free: Vec<u32> = (0..4).collect();
    let mut dead = Some(dead);
    let mut taken = 0;
    for picture in 1..=2000u64 {
        let index = free.pop().unwrap_or_else(|| {
            camera
                .client
                .reclaim(camera.stream)
                .expect("there is always a buffer")
        });
        assert_eq!(camera.show(index, picture), picture);
        let frame = awake.acquire(consumer).unwrap();
        assert_eq!(
            (frame.sequence.get(), frame.skipped.get()),
            (picture, 0),
            "it loses nothing"
        );
        awake.release(consumer, picture).unwrap();
        match picture {
            5 => taken = greedy.acquire(held).unwrap().sequence.get(),
            9 => {
                let mut dead = dead.take().unwrap();
                dead.acquire(last).unwrap();
                drop(dead);
            }
            _ => {}
        }
    }
    assert!(taken > 0);
    let (head, consumers) = awake.stats("t/front").unwrap();
    assert_eq!(head.consumers.get(), 3, "the dead one is gone");
    consumers
        .iter()
        .for_each(|consumer| adds_up(&head, consumer));
    // It was told of the first frame, and not of 2000.
    let mut frames = 0;
    while let Some((bytes, _)) = pending(&deaf) {
        let event = Event::read_from_bytes(&bytes).unwrap();
        frames += u32::from(event.kind.get() == EVENT_FRAME);
    }
    assert_eq!(frames, 1);
}

fn pending(client: &Client) -> Option<(Vec<u8>, Vec<std::os::fd::OwnedFd>)> {
    let mut poll = [rustix::event::PollFd::new(
        &client.socket,
        rustix::event::PollFlags::IN,
    )];
    let now = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    (rustix::event::poll(&mut poll, Some(&now)).unwrap() == 1)
        .then(|| client.receive(LIMIT))
        .flatten()
}

#[test]
pub fn a_full_event_queue_loses_no_frame() {
    let daemon = Daemon::start(&config());
    let mut camera = Camera::new(&daemon, "t/front", 4);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let consumer = vm.join("t/front", 2).unwrap().stream.get();
    // No room for events; more changes than the daemon keeps.
    camera.show(0, 1);
    for _ in 0..300 {
        let file = memfd(1, rustix::fs::SealFlags::SHRINK);
        let reply = camera.client.import("ro/noise", 0, &file).unwrap();
        camera.client.withdraw("ro/noise").unwrap();
        camera.client.close(reply.handle.get()).unwrap();
    }
    let mut seen = false;
    for index in 0..300 {
        vm.offer_event(index % 8, 96);
        let event = Event::read_from_bytes(&vm.wait_event()).unwrap();
        if event.kind.get() == EVENT_FRAME {
            seen = true;
            break;
        }
    }
    assert!(seen, "the frame is a state, not a message that is lost");
    assert_eq!(vm.acquire(consumer).unwrap().sequence.get(), 1);
}

/// What a consumer saw in the end.
struct Summary {
    peer: u64,
    delivered: u64,
}

/// Takes every frame that it gets, checks it, and gives it back, until the stream ends.
fn consume(daemon: &Daemon, stream: &str, depth: u32, ready: &std::sync::Barrier) -> Summary {
    let mut client = Client::connect(daemon);
    let opened = client.join(stream, depth).unwrap();
    let consumer = opened.stream.get();
    let views: Vec<View> = (0..opened.buffers.get())
        .map(|index| View::of(&mut client, consumer, index))
        .collect();
    ready.wait();
    let mut last = 0;
    let mut delivered = 0;
    loop {
        match client.acquire(consumer) {
            Ok(frame) => {
                let sequence = frame.sequence.get();
                assert!(sequence > last, "{sequence} after {last}");
                assert_eq!(
                    views[frame.index.get() as usize].picture(),
                    sequence,
                    "the frame in the buffer is the one that was announced"
                );
                last = sequence;
                delivered += 1;
                assert!(
                    delivered + frame.skipped.get() >= sequence,
                    "each frame before this one was delivered or counted as skipped"
                );
                client.release(consumer, sequence).unwrap();
            }
            Err(Status::EAGAIN) => {
                // Of a frame, of the stream's end, or of a buffer's: it looks again.
                client.event();
            }
            Err(status) => {
                assert_eq!(status, Status::ENODEV);
                return Summary {
                    peer: consumer,
                    delivered,
                };
            }
        }
    }
}

#[test]
pub fn ten_thousand_frames_to_64_sessions_add_up() {
    const FRAMES: u64 = 10_000;
    const SESSIONS: u32 = 64;
    // On a busy machine 64 threads can be slower than the usual hold.
    let patient = "max-held = 3\nmax-hold-ms = 60000\n";
    let daemon = Daemon::start(&config().replace("max-held = 3\n", patient));
    let idle = daemon.idle(3);
    let mut camera = Camera::new(&daemon, "t/front", 16);
    let ready = std::sync::Barrier::new(SESSIONS as usize + 1);
    std::thread::scope(|scope| {
        let consumers: Vec<_> = (0..SESSIONS)
            .map(|number| {
                let (daemon, ready) = (&daemon, &ready);
                // Every fourth wants the latest; the others wait for 1 to 16.
                let depth = if number % 4 == 0 { 0 } else { number % 16 + 1 };
                scope.spawn(move || consume(daemon, "t/front", depth, ready))
            })
            .collect();
        ready.wait();
        let mut free: Vec<u32> = (0..16).collect();
        let mut produced = 0;
        while produced < FRAMES {
            let index = free.pop().unwrap_or_else(|| camera.get_back());
            produced += 1;
            assert_eq!(camera.show(index, produced), produced);
        }
        // All that is ready is acquired by somebody in the end.
        let settled = |client: &mut Client| {
            let (head, consumers) = client.stats("t/front").unwrap();
            consumers
                .iter()
                .for_each(|consumer| adds_up(&head, consumer));
            assert_eq!(consumers.len(), SESSIONS as usize);
            consumers
                .iter()
                .all(|consumer| consumer.ready.get() == 0 && consumer.held.get() == 0)
                .then_some(consumers)
        };
        let mut stats = None;
        daemon.until("everybody has acquired what it could", || {
            stats = settled(&mut camera.client);
            stats.is_some()
        });
        let delivered: u64 = stats
            .unwrap()
            .iter()
            .inspect(|consumer| assert_eq!(consumer.expired.get(), 0))
            .map(|consumer| consumer.delivered.get())
            .sum();
        drop(camera);
        let seen: u64 = consumers
            .into_iter()
            .map(|consumer| {
                let summary = consumer.join().unwrap();
                assert_ne!(summary.peer, 0);
                summary.delivered
            })
            .sum();
        assert_eq!(seen, delivered);
    });
    daemon.returns_to(idle);
}

/// Resident memory of the daemon in KiB.
fn resident(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(daemon.proc("status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let words = line.unwrap().split_whitespace().nth(1).unwrap();
    words.parse().unwrap()
}

#[test]
pub fn a_hundred_connections_leave_nothing_behind() {
    let daemon = Daemon::start(&config());
    let mut camera = Camera::new(&daemon, "t/front", 4);
    let cycle = |camera: &mut Camera, picture: u64| {
        let mut client = Client::connect(&daemon);
        let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
        let ends = [client.join("t/front", 4), vm.join("t/front", 0)].map(|end| end.unwrap());
        let index = if picture < 4 {
            u32::try_from(picture).unwrap()
        } else {
            camera.get_back()
        };
        camera.show(index, picture);
        client.acquire(ends[0].stream.get()).unwrap();
        vm.acquire(ends[1].stream.get()).unwrap();
        client.buffer(ends[0].stream.get(), 0).unwrap();
        vm.buffer(ends[1].stream.get(), 0).unwrap();
        // Neither gives anything back.
    };
    // The first ones pay for what is kept.
    (0..20).for_each(|picture| cycle(&mut camera, picture));
    daemon.until("they are gone", || {
        camera.client.stats("t/front").unwrap().0.consumers.get() == 0
    });
    let idle = daemon.idle(3);
    let before = resident(&daemon);
    (20..120).for_each(|picture| cycle(&mut camera, picture));
    daemon.until("they are gone", || {
        camera.client.stats("t/front").unwrap().0.consumers.get() == 0
    });
    daemon.returns_to(idle);
    let after = resident(&daemon);
    assert!(
        after <= before + 512,
        "{before} KiB before, {after} KiB after 100 connections"
    );
    assert_eq!(
        camera.client.stats("t/front").unwrap().0.produced.get(),
        120
    );
}
