// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The two ends of a stream.

use super::bell::{Bell, announce, with_bell};
use super::board::Acquired;
use super::list::List;
use super::{Stream, lock};
use crate::buffer::Buffer;
use dmabuf_protocol::Status;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Instant;

/// The end that queues frames. Dropping it withdraws the stream.
#[derive(Debug)]
pub struct Producer {
    pub(super) stream: Arc<Stream>,
    pub(super) streams: Weak<List>,
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
    /// [`Status::EINVAL`] above [`super::MAX_BUFFERS`].
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
    pub(super) stream: Arc<Stream>,
    pub(super) number: usize,
    pub(super) bell: Arc<Bell>,
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
