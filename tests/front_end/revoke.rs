// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Revocation: what the front-end is asked and the guest sees then, what host processes see, and who hears of what.

use crate::client::{Client, SEALED, map, read};
use crate::daemon::{CONFIG, Daemon};
use crate::message::{
    PAGE, Peer, READ_ONLY, READ_WRITE, map_body, request, stream_create_body, text, usage_body,
};
use crate::relays::is_relayed;
use crate::vmm::FrontEnd;
use crate::window::Answer;
use dmabuf_protocol::wire::*;
use dmabuf_protocol::{OpCode, Status};
use rustix::fs::SealFlags;
use std::fs::File;
use std::time::{Duration, Instant};
use zerocopy::FromBytes;

const SIZED: SealFlags = SealFlags::SHRINK;
const ROOM: u32 = size_of::<Event>() as u32;
/// A deadline that doesn't pass during a test.
const LATER: u32 = 60_000;

/// Waits for this kind of event, with any before it left out.
fn told(vm: &mut FrontEnd, kind: u32) -> Event {
    loop {
        let event = Event::read_from_bytes(&vm.wait_event()).unwrap();
        if event.kind.get() == kind {
            return event;
        }
    }
}

/// Whether VMs can still see a buffer that they have let go of: the device of one that is a process has had an fd.
fn shared() -> u64 {
    if is_relayed() { FREE_SHARED } else { 0 }
}

/// Waits until nothing is mapped there.
fn gone(daemon: &Daemon, vm: &FrontEnd, at: u64) {
    daemon.until("the mapping goes", || !vm.window.mapped().contains(&at));
}

#[test]
pub fn the_mapping_goes_at_the_deadline_and_its_range_stays() {
    let daemon = Daemon::start(CONFIG);
    let mut producer = Client::connect(&daemon);
    let memory = producer.share("rw/x", 1, SIZED);
    memory.write(0, b"secret");
    let other = producer.share("rw/other", 1, SIZED);
    other.write(0, b"other");
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::ListsWindow);
    let handle = vm.open("rw/x", READ_WRITE);
    let mapping = vm.map(handle, 0, PAGE, READ_WRITE).unwrap();
    let at = mapping.window_offset.get();
    (0..8).for_each(|index| vm.offer_event(index, ROOM));

    let asked = Instant::now();
    producer.revoke("rw/x", 300).unwrap();
    assert!(
        asked.elapsed() < Duration::from_millis(250),
        "not waited for"
    );
    assert_eq!(text(&told(&mut vm, EVENT_BUFFER_WITHDRAWN).name), "rw/x");
    let event = told(&mut vm, EVENT_BUFFER_REVOKED);
    assert_eq!(text(&event.name), "rw/x");
    assert!(event.value.get() <= 300);
    if asked.elapsed() < Duration::from_millis(250) {
        assert_eq!(vm.window.read(at, 0, 6), b"secret", "until the deadline");
    }
    gone(&daemon, &vm, at);
    // A relay is told the time that is left in whole milliseconds.
    assert!(asked.elapsed() >= Duration::from_millis(299));
    let free = producer.event_of(EVENT_BUFFER_FREE);
    let name = text(&free.name);
    assert_eq!((name.as_str(), free.value.get()), ("rw/x", shared()));
    assert_eq!(memory.read(0, 6), [0; 6]);

    // Stale for everything but UNMAP and CLOSE.
    for (op, body) in [
        (OpCode::Derive, vec![0; 8]),
        (OpCode::SyncStart, 1u64.to_le_bytes().to_vec()),
        (OpCode::SyncEnd, 1u64.to_le_bytes().to_vec()),
        (OpCode::Release, vec![0; 8]),
        (OpCode::Hold, 1u64.to_le_bytes().to_vec()),
    ] {
        let body = [handle.to_le_bytes().to_vec(), body].concat();
        assert_eq!(vm.call(op, &body[..]), Err(Status::ESTALE), "{op:?}");
    }
    let wait = request(OpCode::FenceWait.to_wire(), 1, &usage_body(handle, 1, 0));
    assert_eq!(vm.on_queue(2, &wait).status, Status::ESTALE);
    assert_eq!(
        vm.map(handle, 0, PAGE, READ_WRITE).unwrap_err(),
        Status::ESTALE
    );
    assert_eq!(
        vm.try_open("rw/x", READ_WRITE, 0).unwrap_err(),
        Status::ENOENT
    );

    // What is mapped next is somewhere else.
    let next = vm.open("rw/other", READ_WRITE);
    for _ in 0..4 {
        let map = vm.map(next, 0, PAGE, READ_WRITE).unwrap();
        assert_ne!(map.window_offset.get(), at, "not reused");
        vm.unmap(map.mapping.get()).unwrap();
    }
    assert_eq!(vm.close(handle), Err(Status::EBUSY));
    vm.unmap(mapping.mapping.get()).unwrap();
    vm.close(handle).unwrap();
    let map = vm.map(next, 0, PAGE, READ_WRITE).unwrap();
    assert_eq!(map.window_offset.get(), at, "free again");
}

