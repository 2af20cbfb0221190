// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Real dma-bufs, on machines that have them: udmabuf pools and dma-heaps.

use crate::client::{Client, KEEP, map, read};
use crate::daemon::{CONFIG, Daemon, require};
use crate::message::{PAGE, Peer, READ_ONLY, READ_WRITE};
use crate::vmm::FrontEnd;
use crate::window::Answer;
use dmabuf_protocol::Status;
use dmabuf_protocol::wire::{EVENT_BUFFER_FREE, FREE_SHARED};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use vm_memory::VolatileMemory;

const UDMABUF: &str = "/dev/udmabuf";
const SYSTEM: &str = "/dev/dma_heap/system";

/// The usual configuration, with the pool in udmabufs.
fn udmabuf_pool() -> String {
    CONFIG.replace(
        "kind = \"memfd\"\nslots = 2",
        "kind = \"udmabuf\"\nslots = 2",
    )
}

/// The usual configuration, with buffers from the system heap.
fn system_heap() -> String {
    CONFIG.replace(
        "name = \"plain\"\nkind = \"memfd\"",
        &format!("name = \"plain\"\nkind = \"dma-heap\"\npath = \"{SYSTEM}\""),
    )
}

#[test]
fn a_udmabuf_pool_is_sealed_and_stays_writable_for_its_producer() {
    if !require(UDMABUF) {
        return;
    }
    let daemon = Daemon::start(&udmabuf_pool());
    let idle = daemon.idle(3);
    assert!(
        daemon.file("cam.pool").exists(),
        "the pool is sealed from the start"
    );
    let mut producer = Client::connect(&daemon);
    let (reply, fd) = producer.alloc("cam", PAGE).unwrap();
    let (dma_buf, size) = (File::from(fd), reply.buffer.size.get());
    assert_eq!((reply.fd_offset.get(), reply.buffer.heap.get()), (0, 2));
    let memory = map(&dma_buf, 0, size, true).unwrap();
    producer.publish(reply.handle.get(), "cam/0", 0).unwrap();

    let mut vm = FrontEnd::connect(&daemon, "a", Answer::IgnoresReadOnly);
    let handle = vm.open("cam/0", READ_ONLY);
    let slot = vm.map(handle, 0, size, READ_ONLY).unwrap();
    assert_eq!((slot.window.get(), slot.enforcement.get()), (1, 4));
    let link = daemon.file("cam.pool");
    let window = map(
        &File::open(&link).unwrap(),
        slot.window_offset.get(),
        size,
        false,
    );
    memory.get_slice(0, 5).unwrap().copy_from(b"frame");
    assert_eq!(read(&window.unwrap(), 0, 5), b"frame");
    let writable = OpenOptions::new().read(true).write(true).open(&link);
    let refused = map(&writable.unwrap(), 0, size, true);
    assert_eq!(refused.unwrap_err(), Errno::PERM);

    // The slot is used again when nobody has it any more, and is zero then.
    drop((vm, producer, memory, dma_buf));
    daemon.returns_to(idle);
    let mut producer = Client::connect(&daemon);
    for _ in 0..2 {
        let (_, fd) = producer.alloc("cam", PAGE).unwrap();
        let memory = map(&File::from(fd), 0, size, true).unwrap();
        assert_eq!(read(&memory, 0, 5), [0; 5]);
    }
}

#[test]
fn a_dma_heap_buffer_is_shared_read_write() {
    if !require(SYSTEM) {
        return;
    }
    let daemon = Daemon::start(&system_heap());
    let idle = daemon.idle(3);
    let mut producer = Client::connect(&daemon);
    let (reply, fd) = producer.alloc("plain", 2 * PAGE).unwrap();
    assert_eq!(reply.buffer.heap.get(), 1);
    let dma_buf = File::from(fd);
    let memory = map(&dma_buf, 0, 2 * PAGE, true).unwrap();
    assert_eq!(read(&memory, 0, 8192), [0; 8192]);
    producer.publish(reply.handle.get(), "rw/x", 0).unwrap();
    // A dma-buf of a process' own is imported the same way.
    producer.import("rw/y", KEEP, &dma_buf).unwrap();
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::ListsWindow);
    for name in ["rw/x", "rw/y"] {
        let handle = vm.open(name, READ_WRITE);
        let at = vm.map(handle, 0, 2 * PAGE, READ_WRITE).unwrap();
        vm.window
            .write(at.window_offset.get(), 4096, name.as_bytes());
        assert_eq!(read(&memory, 4096, 4), name.as_bytes());
    }
    producer.withdraw("rw/y").unwrap();
    drop((vm, producer, memory, dma_buf));
    daemon.returns_to(idle);
}

