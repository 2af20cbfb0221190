// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Frames that hardware still writes: a sync_file goes in with STREAM_QUEUE and comes out with STREAM_ACQUIRE. With the
//! client library, as both ends belong to host processes; on memory without fences everywhere, with vgem's where there are.

use crate::daemon::{CONFIG, Daemon, LIMIT, require};
use crate::fences::{VGEM, fenced};
use dmabuf_client::stream::{ConsumeMode, Consumer, Frame, Producer};
use dmabuf_client::{Allocation, Client, Error};
use dmabuf_protocol::{FenceUsage, Status};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};
use vhost_device_dmabuf::fence::{FenceSource, Hold};
use vhost_device_dmabuf::sys;

/// Streams for the client of a configuration.
fn with_streams(config: &str) -> String {
    let grant = "max-handles = 600\n[[client.grant]]\nstream = \"t/*\"\naccess = \"read-only\"\n";
    config.replace("max-handles = 600\n", grant)
}

/// A stream over two buffers of the heap `plain`.
struct Camera {
    client: Client,
    producer: Producer,
    buffers: Vec<Allocation>,
}

impl Camera {
    fn new(daemon: &Daemon) -> Self {
        let mut client = connect(daemon);
        let producer = Producer::create(&mut client, "t/front", None).unwrap();
        let buffers: Vec<_> = (0..2)
            .map(|_| client.alloc("plain", 4096).unwrap())
            .collect();
        for buffer in &buffers {
            producer.add(&mut client, buffer).unwrap();
        }
        Self {
            client,
            producer,
            buffers,
        }
    }

    fn queue_fenced(&mut self, index: u32, file: &impl AsFd) -> Result<u64, Error> {
        let file = Some(file.as_fd());
        self.producer.queue_fenced(&mut self.client, index, 0, file)
    }
}

fn connect(daemon: &Daemon) -> Client {
    Client::connect(&daemon.file("broker.sock")).unwrap()
}

fn viewer(daemon: &Daemon) -> Consumer {
    Consumer::open(connect(daemon), "t/front", ConsumeMode::Fifo(4)).unwrap()
}

fn next(consumer: &mut Consumer) -> Frame {
    consumer.next(LIMIT).unwrap().expect("a frame")
}

fn is_readable(fd: impl AsFd) -> bool {
    let now = Timespec::try_from(Duration::ZERO).unwrap();
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&now)) == Ok(1)
}

/// A fence that lasts until it is dropped, and a sync_file of it.
fn fence(client: &mut Client) -> (Hold, OwnedFd) {
    let scratch = client.alloc("plain", 4096).unwrap();
    let source = FenceSource::open(Path::new(VGEM)).unwrap();
    let hold = source.hold(scratch.as_fd(), FenceUsage::Write).unwrap();
    let file = sys::export_sync_file(scratch.as_fd(), sys::SYNC_READ).unwrap();
    (hold, file)
}

fn refused<T: std::fmt::Debug>(result: Result<T, Error>) -> Status {
    result.unwrap_err().status().unwrap()
}

#[test]
fn memory_without_fences_takes_no_sync_file() {
    let daemon = Daemon::start(&with_streams(CONFIG));
    let idle = daemon.idle(3);
    let mut camera = Camera::new(&daemon);
    let mut viewer = viewer(&daemon);
    let memfd = sys::memfd_create("no-sync-file", 4096, false).unwrap();
    assert_eq!(refused(camera.queue_fenced(0, &memfd)), Status::ENODEV);
    assert_eq!(refused(camera.queue_fenced(9, &memfd)), Status::EINVAL);
    let Camera {
        client, producer, ..
    } = &mut camera;
    producer.queue_fenced(client, 0, 0, None).unwrap();
    let frame = next(&mut viewer);
    assert!(frame.fenced && frame.fence.is_none());
    viewer.release(frame).unwrap();
    drop((camera, viewer));
    daemon.returns_to(idle);
}

#[test]
fn consumers_wait_for_the_producers_sync_file_and_nobody_else_does() {
    let Some(config) = fenced() else { return };
    let daemon = Daemon::start(&with_streams(&config));
    let mut camera = Camera::new(&daemon);
    let (mut viewer, mut other) = (viewer(&daemon), viewer(&daemon));
    let (hold, file) = fence(&mut camera.client);
    assert!(is_readable(camera.buffers[0].as_fd()), "no fence yet");
    assert_eq!(camera.queue_fenced(0, &file).unwrap(), 1);
    assert!(
        !is_readable(camera.buffers[0].as_fd()),
        "it is the buffer's now"
    );
    let frame = next(&mut viewer);
    assert!(frame.fenced && !is_readable(frame.fence.as_ref().unwrap()));
    let short = Duration::from_millis(30);
    assert!(!viewer.wait_finished(&frame, short).unwrap());
    // Everything else goes on.
    camera.producer.queue(&mut camera.client, 1, 0).unwrap();
    let plain = next(&mut viewer);
    assert!(!plain.fenced && plain.fence.is_none());
    assert!(viewer.wait_finished(&plain, Duration::ZERO).unwrap());
    viewer.release(plain).unwrap();
    drop(hold);
    assert!(viewer.wait_finished(&frame, LIMIT).unwrap());
    assert!(is_readable(camera.buffers[0].as_fd()));
    viewer.release(frame).unwrap();
    // Who comes late gets one that has ended.
    let late = next(&mut other);
    assert!(late.fenced && is_readable(late.fence.as_ref().unwrap()));
    other.release(late).unwrap();
}

#[test]
fn what_is_no_sync_file_changes_nothing() {
    let Some(config) = fenced() else { return };
    let daemon = Daemon::start(&with_streams(&config));
    let mut camera = Camera::new(&daemon);
    let mut viewer = viewer(&daemon);
    let (_hold, file) = fence(&mut camera.client);
    let memfd = sys::memfd_create("no-sync-file", 4096, false).unwrap();
    let (pipe, _end) = rustix::pipe::pipe().unwrap();
    let dma_buf = camera.buffers[1].as_fd().try_clone_to_owned().unwrap();
    for wrong in [memfd, pipe, dma_buf] {
        assert_eq!(refused(camera.queue_fenced(0, &wrong)), Status::EINVAL);
    }
    assert!(viewer.try_next().unwrap().is_none());
    camera.queue_fenced(0, &file).unwrap();
    assert_eq!(refused(camera.queue_fenced(0, &file)), Status::EBUSY);
    assert_eq!(next(&mut viewer).sequence, 1);
}

#[test]
fn a_slot_with_a_fence_is_not_given_out_and_blocks_nobody() {
    let Some(config) = fenced() else { return };
    if !require("/dev/udmabuf") {
        return;
    }
    let pool = "kind = \"memfd\"\nslots = 2";
    let config = config.replace(pool, "kind = \"udmabuf\"\nslots = 1");
    let daemon = Daemon::start(&with_streams(&config));
    let mut client = connect(&daemon);
    let (hold, file) = fence(&mut client);
    let slot = connect(&daemon).alloc("cam", 4096).unwrap();
    sys::import_sync_file(slot.as_fd(), file.as_fd(), sys::SYNC_WRITE).unwrap();
    drop(slot);
    let until = Instant::now() + LIMIT;
    for _ in 0..20 {
        assert_eq!(refused(client.alloc("cam", 4096)), Status::EBUSY);
        assert!(Instant::now() < until, "it waits for the fence");
    }
    drop(hold);
    while let Err(error) = client.alloc("cam", 4096) {
        assert_eq!(error.status(), Some(Status::EBUSY));
        assert!(Instant::now() < until, "the slot never comes back");
    }
}
