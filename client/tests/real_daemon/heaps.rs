// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Real dma-bufs, from heaps that not every machine has. Run with `--ignored` where /dev/dma_heap/system and
//! /dev/udmabuf are.

use crate::daemon::{Daemon, LIMIT};
use crate::library::refused;
use dmabuf_client::{Access, Alias, Enforcement, HeapKind, Status};
use std::os::fd::AsFd;

fn write(alias: &Alias, bytes: &[u8]) {
    let mut mapping = alias.map_mut().unwrap();
    let _access = alias.begin_cpu_access(Access::ReadWrite, LIMIT).unwrap();
    mapping.write(5, bytes).unwrap();
}

fn read<const N: usize>(alias: &Alias) -> [u8; N] {
    let mapping = alias.map().unwrap();
    let _access = alias.begin_cpu_access(Access::ReadOnly, LIMIT).unwrap();
    let mut bytes = [0; N];
    mapping.read(5, &mut bytes).unwrap();
    bytes
}

#[test]
#[ignore = "needs /dev/dma_heap/system and /dev/udmabuf"]
fn slots_of_a_sealed_pool_are_dma_bufs_for_their_producer_only() {
    let daemon = Daemon::start_with_heaps();
    let (mut producer, mut consumer) = (daemon.connect(), daemon.connect());
    let slot = producer.alloc("camera", 1).unwrap();
    assert!(slot.is_dma_buf());
    assert_eq!((slot.fd_offset(), slot.info().heap), (0, HeapKind::Udmabuf));
    producer.publish(&slot, "t/0", None, false).unwrap();
    let alias = consumer.open("t/0", Access::ReadOnly).unwrap();
    assert!(!alias.is_dma_buf());
    assert_eq!(alias.info().enforcement, Enforcement::Sealed);
    write(&slot, b"frame");
    assert_eq!(&read::<5>(&alias), b"frame");
    let (mapped, upgraded) = alias.probe_write().unwrap();
    assert!(
        mapped.is_some() && upgraded.is_some(),
        "{mapped:?} {upgraded:?}"
    );
    refused(consumer.open("t/0", Access::ReadWrite), Status::EACCES);
}

#[test]
#[ignore = "needs /dev/dma_heap/system and /dev/udmabuf"]
fn used_slots_come_back_empty() {
    let daemon = Daemon::start_with_heaps();
    for round in 0..10 {
        let mut client = daemon.connect();
        let slots = [0, 1].map(|_| client.alloc("camera", 65536).unwrap());
        refused(client.alloc("camera", 1), Status::EBUSY);
        for slot in &slots {
            assert_eq!(&read::<6>(slot), &[0; 6], "round {round}");
            write(slot, b"secret");
        }
        let held = slots.each_ref().map(|slot| slot.map().unwrap());
        let numbers = slots.map(|slot| client.close(slot.into_alias()));
        assert!(numbers.iter().all(Result::is_ok));
        refused(client.alloc("camera", 1), Status::EBUSY);
        assert_eq!(
            held[0].crc32(5, 6).unwrap(),
            crc32fast::hash(b"secret"),
            "nobody else got it"
        );
        drop(held);
        let again = client.alloc("camera", 1).unwrap();
        // Before the next round's connection, which the daemon may serve before it notices that this one has ended.
        client.close(again.into_alias()).unwrap();
    }
}

#[test]
#[ignore = "needs /dev/dma_heap/system and /dev/udmabuf"]
fn a_dma_heap_buffer_is_never_handed_out_read_only() {
    let daemon = Daemon::start_with_heaps();
    let (mut producer, mut consumer) = (daemon.connect(), daemon.connect());
    let buffer = producer.alloc("system", 5000).unwrap();
    assert_eq!(
        (buffer.info().size, buffer.info().heap),
        (8192, HeapKind::DmaHeap)
    );
    producer.publish(&buffer, "t/rw/0", None, false).unwrap();
    refused(consumer.open("t/rw/0", Access::ReadOnly), Status::EACCES);
    let alias = consumer.open("t/rw/0", Access::ReadWrite).unwrap();
    assert!(alias.is_dma_buf());
    write(&alias, b"shared");
    assert_eq!(&read::<6>(&buffer), b"shared");
    let hidden = producer.alloc("system", 4096).unwrap();
    producer.publish(&hidden, "t/ro", None, false).unwrap();
    refused(consumer.open("t/ro", Access::ReadOnly), Status::EACCES);
    let listed = consumer.list().unwrap();
    assert_eq!(
        listed.len(),
        1,
        "what can't be opened isn't listed: {listed:?}"
    );
}

#[test]
#[ignore = "needs /dev/dma_heap/system and /dev/udmabuf"]
fn a_dma_buf_of_its_own_is_imported() {
    let daemon = Daemon::start_with_heaps();
    let (mut producer, mut consumer) = (daemon.connect(), daemon.connect());
    let source = producer.alloc("system", 4096).unwrap();
    let imported = producer
        .import("t/rw/in", source.as_fd(), None, false)
        .unwrap();
    assert!(imported.is_dma_buf());
    assert_eq!(imported.info().heap, HeapKind::Imported);
    producer.close(source.into_alias()).unwrap();
    let alias = consumer.open("t/rw/in", Access::ReadWrite).unwrap();
    drop(producer);
    write(&alias, b"lives on");
    assert_eq!(&read::<8>(&imported), b"lives on");
    refused(consumer.open("t/rw/in", Access::ReadWrite), Status::ENOENT);
}
