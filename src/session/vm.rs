// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a VM's device needs of whoever answers its requests: a [`Session`] of this process, or a relay of another
//! process's.

use super::{Done, FenceCounts, JobResult, Session, Transport};
use crate::sys::EventFd;
use dmabuf_protocol::Name;
use dmabuf_protocol::wire::Event;
use rustix::fd::{AsRawFd, RawFd};
use std::time::Instant;

/// See the module. Used by the device's worker thread; nothing here waits.
pub trait VmSession: Send {
    /// What the host calls the VM.
    fn name(&self) -> Name;

    /// Takes one request. `capacity` is what the reply may have in bytes, at least a reply header.
    ///
    /// Returns the reply, or `None` if it will come from one of the calls below. What [`Self::take_late`] has goes
    /// first.
    fn handle(&mut self, token: u64, bytes: &[u8], capacity: usize) -> Option<Done>;

    /// Replies to earlier requests that the last one has brought about, and to that one if [`Self::handle`] gave none.
    fn take_late(&mut self) -> Vec<Done>;

    /// Takes the result of a mapping job; returns the reply that was waiting for it, if one was.
    fn finish(&mut self, result: JobResult) -> Option<Done>;

    /// When the first deadline passes.
    fn next_deadline(&self) -> Option<Instant>;

    /// Answers what has waited too long.
    fn expire(&mut self, now: Instant) -> Vec<Done>;

    /// The fd that is readable while there may be something for [`Self::settle`]; the same until the end.
    fn late_wake(&self) -> RawFd;

    /// Takes in what has come for the requests that are open; returns the replies.
    fn settle(&mut self) -> Vec<Done>;

    /// The event that is set while events may wait; the same until the end.
    fn event_wake(&self) -> &EventFd;

    /// The next event for the guest. Clear [`Self::event_wake`] before asking until there is none.
    fn next_event(&mut self) -> Option<Event>;

    /// Ends everything the guest had, as after a reset of the device.
    fn reset(&mut self);

    /// Ends the session for good; its windows are given up.
    fn end(&mut self);

    /// Handles and mappings held now, and what is open of fences.
    fn counts(&self) -> (u32, u32, FenceCounts);
}

impl VmSession for Session {
    fn name(&self) -> Name {
        self.policy.name
    }

    fn handle(&mut self, token: u64, bytes: &[u8], capacity: usize) -> Option<Done> {
        Self::handle(self, token, bytes, capacity, Vec::new())
    }

    fn take_late(&mut self) -> Vec<Done> {
        Self::take_late(self)
    }

    fn finish(&mut self, result: JobResult) -> Option<Done> {
        match &mut self.transport {
            Transport::Windows(windows) => windows.finish(result),
            Transport::Fds => None,
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        match &self.transport {
            Transport::Windows(windows) => windows.next_deadline(),
            Transport::Fds => None,
        }
    }

    fn expire(&mut self, now: Instant) -> Vec<Done> {
        match &mut self.transport {
            Transport::Windows(windows) => windows.expire(now),
            Transport::Fds => Vec::new(),
        }
    }

    fn late_wake(&self) -> RawFd {
        self.fence_wake().as_raw_fd()
    }

    fn settle(&mut self) -> Vec<Done> {
        Self::settle(self)
    }

    fn event_wake(&self) -> &EventFd {
        self.wake()
    }

    fn next_event(&mut self) -> Option<Event> {
        Self::next_event(self)
    }

    fn reset(&mut self) {
        Self::reset(self);
    }

    fn end(&mut self) {
        Self::end(self);
    }

    fn counts(&self) -> (u32, u32, FenceCounts) {
        let (handles, mappings) = Self::counts(self);
        (handles, mappings, self.fence_counts())
    }
}
