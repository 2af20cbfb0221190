// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From the broker to the guest: checked, and completed with what only this process knows.

use super::Relay;
use super::link::{Lost, Message};
use super::memory::{self, Held};
use super::open::{Open, Purpose};
use super::requests::{request, room_for_stats};
use crate::session::{Asker, MAX_INFLIGHT};
use dmabuf_protocol::wire::{
    BUFFER_STATIC_WINDOW, BufferInfo, ConsumerInfo, EVENT_BUFFER_REVOKED, Event, FRAME_SYNC_FILE,
    FrameReply, HeapReply, InfoReply, ListReply, OpenReply, OpenRequest, ReplyHeader,
    StreamStatsReply,
};
use dmabuf_protocol::{Access, BufferId, Enforcement, Handle, OpCode, PAGE_SIZE, Status};
use rustix::fd::OwnedFd;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Every event's kind has this bit, no op has it.
const EVENT_BIT: u32 = 0x8000_0000;
/// Buffers of which it is remembered whether they are in a static window.
const MAX_KNOWN: usize = 4096;
const HEADER: usize = size_of::<ReplyHeader>();

const SHORT: Lost = Lost::Lie("a message without a whole header");
const LENGTH: Lost = Lost::Lie("a reply with a wrong length");
const FDS: Lost = Lost::Lie("a reply with a wrong number of fds");

impl Relay {
    pub(super) fn take_message(&mut self, message: Message) -> Result<(), Lost> {
        let (kind, _) = U32::read_from_prefix(&message.bytes).map_err(|_| SHORT)?;
        if kind.get() & EVENT_BIT == 0 {
            return self.take_reply(message);
        }
        if !message.fds.is_empty() {
            return Err(Lost::Lie("an event with fds"));
        }
        let event = Event::read_from_bytes(&message.bytes)
            .map_err(|_| Lost::Lie("an event with a wrong length"))?;
        self.events.push(event)?;
        if event.kind.get() == EVENT_BUFFER_REVOKED {
            self.announce(BufferId(event.buffer.get()), event.value.get());
        }
        Ok(())
    }

    fn take_reply(&mut self, Message { bytes, mut fds }: Message) -> Result<(), Lost> {
        let (header, body) = ReplyHeader::read_from_prefix(&bytes).map_err(|_| SHORT)?;
        let tag = header.tag.get();
        let open = self.open.get(&tag);
        let open = open.filter(|open| open.op.to_wire() == header.op.get());
        let open = open.ok_or(Lost::Lie("a reply that nobody asked for"))?;
        let status = Status(header.status.get());
        let fine = status == Status::OK;
        if !(fine && open.fits(&bytes) || !fine && body.is_empty()) {
            return Err(LENGTH);
        }
        let brings_alias = fine && open.op.brings_alias();
        // An fd that is no alias means nothing to a guest.
        let most = usize::from(fine);
        if fds.len() > most || brings_alias && fds.is_empty() {
            return Err(FDS);
        }
        let granted = match fds.pop() {
            Some(fd) if brings_alias => Some(self.granted(open, &bytes, fd)?),
            _ => None,
        };
        let Some(open) = self.open.remove(&tag) else {
            return Ok(());
        };
        match (granted, fine) {
            (Some((handle, held)), _) => self.take_handle(open, bytes, handle, held),
            (None, true) => self.done(open, bytes),
            (None, false) => self.refused(open, status, bytes),
        }
        Ok(())
    }

    fn granted(&self, open: &Open, reply: &[u8], fd: OwnedFd) -> Result<(Handle, Held), Lost> {
        let (_, body) = reply.split_at_checked(HEADER).ok_or(SHORT)?;
        let reply = OpenReply::read_from_bytes(body).map_err(|_| LENGTH)?;
        let handle = Handle(reply.handle.get());
        if self.handles.contains_key(&handle) {
            return Err(Lost::Lie("a handle that was given out already"));
        }
        let own = self.makes_own(open);
        let held = memory::take(&reply, fd, own, &self.broker.fixed)?;
        Ok((handle, held))
    }

