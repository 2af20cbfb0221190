// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VM's device in a process of its own, that has nothing but what a broker grants it.
//!
//! Requests are the same bytes on virtqueues and on the broker's socket, so they are handed on, and replies and events
//! are handed back. Handles are the broker's. What depends on windows is done here, with the [`Windows`] that a session
//! has: MAP and UNMAP, on the fds that come along with handles. A [`Relay`] is to the device what a
//! [`Session`](crate::session::Session) is.
//!
//! * `start`: what the broker says of this VM before anything else
//! * `link`: the connection, which never makes anybody wait
//! * `requests`, `replies`: the two ways; `open`: what is on its way
//! * `memory`: the fds, checked; `events`: what the guest hears without asking; `revoked`: what is taken back
//!
//! The broker is trusted with what it grants, and with nothing else: a reply that breaks the rules ends the connection.
//! Without a connection every request is `EIO` until the device is reset; what is mapped stays.

mod events;
mod link;
mod memory;
mod open;
mod replies;
mod requests;
mod revoked;
mod start;
#[cfg(test)]
mod tests;

pub use memory::Fixed;
pub use start::{Broker, Terms};

use crate::buffer::Buffer;
use crate::complaints::Complaints;
use crate::session::{Body, Done, FenceCounts, JobResult, VmSession, Windows, done};
use crate::sys::EventFd;
use dmabuf_protocol::wire::Event;
use dmabuf_protocol::{Handle, Name, OpCode, Status};
use events::Events;
use link::{Link, Lost};
use memory::Held;
use open::{DEADLINE, Open, Purpose};
use rustix::fd::RawFd;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::Instant;

/// Messages taken in at once, before the guest's queues have their turn again.
const BATCH: usize = 64;

/// See the module.
pub struct Relay {
    broker: Arc<Broker>,
    windows: Windows,
    link: Link,
    /// Requests on their way, by the tag that they have there: in the order in which they were sent.
    open: BTreeMap<u64, Open>,
    last_tag: u64,
    /// A handle without anything was revoked.
    handles: HashMap<Handle, Option<Held>>,
    /// What the broker takes away, and hasn't yet.
    announced: Vec<Weak<Buffer>>,
    /// Whether read-only mappings of a buffer appear in a static window, as far as that is known.
    fixed: HashMap<u64, bool>,
    events: Events,
    /// Replies that are ready.
    late: Vec<Done>,
    /// It was never connected.
    fresh: bool,
    /// When the broker is to show the next sign of life, while it takes long for something.
    life: Option<Instant>,
    complaints: Complaints,
}

impl Relay {
    /// Not connected yet: the first reset of the device does that.
    ///
    /// # Errors
    /// EMFILE, ENFILE.
    pub fn new(broker: Arc<Broker>, windows: Windows) -> rustix::io::Result<Self> {
        Ok(Self {
            broker,
            windows: windows.without_fail_stop(),
            link: Link::new()?,
            open: BTreeMap::new(),
            last_tag: 0,
            handles: HashMap::new(),
            announced: Vec::new(),
            fixed: HashMap::new(),
            events: Events::new()?,
            late: Vec::new(),
            fresh: true,
            life: None,
            complaints: Complaints::default(),
        })
    }

    /// A new connection, after whatever there was.
    fn connect(&mut self) {
        self.fresh = false;
        if let Err(errno) = self.link.renew(&self.broker.path) {
            self.lost(errno.into());
        }
    }

    /// The connection has ended, and what the guest had in it: every open request is answered.
    fn lost(&mut self, why: Lost) {
        self.link.close();
        self.handles.clear();
        self.life = None;
        self.complaints.warn(format_args!(
            "peer {}: {why}; requests fail until the guest resets the device",
            self.name()
        ));
        for open in std::mem::take(&mut self.open).into_values() {
            // A handle is given back by the end, too.
            let answer = match open.purpose {
                Purpose::Close(..) => Ok(Body::EMPTY),
                _ => Err(Status::EIO),
            };
            self.late.extend(
                open.asker
                    .map(|asker| done(asker.token, asker.envelope, answer)),
            );
        }
    }

    /// Asks for a sign of life while the broker takes its time; without one, nobody waits any longer.
    fn check_life(&mut self, now: Instant) {
        let slow = |open: &Open| open.deadline.is_none() && open.asker.is_some();
        if !self.open.values().any(slow) {
            self.life = None;
        } else if self.life.is_some_and(|at| at <= now) {
            self.life = Some(now + DEADLINE);
            let asked = |open: &Open| matches!(open.purpose, Purpose::Life);
            if !self.open.values().any(asked) {
                self.send_quietly(OpCode::GetInfo, &[], Purpose::Life);
            }
        }
    }

