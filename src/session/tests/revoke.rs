// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Revocation, step by step: who may, who hears of it, what goes when, and who is told in the end.

use super::fences::{consumer, fenced, opened};
use super::peer::*;
use crate::fence::tests::wait_for;
use crate::session::{Host, MapError, Pattern, Policy};
use dmabuf_protocol::wire::*;
use dmabuf_protocol::{Access, Enforcement, FenceUsage, Handle, OpCode, Status};
use std::sync::Arc;
use zerocopy::FromZeros;

use Access::{ReadOnly, ReadWrite};

/// A deadline that doesn't pass during a test.
const LATER: u32 = 60_000;

/// A VM with a window of 8 pages that may have `rw/*` and the pool.
fn vm(host: &Arc<Host>) -> Peer {
    let grants = vec![buffers("rw/*", ReadWrite, Enforcement::Vmm)];
    Peer::vm(host, Policy { grants, ..policy() }, 8, &[])
}

/// Kind, value and name of the next event. Waits for it, as a transport does.
fn next(peer: &mut Peer) -> (u32, u64, String) {
    loop {
        peer.heed();
        if let Some(event) = peer.session.next_event() {
            let name = dmabuf_protocol::Name::from_wire(event.name);
            let name = name.map_or(String::new(), |name| name.as_str().to_owned());
            return (event.kind.get(), event.value.get(), name);
        }
        wait_for(peer.session.wake());
    }
}

/// Skips events until this one comes.
fn until(peer: &mut Peer, kind: u32) -> (u64, String) {
    loop {
        let (found, value, name) = next(peer);
        if found == kind {
            return (value, name);
        }
    }
}

/// Waits until the session has let go of a handle that is being revoked. (The handle is stale a moment earlier.)
pub fn until_revoked(peer: &mut Peer, handle: u64) {
    peer.heed();
    while peer.session.handles.get(handle).unwrap().is_some() {
        wait_for(peer.session.wake());
        peer.heed();
    }
}

/// The first bytes of a buffer of this producer.
fn bytes(peer: &Peer, handle: u64) -> Vec<u8> {
    let held = peer.session.handles.held(Handle(handle)).unwrap();
    let source = held.alias.source();
    let mut bytes = vec![1; 8];
    rustix::io::pread(source.fd, &mut bytes, source.offset).unwrap();
    bytes
}

fn fill(peer: &Peer, handle: u64) {
    let held = peer.session.handles.held(Handle(handle)).unwrap();
    let source = held.alias.source();
    rustix::io::pwrite(source.fd, &[7; 64], source.offset).unwrap();
}

#[test]
fn the_mapping_goes_and_its_range_stays_until_unmap() {
    let (host, _) = host(1);
    let (mut producer, mut vm) = (producer(&host), vm(&host));
    let own = producer.share("dma", 8 * P, "rw/x");
    fill(&producer, own);
    let handle = vm.open("rw/x", ReadWrite).unwrap().handle.get();
    let mapping = vm.mapped(handle, 8 * P, ReadWrite).mapping.get();
    producer.revoke("rw/x", 0).unwrap();
    until_revoked(&mut vm, handle);
    let job = vm.job();
    assert!(job.map.is_none());
    assert_eq!((job.window_offset, job.length), (0, 8 * P));
    assert_eq!(next(&mut vm).0, EVENT_BUFFER_ADDED);
    assert_eq!(next(&mut vm).0, EVENT_BUFFER_WITHDRAWN);
    let told = (EVENT_BUFFER_REVOKED, 0, "rw/x".to_owned());
    assert_eq!(next(&mut vm), told);
    assert_eq!(vm.map(handle, 0, P, ReadWrite), Some(Err(Status::ESTALE)));
    assert_eq!(vm.derive(handle, 0, 0).unwrap_err(), Status::ESTALE);
    assert_eq!(vm.wait(handle, FenceUsage::Read), Some(Err(Status::ESTALE)));
    assert_eq!(vm.close(handle), Err(Status::EBUSY), "it has a mapping");

    assert!(vm.finish(&job, Ok(())).is_none(), "nobody has asked");
    assert_eq!(
        until(&mut producer, EVENT_BUFFER_FREE),
        (0, "rw/x".to_owned())
    );
    assert_eq!(bytes(&producer, own), [0; 8]);
    // The VM doesn't keep the memory: only its maker does.
    let held = producer.session.handles.held(Handle(own)).unwrap();
    let weak = Arc::downgrade(held.alias.buffer());
    producer.close(own).unwrap();
    assert!(weak.upgrade().is_none());

    producer.share("dma", 8 * P, "rw/y");
    let other = vm.open("rw/y", ReadWrite).unwrap().handle.get();
    let taken = Some(Err(Status::ENOSPC));
    assert_eq!(vm.map(other, 0, P, ReadWrite), taken, "never other memory");
    assert_eq!(vm.unmap(mapping), Some(Ok(())));
    assert_eq!(vm.unmap(mapping), Some(Err(Status::ESTALE)));
    assert_eq!(vm.close(handle), Ok(()));
    assert_eq!(vm.close(handle), Err(Status::ESTALE));
    vm.mapped(other, 8 * P, ReadWrite);
}

