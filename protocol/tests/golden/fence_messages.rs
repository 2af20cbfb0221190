// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The vectors of sync, fences, release and hold, built from the wire structures.

use crate::messages::{HANDLE, reply, request};
use dmabuf_protocol::wire::*;
use dmabuf_protocol::{FenceUsage, OpCode, Status, SyncDirection};

pub const RELEASE_VALUE: u64 = 0x0102_0304_0506_0708;
pub const WAIT_TAG: u64 = 0x8877_6655_4433_2211;

/// All of them with their names.
pub fn all() -> Vec<(&'static str, Vec<u8>)> {
    let mut all = sync();
    all.extend(waits());
    all.extend(releases());
    all
}

fn sync() -> Vec<(&'static str, Vec<u8>)> {
    let body = |direction: SyncDirection| SyncRequest {
        handle: HANDLE.into(),
        flags: direction.to_wire().into(),
        reserved: 0.into(),
    };
    let answer = |flags: u32, open: u32| SyncReply {
        flags: flags.into(),
        open: open.into(),
    };
    vec![
        (
            "sync_start.request",
            request(OpCode::SyncStart, 13, &body(SyncDirection::Read)),
        ),
        (
            "sync_start.reply",
            reply(OpCode::SyncStart, 13, Status::OK, &answer(0, 2)),
        ),
        (
            "sync_end.request",
            request(OpCode::SyncEnd, 14, &body(SyncDirection::ReadWrite)),
        ),
        (
            "sync_end.reply",
            reply(
                OpCode::SyncEnd,
                14,
                Status::OK,
                &answer(FENCE_NO_DMA_BUF, 1),
            ),
        ),
    ]
}

fn waits() -> Vec<(&'static str, Vec<u8>)> {
    let wait = FenceWaitRequest {
        handle: HANDLE.into(),
        usage: FenceUsage::Read.to_wire().into(),
        timeout_ms: 1500.into(),
    };
    let waited = FenceWaitReply {
        flags: 0.into(),
        fences: 3.into(),
        timestamp_ns: 123_456_789_012.into(),
    };
    let cancel = FenceCancelRequest {
        tag: WAIT_TAG.into(),
    };
    let query = FenceQueryRequest {
        handle: HANDLE.into(),
        usage: FenceUsage::Write.to_wire().into(),
        reserved: 0.into(),
    };
    let failed = FenceQueryReply {
        flags: 0.into(),
        fences: 2.into(),
        state: FENCE_FAILED.into(),
        error: Status::EIO.0.into(),
    };
    vec![
        (
            "fence_wait.request",
            request(OpCode::FenceWait, WAIT_TAG, &wait),
        ),
        (
            "fence_wait.reply",
            reply(OpCode::FenceWait, WAIT_TAG, Status::OK, &waited),
        ),
        (
            "fence_wait.cancelled",
            reply(OpCode::FenceWait, WAIT_TAG, Status::ECANCELED, &()),
        ),
        (
            "fence_wait.orphaned",
            reply(OpCode::FenceWait, WAIT_TAG, Status::EOWNERDEAD, &()),
        ),
        (
            "fence_cancel.request",
            request(OpCode::FenceCancel, 15, &cancel),
        ),
        (
            "fence_cancel.reply",
            reply(OpCode::FenceCancel, 15, Status::OK, &()),
        ),
        (
            "fence_query.request",
            request(OpCode::FenceQuery, 16, &query),
        ),
        (
            "fence_query.reply",
            reply(OpCode::FenceQuery, 16, Status::OK, &failed),
        ),
    ]
}

fn releases() -> Vec<(&'static str, Vec<u8>)> {
    let release = ReleaseRequest {
        handle: HANDLE.into(),
        value: RELEASE_VALUE.into(),
    };
    let hold = HoldRequest {
        handle: HANDLE.into(),
        usage: FenceUsage::Read.to_wire().into(),
        timeout_ms: 20_000.into(),
    };
    let held = HoldReply {
        timeout_ms: 5000.into(),
        reserved: 0.into(),
    };
    vec![
        ("release.request", request(OpCode::Release, 17, &release)),
        ("release.reply", reply(OpCode::Release, 17, Status::OK, &())),
        ("hold.request", request(OpCode::Hold, 18, &hold)),
        ("hold.reply", reply(OpCode::Hold, 18, Status::OK, &held)),
    ]
}
