// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Streams: frames from one producer to many consumers (SPEC.md, "Device operation: streams").
//!
//! Both ends own their connection: what arrives on it wakes whoever polls it, and means "look again".
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

mod consumer;
mod producer;

pub use consumer::{Consumer, Frame};
pub use dmabuf_protocol::{ConsumeMode, Enforcement, Name, Status};
pub use producer::Producer;

use crate::client::{Client, parse_name};
use crate::connection::{Reply, wait};
use crate::error::{Error, Result};
use crate::sys;
use dmabuf_protocol::OpCode;
use dmabuf_protocol::wire::{self, Format};
use rustix::event::PollFlags;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};
use zerocopy::FromBytes;
use zerocopy::little_endian::{U32, U64};

/// Most pages of a list.
pub(crate) const MAX_PAGES: usize = 1024;

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

/// Waits for a sync_file; false: it hasn't ended within `limit`.
pub(crate) fn sync_file_ended(fence: BorrowedFd<'_>, limit: Duration) -> Result<bool> {
    let ended = wait(fence, PollFlags::IN, Instant::now() + limit)
        .map_err(Error::system("waiting for a fence"))?;
    match sys::sync_file_error(fence).filter(|_| ended) {
        None => Ok(ended),
        Some(source) => Err(Error::System {
            what: "what was to write the frame has failed",
            source,
        }),
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

fn known(format: Format) -> Option<Format> {
    (format.fourcc.get() != 0).then_some(format)
}
