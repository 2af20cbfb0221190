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
#[cfg(test)]
mod tests;

pub use bell::{Bell, Messenger};
pub use board::Acquired;

use crate::buffer::{Buffer, Subscription};
use crate::gauge::Gauge;
use crate::watch::Watch;
use bell::{announce, bell, with_bell};
use board::Board;
use dmabuf_protocol::wire::Format;
use dmabuf_protocol::{ConsumeMode, Name, Status};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
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

/// The end that queues frames. Dropping it withdraws the stream.
#[derive(Debug)]
pub struct Producer {
    stream: Arc<Stream>,
    streams: Weak<List>,
}

impl Producer {
    /// The stream.
    #[must_use]
    pub const fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    /// The bell that tells of a free buffer, after [`Self::reclaim`] found none.
    #[must_use]
    pub fn bell(&self) -> &Bell {
        &self.stream.producer
    }

    /// Adds a buffer; gives its index. Frames can be queued, and consumers join, with any number of buffers.
    ///
    /// # Errors
    /// [`Status::EINVAL`] above [`MAX_BUFFERS`].
    pub fn add(&self, buffer: Arc<Buffer>) -> Result<u32, Status> {
        let mut state = self.stream.lock();
        let index = state.board.add()?;
        state.buffers.push(buffer);
        Ok(index)
    }

    /// A buffer that is with the producer, and could be queued.
    ///
    /// # Errors
    /// As [`Self::queue`].
    pub fn own(&self, index: u32) -> Result<Arc<Buffer>, Status> {
        self.stream.lock().board.own(index)?;
        self.stream.buffer(index)
    }

    /// Hands a frame over to the consumers; gives its sequence number.
    ///
    /// # Errors
    /// [`Status::EINVAL`] for a buffer that isn't there, [`Status::ESTALE`] for one that is being revoked,
    /// [`Status::EBUSY`] for one that isn't with the producer.
    pub fn queue(&self, index: u32, timestamp_ns: u64, flags: u32) -> Result<u64, Status> {
        let (sequence, first, freed, bells) = {
            let mut state = self.stream.lock();
            state.may_queue(index)?;
            let (sequence, first, freed) = state.board.queue(index, timestamp_ns, flags)?;
            (sequence, first, freed, Arc::clone(&state.bells))
        };
        announce(&bells, first, &self.stream.name);
        self.stream.tell_producer(freed);
        Ok(sequence)
    }

    /// A buffer that is free again.
    ///
    /// # Errors
    /// [`Status::EAGAIN`] if there is none; the bell will ring when there is.
    pub fn reclaim(&self) -> Result<u32, Status> {
        if let Some(index) = self.stream.lock().board.reclaim() {
            return Ok(index);
        }
        self.stream.starved.store(true, Ordering::Release);
        // What became free in between has not rung.
        let found = self.stream.lock().board.reclaim();
        found
            .inspect(|_| self.stream.starved.store(false, Ordering::Release))
            .ok_or(Status::EAGAIN)
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        if let Some(list) = self.streams.upgrade() {
            lock(&list.by_name).remove(&self.stream.name);
        }
        self.stream.withdraw();
    }
}

/// The end that gets frames. Dropping it releases what it holds.
#[derive(Debug)]
pub struct Consumer {
    stream: Arc<Stream>,
    number: usize,
    bell: Arc<Bell>,
}

impl Consumer {
    /// The stream.
    #[must_use]
    pub const fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    /// The bell that tells of the first frame that is ready, and of the stream's end.
    #[must_use]
    pub fn bell(&self) -> &Bell {
        &self.bell
    }

    /// Whether the producer has gone, or has withdrawn the stream.
    #[must_use]
    pub fn is_withdrawn(&self) -> bool {
        self.stream.lock().withdrawn
    }

    /// How many frames are ready.
    #[must_use]
    pub fn ready(&self) -> u32 {
        let counters = self.stream.lock().board.counters(self.number);
        counters.map_or(0, |(_, _, ready, _)| ready)
    }

    /// The next frame, held from now on.
    ///
    /// # Errors
    /// [`Status::EAGAIN`] when none is ready, [`Status::ENODEV`] when none will come any more, [`Status::EBUSY`] when it
    /// holds as many as it may, [`Status::EDQUOT`] when its peer does.
    pub fn acquire(&self, now: Instant) -> Result<Acquired, Status> {
        let acquired = {
            let mut state = self.stream.lock();
            match state.board.acquire(self.number, now) {
                Err(Status::EAGAIN) if state.withdrawn => Err(Status::ENODEV),
                other => other,
            }
        }?;
        self.stream.watch.until(acquired.deadline);
        Ok(acquired)
    }

