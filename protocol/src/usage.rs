// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What peers use of what they may have (SPEC.md, "GET_USAGE").

use crate::status::Status;

/// The structures, byte for byte; part of [`crate::wire`].
pub(crate) mod wire {
    use crate::types::NAME_LEN;
    use crate::wire::wire;
    use zerocopy::little_endian::{U32, U64};
    use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

    wire! {
        /// One resource of a peer.
        ResourceUse [16] {
            /// How much is in use.
            used: U64,
            /// The most there can be; 0: the peer has no such resource, all bits set: no limit.
            limit: U64,
        }

        /// One peer, as GET_USAGE shows it. The request and the head of its reply are those of LIST.
        PeerUsage [224] {
            /// The peer's name.
            name: [u8; NAME_LEN],
            /// 1 a VM, 2 host processes: see [`crate::usage::PeerKind`].
            kind: U32,
            /// Sessions (connections) that it has now.
            sessions: U32,
            /// Bit n: `uses[n]` is counted and limited for each session; `used` is that of the session that has most.
            per_session: U32,
            /// Zero.
            reserved: U32,
            /// By [`crate::usage::Resource`].
            uses: [ResourceUse; crate::usage::Resource::COUNT],
        }
    }
}

/// What a peer can only have so much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(usize)]
pub enum Resource {
    /// Handles.
    Handles,
    /// Mappings.
    Mappings,
    /// Requests that wait for the window.
    Inflight,
    /// Waits, and brackets of CPU access.
    Waits,
    /// Ends of streams.
    Ends,
    /// Buffers that it has allocated or imported.
    Buffers,
    /// Bytes that it has allocated.
    Bytes,
    /// Frames that it holds, of all streams.
    Holds,
    /// Streams that it consumes, each as often as it does.
    Consumers,
}

impl Resource {
    /// How many there are.
    pub const COUNT: usize = 9;

    /// All of them, in the order of the wire.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Handles,
        Self::Mappings,
        Self::Inflight,
        Self::Waits,
        Self::Ends,
        Self::Buffers,
        Self::Bytes,
        Self::Holds,
        Self::Consumers,
    ];

    /// The name in SPEC.md.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Handles => "handles",
            Self::Mappings => "mappings",
            Self::Inflight => "inflight",
            Self::Waits => "waits",
            Self::Ends => "ends",
            Self::Buffers => "buffers",
            Self::Bytes => "bytes",
            Self::Holds => "holds",
            Self::Consumers => "consumers",
        }
    }
}

/// Who a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerKind {
    /// A VM.
    Vm,
    /// Host processes.
    Client,
}

impl PeerKind {
    /// The value on the wire.
    #[must_use]
    pub const fn to_wire(self) -> u32 {
        match self {
            Self::Vm => 1,
            Self::Client => 2,
        }
    }

    /// The reverse of [`Self::to_wire`].
    ///
    /// # Errors
    /// [`Status::EINVAL`] for an unknown value.
    pub const fn from_wire(raw: u32) -> Result<Self, Status> {
        match raw {
            1 => Ok(Self::Vm),
            2 => Ok(Self::Client),
            _ => Err(Status::EINVAL),
        }
    }

    /// As people call it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Vm => "vm",
            Self::Client => "client",
        }
    }
}
