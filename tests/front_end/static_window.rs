// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The static window: a sealed pool that a VMM maps by its link.

use crate::client::{Client, Shared, map, read};
use crate::daemon::{CONFIG, Daemon};
use crate::message::{PAGE, Peer, READ_ONLY, READ_WRITE};
use crate::vmm::FrontEnd;
use crate::window::Answer;
use dmabuf_protocol::config::{WINDOW_MAGIC, WindowHeader};
use dmabuf_protocol::{Status, VERSION};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use zerocopy::FromBytes;

const UUID: [u8; 16] = [
    0x5f, 0x0c, 0x1f, 0x6e, 0x93, 0xa1, 0x4f, 0x0e, 0x8f, 0x5a, 0x0d, 0x5b, 0x2c, 0x1a, 0x7e, 0x10,
];

/// Bytes that are different on every page.
fn picture(seed: u8) -> Vec<u8> {
    (0..0x1_0000u32)
        .map(|i| seed ^ (i >> 12) as u8 ^ (i % 251) as u8)
        .collect()
}

/// A daemon whose pool has two slots with pictures in them.
fn with_pool() -> (Daemon, Client, Vec<Shared>) {
    let daemon = Daemon::start(CONFIG);
    let mut producer = Client::connect(&daemon);
    let slots = producer.fill_pool();
    slots[0].write(0, &picture(1));
    slots[1].write(0, &picture(2));
    (daemon, producer, slots)
}

#[test]
pub fn map_tells_where_the_bytes_are() {
    let (daemon, _producer, slots) = with_pool();
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::IgnoresReadOnly);
    let link = File::open(daemon.file("cam.pool")).unwrap();
    let size = link.metadata().unwrap().len();
    assert!(size.is_power_of_two());
    let window = map(&link, 0, size, false).unwrap();

    let header = WindowHeader::read_from_bytes(&read(&window, 0, 64)).unwrap();
    assert_eq!(
        (header.magic, header.version.get()),
        (WINDOW_MAGIC, VERSION)
    );
    assert_eq!((header.uuid, header.size.get()), (UUID, size));
    assert_eq!((header.slots.get(), header.slot_size.get()), (2, 0x1_0000));
    assert_eq!(vm.config.uuid, UUID);

    for (name, seed) in [("cam/0", 1), ("cam/1", 2)] {
        let open = vm.try_open(name, READ_ONLY, 0).unwrap();
        assert_eq!(
            (open.buffer.flags.get(), open.buffer.enforcement.get()),
            (1, 4)
        );
        let handle = open.handle.get();
        let whole = vm.map(handle, 0, 0x1_0000, READ_ONLY).unwrap();
        assert_eq!((whole.window.get(), whole.uuid), (1, UUID));
        assert_eq!(
            (whole.access.get(), whole.enforcement.get()),
            (READ_ONLY, 4)
        );
        assert_eq!((whole.length.get(), whole.caching.get()), (0x1_0000, 1));
        assert_eq!(
            read(&window, whole.window_offset.get(), 0x1_0000),
            picture(seed)
        );
        let part = vm.map(handle, 3 * PAGE, PAGE, READ_ONLY).unwrap();
        let at = part.window_offset.get();
        assert_eq!(read(&window, at, 4096), picture(seed)[3 * 4096..4 * 4096]);

        assert_eq!(vm.close(handle).unwrap_err(), Status::EBUSY);
        vm.unmap(whole.mapping.get()).unwrap();
        assert_eq!(vm.unmap(whole.mapping.get()).unwrap_err(), Status::ESTALE);
        assert_eq!(vm.close(handle).unwrap_err(), Status::EBUSY);
        vm.unmap(part.mapping.get()).unwrap();
        vm.close(handle).unwrap();
    }
    // It is the same memory, not a copy of it.
    slots[0].write(100, b"later");
    let first = header.first_slot.get();
    assert_eq!(read(&window, first + 100, 5), b"later");
    assert!(
        vm.window.seen().is_empty(),
        "the front-end has nothing to do with it"
    );
}

