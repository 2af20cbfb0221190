// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Front-ends that answer late, never, or die instead.

use crate::client::Client;
use crate::daemon::{CONFIG, Daemon, LIMIT};
use crate::message::{PAGE, Peer, READ_ONLY, READ_WRITE, map_body, request};
use crate::vmm::{FrontEnd, Manners};
use crate::window::Answer;
use dmabuf_protocol::{OpCode, Status};
use rustix::fs::SealFlags;
use std::time::{Duration, Instant};

/// The deadline of the daemon, and how much later a busy machine may notice it.
const DEADLINE: Duration = Duration::from_secs(5);
const SLACK: Duration = Duration::from_secs(4);

fn map_request(handle: u64, pages: u64, access: u32) -> Vec<u8> {
    request(
        OpCode::Map.to_wire(),
        7,
        &map_body(handle, 0, pages * PAGE, access),
    )
}

fn unmap_request(mapping: u64) -> Vec<u8> {
    request(OpCode::Unmap.to_wire(), 8, &mapping.to_le_bytes())
}

/// A VM with a buffer of 4 pages and room for many mappings.
fn start() -> (Daemon, Client, String) {
    let config = CONFIG.replace("max-mappings = 6", "max-mappings = 100");
    let daemon = Daemon::start(&config);
    let mut producer = Client::connect(&daemon);
    drop(producer.share("rw/x", 4, SealFlags::SHRINK));
    (daemon, producer, config)
}

#[test]
pub fn a_late_answer_is_undone_and_the_others_do_not_wait() {
    let (daemon, _producer, _) = start();
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let handle = vm.open("rw/x", READ_WRITE);
    // So that the probe is over.
    let kept = vm.map(handle, 0, PAGE, READ_WRITE).unwrap();
    let before = vm.window.seen().len();
    vm.window.answer(Answer::Silent);

    let asked = Instant::now();
    let open: Vec<_> = (0..64)
        .map(|_| vm.send(&map_request(handle, 1, READ_WRITE), 256))
        .collect();
    let one_more = vm.send(&map_request(handle, 1, READ_WRITE), 256);
    assert_eq!(vm.wait(one_more).status, Status::EBUSY);
    // While the front-end is silent, everything else is answered.
    for _ in 0..10 {
        assert_eq!(vm.info().mappings.get(), 65);
        assert_eq!(vm.close(handle).unwrap_err(), Status::EBUSY);
        let other = vm.open("rw/x", READ_WRITE);
        vm.close(other).unwrap();
    }
    let mut b = FrontEnd::connect(&daemon, "b", Answer::Honours);
    assert_eq!(b.info().handles.get(), 0);
    assert!(
        asked.elapsed() < DEADLINE,
        "other requests have waited, too"
    );
    assert!(!vm.is_answered(open[0]));
    for sent in open {
        assert_eq!(vm.wait(sent).status, Status::ETIMEDOUT);
    }
    let waited = asked.elapsed();
    assert!(
        waited >= DEADLINE && waited < DEADLINE + SLACK,
        "{waited:?}"
    );
    daemon.logged(&["peer a", "did not answer", "within 5 s"]);
    assert_eq!(
        vm.info().mappings.get(),
        65,
        "the ranges are taken until the answers come"
    );
    assert_eq!(vm.window.mapped(), [kept.window_offset.get()]);

    // It answers after all: what it has mapped by then is undone, one by one.
    vm.window.answer(Answer::Honours);
    daemon.until("the late mappings are undone", || {
        vm.info().mappings.get() == 1
    });
    assert_eq!(vm.window.mapped(), [kept.window_offset.get()]);
    let seen = vm.window.seen();
    let mapped = seen[before..]
        .iter()
        .filter(|request| request.map && request.done)
        .count();
    let unmapped = seen[before..]
        .iter()
        .filter(|request| !request.map && request.done)
        .count();
    assert_eq!((mapped, unmapped), (64, 64));
    let again = vm.map(handle, 0, PAGE, READ_WRITE).unwrap();
    assert_eq!(
        again.window_offset.get(),
        kept.window_offset.get() + PAGE,
        "its range is free"
    );
}

#[test]
pub fn a_late_unmap_frees_its_range_late() {
    let (daemon, _producer, _) = start();
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let handle = vm.open("rw/x", READ_WRITE);
    let map = vm.map(handle, 0, PAGE, READ_WRITE).unwrap();
    vm.window.answer(Answer::Silent);
    let sent = vm.send(&unmap_request(map.mapping.get()), 16);
    assert_eq!(
        vm.unmap(map.mapping.get()).unwrap_err(),
        Status::ESTALE,
        "asked for already"
    );
    assert_eq!(vm.wait(sent).status, Status::ETIMEDOUT);
    assert_eq!(vm.close(handle).unwrap_err(), Status::EBUSY);
    let second = vm.send(&map_request(handle, 1, READ_WRITE), 256);
    vm.window.answer(Answer::Honours);
    let reply = vm.wait(second).into_result().unwrap();
    let window_offset = u64::from_le_bytes(reply[8..16].try_into().unwrap());
    assert_ne!(window_offset, map.window_offset.get(), "it was still taken");
    assert_eq!(vm.info().mappings.get(), 1);
    assert_eq!(vm.window.mapped(), [window_offset]);
}

