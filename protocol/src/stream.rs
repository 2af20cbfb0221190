// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Streams (SPEC.md, "Device operation: streams"): their structures, values and parsing.

use crate::request::{OpCode, checked_format, exact, page, zero};
use crate::status::Status;
use crate::types::{Enforcement, Handle, Name};
use crate::wire::Format;

/// The structures, byte for byte; part of [`crate::wire`].
pub(crate) mod wire {
    use crate::types::NAME_LEN;
    use crate::wire::{Format, wire};
    use zerocopy::little_endian::{U32, U64};
    use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

    wire! {
        /// Body of the STREAM_OPEN request.
        StreamOpenRequest [80] {
            /// The stream's name.
            name: [u8; NAME_LEN],
            /// 1 latest, 2 fifo.
            mode: U32,
            /// fifo: most frames that wait, 1 to 64; latest: 0.
            depth: U32,
            /// Longest hold of a frame in milliseconds; 0: the grant's.
            hold_ms: U32,
            /// Zero.
            reserved: U32,
        }

        /// Body of the STREAM_OPEN reply.
        StreamOpenReply [96] {
            /// The new consumer.
            stream: U64,
            /// Number of buffers now. It can grow until the stream ends.
            buffers: U32,
            /// Longest hold of a frame in milliseconds.
            hold_ms: U32,
            /// Most frames held at once.
            max_held: U32,
            /// Zero.
            reserved: U32,
            /// The stream's number, never used again.
            id: U64,
            /// Layout of the frames, if known.
            format: Format,
        }

        /// Body of the STREAM_CLOSE, STREAM_ACQUIRE and STREAM_RECLAIM requests.
        StreamRequestBody [8] {
            /// The consumer or producer.
            stream: U64,
        }

        /// Body of the STREAM_BUFFER request; its reply is [`crate::wire::OpenReply`].
        StreamBufferRequest [16] {
            /// The consumer.
            stream: U64,
            /// The buffer's index.
            index: U32,
            /// The least enforcement wanted; 0: what the grant demands.
            enforcement: U32,
        }

        /// Body of the STREAM_ACQUIRE reply.
        FrameReply [40] {
            /// Counts up by 1 from 1 over the life of the stream.
            sequence: U64,
            /// When it was captured, in nanoseconds of the host's `CLOCK_MONOTONIC`.
            timestamp_ns: U64,
            /// Frames that this consumer has skipped so far.
            skipped: U64,
            /// Index of its buffer.
            index: U32,
            /// [`FRAME_FENCED`], and with that [`FRAME_SYNC_FILE`], or 0.
            flags: U32,
            /// Time until the hold ends by itself, in milliseconds.
            hold_ms: U32,
            /// Frames that are ready after this one.
            ready: U32,
        }

        /// Body of the STREAM_RELEASE request.
        StreamReleaseRequest [16] {
            /// The consumer.
            stream: U64,
            /// The frame's sequence number.
            sequence: U64,
        }

        /// Body of the STREAM_STATS request.
        StreamStatsRequest [72] {
            /// The stream's name.
            name: [u8; NAME_LEN],
            /// 0 for the first page of consumers, then the `next` of the reply before.
            cursor: U32,
            /// Zero.
            reserved: U32,
        }

        /// Body of the STREAM_STATS reply, followed by `count` [`ConsumerInfo`].
        StreamStatsReply [40] {
            /// Frames queued.
            produced: U64,
            /// Buffers.
            buffers: U32,
            /// Of those, with the producer.
            with_producer: U32,
            /// Of those, free: used by nobody, and not reclaimed.
            free: U32,
            /// Consumers.
            consumers: U32,
            /// Entries that follow.
            count: U32,
            /// Cursor of the next page; 0: this was the last.
            next: U32,
            /// Zero.
            reserved: U64,
        }

        /// One consumer. `produced - joined = delivered + skipped + ready`.
        ConsumerInfo [112] {
            /// The peer's name.
            peer: [u8; NAME_LEN],
            /// 1 latest, 2 fifo.
            mode: U32,
            /// fifo: most frames that wait; latest: 0.
            depth: U32,
            /// Frames queued before it joined.
            joined: U64,
            /// Frames it acquired.
            delivered: U64,
            /// Frames it was too slow for.
            skipped: U64,
            /// Holds that ended by their deadline.
            expired: U64,
            /// Frames that are ready for it.
            ready: U32,
            /// Frames it holds.
            held: U32,
        }

        /// One stream, as STREAM_LIST shows it. The list's request and the head of its reply are those of LIST.
        StreamInfo [160] {
            /// Its number, never used again.
            id: U64,
            /// Frames queued.
            produced: U64,
            /// Buffers.
            buffers: U32,
            /// Consumers.
            consumers: U32,
            /// Zero.
            reserved: U64,
            /// Layout of the frames, if known.
            format: Format,
            /// Its name.
            name: [u8; NAME_LEN],
        }

        /// Body of the STREAM_CREATE request.
        StreamCreateRequest [136] {
            /// The name it is to have.
            name: [u8; NAME_LEN],
            /// Zero.
            flags: U64,
            /// Layout of the frames, or all zero.
            format: Format,
        }

        /// Body of the STREAM_CREATE reply.
        StreamCreateReply [16] {
            /// The new producer.
            stream: U64,
            /// The stream's number, never used again.
            id: U64,
        }

        /// Body of the STREAM_ADD request.
        StreamAddRequest [16] {
            /// The producer.
            stream: U64,
            /// A handle from ALLOC or IMPORT.
            handle: U64,
        }

        /// Body of the STREAM_ADD and STREAM_RECLAIM replies.
        StreamIndexReply [8] {
            /// The buffer's index.
            index: U32,
            /// Zero.
            reserved: U32,
        }

        /// Body of the STREAM_QUEUE request.
        StreamQueueRequest [24] {
            /// The producer.
            stream: U64,
            /// When it was captured, in nanoseconds of the host's `CLOCK_MONOTONIC`; 0: now.
            timestamp_ns: U64,
            /// The buffer's index.
            index: U32,
            /// [`FRAME_FENCED`] or 0.
            flags: U32,
        }

        /// Body of the STREAM_QUEUE reply.
        StreamQueueReply [8] {
            /// The frame's sequence number.
            sequence: U64,
        }
    }