#[test]
fn who_lets_go_earlier_ends_it_earlier() {
    let (host, _) = host(1);
    let (mut producer, mut vm, mut second) = (producer(&host), vm(&host), vm(&host));
    let own = producer.share("memfd", P, "rw/x");
    fill(&producer, own);
    let handle = vm.open("rw/x", ReadWrite).unwrap().handle.get();
    let mapping = vm.mapped(handle, P, ReadWrite).mapping.get();
    let theirs = second.open("rw/x", ReadWrite).unwrap().handle.get();
    producer.revoke_handle(own, LATER).unwrap();
    assert_eq!(second.open("rw/x", ReadWrite).unwrap_err(), Status::ENOENT);
    let (rest, name) = until(&mut vm, EVENT_BUFFER_REVOKED);
    assert!(rest > 50_000 && rest <= LATER.into(), "{rest}");
    assert_eq!(name, "rw/x");
    assert!(
        vm.wait(handle, FenceUsage::Read).unwrap().is_ok(),
        "still good"
    );
    assert_eq!(vm.map(handle, 0, P, ReadWrite), Some(Err(Status::ESTALE)));
    assert_eq!(vm.derive(handle, 2, 0).unwrap_err(), Status::ESTALE);
    assert!(vm.unmap(mapping).is_none());
    let job = vm.job();
    assert!(vm.finish(&job, Ok(())).is_some());
    vm.close(handle).unwrap();
    assert_eq!(bytes(&producer, own), [7; 8], "one still has it");
    second.session.reset();
    assert_eq!(
        until(&mut producer, EVENT_BUFFER_FREE),
        (0, "rw/x".to_owned())
    );
    assert_eq!(bytes(&producer, own), [0; 8]);
    assert_eq!(second.close(theirs), Err(Status::ESTALE));
    assert_eq!(host.revocations.open(), 0);
}

#[test]
fn who_takes_no_events_keeps_none_of_buffers_that_it_has_closed() {
    let (host, _) = host(1);
    let (mut producer, mut vm) = (producer(&host), vm(&host));
    for _ in 0..3 {
        let own = producer.share("dma", P, "rw/x");
        let [first, second] = [(); 2].map(|()| vm.open("rw/x", ReadWrite).unwrap().handle.get());
        producer.revoke("rw/x", 0).unwrap();
        until_revoked(&mut vm, first);
        until_revoked(&mut vm, second);
        vm.close(first).unwrap();
        vm.close(second).unwrap();
        producer.close(own).unwrap();
    }
    producer.share("dma", P, "rw/y");
    let handles = [(); 2].map(|()| vm.open("rw/y", ReadWrite).unwrap().handle.get());
    producer.revoke("rw/y", LATER).unwrap();
    vm.close(handles[0]).unwrap();
    let of_revocations = |event: &Event| event.kind.get() == EVENT_BUFFER_REVOKED;
    vm.heed();
    let told: Vec<_> = std::iter::from_fn(|| vm.session.next_event())
        .filter(of_revocations)
        .map(|event| dmabuf_protocol::Name::from_wire(event.name).unwrap())
        .collect();
    assert_eq!(told, [dmabuf_protocol::Name::new("rw/y").unwrap()]);
}

#[test]
fn nobody_has_it() {
    let (host, _) = host(1);
    let mut producer = producer(&host);
    let own = producer.alloc("memfd", P).unwrap().handle.get();
    fill(&producer, own);
    producer.revoke_handle(own, LATER).unwrap();
    assert_eq!(until(&mut producer, EVENT_BUFFER_FREE), (0, String::new()));
    assert_eq!(bytes(&producer, own), [0; 8]);
    // Its maker can keep it, but not share it again.
    assert_eq!(producer.publish(own, "x", false), Err(Status::ESTALE));
    assert_eq!(producer.derive(own, 0, 0).unwrap_err(), Status::ESTALE);
    assert_eq!(producer.revoke_handle(own, 0), Err(Status::ESTALE));
    producer.close(own).unwrap();
}