#[test]
pub fn nobody_can_write_through_the_link() {
    let (daemon, _producer, slots) = with_pool();
    let link = daemon.file("cam.pool");
    let read_only = File::open(&link).unwrap();
    assert_eq!(
        map(&read_only, 0, 0x1_0000, true).unwrap_err(),
        Errno::ACCESS
    );
    // Whoever may open the file may open it for writing, and gains nothing.
    let writable = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&link)
        .unwrap();
    for file in [&writable, &slots[0].file, &slots[1].file] {
        assert_eq!(map(file, 0, 0x1_0000, true).unwrap_err(), Errno::PERM);
        let errno = file.write_at(b"x", 4096).unwrap_err();
        assert_eq!(Errno::from_io_error(&errno), Some(Errno::PERM));
        assert!(file.set_len(0).is_err());
        assert!(file.set_len(1 << 30).is_err());
        let more = rustix::fs::fcntl_add_seals(file, rustix::fs::SealFlags::WRITE);
        assert_eq!(more, Err(Errno::PERM), "the seals are final");
    }
    assert_eq!(slots[0].read(0, 0x1_0000), picture(1));
    // The producer's mapping, made before the seal, still writes.
    slots[0].write(0, b"new");
    let window = map(&read_only, 4096, 4096, false).unwrap();
    assert_eq!(read(&window, 0, 3), b"new");
}

#[test]
pub fn map_refuses_what_is_wrong() {
    let (daemon, _producer, _slots) = with_pool();
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let handle = vm.open("cam/0", READ_ONLY);
    let end = 0x1_0000;
    for (offset, length) in [
        (0, 0),
        (0, 1),
        (0, PAGE - 1),
        (1, PAGE),
        (PAGE / 2, PAGE),
        (0, end + PAGE),
        (PAGE, end),
        (end, PAGE),
        (end - PAGE, 2 * PAGE),
        (0, 1 << 63),
        (1 << 63, 1 << 63),
        (u64::MAX - PAGE + 1, PAGE),
        (PAGE, u64::MAX - PAGE + 1),
        (u64::MAX - PAGE + 1, u64::MAX - PAGE + 1),
    ] {
        let refused = vm.map(handle, offset, length, READ_ONLY).unwrap_err();
        assert_eq!(refused, Status::EINVAL, "{offset:#x} + {length:#x}");
    }
    assert_eq!(
        vm.map(handle, 0, PAGE, READ_WRITE).unwrap_err(),
        Status::EACCES
    );
    assert_eq!(
        vm.try_open("cam/0", READ_WRITE, 0).unwrap_err(),
        Status::EACCES
    );
    assert_eq!(vm.map(0, 0, PAGE, READ_ONLY).unwrap_err(), Status::ESTALE);
    assert_eq!(vm.info().mappings.get(), 0);
    vm.close(handle).unwrap();
}

#[test]
pub fn a_pool_appears_with_its_last_slot() {
    let daemon = Daemon::start(CONFIG);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let mut producer = Client::connect(&daemon);
    let (first, _fd) = producer.alloc("cam", PAGE).unwrap();
    let (second, _fd) = producer.alloc("cam", 0x1_0000).unwrap();
    assert_eq!(producer.alloc("cam", PAGE).unwrap_err(), Status::EBUSY);
    producer.publish(first.handle.get(), "cam/0", 0).unwrap();
    assert!(vm.names().is_empty());
    assert!(producer.names().is_empty());
    assert!(
        vm.try_open("cam/0", READ_ONLY, 0).is_err(),
        "it could still be written to"
    );
    assert!(!daemon.file("cam.pool").exists());
    producer.publish(second.handle.get(), "cam/1", 0).unwrap();
    assert_eq!(vm.names(), ["cam/0", "cam/1"]);
    assert!(daemon.file("cam.pool").exists());
    daemon.logged(&["pool \"cam\"", "sealed"]);
    // Slots of a memfd pool are used once.
    let handle = vm.open("cam/0", READ_ONLY);
    drop(producer);
    daemon.until("the slots are withdrawn", || vm.names().is_empty());
    assert!(
        vm.map(handle, 0, PAGE, READ_ONLY).is_ok(),
        "an open handle stays good"
    );
    let mut producer = Client::connect(&daemon);
    assert_eq!(producer.alloc("cam", PAGE).unwrap_err(), Status::EBUSY);
}

#[test]
pub fn a_vm_without_the_pool_has_no_window_for_it() {
    let config = CONFIG.replace(
        "socket-path = \"{dir}/blind.sock\"\n",
        "socket-path = \"{dir}/blind.sock\"\n[[vm.grant]]\npool = \"cam\"\naccess = \"read-only\"\n",
    );
    let daemon = Daemon::start(&config);
    let mut producer = Client::connect(&daemon);
    let _slots = producer.fill_pool();
    let mut vm = FrontEnd::connect(&daemon, "blind", Answer::Honours);
    let open = vm.try_open("cam/0", READ_ONLY, 0).unwrap();
    assert_eq!(open.buffer.flags.get(), 0);
    let refused = vm.map(open.handle.get(), 0, PAGE, READ_ONLY).unwrap_err();
    assert_eq!(refused, Status::ENODEV);
    vm.close(open.handle.get()).unwrap();
}
