// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Requests: bytes in, a checked [`Request`] out. All validation that needs no state is here.
//!
//! Lengths are exact: a request that is shorter or longer than its structure is [`Status::EINVAL`], and so is one
//! with a reserved field that isn't zero. Called by every transport; knows none.

use crate::fence::{self, FenceUsage, SyncDirection};
use crate::revoke::{self, RevokeTarget};
use crate::status::Status;
use crate::stream::{self, StreamRequest};
use crate::types::{Access, Enforcement, Flags, Handle, MappingId, NAME_LEN, Name};
use crate::wire;
use crate::{PAGE_SIZE, QUEUE_CONTROL, QUEUE_FENCE};
use zerocopy::FromBytes;

macro_rules! opcodes {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $text:literal, $reply:expr;)*) => {
        /// The requests this version knows. SPEC.md keeps room for the rest.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum OpCode { $($(#[$doc])* $name = $value,)* }

        impl OpCode {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The value on the wire.
            #[must_use]
            pub const fn to_wire(self) -> u32 {
                match self { $(Self::$name => $value,)* }
            }

            /// The name in SPEC.md.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Bytes that the smallest successful reply needs, header included.
            #[must_use]
            pub const fn min_reply(self) -> usize {
                size_of::<wire::ReplyHeader>() + match self { $(Self::$name => $reply,)* }
            }
        }

        impl TryFrom<u32> for OpCode {
            type Error = Status;

            fn try_from(raw: u32) -> Result<Self, Status> {
                match raw { $($value => Ok(Self::$name),)* _ => Err(Status::EOPNOTSUPP) }
            }
        }
    };
}

opcodes! {
    /// What the device is and what this peer has.
    GetInfo = 0x01, "GET_INFO", size_of::<wire::InfoReply>();
    /// What this peer may open.
    List = 0x02, "LIST", size_of::<wire::ListReply>() + size_of::<wire::BufferInfo>();
    /// A handle for a buffer, by name.
    Open = 0x03, "OPEN", size_of::<wire::OpenReply>();
    /// Give a handle back.
    Close = 0x04, "CLOSE", 0;
    /// Make (a part of) a buffer appear in a window.
    Map = 0x05, "MAP", size_of::<wire::MapReply>();
    /// Undo a MAP.
    Unmap = 0x06, "UNMAP", 0;
    /// A second handle with the same or less access.
    Derive = 0x07, "DERIVE", size_of::<wire::OpenReply>();
    /// What peers use of what they may have.
    GetUsage = 0x08, "GET_USAGE", size_of::<wire::ListReply>() + size_of::<wire::PeerUsage>();
    /// Begin CPU access.
    SyncStart = 0x10, "SYNC_START", size_of::<wire::SyncReply>();
    /// End CPU access.
    SyncEnd = 0x11, "SYNC_END", size_of::<wire::SyncReply>();
    /// Wait for the fences that a buffer has now.
    FenceWait = 0x20, "FENCE_WAIT", size_of::<wire::FenceWaitReply>();
    /// End a wait.
    FenceCancel = 0x21, "FENCE_CANCEL", 0;
    /// Look at the fences that a buffer has now.
    FenceQuery = 0x22, "FENCE_QUERY", size_of::<wire::FenceQueryReply>();
    /// Tell a buffer's producer that this peer is done with it.
    Release = 0x23, "RELEASE", 0;
    /// Put a fence on a buffer while this peer uses it.
    Hold = 0x24, "HOLD", size_of::<wire::HoldReply>();
    /// A new buffer from a heap.
    Alloc = 0x30, "ALLOC", size_of::<wire::OpenReply>();
    /// A buffer that the peer brings along.
    Import = 0x31, "IMPORT", size_of::<wire::OpenReply>();
    /// Name an allocated buffer, so that others can open it.
    Publish = 0x32, "PUBLISH", 0;
    /// Take a published buffer back.
    Withdraw = 0x33, "WITHDRAW", 0;
    /// One of the heaps that the peer may allocate from.
    HeapList = 0x34, "HEAP_LIST", size_of::<wire::HeapReply>();
    /// Take a buffer away from all who have it.
    Revoke = 0x35, "REVOKE", 0;
    /// Become a consumer of a stream.
    StreamOpen = 0x40, "STREAM_OPEN", size_of::<wire::StreamOpenReply>();
    /// Give an end of a stream back.
    StreamClose = 0x41, "STREAM_CLOSE", 0;
    /// A handle for one of a stream's buffers.
    StreamBuffer = 0x42, "STREAM_BUFFER", size_of::<wire::OpenReply>();
    /// Take the next frame.
    StreamAcquire = 0x43, "STREAM_ACQUIRE", size_of::<wire::FrameReply>();
    /// Give a frame back.
    StreamRelease = 0x44, "STREAM_RELEASE", 0;
    /// What a stream's producer and consumers have done.
    StreamStats = 0x45, "STREAM_STATS", size_of::<wire::StreamStatsReply>();
    /// Which streams this peer may open.
    StreamList = 0x46, "STREAM_LIST", size_of::<wire::ListReply>() + size_of::<wire::StreamInfo>();
    /// Become the producer of a new stream.
    StreamCreate = 0x48, "STREAM_CREATE", size_of::<wire::StreamCreateReply>();
    /// Add a buffer to a stream.
    StreamAdd = 0x49, "STREAM_ADD", size_of::<wire::StreamIndexReply>();
    /// Hand a frame to the consumers.
    StreamQueue = 0x4a, "STREAM_QUEUE", size_of::<wire::StreamQueueReply>();
    /// Take a buffer back that nobody uses any more.
    StreamReclaim = 0x4b, "STREAM_RECLAIM", size_of::<wire::StreamIndexReply>();
    /// End a stream, and take its buffers away from all who have them.
    StreamRevoke = 0x4c, "STREAM_REVOKE", 0;
}

