// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Revocation (SPEC.md, "Device operation: revocation"): its structures, values and parsing.

use crate::request::{OpCode, Request, exact, zero};
use crate::status::Status;
use crate::stream::StreamRequest;
use crate::types::{Handle, NAME_LEN, Name};

/// The structures, byte for byte; part of [`crate::wire`].
pub(crate) mod wire {
    use crate::types::NAME_LEN;
    use crate::wire::wire;
    use zerocopy::little_endian::{U32, U64};
    use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

    wire! {
        /// Body of the REVOKE request: by handle or by name, the other one is zero.
        RevokeRequest [80] {
            /// A handle from ALLOC or IMPORT, or 0.
            handle: U64,
            /// Time that the peers get, in milliseconds.
            deadline_ms: U32,
            /// Zero.
            reserved: U32,
            /// The buffer's name, or all zero.
            name: [u8; NAME_LEN],
        }

        /// Body of the STREAM_REVOKE request.
        StreamRevokeRequest [16] {
            /// The producer.
            stream: U64,
            /// Time that the peers get, in milliseconds.
            deadline_ms: U32,
            /// Zero.
            reserved: U32,
        }
    }

    /// [`crate::wire::Event::kind`]: a buffer that this session has a handle of is taken away. `value` is the time
    /// until then, in milliseconds.
    pub const EVENT_BUFFER_REVOKED: u32 = 0x8000_0004;
    /// [`crate::wire::Event::kind`]: the revocation of a buffer of this peer is complete. `value` is 0 or
    /// [`FREE_SHARED`].
    pub const EVENT_BUFFER_FREE: u32 = 0x8000_0005;
    /// [`crate::wire::Event::value`] of [`EVENT_BUFFER_FREE`]: others may still see the memory, which is zero.
    pub const FREE_SHARED: u64 = 1;
    /// Longest `deadline_ms`; more counts as that.
    pub const REVOKE_MAX_MS: u32 = 60_000;
}

/// How REVOKE names its buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevokeTarget {
    /// By a handle from ALLOC or IMPORT.
    Handle(Handle),
    /// By the name under which it is published.
    Name(Name),
}

/// Parses the body of one of the requests of this module; `op` is one of theirs.
pub(crate) fn parse(op: OpCode, body: &[u8]) -> Result<Request, Status> {
    match op {
        OpCode::Revoke => {
            let body: wire::RevokeRequest = exact(body)?;
            zero(body.reserved.get().into())?;
            let target = match (body.handle.get(), body.name) {
                (0, name) => RevokeTarget::Name(Name::from_wire(name)?),
                (handle, name) if name == [0; NAME_LEN] => RevokeTarget::Handle(Handle(handle)),
                _ => return Err(Status::EINVAL),
            };
            Ok(Request::Revoke {
                target,
                deadline_ms: body.deadline_ms.get(),
            })
        }
        OpCode::StreamRevoke => {
            let body: wire::StreamRevokeRequest = exact(body)?;
            zero(body.reserved.get().into())?;
            Ok(Request::Stream(StreamRequest::Revoke {
                stream: body.stream.get(),
                deadline_ms: body.deadline_ms.get(),
            }))
        }
        _ => Err(Status::EOPNOTSUPP),
    }
}