    /// Those that have waited too long.
    fn expired(&self, now: Instant) -> Vec<u64> {
        let passed = |open: &Open| open.deadline.is_some_and(|at| at <= now);
        // Who was asked for a sign of life, and gives none, won't answer what it was asked before.
        let silent_since = self
            .open
            .iter()
            .rfind(|(_, open)| matches!(open.purpose, Purpose::Life) && passed(open))
            .map_or(0, |(tag, _)| *tag);
        let waits = |open: &Open| open.asker.is_some() || matches!(open.purpose, Purpose::Life);
        let gone =
            |tag: u64, open: &Open| passed(open) || (open.deadline.is_none() && tag < silent_since);
        self.open
            .iter()
            .filter(|(tag, open)| waits(open) && gone(**tag, open))
            .map(|(tag, _)| *tag)
            .collect()
    }
}

impl VmSession for Relay {
    fn name(&self) -> Name {
        self.broker.terms.name
    }

    fn handle(&mut self, token: u64, bytes: &[u8], capacity: usize) -> Option<Done> {
        self.take(token, bytes, capacity)
    }

    fn take_late(&mut self) -> Vec<Done> {
        std::mem::take(&mut self.late)
    }

    fn finish(&mut self, result: JobResult) -> Option<Done> {
        self.windows.finish(result)
    }

    fn next_deadline(&self) -> Option<Instant> {
        let waits = |open: &&Open| open.asker.is_some() || matches!(open.purpose, Purpose::Life);
        self.open
            .values()
            .filter(waits)
            .filter_map(|open| open.deadline)
            .chain(self.windows.next_deadline())
            .chain(self.life)
            .chain(self.next_revoked())
            .min()
    }

    fn expire(&mut self, now: Instant) -> Vec<Done> {
        self.let_go(now);
        let mut replies = self.windows.expire(now);
        for tag in self.expired(now) {
            // What wasn't sent yet needs no undoing.
            let open = if self.link.take_back(tag) {
                self.open.remove(&tag)
            } else {
                self.open.get_mut(&tag).map(|open| Open {
                    asker: open.asker.take(),
                    purpose: std::mem::replace(&mut open.purpose, Purpose::Undo),
                    ..*open
                })
            };
            let Some(open) = open else { continue };
            self.put_back(open.purpose);
            let Some(asker) = open.asker else { continue };
            self.complaints.warn(format_args!(
                "peer {}: the broker did not answer a request ({}) within {} s",
                self.broker.terms.name,
                open.op.as_str(),
                DEADLINE.as_secs()
            ));
            replies.push(done(asker.token, asker.envelope, Err(Status::ETIMEDOUT)));
        }
        self.check_life(now);
        replies.append(&mut self.late);
        replies
    }

    fn late_wake(&self) -> RawFd {
        self.link.wake()
    }

    fn settle(&mut self) -> Vec<Done> {
        for _ in 0..BATCH {
            match self.link.receive() {
                Ok(Some(message)) => {
                    if let Err(lost) = self.take_message(message) {
                        self.lost(lost);
                    }
                }
                Ok(None) => break,
                Err(lost) => self.lost(lost),
            }
        }
        self.take_late()
    }

    fn event_wake(&self) -> &EventFd {
        self.events.wake()
    }

    fn next_event(&mut self) -> Option<Event> {
        self.events.next()
    }

    fn reset(&mut self) {
        self.open.clear();
        self.late.clear();
        self.handles.clear();
        self.announced.clear();
        self.fixed.clear();
        self.events.clear();
        self.life = None;
        self.windows.abandon();
        self.connect();
    }

    fn end(&mut self) {
        self.open.clear();
        self.late.clear();
        self.handles.clear();
        self.link.close();
        self.windows = Windows::new(self.name(), 0, None, Vec::new());
    }

    fn counts(&self) -> (u32, u32, FenceCounts) {
        let waits = |open: &&Open| open.op == OpCode::FenceWait && open.asker.is_some();
        let counts = FenceCounts {
            waits: self.open.values().filter(waits).count(),
            ..FenceCounts::default()
        };
        let handles = u32::try_from(self.handles.len()).unwrap_or(u32::MAX);
        (handles, self.windows.mappings(), counts)
    }
}