    /// Gives a frame back.
    ///
    /// # Errors
    /// [`Status::ESTALE`] for a frame that it doesn't hold: given back before, or its hold expired.
    pub fn release(&self, sequence: u64) -> Result<(), Status> {
        let freed = self.stream.lock().board.release(self.number, sequence)?;
        self.stream.tell_producer(freed);
        Ok(())
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let freed = {
            let mut state = self.stream.lock();
            state.bells = with_bell(&state.bells, self.number, None);
            state.board.leave(self.number)
        };
        self.stream.tell_producer(freed);
    }
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

/// All streams of a daemon.
#[derive(Debug, Default)]
pub struct Streams {
    list: Arc<List>,
    watch: Mutex<Option<Arc<Watch>>>,
}

#[derive(Debug, Default)]
struct List {
    by_name: Mutex<BTreeMap<Name, Arc<Stream>>>,
}

impl Streams {
    /// A new stream without buffers, for the peer whose session `session` is.
    ///
    /// # Errors
    /// [`Status::EEXIST`] if the name is taken, [`Status::ENOMEM`] if the thread that ends holds can't be started.
    pub fn create(
        &self,
        name: Name,
        format: Option<Format>,
        peer: Name,
        session: &Arc<Subscription>,
    ) -> Result<Producer, Status> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let watch = self.watch().map_err(|_| Status::ENOMEM)?;
        let mut by_name = lock(&self.list.by_name);
        if by_name.contains_key(&name) {
            return Err(Status::EEXIST);
        }
        let stream = Arc::new(Stream {
            name,
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            format,
            state: Mutex::new(State {
                board: Board::default(),
                buffers: Vec::with_capacity(MAX_BUFFERS),
                bells: Arc::new([]),
                withdrawn: false,
            }),
            producer: bell(peer, session),
            starved: AtomicBool::new(false),
            watch,
        });
        by_name.insert(name, Arc::clone(&stream));
        Ok(Producer {
            stream,
            streams: Arc::downgrade(&self.list),
        })
    }

    /// Joins a stream.
    ///
    /// # Errors
    /// [`Status::ENOENT`] if there is none of that name, [`Status::EMFILE`] above [`MAX_CONSUMERS`].
    pub fn open(
        &self,
        name: &Name,
        terms: Consumption,
        peer: Name,
        session: &Arc<Subscription>,
    ) -> Result<Consumer, Status> {
        let stream = self.find(name).ok_or(Status::ENOENT)?;
        let bell = bell(peer, session);
        let number = {
            let mut state = stream.lock();
            if state.withdrawn {
                return Err(Status::ENOENT);
            }
            let number = state.board.join(terms)?;
            state.bells = with_bell(&state.bells, number, Some(Arc::clone(&bell)));
            number
        };
        Ok(Consumer {
            stream,
            number,
            bell,
        })
    }

    /// The stream of that name.
    #[must_use]
    pub fn find(&self, name: &Name) -> Option<Arc<Stream>> {
        lock(&self.list.by_name).get(name).cloned()
    }

    /// Up to `max` streams with a number above `cursor` for which `wanted` holds, in the order of their numbers, and
    /// whether there are more.
    #[must_use]
    pub fn page(
        &self,
        cursor: u64,
        max: usize,
        wanted: impl Fn(&Name) -> bool,
    ) -> (Vec<Arc<Stream>>, bool) {
        let mut streams: Vec<_> = lock(&self.list.by_name)
            .values()
            .filter(|stream| stream.id > cursor && wanted(&stream.name))
            .cloned()
            .collect();
        streams.sort_by_key(|stream| stream.id);
        let more = streams.len() > max;
        streams.truncate(max);
        (streams, more)
    }

    /// Starts the thread that ends holds, instead of with the first stream.
    ///
    /// # Errors
    /// EAGAIN: no thread can be made.
    pub fn start(&self) -> std::io::Result<()> {
        self.watch().map(drop)
    }

    fn watch(&self) -> std::io::Result<Arc<Watch>> {
        let mut watch = lock(&self.watch);
        if let Some(watch) = watch.as_ref() {
            return Ok(Arc::clone(watch));
        }
        let list = Arc::downgrade(&self.list);
        let started = Watch::start("stream-holds", move |now| {
            let streams: Vec<_> = lock(&list.upgrade()?.by_name).values().cloned().collect();
            Some(streams.iter().filter_map(|stream| stream.expire(now)).min())
        })?;
        Ok(Arc::clone(watch.insert(started)))
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        if let Some(watch) = lock(&self.watch).take() {
            watch.end();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
