// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Events: who hears of which buffer, in which order, and what is lost.

use crate::client::{Client, KEEP, SEALED};
use crate::daemon::{CONFIG, Daemon};
use crate::message::{Peer, READ_ONLY, READ_WRITE, text};
use crate::vmm::{FrontEnd, Manners};
use crate::window::Answer;
use dmabuf_protocol::wire::{EVENT_BUFFER_ADDED, EVENT_BUFFER_WITHDRAWN, Event};
use rustix::fs::SealFlags;
use std::time::Duration;
use zerocopy::FromBytes;

const SIZED: SealFlags = SealFlags::SHRINK;
const ROOM: u32 = size_of::<Event>() as u32;
/// How many changes the daemon keeps for a peer that doesn't listen.
const KEPT: u64 = 256;

fn next(vm: &mut FrontEnd) -> Event {
    Event::read_from_bytes(&vm.wait_event()).unwrap()
}

fn facts(event: &Event) -> (u32, u64, String) {
    assert_eq!((event.reserved.get(), event.value.get()), (0, 0));
    assert_ne!(event.buffer.get(), 0);
    (event.kind.get(), event.sequence.get(), text(&event.name))
}

fn added(sequence: u64, name: &str) -> (u32, u64, String) {
    (EVENT_BUFFER_ADDED, sequence, name.to_owned())
}

fn withdrawn(sequence: u64, name: &str) -> (u32, u64, String) {
    (EVENT_BUFFER_WITHDRAWN, sequence, name.to_owned())
}

#[test]
pub fn each_peer_hears_of_what_it_may_open() {
    let daemon = Daemon::start(CONFIG);
    let mut listener = Client::connect(&daemon);
    assert_eq!(listener.info().handles.get(), 0);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    assert_eq!(vm.info().handles.get(), 0);
    (0..8).for_each(|index| vm.offer_event(index, 200));
    let mut producer = Client::connect(&daemon);
    producer.share("rw/x", 1, SIZED);
    producer.share("b/x", 1, SIZED);
    producer.share("ro/x", 1, SEALED);
    drop(producer.fill_pool());
    producer.withdraw("b/x").unwrap();
    producer.withdraw("rw/x").unwrap();

    let ids = vm.list_page(0, 0).0;
    assert_eq!(facts(&next(&mut vm)), added(1, "rw/x"));
    let ro = next(&mut vm);
    assert_eq!(facts(&ro), added(2, "ro/x"));
    assert_eq!(ro.buffer.get(), ids[0].id.get());
    assert_eq!(facts(&next(&mut vm)), added(3, "cam/0"));
    assert_eq!(facts(&next(&mut vm)), added(4, "cam/1"));
    assert_eq!(facts(&next(&mut vm)), withdrawn(5, "rw/x"));
    assert!(vm.rings[1].take_used().is_none());

    let expected = [
        added(1, "rw/x"),
        added(2, "b/x"),
        added(3, "ro/x"),
        added(4, "cam/0"),
        added(5, "cam/1"),
        withdrawn(6, "b/x"),
        withdrawn(7, "rw/x"),
    ];
    for event in expected {
        assert_eq!(facts(&listener.event()), event);
    }
    // An open handle survives the withdrawal.
    let handle = vm.open("ro/x", READ_ONLY);
    producer.withdraw("ro/x").unwrap();
    assert_eq!(facts(&next(&mut vm)), withdrawn(6, "ro/x"));
    assert!(vm.derive(handle, READ_ONLY, 0).is_ok());
}

#[test]
pub fn a_reset_starts_the_sequence_again() {
    let daemon = Daemon::start(CONFIG);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    assert_eq!(vm.info().handles.get(), 0, "it runs");
    let mut producer = Client::connect(&daemon);
    vm.offer_event(0, ROOM);
    producer.share("rw/1", 1, SIZED);
    assert_eq!(facts(&next(&mut vm)), added(1, "rw/1"));
    producer.share("rw/2", 1, SIZED);
    vm.reset();
    assert_eq!(vm.info().handles.get(), 0);
    vm.offer_event(0, ROOM);
    producer.share("rw/3", 1, SIZED);
    assert_eq!(
        facts(&next(&mut vm)),
        added(1, "rw/3"),
        "what waited is gone"
    );
}

#[test]
pub fn buffers_that_are_too_small_go_back_and_the_event_waits() {
    let daemon = Daemon::start(CONFIG);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    assert_eq!(vm.info().handles.get(), 0, "it runs");
    let mut producer = Client::connect(&daemon);
    for (index, room) in [(0, 0), (1, 16), (2, ROOM - 1), (3, ROOM)] {
        vm.offer_event(index, room);
    }
    producer.share("rw/x", 1, SIZED);
    for index in 0..3 {
        assert_eq!(vm.rings[1].wait_used(), (index, 0));
    }
    assert_eq!(facts(&next(&mut vm)), added(1, "rw/x"));
}

