// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From the guest to the broker: what is handed on, what is changed on the way, and what never leaves.

use super::open::{DEADLINE, Open, Purpose, is_slow, room};
use super::{Relay, link::Lost};
use crate::session::{Answer, Asker, Body, Done, Windows, done};
use dmabuf_protocol::request::Envelope;
use dmabuf_protocol::stream::StreamRequest;
use dmabuf_protocol::wire::{
    BufferInfo, ConsumerInfo, DeriveRequest, ListReply, PeerUsage, RequestHeader, StreamInfo,
};
use dmabuf_protocol::{Access, Handle, OpCode, Request, Status};
use std::time::Instant;
use zerocopy::{FromZeros, IntoBytes};

/// Most requests on their way to the broker and back.
const MAX_OPEN: usize = 512;
/// Room besides for those that nobody waits for.
const MAX_QUIET: usize = 512;

/// Without a body the answer comes later.
type Sent = Result<Option<Body>, Status>;

impl Relay {
    pub(super) fn take(&mut self, token: u64, bytes: &[u8], capacity: usize) -> Option<Done> {
        let envelope = Envelope::of(bytes);
        let asker = Asker { token, envelope };
        let answer: Answer = self.carry_out(asker, bytes, capacity).transpose()?;
        Some(done(token, envelope, answer))
    }

    fn carry_out(&mut self, asker: Asker, bytes: &[u8], capacity: usize) -> Sent {
        let request = Request::parse(bytes)?;
        let op = request.op();
        if capacity < op.min_reply() {
            return Err(Status::EMSGSIZE);
        }
        if !self.offers(op) {
            return Err(Status::EOPNOTSUPP);
        }
        if self.fresh {
            self.connect();
        }
        if !self.link.is_up() && op != OpCode::Unmap {
            return Err(Status::EIO);
        }
        let mut message = bytes.to_vec();
        let mut purpose = Purpose::Reply;
        match request {
            Request::Map {
                handle,
                offset,
                length,
                access,
            } => return self.map(asker, handle, offset, length, access),
            Request::Unmap(mapping) => return self.windows.unmap(asker, mapping),
            Request::Close(handle) => return self.close(asker, handle),
            Request::FenceCancel { tag } => {
                let tag = self.wait_with(tag).ok_or(Status::ENOENT)?;
                set(&mut message, BODY, &tag.to_le_bytes());
            }
            Request::List { max, .. } => {
                at_most(&mut message, max, room::<ListReply, BufferInfo>(capacity))
            }
            Request::GetUsage { max, .. } => {
                at_most(&mut message, max, room::<ListReply, PeerUsage>(capacity));
            }
            Request::Stream(StreamRequest::List { max, .. }) => {
                at_most(&mut message, max, room::<ListReply, StreamInfo>(capacity));
            }
            // The broker gives all of them at once: which of those the guest gets is decided here.
            Request::Stream(StreamRequest::Stats { cursor, .. }) => {
                set(&mut message, CURSOR_OF_STATS, &[0; 4]);
                let from = usize::try_from(cursor).unwrap_or(usize::MAX);
                purpose = Purpose::Stats { from };
            }
            _ => {}
        }
        self.forward(op, (asker, capacity), message, purpose)
    }

    /// Whether a guest of this VM can ask for this at all. Whether it may, the broker says.
    fn offers(&self, op: OpCode) -> bool {
        match op {
            OpCode::Import => false,
            OpCode::Alloc | OpCode::HeapList => self.broker.terms.allocates,
            _ => true,
        }
    }

    /// Sends a request of the guest.
    pub(super) fn forward(
        &mut self,
        op: OpCode,
        (asker, capacity): (Asker, usize),
        message: Vec<u8>,
        purpose: Purpose,
    ) -> Sent {
        if self.open.len() >= MAX_OPEN {
            return Err(Status::EBUSY);
        }
        let now = Instant::now();
        let slow = is_slow(op);
        if slow {
            self.life.get_or_insert(now + DEADLINE);
        }
        let open = Open {
            op,
            asker: Some(asker),
            capacity,
            deadline: (!slow).then(|| now + DEADLINE),
            purpose,
            subject: subject_of(&message),
        };
        self.send(open, message);
        Ok(None)
    }

    /// Sends a request that the guest knows nothing of.
    pub(super) fn send_quietly(&mut self, op: OpCode, body: &[u8], purpose: Purpose) {
        if self.link.is_up() && self.open.len() < MAX_OPEN + MAX_QUIET {
            let message = request(op, body);
            let open = Open {
                op,
                asker: None,
                capacity: usize::MAX,
                deadline: Some(Instant::now() + DEADLINE),
                purpose,
                subject: subject_of(&message),
            };
            self.send(open, message);
        }
    }

