// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A producer's file: frames are queued by an ioctl, and buffers come back by another one. With the guest's heaps and names
//! it makes the device a [`FrameSink`].

use super::{Allocation, Device, raw, refused, sys};
use crate::connection::wait;
use crate::error::{Error, Result};
use crate::shared_memory::SharedMemory;
use crate::sink::FrameSink;
use dmabuf_protocol::wire::Format;
use dmabuf_protocol::{Access, OpCode, Status};
use rustix::event::PollFlags;
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// The end of a stream that queues frames: a file of the driver. Dropping it ends the stream.
#[derive(Debug)]
pub struct ProducerFile {
    file: OwnedFd,
    id: u64,
}

impl ProducerFile {
    pub(super) const fn new(file: OwnedFd, id: u64) -> Self {
        Self { file, id }
    }

    /// The stream's number on the host.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// Adds a buffer to the stream. It is with the producer.
    ///
    /// # Errors
    /// As every call.
    pub fn add(&self, buffer: &Allocation) -> Result<u32> {
        let mut add = raw::StreamAdd {
            fd: buffer.as_ref().as_fd().as_raw_fd(),
            index: 0,
        };
        sys::stream_add(self.as_fd(), &mut add).map_err(refused(OpCode::StreamAdd))?;
        Ok(add.index)
    }

    /// Hands a frame over, with its time on the *host's* `CLOCK_MONOTONIC`; 0: now. Returns its sequence number.
    ///
    /// # Errors
    /// As every call; refused with `EBUSY` for a buffer that wasn't reclaimed.
    pub fn queue(&self, index: u32, timestamp_ns: u64) -> Result<u64> {
        let mut queue = raw::StreamQueue {
            index,
            flags: 0,
            timestamp_ns,
            sequence: 0,
        };
        sys::stream_queue(self.as_fd(), &mut queue).map_err(refused(OpCode::StreamQueue))?;
        Ok(queue.sequence)
    }

    /// A buffer that nobody uses any more, if there is one. Poll [`Self::as_fd`] for output after `None`.
    ///
    /// # Errors
    /// As every call.
    pub fn try_reclaim(&self) -> Result<Option<u32>> {
        match sys::stream_reclaim(self.as_fd()) {
            Ok(index) => Ok(Some(index)),
            Err(Errno::AGAIN) => Ok(None),
            Err(errno) => Err(refused(OpCode::StreamReclaim)(errno)),
        }
    }

    /// Waits for a buffer; `None` when there is none within `limit`.
    ///
    /// # Errors
    /// As every call.
    pub fn reclaim(&self, limit: Duration) -> Result<Option<u32>> {
        let until = Instant::now() + limit;
        loop {
            if let Some(index) = self.try_reclaim()? {
                return Ok(Some(index));
            }
            if !wait(self.as_fd(), PollFlags::OUT, until)
                .map_err(Error::system("waiting for a buffer"))?
            {
                return Ok(None);
            }
        }
    }
}

impl AsFd for ProducerFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl FrameSink for Device {
    type Buffer = Allocation;
    type Stream = ProducerFile;

    /// Names go with the session, which is that of the whole guest.
    fn make_room(&mut self, name: &str) -> Result<()> {
        match self.withdraw(name) {
            // There is none; or it is not for this guest, which is told later on.
            Err(refused) if matches!(refused.status(), Some(Status::ENOENT | Status::EACCES)) => {
                Ok(())
            }
            other => other,
        }
    }

    fn take(&mut self, heap: &str, size: u64) -> Result<Allocation> {
        self.alloc(heap, size)
    }

    fn show(&mut self, buffer: &Allocation, name: &str, format: Option<Format>) -> Result<()> {
        self.publish(buffer, name, format, false)
    }

    fn look_at(&mut self, name: &str) -> Result<SharedMemory> {
        self.open_buffer(name, Access::ReadOnly)
    }

    fn check(&mut self) -> Result<()> {
        while self.next_event()?.is_some() {}
        Ok(())
    }

    fn begin(&mut self, name: &str, format: Option<Format>) -> Result<ProducerFile> {
        self.produce(name, format)
    }

    fn add(&mut self, stream: &ProducerFile, buffer: &Allocation) -> Result<u32> {
        stream.add(buffer)
    }

    /// This guest's clock says nothing to others: a frame gets the host's time of this call.
    fn queue(&mut self, stream: &ProducerFile, index: u32, _timestamp_ns: u64) -> Result<u64> {
        stream.queue(index, 0)
    }

    fn reclaim(&mut self, stream: &ProducerFile, limit: Duration) -> Result<Option<u32>> {
        stream.reclaim(limit)
    }
}