#[test]
fn holes_stay_holes() {
    let (host, _) = host(1);
    let mut producer = producer(&host);
    // More than any machine has.
    let size = 1 << 43;
    let memfd = crate::sys::memfd_create("sparse", size, false).unwrap();
    crate::sys::seal_size(std::os::fd::AsFd::as_fd(&memfd)).unwrap();
    for at in [0, 1 << 40, size - 8] {
        rustix::io::pwrite(&memfd, b"secret..", at).unwrap();
    }
    let file = memfd.try_clone().unwrap();
    producer.import("x", vec![memfd]).unwrap();
    producer.revoke("x", 0).unwrap();
    until(&mut producer, EVENT_BUFFER_FREE);
    for at in [0, 1 << 40, size - 8] {
        let mut bytes = [1; 8];
        rustix::io::pread(&file, &mut bytes, at).unwrap();
        assert_eq!(bytes, [0; 8]);
    }
    let blocks = rustix::fs::fstat(&file).unwrap().st_blocks;
    assert!(blocks <= 3 * 8, "{blocks} blocks");
}

#[test]
fn only_who_has_made_it() {
    let (host, pool) = host(1);
    let (mut maker, mut other) = (producer(&host), producer(&host));
    let own = maker.share("memfd", P, "rw/x");
    assert_eq!(other.revoke("rw/x", 0), Err(Status::EACCES));
    assert_eq!(other.revoke("rw/absent", 0), Err(Status::ENOENT));
    assert_eq!(other.revoke_handle(own + 1, 0), Err(Status::ESTALE));
    let mut vm = vm(&host);
    assert_eq!(vm.revoke("rw/x", 0), Err(Status::EOPNOTSUPP));
    // Sealed memory has no writer, the daemon included.
    let slot = maker.share("pool", P, "slot");
    assert!(pool.is_sealed());
    assert_eq!(maker.revoke_handle(slot, 0), Err(Status::EOPNOTSUPP));
    assert_eq!(maker.revoke("slot", 0), Err(Status::EOPNOTSUPP));
    assert_eq!(host.revocations.open(), 0);
    maker.withdraw("slot").unwrap();
}

#[test]
fn the_configurations_own_are_for_all_who_may_publish_the_name() {
    let (host, _) = host(1);
    let buffer =
        crate::buffer::Buffer::new(host.heaps.get("memfd").unwrap().allocate(P).unwrap(), None);
    host.publish(crate::buffer::Published {
        name: name("rw/x"),
        buffer,
        format: None,
        owner: None,
    })
    .unwrap();
    let (mut producer, mut vm) = (producer(&host), vm(&host));
    let handle = vm.open("rw/x", ReadWrite).unwrap().handle.get();
    producer.revoke("rw/x", 0).unwrap();
    until_revoked(&mut vm, handle);
    until(&mut producer, EVENT_BUFFER_FREE);
    vm.close(handle).unwrap();
}

#[test]
fn what_goes_on_with_a_handle_ends() {
    let (host, kernel) = fenced();
    let (mut producer, mut vm) = (producer(&host), consumer(&host));
    let (handle, buffer) = opened(&mut producer, &mut vm, "dma", "rw/x");
    assert!(
        vm.send(OpCode::SyncStart, &sync(handle), Vec::new())
            .is_none()
    );
    let begun = vm.answered();
    assert!(begun.1.is_ok());
    let signal = kernel.attach(&buffer, true);
    assert_eq!(vm.wait(handle, FenceUsage::Read), None);
    let wait = vm.token();
    assert!(
        vm.send(OpCode::SyncStart, &sync(handle), Vec::new())
            .is_none()
    );
    let start = vm.token();
    producer.revoke("rw/x", 0).unwrap();
    until_revoked(&mut vm, handle);
    let mut ended = [vm.answered(), vm.answered()];
    ended.sort_by_key(|(token, _)| *token);
    let cancelled = Err(Status::ECANCELED);
    assert_eq!(ended, [(wait, cancelled.clone()), (start, cancelled)]);
    assert_eq!(vm.session.fence_counts(), Default::default());
    until(&mut producer, EVENT_BUFFER_FREE);
    // The VM's bracket, and the daemon's own around the zeroes.
    kernel.brackets(2, 2);
    drop(signal);
}

fn sync(handle: u64) -> SyncRequest {
    SyncRequest {
        handle: handle.into(),
        flags: 1.into(),
        reserved: 0.into(),
    }
}

