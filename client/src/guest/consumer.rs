// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A consumer's file: frames are read from it, and given back by an ioctl.

use super::{memory, raw, read, refused, sys};
use crate::buffer::picture;
use crate::connection::wait;
use crate::error::{Error, Result};
use crate::feed::FrameFeed;
use crate::mapping::Mapping;
use crate::shared_memory::SharedMemory;
use crate::stream::{Frame, sync_file_ended};
use crate::sys::export_sync_file;
use crate::views::Views;
use dmabuf_protocol::wire::{Format, STREAM_MAX_BUFFERS};
use dmabuf_protocol::{Access, OpCode, Status};
use rustix::event::PollFlags;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use zerocopy::{FromZeros, IntoBytes};

/// The end of a stream that gets frames: a file of the driver. Dropping it gives everything back.
#[derive(Debug)]
pub struct ConsumerFile {
    file: OwnedFd,
    format: Option<Format>,
    buffers: u32,
    max_held: u32,
    views: Views<SharedMemory>,
}

impl ConsumerFile {
    pub(super) fn new(file: OwnedFd, opened: &raw::StreamOpen) -> Result<Self> {
        Ok(Self {
            file,
            format: picture(&opened.format.into())?,
            buffers: opened.buffers,
            max_held: opened.max_held,
            views: Views::new(),
        })
    }

    /// Buffers that the stream had when it was opened.
    #[must_use]
    pub const fn buffers(&self) -> u32 {
        self.buffers
    }

    /// Most frames held at once.
    #[must_use]
    pub const fn max_held(&self) -> u32 {
        self.max_held
    }

    /// The next frame, if one is ready; doesn't wait for one. Poll [`Self::as_fd`] for input after `None`.
    ///
    /// A frame that is fenced has its fence in its dma-buf.
    ///
    /// # Errors
    /// As [`FrameFeed::next`].
    pub fn try_next(&mut self) -> Result<Option<Frame>> {
        let mut frame = raw::Frame::new_zeroed();
        let now = Instant::now();
        match read(self.as_fd(), frame.as_mut_bytes()) {
            Ok(0) => {
                return Err(Error::Refused {
                    request: OpCode::StreamAcquire,
                    status: Status::ENODEV,
                });
            }
            Ok(size) if size == size_of_val(&frame) => {}
            Ok(_) => return Err(Error::Protocol("a frame with a wrong length")),
            Err(Errno::AGAIN) => return Ok(None),
            Err(errno) => return Err(refused(OpCode::StreamAcquire)(errno)),
        }
        if frame.index >= STREAM_MAX_BUFFERS {
            return Err(Error::Protocol("a frame in a buffer that can't be"));
        }
        Ok(Some(Frame {
            sequence: frame.sequence,
            timestamp_ns: frame.timestamp_ns,
            index: frame.index,
            fenced: frame.flags & raw::FRAME_FENCED != 0,
            fence: None,
            skipped: frame.skipped,
            ready: frame.ready,
            until: now + Duration::from_millis(frame.hold_ms.into()),
        }))
    }
}

fn buffer(file: BorrowedFd<'_>, index: u32) -> Result<SharedMemory> {
    let mut wanted = raw::StreamBuffer::new_zeroed();
    wanted.index = index;
    wanted.flags = OFlags::CLOEXEC.bits();
    let fd = sys::stream_buffer(file, &mut wanted).map_err(refused(OpCode::StreamBuffer))?;
    memory(fd, wanted.size, Access::ReadOnly)
}

impl FrameFeed for ConsumerFile {
    fn format(&self) -> Option<Format> {
        self.format
    }

    fn next(&mut self, limit: Duration) -> Result<Option<Frame>> {
        let until = Instant::now() + limit;
        loop {
            if let Some(frame) = self.try_next()? {
                return Ok(Some(frame));
            }
            if !wait(self.as_fd(), PollFlags::IN, until)
                .map_err(Error::system("waiting for a frame"))?
            {
                return Ok(None);
            }
        }
    }

    fn wait_finished(&mut self, frame: &Frame, limit: Duration) -> Result<bool> {
        if !frame.fenced {
            return Ok(true);
        }
        let (memory, _) = self.view(frame)?;
        let fence = export_sync_file(memory.as_fd()).map_err(Error::system("exporting a fence"))?;
        sync_file_ended(fence.as_fd(), limit)
    }

    fn view(&mut self, frame: &Frame) -> Result<(&SharedMemory, &Mapping)> {
        let file = self.file.as_fd();
        self.views.get(frame.index, || buffer(file, frame.index))
    }

    fn release(&mut self, frame: Frame) -> Result<()> {
        sys::stream_release(self.as_fd(), frame.sequence).map_err(refused(OpCode::StreamRelease))
    }
}

impl AsFd for ConsumerFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
