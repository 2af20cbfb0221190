// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Connections, resets and pauses: what stays, what goes, and that nothing is left behind.

use crate::client::Client;
use crate::daemon::{CONFIG, Daemon};
use crate::guest::readable;
use crate::message::{PAGE, Peer, READ_ONLY, READ_WRITE, map_body, request};
use crate::sys::as_event;
use crate::vmm::{FrontEnd, Manners};
use crate::window::Answer;
use dmabuf_protocol::{OpCode, Status};
use rustix::fs::SealFlags;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;
use vhost::VhostBackend;
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const SIZED: SealFlags = SealFlags::SHRINK;

/// A daemon with a pool that is full, and a buffer for read-write.
fn start() -> (Daemon, Client) {
    let daemon = Daemon::start(CONFIG);
    let mut producer = Client::connect(&daemon);
    drop(producer.fill_pool());
    drop(producer.share("rw/x", 4, SIZED));
    (daemon, producer)
}

#[test]
pub fn a_hundred_front_ends_leave_nothing() {
    let (daemon, _producer) = start();
    let idle = daemon.idle(3);
    for round in 0..100 {
        let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
        let slot = vm.open("cam/0", READ_ONLY);
        vm.map(slot, 0, PAGE, READ_ONLY).unwrap();
        let handle = vm.open("rw/x", READ_WRITE);
        vm.map(handle, 0, PAGE, READ_WRITE).unwrap();
        if round % 2 == 0 {
            vm.stop();
        }
    }
    daemon.returns_to(idle);
    let released = "front-end gone, 2 handles and 2 mappings released";
    daemon.until("all are gone", || daemon.count_logged(released) == 100);
}

#[test]
pub fn front_ends_that_leave_early() {
    let (daemon, _producer) = start();
    let idle = daemon.idle(3);
    let path = daemon.file("a.sock");
    // Without a word.
    drop(UnixStream::connect(&path).unwrap());
    // In the middle of the negotiation.
    let frontend = Frontend::from_stream(UnixStream::connect(&path).unwrap(), 3);
    frontend.set_owner().unwrap();
    drop(frontend);
    let mut frontend = Frontend::from_stream(UnixStream::connect(&path).unwrap(), 3);
    frontend.set_owner().unwrap();
    frontend.get_features().unwrap();
    frontend.get_protocol_features().unwrap();
    drop(frontend);
    // Before and between starting the queues.
    drop(FrontEnd::negotiate(&daemon, "a", Manners::default()));
    let mut vm = FrontEnd::negotiate(&daemon, "a", Manners::default());
    vm.start_queue(1, 0).unwrap();
    drop(vm);
    // With nonsense, and with the start of a message.
    for nonsense in [
        &[0xff; 64][..],
        &[0; 4],
        &[1, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 1],
    ] {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(nonsense).unwrap();
    }
    daemon.returns_to(idle);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    assert_eq!(vm.info().handles.get(), 0);
}

#[test]
pub fn a_second_front_end_waits_for_the_first_to_go() {
    let (daemon, _producer) = start();
    let mut first = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let mut handle = first.open("rw/x", READ_WRITE);
    let stream = UnixStream::connect(daemon.file("a.sock")).unwrap();
    let second = std::thread::spawn(move || {
        let frontend = Frontend::from_stream(stream, 3);
        frontend.set_owner().unwrap();
        frontend.get_features().is_ok()
    });
    for _ in 0..10 {
        assert_eq!(first.close(handle), Ok(()), "the first is not disturbed");
        assert_eq!(
            first.open("rw/x", READ_WRITE) & 0xffff_ffff,
            handle & 0xffff_ffff
        );
        first.reset();
        handle = first.open("rw/x", READ_WRITE);
    }
    assert!(!second.is_finished(), "the second is not served yet");
    drop(first);
    assert!(second.join().unwrap(), "the second is served");
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    assert_eq!(vm.info().handles.get(), 0);
}

#[test]
pub fn a_reset_makes_everything_stale() {
    let (daemon, _producer) = start();
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let (slot, handle) = (vm.open("cam/0", READ_ONLY), vm.open("rw/x", READ_WRITE));
    let fixed = vm.map(slot, 0, PAGE, READ_ONLY).unwrap();
    let dynamic = vm.map(handle, 0, PAGE, READ_WRITE).unwrap();
    vm.reset();
    for number in [slot, handle] {
        assert_eq!(vm.close(number).unwrap_err(), Status::ESTALE);
    }
    for mapping in [fixed, dynamic] {
        assert_eq!(vm.unmap(mapping.mapping.get()).unwrap_err(), Status::ESTALE);
    }
    let info = vm.info();
    assert_eq!((info.handles.get(), info.mappings.get()), (0, 0));
    assert_eq!(info.probe.get(), 1, "the front-end is still the same");
    let again = vm.open("rw/x", READ_WRITE);
    assert!(![slot, handle].contains(&again));
    let map = vm.map(again, 0, PAGE, READ_WRITE).unwrap();
    assert_eq!(
        map.window_offset, dynamic.window_offset,
        "its range is free"
    );
    assert_ne!(map.mapping, dynamic.mapping);
}

#[test]
pub fn a_reset_while_the_front_end_maps() {
    let (daemon, _producer) = start();
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let handle = vm.open("rw/x", READ_WRITE);
    let map = vm.map(handle, 0, PAGE, READ_WRITE).unwrap();
    vm.unmap(map.mapping.get()).unwrap();
    let before = vm.window.seen().len();
    vm.window.answer(Answer::Silent);
    let bytes = request(
        OpCode::Map.to_wire(),
        1,
        &map_body(handle, 0, PAGE, READ_WRITE),
    );
    vm.send(&bytes, 256);
    vm.window.wait_seen(before + 1);
    vm.reset();
    let info = vm.info();
    assert_eq!(
        (info.handles.get(), info.mappings.get()),
        (0, 1),
        "its range is taken"
    );
    vm.window.answer(Answer::Honours);
    daemon.until("what nobody knows of is undone", || {
        vm.info().mappings.get() == 0
    });
    assert!(vm.window.mapped().is_empty());
    assert!(
        vm.rings[0].take_used().is_none(),
        "the request from before is not answered"
    );
}

