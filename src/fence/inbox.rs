// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Results on their way back to a session: pushed by the reactor and the workers, taken by the session's own thread.

use super::{Bracket, Ending, Hold};
use crate::sys::EventFd;
use rustix::io::Errno;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A result. What it carries is undone by dropping it: a note that nobody takes leaves nothing behind.
#[derive(Debug)]
pub enum Note {
    /// A wait has ended.
    Ended(Ending),
    /// A bracket was opened, or not.
    Begun(Result<Bracket, Errno>),
    /// A bracket was closed.
    Finished(Result<(), Errno>),
    /// A fence is on the buffer, or not.
    Attached(Result<Hold, Errno>),
}

/// See the module.
#[derive(Debug)]
pub struct Inbox {
    notes: Mutex<Vec<(u64, Note)>>,
    wake: EventFd,
}

impl Inbox {
    /// An empty one.
    ///
    /// # Errors
    /// EMFILE, ENFILE.
    pub fn new() -> rustix::io::Result<Self> {
        Ok(Self {
            notes: Mutex::default(),
            wake: EventFd::new()?,
        })
    }

    /// The event that is set while notes wait.
    #[must_use]
    pub const fn wake(&self) -> &EventFd {
        &self.wake
    }

    /// Puts in the result of what was asked for under `key`.
    pub fn push(&self, key: u64, note: Note) {
        self.notes().push((key, note));
        self.wake.set();
    }

    /// Puts all notes behind those in `taken`.
    pub fn take(&self, taken: &mut Vec<(u64, Note)>) {
        self.wake.clear();
        taken.append(&mut self.notes());
    }

    fn notes(&self) -> MutexGuard<'_, Vec<(u64, Note)>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
