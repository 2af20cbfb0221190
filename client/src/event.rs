// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Events: buffers that this process may open come and go, its own are released, others are
//! taken away.
//!
//! They arrive on the socket at any time, between replies too; `connection` puts them into the queue here, and
//! [`crate::Client::next_event`] takes them out.

use crate::error::{Error, Result};
use dmabuf_protocol::{BufferId, Name, wire};
use std::collections::VecDeque;
use std::time::Duration;
use zerocopy::FromBytes;

/// Most events kept for a process that doesn't ask for them. The oldest go first, which shows as [`Event::lost`].
const MAX_QUEUED: usize = 1024;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// A buffer that this process may open was added.
    Added,
    /// A buffer that this process may open was withdrawn. Aliases of it stay valid.
    Withdrawn,
    /// A frame is ready for a consumer of this connection, its stream has ended, or its producer can reclaim a buffer. For
    /// [`crate::stream`], which looks again.
    Stream,
    /// A stream that this process may consume was created; [`Event::buffer`] is its number.
    StreamAdded,
    /// Another peer is done, for now, with a buffer that this process has made, and has sent this value.
    Released {
        /// What peer and producer have agreed on: the number of a frame, say.
        value: u64,
    },
    /// A buffer that this process has an alias of is taken away: its alias ends, and its bytes will be zero.
    Revoked {
        /// Time until then, from when the daemon has sent this.
        within: Duration,
    },
    /// A buffer that this peer has revoked is gone from everybody else.
    Free {
        /// Others may still see its memory, which is zero: by fds that they had, or in a VM that didn't let go.
        shared: bool,
    },
}

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// To which buffer.
    pub buffer: BufferId,
    /// Its name. A buffer that isn't published can be released and revoked, too, and has none.
    pub name: Option<Name>,
    /// Number of the event in this connection, from 1.
    pub sequence: u64,
    /// Events that were lost before this one. When it isn't 0, ask for the list again.
    pub lost: u64,
}

/// Events that nobody has asked for yet.
#[derive(Debug, Default)]
pub(crate) struct EventQueue {
    waiting: VecDeque<Event>,
    received: u64,
    delivered: u64,
    /// A stream that this connection consumes has ended.
    pub(crate) stream_ended: bool,
}

impl EventQueue {
    /// Checks and keeps an event as it came from the socket. A kind that this version doesn't know is left out.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<()> {
        let event = wire::Event::read_from_bytes(bytes)
            .map_err(|_| Error::Protocol("an event with a wrong length"))?;
        let sequence = event.sequence.get();
        if sequence <= self.received {
            return Err(Error::Protocol("an event's sequence number went back"));
        }
        self.received = sequence;
        let kind = match event.kind.get() {
            wire::EVENT_BUFFER_ADDED => EventKind::Added,
            wire::EVENT_BUFFER_WITHDRAWN => EventKind::Withdrawn,
            wire::EVENT_BUFFER_RELEASED => EventKind::Released {
                value: event.value.get(),
            },
            wire::EVENT_BUFFER_REVOKED => EventKind::Revoked {
                within: Duration::from_millis(event.value.get()),
            },
            wire::EVENT_BUFFER_FREE => EventKind::Free {
                shared: event.value.get() & wire::FREE_SHARED != 0,
            },
            wire::EVENT_STREAM_WITHDRAWN => {
                self.stream_ended = true;
                EventKind::Stream
            }
            wire::EVENT_FRAME | wire::EVENT_STREAM_FREE => EventKind::Stream,
            wire::EVENT_STREAM_ADDED => EventKind::StreamAdded,
            _ => return Ok(()),
        };
        let name = match kind {
            EventKind::Released { .. } | EventKind::Revoked { .. } | EventKind::Free { .. }
                if event.name == [0; 64] =>
            {
                None
            }
            _ => Some(
                Name::from_wire(event.name)
                    .map_err(|_| Error::Protocol("an event with a malformed name"))?,
            ),
        };
        if self.waiting.len() >= MAX_QUEUED {
            self.waiting.pop_front();
        }
        self.waiting.push_back(Event {
            kind,
            buffer: BufferId(event.buffer.get()),
            name,
            sequence,
            lost: 0,
        });
        Ok(())
    }

    /// The oldest event.
    pub(crate) fn pop(&mut self) -> Option<Event> {
        let mut event = self.waiting.pop_front()?;
        event.lost = event
            .sequence
            .saturating_sub(self.delivered)
            .saturating_sub(1);
        self.delivered = event.sequence;
        Some(event)
    }
}