    /// `flags` of a frame: the buffer has fences that tell when it is finished: FENCE_WAIT for reading.
    pub const FRAME_FENCED: u32 = 1;
    /// `flags` of a frame's reply on the socket: a sync_file came along, of the fences that tell when it is finished.
    pub const FRAME_SYNC_FILE: u32 = 2;
    /// `mode` of a consumer that gets the newest frame.
    pub const MODE_LATEST: u32 = 1;
    /// `mode` of a consumer that gets all frames, up to `depth` that wait.
    pub const MODE_FIFO: u32 = 2;
    /// Most frames that wait for a consumer, and most buffers of a stream.
    pub const STREAM_MAX_BUFFERS: u32 = 64;
    /// [`crate::wire::Event::kind`]: a frame is ready for this consumer, after there was none. `buffer` is the
    /// consumer, `name` the stream's.
    pub const EVENT_FRAME: u32 = 0x8000_0010;
    /// [`crate::wire::Event::kind`]: this consumer's stream has ended. `buffer` is the consumer, `name` the stream's.
    pub const EVENT_STREAM_WITHDRAWN: u32 = 0x8000_0011;
    /// [`crate::wire::Event::kind`]: a stream that this peer may open was created. `buffer` is its number.
    pub const EVENT_STREAM_ADDED: u32 = 0x8000_0012;
    /// [`crate::wire::Event::kind`]: this producer can reclaim a buffer, after there was none. `buffer` is the producer,
    /// `name` the stream's.
    pub const EVENT_STREAM_FREE: u32 = 0x8000_0013;
}

/// Which frames a consumer gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConsumeMode {
    /// The newest one.
    Latest,
    /// All, up to this many that wait: 1 to 64.
    Fifo(u8),
}

impl ConsumeMode {
    /// `mode` and `depth` on the wire.
    #[must_use]
    pub fn to_wire(self) -> (u32, u32) {
        match self {
            Self::Latest => (wire::MODE_LATEST, 0),
            Self::Fifo(depth) => (wire::MODE_FIFO, depth.into()),
        }
    }

    /// The reverse of [`Self::to_wire`].
    ///
    /// # Errors
    /// [`Status::EINVAL`] for an unknown mode, or a depth that it can't have.
    pub fn from_wire(mode: u32, depth: u32) -> Result<Self, Status> {
        match (mode, depth) {
            (wire::MODE_LATEST, 0) => Ok(Self::Latest),
            (wire::MODE_FIFO, 1..=wire::STREAM_MAX_BUFFERS) => {
                let depth = u8::try_from(depth).map_err(|_| Status::EINVAL)?;
                Ok(Self::Fifo(depth))
            }
            _ => Err(Status::EINVAL),
        }
    }
}

