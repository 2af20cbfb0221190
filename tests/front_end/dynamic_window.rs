// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The dynamic window: what the front-end is asked, what the guest sees then, and how it ends.

use crate::client::{Client, SEALED};
use crate::daemon::{CONFIG, Daemon};
use crate::message::{PAGE, Peer, READ_ONLY, READ_WRITE};
use crate::vmm::{FrontEnd, Manners};
use crate::window::{Answer, Seen};
use dmabuf_protocol::Status;
use rustix::fs::SealFlags;

const SIZED: SealFlags = SealFlags::SHRINK;

/// Where VM `a` is probed: the last page of its window.
const PROBED: u64 = (1 << 20) - PAGE;

/// Nothing that could be written to was ever sent with the flag "read-only".
fn assert_no_hole(seen: &[Seen]) {
    let holes: Vec<_> = seen
        .iter()
        .filter(|request| request.map && !request.writable && request.could_write)
        .collect();
    assert!(
        holes.is_empty(),
        "a writable fd was sent as read-only: {holes:?}"
    );
}

#[test]
pub fn both_sides_write_to_the_same_memory() {
    let daemon = Daemon::start(CONFIG);
    let idle = daemon.idle(3);
    let mut producer = Client::connect(&daemon);
    let memory = producer.share("rw/x", 4, SIZED);
    // As QEMU does it, the memory table comes back before the answer.
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::ListsWindow);
    let handle = vm.open("rw/x", READ_WRITE);
    let map = vm.map(handle, 0, 4 * PAGE, READ_WRITE).unwrap();
    assert_eq!((map.window.get(), map.uuid), (0, [0; 16]));
    assert_eq!((map.access.get(), map.enforcement.get()), (READ_WRITE, 0));
    assert_eq!(
        (map.length.get(), map.caching.get(), map.reserved.get()),
        (4 * PAGE, 1, 0)
    );
    let at = map.window_offset.get();
    vm.window.write(at, 5000, b"from the guest");
    assert_eq!(memory.read(5000, 14), b"from the guest");
    memory.write(3 * PAGE, b"from the host");
    assert_eq!(vm.window.read(at, 3 * PAGE, 13), b"from the host");

    // A part of it, a second time, elsewhere.
    let part = vm.map(handle, PAGE, 2 * PAGE, READ_WRITE).unwrap();
    let elsewhere = part.window_offset.get();
    let asked = vm.window.seen().into_iter().rfind(|request| request.done);
    let asked = asked.unwrap();
    assert!(asked.map && asked.writable);
    assert_eq!(
        (asked.window_offset, asked.fd_offset, asked.length),
        (elsewhere, PAGE, 2 * PAGE)
    );
    assert!(elsewhere >= at + 4 * PAGE);
    assert_eq!(
        vm.window.read(elsewhere, 5000 - PAGE, 14),
        b"from the guest"
    );
    let (_, other) = (vm.close(handle).unwrap_err(), part.mapping.get());
    vm.unmap(other).unwrap();
    assert_eq!(vm.window.mapped(), [at]);
    assert_eq!(vm.unmap(other).unwrap_err(), Status::ESTALE);
    assert_eq!(vm.close(handle).unwrap_err(), Status::EBUSY);
    // The range is free again.
    let again = vm.map(handle, 0, 2 * PAGE, READ_WRITE).unwrap();
    assert_eq!(again.window_offset.get(), elsewhere);
    vm.unmap(again.mapping.get()).unwrap();
    vm.unmap(map.mapping.get()).unwrap();
    assert!(vm.window.mapped().is_empty());
    vm.close(handle).unwrap();
    assert_eq!((vm.info().handles.get(), vm.info().mappings.get()), (0, 0));
    assert_no_hole(&vm.window.seen());
    producer.withdraw("rw/x").unwrap();
    drop((vm, producer));
    daemon.returns_to(idle);
}