#[test]
pub fn two_vms_and_one_lets_go_first() {
    let config = CONFIG.replace("buffer = \"b/*\"", "buffer = \"rw/*\"");
    let daemon = Daemon::start(&config);
    let mut producer = Client::connect(&daemon);
    let memory = producer.share("rw/x", 1, SIZED);
    memory.write(0, b"secret");
    let mut vms = ["a", "b"].map(|vm| FrontEnd::connect(&daemon, vm, Answer::Honours));
    let mut held = Vec::new();
    for vm in &mut vms {
        let handle = vm.open("rw/x", READ_WRITE);
        let map = vm.map(handle, 0, PAGE, READ_WRITE).unwrap();
        (0..8).for_each(|index| vm.offer_event(index, ROOM));
        held.push((handle, map.mapping.get()));
    }
    producer.revoke("rw/x", LATER).unwrap();
    for (vm, (handle, mapping)) in vms.iter_mut().zip(held) {
        assert_eq!(memory.read(0, 6), b"secret", "somebody still has it");
        let event = told(vm, EVENT_BUFFER_REVOKED);
        assert!(event.value.get() > 30_000);
        vm.unmap(mapping).unwrap();
        vm.close(handle).unwrap();
    }
    let free = producer.event_of(EVENT_BUFFER_FREE);
    assert_eq!(free.value.get(), shared());
    assert_eq!(memory.read(0, 6), [0; 6]);
}

#[test]
pub fn a_paused_vm_sees_zeroes_and_loses_it_when_it_goes_on() {
    let daemon = Daemon::start(CONFIG);
    let mut producer = Client::connect(&daemon);
    let memory = producer.share("rw/x", 1, SIZED);
    memory.write(0, b"secret");
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let handle = vm.open("rw/x", READ_WRITE);
    let map = vm.map(handle, 0, PAGE, READ_WRITE).unwrap();
    let at = map.window_offset.get();
    let asked = vm.window.seen().len();
    let bases = vm.stop();
    producer.revoke("rw/x", 0).unwrap();
    let free = producer.event_of(EVENT_BUFFER_FREE);
    assert_eq!(free.value.get(), FREE_SHARED, "the VM still has it mapped");
    assert_eq!(vm.window.read(at, 0, 6), [0; 6]);
    assert_eq!(
        vm.window.seen().len(),
        asked,
        "nothing is asked of a paused VM"
    );
    vm.start(bases);
    vm.rings[0].kick();
    gone(&daemon, &vm, at);
    vm.unmap(map.mapping.get()).unwrap();
    vm.close(handle).unwrap();
}

#[test]
pub fn a_vm_that_dies_or_says_nothing_stops_nobody() {
    let config = CONFIG.replace("buffer = \"b/*\"", "buffer = \"rw/*\"");
    let daemon = Daemon::start(&config);
    let mut producer = Client::connect(&daemon);
    let memory = producer.share("rw/x", 1, SIZED);
    memory.write(0, b"secret");
    let (mut silent, mut dying) = (
        FrontEnd::connect(&daemon, "a", Answer::Honours),
        FrontEnd::connect(&daemon, "b", Answer::Honours),
    );
    for vm in [&mut silent, &mut dying] {
        let handle = vm.open("rw/x", READ_WRITE);
        vm.map(handle, 0, PAGE, READ_WRITE).unwrap();
    }
    silent.window.answer(Answer::Silent);
    producer.revoke("rw/x", 50).unwrap();
    drop(dying);
    let free = producer.event_of(EVENT_BUFFER_FREE);
    assert_eq!(free.value.get(), FREE_SHARED);
    assert_eq!(memory.read(0, 6), [0; 6]);
    assert_eq!(silent.info().handles.get(), 1, "it is served all the same");
}

