// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Requests that the broker has not answered yet, and what a right answer looks like.

use super::memory::Held;
use crate::session::Asker;
use dmabuf_protocol::wire::{
    BufferInfo, ConsumerInfo, ListReply, PeerUsage, ReplyHeader, StreamInfo, StreamStatsReply,
};
use dmabuf_protocol::{Access, Handle, OpCode};
use std::time::{Duration, Instant};
use zerocopy::FromBytes;

/// How long the broker may take for a request, or for a sign of life while it takes longer for a wait.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// A request on its way.
#[derive(Debug)]
pub struct Open {
    pub op: OpCode,
    /// The guest's request that it is for; `None`: nobody waits for it, or not any more.
    pub asker: Option<Asker>,
    /// Most bytes of a reply.
    pub capacity: usize,
    /// When it is answered without the broker; `None`: when the broker shows no sign of life.
    pub deadline: Option<Instant>,
    pub purpose: Purpose,
    /// The start of its body.
    pub subject: [u8; 16],
}

/// What is to be done with the reply.
#[derive(Debug)]
pub enum Purpose {
    /// It goes to the guest, with what this process knows better.
    Reply,
    /// CLOSE, and what goes with it.
    Close(Handle, Option<Held>),
    /// STREAM_STATS whose first consumers the guest has had.
    Stats { from: usize },
    /// DERIVE, so that a read-only mapping of a read-write alias can be made.
    Map {
        handle: Handle,
        offset: u64,
        length: u64,
        access: Access,
    },
    /// OPEN, to see whether an entry of this LIST reply is in a static window.
    Look { id: u64, list: Vec<u8> },
    /// Whether the broker lives.
    Life,
    /// To undo what came too late.
    Undo,
}

/// Whether the broker may take as long as a grant says.
pub const fn is_slow(op: OpCode) -> bool {
    matches!(
        op,
        OpCode::SyncStart | OpCode::SyncEnd | OpCode::FenceWait | OpCode::Hold
    )
}

impl Open {
    /// Whether a successful reply has the length that it must have.
    pub fn fits(&self, reply: &[u8]) -> bool {
        let body = reply.get(size_of::<ReplyHeader>()..).unwrap_or_default();
        let right = match self.op {
            OpCode::List => counted::<BufferInfo>(body),
            OpCode::GetUsage => counted::<PeerUsage>(body),
            OpCode::StreamList => counted::<StreamInfo>(body),
            OpCode::StreamStats => StreamStatsReply::read_from_prefix(body)
                .is_ok_and(|(head, rest)| entries::<ConsumerInfo>(rest, head.count.get())),
            op => reply.len() == op.min_reply(),
        };
        // Of STREAM_STATS the guest gets as much as it has room for.
        right && (self.op == OpCode::StreamStats || reply.len() <= self.capacity)
    }

    /// The handle that it starts with, if its kind does.
    pub fn handle(&self) -> Handle {
        let raw = self.subject.first_chunk().copied();
        Handle(u64::from_le_bytes(raw.unwrap_or_default()))
    }

    /// How long everybody has, of REVOKE.
    pub fn deadline_ms(&self) -> u64 {
        let raw = self.subject.get(8..).and_then(<[u8]>::first_chunk);
        u32::from_le_bytes(raw.copied().unwrap_or_default()).into()
    }

    /// The request that undoes this one, which was answered when nobody waited for it any more.
    pub fn undo(&self, reply: &[u8]) -> Option<(OpCode, Vec<u8>)> {
        let body = reply.get(size_of::<ReplyHeader>()..)?;
        let number = || body.get(..8).map(<[u8]>::to_vec);
        match self.op {
            op if op.brings_alias() => Some((OpCode::Close, number()?)),
            OpCode::StreamOpen | OpCode::StreamCreate => Some((OpCode::StreamClose, number()?)),
            OpCode::StreamAcquire => {
                let (stream, _) = self.subject.split_at(8);
                Some((OpCode::StreamRelease, [stream, &number()?].concat()))
            }
            OpCode::SyncStart => Some((OpCode::SyncEnd, self.subject.to_vec())),
            _ => None,
        }
    }
}

fn counted<T>(body: &[u8]) -> bool {
    ListReply::read_from_prefix(body).is_ok_and(|(head, rest)| entries::<T>(rest, head.count.get()))
}

fn entries<T>(bytes: &[u8], count: u32) -> bool {
    usize::try_from(count)
        .ok()
        .and_then(|count| count.checked_mul(size_of::<T>()))
        == Some(bytes.len())
}

/// How many entries fit behind the head of a list into so many bytes.
pub const fn room<H, E>(capacity: usize) -> usize {
    capacity.saturating_sub(size_of::<ReplyHeader>() + size_of::<H>()) / size_of::<E>()
}
