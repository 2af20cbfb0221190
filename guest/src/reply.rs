// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the host says, checked against SPEC.md before anybody uses it: bytes in, values that can't be wrong out.
//!
//! Pure functions: no device, no transport.

use crate::error::{Error, Result};
use crate::stream::{Frame, Stream, StreamInfo};
use crate::sync::Fences;
use core::time::Duration;
use dmabuf_protocol::request::{Format, OpCode, checked_format};
use dmabuf_protocol::wire::{self, BufferInfo};
use dmabuf_protocol::{
    Access, BufferId, Enforcement, Handle, HeapKind, MappingId, Name, PAGE_SIZE, Status, Uuid,
    VERSION,
};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// A buffer, as LIST and OPEN describe it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Its number, never used again.
    pub id: BufferId,
    /// Bytes, whole pages, not 0.
    pub size: u64,
    /// LIST: the most access that this VM can have. Otherwise the alias's access.
    pub access: Access,
    /// Who makes it read-only.
    pub enforcement: Enforcement,
    /// Where its memory comes from.
    pub heap: HeapKind,
    /// A MAP with this access is answered with a static window.
    pub static_window: bool,
    /// Layout of the picture in it, if known. Whether that picture fits into `size` is for its consumer to check.
    pub format: Option<Format>,
    /// Its name, while it is published.
    pub name: Option<Name>,
}

/// What GET_INFO tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// What the host calls this VM.
    pub name: Name,
    /// Handles held now.
    pub handles: u32,
    /// Mappings held now.
    pub mappings: u32,
    /// Whether the VMM honours read-only mappings, once the device has found out.
    pub honours_read_only: Option<bool>,
}

/// A heap that this VM may allocate from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heap {
    /// For [`crate::Device::alloc`].
    pub name: Name,
    /// Most bytes that one buffer can have.
    pub max_size: u64,
    /// What its buffers are.
    pub kind: HeapKind,
}

/// A MAP reply: something of that length is somewhere in that window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub mapping: MappingId,
    pub offset: u64,
    pub enforcement: Enforcement,
    /// `None`: the dynamic window.
    pub window: Option<Uuid>,
}

/// One page of LIST or STREAM_LIST.
pub(crate) struct Page<'a, E> {
    pub entries: &'a [E],
    /// 0: there are no more.
    pub next: u64,
}

const fn wrong<T>(what: &'static str) -> Result<T> {
    Err(Error::Protocol(what))
}

/// Checks the header of a reply to `op` with `tag`; returns the body.
pub(crate) fn body(reply: &[u8], op: OpCode, tag: u64) -> Result<&[u8]> {
    let Ok((header, body)) = wire::ReplyHeader::read_from_prefix(reply) else {
        return wrong("a reply is shorter than its header");
    };
    if header.op.get() != op.to_wire() || header.tag.get() != tag {
        return wrong("a reply to something else");
    }
    match Status(header.status.get()) {
        Status::OK => Ok(body),
        status => Err(Error::Refused(status)),
    }
}

/// The body as the structure that it has to be, no byte more or less.
fn exact<T: FromBytes>(body: &[u8]) -> Result<T> {
    T::read_from_bytes(body).or(wrong("a reply's length"))
}

/// A reply without a body.
pub(crate) fn empty(body: &[u8]) -> Result<()> {
    if body.is_empty() {
        Ok(())
    } else {
        wrong("a reply's length")
    }
}

pub(crate) fn info(body: &[u8]) -> Result<Info> {
    let info: wire::InfoReply = exact(body)?;
    if info.version.get() != VERSION {
        return wrong("GET_INFO has another version than the configuration space");
    }
    let honours_read_only = match info.probe.get() {
        0 => None,
        1 => Some(true),
        2 => Some(false),
        _ => return wrong("the probe's outcome"),
    };
    Ok(Info {
        name: Name::from_wire(info.name).or(wrong("the name of this VM"))?,
        handles: info.handles.get(),
        mappings: info.mappings.get(),
        honours_read_only,
    })
}