#[test]
pub fn a_front_end_that_honours_read_only_passes_the_probe() {
    let daemon = Daemon::start(CONFIG);
    let mut producer = Client::connect(&daemon);
    let sealed = producer.share("ro/x", 2, SEALED);
    let unsealed = producer.share("vmm/x", 2, SIZED);
    let writable = producer.share("rw/x", 2, SIZED);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let read_only = vm.open("ro/x", READ_ONLY);
    for (name, memory, enforcement) in [
        ("ro/x", &sealed, 4),
        ("vmm/x", &unsealed, 1),
        ("rw/x", &writable, 1),
    ] {
        memory.write(PAGE, name.as_bytes());
        let access = if enforcement == 1 && name == "rw/x" {
            READ_WRITE
        } else {
            READ_ONLY
        };
        let handle = vm.open(name, access);
        let map = vm.map(handle, PAGE, PAGE, READ_ONLY).unwrap();
        assert_eq!(
            (map.window.get(), map.enforcement.get()),
            (0, enforcement),
            "{name}"
        );
        let at = map.window_offset.get();
        assert!(!vm.window.is_writable(at));
        assert_eq!(vm.window.read(at, 0, 4), name.as_bytes()[..4]);
    }
    assert_eq!(vm.info().probe.get(), 1);
    daemon.logged(&["honours read-only"]);
    let seen = vm.window.seen();
    let probe = &seen[0];
    assert!(probe.map && !probe.writable && probe.done);
    assert_eq!((probe.window_offset, probe.length), (PROBED, PAGE));
    assert!(
        !seen[1].map && seen[1].window_offset == PROBED,
        "the probe is undone"
    );
    assert_eq!(
        seen.iter()
            .filter(|request| request.window_offset == PROBED)
            .count(),
        2,
        "once"
    );
    assert_no_hole(&seen);
    assert_eq!(
        vm.map(read_only, 0, PAGE, READ_WRITE).unwrap_err(),
        Status::EACCES
    );
}

#[test]
pub fn a_front_end_that_ignores_read_only_fails_the_probe() {
    let daemon = Daemon::start(CONFIG);
    let mut producer = Client::connect(&daemon);
    let _memory = [
        producer.share("ro/x", 2, SEALED),
        producer.share("vmm/x", 2, SIZED),
        producer.share("rw/x", 2, SIZED),
    ];
    let _slots = producer.fill_pool();
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::IgnoresReadOnly);
    for (name, access) in [
        ("ro/x", READ_ONLY),
        ("vmm/x", READ_ONLY),
        ("rw/x", READ_WRITE),
    ] {
        let handle = vm.open(name, access);
        assert_eq!(
            vm.map(handle, 0, PAGE, READ_ONLY).unwrap_err(),
            Status::EACCES,
            "{name}"
        );
        assert_eq!(vm.info().mappings.get(), 0);
    }
    assert_eq!(vm.info().probe.get(), 2);
    daemon.logged(&["does not honour read-only"]);
    daemon.logged(&[
        "peer a",
        "read-only mapping",
        "refused",
        "sealed probe",
        "static window",
    ]);
    let seen = vm.window.seen();
    assert_eq!(seen.len(), 1, "nothing but the probe was sent: {seen:?}");
    assert!(!seen[0].done && !seen[0].writable && !seen[0].could_write);

    // The static window and read-write mappings work on it.
    let slot = vm.open("cam/0", READ_ONLY);
    assert_eq!(vm.map(slot, 0, PAGE, READ_ONLY).unwrap().window.get(), 1);
    let handle = vm.open("rw/x", READ_WRITE);
    let map = vm.map(handle, 0, PAGE, READ_WRITE).unwrap();
    assert!(vm.window.is_writable(map.window_offset.get()));
    assert_no_hole(&vm.window.seen());
    assert!(vm.window.mapped() == [map.window_offset.get()]);
    // The next connection is probed anew.
    drop(vm);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let handle = vm.open("vmm/x", READ_ONLY);
    assert!(vm.map(handle, 0, PAGE, READ_ONLY).is_ok());
}

#[test]
pub fn read_write_needs_a_read_write_alias() {
    let daemon = Daemon::start(CONFIG);
    let mut producer = Client::connect(&daemon);
    let _memory = [
        producer.share("ro/x", 2, SEALED),
        producer.share("rw/x", 2, SIZED),
    ];
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let granted = vm.open("ro/x", READ_ONLY);
    let opened = vm.open("rw/x", READ_ONLY);
    let writable = vm.open("rw/x", READ_WRITE);
    let derived = vm.derive(writable, READ_ONLY, 0).unwrap().handle.get();
    for handle in [granted, opened, derived] {
        assert_eq!(
            vm.map(handle, 0, PAGE, READ_WRITE).unwrap_err(),
            Status::EACCES
        );
    }
    assert!(
        vm.window.seen().is_empty(),
        "the front-end was not even asked"
    );
    // The derived alias goes on when its parent is closed.
    vm.close(writable).unwrap();
    assert!(vm.map(derived, 0, PAGE, READ_ONLY).is_ok());
}

