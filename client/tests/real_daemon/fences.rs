// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Waits, brackets and releases of host processes: on memfds, which have no fences, and on real dma-bufs.

use crate::daemon::Daemon;
use crate::library::refused;
use dmabuf_client::{
    Access, Client, Event, EventKind, FenceState, FenceUsage, Status, SyncDirection,
};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use std::os::fd::AsFd;
use std::time::Duration;

const READ: SyncDirection = SyncDirection::Read;

fn released(client: &mut Client) -> Event {
    loop {
        match client.next_event().unwrap() {
            Some(event) if matches!(event.kind, EventKind::Released { .. }) => return event,
            Some(_) => {}
            None => crate::daemon::wait_for_input(client),
        }
    }
}

#[test]
fn memory_without_fences_is_ready_at_once() {
    let daemon = Daemon::start();
    let (mut producer, mut consumer) = (daemon.connect(), daemon.connect());
    let own = memfd_create("own", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&own, 4096).unwrap();
    fcntl_add_seals(&own, SealFlags::SHRINK).unwrap();
    producer.import("t/rw/x", own.as_fd(), None, false).unwrap();
    let alias = consumer.open("t/rw/x", Access::ReadWrite).unwrap();
    for usage in [FenceUsage::Read, FenceUsage::Write] {
        let wait = consumer.fence_wait(&alias, usage, Duration::ZERO).unwrap();
        let waited = consumer.finish_wait(&wait).unwrap();
        assert!(waited.no_dma_buf && waited.signalled_at.is_none());
        assert!(!consumer.cancel_wait(&wait).unwrap());
        let state = consumer.fence_state(&alias, usage).unwrap();
        assert_eq!(state, FenceState::Signalled);
    }
    refused(consumer.sync_end(&alias, READ), Status::EINVAL);
    assert_eq!(consumer.sync_start(&alias, READ).unwrap(), 1);
    assert_eq!(consumer.sync_end(&alias, READ).unwrap(), 0);
    let hold = consumer.hold(&alias, FenceUsage::Read, Duration::ZERO);
    refused(hold, Status::EACCES);
    consumer.release(&alias, 4711).unwrap();
    let event = released(&mut producer);
    assert_eq!(event.kind, EventKind::Released { value: 4711 });
    assert_eq!(event.name.unwrap().as_str(), "t/rw/x");
    assert_eq!(event.buffer, alias.info().id);
}

#[test]
#[ignore = "needs /dev/dma_heap/system and /dev/udmabuf"]
fn aliases_of_dma_bufs_are_waited_for_and_bracketed() {
    let daemon = Daemon::start_with_heaps();
    let (mut producer, mut consumer) = (daemon.connect(), daemon.connect());
    let slot = producer.alloc("camera", 1).unwrap();
    producer.publish(&slot, "t/0", None, false).unwrap();
    let buffer = producer.alloc("system", 4096).unwrap();
    producer.publish(&buffer, "t/rw/0", None, false).unwrap();
    for (name, access) in [("t/0", Access::ReadOnly), ("t/rw/0", Access::ReadWrite)] {
        let alias = consumer.open(name, access).unwrap();
        let mut wait = |usage| {
            let wait = consumer.fence_wait(&alias, usage, Duration::ZERO).unwrap();
            consumer.finish_wait(&wait)
        };
        let waited = wait(FenceUsage::Read).unwrap();
        assert_eq!((waited.no_dma_buf, waited.fences), (false, 0), "{name}");
        if access == Access::ReadOnly {
            refused(wait(FenceUsage::Write), Status::EACCES);
            let write = consumer.sync_start(&alias, SyncDirection::Write);
            refused(write, Status::EACCES);
        }
        assert_eq!(consumer.sync_start(&alias, READ).unwrap(), 1);
        assert_eq!(consumer.sync_start(&alias, READ).unwrap(), 2);
        assert_eq!(consumer.sync_end(&alias, READ).unwrap(), 1);
    }
}