    fn send(&mut self, open: Open, mut message: Vec<u8>) {
        self.last_tag += 1;
        set(&mut message, TAG, &self.last_tag.to_le_bytes());
        self.open.insert(self.last_tag, open);
        let sent: Result<(), Lost> = self.link.send(self.last_tag, message);
        if let Err(lost) = sent {
            self.lost(lost);
        }
    }

    /// The oldest wait of the guest that has this tag there.
    fn wait_with(&self, tag: u64) -> Option<u64> {
        let is_it = |open: &Open| {
            open.op == OpCode::FenceWait
                && open.asker.is_some_and(|asker| asker.envelope.tag == tag)
        };
        self.open
            .iter()
            .find_map(|(number, open)| is_it(open).then_some(*number))
    }

    fn close(&mut self, asker: Asker, handle: Handle) -> Sent {
        let mapped =
            |open: &Open| matches!(open.purpose, Purpose::Map { handle: of, .. } if of == handle);
        if !self.handles.contains_key(&handle) {
            return Err(Status::ESTALE);
        }
        if self.windows.uses(handle) || self.open.values().any(mapped) {
            return Err(Status::EBUSY);
        }
        let held = self.handles.remove(&handle).ok_or(Status::ESTALE)?;
        let purpose = Purpose::Close(handle, held);
        let capacity = OpCode::Close.min_reply();
        let message = request(OpCode::Close, &handle.0.to_le_bytes());
        if self.open.len() >= MAX_OPEN {
            self.put_back(purpose);
            return Err(Status::EBUSY);
        }
        self.forward(OpCode::Close, (asker, capacity), message, purpose)
    }

    /// A handle that wasn't closed after all.
    pub(super) fn put_back(&mut self, purpose: Purpose) {
        if let Purpose::Close(handle, held) = purpose {
            self.handles.insert(handle, held);
        }
    }

    fn map(
        &mut self,
        asker: Asker,
        handle: Handle,
        offset: u64,
        length: u64,
        access: Access,
    ) -> Sent {
        let held = self.held(handle)?;
        Windows::check(&held.alias, offset, length, access)?;
        let derives = access < held.alias.access() && held.read_only.is_none();
        if !derives {
            return self.map_now(asker, handle, offset, length, access);
        }
        // Only the broker can derive what the kernel enforces, and knows where in a pool it is.
        let body = DeriveRequest {
            handle: handle.0.into(),
            ..FromZeros::new_zeroed()
        };
        let purpose = Purpose::Map {
            handle,
            offset,
            length,
            access,
        };
        let capacity = OpCode::Derive.min_reply();
        let message = request(OpCode::Derive, body.as_bytes());
        self.forward(OpCode::Derive, (asker, capacity), message, purpose)
    }

    pub(super) fn map_now(
        &mut self,
        asker: Asker,
        handle: Handle,
        offset: u64,
        length: u64,
        access: Access,
    ) -> Sent {
        let held = self.held(handle)?;
        let alias = match &held.read_only {
            Some(read_only) if access == Access::ReadOnly => read_only,
            _ => &held.alias,
        };
        let alias = alias.clone();
        self.windows
            .map(asker, (handle, &alias, false), offset, length, access)
    }
}

/// Where a request has its tag, and what follows its header.
const TAG: usize = 8;
const BODY: usize = size_of::<RequestHeader>();
/// Where STREAM_STATS has its `cursor`.
const CURSOR_OF_STATS: usize = BODY + 64;
/// Where LIST and STREAM_LIST have their `max`.
const MAX_OF_LIST: usize = BODY + 8;

/// A request without its tag.
pub(super) fn request(op: OpCode, body: &[u8]) -> Vec<u8> {
    let header = RequestHeader {
        op: op.to_wire().into(),
        ..FromZeros::new_zeroed()
    };
    [header.as_bytes(), body].concat()
}

/// Asks for no more entries than the guest has room for.
fn at_most(list: &mut [u8], max: u32, fit: usize) {
    let fit = u32::try_from(fit).unwrap_or(u32::MAX);
    let most = if max == 0 { fit } else { max.min(fit) };
    set(list, MAX_OF_LIST, &most.to_le_bytes());
}

fn set(message: &mut [u8], at: usize, value: &[u8]) {
    let field = message.iter_mut().skip(at);
    field.zip(value).for_each(|(to, from)| *to = *from);
}

fn subject_of(message: &[u8]) -> [u8; 16] {
    let mut subject = [0; 16];
    let body = message.iter().skip(BODY);
    subject
        .iter_mut()
        .zip(body)
        .for_each(|(to, from)| *to = *from);
    subject
}

/// How many consumers the guest has room for.
pub(super) const fn room_for_stats(capacity: usize) -> usize {
    room::<dmabuf_protocol::wire::StreamStatsReply, ConsumerInfo>(capacity)
}
