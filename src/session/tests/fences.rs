// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Waits: how they end, and that they do; and what the producer hears.

use super::peer::*;
use crate::buffer::Buffer;
use crate::fence::tests::{FakeKernel, wait_for};
use crate::session::{FenceCounts, FenceTerms, Host, Limits, Policy};
use dmabuf_protocol::wire::*;
use dmabuf_protocol::{Access, Enforcement, FenceUsage, Handle, OpCode, Status};
use std::sync::Arc;
use zerocopy::FromBytes;

/// A host whose fences are made by hand.
pub fn fenced() -> (Arc<Host>, Arc<FakeKernel>) {
    let kernel = Arc::new(FakeKernel::default());
    let (host, _) = host_with(1, Arc::clone(&kernel) as _);
    (host, kernel)
}

/// A VM that may read `ro/*` and write `rw/*`.
pub fn consumer(host: &Arc<Host>) -> Peer {
    consumer_with(host, policy().limits, FenceTerms::default())
}

pub fn consumer_with(host: &Arc<Host>, limits: Limits, fences: FenceTerms) -> Peer {
    let mut grants = vec![
        buffers("ro/*", Access::ReadOnly, Enforcement::Vmm),
        buffers("rw/*", Access::ReadWrite, Enforcement::Vmm),
    ];
    for grant in &mut grants {
        grant.fences = fences;
    }
    let policy = Policy {
        grants,
        limits,
        ..policy()
    };
    Peer::vm(host, policy, 64, &[])
}

/// A handle of a buffer of this heap, and the buffer.
pub fn opened(producer: &mut Peer, peer: &mut Peer, heap: &str, text: &str) -> (u64, Arc<Buffer>) {
    producer.share(heap, P, text);
    let access = if text.starts_with("ro") {
        Access::ReadOnly
    } else {
        Access::ReadWrite
    };
    let handle = peer.open(text, access).unwrap().handle.get();
    let buffer = Arc::clone(
        peer.session
            .handles
            .held(Handle(handle))
            .unwrap()
            .alias
            .buffer(),
    );
    (handle, buffer)
}

pub fn wait_request(handle: u64, usage: FenceUsage, timeout_ms: u32) -> FenceWaitRequest {
    FenceWaitRequest {
        handle: handle.into(),
        usage: usage.to_wire().into(),
        timeout_ms: timeout_ms.into(),
    }
}

impl Peer {
    /// FENCE_WAIT; `None`: the answer will come.
    pub fn wait(&mut self, handle: u64, usage: FenceUsage) -> Option<Result<Vec<u8>, Status>> {
        let done = self.send(
            OpCode::FenceWait,
            &wait_request(handle, usage, 0),
            Vec::new(),
        )?;
        Some(answer(&done))
    }

    /// The next late answer: the number of its request, and what it says.
    pub fn answered(&mut self) -> (u64, Result<Vec<u8>, Status>) {
        while self.late.is_empty() {
            wait_for(self.session.fence_wake());
            let late = self.session.settle();
            self.late.extend(late);
        }
        let done = self.late.remove(0);
        (done.token, answer(&done))
    }

    pub fn cancel(&mut self, tag: u64) -> Result<Vec<u8>, Status> {
        self.call(OpCode::FenceCancel, &FenceCancelRequest { tag: tag.into() })
    }
}

#[test]
fn a_wait_ends_with_its_fence_and_delays_nothing() {
    let (host, kernel) = fenced();
    let (mut producer, mut vm) = (producer(&host), consumer(&host));
    let (handle, buffer) = opened(&mut producer, &mut vm, "dma", "ro/x");
    let none = vm.wait(handle, FenceUsage::Read).unwrap().unwrap();
    assert_eq!(none, [0; 16], "no fence, no wait");
    for (errno, expected) in [(0, Ok(())), (61, Err(Status(61)))] {
        let signal = kernel.attach(&buffer, true);
        assert!(vm.wait(handle, FenceUsage::Read).is_none());
        let token = vm.token();
        assert_eq!(vm.info().handles.get(), 1, "answered meanwhile");
        signal.end(errno);
        let (answered, result) = vm.answered();
        assert_eq!(answered, token);
        let body = result.map(|body| FenceWaitReply::read_from_bytes(&body).unwrap());
        assert_eq!(body.map(|_| ()), expected);
        if let Ok(body) = body {
            assert_eq!((body.fences.get(), body.timestamp_ns.get()), (1, 7));
        }
        kernel.detach(&buffer);
    }
    assert_eq!(vm.session.fence_counts(), FenceCounts::default());
}

