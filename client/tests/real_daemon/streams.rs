// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Both ends of streams, in the library and as tools.

use crate::daemon::{Daemon, LIMIT};
use dmabuf_client::stream::{ConsumeMode, Consumer, Producer};
use dmabuf_client::{Allocation, Client, MappingMut, PeerKind, Resource, Status};
use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::process::Stdio;

const FRAME_VIEW: &str = env!("CARGO_BIN_EXE_frame-view");
const TEST_PATTERN: &str = env!("CARGO_BIN_EXE_test-pattern");
const DMABUFCTL: &str = env!("CARGO_BIN_EXE_dmabufctl");

/// A stream over both slots of the pool.
struct Camera {
    client: Client,
    producer: Producer,
    slots: Vec<(Allocation, MappingMut)>,
}

impl Camera {
    fn new(daemon: &Daemon) -> Self {
        Self::named(daemon, "t/front")
    }

    fn named(daemon: &Daemon, stream: &str) -> Self {
        let mut client = daemon.connect();
        let slots: Vec<_> = (0..2)
            .map(|_| {
                let slot = client.alloc("frames", 4096).unwrap();
                let mapping = slot.map_mut().unwrap();
                (slot, mapping)
            })
            .collect();
        for (index, (slot, _)) in slots.iter().enumerate() {
            let name = format!("t/{index}");
            client.publish(slot, &name, None, false).unwrap();
        }
        let producer = Producer::create(&mut client, stream, None).unwrap();
        for (index, (slot, _)) in (0..).zip(&slots) {
            assert_eq!(producer.add(&mut client, slot).unwrap(), index);
        }
        Self {
            client,
            producer,
            slots,
        }
    }

    fn show(&mut self, index: u32, value: u8) -> u64 {
        self.slots[index as usize].1.fill(&[value]).unwrap();
        self.producer.queue(&mut self.client, index, 0).unwrap()
    }
}

fn first_byte(consumer: &mut Consumer, frame: &dmabuf_client::stream::Frame) -> u8 {
    let mut byte = [0];
    consumer.pixels(frame).unwrap().read(0, &mut byte).unwrap();
    byte[0]
}

fn is_readable(fd: &impl AsFd) -> bool {
    let mut poll = [rustix::event::PollFd::new(fd, rustix::event::PollFlags::IN)];
    let now = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    rustix::event::poll(&mut poll, Some(&now)).unwrap() == 1
}

#[test]
fn frames_arrive_are_held_and_come_back() {
    let daemon = Daemon::start();
    let mut camera = Camera::named(&daemon, "t/hasty");
    let mut consumer = Consumer::open(daemon.connect(), "t/hasty", ConsumeMode::Fifo(8)).unwrap();
    assert_eq!((consumer.buffers(), consumer.max_held()), (2, 2));
    assert!(consumer.try_next().unwrap().is_none());
    assert!(!is_readable(&consumer));
    assert_eq!(camera.show(0, 11), 1);
    let frame = consumer.next(LIMIT).unwrap().unwrap();
    assert_eq!((frame.sequence, frame.index, frame.skipped), (1, 0, 0));
    assert_eq!(first_byte(&mut consumer, &frame), 11);
    assert!(
        consumer.view(&frame).unwrap().0.map_mut().is_err(),
        "a consumer can't write"
    );
    // The other buffer is shown and seen, the first one is still held.
    camera.show(1, 12);
    let second = consumer.next(LIMIT).unwrap().unwrap();
    assert_eq!(first_byte(&mut consumer, &second), 12);
    assert_eq!(
        camera.producer.try_reclaim(&mut camera.client).unwrap(),
        None
    );
    consumer.release(frame).unwrap();
    assert_eq!(
        camera.producer.reclaim(&mut camera.client, LIMIT).unwrap(),
        Some(0)
    );
    // The second one comes back by its deadline.
    assert_eq!(
        camera.producer.reclaim(&mut camera.client, LIMIT).unwrap(),
        Some(1)
    );
    let late = consumer.release(second).unwrap_err();
    assert_eq!(late.status(), Some(Status::ESTALE));
    let stats = daemon.connect().stream_stats("t/hasty").unwrap();
    assert_eq!((stats.produced, stats.with_producer, stats.free), (2, 2, 0));
    let one = stats.consumers[0];
    assert_eq!((one.delivered, one.skipped, one.expired), (2, 0, 1));
    assert_eq!(one.mode, ConsumeMode::Fifo(8));
    let listed = daemon.connect().streams().unwrap();
    assert_eq!(
        (listed[0].name.as_str(), listed[0].id),
        ("t/hasty", camera.producer.id())
    );
    drop(camera);
    let ended = consumer.next(LIMIT).unwrap_err();
    assert_eq!(ended.status(), Some(Status::ENODEV));
    assert!(daemon.connect().streams().unwrap().is_empty());
}

