// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Sync and fences: what this CPU may do with a buffer, and when.

use crate::Platform;
use crate::device::{Alias, Device};
use crate::error::Result;
use crate::reply;
use crate::window::Windows;
use core::time::Duration;
use dmabuf_protocol::request::OpCode;
use dmabuf_protocol::{FenceUsage, SyncDirection, wire};
use virtio_drivers::Hal;
use virtio_drivers::transport::Transport;
use zerocopy::little_endian::U32;

/// The state of a buffer's fences at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fences {
    /// Not all have signalled.
    Pending,
    /// All have signalled, or there are none.
    Signalled,
    /// All have ended, one of them with this errno.
    Failed(u32),
}

impl<H: Hal, T: Transport, W: Windows, P: Platform> Device<H, T, W, P> {
    /// SYNC_START: waits until the buffer can be accessed so, and has the host's caches prepared for it.
    ///
    /// The host can take as long as the grant allows, 5 seconds if nobody configured anything else. A bracket whose reply
    /// comes after this driver's own time limit stays open until the alias is closed.
    ///
    /// # Errors
    /// As all requests: see [`crate::Error`].
    pub fn sync_start(&mut self, alias: &Alias, direction: SyncDirection) -> Result<()> {
        self.sync(OpCode::SyncStart, alias, direction)
    }

    /// SYNC_END of the last [`Self::sync_start`] with this direction.
    ///
    /// # Errors
    /// As all requests: see [`crate::Error`].
    pub fn sync_end(&mut self, alias: &Alias, direction: SyncDirection) -> Result<()> {
        self.sync(OpCode::SyncEnd, alias, direction)
    }

    /// FENCE_WAIT: waits for the fences that are in the way of such a use now, at most `timeout` and at most as long as
    /// the grant allows ([`Duration::ZERO`]: that). Returns how many there were.
    ///
    /// # Errors
    /// [`crate::Error::Refused`] with the error of a fence, or with `ETIMEDOUT`. Otherwise as all requests.
    pub fn fence_wait(
        &mut self,
        alias: &Alias,
        usage: FenceUsage,
        timeout: Duration,
    ) -> Result<u32> {
        let request = wire::FenceWaitRequest {
            handle: alias.handle.0.into(),
            usage: usage.to_wire().into(),
            timeout_ms: u32::try_from(timeout.as_millis())
                .unwrap_or(u32::MAX)
                .into(),
        };
        let reply = self.call_fence(OpCode::FenceWait, &request)?;
        reply::waited(reply.body()?)
    }

    /// FENCE_QUERY: looks at these fences without waiting.
    ///
    /// # Errors
    /// As all requests: see [`crate::Error`].
    pub fn fence_query(&mut self, alias: &Alias, usage: FenceUsage) -> Result<Fences> {
        let request = wire::FenceQueryRequest {
            handle: alias.handle.0.into(),
            usage: usage.to_wire().into(),
            reserved: U32::ZERO,
        };
        let reply = self.call_fence(OpCode::FenceQuery, &request)?;
        reply::fences(reply.body()?)
    }

    /// RELEASE: tells the buffer's producer that this VM is done with it for now. `value` is handed on as it is.
    ///
    /// # Errors
    /// As all requests: see [`crate::Error`].
    pub fn release_buffer(&mut self, alias: &Alias, value: u64) -> Result<()> {
        let request = wire::ReleaseRequest {
            handle: alias.handle.0.into(),
            value: value.into(),
        };
        let reply = self.call(OpCode::Release, &request)?;
        reply::empty(reply.body()?)
    }

    fn sync(&mut self, op: OpCode, alias: &Alias, direction: SyncDirection) -> Result<()> {
        let request = wire::SyncRequest {
            handle: alias.handle.0.into(),
            flags: direction.to_wire().into(),
            reserved: U32::ZERO,
        };
        let reply = self.call(op, &request)?;
        reply::synced(reply.body()?)
    }
}
