// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The end of a stream that gets frames.

use super::{known, sync_file_ended};
use crate::alias::Alias;
use crate::client::{Client, alias, parse_name};
use crate::connection::Reply;
use crate::error::{Error, Result};
use crate::mapping::Mapping;
use crate::views::Views;
use dmabuf_protocol::wire::{self, Format};
use dmabuf_protocol::{ConsumeMode, Enforcement, FenceUsage, OpCode, Status};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use zerocopy::little_endian::{U32, U64};

/// Most events about frames that aren't there any more, one after the other: frames are taken back, but not for ever.
const MAX_EMPTY: u32 = 1024;

/// A frame that a consumer holds until it gives it back, or until its time is over.
#[derive(Debug)]
pub struct Frame {
    /// Counts up by 1 from 1 over the life of the stream: a gap means that frames were skipped.
    pub sequence: u64,
    /// When it was captured, in nanoseconds of `CLOCK_MONOTONIC`.
    pub timestamp_ns: u64,
    /// Index of its buffer.
    pub index: u32,
    /// Hardware may still be writing: see [`Consumer::wait_finished`].
    pub fenced: bool,
    /// Of a fenced frame of a dma-buf, a sync_file: readable once the hardware has finished. Devices take it, too.
    pub fence: Option<OwnedFd>,
    /// Frames that this consumer has skipped so far.
    pub skipped: u64,
    /// Frames that are ready after this one.
    pub ready: u32,
    /// Until when it is held.
    pub until: Instant,
}

/// The end of a stream that gets frames. Dropping it gives everything back.
#[derive(Debug)]
pub struct Consumer {
    client: Client,
    number: u64,
    format: Option<Format>,
    buffers: u32,
    max_held: u32,
    /// No frame was ready when the daemon last answered: it will send an event.
    idle: bool,
    views: Views<Alias>,
}

impl Consumer {
    /// STREAM_OPEN, with the longest hold that the grant allows.
    ///
    /// # Errors
    /// As every call; [`Error::BadName`].
    pub fn open(client: Client, name: &str, mode: ConsumeMode) -> Result<Self> {
        Self::open_with(client, name, mode, Duration::ZERO)
    }

    /// STREAM_OPEN with holds of at most `hold`; zero: as long as the grant allows.
    ///
    /// # Errors
    /// As every call; [`Error::BadName`].
    pub fn open_with(
        mut client: Client,
        name: &str,
        mode: ConsumeMode,
        hold: Duration,
    ) -> Result<Self> {
        let (mode, depth) = mode.to_wire();
        let request = wire::StreamOpenRequest {
            name: parse_name(name)?.to_wire(),
            mode: U32::new(mode),
            depth: U32::new(depth),
            hold_ms: U32::new(u32::try_from(hold.as_millis()).unwrap_or(u32::MAX)),
            reserved: U32::ZERO,
        };
        let reply: wire::StreamOpenReply = client
            .connection
            .call(OpCode::StreamOpen, &request, None)?
            .exactly()?;
        Ok(Self {
            client,
            number: reply.stream.get(),
            format: known(reply.format),
            buffers: reply.buffers.get(),
            max_held: reply.max_held.get(),
            idle: false,
            views: Views::new(),
        })
    }

