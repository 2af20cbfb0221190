// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Streams: a named sequence of frames over a fixed set of buffers, with one producer and many consumers.
//!
//! ```text
//!  producer --queue--> [ready for each consumer] --acquire--> [held] --release, deadline--> free --reclaim--> producer
//! ```
//!
//! [`Streams`] is the daemon's list of them, [`Producer`] and [`Consumer`] are the two ends; dropping an end ends it.
//! Used by `session`; knows no virtio, no socket and no bytes of memory.
//!
//! A consumer that is slow, stopped or dead costs the producer nothing: frames that nobody has acquired are taken back
//! when there is no other buffer, and holds have a deadline, which one thread watches for all streams.
//!
//! Locks: a stream's own (short, no system call under it, no allocation on the way of a frame), the list's, the
//! watch's; none is taken while another one is held. Bells are rung, and messengers sent, after the lock was given back.

mod bell;
mod board;
mod ends;
mod list;
#[cfg(test)]
mod tests;

pub use bell::{Bell, Messenger};
pub use board::Acquired;
pub use ends::{Consumer, Producer};
pub use list::Streams;

use crate::buffer::Buffer;
use crate::gauge::Gauge;
use crate::watch::Watch;
use board::Board;
use dmabuf_protocol::wire::Format;
use dmabuf_protocol::{ConsumeMode, Name, Status};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Most buffers of a stream.
pub const MAX_BUFFERS: usize = 64;
/// Most consumers of a stream.
pub const MAX_CONSUMERS: usize = 256;

/// Most frames that wait for a consumer of this mode.
fn depth(mode: ConsumeMode) -> usize {
    match mode {
        ConsumeMode::Latest => 1,
        ConsumeMode::Fifo(depth) => usize::from(depth).clamp(1, MAX_BUFFERS),
    }
}

/// One frame: which buffer, and what is known of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// Counts up by 1 from 1 over the life of the stream.
    pub sequence: u64,
    /// When it was captured, in nanoseconds of the host's `CLOCK_MONOTONIC`.
    pub timestamp_ns: u64,
    /// Index of its buffer in the stream.
    pub index: u32,
    /// `FRAME_*` of the protocol.
    pub flags: u32,
}

/// What a consumer has had. `produced - joined = delivered + skipped + ready`, always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames that the stream had seen when it joined.
    pub joined: u64,
    /// Frames that it acquired.
    pub delivered: u64,
    /// Frames that it was too slow for.
    pub skipped: u64,
    /// Holds that ended by their deadline.
    pub expired: u64,
}

/// One consumer's part of the statistics.
#[derive(Clone, Copy, Debug)]
pub struct ConsumerStats {
    /// The peer.
    pub peer: Name,
    /// Which frames it gets.
    pub mode: ConsumeMode,
    /// What it has had.
    pub counters: Counters,
    /// Frames ready for it.
    pub ready: u32,
    /// Frames it holds.
    pub held: u32,
}

/// A stream's statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Frames queued.
    pub produced: u64,
    /// Its buffers.
    pub buffers: u32,
    /// Of those, with the producer.
    pub with_producer: u32,
    /// Of those, free to be reclaimed.
    pub free: u32,
    /// Its consumers.
    pub consumers: u32,
}

/// Terms on which a peer consumes.
#[derive(Clone, Debug)]
pub struct Consumption {
    /// Which frames.
    pub mode: ConsumeMode,
    /// Most frames held at once, at least 1.
    pub max_held: u32,
    /// The longest hold.
    pub hold: Duration,
    /// Frames that the peer holds, of all streams.
    pub holds: Gauge,
    /// The most of those.
    pub max_holds: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Stream {
    name: Name,
    id: u64,
    format: Option<Format>,
    state: Mutex<State>,
    producer: Arc<Bell>,
    /// The producer found no buffer: tell it when there is one.
    starved: AtomicBool,
    watch: Arc<Watch>,
}

#[derive(Debug)]
struct State {
    board: Board,
    buffers: Vec<Arc<Buffer>>,
    /// By consumer number. Copied on change, so that bells can be rung without the lock.
    bells: Arc<[Option<Arc<Bell>>]>,
    withdrawn: bool,
}

impl State {
    fn may_queue(&self, index: u32) -> Result<(), Status> {
        let index = usize::try_from(index).map_err(|_| Status::EINVAL)?;
        match self.buffers.get(index).and_then(|buffer| buffer.notice()) {
            Some(_) => Err(Status::ESTALE),
            None => Ok(()),
        }
    }

    fn stats(&self) -> Stats {
        let (buffers, with_producer, free) = self.board.buffers();
        let consumers = self.bells.iter().flatten().count();
        Stats {
            produced: self.board.produced(),
            buffers,
            with_producer,
            free,
            consumers: u32::try_from(consumers).unwrap_or(u32::MAX),
        }
    }
}

impl Stream {
    /// Its name.
    #[must_use]
    pub const fn name(&self) -> Name {
        self.name
    }

    /// Its number, never used again.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// The layout of its frames, if known.
    #[must_use]
    pub const fn format(&self) -> Option<Format> {
        self.format
    }

    /// How many buffers it has.
    #[must_use]
    pub fn buffers(&self) -> u32 {
        self.lock().board.buffers().0
    }

    /// One of its buffers.
    ///
    /// # Errors
    /// [`Status::EINVAL`] if there is none of that index.
    pub fn buffer(&self, index: u32) -> Result<Arc<Buffer>, Status> {
        let index = usize::try_from(index).map_err(|_| Status::EINVAL)?;
        self.lock()
            .buffers
            .get(index)
            .cloned()
            .ok_or(Status::EINVAL)
    }

    /// All of its buffers.
    #[must_use]
    pub fn all_buffers(&self) -> Vec<Arc<Buffer>> {
        self.lock().buffers.clone()
    }

    /// How it is.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.lock().stats()
    }

    /// How it is, and up to `max` of its consumers with a number from `from` on, each with its number; all at one moment.
    #[must_use]
    pub fn consumers(&self, from: usize, max: usize) -> (Stats, Vec<(usize, ConsumerStats)>) {
        let state = self.lock();
        let bells = state.bells.iter().enumerate().skip(from);
        let consumers = bells.filter_map(|(number, bell)| {
            let (mode, counters, ready, held) = state.board.counters(number)?;
            let stats = ConsumerStats {
                peer: bell.as_ref()?.peer(),
                mode,
                counters,
                ready,
                held,
            };
            Some((number, stats))
        });
        (state.stats(), consumers.take(max).collect())
    }

    fn expire(&self, now: Instant) -> Option<Instant> {
        let (freed, next) = self.lock().board.expire(now);
        self.tell_producer(freed);
        next
    }

    fn tell_producer(&self, freed: bool) {
        if freed && self.starved.swap(false, Ordering::AcqRel) {
            self.producer.ring();
        }
    }

    fn withdraw(&self) {
        let bells = {
            let mut state = self.lock();
            state.withdrawn = true;
            Arc::clone(&state.bells)
        };
        bells.iter().flatten().for_each(|bell| bell.ring());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
