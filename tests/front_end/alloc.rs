// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest that allocates: through the real queues, and what is left of it when its front-end goes.

use crate::client::Client;
use crate::daemon::Daemon;
use crate::message::{
    PAGE, Peer, READ_WRITE, alloc_body, name, publish_body, revoke_body, stream_create_body,
};
use crate::vmm::FrontEnd;
use crate::window::Answer;
use dmabuf_protocol::wire::{EVENT_BUFFER_FREE, EVENT_BUFFER_REVOKED, EVENT_BUFFER_WITHDRAWN};
use dmabuf_protocol::{FEATURE_ALLOC, OpCode, Status, wire};
use vhost::VhostBackend;
use zerocopy::FromBytes;

const CONFIG: &str = r#"
[broker]
socket-path = "{dir}/broker.sock"

[[heap]]
name = "plain"
kind = "memfd"

[[vm]]
name = "a"
socket-path = "{dir}/a.sock"
window-size = "64K"
allocate = ["plain"]
publish = ["a/*"]
max-buffers = 3
max-bytes = "32K"
[[vm.grant]]
buffer = "a/own"
access = "read-write"

[[vm]]
name = "b"
socket-path = "{dir}/b.sock"
window-size = "64K"
[[vm.grant]]
buffer = "a/*"
access = "read-write"

[[client]]
name = "watcher"
[[client.grant]]
buffer = "a/*"
access = "read-write"
"#;

fn alloc(vm: &mut FrontEnd, heap: &str, size: u64) -> Result<wire::OpenReply, Status> {
    let body = vm.call(OpCode::Alloc, &alloc_body(heap, size))?;
    Ok(wire::OpenReply::read_from_bytes(&body).unwrap())
}

fn heap(vm: &mut FrontEnd, index: u32) -> Result<wire::HeapReply, Status> {
    let request = wire::HeapListRequest {
        index: index.into(),
        reserved: 0.into(),
    };
    let body = vm.call(OpCode::HeapList, &request)?;
    Ok(wire::HeapReply::read_from_bytes(&body).unwrap())
}

#[test]
pub fn the_feature_bit_says_who_may_allocate() {
    let daemon = Daemon::start(CONFIG);
    for (vm, offered) in [("a", 1), ("b", 0)] {
        let mut vm = FrontEnd::connect(&daemon, vm, Answer::Honours);
        let features = vm.frontend.get_features().unwrap();
        assert_eq!(features >> FEATURE_ALLOC & 1, offered);
        assert_eq!(heap(&mut vm, 0).is_ok(), offered == 1);
    }
}

#[test]
pub fn a_guest_allocates_writes_and_shares() {
    let daemon = Daemon::start(CONFIG);
    let idle = daemon.idle(2);
    let mut a = FrontEnd::connect(&daemon, "a", Answer::ListsWindow);
    let plain = heap(&mut a, 0).unwrap();
    assert_eq!((plain.name, plain.count.get()), (name("plain"), 1));
    assert_eq!(plain.max_size.get(), 8 * PAGE, "the quota");
    let buffer = alloc(&mut a, "plain", 2 * PAGE).unwrap();
    let handle = buffer.handle.get();
    let at = a
        .map(handle, 0, 2 * PAGE, READ_WRITE)
        .unwrap()
        .window_offset
        .get();
    assert_eq!(
        a.window.read(at, 0, 2 * PAGE as usize),
        vec![0; 2 * PAGE as usize]
    );
    a.window.write(at, PAGE, b"by guest a");

    let mut b = FrontEnd::connect(&daemon, "b", Answer::ListsWindow);
    let mut watcher = Client::connect(&daemon);
    a.call(OpCode::Publish, &publish_body(handle, "a/frame", 0))
        .unwrap();
    let seen = b.open("a/frame", READ_WRITE);
    let map = b.map(seen, 0, 2 * PAGE, READ_WRITE).unwrap();
    assert_eq!(
        b.window.read(map.window_offset.get(), PAGE, 10),
        b"by guest a"
    );
    assert_eq!(watcher.names(), ["a/frame"]);

    // Its VM ends: the name goes, what others have mapped stays.
    drop(a);
    daemon.logged(&["peer a: front-end gone, 1 handles and 1 mappings released"]);
    watcher.event_of(EVENT_BUFFER_WITHDRAWN);
    assert_eq!(watcher.names(), [""; 0]);
    assert_eq!(
        b.window.read(map.window_offset.get(), PAGE, 10),
        b"by guest a"
    );
    drop((b, watcher));
    daemon.returns_to(idle);
}

