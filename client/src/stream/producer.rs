// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The end of a stream that queues frames.

use crate::alias::Alias;
use crate::client::{Client, parse_name};
use crate::error::Result;
use dmabuf_protocol::OpCode;
use dmabuf_protocol::wire::{self, Format};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};
use zerocopy::FromZeros;
use zerocopy::little_endian::{U32, U64};

/// The end of a stream that queues frames. Dropping its connection ends the stream.
#[derive(Debug, PartialEq, Eq)]
pub struct Producer {
    pub(crate) number: u64,
    id: u64,
}

impl Producer {
    /// STREAM_CREATE.
    ///
    /// # Errors
    /// As every call; [`crate::Error::BadName`].
    pub fn create(client: &mut Client, name: &str, format: Option<Format>) -> Result<Self> {
        let request = wire::StreamCreateRequest {
            name: parse_name(name)?.to_wire(),
            flags: U64::ZERO,
            format: format.unwrap_or_else(Format::new_zeroed),
        };
        let reply: wire::StreamCreateReply = client
            .connection
            .call(OpCode::StreamCreate, &request, None)?
            .exactly()?;
        Ok(Self {
            number: reply.stream.get(),
            id: reply.id.get(),
        })
    }

    /// The stream's number, never used again.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// STREAM_ADD: adds a buffer that this connection has allocated or imported; gives its index.
    ///
    /// # Errors
    /// As every call.
    pub fn add(&self, client: &mut Client, buffer: &Alias) -> Result<u32> {
        let request = wire::StreamAddRequest {
            stream: U64::new(self.number),
            handle: U64::new(buffer.handle().0),
        };
        let reply: wire::StreamIndexReply = client
            .connection
            .call(OpCode::StreamAdd, &request, None)?
            .exactly()?;
        Ok(reply.index.get())
    }

    /// STREAM_CLOSE: ends the stream. The connection, and its buffers, stay.
    ///
    /// # Errors
    /// As every call.
    pub fn close(self, client: &mut Client) -> Result<()> {
        let request = wire::StreamRequestBody {
            stream: U64::new(self.number),
        };
        client
            .connection
            .call(OpCode::StreamClose, &request, None)?
            .exactly::<[u8; 0]>()?;
        Ok(())
    }

    /// STREAM_QUEUE: hands a frame over; gives its sequence number. A timestamp of 0 is now.
    ///
    /// # Errors
    /// As every call; refused with [`crate::Status::EBUSY`] for a buffer that wasn't reclaimed.
    pub fn queue(&self, client: &mut Client, index: u32, timestamp_ns: u64) -> Result<u64> {
        self.hand_over(client, (index, timestamp_ns, 0), None)
    }

    /// STREAM_QUEUE of a frame that hardware still writes: consumers wait for the buffer's fences. A `sync_file` is added
    /// to those before; without one, the driver must have done that.
    ///
    /// # Errors
    /// As [`Self::queue`]; refused with [`crate::Status::EINVAL`] for an fd that is no sync_file, with [`crate::Status::ENODEV`] for a
    /// sync_file with a buffer that is no dma-buf.
    pub fn queue_fenced(
        &self,
        client: &mut Client,
        index: u32,
        timestamp_ns: u64,
        sync_file: Option<BorrowedFd<'_>>,
    ) -> Result<u64> {
        let frame = (index, timestamp_ns, wire::FRAME_FENCED);
        self.hand_over(client, frame, sync_file)
    }

    fn hand_over(
        &self,
        client: &mut Client,
        (index, timestamp_ns, flags): (u32, u64, u32),
        sync_file: Option<BorrowedFd<'_>>,
    ) -> Result<u64> {
        let request = wire::StreamQueueRequest {
            stream: U64::new(self.number),
            timestamp_ns: U64::new(timestamp_ns),
            index: U32::new(index),
            flags: U32::new(flags),
        };
        let reply: wire::StreamQueueReply = client
            .connection
            .call(OpCode::StreamQueue, &request, sync_file)?
            .exactly()?;
        Ok(reply.sequence.get())
    }

    /// STREAM_RECLAIM: a buffer that nobody uses any more, if there is one. After `None`, the connection becomes readable
    /// when there is.
    ///
    /// # Errors
    /// As every call.
    pub fn try_reclaim(&self, client: &mut Client) -> Result<Option<u32>> {
        client.drop_events()?;
        let request = wire::StreamRequestBody {
            stream: U64::new(self.number),
        };
        let reply = client.try_call(OpCode::StreamReclaim, &request)?;
        let reply: Option<wire::StreamIndexReply> =
            reply.map(|reply| reply.exactly()).transpose()?;
        Ok(reply.map(|reply| reply.index.get()))
    }

    /// Waits for a buffer; `None` when there is none within `limit`.
    ///
    /// # Errors
    /// As every call.
    pub fn reclaim(&self, client: &mut Client, limit: Duration) -> Result<Option<u32>> {
        let until = Instant::now() + limit;
        loop {
            if let Some(index) = self.try_reclaim(client)? {
                return Ok(Some(index));
            }
            if !client.wait_message(until)? {
                return Ok(None);
            }
        }
    }
}