/// The heap of that index, and how many there are.
pub(crate) fn heap(body: &[u8], index: u32) -> Result<(Heap, u32)> {
    let reply: wire::HeapReply = exact(body)?;
    let kind = HeapKind::from_wire(reply.kind.get());
    let heap = Heap {
        name: Name::from_wire(reply.name).or(wrong("a heap's name"))?,
        max_size: reply.max_size.get(),
        kind: kind.or(wrong("a heap's kind"))?,
    };
    match reply.count.get() {
        count if count > index => Ok((heap, count)),
        _ => wrong("a heap that isn't there"),
    }
}

/// An entry of LIST or STREAM_LIST.
pub(crate) trait Entry: FromBytes + Immutable + KnownLayout {
    fn id(&self) -> u64;
}

impl Entry for BufferInfo {
    fn id(&self) -> u64 {
        self.id.get()
    }
}

impl Entry for wire::StreamInfo {
    fn id(&self) -> u64 {
        self.id.get()
    }
}

/// The body of LIST and STREAM_LIST.
pub(crate) fn list_request(cursor: u64) -> wire::ListRequest {
    wire::ListRequest {
        cursor: U64::new(cursor),
        max: U32::ZERO,
        reserved: U32::ZERO,
    }
}

/// A page of a list whose request had this cursor. The entries are in order, and `next` gets on.
pub(crate) fn page<E: Entry>(body: &[u8], cursor: u64) -> Result<Page<'_, E>> {
    let Ok((head, rest)) = wire::ListReply::ref_from_prefix(body) else {
        return wrong("a reply's length");
    };
    let Ok(entries) = <[E]>::ref_from_bytes(rest) else {
        return wrong("a reply's length");
    };
    if usize::try_from(head.count.get()) != Ok(entries.len()) {
        return wrong("a list has another number of entries than it says");
    }
    let mut last = cursor;
    for entry in entries {
        if entry.id() <= last {
            return wrong("a list isn't in order");
        }
        last = entry.id();
    }
    let next = head.next.get();
    if next != 0 && (next != last || entries.is_empty()) {
        return wrong("a list goes on somewhere else");
    }
    Ok(Page { entries, next })
}

pub(crate) fn stream_info(info: &wire::StreamInfo) -> Result<StreamInfo> {
    Ok(StreamInfo {
        id: info.id.get(),
        name: Name::from_wire(info.name).or(wrong("a stream's name"))?,
        produced: info.produced.get(),
        buffers: info.buffers.get(),
        consumers: info.consumers.get(),
        format: checked_format(info.format).or(wrong("a stream's format"))?,
    })
}

/// A STREAM_OPEN reply.
pub(crate) fn stream(body: &[u8]) -> Result<Stream> {
    let reply: wire::StreamOpenReply = exact(body)?;
    let (hold_ms, max_held) = (reply.hold_ms.get(), reply.max_held.get());
    if hold_ms == 0 || max_held == 0 || reply.buffers.get() > wire::STREAM_MAX_BUFFERS {
        return wrong("a stream's terms");
    }
    Ok(Stream {
        number: number(body)?,
        buffers: reply.buffers.get(),
        hold: Duration::from_millis(hold_ms.into()),
        max_held,
        format: checked_format(reply.format).or(wrong("a stream's format"))?,
        last: 0,
    })
}

/// A STREAM_ACQUIRE reply.
pub(crate) fn frame(body: &[u8]) -> Result<Frame> {
    let reply: wire::FrameReply = exact(body)?;
    if reply.index.get() >= wire::STREAM_MAX_BUFFERS {
        return wrong("a frame's buffer");
    }
    Ok(Frame {
        sequence: reply.sequence.get(),
        timestamp: Duration::from_nanos(reply.timestamp_ns.get()),
        skipped: reply.skipped.get(),
        index: reply.index.get(),
        fenced: reply.flags.get() & wire::FRAME_FENCED != 0,
        hold: Duration::from_millis(reply.hold_ms.get().into()),
        ready: reply.ready.get(),
    })
}

