// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Producers and consumers in one process, over connections of their own.

use crate::daemon::{Daemon, wait_for_input};
use dmabuf_client::picture::{Fourcc, layout};
use dmabuf_client::{
    Access, Client, Enforcement, Error, Event, EventKind, Flags, HeapKind, Name, Status, memory,
};
use std::os::fd::AsFd;

fn next_event(client: &mut Client) -> Event {
    loop {
        if let Some(event) = client.next_event().unwrap() {
            return event;
        }
        wait_for_input(client);
    }
}

fn names(client: &mut Client) -> Vec<String> {
    client
        .list()
        .unwrap()
        .iter()
        .map(|b| b.name.unwrap().to_string())
        .collect()
}

#[track_caller]
pub fn refused<T>(result: Result<T, Error>, expected: Status) {
    match result {
        Err(Error::Refused { status, .. }) => assert_eq!(status, expected),
        Err(error) => panic!("expected {expected}, got: {error}"),
        Ok(_) => panic!("expected {expected}, but it was done"),
    }
}

#[test]
fn frames_reach_a_consumer_without_a_copy_and_without_write_access() {
    let daemon = Daemon::start();
    let (mut producer, mut consumer) = (daemon.connect(), daemon.connect());
    assert_eq!(names(&mut consumer), [""; 0]);
    let slots = [0, 1].map(|_| producer.alloc("frames", 60_000).unwrap());
    let mut mappings = slots.each_ref().map(|slot| slot.map_mut().unwrap());
    assert_eq!(slots[0].info().size, 65536);
    assert_eq!(slots[0].info().heap, HeapKind::Memfd);
    refused(producer.alloc("frames", 1), Status::EBUSY);

    let format = layout(Fourcc::NV12, 160, 120, 160).unwrap();
    producer
        .publish(&slots[0], "t/0", Some(format), false)
        .unwrap();
    assert_eq!(
        names(&mut consumer),
        [""; 0],
        "hidden until the pool is sealed"
    );
    producer.publish(&slots[1], "t/1", None, false).unwrap();
    assert_eq!(names(&mut consumer), ["t/0", "t/1"]);
    for name in ["t/0", "t/1"] {
        let event = next_event(&mut consumer);
        assert_eq!(
            (event.kind, event.name.unwrap().as_str(), event.lost),
            (EventKind::Added, name, 0)
        );
    }

    let alias = consumer.open("t/0", Access::ReadOnly).unwrap();
    assert_eq!(alias.info().enforcement, Enforcement::Sealed);
    assert_eq!(alias.info().format, Some(format));
    assert_eq!(alias.fd_offset(), slots[0].fd_offset());
    let (mapped, upgraded) = alias.probe_write().unwrap();
    assert!(
        mapped.is_some() && upgraded.is_some(),
        "{mapped:?} {upgraded:?}"
    );
    let seen = alias.map().unwrap();
    assert_eq!(
        seen.crc32(0, 65536).unwrap(),
        crc32fast::hash(&[0; 65536]),
        "fresh slots are zero"
    );
    mappings[0].write(100, b"a frame").unwrap();
    mappings[1].write(100, b"another").unwrap();
    let mut bytes = [0; 7];
    seen.read(100, &mut bytes).unwrap();
    assert_eq!(&bytes, b"a frame");

    drop(producer);
    for name in ["t/0", "t/1"] {
        let event = next_event(&mut consumer);
        assert_eq!(
            (event.kind, event.name.unwrap().as_str()),
            (EventKind::Withdrawn, name)
        );
    }
    assert_eq!(names(&mut consumer), [""; 0]);
    mappings[0].write(100, b"outlive").unwrap();
    seen.read(100, &mut bytes).unwrap();
    assert_eq!(
        &bytes, b"outlive",
        "an alias outlives the producer's connection"
    );
}

#[test]
fn derived_aliases_never_have_more_access() {
    let daemon = Daemon::start();
    let mut client = daemon.connect();
    let before = client.info().unwrap();
    assert_eq!(
        (before.peer.as_str(), before.max_handles, before.handles),
        ("tester", 200, 0)
    );
    let memory = sealed_memory(&daemon, b"imported");
    let imported = client.import("t/0", memory.as_fd(), None, false).unwrap();
    let parent = client.open("t/0", Access::ReadOnly).unwrap();
    refused(client.derive(&parent, Access::ReadWrite), Status::EACCES);
    refused(
        client.derive_with(&parent, Flags(1), Enforcement::None),
        Status::EACCES,
    );
    refused(
        client.derive_with(&parent, Flags(3), Enforcement::None),
        Status::EINVAL,
    );
    let child = client.derive(&parent, Access::ReadOnly).unwrap();
    client.close(parent).unwrap();
    let mut bytes = [0; 8];
    child.map().unwrap().read(0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"imported", "a derived alias outlives its parent");
    client.close(child).unwrap();
    let mut other = daemon.connect();
    refused(other.close(imported), Status::ESTALE);
    assert_eq!(
        client.info().unwrap().handles,
        1,
        "handles are of one connection"
    );
}