#[test]
fn readers_wait_for_writers_only() {
    let (host, kernel) = fenced();
    let (mut producer, mut vm) = (producer(&host), consumer(&host));
    let (handle, buffer) = opened(&mut producer, &mut vm, "dma", "rw/x");
    let signal = kernel.attach(&buffer, false);
    assert!(vm.wait(handle, FenceUsage::Read).unwrap().is_ok());
    assert!(vm.wait(handle, FenceUsage::Write).is_none());
    signal.end(0);
    assert!(vm.answered().1.is_ok());
    let (handle, _) = opened(&mut producer, &mut vm, "dma", "ro/x");
    let refused = vm.wait(handle, FenceUsage::Write).unwrap();
    assert_eq!(
        refused,
        Err(Status::EACCES),
        "a reader has no business with it"
    );
    assert_eq!(
        vm.wait(handle + 1, FenceUsage::Read),
        Some(Err(Status::ESTALE))
    );
}

#[test]
fn memory_without_a_dma_buf_says_so() {
    let (host, _) = fenced();
    let (mut producer, mut vm) = (producer(&host), consumer(&host));
    let (handle, _) = opened(&mut producer, &mut vm, "memfd", "rw/x");
    let body = vm.wait(handle, FenceUsage::Write).unwrap().unwrap();
    let body = FenceWaitReply::read_from_bytes(&body).unwrap();
    assert_eq!((body.flags.get(), body.fences.get()), (FENCE_NO_DMA_BUF, 0));
    assert_eq!(body.timestamp_ns.get(), 0);
    let request = FenceQueryRequest {
        handle: handle.into(),
        usage: 1.into(),
        reserved: 0.into(),
    };
    let body = vm.call(OpCode::FenceQuery, &request).unwrap();
    let body = FenceQueryReply::read_from_bytes(&body).unwrap();
    assert_eq!(
        (body.flags.get(), body.state.get()),
        (FENCE_NO_DMA_BUF, FENCE_SIGNALLED)
    );
}

#[test]
fn a_query_looks_and_does_not_wait() {
    let (host, kernel) = fenced();
    let (mut producer, mut vm) = (producer(&host), consumer(&host));
    let (handle, buffer) = opened(&mut producer, &mut vm, "dma", "rw/x");
    let query = |vm: &mut Peer| {
        let request = FenceQueryRequest {
            handle: handle.into(),
            usage: 2.into(),
            reserved: 0.into(),
        };
        let body = vm.call(OpCode::FenceQuery, &request).unwrap();
        let body = FenceQueryReply::read_from_bytes(&body).unwrap();
        (body.fences.get(), body.state.get(), body.error.get())
    };
    assert_eq!(query(&mut vm), (0, FENCE_SIGNALLED, 0));
    kernel.attach(&buffer, true);
    assert_eq!(query(&mut vm), (1, FENCE_PENDING, 0));
    assert_eq!(host.fences.reactor.open(), 0);
}

#[test]
fn a_wait_that_takes_too_long() {
    let (host, kernel) = fenced();
    let terms = FenceTerms {
        max_wait_ms: 20,
        host_fence: false,
    };
    let (mut producer, mut vm) = (
        producer(&host),
        consumer_with(&host, policy().limits, terms),
    );
    let (handle, buffer) = opened(&mut producer, &mut vm, "dma", "ro/x");
    kernel.attach(&buffer, true);
    for asked in [0, 1, u32::MAX] {
        let request = wait_request(handle, FenceUsage::Read, asked);
        assert!(
            vm.send(OpCode::FenceWait, &request, Vec::new()).is_none(),
            "{asked}"
        );
        let expected = (vm.token(), Err(Status::ETIMEDOUT));
        assert_eq!(vm.answered(), expected, "{asked}");
    }
    let sync = SyncRequest {
        handle: handle.into(),
        flags: 1.into(),
        reserved: 0.into(),
    };
    assert!(vm.send(OpCode::SyncStart, &sync, Vec::new()).is_none());
    assert_eq!(vm.answered().1, Err(Status::ETIMEDOUT));
    assert_eq!(vm.session.fence_counts(), FenceCounts::default());
}