/// Revokes a buffer of its own by its name, or with its stream.
fn revoke(a: &mut FrontEnd, handle: u64, by_stream: bool) {
    if !by_stream {
        let body = revoke_body(0, "a/own", 100);
        a.call(OpCode::Revoke, &body).unwrap();
        return;
    }
    let body = a.call(OpCode::StreamCreate, &stream_create_body("a/s"));
    let created = wire::StreamCreateReply::read_from_bytes(&body.unwrap()).unwrap();
    let add = wire::StreamAddRequest {
        stream: created.stream,
        handle: handle.into(),
    };
    a.call(OpCode::StreamAdd, &add).unwrap();
    let revoke = wire::StreamRevokeRequest {
        stream: created.stream,
        deadline_ms: 100.into(),
        reserved: 0.into(),
    };
    a.call(OpCode::StreamRevoke, &revoke).unwrap();
}

#[test]
pub fn what_a_guest_has_opened_of_its_own_is_revoked_too() {
    for by_stream in [false, true] {
        let daemon = Daemon::start(CONFIG);
        let mut a = FrontEnd::connect(&daemon, "a", Answer::ListsWindow);
        (0..8).for_each(|index| a.offer_event(index, 96));
        let own = alloc(&mut a, "plain", PAGE).unwrap().handle.get();
        a.call(OpCode::Publish, &publish_body(own, "a/own", 0))
            .unwrap();
        let opened = a.open("a/own", READ_WRITE);
        let [own_at, at] = [own, opened].map(|handle| {
            let map = a.map(handle, 0, PAGE, READ_WRITE).unwrap();
            map.window_offset.get()
        });
        a.window.write(at, 0, b"secret");
        revoke(&mut a, own, by_stream);
        let mut missing = vec![EVENT_BUFFER_REVOKED, EVENT_BUFFER_FREE];
        while !missing.is_empty() {
            let event = wire::Event::read_from_bytes(&a.wait_event()).unwrap();
            missing.retain(|kind| *kind != event.kind.get());
        }
        daemon.until("the opened one goes", || a.window.mapped() == [own_at]);
        assert_eq!(a.window.read(own_at, 0, 6), [0; 6]);
        a.window.write(own_at, 0, b"again");
    }
}

#[test]
pub fn refusals_have_their_own_status() {
    let daemon = Daemon::start(CONFIG);
    let mut a = FrontEnd::connect(&daemon, "a", Answer::ListsWindow);
    let status = |result: Result<wire::OpenReply, Status>| result.unwrap_err();
    assert_eq!(status(alloc(&mut a, "none", PAGE)), Status::EACCES);
    assert_eq!(status(alloc(&mut a, "plain", 9 * PAGE)), Status::EDQUOT);
    assert_eq!(status(alloc(&mut a, "plain", u64::MAX)), Status::EINVAL);
    let buffers = [(); 3].map(|()| alloc(&mut a, "plain", PAGE).unwrap());
    assert_eq!(status(alloc(&mut a, "plain", PAGE)), Status::EDQUOT);
    let handle = buffers[0].handle.get();
    assert_eq!(
        a.map(handle, 0, 2 * PAGE, READ_WRITE).unwrap_err(),
        Status::EINVAL
    );
    a.close(handle).unwrap();
    alloc(&mut a, "plain", PAGE).unwrap();
}
