// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who has which buffer of a stream: the state machine, without locks, clocks, fds or memory.
//!
//! A buffer is with the producer, or *out* (some consumer has it ready or holds it), or *free*, waiting to be
//! reclaimed. For each consumer, at any time: frames queued since it joined = delivered + skipped + ready.
//! Nothing here allocates once consumer and buffer are there.

use super::{Consumption, Counters, Frame, MAX_BUFFERS, MAX_CONSUMERS, depth};
use crate::gauge::Share;
use dmabuf_protocol::{ConsumeMode, Status};
use std::time::Instant;

/// Buffers in order, each at most once.
#[derive(Debug)]
struct Ring {
    items: [u8; MAX_BUFFERS],
    head: usize,
    len: usize,
}

impl Ring {
    const EMPTY: Self = Self {
        items: [0; MAX_BUFFERS],
        head: 0,
        len: 0,
    };

    fn push(&mut self, index: u8) {
        if let Some(item) = self.items.get_mut((self.head + self.len) % MAX_BUFFERS) {
            *item = index;
            self.len += 1;
        }
    }

    fn pop(&mut self) -> Option<u8> {
        let first = self.first()?;
        self.head = (self.head + 1) % MAX_BUFFERS;
        self.len -= 1;
        Some(first)
    }

    /// Takes one out of the middle; whether it was there.
    fn remove(&mut self, index: u8) -> bool {
        let before = self.len;
        for _ in 0..before {
            if let Some(item) = self.pop().filter(|item| *item != index) {
                self.push(item);
            }
        }
        self.len < before
    }

    fn first(&self) -> Option<u8> {
        (self.len > 0)
            .then(|| self.items.get(self.head).copied())
            .flatten()
    }
}

/// Where a buffer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Producer,
    Out,
    Free,
}

#[derive(Debug)]
struct Slot {
    place: Place,
    frame: Frame,
    /// Consumers that hold it.
    holds: u32,
    /// Consumers for which it is ready.
    ready: u32,
}

#[derive(Debug)]
struct Lane {
    terms: Consumption,
    ready: Ring,
    /// By buffer.
    held: [Option<Hold>; MAX_BUFFERS],
    counters: Counters,
}

/// One frame in use.
#[derive(Debug)]
struct Hold {
    /// When it expires.
    until: Instant,
    /// Its place in the quota of the consumer's peer.
    _place: Share,
}

/// Consumers by number, as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Set([u64; MAX_CONSUMERS / 64]);

impl Set {
    fn insert(&mut self, index: usize) {
        if let Some(word) = self.0.get_mut(index / 64) {
            *word |= 1 << (index % 64);
        }
    }

    /// Its members.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        self.0.into_iter().enumerate().flat_map(|(word, bits)| {
            (0..64)
                .filter(move |bit| bits >> bit & 1 == 1)
                .map(move |bit| word * 64 + bit)
        })
    }
}

/// What a consumer gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acquired {
    /// The frame.
    pub frame: Frame,
    /// Frames that this consumer has skipped so far.
    pub skipped: u64,
    /// Frames that are ready after this one.
    pub ready: u32,
    /// When the hold ends by itself.
    pub deadline: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Board {
    slots: Vec<Slot>,
    lanes: Vec<Option<Box<Lane>>>,
    free: Option<Box<Ring>>,
    sequence: u64,
}

impl Board {
    /// Adds a buffer, which is the producer's; gives its index.
    ///
    /// # Errors
    /// [`Status::EINVAL`] above [`MAX_BUFFERS`].
    pub fn add(&mut self) -> Result<u32, Status> {
        if self.slots.len() >= MAX_BUFFERS {
            return Err(Status::EINVAL);
        }
        let index = u32::try_from(self.slots.len()).map_err(|_| Status::EINVAL)?;
        self.slots.push(Slot {
            place: Place::Producer,
            frame: Frame {
                index,
                ..Frame::default()
            },
            holds: 0,
            ready: 0,
        });
        self.free.get_or_insert_with(|| Box::new(Ring::EMPTY));
        Ok(index)
    }

    /// A new consumer; gives its number.
    ///
    /// # Errors
    /// [`Status::EMFILE`] above [`MAX_CONSUMERS`].
    pub fn join(&mut self, terms: Consumption) -> Result<usize, Status> {
        let lane = Some(Box::new(Lane {
            terms,
            ready: Ring::EMPTY,
            held: [const { None }; MAX_BUFFERS],
            counters: Counters {
                joined: self.sequence,
                ..Counters::default()
            },
        }));
        if let Some(index) = self.lanes.iter().position(Option::is_none) {
            if let Some(place) = self.lanes.get_mut(index) {
                *place = lane;
            }
            return Ok(index);
        }
        if self.lanes.len() >= MAX_CONSUMERS {
            return Err(Status::EMFILE);
        }
        self.lanes.push(lane);
        Ok(self.lanes.len() - 1)
    }

