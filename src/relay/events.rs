// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Events on their way from the broker to the guest.

use super::link::Lost;
use crate::sys::EventFd;
use dmabuf_protocol::wire::{
    EVENT_BUFFER_REVOKED, EVENT_FRAME, EVENT_STREAM_FREE, EVENT_STREAM_WITHDRAWN, Event,
};
use std::collections::VecDeque;

/// Most events that wait for a guest that gives no buffers; the oldest go first.
const MOST: usize = 256;
/// Most of those that tell of a state, besides: three for each end of a stream, and some for buffers.
const MOST_STATES: usize = 3 * 64 + 512;

/// See the module.
#[derive(Debug)]
pub struct Events {
    waiting: VecDeque<Event>,
    wake: EventFd,
    /// The guest's number of the last event, and the broker's.
    sequence: u64,
    theirs: u64,
}

impl Events {
    /// None.
    ///
    /// # Errors
    /// EMFILE, ENFILE.
    pub fn new() -> rustix::io::Result<Self> {
        Ok(Self {
            waiting: VecDeque::new(),
            wake: EventFd::new()?,
            sequence: 0,
            theirs: 0,
        })
    }

    /// The event that is set while some may wait.
    pub const fn wake(&self) -> &EventFd {
        &self.wake
    }

    /// Forgets all, and counts from 1 again.
    pub fn clear(&mut self) {
        self.waiting.clear();
        (self.sequence, self.theirs) = (0, 0);
    }

    /// The oldest.
    pub fn next(&mut self) -> Option<Event> {
        self.waiting.pop_front()
    }

    /// Takes one in, in place of the oldest if there are too many. What the broker has lost, and what is lost here, is
    /// a gap in the guest's count; what tells of a state that the guest will hear of anyway isn't.
    ///
    /// # Errors
    /// [`Lost::Lie`] if it doesn't count up.
    pub fn push(&mut self, mut event: Event) -> Result<(), Lost> {
        let lost = event
            .sequence
            .get()
            .checked_sub(self.theirs)
            .and_then(|ahead| ahead.checked_sub(1))
            .ok_or(Lost::Lie("an event that doesn't count up"))?;
        self.theirs = event.sequence.get();
        self.sequence = self.sequence.saturating_add(lost);
        let state = is_state(&event);
        let same = |waiting: &Event| waiting.kind == event.kind && waiting.buffer == event.buffer;
        if state && self.waiting.iter().any(same) {
            return Ok(());
        }
        self.make_room(state);
        self.sequence = self.sequence.saturating_add(1);
        event.sequence = self.sequence.into();
        self.waiting.push_back(event);
        self.wake.set();
        Ok(())
    }

    /// Room for one that tells of a state, or for another.
    fn make_room(&mut self, state: bool) {
        let most = if state { MOST_STATES } else { MOST };
        let mut alike = (0..)
            .zip(&self.waiting)
            .filter(|(_, waiting)| is_state(waiting) == state);
        if let Some((oldest, _)) = alike.next()
            && alike.count() + 1 >= most
        {
            self.waiting.remove(oldest);
        }
    }
}

/// Whether it tells of a state, and must not be lost.
fn is_state(event: &Event) -> bool {
    matches!(
        event.kind.get(),
        EVENT_FRAME | EVENT_STREAM_WITHDRAWN | EVENT_STREAM_FREE | EVENT_BUFFER_REVOKED
    )
}