#[test]
fn a_mapping_that_is_under_way_is_undone() {
    let (host, _) = host(1);
    let (mut producer, mut vm) = (producer(&host), vm(&host));
    producer.share("dma", 8 * P, "rw/x");
    let handle = vm.open("rw/x", ReadWrite).unwrap().handle.get();
    assert!(vm.map(handle, 0, 8 * P, ReadWrite).is_none());
    let (token, job) = (vm.token(), vm.job());
    producer.revoke("rw/x", 0).unwrap();
    until_revoked(&mut vm, handle);
    assert!(
        vm.jobs().is_empty(),
        "the VMM is asked for one thing at a time"
    );
    let done = vm.finish(&job, Ok(())).unwrap();
    assert_eq!((done.token, answer(&done)), (token, Err(Status::ESTALE)));
    let job = vm.job();
    assert!(job.map.is_none());
    assert!(vm.finish(&job, Ok(())).is_none());
    // Its number was never told, so nothing is kept for it.
    assert_eq!(vm.close(handle), Ok(()));
    producer.share("dma", 8 * P, "rw/y");
    let other = vm.open("rw/y", ReadWrite).unwrap().handle.get();
    vm.mapped(other, 8 * P, ReadWrite);
}

#[test]
fn unmapping_while_it_is_being_undone() {
    let (host, _) = host(1);
    let (mut producer, mut vm) = (producer(&host), vm(&host));
    producer.share("dma", P, "rw/x");
    let handle = vm.open("rw/x", ReadWrite).unwrap().handle.get();
    let mapping = vm.mapped(handle, P, ReadWrite).mapping.get();
    producer.revoke("rw/x", 0).unwrap();
    until_revoked(&mut vm, handle);
    let job = vm.job();
    assert!(vm.unmap(mapping).is_none());
    let token = vm.token();
    assert!(vm.jobs().is_empty(), "asked once");
    assert_eq!(vm.unmap(mapping), Some(Err(Status::ESTALE)), "twice");
    let done = vm.finish(&job, Ok(())).unwrap();
    assert_eq!((done.token, answer(&done)), (token, Ok(Vec::new())));
    vm.close(handle).unwrap();
    assert_eq!(vm.session.counts(), (0, 0));
}

#[test]
fn a_vmm_that_refuses_leaves_zeroes() {
    let (host, _) = host(1);
    let (mut producer, mut vm) = (producer(&host), vm(&host));
    let own = producer.share("dma", P, "rw/x");
    fill(&producer, own);
    let handle = vm.open("rw/x", ReadWrite).unwrap().handle.get();
    let mapping = vm.mapped(handle, P, ReadWrite).mapping.get();
    producer.revoke("rw/x", 0).unwrap();
    until_revoked(&mut vm, handle);
    let job = vm.job();
    assert!(vm.finish(&job, Err(MapError::Refused)).is_none());
    assert_eq!(vm.unmap(mapping), Some(Err(Status::ESTALE)), "stuck");
    let (value, _) = until(&mut producer, EVENT_BUFFER_FREE);
    assert_eq!(value, FREE_SHARED, "told after the grace");
    assert_eq!(bytes(&producer, own), [0; 8]);
    vm.session.reset();
    assert_eq!(vm.session.counts(), (0, 0));
}

#[test]
fn a_reset_while_it_is_being_undone() {
    let (host, _) = host(1);
    let (mut producer, mut vm) = (producer(&host), vm(&host));
    producer.share("dma", 8 * P, "rw/x");
    let handle = vm.open("rw/x", ReadWrite).unwrap().handle.get();
    vm.mapped(handle, 8 * P, ReadWrite);
    producer.revoke("rw/x", 0).unwrap();
    until_revoked(&mut vm, handle);
    let job = vm.job();
    vm.session.reset();
    producer.share("dma", 8 * P, "rw/y");
    let other = vm.open("rw/y", ReadWrite).unwrap().handle.get();
    assert_eq!(vm.map(other, 0, P, ReadWrite), Some(Err(Status::ENOSPC)));
    assert!(vm.finish(&job, Ok(())).is_none());
    vm.mapped(other, 8 * P, ReadWrite);
    let events = vm.events();
    let revoked = |(kind, ..): &(u32, u64, String)| *kind == EVENT_BUFFER_REVOKED;
    assert!(!events.iter().any(revoked), "forgotten: {events:?}");
}

#[test]
fn it_goes_on_without_its_owner() {
    let (host, _) = host(1);
    let (mut producer, mut vm) = (producer(&host), vm(&host));
    producer.share("dma", P, "rw/x");
    let handle = vm.open("rw/x", ReadWrite).unwrap().handle.get();
    producer.revoke("rw/x", 20).unwrap();
    let held = vm.session.handles.held(Handle(handle)).unwrap();
    let buffer = Arc::downgrade(held.alias.buffer());
    drop(producer);
    until_revoked(&mut vm, handle);
    vm.close(handle).unwrap();
    while buffer.upgrade().is_some() {
        std::thread::yield_now();
    }
    assert_eq!(host.revocations.open(), 0);
}