impl OpCode {
    /// Whether a successful reply gives out a handle, and on the socket the fd of its alias.
    #[must_use]
    pub const fn brings_alias(self) -> bool {
        matches!(
            self,
            Self::Open | Self::Derive | Self::Alloc | Self::Import | Self::StreamBuffer
        )
    }

    /// The virtqueue that takes it.
    #[must_use]
    pub const fn queue(self) -> u16 {
        match self {
            Self::FenceWait | Self::FenceCancel | Self::FenceQuery => QUEUE_FENCE,
            _ => QUEUE_CONTROL,
        }
    }
}

/// The layout of a picture, checked: see [`wire::Format`].
pub type Format = wire::Format;

/// A request whose every field is valid in itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// GET_INFO
    GetInfo,
    /// LIST
    List {
        /// 0, or the `next` of the page before.
        cursor: u64,
        /// Most entries wanted; 0: as many as fit.
        max: u32,
    },
    /// OPEN
    Open {
        /// The buffer.
        name: Name,
        /// Access wanted.
        flags: Flags,
        /// Least enforcement wanted.
        enforcement: Enforcement,
    },
    /// CLOSE
    Close(Handle),
    /// MAP
    Map {
        /// The alias.
        handle: Handle,
        /// First byte, page-aligned.
        offset: u64,
        /// Bytes, whole pages, not 0; `offset + length` does not overflow.
        length: u64,
        /// Access wanted.
        access: Access,
    },
    /// UNMAP
    Unmap(MappingId),
    /// DERIVE
    Derive {
        /// The parent.
        handle: Handle,
        /// Access wanted.
        flags: Flags,
        /// Least enforcement wanted.
        enforcement: Enforcement,
    },
    /// GET_USAGE
    GetUsage {
        /// 0, or the `next` of the page before.
        cursor: u64,
        /// Most entries wanted; 0: as many as fit.
        max: u32,
    },
    /// SYNC_START
    SyncStart {
        /// The alias.
        handle: Handle,
        /// What the CPU will do.
        direction: SyncDirection,
    },
    /// SYNC_END
    SyncEnd {
        /// The alias.
        handle: Handle,
        /// As in the SYNC_START that it ends.
        direction: SyncDirection,
    },
    /// FENCE_WAIT
    FenceWait {
        /// The alias.
        handle: Handle,
        /// What it is to be ready for.
        usage: FenceUsage,
        /// Longest wait in milliseconds; 0: the grant's.
        timeout_ms: u32,
    },
    /// FENCE_CANCEL
    FenceCancel {
        /// The `tag` of the FENCE_WAIT.
        tag: u64,
    },
    /// FENCE_QUERY
    FenceQuery {
        /// The alias.
        handle: Handle,
        /// What it is to be ready for.
        usage: FenceUsage,
    },
    /// RELEASE
    Release {
        /// The alias.
        handle: Handle,
        /// Handed to the producer as it is.
        value: u64,
    },
    /// HOLD
    Hold {
        /// The alias.
        handle: Handle,
        /// What this peer does with the buffer.
        usage: FenceUsage,
        /// Longest hold in milliseconds; 0: the grant's.
        timeout_ms: u32,
    },
    /// ALLOC
    Alloc {
        /// Heap or pool.
        heap: Name,
        /// Bytes wanted, not 0.
        size: u64,
    },
    /// IMPORT
    Import {
        /// The name it is to have.
        name: Name,
        /// Whether it stays when its producer leaves.
        keep: bool,
        /// Picture layout, if known.
        format: Option<Format>,
    },
    /// PUBLISH
    Publish {
        /// A handle from ALLOC.
        handle: Handle,
        /// The name it is to have.
        name: Name,
        /// Whether it stays when its producer leaves.
        keep: bool,
        /// Picture layout, if known.
        format: Option<Format>,
    },
    /// WITHDRAW
    Withdraw(Name),
    /// HEAP_LIST
    HeapList {
        /// Which one, counted from 0.
        index: u32,
    },
    /// REVOKE
    Revoke {
        /// The buffer.
        target: RevokeTarget,
        /// Time that the peers get, in milliseconds.
        deadline_ms: u32,
    },
    /// The requests about streams.
    Stream(StreamRequest),
}