pub(crate) fn buffer(info: &BufferInfo) -> Result<Buffer> {
    let access = Access::from_wire(info.access.get()).or(wrong("a buffer's access"))?;
    let enforcement =
        Enforcement::from_wire(info.enforcement.get()).or(wrong("a buffer's enforcement"))?;
    let (id, size) = (info.id.get(), info.size.get());
    if id == 0 || size == 0 || !size.is_multiple_of(PAGE_SIZE) {
        return wrong("a buffer's number or size");
    }
    if access.can_write() != (enforcement == Enforcement::None) {
        return wrong("a buffer's enforcement");
    }
    let name = match info.name {
        [0, rest @ ..] if rest.iter().all(|byte| *byte == 0) => None,
        name => Some(Name::from_wire(name).or(wrong("a buffer's name"))?),
    };
    Ok(Buffer {
        id: BufferId(id),
        size,
        access,
        enforcement,
        heap: HeapKind::from_wire(info.heap.get()).or(wrong("a buffer's heap"))?,
        static_window: info.flags.get() & wire::BUFFER_STATIC_WINDOW != 0,
        format: checked_format(info.format).or(wrong("a buffer's format"))?,
        name,
    })
}

/// The number that the reply of an OPEN, DERIVE, MAP or STREAM_OPEN starts with: what has to be given back if the rest is
/// wrong.
pub(crate) fn number(body: &[u8]) -> Result<u64> {
    match U64::read_from_prefix(body) {
        Ok((number, _)) if number.get() != 0 => Ok(number.get()),
        _ => wrong("a number that isn't there"),
    }
}

/// What an OPEN or DERIVE reply gives, even if the rest of it is wrong.
pub(crate) fn handle(body: &[u8]) -> Result<Handle> {
    number(body).map(Handle)
}

/// The rest of an OPEN or DERIVE reply.
pub(crate) fn opened(body: &[u8], access: Access, least: Enforcement) -> Result<Buffer> {
    let reply: wire::OpenReply = exact(body)?;
    let buffer = buffer(&reply.buffer)?;
    if reply.fd_offset.get() != 0 || buffer.access != access {
        return wrong("OPEN gave something else than asked for");
    }
    if !access.can_write() && buffer.enforcement < least {
        return wrong("OPEN gave a weaker enforcement than asked for");
    }
    Ok(buffer)
}

/// What a MAP reply gives, even if the rest of it is wrong.
pub(crate) fn mapping(body: &[u8]) -> Result<MappingId> {
    number(body).map(MappingId)
}

/// The rest of a MAP reply.
pub(crate) fn place(body: &[u8], length: u64, access: Access, least: Enforcement) -> Result<Place> {
    let reply: wire::MapReply = exact(body)?;
    let enforcement =
        Enforcement::from_wire(reply.enforcement.get()).or(wrong("a mapping's enforcement"))?;
    if reply.length.get() != length || reply.access.get() != access.to_wire() {
        return wrong("MAP gave something else than asked for");
    }
    if access.can_write() != (enforcement == Enforcement::None)
        || (!access.can_write() && enforcement < least)
    {
        return wrong("a mapping's enforcement");
    }
    if !(1..=3).contains(&reply.caching.get()) {
        return wrong("a mapping's caching");
    }
    let uuid = Uuid(reply.uuid);
    let window = match reply.window.get() {
        wire::WINDOW_DYNAMIC if uuid == Uuid::NIL => None,
        // A static window is read-only, whatever the host says.
        wire::WINDOW_STATIC if uuid != Uuid::NIL && !access.can_write() => Some(uuid),
        _ => return wrong("a mapping's window"),
    };
    let offset = reply.window_offset.get();
    if !offset.is_multiple_of(PAGE_SIZE) {
        return wrong("a mapping's place");
    }
    Ok(Place {
        mapping: MappingId(reply.mapping.get()),
        offset,
        enforcement,
        window,
    })
}

/// A SYNC_START or SYNC_END reply: nothing in it matters here.
pub(crate) fn synced(body: &[u8]) -> Result<()> {
    exact::<wire::SyncReply>(body).map(|_| ())
}

/// A FENCE_WAIT reply: how many fences there were.
pub(crate) fn waited(body: &[u8]) -> Result<u32> {
    Ok(exact::<wire::FenceWaitReply>(body)?.fences.get())
}

/// A FENCE_QUERY reply.
pub(crate) fn fences(body: &[u8]) -> Result<Fences> {
    let reply: wire::FenceQueryReply = exact(body)?;
    match (reply.state.get(), reply.error.get()) {
        (wire::FENCE_PENDING, 0) => Ok(Fences::Pending),
        (wire::FENCE_SIGNALLED, 0) => Ok(Fences::Signalled),
        (wire::FENCE_FAILED, error) if error != 0 => Ok(Fences::Failed(error)),
        _ => wrong("the state of fences"),
    }
}
