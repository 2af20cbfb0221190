// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a peer hears without asking: buffers that it may open come and go.

use super::Session;
use crate::sys::EventFd;
use dmabuf_protocol::wire::Event;
use zerocopy::FromZeros;

impl Session {
    /// The event that is set while events may wait.
    #[must_use]
    pub fn wake(&self) -> &EventFd {
        self.subscription.wake()
    }

    /// The next event for this peer. Clear [`Self::wake`] before asking until there is none.
    pub fn next_event(&mut self) -> Option<Event> {
        loop {
            let (change, lost) = self.subscription.next()?;
            // The gap shows with the next event that this peer gets.
            self.sequence += lost;
            let event = self
                .policy
                .sees(&change.name, change.pool.as_deref())
                .then(|| {
                    self.sequence += 1;
                    Event {
                        kind: change.kind.into(),
                        sequence: self.sequence.into(),
                        buffer: change.id.0.into(),
                        name: change.name.to_wire(),
                        ..FromZeros::new_zeroed()
                    }
                });
            if event.is_some() {
                return event;
            }
        }
    }
}