#[test]
fn a_stream_can_end_before_its_producer() {
    let daemon = Daemon::start();
    let mut client = daemon.connect();
    for _ in 0..2 {
        let producer = Producer::create(&mut client, "t/front", None).unwrap();
        let mut consumer =
            Consumer::open(daemon.connect(), "t/front", ConsumeMode::Latest).unwrap();
        producer.close(&mut client).unwrap();
        let ended = consumer.next(LIMIT).unwrap_err();
        assert_eq!(ended.status(), Some(Status::ENODEV));
    }
    assert!(client.streams().unwrap().is_empty());
}

#[test]
fn the_fd_tells_when_to_look() {
    let daemon = Daemon::start();
    let mut camera = Camera::new(&daemon);
    let mut consumer = Consumer::open(daemon.connect(), "t/front", ConsumeMode::Latest).unwrap();
    for round in 1..=50u64 {
        assert!(consumer.try_next().unwrap().is_none());
        let index = if round <= 2 {
            u32::try_from(round - 1).unwrap()
        } else {
            let free = camera.producer.reclaim(&mut camera.client, LIMIT);
            free.unwrap().unwrap()
        };
        camera.show(index, u8::try_from(round).unwrap());
        let mut poll = [rustix::event::PollFd::new(
            &consumer,
            rustix::event::PollFlags::IN,
        )];
        let limit = rustix::event::Timespec {
            tv_sec: 30,
            tv_nsec: 0,
        };
        assert_eq!(rustix::event::poll(&mut poll, Some(&limit)), Ok(1));
        let frame = consumer.try_next().unwrap().unwrap();
        assert_eq!(frame.sequence, round);
        assert_eq!(u64::from(first_byte(&mut consumer, &frame)), round);
        consumer.release(frame).unwrap();
    }
}

#[test]
fn what_may_not_be() {
    let daemon = Daemon::start();
    let _camera = Camera::new(&daemon);
    let refused = |name: &str| {
        let error = Consumer::open(daemon.connect(), name, ConsumeMode::Latest).unwrap_err();
        error.status()
    };
    assert_eq!(refused("t/none"), Some(Status::ENOENT));
    assert_eq!(refused("other"), Some(Status::EACCES));
    let mut client = daemon.connect();
    let taken = Producer::create(&mut client, "t/front", None).unwrap_err();
    assert_eq!(taken.status(), Some(Status::EEXIST));
    let alien = Producer::create(&mut client, "other", None).unwrap_err();
    assert_eq!(alien.status(), Some(Status::EACCES));
}

/// `test-pattern --stream` says what it has queued, `frame-view` what it has seen: every frame, right.
#[test]
fn the_tools_agree_on_every_frame() {
    let daemon = Daemon::start();
    let mut pattern = daemon
        .tool(TEST_PATTERN)
        .args(["--name", "t/front", "--heap", "frames", "--buffers", "2"])
        .args(["--width", "64", "--height", "64", "--fps", "200"])
        .args(["--stream", "--crc"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut produced = BufReader::new(pattern.stdout.take().unwrap()).lines();
    let mut crcs: HashMap<u64, String> = HashMap::new();
    let mut hear_of = |sequence: u64| {
        while !crcs.contains_key(&sequence) {
            let line = produced.next().unwrap().unwrap();
            let words: Vec<&str> = line.split(' ').collect();
            crcs.insert(words[0].parse().unwrap(), words[2].to_owned());
        }
        crcs[&sequence].clone()
    };
    hear_of(1);
    let y4m = daemon.file("frames.y4m");
    let view = daemon
        .tool(FRAME_VIEW)
        .args(["t/front", "--fifo", "2", "--count", "100", "--crc", "--y4m"])
        .arg(&y4m)
        .output()
        .unwrap();
    let stats = daemon
        .tool(DMABUFCTL)
        .args(["stats", "t/front"])
        .output()
        .unwrap();
    let listed = daemon.tool(DMABUFCTL).arg("streams").output().unwrap();
    assert!(view.status.success(), "{view:?}");
    let seen = String::from_utf8(view.stdout).unwrap();
    let mut last = 0u64;
    for line in seen.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let sequence: u64 = words[0].parse().unwrap();
        assert!(sequence > last);
        last = sequence;
        assert_eq!(hear_of(sequence), words[2], "{line}");
    }
    pattern.kill().unwrap();
    pattern.wait().unwrap();
    assert_eq!(seen.lines().count(), 100);
    let size = std::fs::metadata(y4m).unwrap().len();
    assert_eq!(size, 36 + 100 * (6 + 64 * 64 * 3 / 2));
    let stats = String::from_utf8(stats.stdout).unwrap();
    assert!(stats.starts_with("t/front: produced "), "{stats}");
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(
        listed.lines().count() == 2 && listed.contains("NV12 64x64"),
        "{listed}"
    );
}

#[test]
fn what_a_peer_uses_is_told_as_a_table() {
    let daemon = Daemon::start();
    let mut camera = Camera::new(&daemon);
    let mut consumer = Consumer::open(daemon.connect(), "t/front", ConsumeMode::Latest).unwrap();
    camera.show(0, 1);
    let _held = consumer.next(LIMIT).unwrap().unwrap();
    let all = consumer.client().usage().unwrap();
    let [me] = all.as_slice() else {
        panic!("{all:?}");
    };
    assert_eq!(me.name.as_str(), "tester");
    assert_eq!((me.kind, me.sessions), (PeerKind::Client, 2));
    let used = |resource| me.uses[resource as usize];
    assert_eq!(used(Resource::Handles).used, 2);
    assert!(used(Resource::Handles).per_session && !used(Resource::Holds).per_session);
    assert_eq!(used(Resource::Holds).limit, Some(64));
    assert_eq!(used(Resource::Bytes).limit, None);
    assert_eq!(
        [Resource::Buffers, Resource::Holds, Resource::Consumers].map(|r| used(r).used),
        [2, 1, 1]
    );
    let shown = daemon.tool(DMABUFCTL).arg("stats").output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let rows: Vec<Vec<&str>> = shown
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows.len(), 2, "{shown}");
    let cell = |head: &str| {
        let at = rows[0].iter().position(|cell| *cell == head);
        rows[1][at.unwrap()]
    };
    assert_eq!([cell("PEER"), cell("KIND")], ["tester", "client"]);
    assert_eq!([cell("HOLDS"), cell("CONSUMERS")], ["1/64", "1/64"]);
    assert_eq!(cell("HANDLES"), "2/200*");
    assert_eq!(cell("MAPPINGS"), "-");
}

