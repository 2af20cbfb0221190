// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest memory that changes: the front-end replaces its table while requests are on their way.

use crate::client::Client;
use crate::daemon::{CONFIG, Daemon};
use crate::guest::{RAM, RAM_SIZE, memory};
use crate::message::{PAGE, Peer, READ_WRITE, map_body, request};
use crate::vmm::FrontEnd;
use crate::window::{Answer, ram_region};
use dmabuf_protocol::{OpCode, Status};
use rustix::fs::SealFlags;
use std::os::fd::AsRawFd;
use std::time::Duration;
use vhost::vhost_user::VhostUserFrontend;
use vhost::{VhostBackend, VhostUserMemoryRegionInfo};

const SIZED: SealFlags = SealFlags::SHRINK;

#[test]
pub fn memory_that_vanishes_under_a_request() {
    let daemon = Daemon::start(CONFIG);
    let mut producer = Client::connect(&daemon);
    producer.share("rw/x", 1, SIZED);
    let idle = daemon.idle(3);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let mut other = FrontEnd::connect(&daemon, "b", Answer::Honours);
    let handle = vm.open("rw/x", READ_WRITE);
    let map = vm.map(handle, 0, PAGE, READ_WRITE).unwrap();
    let before = vm.window.seen().len();
    vm.window.answer(Answer::Silent);
    let map_request = request(
        OpCode::Map.to_wire(),
        1,
        &map_body(handle, 0, PAGE, READ_WRITE),
    );
    vm.send(&map_request, 256);
    vm.window.wait_seen(before + 1);
    // The table has something else, elsewhere.
    let (_memory, file) = memory();
    let elsewhere = VhostUserMemoryRegionInfo {
        guest_phys_addr: 1 << 40,
        ..ram_region(&file)
    };
    vm.frontend.set_mem_table(&[elsewhere]).unwrap();
    vm.window.answer(Answer::Honours);
    daemon.logged(&["peer a", "queue 0 is stopped"]);
    assert_eq!(other.info().handles.get(), 0);
    assert!(
        vm.rings[0].take_used().is_none(),
        "nothing is written to memory that is gone"
    );
    // The old table again, and a reset: it goes on.
    vm.frontend.set_mem_table(&[ram_region(&vm.ram)]).unwrap();
    vm.reset();
    assert_eq!(vm.info().handles.get(), 0);
    assert_eq!(vm.unmap(map.mapping.get()).unwrap_err(), Status::ESTALE);
    drop((vm, other));
    daemon.returns_to(idle);
}

#[test]
pub fn memory_is_hot_plugged_and_unplugged() {
    let daemon = Daemon::start(CONFIG);
    let idle = daemon.idle(3);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    assert!(vm.frontend.get_max_mem_slots().unwrap() > 8);
    let (_memory, file) = memory();
    for _ in 0..20 {
        let plugged = VhostUserMemoryRegionInfo {
            guest_phys_addr: RAM + RAM_SIZE,
            userspace_addr: 0x7200_0000_0000,
            ..ram_region(&file)
        };
        vm.frontend.add_mem_region(&plugged).unwrap();
        assert_eq!(vm.info().handles.get(), 0);
        vm.frontend.remove_mem_region(&plugged).unwrap();
        assert_eq!(vm.info().handles.get(), 0);
        vm.frontend.set_mem_table(&[ram_region(&vm.ram)]).unwrap();
    }
    drop(vm);
    daemon.returns_to(idle);
}

#[test]
pub fn memory_tables_that_make_no_sense_end_the_connection() {
    let daemon = Daemon::start(CONFIG);
    let mut producer = Client::connect(&daemon);
    let slots = producer.fill_pool();
    let idle = daemon.idle(3);
    let null = std::fs::File::open("/dev/null").unwrap();
    let tables: [(&str, u64, u64, i32); 4] = [
        ("sealed memory", RAM, RAM_SIZE, slots[0].file.as_raw_fd()),
        ("no memory", RAM, RAM_SIZE, null.as_raw_fd()),
        ("more than there can be", RAM, 1 << 62, -1),
        ("around the end", u64::MAX - PAGE, RAM_SIZE, -1),
    ];
    for (what, guest_phys_addr, memory_size, fd) in tables {
        let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
        assert_eq!(vm.info().handles.get(), 0);
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr,
            memory_size,
            mmap_handle: if fd < 0 { vm.ram.as_raw_fd() } else { fd },
            ..ram_region(&vm.ram)
        };
        let result = vm.frontend.set_mem_table(&[region]);
        assert!(result.is_err(), "{what}");
        assert!(vm.is_ended(Duration::from_secs(10)), "{what}");
        drop(vm);
        daemon.returns_to(idle);
    }
    // Two regions over each other.
    let vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let region = ram_region(&vm.ram);
    assert!(vm.frontend.set_mem_table(&[region, region]).is_err());
    drop(vm);
    daemon.returns_to(idle);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    assert_eq!(vm.info().handles.get(), 0);
}

#[test]
pub fn queues_where_no_memory_is() {
    let daemon = Daemon::start(CONFIG);
    let idle = daemon.idle(3);
    let spoil: [fn(&mut crate::guest::Ring); 4] = [
        |ring| ring.descriptors = RAM + RAM_SIZE,
        |ring| ring.available = 0,
        |ring| ring.used = u64::MAX - 7,
        |ring| ring.descriptors += 8,
    ];
    for spoil in spoil {
        let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
        vm.stop();
        spoil(&mut vm.rings[0]);
        assert!(vm.start_queue(0, 0).is_err());
        drop(vm);
        daemon.returns_to(idle);
    }
    // Sizes that no queue has.
    for size in [0, 3, 32769] {
        let vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
        let accepted = vm.frontend.set_vring_num(0, size).is_ok();
        assert!(!accepted || size == 3, "{size}");
        drop(vm);
        daemon.returns_to(idle);
    }
}

#[test]
pub fn memory_that_is_truncated_stops_its_own_vm_only() {
    let daemon = Daemon::start(CONFIG);
    let idle = daemon.idle(3);
    let mut other = FrontEnd::connect(&daemon, "b", Answer::Honours);
    for _ in 0..3 {
        let vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
        // From here on the test doesn't touch that memory, either.
        vm.ram.set_len(0).unwrap();
        vm.rings[0].kick();
        daemon.logged(&["peer a", "guest memory was truncated"]);
        assert_eq!(other.info().handles.get(), 0, "others are served");
        drop(vm);
    }
    let mut next = FrontEnd::connect(&daemon, "a", Answer::Honours);
    assert_eq!(next.info().handles.get(), 0);
    drop((next, other));
    daemon.returns_to(idle);
}
