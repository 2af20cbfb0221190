// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Brackets of CPU access: their order, their count, and that none is left behind. And holds that are refused.

use super::fences::{consumer, consumer_with, fenced, opened, wait_request};
use super::peer::*;
use crate::fence::tests::wait_for;
use crate::session::{FenceCounts, FenceTerms, Limits};
use dmabuf_protocol::wire::*;
use dmabuf_protocol::{FenceUsage, OpCode, Status};
use zerocopy::FromBytes;

use OpCode::{SyncEnd, SyncStart};

const READ: u32 = 1;
const WRITE: u32 = 2;
const BOTH: u32 = 3;

/// Flags and number of brackets of a reply.
type Synced = Result<(u32, u32), Status>;

fn synced(body: Result<Vec<u8>, Status>) -> Synced {
    body.map(|body| {
        let body = SyncReply::read_from_bytes(&body).unwrap();
        (body.flags.get(), body.open.get())
    })
}

impl Peer {
    /// Sends a SYNC; `None`: the answer will come.
    fn sync(&mut self, op: OpCode, handle: u64, flags: u32) -> Option<Synced> {
        let request = SyncRequest {
            handle: handle.into(),
            flags: flags.into(),
            reserved: 0.into(),
        };
        let done = self.send(op, &request, Vec::new())?;
        Some(synced(answer(&done)))
    }

    /// Sends a SYNC, and waits for its answer.
    fn synced(&mut self, op: OpCode, handle: u64, flags: u32) -> Synced {
        match self.sync(op, handle, flags) {
            Some(answer) => answer,
            None => {
                let (token, body) = self.answered();
                assert_eq!(token, self.token());
                synced(body)
            }
        }
    }
}

#[test]
fn brackets_are_counted() {
    let (host, kernel) = fenced();
    let (mut producer, mut vm) = (producer(&host), consumer(&host));
    for (heap, text, flag) in [("dma", "rw/d", 0), ("memfd", "rw/m", FENCE_NO_DMA_BUF)] {
        let (handle, _) = opened(&mut producer, &mut vm, heap, text);
        assert_eq!(vm.synced(SyncEnd, handle, READ), Err(Status::EINVAL));
        assert_eq!(vm.synced(SyncStart, handle, READ), Ok((flag, 1)));
        assert_eq!(vm.synced(SyncStart, handle, BOTH), Ok((flag, 2)));
        assert_eq!(
            vm.synced(SyncEnd, handle, WRITE),
            Err(Status::EINVAL),
            "none of that kind"
        );
        assert_eq!(vm.session.fence_counts().brackets, 2);
        assert_eq!(vm.synced(SyncEnd, handle, READ), Ok((flag, 1)));
        assert_eq!(vm.synced(SyncEnd, handle, BOTH), Ok((flag, 0)));
        assert_eq!(vm.synced(SyncEnd, handle, BOTH), Err(Status::EINVAL));
    }
    kernel.brackets(2, 2);
}

#[test]
fn a_reader_may_only_read() {
    let (host, kernel) = fenced();
    let (mut producer, mut vm) = (producer(&host), consumer(&host));
    for (heap, text) in [("dma", "ro/d"), ("memfd", "ro/m")] {
        let (handle, _) = opened(&mut producer, &mut vm, heap, text);
        for op in [SyncStart, SyncEnd] {
            for flags in [WRITE, BOTH] {
                assert_eq!(vm.sync(op, handle, flags), Some(Err(Status::EACCES)));
            }
            assert_eq!(vm.sync(op, handle + 1, READ), Some(Err(Status::ESTALE)));
        }
        assert!(vm.synced(SyncStart, handle, READ).is_ok());
    }
    kernel.brackets(1, 0);
}

