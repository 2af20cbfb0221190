// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A queue of requests, control or fence: one request at a time for the caller, and a place for those that were given up.
//!
//! A request without a reply keeps its slot, because the memory is the device's. If it is answered after all, what it
//! gave is given back: a late OPEN is closed, a late MAP undone. Nobody else knows of them.

use crate::error::{Error, Result};
use crate::reply;
use crate::sys::SlotQueue;
use crate::{Platform, TIME_LIMIT};
use core::time::Duration;
use dmabuf_protocol::request::{OpCode, Request};
use dmabuf_protocol::wire;
use virtio_drivers::Hal;
use virtio_drivers::transport::Transport;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{Immutable, IntoBytes};

/// Requests that can be with the device, those given up included.
const SLOTS: usize = 4;
/// Space for a request.
const REQUEST: usize = Request::MAX_LEN;
/// Space for a reply: LIST gets five buffers at a time.
pub(crate) const REPLY: usize = 864;

const _: () = assert!(SLOTS * (REQUEST + REPLY) == 4096);

/// What a reply has to match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sent {
    op: OpCode,
    tag: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Free,
    /// Its caller waits.
    Open(Sent),
    /// Its caller has given up.
    Late(Sent),
}

/// A reply's bytes, of which nothing but the length is known to be right.
pub(crate) struct Reply {
    bytes: [u8; REPLY],
    length: usize,
    sent: Sent,
}

impl Reply {
    /// The body, if the request succeeded.
    pub fn body(&self) -> Result<&[u8]> {
        let bytes = self.bytes.get(..self.length);
        reply::body(bytes.unwrap_or_default(), self.sent.op, self.sent.tag)
    }
}

/// A queue and its requests.
pub(crate) struct Control<H: Hal> {
    queue: SlotQueue<H>,
    slots: [Slot; SLOTS],
    next_tag: u64,
    limit: Duration,
}

impl<H: Hal> Control<H> {
    pub fn new<T: Transport>(transport: &mut T, index: u16) -> Result<Self> {
        Ok(Self {
            queue: SlotQueue::new(transport, index, SLOTS, REQUEST, REPLY)?,
            slots: [Slot::Free; SLOTS],
            next_tag: 1,
            limit: TIME_LIMIT,
        })
    }

    pub fn set_limit(&mut self, limit: Duration) {
        self.limit = limit;
    }

    /// Sends a request and waits for its reply.
    pub fn call<T: Transport>(
        &mut self,
        transport: &mut T,
        platform: &impl Platform,
        op: OpCode,
        body: &(impl IntoBytes + Immutable),
    ) -> Result<Reply> {
        let (start, limit) = (platform.now(), self.limit);
        let in_time = || platform.now().saturating_sub(start) < limit;
        // Before a slot is used again: what comes for it now can't be taken for its next reply.
        while self.collect(transport)?.is_some() {}
        let slot = loop {
            if let Some(free) = self.slots.iter().position(|slot| *slot == Slot::Free) {
                break free;
            }
            if self.collect(transport)?.is_none() {
                if !in_time() {
                    return Err(Error::Busy);
                }
                platform.idle();
            }
        };
        let sent = self.send(transport, slot, op, body.as_bytes())?;
        self.set(slot, Slot::Open(sent));
        loop {
            match self.collect(transport)? {
                Some(reply) if reply.sent == sent => return Ok(reply),
                Some(_) => {}
                None if in_time() => platform.idle(),
                None => {
                    self.set(slot, Slot::Late(sent));
                    return Err(Error::TimedOut);
                }
            }
        }
    }

    fn send<T: Transport>(
        &mut self,
        transport: &mut T,
        slot: usize,
        op: OpCode,
        body: &[u8],
    ) -> Result<Sent> {
        let tag = self.next_tag;
        self.next_tag = tag.wrapping_add(1);
        let header = wire::RequestHeader {
            op: op.to_wire().into(),
            reserved: U32::ZERO,
            tag: tag.into(),
        };
        let mut request = [0; REQUEST];
        let length = size_of_val(&header) + body.len();
        let (head, rest) = request.split_at_mut(size_of_val(&header));
        head.copy_from_slice(header.as_bytes());
        rest.get_mut(..body.len())
            .ok_or(Error::Argument("the request is too long"))?
            .copy_from_slice(body);
        let request = request.get(..length).unwrap_or_default();
        self.queue.send(transport, slot, request)?;
        Ok(Sent { op, tag })
    }

    /// Takes one reply from the queue: that of the waiting caller, or a late one, which is dealt with here.
    fn collect<T: Transport>(&mut self, transport: &mut T) -> Result<Option<Reply>> {
        let Some((slot, length)) = self.queue.take()? else {
            return Ok(None);
        };
        let state = self.slots.get(slot).copied().unwrap_or(Slot::Free);
        self.set(slot, Slot::Free);
        let (Slot::Open(sent) | Slot::Late(sent)) = state else {
            return Err(Error::Broken);
        };
        let mut reply = Reply {
            bytes: [0; REPLY],
            length,
            sent,
        };
        // More than there was space for is a lie about memory: as good as a wrong descriptor.
        let bytes = reply.bytes.get_mut(..length).ok_or(Error::Broken)?;
        self.queue.read(slot, bytes)?;
        if matches!(state, Slot::Late(_)) {
            self.give_back(transport, slot, &reply)?;
        }
        Ok(Some(reply))
    }

    /// Undoes what a late reply has given, in the slot it came from.
    fn give_back<T: Transport>(
        &mut self,
        transport: &mut T,
        slot: usize,
        late: &Reply,
    ) -> Result<()> {
        let Ok(body) = late.body() else { return Ok(()) };
        let undo = match late.sent.op {
            OpCode::Open | OpCode::Derive | OpCode::Alloc | OpCode::StreamBuffer => OpCode::Close,
            OpCode::Map => OpCode::Unmap,
            OpCode::StreamOpen => OpCode::StreamClose,
            _ => return Ok(()),
        };
        if let Ok(number) = reply::number(body) {
            let sent = self.send(transport, slot, undo, U64::new(number).as_bytes())?;
            self.set(slot, Slot::Late(sent));
        }
        Ok(())
    }

    fn set(&mut self, slot: usize, state: Slot) {
        if let Some(slot) = self.slots.get_mut(slot) {
            *slot = state;
        }
    }
}