    /// A consumer goes; whether a buffer can be reclaimed now.
    pub fn leave(&mut self, lane: usize) -> bool {
        let Some(mut lane) = self.lanes.get_mut(lane).and_then(Option::take) else {
            return false;
        };
        let mut freed = false;
        while let Some(index) = lane.ready.pop() {
            freed |= self.drop_ready(index);
        }
        for (index, held) in (0..).zip(lane.held) {
            freed |= held.is_some() && self.drop_hold(index);
        }
        freed
    }

    /// The place of a buffer that is with the producer.
    ///
    /// # Errors
    /// [`Status::EINVAL`] for a buffer that isn't there, [`Status::EBUSY`] for one that isn't with the producer.
    pub fn own(&self, index: u32) -> Result<u8, Status> {
        let index = u8::try_from(index).map_err(|_| Status::EINVAL)?;
        match self.slots.get(usize::from(index)) {
            None => Err(Status::EINVAL),
            Some(slot) if slot.place != Place::Producer => Err(Status::EBUSY),
            Some(_) => Ok(index),
        }
    }

    /// The producer hands over a frame: its sequence number, whose first frame this is, whether a buffer became free.
    ///
    /// # Errors
    /// [`Status::EINVAL`] for a buffer that isn't there, [`Status::EBUSY`] for one that isn't with the producer.
    pub fn queue(
        &mut self,
        index: u32,
        timestamp_ns: u64,
        flags: u32,
    ) -> Result<(u64, Set, bool), Status> {
        let index = self.own(index)?;
        self.sequence += 1;
        let slot = self
            .slots
            .get_mut(usize::from(index))
            .ok_or(Status::EINVAL)?;
        slot.frame = Frame {
            sequence: self.sequence,
            timestamp_ns,
            flags,
            ..slot.frame
        };
        slot.place = Place::Out;
        let mut first = Set::default();
        let mut freed = false;
        for number in 0..self.lanes.len() {
            let Some(lane) = self.lanes.get_mut(number).and_then(Option::as_mut) else {
                continue;
            };
            let skipped = (lane.ready.len >= depth(lane.terms.mode))
                .then(|| lane.ready.pop())
                .flatten();
            if skipped.is_some() {
                lane.counters.skipped += 1;
            } else if lane.ready.len == 0 {
                first.insert(number);
            }
            lane.ready.push(index);
            if let Some(slot) = self.slots.get_mut(usize::from(index)) {
                slot.ready += 1;
            }
            if let Some(skipped) = skipped {
                freed |= self.drop_ready(skipped);
            }
        }
        freed |= self.settle(index);
        Ok((self.sequence, first, freed))
    }

    /// The consumer's next frame, held from now on.
    ///
    /// # Errors
    /// [`Status::EAGAIN`] when none is ready, [`Status::EBUSY`] when it holds as many as it may, [`Status::EDQUOT`] when
    /// its peer does, of all streams, [`Status::ESTALE`] for a consumer that isn't there.
    pub fn acquire(&mut self, lane: usize, now: Instant) -> Result<Acquired, Status> {
        let lane = self.lane(lane)?;
        let index = lane.ready.first().ok_or(Status::EAGAIN)?;
        if lane.held() >= lane.terms.max_held {
            return Err(Status::EBUSY);
        }
        let place = lane.terms.holds.take(1, lane.terms.max_holds);
        let place = place.ok_or(Status::EDQUOT)?;
        lane.ready.pop();
        let deadline = now + lane.terms.hold;
        if let Some(held) = lane.held.get_mut(usize::from(index)) {
            *held = Some(Hold {
                until: deadline,
                _place: place,
            });
        }
        lane.counters.delivered += 1;
        let (skipped, ready) = (lane.counters.skipped, lane.ready.len);
        let slot = self
            .slots
            .get_mut(usize::from(index))
            .ok_or(Status::ESTALE)?;
        slot.ready -= 1;
        slot.holds += 1;
        Ok(Acquired {
            frame: slot.frame,
            skipped,
            ready: u32::try_from(ready).unwrap_or(u32::MAX),
            deadline,
        })
    }

    /// The consumer is done with a frame; whether its buffer can be reclaimed now.
    ///
    /// # Errors
    /// [`Status::ESTALE`] for a frame that it doesn't hold: given back before, or expired.
    pub fn release(&mut self, lane: usize, sequence: u64) -> Result<bool, Status> {
        let index = self
            .slots
            .iter()
            .position(|slot| slot.place == Place::Out && slot.frame.sequence == sequence)
            .ok_or(Status::ESTALE)?;
        self.lane(lane)?
            .held
            .get_mut(index)
            .and_then(Option::take)
            .ok_or(Status::ESTALE)?;
        Ok(self.drop_hold(u8::try_from(index).unwrap_or(u8::MAX)))
    }

