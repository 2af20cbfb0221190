// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Revocation: a producer takes buffers back from everybody who has them (SPEC.md, "Device operation: revocation").
//!
//! The calls return at once. That it is complete comes as the event [`EventKind::Free`] for each buffer, to the
//! connection that has asked and to the one that has made the buffer.

use crate::alias::Alias;
use crate::client::{Client, parse_name};
use crate::error::Result;
#[cfg(doc)]
use crate::event::EventKind;
use crate::stream::Producer;
use dmabuf_protocol::{OpCode, wire};
use std::time::Duration;
use zerocopy::FromZeros;
use zerocopy::little_endian::{U32, U64};

impl Client {
    /// REVOKE of a published buffer that this peer has made: its aliases end, and its bytes are zero, when everybody has
    /// let go of it, or `deadline` from now (60 s at most).
    ///
    /// # Errors
    /// As every call; [`crate::Error::BadName`]. Refused with [`dmabuf_protocol::Status::EOPNOTSUPP`] for memory that is
    /// sealed against writing: nobody could set it to zero.
    pub fn revoke(&mut self, name: &str, deadline: Duration) -> Result<()> {
        let request = wire::RevokeRequest {
            deadline_ms: milliseconds(deadline),
            name: parse_name(name)?.to_wire(),
            ..wire::RevokeRequest::new_zeroed()
        };
        self.connection
            .call(OpCode::Revoke, &request, None)?
            .exactly::<[u8; 0]>()?;
        Ok(())
    }

    /// REVOKE of a buffer that this connection has allocated or imported, published or not. It keeps its alias.
    ///
    /// # Errors
    /// As of [`Self::revoke`].
    pub fn revoke_alias(&mut self, buffer: &Alias, deadline: Duration) -> Result<()> {
        let request = wire::RevokeRequest {
            handle: U64::new(buffer.handle().0),
            deadline_ms: milliseconds(deadline),
            ..wire::RevokeRequest::new_zeroed()
        };
        self.connection
            .call(OpCode::Revoke, &request, None)?
            .exactly::<[u8; 0]>()?;
        Ok(())
    }
}

impl Producer {
    /// STREAM_REVOKE: ends the stream, and revokes its buffers.
    ///
    /// # Errors
    /// As of [`Client::revoke`]; the stream goes on then.
    pub fn revoke(&self, client: &mut Client, deadline: Duration) -> Result<()> {
        let request = wire::StreamRevokeRequest {
            stream: U64::new(self.number),
            deadline_ms: milliseconds(deadline),
            reserved: U32::ZERO,
        };
        client
            .connection
            .call(OpCode::StreamRevoke, &request, None)?
            .exactly::<[u8; 0]>()?;
        Ok(())
    }
}

fn milliseconds(time: Duration) -> U32 {
    U32::new(u32::try_from(time.as_millis()).unwrap_or(u32::MAX))
}
