// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where a producer's buffers and frames go. Whoever makes frames ([`crate::share`]) knows only [`FrameSink`], and so runs
//! on the host, where that is a [`Client`], as in a guest, where it is a [`crate::guest::Device`].

use crate::alias::Allocation;
use crate::client::Client;
use crate::error::Result;
use crate::shared_memory::SharedMemory;
use crate::stream::Producer;
use dmabuf_protocol::Access;
use dmabuf_protocol::wire::Format;
use std::time::Duration;

/// Gives a producer buffers, and takes them, and frames in them.
pub trait FrameSink {
    /// A buffer that was taken from a heap.
    type Buffer: AsRef<SharedMemory>;
    /// The producer's end of a stream.
    type Stream;

    /// Takes a name away that an earlier program may have left here, and with it the memory.
    ///
    /// # Errors
    /// As every call; [`crate::Error::BadName`].
    fn make_room(&mut self, name: &str) -> Result<()>;

    /// A new buffer of at least `size` bytes from `heap`, which nobody else sees.
    ///
    /// # Errors
    /// As every call.
    fn take(&mut self, heap: &str, size: u64) -> Result<Self::Buffer>;

    /// Gives it a name: for as long as this process lives, or in a guest until [`Self::make_room`].
    ///
    /// # Errors
    /// As every call; [`crate::Error::BadName`].
    fn show(&mut self, buffer: &Self::Buffer, name: &str, format: Option<Format>) -> Result<()>;

    /// Memory with a name, as those see it who may only read it.
    ///
    /// # Errors
    /// As every call; [`crate::Error::BadName`].
    fn look_at(&mut self, name: &str) -> Result<SharedMemory>;

    /// Makes sure that others are still there. Events that nobody here wants are dropped.
    ///
    /// # Errors
    /// When they are not.
    fn check(&mut self) -> Result<()>;

    /// Begins a stream, which ends with what is returned, or with this.
    ///
    /// # Errors
    /// As every call; [`crate::Error::BadName`].
    fn begin(&mut self, name: &str, format: Option<Format>) -> Result<Self::Stream>;

    /// Adds a buffer to a stream; they are counted from 0 on.
    ///
    /// # Errors
    /// As every call.
    fn add(&mut self, stream: &Self::Stream, buffer: &Self::Buffer) -> Result<u32>;

    /// Hands a frame over, with its time on this machine's `CLOCK_MONOTONIC`; returns its sequence number.
    ///
    /// # Errors
    /// As every call.
    fn queue(&mut self, stream: &Self::Stream, index: u32, timestamp_ns: u64) -> Result<u64>;

    /// Waits for a buffer that nobody uses any more; `None` when there is none within `limit`.
    ///
    /// # Errors
    /// As every call.
    fn reclaim(&mut self, stream: &Self::Stream, limit: Duration) -> Result<Option<u32>>;
}

impl FrameSink for Client {
    type Buffer = Allocation;
    type Stream = Producer;

    /// Names go with the connection that has given them.
    fn make_room(&mut self, _name: &str) -> Result<()> {
        Ok(())
    }

    fn take(&mut self, heap: &str, size: u64) -> Result<Allocation> {
        self.alloc(heap, size)
    }

    fn show(&mut self, buffer: &Allocation, name: &str, format: Option<Format>) -> Result<()> {
        self.publish(buffer, name, format, false)
    }

    fn look_at(&mut self, name: &str) -> Result<SharedMemory> {
        Ok(self.open(name, Access::ReadOnly)?.into_memory())
    }

    fn check(&mut self) -> Result<()> {
        while self.next_event()?.is_some() {}
        Ok(())
    }

    fn begin(&mut self, name: &str, format: Option<Format>) -> Result<Producer> {
        Producer::create(self, name, format)
    }

    fn add(&mut self, stream: &Producer, buffer: &Allocation) -> Result<u32> {
        stream.add(self, buffer)
    }

    fn queue(&mut self, stream: &Producer, index: u32, timestamp_ns: u64) -> Result<u64> {
        stream.queue(self, index, timestamp_ns)
    }

    fn reclaim(&mut self, stream: &Producer, limit: Duration) -> Result<Option<u32>> {
        stream.reclaim(self, limit)
    }
}