    /// A buffer for the producer. When none is free, the oldest frame that is ready and held by nobody is taken from
    /// those who haven't acquired it: they skip it.
    pub fn reclaim(&mut self) -> Option<u32> {
        if self.free.as_ref().is_none_or(|free| free.len == 0) {
            self.take_oldest_ready();
        }
        let index = self.free.as_mut()?.pop()?;
        let slot = self.slots.get_mut(usize::from(index))?;
        slot.place = Place::Producer;
        Some(index.into())
    }

    fn take_oldest_ready(&mut self) {
        let unheld = self
            .slots
            .iter()
            .filter(|slot| slot.place == Place::Out && slot.holds == 0);
        let Some(oldest) = unheld.min_by_key(|slot| slot.frame.sequence) else {
            return;
        };
        let index = u8::try_from(oldest.frame.index).unwrap_or(u8::MAX);
        for number in 0..self.lanes.len() {
            let lane = self.lanes.get_mut(number).and_then(Option::as_mut);
            let Some(lane) = lane else { continue };
            if !lane.ready.remove(index) {
                continue;
            }
            lane.counters.skipped += 1;
            self.drop_ready(index);
        }
    }

    /// Ends the holds whose time is over: whether a buffer can be reclaimed now, and when the next one ends.
    pub fn expire(&mut self, now: Instant) -> (bool, Option<Instant>) {
        let mut freed = false;
        let mut next: Option<Instant> = None;
        for number in 0..self.lanes.len() {
            for index in 0..self.slots.len() {
                let lane = self.lanes.get_mut(number).and_then(Option::as_mut);
                let Some(lane) = lane else { break };
                let Some(held) = lane.held.get_mut(index) else {
                    break;
                };
                match held.as_ref().map(|hold| hold.until) {
                    Some(deadline) if deadline <= now => {
                        *held = None;
                        lane.counters.expired += 1;
                        freed |= self.drop_hold(u8::try_from(index).unwrap_or(u8::MAX));
                    }
                    Some(deadline) => {
                        next = Some(next.map_or(deadline, |next| next.min(deadline)));
                    }
                    None => {}
                }
            }
        }
        (freed, next)
    }

    /// What a consumer has had, and how many frames are ready for it and held by it.
    pub fn counters(&self, lane: usize) -> Option<(ConsumeMode, Counters, u32, u32)> {
        let lane = self.lanes.get(lane)?.as_ref()?;
        let ready = u32::try_from(lane.ready.len).unwrap_or(u32::MAX);
        Some((lane.terms.mode, lane.counters, ready, lane.held()))
    }

    /// Frames queued so far.
    pub const fn produced(&self) -> u64 {
        self.sequence
    }

    /// Buffers: all, with the producer, free.
    pub fn buffers(&self) -> (u32, u32, u32) {
        let count = |place| {
            let slots = self.slots.iter().filter(|slot| slot.place == place);
            u32::try_from(slots.count()).unwrap_or(u32::MAX)
        };
        let all = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        (all, count(Place::Producer), count(Place::Free))
    }

    fn lane(&mut self, lane: usize) -> Result<&mut Lane, Status> {
        let lane = self.lanes.get_mut(lane).and_then(Option::as_deref_mut);
        lane.ok_or(Status::ESTALE)
    }

    fn drop_ready(&mut self, index: u8) -> bool {
        if let Some(slot) = self.slots.get_mut(usize::from(index)) {
            slot.ready -= 1;
        }
        self.settle(index)
    }

    /// Whether the buffer can be reclaimed now: a frame that is only ready for somebody can be taken back.
    fn drop_hold(&mut self, index: u8) -> bool {
        let Some(slot) = self.slots.get_mut(usize::from(index)) else {
            return false;
        };
        slot.holds -= 1;
        let unheld = slot.holds == 0;
        self.settle(index);
        unheld
    }

    /// A buffer that nobody has any more is free.
    fn settle(&mut self, index: u8) -> bool {
        let (Some(slot), Some(free)) = (
            self.slots.get_mut(usize::from(index)),
            self.free.as_deref_mut(),
        ) else {
            return false;
        };
        if slot.place != Place::Out || slot.holds > 0 || slot.ready > 0 {
            return false;
        }
        slot.place = Place::Free;
        free.push(index);
        true
    }
}

impl Lane {
    fn held(&self) -> u32 {
        u32::try_from(self.held.iter().flatten().count()).unwrap_or(u32::MAX)
    }
}