#[test]
fn a_host_process_sees_zeroes() {
    let daemon = Daemon::start(CONFIG);
    let mut producer = Client::connect(&daemon);
    let memory = producer.share("rw/x", 2, SIZED);
    memory.write(PAGE, b"secret");
    let mut consumer = Client::connect(&daemon);
    let handle = consumer.open("rw/x", READ_WRITE);
    let region = map(&File::from(consumer.the_fd()), 0, 2 * PAGE, false).unwrap();
    assert_eq!(read(&region, PAGE, 6), b"secret");
    producer.revoke("rw/x", 100).unwrap();
    let event = consumer.event_of(EVENT_BUFFER_REVOKED);
    assert_eq!(text(&event.name), "rw/x");
    let free = producer.event_of(EVENT_BUFFER_FREE);
    assert_eq!(free.value.get(), FREE_SHARED, "it has an fd");
    assert_eq!(read(&region, PAGE, 6), [0; 6]);
    let derived = consumer.derive(handle, READ_ONLY, 0);
    assert_eq!(derived.unwrap_err(), Status::ESTALE);
    consumer.close(handle).unwrap();
}

#[test]
fn another_connection_of_the_same_peer_may() {
    let daemon = Daemon::start(CONFIG);
    let mut producer = Client::connect(&daemon);
    let _memory = producer.share("rw/x", 1, SIZED);
    let mut tool = Client::connect(&daemon);
    tool.revoke("rw/x", 0).unwrap();
    for client in [&mut tool, &mut producer] {
        assert_eq!(text(&client.event_of(EVENT_BUFFER_FREE).name), "rw/x");
    }
    assert_eq!(tool.revoke("rw/x", 0), Err(Status::ENOENT));
}

#[test]
fn it_goes_on_when_its_owner_goes() {
    let daemon = Daemon::start(CONFIG);
    let idle = daemon.idle(3);
    let mut producer = Client::connect(&daemon);
    let memory = producer.share("rw/x", 1, SIZED);
    memory.write(0, b"secret");
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let handle = vm.open("rw/x", READ_WRITE);
    let at = vm.map(handle, 0, PAGE, READ_WRITE).unwrap();
    producer.revoke("rw/x", 100).unwrap();
    drop(producer);
    gone(&daemon, &vm, at.window_offset.get());
    daemon.until("it is erased", || memory.read(0, 6) == [0; 6]);
    drop(vm);
    daemon.returns_to(idle);
}

#[test]
fn sealed_memory_is_refused() {
    let daemon = Daemon::start(CONFIG);
    let mut producer = Client::connect(&daemon);
    let slots = producer.fill_pool();
    slots[0].write(0, b"frame");
    assert_eq!(producer.revoke("cam/0", 0), Err(Status::EOPNOTSUPP));
    let _sealed = producer.share("ro/x", 1, SEALED);
    assert_eq!(producer.revoke("ro/x", 0), Err(Status::EOPNOTSUPP));
    assert_eq!(slots[0].read(0, 5), b"frame");
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    assert_eq!(
        vm.names(),
        ["cam/0", "cam/1", "ro/x"],
        "nothing has changed"
    );
}