    /// A request that gave out a handle.
    fn take_handle(&mut self, open: Open, mut bytes: Vec<u8>, handle: Handle, held: Held) {
        let fixed = self.is_fixed(&held);
        if let Some(fixed) = fixed {
            self.learn(held.alias.buffer().id().0, fixed);
        }
        match (open.asker, open.purpose) {
            (
                Some(asker),
                Purpose::Map {
                    handle: parent,
                    offset,
                    length,
                    access,
                },
            ) => {
                self.give_back(handle);
                if let Some(Some(parent)) = self.handles.get_mut(&parent) {
                    parent.read_only = Some(held.alias);
                }
                let mapped = self.map_now(asker, parent, offset, length, access);
                self.answer(asker, mapped);
            }
            (asker, Purpose::Look { list, .. }) => {
                self.give_back(handle);
                if let Some(asker) = asker {
                    self.look(asker, open.capacity, list);
                }
            }
            (Some(asker), _) => {
                if let Some(reply) = bytes
                    .get_mut(HEADER..)
                    .and_then(|body| OpenReply::mut_from_bytes(body).ok())
                {
                    reply.fd_offset = 0.into();
                    reply.buffer.flags = flag(fixed == Some(true));
                }
                self.handles.insert(handle, Some(held));
                self.reply(asker, bytes);
            }
            (None, _) => self.give_back(handle),
        }
    }

    fn give_back(&mut self, handle: Handle) {
        self.send_quietly(OpCode::Close, &handle.0.to_le_bytes(), Purpose::Undo);
    }

    /// Any other that the broker has carried out.
    fn done(&mut self, open: Open, mut bytes: Vec<u8>) {
        if open.op == OpCode::Revoke {
            self.announce_own(open.handle(), open.deadline_ms());
        }
        let Some(asker) = open.asker else {
            if open.op == OpCode::Close {
                // Perhaps that of a guest which was told that it took too long.
                self.handles.remove(&open.handle());
            }
            if !matches!(open.purpose, Purpose::Life)
                && let Some((op, body)) = open.undo(&bytes)
            {
                self.send_quietly(op, &body, Purpose::Undo);
            }
            return;
        };
        let body = bytes.get_mut(HEADER..).unwrap_or_default();
        match (open.op, open.purpose) {
            (OpCode::GetInfo, _) => {
                if let Ok(info) = InfoReply::mut_from_bytes(body) {
                    info.max_inflight = MAX_INFLIGHT.into();
                    self.windows.describe(info);
                }
            }
            (OpCode::HeapList, _) => {
                if let Ok(heap) = HeapReply::mut_from_bytes(body) {
                    let room = self.windows.room() & !(PAGE_SIZE - 1);
                    heap.max_size = heap.max_size.get().min(room).into();
                }
            }
            (OpCode::StreamStats, Purpose::Stats { from }) => {
                bytes = page_of_stats(&bytes, from, room_for_stats(open.capacity));
            }
            (OpCode::List, _) => return self.look(asker, open.capacity, bytes),
            _ => {}
        }
        self.reply(asker, bytes);
    }

    fn refused(&mut self, open: Open, status: Status, bytes: Vec<u8>) {
        match (open.asker, open.purpose) {
            (
                Some(asker),
                Purpose::Map {
                    handle,
                    offset,
                    length,
                    access,
                },
            ) => {
                // What is left is what the VMM enforces.
                let mapped = self.map_now(asker, handle, offset, length, access);
                self.answer(asker, mapped);
            }
            (Some(asker), Purpose::Look { id, list }) => {
                self.learn(id, false);
                self.look(asker, open.capacity, list);
            }
            (Some(asker), purpose) => {
                if status != Status::ESTALE {
                    self.put_back(purpose);
                }
                self.reply(asker, bytes);
            }
            (None, _) => {}
        }
    }