#[test]
fn streams_are_watched_line_by_line() {
    let daemon = Daemon::start();
    let mut camera = Camera::new(&daemon);
    let mut consumer = Consumer::open(daemon.connect(), "t/front", ConsumeMode::Fifo(3)).unwrap();
    camera.show(0, 1);
    let _held = consumer.next(LIMIT).unwrap().unwrap();
    let watch = daemon
        .tool(DMABUFCTL)
        .args(["watch", "--every", "0.05", "--count", "2"])
        .output()
        .unwrap();
    assert!(watch.status.success(), "{watch:?}");
    let text = String::from_utf8(watch.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let [producer, viewer, again, later] = lines[..] else {
        panic!("two lines each time: {text}");
    };
    assert!(producer.starts_with("t/front (producer) mode=- fps=- frames=1 "));
    assert!(producer.ends_with(" held=1"), "{producer}");
    assert_eq!(
        viewer,
        "t/front tester mode=fifo(3) fps=- frames=1 skipped=0 expired=0 ready=0 held=1"
    );
    assert!(again.contains(" fps=0.0 frames=1 "), "{again}");
    assert!(later.contains(" fps=0.0 frames=1 "), "{later}");
}

#[test]
fn what_this_user_may_do_is_tried_out() {
    let daemon = Daemon::start();
    let mut camera = Camera::new(&daemon);
    let check = |arguments: &[&str]| {
        let output = daemon
            .tool(DMABUFCTL)
            .arg("grant-check")
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let slot = check(&["t/0"]);
    assert_eq!(slot[0], "read-only   yes  enforcement sealed");
    assert!(slot[1].starts_with("read-write  no   OPEN was refused: EACCES"));
    assert!(check(&["t/none"])[0].contains("ENOENT"));
    assert!(check(&["other"])[0].contains("EACCES"));
    let stream = check(&["t/front", "--stream"]);
    assert_eq!(stream[0], "consume     yes  at most 2 frames at once");
    assert_eq!(stream[1], "buffers     yes  enforcement sealed");
    let [refused] = &check(&["other", "--stream"])[..] else {
        panic!("nothing more to try");
    };
    assert!(refused.starts_with("consume     no   STREAM_OPEN was refused: EACCES"));
    camera.show(0, 1);
}

#[test]
fn one_frame_becomes_a_png_file() {
    let daemon = Daemon::start();
    let mut pattern = daemon
        .tool(TEST_PATTERN)
        .args(["--name", "t/front", "--heap", "frames", "--buffers", "2"])
        .args(["--width", "64", "--height", "48", "--fps", "200"])
        .args(["--stream", "--crc"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut produced = BufReader::new(pattern.stdout.take().unwrap());
    produced.read_line(&mut String::new()).unwrap();
    let file = daemon.file("frame.png");
    let view = |more: &[&str]| {
        let mut command = daemon.tool(FRAME_VIEW);
        command.args(["t/front", "--crc", "--png"]).arg(&file);
        command.args(more).output().unwrap()
    };
    for (more, frames) in [(&[][..], 1), (&["--count", "3"][..], 3)] {
        let _ = std::fs::remove_file(&file);
        let output = view(more);
        assert!(output.status.success(), "{output:?}");
        let lines = String::from_utf8(output.stdout).unwrap();
        assert_eq!(lines.lines().count(), frames);
        let decoder = png::Decoder::new(BufReader::new(std::fs::File::open(&file).unwrap()));
        let mut reader = decoder.read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), (64, 48));
        assert_eq!(info.color_type, png::ColorType::Rgb);
        let colours: std::collections::HashSet<_> = pixels.as_chunks::<3>().0.iter().collect();
        assert!(colours.len() > 4, "a picture");
    }
    pattern.kill().unwrap();
    pattern.wait().unwrap();
}