#[test]
fn a_stream_is_taken_from_its_consumers() {
    let grant = "[[vm.grant]]\nstream = \"t/*\"\naccess = \"read-only\"\nenforcement = \"vmm\"\n";
    let at = CONFIG.find("[[vm]]\nname = \"b\"").unwrap();
    let daemon = Daemon::start(&format!("{}{grant}\n{}", &CONFIG[..at], &CONFIG[at..]));
    let mut producer = Client::connect(&daemon);
    let created = producer.call(OpCode::StreamCreate, &stream_create_body("t/s"));
    let created = StreamCreateReply::read_from_bytes(&created.unwrap()).unwrap();
    let stream = created.stream;
    let mut memory = Vec::new();
    for _ in 0..2 {
        let (reply, fd) = producer.alloc("plain", PAGE).unwrap();
        let add = StreamAddRequest {
            stream,
            handle: reply.handle,
        };
        producer.call(OpCode::StreamAdd, &add).unwrap();
        let region = map(&File::from(fd), 0, PAGE, true).unwrap();
        memory.push(region);
    }
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    (0..8).for_each(|index| vm.offer_event(index, ROOM));
    let open = crate::message::stream_open_body("t/s", MODE_LATEST, 0);
    let end = vm.call(OpCode::StreamOpen, &open).unwrap();
    let end = StreamOpenReply::read_from_bytes(&end).unwrap().stream;
    let buffer = StreamBufferRequest {
        stream: end,
        index: 1.into(),
        enforcement: 0.into(),
    };
    let open = vm.call(OpCode::StreamBuffer, &buffer).unwrap();
    let open = OpenReply::read_from_bytes(&open).unwrap();
    let map = vm.map(open.handle.get(), 0, PAGE, READ_ONLY).unwrap();
    let revoke = StreamRevokeRequest {
        stream,
        deadline_ms: 100.into(),
        reserved: 0.into(),
    };
    producer.call(OpCode::StreamRevoke, &revoke).unwrap();
    let mut kinds = [0; 2];
    kinds.fill_with(|| {
        loop {
            let event = Event::read_from_bytes(&vm.wait_event()).unwrap();
            if [EVENT_BUFFER_REVOKED, EVENT_STREAM_WITHDRAWN].contains(&event.kind.get()) {
                return event.kind.get();
            }
        }
    });
    kinds.sort_unstable();
    assert_eq!(kinds, [EVENT_BUFFER_REVOKED, EVENT_STREAM_WITHDRAWN]);
    gone(&daemon, &vm, map.window_offset.get());
    for _ in 0..2 {
        assert_eq!(producer.event_of(EVENT_BUFFER_FREE).value.get(), 0);
    }
    let buffer = vm.call(OpCode::StreamBuffer, &buffer);
    assert_eq!(buffer.unwrap_err(), Status::ESTALE);
}

#[test]
pub fn a_hundred_revocations_leave_nothing() {
    let daemon = Daemon::start(CONFIG);
    let mut producer = Client::connect(&daemon);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    assert_eq!(vm.info().handles.get(), 0);
    let mut before = None;
    for round in 0..100 {
        let (reply, fd) = producer.alloc("plain", PAGE).unwrap();
        drop(fd);
        let own = reply.handle.get();
        producer.publish(own, "rw/x", 0).unwrap();
        let handle = vm.open("rw/x", READ_WRITE);
        let map = vm.map(handle, 0, PAGE, READ_WRITE).unwrap();
        producer.revoke("rw/x", round % 3).unwrap();
        let at = map.window_offset.get();
        match round % 4 {
            // A reset in the middle, the end of everything, or as it should be.
            0 => vm.reset(),
            1 => {
                let sent = vm.send(
                    &request(
                        OpCode::Map.to_wire(),
                        5,
                        &map_body(handle, 0, PAGE, READ_WRITE),
                    ),
                    0x2000,
                );
                let _ = vm.wait(sent);
                vm.reset();
            }
            _ => {
                gone(&daemon, &vm, at);
                vm.unmap(map.mapping.get()).unwrap();
                vm.close(handle).unwrap();
            }
        }
        producer.event_of(EVENT_BUFFER_FREE);
        producer.close(own).unwrap();
        if round == 20 {
            // After the reset: a relay is connected again.
            assert_eq!(vm.info().handles.get(), 0);
            before = Some(daemon.idle(3));
        }
    }
    daemon.returns_to(before.unwrap());
    assert_eq!((vm.info().handles.get(), vm.info().mappings.get()), (0, 0));
}