    /// Answers a LIST, or first opens an entry of which it isn't known whether a static window has it.
    fn look(&mut self, asker: Asker, capacity: usize, mut list: Vec<u8>) {
        let unknown = entries(&mut list)
            .iter()
            .find(|entry| self.can_be_fixed(entry) && !self.fixed.contains_key(&entry.id.get()));
        if let Some(entry) = unknown {
            let id = entry.id.get();
            let body = OpenRequest {
                name: entry.name,
                ..FromZeros::new_zeroed()
            };
            let purpose = Purpose::Look { id, list };
            let message = request(OpCode::Open, body.as_bytes());
            let sent = self.forward(OpCode::Open, (asker, capacity), message, purpose);
            if sent.is_err() {
                self.answer(asker, sent);
            }
            return;
        }
        for entry in entries(&mut list) {
            let fixed = self.fixed.get(&entry.id.get()) == Some(&true);
            entry.flags = flag(fixed && self.can_be_fixed(entry));
        }
        self.reply(asker, list);
    }

    /// Whether an entry of LIST can be a slot of a pool that the VM has.
    fn can_be_fixed(&self, entry: &BufferInfo) -> bool {
        !self.broker.fixed.is_empty()
            && entry.access.get() == Access::ReadOnly.to_wire()
            && entry.enforcement.get() == Enforcement::Sealed.to_wire()
    }

    /// Whether an alias is in a static window; `None` for one that could be written, which doesn't tell.
    fn is_fixed(&self, held: &Held) -> Option<bool> {
        let access = held.alias.access();
        (access == Access::ReadOnly).then(|| self.windows.is_fixed(held.alias.buffer(), access))
    }

    fn learn(&mut self, buffer: u64, fixed: bool) {
        if self.fixed.len() >= MAX_KNOWN {
            self.fixed.clear();
        }
        self.fixed.insert(buffer, fixed);
    }

    fn answer(&mut self, asker: Asker, answer: Result<Option<crate::session::Body>, Status>) {
        if let Some(answer) = answer.transpose() {
            let done = crate::session::done(asker.token, asker.envelope, answer);
            self.late.push(done);
        }
    }

    /// A reply of the broker, as one to the guest's request.
    fn reply(&mut self, asker: Asker, mut bytes: Vec<u8>) {
        if let Ok((header, _)) = ReplyHeader::mut_from_prefix(&mut bytes) {
            header.op = asker.envelope.op.into();
            header.tag = asker.envelope.tag.into();
        }
        // A sync_file that came along stays here: a guest has FENCE_WAIT.
        if asker.envelope.op == OpCode::StreamAcquire.to_wire()
            && let Some(body) = bytes.get_mut(HEADER..)
            && let Ok(frame) = FrameReply::mut_from_bytes(body)
        {
            frame.flags = (frame.flags.get() & !FRAME_SYNC_FILE).into();
        }
        self.late.push(crate::session::Done {
            token: asker.token,
            reply: bytes,
            along: None,
        });
    }
}

fn flag(fixed: bool) -> U32 {
    U32::new(if fixed { BUFFER_STATIC_WINDOW } else { 0 })
}

/// The entries of a LIST reply.
fn entries(list: &mut [u8]) -> &mut [BufferInfo] {
    list.get_mut(HEADER + size_of::<ListReply>()..)
        .and_then(|rest| <[BufferInfo]>::mut_from_bytes(rest).ok())
        .unwrap_or_default()
}

/// Of a STREAM_STATS reply, the consumers from one on, as many as there is room for.
fn page_of_stats(reply: &[u8], from: usize, room: usize) -> Vec<u8> {
    const HEAD: usize = HEADER + size_of::<StreamStatsReply>();
    let (head, all) = reply.split_at_checked(HEAD).unwrap_or_default();
    let all = all.chunks_exact(size_of::<ConsumerInfo>());
    let total = all.len();
    let page: Vec<u8> = all.skip(from).take(room).flatten().copied().collect();
    let count = page.len() / size_of::<ConsumerInfo>();
    let end = from.saturating_add(count);
    let mut bytes = [head, &page].concat();
    if let Some(head) = bytes
        .get_mut(HEADER..HEAD)
        .and_then(|head| StreamStatsReply::mut_from_bytes(head).ok())
    {
        head.count = u32::try_from(count).unwrap_or(u32::MAX).into();
        let next = if end < total && count > 0 { end } else { 0 };
        head.next = u32::try_from(next).unwrap_or(u32::MAX).into();
    }
    bytes
}
