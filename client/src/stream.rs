// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Streams: frames from one producer to many consumers (SPEC.md, "Device operation: streams").
//!
//! Both ends own their connection: what arrives on it wakes whoever polls [`AsFd`], and means "look again".
//!
//! ```no_run
//! use dmabuf_client::stream::{ConsumeMode, Consumer};
//! use dmabuf_client::Client;
//! use std::time::Duration;
//!
//! let client = Client::connect("/run/dmabuf/broker.sock".as_ref())?;
//! let mut front = Consumer::open(client, "front", ConsumeMode::Latest)?;
//! while let Some(frame) = front.next(Duration::from_secs(1))? {
//!     let pixels = front.pixels(&frame)?;
//!     println!("frame {}: CRC {:08x}", frame.sequence, pixels.crc32(0, pixels.len())?);
//!     front.release(frame)?;
//! }
//! # Ok::<(), dmabuf_client::Error>(())
//! ```

use crate::alias::Alias;
use crate::client::{Client, alias, parse_name};
use crate::connection::{Reply, wait};
use crate::error::{Error, Result};
use crate::mapping::Mapping;
use crate::sys;
use dmabuf_protocol::wire::{self, Format};
pub use dmabuf_protocol::{ConsumeMode, Enforcement, Name, Status};
use dmabuf_protocol::{FenceUsage, OpCode};
use rustix::event::PollFlags;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros};

/// Most pages of a list.
pub(crate) const MAX_PAGES: usize = 1024;
/// Most events about frames that aren't there any more, one after the other: frames are taken back, but not for ever.
const MAX_EMPTY: u32 = 1024;

/// One stream of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// Its name.
    pub name: Name,
    /// Its number, never used again.
    pub id: u64,
    /// Frames queued so far.
    pub produced: u64,
    /// Buffers.
    pub buffers: u32,
    /// Consumers.
    pub consumers: u32,
    /// The layout of its frames, if known.
    pub format: Option<Format>,
}

/// One consumer's counters. `produced - joined = delivered + skipped + ready`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsumerStats {
    /// The peer, as the configuration calls it.
    pub peer: Name,
    /// Which frames it gets.
    pub mode: ConsumeMode,
    /// Frames queued before it came.
    pub joined: u64,
    /// Frames that it acquired.
    pub delivered: u64,
    /// Frames that it was too slow for.
    pub skipped: u64,
    /// Holds that ended by their deadline.
    pub expired: u64,
    /// Frames ready for it.
    pub ready: u32,
    /// Frames that it holds.
    pub held: u32,
}

/// What a stream's producer and consumers have done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Frames queued so far.
    pub produced: u64,
    /// Buffers.
    pub buffers: u32,
    /// Of those, with the producer.
    pub with_producer: u32,
    /// Of those, free: used by nobody, and not reclaimed.
    pub free: u32,
    /// The consumers.
    pub consumers: Vec<ConsumerStats>,
}

impl Client {
    /// STREAM_LIST, all pages: the streams that this process may consume.
    ///
    /// # Errors
    /// As every call.
    pub fn streams(&mut self) -> Result<Vec<StreamInfo>> {
        let mut streams: Vec<StreamInfo> = Vec::new();
        let mut cursor = 0;
        for _ in 0..MAX_PAGES {
            let request = wire::ListRequest {
                cursor: U64::new(cursor),
                max: U32::new(64),
                reserved: U32::ZERO,
            };
            let reply = self.connection.call(OpCode::StreamList, &request, None)?;
            let (head, entries) = reply.starting_with::<wire::ListReply>()?;
            for entry in entries_of::<wire::StreamInfo>(entries, head.count.get())? {
                let id = entry.id.get();
                if id <= cursor {
                    return Err(Error::Protocol("a list that goes back"));
                }
                cursor = id;
                streams.push(StreamInfo {
                    name: name(entry.name)?,
                    id,
                    produced: entry.produced.get(),
                    buffers: entry.buffers.get(),
                    consumers: entry.consumers.get(),
                    format: known(entry.format),
                });
            }
            match head.next.get() {
                0 => return Ok(streams),
                next if next == cursor => {}
                _ => {
                    return Err(Error::Protocol(
                        "a list whose pages don't follow each other",
                    ));
                }
            }
        }
        Err(Error::Protocol("a list without an end"))
    }

    /// STREAM_STATS, all pages. The pages are of different moments.
    ///
    /// # Errors
    /// As every call; [`Error::BadName`].
    pub fn stream_stats(&mut self, stream: &str) -> Result<Stats> {
        let stream = parse_name(stream)?;
        let mut consumers = Vec::new();
        let mut cursor = 0;
        for _ in 0..MAX_PAGES {
            let request = wire::StreamStatsRequest {
                name: stream.to_wire(),
                cursor: U32::new(cursor),
                reserved: U32::ZERO,
            };
            let reply = self.connection.call(OpCode::StreamStats, &request, None)?;
            let (head, entries) = reply.starting_with::<wire::StreamStatsReply>()?;
            for entry in entries_of::<wire::ConsumerInfo>(entries, head.count.get())? {
                consumers.push(ConsumerStats {
                    peer: name(entry.peer)?,
                    mode: ConsumeMode::from_wire(entry.mode.get(), entry.depth.get())
                        .map_err(|_| Error::Protocol("a consumer of an unknown mode"))?,
                    joined: entry.joined.get(),
                    delivered: entry.delivered.get(),
                    skipped: entry.skipped.get(),
                    expired: entry.expired.get(),
                    ready: entry.ready.get(),
                    held: entry.held.get(),
                });
            }
            let next = head.next.get();
            if next == 0 {
                return Ok(Stats {
                    produced: head.produced.get(),
                    buffers: head.buffers.get(),
                    with_producer: head.with_producer.get(),
                    free: head.free.get(),
                    consumers,
                });
            }
            if next <= cursor {
                return Err(Error::Protocol("a list that goes back"));
            }
            cursor = next;
        }
        Err(Error::Protocol("a list without an end"))
    }