/// What can be known of a request even when it is malformed: enough to answer it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The raw `op`, 0 if the request is too short to have one.
    pub op: u32,
    /// The sender's tag, 0 if the request is too short to have one.
    pub tag: u64,
}

impl Envelope {
    /// Reads what is there of a header.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        match wire::RequestHeader::read_from_prefix(bytes) {
            Ok((header, _)) => Self {
                op: header.op.get(),
                tag: header.tag.get(),
            },
            Err(_) => Self { op: 0, tag: 0 },
        }
    }

    /// The header of a reply to this request.
    #[must_use]
    pub const fn reply(self, status: Status) -> wire::ReplyHeader {
        wire::ReplyHeader {
            op: zerocopy::little_endian::U32::new(self.op),
            status: zerocopy::little_endian::U32::new(status.0),
            tag: zerocopy::little_endian::U64::new(self.tag),
        }
    }
}

impl Request {
    /// Longest request in bytes, header included.
    pub const MAX_LEN: usize = size_of::<wire::RequestHeader>() + size_of::<wire::PublishRequest>();

    /// Parses one whole request.
    ///
    /// # Errors
    /// [`Status::EINVAL`] for a wrong length, a reserved field that isn't zero, or a field whose value has no meaning;
    /// [`Status::EOPNOTSUPP`] for an unknown `op`.
    pub fn parse(bytes: &[u8]) -> Result<Self, Status> {
        let (header, body) =
            wire::RequestHeader::read_from_prefix(bytes).map_err(|_| Status::EINVAL)?;
        if header.reserved.get() != 0 {
            return Err(Status::EINVAL);
        }
        let op = OpCode::try_from(header.op.get())?;
        match op {
            OpCode::GetInfo => body
                .is_empty()
                .then_some(Self::GetInfo)
                .ok_or(Status::EINVAL),
            OpCode::List => {
                let (cursor, max) = page(exact(body)?)?;
                Ok(Self::List { cursor, max })
            }
            OpCode::Open => parse_open(exact(body)?),
            OpCode::Close => Ok(Self::Close(Handle(
                exact::<wire::CloseRequest>(body)?.handle.get(),
            ))),
            OpCode::Map => parse_map(exact(body)?),
            OpCode::Unmap => Ok(Self::Unmap(MappingId(
                exact::<wire::UnmapRequest>(body)?.mapping.get(),
            ))),
            OpCode::Derive => parse_derive(exact(body)?),
            OpCode::GetUsage => {
                let (cursor, max) = page(exact(body)?)?;
                Ok(Self::GetUsage { cursor, max })
            }
            OpCode::StreamOpen
            | OpCode::StreamClose
            | OpCode::StreamBuffer
            | OpCode::StreamAcquire
            | OpCode::StreamRelease
            | OpCode::StreamStats
            | OpCode::StreamList
            | OpCode::StreamCreate
            | OpCode::StreamAdd
            | OpCode::StreamQueue
            | OpCode::StreamReclaim => stream::parse(op, body).map(Self::Stream),
            OpCode::SyncStart
            | OpCode::SyncEnd
            | OpCode::FenceWait
            | OpCode::FenceCancel
            | OpCode::FenceQuery
            | OpCode::Release
            | OpCode::Hold => fence::parse(op, body),
            OpCode::Revoke | OpCode::StreamRevoke => revoke::parse(op, body),
            OpCode::Alloc => parse_alloc(exact(body)?),
            OpCode::Import => parse_import(exact(body)?),
            OpCode::Publish => parse_publish(exact(body)?),
            OpCode::Withdraw => Ok(Self::Withdraw(Name::from_wire(
                exact::<wire::WithdrawRequest>(body)?.name,
            )?)),
            OpCode::HeapList => parse_heap_list(exact(body)?),
        }
    }