#[test]
pub fn a_gap_tells_that_events_were_lost() {
    let daemon = Daemon::start(CONFIG);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    assert_eq!(vm.info().handles.get(), 0);
    let mut producer = Client::connect(&daemon);
    // More than are kept, even if a relay keeps some, while the driver gives no room.
    let made = 4 * KEPT;
    for number in 0..made / 2 {
        let name = format!("rw/{number}");
        producer.share(&name, 1, SIZED);
        producer.withdraw(&name).unwrap();
    }
    producer.share("rw/last", 1, SIZED);
    let (mut taken, mut lost, mut sequence) = (0, 0, 0);
    loop {
        vm.offer_event((taken % 16) as u16, ROOM);
        let event = next(&mut vm);
        let before = std::mem::replace(&mut sequence, event.sequence.get());
        assert!(sequence > before, "in order");
        lost += sequence - before - 1;
        if text(&event.name) == "rw/last" {
            break;
        }
        assert_eq!(text(&event.name), format!("rw/{}", (taken + lost) / 2));
        taken += 1;
    }
    // A relay and its broker keep as many each.
    assert!((KEPT - 1..made).contains(&taken), "{taken}");
    assert_eq!(taken + lost, made, "the gap must show");
    producer.withdraw("rw/last").unwrap();
    vm.offer_event((taken + 1) as u16 % 16, ROOM);
    assert_eq!(facts(&next(&mut vm)), withdrawn(sequence + 1, "rw/last"));
}

/// A driver with VIRTIO_F_EVENT_IDX kicks only when it is asked to.
#[test]
pub fn events_go_on_with_event_index_negotiated() {
    let daemon = Daemon::start(CONFIG);
    let manners = Manners {
        event_idx: true,
        ..Manners::default()
    };
    let mut vm = FrontEnd::connect(&daemon, "a", manners);
    assert_eq!(vm.info().handles.get(), 0);
    let mut producer = Client::connect(&daemon);
    for number in 0..6 {
        producer.share(&format!("rw/{number}"), 1, SIZED);
    }
    for index in 0..3 {
        vm.offer_event(index, ROOM);
    }
    for number in 0..3 {
        assert_eq!(
            facts(&next(&mut vm)),
            added(number + 1, &format!("rw/{number}"))
        );
    }
    // The device must have asked for a kick now that nothing is left.
    daemon.until("the device asks for a kick", || vm.rings[1].wants_kick(3));
    for index in 3..6 {
        vm.offer_event(index, ROOM);
    }
    for number in 3..6 {
        assert_eq!(
            facts(&next(&mut vm)),
            added(number + 1, &format!("rw/{number}"))
        );
    }
}

#[test]
pub fn a_paused_vm_hears_later() {
    let daemon = Daemon::start(CONFIG);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    assert_eq!(vm.info().handles.get(), 0);
    vm.offer_event(0, ROOM);
    let bases = vm.stop();
    let mut producer = Client::connect(&daemon);
    producer.share("rw/x", 1, SIZED);
    assert_eq!(vm.rings[1].wait_used_for(Duration::from_millis(30)), None);
    vm.start(bases);
    assert_eq!(facts(&next(&mut vm)), added(1, "rw/x"));
}

#[test]
pub fn buffers_go_with_their_producer_unless_kept() {
    let daemon = Daemon::start(CONFIG);
    let idle = daemon.idle(3);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    assert_eq!(vm.info().handles.get(), 0, "it runs");
    (0..8).for_each(|index| vm.offer_event(index, ROOM));
    let mut producer = Client::connect(&daemon);
    let memory = crate::client::memfd(1, SIZED);
    producer.import("rw/kept", KEEP, &memory).unwrap();
    producer.import("rw/gone", 0, &memory).unwrap();
    let handle = vm.open("rw/gone", READ_WRITE);
    // It dies without a word.
    drop(producer);
    assert_eq!(facts(&next(&mut vm)), added(1, "rw/kept"));
    assert_eq!(facts(&next(&mut vm)), added(2, "rw/gone"));
    assert_eq!(facts(&next(&mut vm)), withdrawn(3, "rw/gone"));
    assert_eq!(vm.names(), ["rw/kept"]);
    assert!(
        vm.map(handle, 0, 4096, READ_WRITE).is_ok(),
        "its memory is still there"
    );
    let mut producer = Client::connect(&daemon);
    producer.withdraw("rw/kept").unwrap();
    drop((vm, producer));
    daemon.returns_to(idle);
}
