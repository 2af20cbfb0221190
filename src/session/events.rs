// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a peer hears without asking: buffers that it may open come and go, its own are released, others are
//! taken away.

use super::Session;
use crate::stream::Messenger;
use crate::sys::EventFd;
use dmabuf_protocol::Name;
use dmabuf_protocol::wire::{EVENT_BUFFER_FREE, EVENT_BUFFER_RELEASED, EVENT_STREAM_ADDED, Event};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use zerocopy::FromZeros;

impl Session {
    /// The event that is set while events may wait.
    #[must_use]
    pub fn wake(&self) -> &EventFd {
        self.subscription.wake()
    }

    /// The number of the last event. Whoever numbers one with it must keep the session from doing so meanwhile.
    #[must_use]
    pub const fn event_sequence(&self) -> &Arc<AtomicU64> {
        &self.sequence
    }

    /// Has events about frames sent by whoever queues them, where `messenger` can.
    pub fn set_messenger(&mut self, messenger: Arc<dyn Messenger>) {
        self.messenger = Some(messenger);
    }

    /// More events; the number of the last one.
    pub(super) fn count_events(&self, more: u64) -> u64 {
        self.sequence.fetch_add(more, Ordering::Relaxed) + more
    }

    /// The next event for this peer. Clear [`Self::wake`] before asking until there is none.
    pub fn next_event(&mut self) -> Option<Event> {
        loop {
            let Some((change, lost)) = self.subscription.next() else {
                return self.revocation_event().or_else(|| self.stream_event());
            };
            // The gap shows with the next event that this peer gets.
            self.count_events(lost);
            let sees = |name: &Name| match change.kind {
                EVENT_STREAM_ADDED => self.policy.stream_grant(name).is_some(),
                _ => self.policy.sees(name, change.pool.as_deref()),
            };
            let own = matches!(change.kind, EVENT_BUFFER_RELEASED | EVENT_BUFFER_FREE);
            let event = (own || change.name.as_ref().is_some_and(sees)).then(|| {
                let sequence = self.count_events(1);
                Event {
                    kind: change.kind.into(),
                    sequence: sequence.into(),
                    buffer: change.id.0.into(),
                    value: change.value.into(),
                    name: change.name.map_or([0; 64], Name::to_wire),
                    ..FromZeros::new_zeroed()
                }
            });
            if event.is_some() {
                return event;
            }
        }
    }
}