    /// Which request it is.
    #[must_use]
    pub const fn op(&self) -> OpCode {
        match self {
            Self::GetInfo => OpCode::GetInfo,
            Self::List { .. } => OpCode::List,
            Self::Open { .. } => OpCode::Open,
            Self::Close(_) => OpCode::Close,
            Self::Map { .. } => OpCode::Map,
            Self::Unmap(_) => OpCode::Unmap,
            Self::Derive { .. } => OpCode::Derive,
            Self::GetUsage { .. } => OpCode::GetUsage,
            Self::SyncStart { .. } => OpCode::SyncStart,
            Self::SyncEnd { .. } => OpCode::SyncEnd,
            Self::FenceWait { .. } => OpCode::FenceWait,
            Self::FenceCancel { .. } => OpCode::FenceCancel,
            Self::FenceQuery { .. } => OpCode::FenceQuery,
            Self::Release { .. } => OpCode::Release,
            Self::Hold { .. } => OpCode::Hold,
            Self::Alloc { .. } => OpCode::Alloc,
            Self::Import { .. } => OpCode::Import,
            Self::Publish { .. } => OpCode::Publish,
            Self::Withdraw(_) => OpCode::Withdraw,
            Self::HeapList { .. } => OpCode::HeapList,
            Self::Revoke { .. } => OpCode::Revoke,
            Self::Stream(request) => request.op(),
        }
    }
}

pub(crate) fn exact<T: FromBytes>(body: &[u8]) -> Result<T, Status> {
    T::read_from_bytes(body).map_err(|_| Status::EINVAL)
}

pub(crate) fn zero(value: u64) -> Result<(), Status> {
    if value == 0 {
        Ok(())
    } else {
        Err(Status::EINVAL)
    }
}