/// What the kernel doesn't protect goes only to a front-end that has passed the probe.
#[test]
fn a_dma_heap_buffer_is_read_only_by_the_vmm() {
    if !require(SYSTEM) {
        return;
    }
    for answer in [Answer::Honours, Answer::IgnoresReadOnly, Answer::RefusesAll] {
        let daemon = Daemon::start(&system_heap());
        let mut producer = Client::connect(&daemon);
        let (reply, _fd) = producer.alloc("plain", PAGE).unwrap();
        producer.publish(reply.handle.get(), "vmm/x", 0).unwrap();
        let mut vm = FrontEnd::connect(&daemon, "a", answer);
        let handle = vm.open("vmm/x", READ_ONLY);
        let result = vm.map(handle, 0, PAGE, READ_ONLY);
        let seen = vm.window.seen();
        if answer == Answer::Honours {
            assert!(!vm.window.is_writable(result.unwrap().window_offset.get()));
            assert!(!seen[0].could_write, "the probe comes first");
        } else {
            assert_eq!(result.unwrap_err(), Status::EACCES);
            let sent = seen.iter().filter(|request| request.could_write).count();
            assert_eq!(sent, 0, "the dma-buf was never sent");
        }
    }
}

#[test]
fn a_revoked_slot_reads_zero_and_is_kept_until_unmap() {
    if !require(UDMABUF) {
        return;
    }
    let daemon = Daemon::start(&udmabuf_pool());
    let mut producer = Client::connect(&daemon);
    let (reply, fd) = producer.alloc("cam", PAGE).unwrap();
    let (own, size) = (reply.handle.get(), reply.buffer.size.get());
    let dma_buf = File::from(fd);
    let memory = map(&dma_buf, 0, size, true).unwrap();
    memory.get_slice(0, 5).unwrap().copy_from(b"frame");
    producer.publish(own, "cam/0", 0).unwrap();

    let mut vm = FrontEnd::connect(&daemon, "a", Answer::IgnoresReadOnly);
    let handle = vm.open("cam/0", READ_ONLY);
    let slot = vm.map(handle, 0, size, READ_ONLY).unwrap();
    let link = File::open(daemon.file("cam.pool")).unwrap();
    let window = map(&link, slot.window_offset.get(), size, false).unwrap();
    let mut process = Client::connect(&daemon);
    let opened = process.try_open("cam/0", READ_ONLY, 0).unwrap();
    let theirs = File::from(process.the_fd());
    let mapped = map(&theirs, opened.fd_offset.get(), size, false).unwrap();
    for seen in [&window, &mapped] {
        assert_eq!(read(seen, 0, 5), b"frame");
    }
    producer.revoke("cam/0", 100).unwrap();
    let free = producer.event_of(EVENT_BUFFER_FREE);
    assert_eq!(free.value.get(), FREE_SHARED, "a pool is seen as a whole");
    for seen in [&window, &mapped, &memory] {
        assert_eq!(read(seen, 0, 5), [0; 5]);
    }

    // Only the VM still has something of it.
    drop((memory, dma_buf, mapped, theirs));
    producer.close(own).unwrap();
    process.close(opened.handle.get()).unwrap();
    let other = producer.alloc("cam", PAGE).unwrap();
    assert_eq!(producer.alloc("cam", PAGE).unwrap_err(), Status::EBUSY);
    assert_eq!(vm.close(handle), Err(Status::EBUSY));
    vm.unmap(slot.mapping.get()).unwrap();
    vm.close(handle).unwrap();
    daemon.until("the slot is free", || producer.alloc("cam", PAGE).is_ok());
    drop(other);
}

#[test]
fn a_revoked_dma_buf_reads_zero_where_it_can_not_be_unmapped() {
    if !require(SYSTEM) {
        return;
    }
    let daemon = Daemon::start(&system_heap());
    let mut producer = Client::connect(&daemon);
    let (reply, fd) = producer.alloc("plain", 2 * PAGE).unwrap();
    let own = File::from(fd);
    let memory = map(&own, 0, 2 * PAGE, true).unwrap();
    memory
        .get_slice(PAGE as usize, 5)
        .unwrap()
        .copy_from(b"frame");
    producer.publish(reply.handle.get(), "rw/x", 0).unwrap();
    let mut process = Client::connect(&daemon);
    let handle = process.open("rw/x", READ_WRITE);
    let theirs = File::from(process.the_fd());
    let mapped = map(&theirs, 0, 2 * PAGE, true).unwrap();
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::ListsWindow);
    let in_vm = vm.open("rw/x", READ_WRITE);
    let mapping = vm.map(in_vm, 0, 2 * PAGE, READ_WRITE).unwrap();
    producer.revoke("rw/x", 0).unwrap();
    let free = producer.event_of(EVENT_BUFFER_FREE);
    assert_eq!(free.value.get(), FREE_SHARED, "a process has its fd");
    assert_eq!(read(&mapped, PAGE, 5), [0; 5]);
    let at = mapping.window_offset.get();
    daemon.until("it is unmapped", || !vm.window.mapped().contains(&at));
    process.close(handle).unwrap();
    vm.unmap(mapping.mapping.get()).unwrap();
    vm.close(in_vm).unwrap();
}