#[test]
fn a_cancelled_wait_is_answered_first() {
    let (host, kernel) = fenced();
    let (mut producer, mut vm) = (producer(&host), consumer(&host));
    let (handle, buffer) = opened(&mut producer, &mut vm, "dma", "ro/x");
    let signal = kernel.attach(&buffer, true);
    assert!(vm.wait(handle, FenceUsage::Read).is_none());
    let (first, bytes) = (vm.token(), FenceCancelRequest { tag: 0.into() });
    assert!(vm.wait(handle, FenceUsage::Read).is_none());
    let second = vm.token();
    assert_eq!(vm.call(OpCode::FenceCancel, &bytes), Err(Status::ENOENT));
    assert_eq!(vm.cancel(first), Ok(Vec::new()));
    assert_eq!(vm.answered(), (first, Err(Status::ECANCELED)));
    assert_eq!(vm.cancel(first), Err(Status::ENOENT));
    signal.end(0);
    let (token, result) = vm.answered();
    assert_eq!((token, result.is_ok()), (second, true));
    assert_eq!(vm.cancel(second), Err(Status::ENOENT), "too late");
    assert!(vm.session.settle().is_empty(), "nothing twice");
}

#[test]
fn waits_with_the_same_tag_are_cancelled_in_their_order() {
    let (host, kernel) = fenced();
    let (mut producer, mut vm) = (producer(&host), consumer(&host));
    let (handle, buffer) = opened(&mut producer, &mut vm, "dma", "ro/x");
    kernel.attach(&buffer, true);
    let bytes = Peer::bytes(
        OpCode::FenceWait,
        77,
        &wait_request(handle, FenceUsage::Read, 0),
    );
    for token in [1000, 1001] {
        let done = vm.session.handle(token, &bytes, CAPACITY, Vec::new());
        assert!(done.is_none());
    }
    for token in [1000, 1001] {
        assert_eq!(vm.cancel(77), Ok(Vec::new()));
        assert_eq!(vm.answered(), (token, Err(Status::ECANCELED)));
    }
    assert_eq!(vm.cancel(77), Err(Status::ENOENT));
}

#[test]
fn no_more_waits_than_allowed() {
    let (host, kernel) = fenced();
    let limits = Limits {
        waits: 3,
        ..policy().limits
    };
    let (mut producer, mut vm) = (
        producer(&host),
        consumer_with(&host, limits, FenceTerms::default()),
    );
    let (handle, buffer) = opened(&mut producer, &mut vm, "dma", "ro/x");
    let signal = kernel.attach(&buffer, true);
    for _ in 0..3 {
        assert!(vm.wait(handle, FenceUsage::Read).is_none());
    }
    let busy = Some(Err(Status::EBUSY));
    assert_eq!(vm.wait(handle, FenceUsage::Read), busy);
    let token = vm.token() - 1;
    assert_eq!(vm.cancel(token), Ok(Vec::new()));
    assert_eq!(vm.answered().1, Err(Status::ECANCELED));
    assert!(vm.wait(handle, FenceUsage::Read).is_none(), "one has ended");
    assert_eq!(vm.wait(handle, FenceUsage::Read), busy);
    signal.end(0);
    for _ in 0..3 {
        assert!(vm.answered().1.is_ok());
    }
    kernel.detach(&buffer);
    assert!(
        vm.wait(handle, FenceUsage::Read).is_some(),
        "all have ended"
    );
}