/// A maker can open its own by its name, like others: that goes, and it is told, however it has asked.
#[test]
fn what_its_maker_has_opened_goes_too() {
    for by_stream in [false, true] {
        let (host, _) = host(1);
        let grants = vec![buffers("rw/*", ReadWrite, Enforcement::Vmm)];
        let maker = Policy {
            grants,
            publish: vec![Pattern::new("*").unwrap()],
            allocate: vec!["dma".to_owned()],
            ..policy()
        };
        let mut maker = Peer::vm(&host, maker, 8, &[]);
        let own = maker.share("dma", P, "rw/x");
        let kept = maker.mapped(own, P, ReadWrite).mapping.get();
        let handle = maker.open("rw/x", ReadWrite).unwrap().handle.get();
        let mapping = maker.mapped(handle, P, ReadWrite).mapping.get();
        if by_stream {
            let stream = stream_of(&mut maker, own);
            maker
                .call(OpCode::StreamRevoke, &stream_revoke(stream))
                .unwrap();
        } else {
            maker.revoke("rw/x", 0).unwrap();
        }
        until_revoked(&mut maker, handle);
        let job = maker.job();
        assert!(maker.finish(&job, Ok(())).is_none());
        let mut missing = vec![EVENT_BUFFER_REVOKED, EVENT_BUFFER_FREE];
        while !missing.is_empty() {
            let (kind, _, name) = next(&mut maker);
            missing.retain(|other| *other != kind);
            assert_eq!(name, "rw/x");
        }
        assert_eq!(maker.unmap(mapping), Some(Ok(())));
        maker.close(handle).unwrap();
        // What it has made is its own until it gives it back.
        assert!(maker.unmap(kept).is_none());
        assert_eq!(maker.job().window_offset, 0);
    }
}

fn stream_of(producer: &mut Peer, handle: u64) -> u64 {
    let created = StreamCreateRequest {
        name: name("s").to_wire(),
        ..FromZeros::new_zeroed()
    };
    let created = producer.call(OpCode::StreamCreate, &created).unwrap();
    let stream = read::<StreamCreateReply>(created).stream;
    let add = StreamAddRequest {
        stream,
        handle: handle.into(),
    };
    producer.call(OpCode::StreamAdd, &add).unwrap();
    stream.get()
}

fn stream_revoke(stream: u64) -> StreamRevokeRequest {
    StreamRevokeRequest {
        stream: stream.into(),
        deadline_ms: 0.into(),
        reserved: 0.into(),
    }
}

#[test]
fn a_stream_goes_with_all_its_buffers() {
    let (host, _) = host(1);
    let mut producer = producer(&host);
    let own = producer.share("dma", P, "rw/x");
    let stream = stream_of(&mut producer, own);
    let mut vm = vm(&host);
    let handle = vm.open("rw/x", ReadOnly).unwrap().handle.get();
    let revoke = stream_revoke(stream);
    producer.call(OpCode::StreamRevoke, &revoke).unwrap();
    assert!(host.streams.find(&name("s")).is_none());
    until_revoked(&mut vm, handle);
    assert_eq!(until(&mut producer, EVENT_BUFFER_FREE).1, "rw/x");
    let again = producer.call(OpCode::StreamRevoke, &revoke);
    assert_eq!(again, Err(Status::ESTALE));
}

/// A buffer that is revoked by itself can't carry frames any more.
#[test]
fn a_stream_goes_on_without_a_buffer() {
    let (host, _) = host(1);
    let mut producer = producer(&host);
    let created = StreamCreateRequest {
        name: name("s").to_wire(),
        ..FromZeros::new_zeroed()
    };
    let created = producer.call(OpCode::StreamCreate, &created).unwrap();
    let stream = read::<StreamCreateReply>(created).stream;
    let handles = [0, 1].map(|_| producer.alloc("dma", P).unwrap().handle);
    for handle in handles {
        let add = StreamAddRequest { stream, handle };
        producer.call(OpCode::StreamAdd, &add).unwrap();
    }
    producer.revoke_handle(handles[0].get(), LATER).unwrap();
    let queue = |index: u32| StreamQueueRequest {
        stream,
        index: index.into(),
        ..FromZeros::new_zeroed()
    };
    assert_eq!(
        producer.call(OpCode::StreamQueue, &queue(0)),
        Err(Status::ESTALE)
    );
    assert!(producer.call(OpCode::StreamQueue, &queue(1)).is_ok());
}