#[test]
pub fn a_silent_probe_has_not_passed() {
    let (daemon, _producer, _) = start();
    let idle = daemon.idle(3);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Silent);
    let handle = vm.open("rw/x", READ_WRITE);
    let read_only = vm.send(&map_request(handle, 1, READ_ONLY), 256);
    let read_write = vm.send(&map_request(handle, 1, READ_WRITE), 256);
    assert_eq!(vm.wait(read_only).status, Status::ETIMEDOUT);
    assert_eq!(vm.wait(read_write).status, Status::ETIMEDOUT);
    assert_eq!(vm.info().probe.get(), 0);
    let seen = vm.window.seen();
    assert_eq!(
        seen.len(),
        1,
        "nothing is sent before the probe has an answer: {seen:?}"
    );
    // The front-end turns out to ignore read-only: only the late read-write mapping is made, and undone.
    vm.window.answer(Answer::IgnoresReadOnly);
    daemon.until("all is undone", || vm.info().mappings.get() == 0);
    assert_eq!(vm.info().probe.get(), 2);
    let holes = vm
        .window
        .seen()
        .iter()
        .filter(|r| r.map && !r.writable && r.done)
        .count();
    assert_eq!(holes, 0);
    assert!(vm.window.mapped().is_empty());
    drop(vm);
    daemon.returns_to(idle);
}

/// Without REPLY_ACK an answer never comes, and what isn't answered isn't confirmed.
#[test]
pub fn a_front_end_without_acknowledgements() {
    let (daemon, _producer, _) = start();
    let idle = daemon.idle(3);
    let manners = Manners {
        reply_ack: false,
        ..Manners::default()
    };
    let mut vm = FrontEnd::connect(&daemon, "a", manners);
    let handle = vm.open("rw/x", READ_WRITE);
    let read_only = vm.send(&map_request(handle, 1, READ_ONLY), 256);
    let read_write = vm.send(&map_request(handle, 1, READ_WRITE), 256);
    assert_eq!(vm.wait(read_only).status, Status::ETIMEDOUT);
    assert_eq!(vm.wait(read_write).status, Status::ETIMEDOUT);
    assert_eq!(vm.info().probe.get(), 0, "the probe has not passed");
    drop(vm);
    daemon.returns_to(idle);
}

#[test]
pub fn a_front_end_that_dies_while_it_maps() {
    let (daemon, _producer, _) = start();
    let idle = daemon.idle(3);
    for access in [READ_ONLY, READ_WRITE] {
        let mut vm = FrontEnd::connect(&daemon, "a", Answer::Silent);
        let handle = vm.open("rw/x", READ_WRITE);
        for _ in 0..10 {
            vm.send(&map_request(handle, 1, access), 256);
        }
        vm.window.wait_seen(1);
        drop(vm);
        daemon.logged(&["peer a: front-end gone, 1 handles"]);
        daemon.returns_to(idle);
    }
    // Or while it unmaps.
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let handle = vm.open("rw/x", READ_WRITE);
    let map = vm.map(handle, 0, PAGE, READ_WRITE).unwrap();
    let before = vm.window.seen().len();
    vm.window.answer(Answer::Silent);
    vm.send(&unmap_request(map.mapping.get()), 16);
    vm.window.wait_seen(before + 1);
    drop(vm);
    daemon.returns_to(idle);
    // The next one is served, and starts with nothing.
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    assert_eq!((vm.info().handles.get(), vm.info().mappings.get()), (0, 0));
    assert_eq!(vm.close(handle).unwrap_err(), Status::ESTALE);
}

#[test]
pub fn a_front_end_that_goes_but_holds_the_channel_open() {
    let (daemon, _producer, _) = start();
    let idle = daemon.idle(3);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Silent);
    let handle = vm.open("rw/x", READ_WRITE);
    vm.send(&map_request(handle, 1, READ_WRITE), 256);
    vm.window.wait_seen(1);
    let channel = vm.leave_channel_open();
    // Others are served meanwhile.
    let mut b = FrontEnd::connect(&daemon, "b", Answer::Honours);
    assert_eq!(b.info().handles.get(), 0);
    drop(b);
    daemon.logged(&["peer a", "holds the back-end channel open"]);
    drop(channel);
    daemon.returns_to(idle);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let handle = vm.open("rw/x", READ_WRITE);
    assert!(vm.map(handle, 0, PAGE, READ_WRITE).is_ok());
    assert!(DEADLINE < LIMIT);
}