#[test]
fn what_is_not_granted_is_refused() {
    let daemon = Daemon::start();
    let mut client = daemon.connect();
    let memory = sealed_memory(&daemon, b"secret");
    refused(
        client.import("other", memory.as_fd(), None, false),
        Status::EACCES,
    );
    client.import("hidden", memory.as_fd(), None, true).unwrap();
    client.import("t/0", memory.as_fd(), None, true).unwrap();
    refused(
        client.import("t/0", memory.as_fd(), None, true),
        Status::EEXIST,
    );
    assert_eq!(names(&mut client), ["t/0"]);
    refused(client.open("hidden", Access::ReadOnly), Status::EACCES);
    refused(
        client.open("no-such-name", Access::ReadOnly),
        Status::EACCES,
    );
    refused(client.open("t/absent", Access::ReadOnly), Status::ENOENT);
    refused(client.open("t/0", Access::ReadWrite), Status::EACCES);
    refused(client.withdraw("other"), Status::EACCES);
    refused(client.withdraw("t/absent"), Status::ENOENT);
    refused(client.alloc("nowhere", 4096), Status::EACCES);
    refused(client.alloc("frames", 65537), Status::EINVAL);
    let mut held = Vec::new();
    while let Ok(alias) = client.open("t/0", Access::ReadOnly) {
        held.push(alias);
    }
    assert_eq!(client.info().unwrap().handles, 200);
    refused(client.open("t/0", Access::ReadOnly), Status::EMFILE);
    client.close(held.pop().unwrap()).unwrap();
    client.open("t/0", Access::ReadOnly).unwrap();
}

#[test]
fn memory_that_can_shrink_is_not_imported() {
    let daemon = Daemon::start();
    let mut client = daemon.connect();
    let path = daemon.file("plain");
    std::fs::write(&path, [0; 4096]).unwrap();
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    refused(
        client.import("t/0", file.as_fd(), None, false),
        Status::EINVAL,
    );
    let (reader, _writer) = std::io::pipe().unwrap();
    refused(
        client.import("t/0", reader.as_fd(), None, false),
        Status::EINVAL,
    );
    assert_eq!(client.info().unwrap().handles, 0);
}

#[test]
fn many_buffers_are_listed_in_pages() {
    let daemon = Daemon::start();
    let memory = sealed_memory(&daemon, b"page");
    let mut expected = Vec::new();
    let mut client = daemon.connect();
    for number in 0..150 {
        let name = format!("t/{number}");
        client.import(&name, memory.as_fd(), None, false).unwrap();
        let gone = client
            .import("t/gone", memory.as_fd(), None, false)
            .unwrap();
        client.withdraw("t/gone").unwrap();
        client.close(gone).unwrap();
        expected.push(name);
    }
    assert_eq!(names(&mut client), expected);
    assert_eq!(names(&mut daemon.connect()), expected);
}

#[test]
fn a_killed_daemon_is_gone() {
    let mut daemon = Daemon::start();
    let mut client = daemon.connect();
    client.info().unwrap();
    daemon.kill();
    assert!(matches!(client.next_event(), Err(Error::Gone)));
    assert!(matches!(client.info(), Err(Error::Broken)));
    assert!(matches!(
        Client::connect(&daemon.socket()),
        Err(Error::Connect { .. })
    ));
}

#[test]
fn names_have_up_to_64_characters() {
    let daemon = Daemon::start();
    let mut client = daemon.connect();
    let memory = sealed_memory(&daemon, b"long");
    let long = format!("t/{}", "x".repeat(62));
    client.import(&long, memory.as_fd(), None, false).unwrap();
    let alias = client.open(&long, Access::ReadOnly).unwrap();
    assert_eq!(alias.info().name, Some(Name::new(&long).unwrap()));
    assert!(matches!(
        client.open(&format!("{long}x"), Access::ReadOnly),
        Err(Error::BadName(_))
    ));
}

fn sealed_memory(daemon: &Daemon, bytes: &[u8]) -> std::os::fd::OwnedFd {
    let path = daemon.file("memory");
    std::fs::write(&path, bytes).unwrap();
    memory::sealed_copy(&path).unwrap()
}
