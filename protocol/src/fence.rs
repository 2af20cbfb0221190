// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! SYNC, FENCE, RELEASE, HOLD (SPEC.md, "Device operation: sync and fences"): their structures, values and parsing.

use crate::request::{OpCode, Request, exact, zero};
use crate::status::Status;
use crate::types::Handle;

/// The structures, byte for byte; part of [`crate::wire`].
pub(crate) mod wire {
    use crate::wire::wire;
    use zerocopy::little_endian::{U32, U64};
    use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

    wire! {
        /// Body of the SYNC_START and SYNC_END requests.
        SyncRequest [16] {
            /// The handle.
            handle: U64,
            /// See [`crate::fence::SyncDirection`].
            flags: U32,
            /// Zero.
            reserved: U32,
        }

        /// Body of the SYNC_START and SYNC_END replies.
        SyncReply [8] {
            /// [`FENCE_NO_DMA_BUF`] or 0.
            flags: U32,
            /// Brackets of this handle that are open now.
            open: U32,
        }

        /// Body of the FENCE_WAIT request.
        FenceWaitRequest [16] {
            /// The handle.
            handle: U64,
            /// See [`crate::fence::FenceUsage`].
            usage: U32,
            /// Longest wait in milliseconds; 0: the grant's.
            timeout_ms: U32,
        }

        /// Body of the FENCE_WAIT reply.
        FenceWaitReply [16] {
            /// [`FENCE_NO_DMA_BUF`] or 0.
            flags: U32,
            /// Fences in the snapshot.
            fences: U32,
            /// When the last of them signalled, in nanoseconds of the host's `CLOCK_MONOTONIC`; 0 if there was none.
            timestamp_ns: U64,
        }

        /// Body of the FENCE_CANCEL request.
        FenceCancelRequest [8] {
            /// The `tag` of the FENCE_WAIT that is to end.
            tag: U64,
        }

        /// Body of the FENCE_QUERY request.
        FenceQueryRequest [16] {
            /// The handle.
            handle: U64,
            /// See [`crate::fence::FenceUsage`].
            usage: U32,
            /// Zero.
            reserved: U32,
        }

        /// Body of the FENCE_QUERY reply.
        FenceQueryReply [16] {
            /// [`FENCE_NO_DMA_BUF`] or 0.
            flags: U32,
            /// Fences in the snapshot.
            fences: U32,
            /// [`FENCE_PENDING`], [`FENCE_SIGNALLED`] or [`FENCE_FAILED`].
            state: U32,
            /// The errno of a failed one, else 0.
            error: U32,
        }

        /// Body of the RELEASE request.
        ReleaseRequest [16] {
            /// The handle.
            handle: U64,
            /// Handed to the producer as it is.
            value: U64,
        }

        /// Body of the HOLD request.
        HoldRequest [16] {
            /// The handle.
            handle: U64,
            /// See [`crate::fence::FenceUsage`].
            usage: U32,
            /// Longest hold in milliseconds; 0: the grant's.
            timeout_ms: U32,
        }

        /// Body of the HOLD reply.
        HoldReply [8] {
            /// The time after which the hold ends by itself, in milliseconds.
            timeout_ms: U32,
            /// Zero.
            reserved: U32,
        }
    }

    /// `flags` of the SYNC and FENCE replies: the memory has no dma-buf, so there was nothing to do or to wait for.
    pub const FENCE_NO_DMA_BUF: u32 = 1;
    /// [`FenceQueryReply::state`]: not all fences have signalled.
    pub const FENCE_PENDING: u32 = 0;
    /// [`FenceQueryReply::state`]: all have signalled.
    pub const FENCE_SIGNALLED: u32 = 1;
    /// [`FenceQueryReply::state`]: all have ended, and one of them with an error.
    pub const FENCE_FAILED: u32 = 2;
}

/// What a CPU does between SYNC_START and SYNC_END.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SyncDirection {
    /// It reads.
    Read,
    /// It writes.
    Write,
    /// Both.
    ReadWrite,
}