#[test]
fn a_bracket_begins_after_the_fences() {
    let (host, kernel) = fenced();
    let (mut producer, mut vm) = (producer(&host), consumer(&host));
    let (handle, buffer) = opened(&mut producer, &mut vm, "dma", "rw/x");
    for errno in [0, 5] {
        let signal = kernel.attach(&buffer, true);
        assert_eq!(vm.sync(SyncStart, handle, READ), None);
        let start = vm.token();
        assert_eq!(vm.sync(SyncEnd, handle, READ), None, "in its order");
        assert_eq!(vm.info().handles.get(), 1, "answered meanwhile");
        assert_eq!(vm.session.fence_counts().waits, 1);
        kernel.detach(&buffer);
        signal.end(errno);
        for (token, open) in [(start, 1), (start + 1, 0)] {
            let (answered, body) = vm.answered();
            assert_eq!((answered, synced(body)), (token, Ok((0, open))));
        }
    }
    kernel.brackets(2, 2);
}

#[test]
fn one_handle_that_blocks_delays_no_other() {
    let (host, kernel) = fenced();
    let (mut producer, mut vm) = (producer(&host), consumer(&host));
    let (blocked, buffer) = opened(&mut producer, &mut vm, "dma", "rw/blocked");
    let (free, _) = opened(&mut producer, &mut vm, "dma", "rw/free");
    kernel.block(&buffer, true);
    assert_eq!(vm.sync(SyncStart, blocked, READ), None);
    let first = vm.token();
    assert_eq!(vm.sync(SyncStart, blocked, BOTH), None);
    assert_eq!(vm.synced(SyncStart, free, READ), Ok((0, 1)));
    assert_eq!(vm.synced(SyncEnd, free, READ), Ok((0, 0)));
    assert!(vm.wait(free, FenceUsage::Read).unwrap().is_ok());
    kernel.block(&buffer, false);
    for (token, open) in [(first, 1), (first + 1, 2)] {
        let (answered, body) = vm.answered();
        assert_eq!((answered, synced(body)), (token, Ok((0, open))));
    }
}

#[test]
fn many_that_block_do_not_take_all_workers() {
    let (host, kernel) = fenced();
    let (mut producer, mut vm) = (producer(&host), consumer(&host));
    let blocked: Vec<_> = (0..20)
        .map(|i| opened(&mut producer, &mut vm, "dma", &format!("rw/{i}")))
        .collect();
    for (handle, buffer) in &blocked {
        kernel.block(buffer, true);
        assert_eq!(vm.sync(SyncStart, *handle, READ), None);
    }
    let mut other = consumer(&host);
    let (free, _) = opened(&mut producer, &mut other, "dma", "rw/free");
    assert_eq!(other.synced(SyncStart, free, READ), Ok((0, 1)));
    for (_, buffer) in &blocked {
        kernel.block(buffer, false);
    }
    for _ in 0..20 {
        assert_eq!(synced(vm.answered().1), Ok((0, 1)));
    }
    drop((vm, other));
    kernel.brackets(21, 21);
}

#[test]
fn closing_a_handle_ends_its_brackets() {
    let (host, kernel) = fenced();
    let (mut producer, mut vm) = (producer(&host), consumer(&host));
    let (handle, buffer) = opened(&mut producer, &mut vm, "dma", "rw/x");
    assert!(vm.synced(SyncStart, handle, READ).is_ok());
    assert!(vm.synced(SyncStart, handle, WRITE).is_ok());
    // One that a worker is at, one that waits for its turn, and one that waits for a fence.
    kernel.block(&buffer, true);
    assert_eq!(vm.sync(SyncStart, handle, READ), None);
    let first = vm.token();
    assert_eq!(vm.sync(SyncEnd, handle, WRITE), None);
    vm.close(handle).unwrap();
    for token in [first, first + 1] {
        assert_eq!(vm.answered(), (token, Err(Status::ECANCELED)));
    }
    kernel.brackets(2, 2);
    kernel.block(&buffer, false);
    wait_for(vm.session.fence_wake());
    assert!(vm.session.settle().is_empty(), "nobody is answered twice");
    kernel.brackets(3, 3);
    let (handle, buffer) = opened(&mut producer, &mut vm, "dma", "rw/y");
    kernel.attach(&buffer, true);
    assert_eq!(vm.sync(SyncStart, handle, READ), None);
    assert!(vm.wait(handle, FenceUsage::Read).is_none());
    vm.close(handle).unwrap();
    assert_eq!(vm.answered().1, Err(Status::ECANCELED));
    assert_eq!(vm.session.fence_counts().waits, 1, "a wait needs no handle");
    assert_eq!(host.fences.reactor.open(), 1);
    assert!(vm.session.settle().is_empty());
}