    /// `None` for EAGAIN.
    fn try_call(
        &mut self,
        op: OpCode,
        body: &(impl zerocopy::IntoBytes + zerocopy::Immutable),
    ) -> Result<Option<Reply>> {
        match self.connection.call(op, body, None) {
            Ok(reply) => Ok(Some(reply)),
            Err(Error::Refused {
                status: Status::EAGAIN,
                ..
            }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits for a message of the daemon; false after the time limit.
    fn wait_message(&mut self, until: Instant) -> Result<bool> {
        wait(self.as_fd(), PollFlags::IN, until).map_err(Error::system("waiting for the daemon"))
    }

    /// Takes the events that have arrived; whether there were any. They only tell that something has changed.
    fn drop_events(&mut self) -> Result<bool> {
        let mut any = false;
        while self.next_event()?.is_some() {
            any = true;
        }
        Ok(any)
    }
}

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
    views: Vec<Option<(Alias, Mapping)>>,
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
            views: Vec::new(),
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
        self.idle = frame.ready.get() == 0;
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
        let failed = |source| Error::System {
            what: "what was to write the frame has failed",
            source,
        };
        match &frame.fence {
            _ if !frame.fenced => Ok(true),
            Some(fence) => {
                let ended = wait(fence.as_fd(), PollFlags::IN, Instant::now() + limit);
                let ended = ended.map_err(Error::system("waiting for a fence"))?;
                if ended {
                    sys::sync_file_error(fence.as_fd())
                        .map_or(Ok(()), |errno| Err(failed(errno)))?;
                }
                Ok(ended)
            }
            None => {
                // The daemon takes 0 for the longest wait that it allows.
                let limit = limit.max(Duration::from_millis(1));
                self.view(frame)?;
                let view = usize::try_from(frame.index).ok();
                let view = view.and_then(|place| self.views.get(place)?.as_ref());
                let (alias, _) =
                    view.ok_or(Error::Protocol("a frame in a buffer that can't be"))?;
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
        let wrong = || Error::Protocol("a frame in a buffer that can't be");
        let place = usize::try_from(frame.index).map_err(|_| wrong())?;
        if self.views.len() <= place {
            self.views.resize_with(place + 1, || None);
        }
        let view = self.views.get_mut(place).ok_or_else(wrong)?;
        if view.is_none() {
            let alias = open_buffer(&mut self.client, self.number, frame.index)?;
            let mapping = alias.map()?;
            *view = Some((alias, mapping));
        }
        let (alias, mapping) = view.as_ref().ok_or_else(wrong)?;
        Ok((alias, mapping))
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

/// The end of a stream that queues frames. Dropping its connection ends the stream.
#[derive(Debug, PartialEq, Eq)]
pub struct Producer {
    number: u64,
    id: u64,
}

impl Producer {
    /// STREAM_CREATE.
    ///
    /// # Errors
    /// As every call; [`Error::BadName`].
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

    /// STREAM_QUEUE: hands a frame over; gives its sequence number. A timestamp of 0 is now.
    ///
    /// # Errors
    /// As every call; refused with [`Status::EBUSY`] for a buffer that wasn't reclaimed.
    pub fn queue(&self, client: &mut Client, index: u32, timestamp_ns: u64) -> Result<u64> {
        self.hand_over(client, (index, timestamp_ns, 0), None)
    }

    /// STREAM_QUEUE of a frame that hardware still writes: consumers wait for the buffer's fences. A `sync_file` is added
    /// to those before; without one, the driver must have done that.
    ///
    /// # Errors
    /// As [`Self::queue`]; refused with [`Status::EINVAL`] for an fd that is no sync_file, with [`Status::ENODEV`] for a
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

pub(crate) fn entries_of<T: FromBytes>(bytes: &[u8], count: u32) -> Result<Vec<T>> {
    let wrong = || Error::Protocol("a list with a wrong length");
    let entries = bytes
        .chunks(size_of::<T>())
        .map(|entry| T::read_from_bytes(entry).map_err(|_| wrong()))
        .collect::<Result<Vec<T>>>()?;
    if u32::try_from(entries.len()) != Ok(count) {
        return Err(wrong());
    }
    Ok(entries)
}

pub(crate) fn name(raw: [u8; 64]) -> Result<Name> {
    Name::from_wire(raw).map_err(|_| Error::Protocol("a malformed name"))
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

fn known(format: Format) -> Option<Format> {
    (format.fourcc.get() != 0).then_some(format)
}