/// A request about streams whose every field is valid in itself. `stream` is a consumer or producer of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamRequest {
    /// STREAM_OPEN
    Open {
        /// The stream.
        name: Name,
        /// Which frames.
        mode: ConsumeMode,
        /// Longest hold in milliseconds; 0: the grant's.
        hold_ms: u32,
    },
    /// STREAM_CLOSE
    Close(u64),
    /// STREAM_BUFFER
    Buffer {
        /// The consumer.
        stream: u64,
        /// The buffer.
        index: u32,
        /// Least enforcement wanted.
        enforcement: Enforcement,
    },
    /// STREAM_ACQUIRE
    Acquire(u64),
    /// STREAM_RELEASE
    Release {
        /// The consumer.
        stream: u64,
        /// The frame.
        sequence: u64,
    },
    /// STREAM_STATS
    Stats {
        /// The stream.
        name: Name,
        /// 0, or the `next` of the page before.
        cursor: u32,
    },
    /// STREAM_LIST
    List {
        /// 0, or the `next` of the page before.
        cursor: u64,
        /// Most entries wanted; 0: as many as fit.
        max: u32,
    },
    /// STREAM_CREATE
    Create {
        /// The name it is to have.
        name: Name,
        /// Layout of the frames, if known.
        format: Option<Format>,
    },
    /// STREAM_ADD
    Add {
        /// The producer.
        stream: u64,
        /// The buffer.
        handle: Handle,
    },
    /// STREAM_QUEUE
    Queue {
        /// The producer.
        stream: u64,
        /// The buffer.
        index: u32,
        /// When it was captured; 0: now.
        timestamp_ns: u64,
        /// `FRAME_*`.
        flags: u32,
    },
    /// STREAM_RECLAIM
    Reclaim(u64),
    /// STREAM_REVOKE
    Revoke {
        /// The producer.
        stream: u64,
        /// Time that the peers get, in milliseconds.
        deadline_ms: u32,
    },
}

impl StreamRequest {
    /// Which request it is.
    #[must_use]
    pub const fn op(&self) -> OpCode {
        match self {
            Self::Open { .. } => OpCode::StreamOpen,
            Self::Close(_) => OpCode::StreamClose,
            Self::Buffer { .. } => OpCode::StreamBuffer,
            Self::Acquire(_) => OpCode::StreamAcquire,
            Self::Release { .. } => OpCode::StreamRelease,
            Self::Stats { .. } => OpCode::StreamStats,
            Self::List { .. } => OpCode::StreamList,
            Self::Create { .. } => OpCode::StreamCreate,
            Self::Add { .. } => OpCode::StreamAdd,
            Self::Queue { .. } => OpCode::StreamQueue,
            Self::Reclaim(_) => OpCode::StreamReclaim,
            Self::Revoke { .. } => OpCode::StreamRevoke,
        }
    }
}

/// Parses the body of one of the requests of this module; `op` is one of theirs.
pub(crate) fn parse(op: OpCode, body: &[u8]) -> Result<StreamRequest, Status> {
    let end = || Ok(exact::<wire::StreamRequestBody>(body)?.stream.get());
    Ok(match op {
        OpCode::StreamOpen => {
            let body: wire::StreamOpenRequest = exact(body)?;
            zero(body.reserved.get().into())?;
            StreamRequest::Open {
                name: Name::from_wire(body.name)?,
                mode: ConsumeMode::from_wire(body.mode.get(), body.depth.get())?,
                hold_ms: body.hold_ms.get(),
            }
        }
        OpCode::StreamClose => StreamRequest::Close(end()?),
        OpCode::StreamBuffer => {
            let body: wire::StreamBufferRequest = exact(body)?;
            StreamRequest::Buffer {
                stream: body.stream.get(),
                index: body.index.get(),
                enforcement: Enforcement::from_wire(body.enforcement.get())?,
            }
        }
        OpCode::StreamAcquire => StreamRequest::Acquire(end()?),
        OpCode::StreamRelease => {
            let body: wire::StreamReleaseRequest = exact(body)?;
            StreamRequest::Release {
                stream: body.stream.get(),
                sequence: body.sequence.get(),
            }
        }
        OpCode::StreamStats => {
            let body: wire::StreamStatsRequest = exact(body)?;
            zero(body.reserved.get().into())?;
            StreamRequest::Stats {
                name: Name::from_wire(body.name)?,
                cursor: body.cursor.get(),
            }
        }
        OpCode::StreamList => {
            let (cursor, max) = page(exact(body)?)?;
            StreamRequest::List { cursor, max }
        }
        OpCode::StreamCreate => {
            let body: wire::StreamCreateRequest = exact(body)?;
            zero(body.flags.get())?;
            StreamRequest::Create {
                name: Name::from_wire(body.name)?,
                format: checked_format(body.format)?,
            }
        }
        OpCode::StreamAdd => {
            let body: wire::StreamAddRequest = exact(body)?;
            StreamRequest::Add {
                stream: body.stream.get(),
                handle: Handle(body.handle.get()),
            }
        }
        OpCode::StreamQueue => {
            let body: wire::StreamQueueRequest = exact(body)?;
            zero(u64::from(body.flags.get() & !wire::FRAME_FENCED))?;
            StreamRequest::Queue {
                stream: body.stream.get(),
                index: body.index.get(),
                timestamp_ns: body.timestamp_ns.get(),
                flags: body.flags.get(),
            }
        }
        OpCode::StreamReclaim => StreamRequest::Reclaim(end()?),
        _ => return Err(Status::EOPNOTSUPP),
    })
}