#[test]
fn the_end_of_a_producer_ends_the_waits_for_its_buffers() {
    let (host, kernel) = fenced();
    let mut vm = consumer(&host);
    let (mut gone, mut stays) = (producer(&host), producer(&host));
    let (orphan, buffer) = opened(&mut gone, &mut vm, "dma", "ro/orphan");
    kernel.attach(&buffer, true);
    let (other, buffer) = opened(&mut stays, &mut vm, "dma", "ro/other");
    let other_signal = kernel.attach(&buffer, true);
    let kept = gone.alloc("dma", P).unwrap().handle.get();
    gone.publish(kept, "ro/kept", true).unwrap();
    let kept = vm.open("ro/kept", Access::ReadOnly).unwrap().handle.get();
    let buffer = Arc::clone(
        vm.session
            .handles
            .held(Handle(kept))
            .unwrap()
            .alias
            .buffer(),
    );
    let kept_signal = kernel.attach(&buffer, true);
    assert!(vm.wait(orphan, FenceUsage::Read).is_none());
    let token = vm.token();
    assert!(vm.wait(other, FenceUsage::Read).is_none());
    assert!(vm.wait(kept, FenceUsage::Read).is_none());
    drop(gone);
    assert_eq!(vm.answered(), (token, Err(Status::EOWNERDEAD)));
    assert_eq!(vm.session.fence_counts().waits, 2, "the others go on");
    other_signal.end(0);
    kept_signal.end(0);
    assert!(vm.answered().1.is_ok() && vm.answered().1.is_ok());
}

#[test]
fn a_reset_forgets_waits_and_so_does_the_end() {
    let (host, kernel) = fenced();
    let (mut producer, mut vm) = (producer(&host), consumer(&host));
    let mut signals = Vec::new();
    for end in [false, true] {
        let text = if end { "ro/b" } else { "ro/a" };
        let (handle, buffer) = opened(&mut producer, &mut vm, "dma", text);
        signals.push(kernel.attach(&buffer, true));
        for _ in 0..10 {
            assert!(vm.wait(handle, FenceUsage::Read).is_none());
        }
        assert_eq!(host.fences.reactor.open(), 10);
        // Some have ended, and nobody has looked at that yet.
        let (handle, buffer) = opened(&mut producer, &mut vm, "dma", &format!("{text}/2"));
        let signal = kernel.attach(&buffer, true);
        assert!(vm.wait(handle, FenceUsage::Read).is_none());
        signal.end(0);
        wait_for(vm.session.fence_wake());
        if end {
            vm.session.end();
        } else {
            vm.session.reset();
        }
        assert_eq!(host.fences.reactor.open(), 0);
        assert_eq!(vm.session.fence_counts(), FenceCounts::default());
        assert!(vm.session.settle().is_empty(), "nobody is answered");
    }
}

#[test]
fn the_producer_hears_of_a_release() {
    let (host, _) = fenced();
    let (mut producer, mut vm) = (producer(&host), consumer(&host));
    let (handle, buffer) = opened(&mut producer, &mut vm, "dma", "ro/x");
    let release = |vm: &mut Peer, value: u64| {
        let request = ReleaseRequest {
            handle: handle.into(),
            value: value.into(),
        };
        vm.call(OpCode::Release, &request)
    };
    let mut others = consumer(&host);
    assert_eq!(release(&mut vm, 1), Ok(Vec::new()));
    producer.withdraw("ro/x").unwrap();
    assert_eq!(release(&mut vm, u64::MAX), Ok(Vec::new()));
    let heard: Vec<_> = std::iter::from_fn(|| producer.session.next_event())
        .map(|event| {
            let name = event.name.starts_with(b"ro/x\0");
            let id = event.buffer.get() == buffer.id().0;
            assert!(id && (name || event.name == [0; 64]));
            (event.kind.get(), event.value.get(), name)
        })
        .collect();
    let kind = EVENT_BUFFER_RELEASED;
    assert_eq!(heard, [(kind, 1, true), (kind, u64::MAX, false)]);
    assert!(
        others.events().iter().all(|(other, ..)| *other != kind),
        "nobody else hears of it"
    );
    drop(producer);
    assert_eq!(release(&mut vm, 3), Ok(Vec::new()), "nobody is there");
    vm.close(handle).unwrap();
    assert_eq!(release(&mut vm, 4), Err(Status::ESTALE));
}