impl SyncDirection {
    /// The value on the wire, 1 to 3: Linux's `DMA_BUF_SYNC_READ` and `DMA_BUF_SYNC_WRITE`.
    #[must_use]
    pub const fn to_wire(self) -> u32 {
        match self {
            Self::Read => 1,
            Self::Write => 2,
            Self::ReadWrite => 3,
        }
    }

    /// The reverse of [`Self::to_wire`].
    ///
    /// # Errors
    /// [`Status::EINVAL`] for a value that has no meaning.
    pub const fn from_wire(raw: u32) -> Result<Self, Status> {
        match raw {
            1 => Ok(Self::Read),
            2 => Ok(Self::Write),
            3 => Ok(Self::ReadWrite),
            _ => Err(Status::EINVAL),
        }
    }

    /// What a buffer must be ready for before such access begins.
    #[must_use]
    pub const fn usage(self) -> FenceUsage {
        match self {
            Self::Read => FenceUsage::Read,
            Self::Write | Self::ReadWrite => FenceUsage::Write,
        }
    }
}

/// What a buffer is waited for, or held for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FenceUsage {
    /// Reading: whoever writes must have finished.
    Read,
    /// Writing: everybody must have finished.
    Write,
}

impl FenceUsage {
    /// The value on the wire, 1 or 2.
    #[must_use]
    pub const fn to_wire(self) -> u32 {
        match self {
            Self::Read => 1,
            Self::Write => 2,
        }
    }

    /// The reverse of [`Self::to_wire`].
    ///
    /// # Errors
    /// [`Status::EINVAL`] for a value that has no meaning.
    pub const fn from_wire(raw: u32) -> Result<Self, Status> {
        match raw {
            1 => Ok(Self::Read),
            2 => Ok(Self::Write),
            _ => Err(Status::EINVAL),
        }
    }
}

/// Parses the body of one of the requests of this module; `op` is one of theirs.
pub(crate) fn parse(op: OpCode, body: &[u8]) -> Result<Request, Status> {
    match op {
        OpCode::SyncStart | OpCode::SyncEnd => parse_sync(op, exact(body)?),
        OpCode::FenceWait => {
            let body: wire::FenceWaitRequest = exact(body)?;
            Ok(Request::FenceWait {
                handle: Handle(body.handle.get()),
                usage: FenceUsage::from_wire(body.usage.get())?,
                timeout_ms: body.timeout_ms.get(),
            })
        }
        OpCode::FenceCancel => Ok(Request::FenceCancel {
            tag: exact::<wire::FenceCancelRequest>(body)?.tag.get(),
        }),
        OpCode::FenceQuery => {
            let body: wire::FenceQueryRequest = exact(body)?;
            zero(body.reserved.get().into())?;
            Ok(Request::FenceQuery {
                handle: Handle(body.handle.get()),
                usage: FenceUsage::from_wire(body.usage.get())?,
            })
        }
        OpCode::Release => {
            let body: wire::ReleaseRequest = exact(body)?;
            Ok(Request::Release {
                handle: Handle(body.handle.get()),
                value: body.value.get(),
            })
        }
        OpCode::Hold => {
            let body: wire::HoldRequest = exact(body)?;
            Ok(Request::Hold {
                handle: Handle(body.handle.get()),
                usage: FenceUsage::from_wire(body.usage.get())?,
                timeout_ms: body.timeout_ms.get(),
            })
        }
        _ => Err(Status::EOPNOTSUPP),
    }
}

fn parse_sync(op: OpCode, body: wire::SyncRequest) -> Result<Request, Status> {
    zero(body.reserved.get().into())?;
    let handle = Handle(body.handle.get());
    let direction = SyncDirection::from_wire(body.flags.get())?;
    Ok(match op {
        OpCode::SyncStart => Request::SyncStart { handle, direction },
        _ => Request::SyncEnd { handle, direction },
    })
}
