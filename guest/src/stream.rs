// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Frames: a consumer's end of a stream.
//!
//! Open the stream, map its buffers once ([`Device::stream_buffer`], then [`Device::map`]), then acquire and release
//! frames: each is one of the buffers, for a time.

use crate::Platform;
use crate::device::{Alias, Device};
use crate::error::{Error, Result};
use crate::reply;
use crate::window::Windows;
use core::ops::ControlFlow;
use core::time::Duration;
use dmabuf_protocol::request::{Format, OpCode};
use dmabuf_protocol::{Access, ConsumeMode, Enforcement, Name, Status, wire};
use virtio_drivers::Hal;
use virtio_drivers::transport::Transport;
use zerocopy::little_endian::{U32, U64};

/// A stream that this VM may open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// Its number, never used again.
    pub id: u64,
    /// Its name.
    pub name: Name,
    /// Frames queued so far.
    pub produced: u64,
    /// Its buffers; there can be more later.
    pub buffers: u32,
    /// Its consumers.
    pub consumers: u32,
    /// Layout of its frames, if known.
    pub format: Option<Format>,
}

/// This VM as a consumer of a stream.
#[derive(Debug, PartialEq, Eq)]
pub struct Stream {
    pub(crate) number: u64,
    pub(crate) buffers: u32,
    pub(crate) hold: Duration,
    pub(crate) max_held: u32,
    pub(crate) format: Option<Format>,
    pub(crate) last: u64,
}

impl Stream {
    /// The consumer's number: [`crate::Event::subject`] of its events.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Buffers when it was opened. A frame with a higher index is in one that was added since.
    #[must_use]
    pub const fn buffers(&self) -> u32 {
        self.buffers
    }

    /// How long a frame can be held: then its buffer can be written again.
    #[must_use]
    pub const fn hold(&self) -> Duration {
        self.hold
    }

    /// Most frames held at once.
    #[must_use]
    pub const fn max_held(&self) -> u32 {
        self.max_held
    }

    /// Layout of the frames, if known. Whether it fits into a buffer is for its consumer to check.
    #[must_use]
    pub const fn format(&self) -> Option<Format> {
        self.format
    }
}

/// A frame that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Counts up by 1 over the life of the stream.
    pub sequence: u64,
    /// When it was captured, on the host's `CLOCK_MONOTONIC`.
    pub timestamp: Duration,
    /// Frames that this consumer has skipped so far.
    pub skipped: u64,
    /// Which buffer it is in.
    pub index: u32,
    /// The buffer has fences that tell when it is finished.
    pub fenced: bool,
    /// Time until the hold ends by itself.
    pub hold: Duration,
    /// Frames that are ready after this one.
    pub ready: u32,
}

impl<H: Hal, T: Transport, W: Windows, P: Platform> Device<H, T, W, P> {
    /// STREAM_LIST: hands `each` the streams that this VM may open, until there are no more or it breaks.
    ///
    /// # Errors
    /// As all requests: see [`Error`].
    pub fn streams(&mut self, mut each: impl FnMut(&StreamInfo) -> ControlFlow<()>) -> Result<()> {
        let mut cursor = 0;
        loop {
            let reply = self.call(OpCode::StreamList, &reply::list_request(cursor))?;
            let page = reply::page::<wire::StreamInfo>(reply.body()?, cursor)?;
            for entry in page.entries {
                if each(&reply::stream_info(entry)?).is_break() {
                    return Ok(());
                }
            }
            match page.next {
                0 => return Ok(()),
                next => cursor = next,
            }
        }
    }

    /// STREAM_OPEN, with frames to be held for at most `hold` ([`Duration::ZERO`]: what the grant allows).
    ///
    /// # Errors
    /// As all requests: see [`Error`].
    pub fn open_stream(&mut self, name: Name, mode: ConsumeMode, hold: Duration) -> Result<Stream> {
        let (mode, depth) = mode.to_wire();
        let hold_ms = u32::try_from(hold.as_millis()).unwrap_or(u32::MAX);
        let request = wire::StreamOpenRequest {
            name: name.to_wire(),
            mode: mode.into(),
            depth: depth.into(),
            hold_ms: hold_ms.into(),
            reserved: U32::ZERO,
        };
        let reply = self.call(OpCode::StreamOpen, &request)?;
        let body = reply.body()?;
        let number = reply::number(body)?;
        let stream = reply::stream(body);
        if stream.is_err() {
            self.give_back(OpCode::StreamClose, number);
        }
        stream
    }

    /// STREAM_CLOSE. Frames that are held are given back.
    ///
    /// # Errors
    /// As all requests: see [`Error`].
    pub fn close_stream(&mut self, stream: Stream) -> Result<()> {
        let reply = self.call(OpCode::StreamClose, &U64::new(stream.number))?;
        reply::empty(reply.body()?)
    }

    /// STREAM_BUFFER: a read-only alias of one of the stream's buffers. It is closed as others are.
    ///
    /// # Errors
    /// As all requests: see [`Error`].
    pub fn stream_buffer(
        &mut self,
        stream: &Stream,
        index: u32,
        least: Enforcement,
    ) -> Result<Alias> {
        let request = wire::StreamBufferRequest {
            stream: stream.number.into(),
            index: index.into(),
            enforcement: least.to_wire().into(),
        };
        self.alias(OpCode::StreamBuffer, &request, Access::ReadOnly, least)
    }

    /// STREAM_ACQUIRE: the next frame; `None` if none is ready. An event tells when there is one after there was none.
    ///
    /// A frame whose reply comes too late stays held until its time is over.
    ///
    /// # Errors
    /// As all requests: see [`Error`].
    pub fn acquire(&mut self, stream: &mut Stream) -> Result<Option<Frame>> {
        let reply = self.call(OpCode::StreamAcquire, &U64::new(stream.number))?;
        let body = match reply.body() {
            Err(Error::Refused(Status::EAGAIN)) => return Ok(None),
            body => body?,
        };
        let frame = reply::frame(body)?;
        if frame.sequence <= stream.last {
            return Err(Error::Protocol("frames aren't in order"));
        }
        stream.last = frame.sequence;
        Ok(Some(frame))
    }

    /// STREAM_RELEASE: the frame's buffer may be written again. From here on it must not be read as this frame.
    ///
    /// # Errors
    /// [`Error::Refused`] with `ESTALE`: its time was over, and what was read since then can be of another frame.
    /// Otherwise as all requests.
    pub fn release(&mut self, stream: &Stream, frame: &Frame) -> Result<()> {
        let request = wire::StreamReleaseRequest {
            stream: stream.number.into(),
            sequence: frame.sequence.into(),
        };
        let reply = self.call(OpCode::StreamRelease, &request)?;
        reply::empty(reply.body()?)
    }
}