/// Cursor and most entries of a request for a page of a list.
pub(crate) fn page(body: wire::ListRequest) -> Result<(u64, u32), Status> {
    zero(body.reserved.get().into())?;
    Ok((body.cursor.get(), body.max.get()))
}

fn parse_open(body: wire::OpenRequest) -> Result<Request, Status> {
    Ok(Request::Open {
        name: Name::from_wire(body.name)?,
        flags: Flags(body.flags.get()),
        enforcement: Enforcement::from_wire(body.enforcement.get())?,
    })
}

fn parse_map(body: wire::MapRequest) -> Result<Request, Status> {
    zero(body.reserved.get().into())?;
    let (offset, length) = (body.offset.get(), body.length.get());
    let aligned = offset.is_multiple_of(PAGE_SIZE) && length.is_multiple_of(PAGE_SIZE);
    if length == 0 || !aligned || offset.checked_add(length).is_none() {
        return Err(Status::EINVAL);
    }
    let access = Access::from_wire(body.access.get())?;
    Ok(Request::Map {
        handle: Handle(body.handle.get()),
        offset,
        length,
        access,
    })
}

fn parse_derive(body: wire::DeriveRequest) -> Result<Request, Status> {
    Ok(Request::Derive {
        handle: Handle(body.handle.get()),
        flags: Flags(body.flags.get()),
        enforcement: Enforcement::from_wire(body.enforcement.get())?,
    })
}

fn parse_alloc(body: wire::AllocRequest) -> Result<Request, Status> {
    zero(body.flags.get())?;
    let size = body.size.get();
    if size == 0 || size.checked_next_multiple_of(PAGE_SIZE).is_none() {
        return Err(Status::EINVAL);
    }
    Ok(Request::Alloc {
        heap: Name::from_wire(body.heap)?,
        size,
    })
}

fn parse_import(body: wire::ImportRequest) -> Result<Request, Status> {
    let (name, keep, format) = published(body.name, body.flags.get(), body.format)?;
    Ok(Request::Import { name, keep, format })
}

fn parse_publish(body: wire::PublishRequest) -> Result<Request, Status> {
    let (name, keep, format) = published(body.name, body.flags.get(), body.format)?;
    Ok(Request::Publish {
        handle: Handle(body.handle.get()),
        name,
        keep,
        format,
    })
}

fn parse_heap_list(body: wire::HeapListRequest) -> Result<Request, Status> {
    zero(body.reserved.get().into())?;
    Ok(Request::HeapList {
        index: body.index.get(),
    })
}

fn published(
    name: [u8; NAME_LEN],
    flags: u64,
    format: Format,
) -> Result<(Name, bool, Option<Format>), Status> {
    zero(flags & !wire::PUBLISH_KEEP)?;
    Ok((
        Name::from_wire(name)?,
        flags & wire::PUBLISH_KEEP != 0,
        checked_format(format)?,
    ))
}

/// A format is either all zero, which is `None`, or has a fourcc, a size, 1 to 4 planes, and zero in the planes not
/// used. Both sides check it.
///
/// # Errors
/// [`Status::EINVAL`] for anything else.
pub fn checked_format(format: Format) -> Result<Option<Format>, Status> {
    if format == <Format as zerocopy::FromZeros>::new_zeroed() {
        return Ok(None);
    }
    let planes = usize::try_from(format.num_planes.get()).map_err(|_| Status::EINVAL)?;
    let unused = |fields: &[zerocopy::little_endian::U32; 4]| {
        fields.iter().skip(planes).all(|f| f.get() == 0)
    };
    let sized = format.fourcc.get() != 0 && format.width.get() != 0 && format.height.get() != 0;
    let planes_ok = (1..=4).contains(&planes) && unused(&format.offset) && unused(&format.stride);
    if !sized || !planes_ok || format.reserved.get() != 0 {
        return Err(Status::EINVAL);
    }
    Ok(Some(format))
}