    /// The layout of the frames, if known.
    #[must_use]
    pub const fn format(&self) -> Option<Format> {
        self.format
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

    /// The connection, for other requests.
    pub const fn client(&mut self) -> &mut Client {
        // Its user may take the event.
        self.idle = false;
        &mut self.client
    }

    /// The next frame, if one is ready; doesn't wait for one. Poll [`Self::as_fd`] for input after `None`.
    ///
    /// # Errors
    /// As every call; refused with [`Status::ENODEV`] when the stream has ended, with [`Status::EBUSY`] when as many frames
    /// are held as may be.
    pub fn try_next(&mut self) -> Result<Option<Frame>> {
        for _ in 0..MAX_EMPTY {
            let news = self.client.drop_events()?;
            if self.idle && !news {
                return Ok(None);
            }
            let now = Instant::now();
            if let Some(reply) = self.acquire()? {
                return self.frame(reply, now).map(Some);
            }
            // The event about a frame that came meanwhile may be here already: look once more before anybody sleeps.
        }
        Err(Error::Protocol("frames that are announced and never there"))
    }

    fn acquire(&mut self) -> Result<Option<Reply>> {
        let request = wire::StreamRequestBody {
            stream: U64::new(self.number),
        };
        self.idle = false;
        let reply = self.client.try_call(OpCode::StreamAcquire, &request)?;
        self.idle = reply.is_none();
        Ok(reply)
    }

    fn frame(&mut self, reply: Reply, now: Instant) -> Result<Frame> {
        let frame: wire::FrameReply = reply.exactly()?;
        // Nothing comes any more after the event about the end.
        self.idle = frame.ready.get() == 0 && !self.client.connection.stream_ended();
        if frame.index.get() >= wire::STREAM_MAX_BUFFERS {
            return Err(Error::Protocol("a frame in a buffer that can't be"));
        }
        let flags = frame.flags.get();
        let fence = reply.fd();
        if fence.is_some() != (flags & wire::FRAME_SYNC_FILE != 0) {
            return Err(Error::Protocol("a frame with a wrong number of fds"));
        }
        Ok(Frame {
            sequence: frame.sequence.get(),
            timestamp_ns: frame.timestamp_ns.get(),
            index: frame.index.get(),
            fenced: flags & wire::FRAME_FENCED != 0,
            fence,
            skipped: frame.skipped.get(),
            ready: frame.ready.get(),
            until: now + Duration::from_millis(frame.hold_ms.get().into()),
        })
    }

    /// The next frame; `None` when there is none within `limit`.
    ///
    /// # Errors
    /// As [`Self::try_next`].
    pub fn next(&mut self, limit: Duration) -> Result<Option<Frame>> {
        let until = Instant::now() + limit;
        loop {
            if let Some(frame) = self.try_next()? {
                return Ok(Some(frame));
            }
            if !self.client.wait_message(until)? {
                return Ok(None);
            }
        }
    }

    /// Waits until the hardware has finished with a frame; false: it hasn't within `limit`. True at once for one that
    /// isn't fenced.
    ///
    /// # Errors
    /// [`Error::System`] with the fence's own error: the frame is spoilt. Where there is no sync_file, as
    /// [`Client::finish_wait`].
    pub fn wait_finished(&mut self, frame: &Frame, limit: Duration) -> Result<bool> {
        match &frame.fence {
            _ if !frame.fenced => Ok(true),
            Some(fence) => sync_file_ended(fence.as_fd(), limit),
            None => {
                // The daemon takes 0 for the longest wait that it allows.
                let limit = limit.max(Duration::from_millis(1));
                let (client, number) = (&mut self.client, self.number);
                let (alias, _) = self
                    .views
                    .get(frame.index, || open_buffer(client, number, frame.index))?;
                let wait = self.client.fence_wait(alias, FenceUsage::Read, limit)?;
                match self.client.finish_wait(&wait) {
                    Err(late) if late.status() == Some(Status::ETIMEDOUT) => Ok(false),
                    other => other.map(|_| true),
                }
            }
        }
    }

    /// The bytes of a frame's buffer: mapped once, and kept.
    ///
    /// # Errors
    /// As [`Self::view`].
    pub fn pixels(&mut self, frame: &Frame) -> Result<&Mapping> {
        self.view(frame).map(|(_, mapping)| mapping)
    }

    /// STREAM_BUFFER: a new alias of one of the stream's buffers, by its index. [`Self::view`] has one of each that was used.
    ///
    /// # Errors
    /// As every call.
    pub fn buffer(&mut self, index: u32) -> Result<Alias> {
        open_buffer(&mut self.client, self.number, index)
    }

    /// This process' alias of a frame's buffer and its bytes: opened and mapped once, and kept.
    ///
    /// # Errors
    /// As every call; [`Error::System`] when it can't be mapped.
    pub fn view(&mut self, frame: &Frame) -> Result<(&Alias, &Mapping)> {
        let (client, number) = (&mut self.client, self.number);
        self.views
            .get(frame.index, || open_buffer(client, number, frame.index))
    }

    /// Gives a frame back.
    ///
    /// # Errors
    /// As every call; refused with [`Status::ESTALE`] when its time was over before: what was read of it may have been of
    /// another frame.
    pub fn release(&mut self, frame: Frame) -> Result<()> {
        let request = wire::StreamReleaseRequest {
            stream: U64::new(self.number),
            sequence: U64::new(frame.sequence),
        };
        self.client
            .connection
            .call(OpCode::StreamRelease, &request, None)?
            .exactly::<[u8; 0]>()?;
        Ok(())
    }
}

impl AsFd for Consumer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.client.as_fd()
    }
}

fn open_buffer(client: &mut Client, stream: u64, index: u32) -> Result<Alias> {
    let request = wire::StreamBufferRequest {
        stream: U64::new(stream),
        index: U32::new(index),
        enforcement: U32::new(Enforcement::None.to_wire()),
    };
    let reply = client
        .connection
        .call(OpCode::StreamBuffer, &request, None)?;
    let alias = alias(reply)?;
    if alias.info().access.can_write() {
        return Err(Error::Protocol("a consumer's buffer that is read-write"));
    }
    Ok(alias)
}