#[test]
pub fn a_full_window_has_room_again_after_unmap() {
    let daemon = Daemon::start(CONFIG);
    let mut producer = Client::connect(&daemon);
    let _memory = producer.share("b/x", 16, SIZED);
    let mut vm = FrontEnd::connect(&daemon, "b", Answer::Honours);
    let handle = vm.open("b/x", READ_WRITE);
    // 16 pages, less the one for the probe.
    assert_eq!(
        vm.map(handle, 0, 16 * PAGE, READ_WRITE).unwrap_err(),
        Status::ENOSPC
    );
    let mut map = |pages: u64| vm.map(handle, 0, pages * PAGE, READ_WRITE);
    let first = map(5).unwrap();
    let second = map(10).unwrap();
    assert_eq!(map(1).unwrap_err(), Status::ENOSPC);
    vm.unmap(first.mapping.get()).unwrap();
    assert_eq!(
        vm.map(handle, 0, 6 * PAGE, READ_WRITE).unwrap_err(),
        Status::ENOSPC
    );
    let third = vm.map(handle, 0, 5 * PAGE, READ_WRITE).unwrap();
    assert_eq!(third.window_offset, first.window_offset);
    assert_ne!(third.mapping, first.mapping);
    assert_eq!(vm.unmap(first.mapping.get()).unwrap_err(), Status::ESTALE);
    vm.unmap(second.mapping.get()).unwrap();
    vm.unmap(third.mapping.get()).unwrap();
    vm.close(handle).unwrap();
}

#[test]
pub fn a_vm_without_a_window() {
    let daemon = Daemon::start(CONFIG);
    let mut producer = Client::connect(&daemon);
    let _memory = [
        producer.share("ro/x", 2, SEALED),
        producer.share("rw/x", 2, SIZED),
    ];
    let mut vm = FrontEnd::connect(&daemon, "blind", Answer::Honours);
    for (name, access) in [("ro/x", READ_ONLY), ("rw/x", READ_WRITE)] {
        let handle = vm.open(name, access);
        assert_eq!(vm.map(handle, 0, PAGE, access).unwrap_err(), Status::ENODEV);
        vm.close(handle).unwrap();
    }
}

#[test]
pub fn a_front_end_that_refuses_everything() {
    let daemon = Daemon::start(CONFIG);
    let idle = daemon.idle(3);
    let mut producer = Client::connect(&daemon);
    let memory = [
        producer.share("ro/x", 2, SEALED),
        producer.share("rw/x", 100, SIZED),
    ];
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::RefusesAll);
    let (ro, rw) = (vm.open("ro/x", READ_ONLY), vm.open("rw/x", READ_WRITE));
    // More than fits: what was refused is free again.
    for _ in 0..5 {
        assert_eq!(
            vm.map(rw, 0, 100 * PAGE, READ_WRITE).unwrap_err(),
            Status::EIO
        );
        assert_eq!(vm.map(ro, 0, PAGE, READ_ONLY).unwrap_err(), Status::EACCES);
    }
    daemon.logged(&["peer a", "refused to map"]);
    assert_eq!(vm.info().mappings.get(), 0);
    vm.close(ro).unwrap();
    vm.close(rw).unwrap();
    for name in ["ro/x", "rw/x"] {
        producer.withdraw(name).unwrap();
    }
    drop((vm, producer, memory));
    daemon.returns_to(idle);
}

#[test]
pub fn a_front_end_without_a_back_end_channel() {
    let daemon = Daemon::start(CONFIG);
    let mut producer = Client::connect(&daemon);
    let _memory = producer.share("rw/x", 2, SIZED);
    let manners = Manners {
        channel: false,
        ..Manners::default()
    };
    let mut vm = FrontEnd::connect(&daemon, "a", manners);
    let handle = vm.open("rw/x", READ_WRITE);
    assert_eq!(
        vm.map(handle, 0, PAGE, READ_WRITE).unwrap_err(),
        Status::EIO
    );
    vm.close(handle).unwrap();
}

#[test]
pub fn what_the_front_end_does_not_unmap_is_never_used_again() {
    let daemon = Daemon::start(CONFIG);
    let mut producer = Client::connect(&daemon);
    let _memory = producer.share("rw/x", 2, SIZED);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::KeepsAll);
    let handle = vm.open("rw/x", READ_WRITE);
    let stuck = vm.map(handle, 0, PAGE, READ_WRITE).unwrap();
    assert_eq!(vm.unmap(stuck.mapping.get()).unwrap_err(), Status::EIO);
    assert_eq!(vm.unmap(stuck.mapping.get()).unwrap_err(), Status::ESTALE);
    assert_eq!(vm.close(handle).unwrap_err(), Status::EBUSY);
    let next = vm.map(handle, 0, PAGE, READ_WRITE).unwrap();
    assert_ne!(next.window_offset, stuck.window_offset);
    // Until a reset, which clears the window.
    vm.reset();
    vm.window.answer(Answer::Honours);
    assert_eq!(vm.info().mappings.get(), 0);
    let handle = vm.open("rw/x", READ_WRITE);
    let map = vm.map(handle, 0, PAGE, READ_WRITE).unwrap();
    assert_eq!(map.window_offset, stuck.window_offset);
}