#[test]
fn a_reset_and_the_end_leave_no_bracket() {
    let (host, kernel) = fenced();
    let mut producer = producer(&host);
    let mut done = 0;
    for end in [false, true] {
        let mut vm = consumer(&host);
        let text = format!("rw/{end}");
        let (open, _) = opened(&mut producer, &mut vm, "dma", &text);
        let (blocked, buffer) = opened(&mut producer, &mut vm, "dma", &format!("{text}/blocked"));
        for _ in 0..3 {
            assert!(vm.synced(SyncStart, open, READ).is_ok());
        }
        kernel.block(&buffer, true);
        assert_eq!(vm.sync(SyncStart, blocked, BOTH), None);
        if end {
            drop(vm);
        } else {
            vm.session.reset();
            assert_eq!(vm.session.fence_counts(), FenceCounts::default());
        }
        kernel.brackets(done + 3, done + 3);
        kernel.block(&buffer, false);
        done += 4;
    }
    // The session that was reset has been dropped by now, with the result that nobody has taken.
    kernel.brackets(done, done);
}

#[test]
fn brackets_count_against_the_waits() {
    let (host, kernel) = fenced();
    let limits = Limits {
        waits: 2,
        ..policy().limits
    };
    let (mut producer, mut vm) = (
        producer(&host),
        consumer_with(&host, limits, FenceTerms::default()),
    );
    let (handle, _) = opened(&mut producer, &mut vm, "memfd", "rw/x");
    assert!(vm.synced(SyncStart, handle, READ).is_ok());
    assert!(vm.synced(SyncStart, handle, READ).is_ok());
    let busy = Err(Status::EBUSY);
    assert_eq!(vm.synced(SyncStart, handle, READ), busy);
    assert_eq!(
        vm.wait(handle, FenceUsage::Read)
            .map(|body| body.map(|_| ())),
        Some(Err(Status::EBUSY))
    );
    assert_eq!(vm.synced(SyncEnd, handle, READ), Ok((FENCE_NO_DMA_BUF, 1)));
    assert!(vm.synced(SyncStart, handle, READ).is_ok());
    vm.close(handle).unwrap();
    let (handle, _) = opened(&mut producer, &mut vm, "memfd", "rw/y");
    assert!(vm.synced(SyncStart, handle, READ).is_ok());
    kernel.brackets(0, 0);
}

#[test]
fn holds_need_a_grant_and_a_source() {
    let (host, _) = fenced();
    let mut producer = producer(&host);
    let hold = |vm: &mut Peer, handle: u64, usage| {
        let request = wait_request(handle, usage, 0);
        vm.call(OpCode::Hold, &request).unwrap_err()
    };
    let mut vm = consumer(&host);
    let (handle, _) = opened(&mut producer, &mut vm, "dma", "rw/x");
    assert_eq!(hold(&mut vm, handle, FenceUsage::Read), Status::EACCES);
    let terms = FenceTerms {
        host_fence: true,
        ..FenceTerms::default()
    };
    let mut vm = consumer_with(&host, policy().limits, terms);
    let (handle, _) = opened(&mut producer, &mut vm, "dma", "ro/x");
    assert_eq!(hold(&mut vm, handle, FenceUsage::Write), Status::EACCES);
    assert_eq!(hold(&mut vm, handle, FenceUsage::Read), Status::ENODEV);
    assert_eq!(hold(&mut vm, handle + 1, FenceUsage::Read), Status::ESTALE);
    vm.close(handle).unwrap();
}