#[test]
pub fn a_pause_keeps_everything() {
    let (daemon, _producer) = start();
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let (slot, handle) = (vm.open("cam/0", READ_ONLY), vm.open("rw/x", READ_WRITE));
    let fixed = vm.map(slot, 0, PAGE, READ_ONLY).unwrap();
    let dynamic = vm.map(handle, 0, PAGE, READ_WRITE).unwrap();
    let bases = vm.stop();
    assert_ne!(bases[0], 0);
    // A request that is made meanwhile is answered later.
    let get_info = request(OpCode::GetInfo.to_wire(), 1, &[0u8; 0]);
    let sent = vm.send(&get_info, 256);
    let early = vm.rings[0].wait_used_for(Duration::from_millis(50));
    assert_eq!(early, None, "a stopped queue is not served");
    vm.start(bases);
    assert_eq!(vm.wait(sent).status, Status::OK);
    let info = vm.info();
    assert_eq!((info.handles.get(), info.mappings.get()), (2, 2));
    vm.window.write(dynamic.window_offset.get(), 0, b"x");
    vm.unmap(fixed.mapping.get()).unwrap();
    vm.unmap(dynamic.mapping.get()).unwrap();
    vm.close(slot).unwrap();
    vm.close(handle).unwrap();
}

#[test]
pub fn a_pause_while_the_front_end_maps() {
    let (daemon, _producer) = start();
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let handle = vm.open("rw/x", READ_WRITE);
    let first = vm.map(handle, 0, PAGE, READ_WRITE).unwrap();
    let before = vm.window.seen().len();
    vm.window.answer(Answer::Silent);
    let map = request(
        OpCode::Map.to_wire(),
        1,
        &map_body(handle, 0, PAGE, READ_WRITE),
    );
    let mapping = vm.send(&map, 256);
    vm.window.wait_seen(before + 1);
    // Asked for before the pause, and its turn comes in the pause.
    let unmap = request(
        OpCode::Unmap.to_wire(),
        2,
        &first.mapping.get().to_le_bytes(),
    );
    let unmapping = vm.send(&unmap, 16);
    assert_eq!(vm.info().mappings.get(), 2);
    let bases = vm.stop();
    vm.window.answer(Answer::Honours);
    let early = vm.rings[0].wait_used_for(Duration::from_millis(100));
    assert_eq!(early, None, "no reply while the device is stopped");
    let seen = vm.window.seen();
    assert_eq!(
        seen.len(),
        before + 1,
        "nothing is mapped or unmapped meanwhile: {seen:?}"
    );
    vm.start(bases);
    assert_eq!(vm.wait(mapping).status, Status::OK);
    assert_eq!(vm.wait(unmapping).status, Status::OK);
    assert_eq!(
        vm.window.mapped().len(),
        1,
        "the unmapped range is really unmapped"
    );
    assert_eq!(vm.info().mappings.get(), 1);
    let next = vm.map(handle, 0, PAGE, READ_WRITE).unwrap();
    assert_eq!(next.window_offset, first.window_offset);
}

#[test]
pub fn a_queue_that_is_disabled_and_enabled() {
    let (daemon, _producer) = start();
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let handle = vm.open("rw/x", READ_WRITE);
    vm.frontend.set_vring_enable(0, false).unwrap();
    let get_info = request(OpCode::GetInfo.to_wire(), 1, &[0u8; 0]);
    let sent = vm.send(&get_info, 256);
    assert_eq!(vm.rings[0].wait_used_for(Duration::from_millis(50)), None);
    vm.frontend.set_vring_enable(0, true).unwrap();
    assert_eq!(vm.wait(sent).status, Status::OK);
    vm.close(handle).unwrap();
}

/// The kick is the front-end's: it can take it back between the daemon's wake-up and its read.
#[test]
pub fn kicks_that_are_taken_back() {
    let (daemon, _producer) = start();
    let idle = daemon.idle(3);
    for round in 0..100 {
        let mut vm = FrontEnd::negotiate(&daemon, "a", Manners::default());
        let flags = if round % 4 == 0 { EFD_NONBLOCK } else { 0 };
        vm.rings[0].kick = EventFd::new(flags).unwrap();
        vm.start([0; 3]);
        let kick = vm.rings[0].kick.try_clone().unwrap();
        // It may wait for ever itself: nobody waits for it.
        std::thread::spawn(move || {
            while readable(&kick, Duration::from_millis(100)) {
                let _ = kick.read();
            }
        });
        for _ in 0..5 {
            vm.rings[0].kick();
        }
    }
    daemon.returns_to(idle);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    assert_eq!(vm.info().handles.get(), 0);
}

/// A kick that is no eventfd, and never gives the eight bytes of one: the daemon itself holds its other end.
#[test]
pub fn kicks_that_never_end() {
    let (daemon, _producer) = start();
    let idle = daemon.idle(3);
    let mut vm = FrontEnd::negotiate(&daemon, "a", Manners::default());
    let (kick, other_end) = UnixStream::pair().unwrap();
    (&other_end).write_all(b"x").unwrap();
    vm.rings[0].kick = as_event(kick.into());
    vm.rings[0].call = as_event(other_end.into());
    vm.start([0; 3]);
    drop(vm);
    daemon.returns_to(idle);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    assert_eq!(vm.info().handles.get(), 0);
}
