// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who can reach a buffer besides its maker, and whether they are being told to let go (SPEC.md, "Revocation").
//!
//! Each alias counts itself in [`Reach`] by a [`Share`]. An alias that is being made counts first and looks for a
//! [`Notice`] then; a revocation puts up its notice first and counts then: so none of the two misses the other.

use super::Buffer;
use crate::watch::Watch;
use dmabuf_protocol::{Name, Status};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// See the module; one per buffer.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// Aliases that aren't its maker's.
    others: AtomicUsize,
    /// A host process has had an fd of such an alias.
    given_out: AtomicBool,
    notice: OnceLock<Notice>,
    due: AtomicBool,
}

/// What everybody who has the buffer is to know of its revocation.
#[derive(Debug)]
pub struct Notice {
    /// When all aliases but the maker's end.
    pub deadline: Instant,
    /// The session that has asked for it.
    pub asked_by: u64,
    /// The name that the buffer had.
    pub name: Option<Name>,
    /// Looks whether it is complete; `None` for a buffer of a broker, which does that.
    pub(super) watch: Option<Arc<Watch>>,
}

/// When dropped, has somebody look how far the buffer's revocation is.
#[derive(Debug, Default)]
pub(super) struct Look(Option<Arc<Watch>>);

impl Look {
    pub fn at(notice: &Notice) -> Self {
        Self(notice.watch.clone())
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        if let Some(watch) = &self.0 {
            watch.until(Instant::now());
        }
    }
}

impl Reach {
    /// Puts up the notice; false if there is one.
    pub fn announce(&self, notice: Notice) -> bool {
        self.notice.set(notice).is_ok()
    }

    pub fn notice(&self) -> Option<&Notice> {
        self.notice.get()
    }

    /// From now on all aliases but the maker's are void.
    pub fn set_due(&self) {
        self.due.store(true, Ordering::SeqCst);
    }

    pub fn is_due(&self) -> bool {
        self.due.load(Ordering::SeqCst)
    }

    /// Whether somebody but the maker has an alias.
    pub fn is_shared(&self) -> bool {
        self.others.load(Ordering::SeqCst) > 0
    }

    pub fn was_given_out(&self) -> bool {
        self.given_out.load(Ordering::SeqCst)
    }
}

impl Buffer {
    /// Its broker takes it away at `deadline`; false if that is known.
    pub fn announce(&self, deadline: Instant) -> bool {
        self.reach.announce(Notice {
            deadline,
            asked_by: 0,
            name: None,
            watch: None,
        })
    }

    /// Its broker has taken it away: all aliases but its maker's are void.
    pub fn take_away(&self) {
        self.reach.set_due();
    }
}

/// An alias' part in a buffer: keeps it alive, and counts.
#[derive(Debug)]
pub(super) struct Share {
    buffer: Arc<Buffer>,
    /// It is the maker's, and stays.
    own: bool,
    /// Dropped behind `buffer`: a maker who is told that it has the buffer alone frees it by closing it.
    look: Look,
}

impl Share {
    /// Of the buffer's maker, or of somebody else; without a look whether the buffer is being revoked.
    pub fn count(buffer: &Arc<Buffer>, own: bool) -> Self {
        if !own {
            buffer.reach.others.fetch_add(1, Ordering::SeqCst);
        }
        Self {
            buffer: Arc::clone(buffer),
            own,
            look: Look::default(),
        }
    }

    /// Of somebody who wants to have the buffer; `own`: derived from its maker's.
    ///
    /// # Errors
    /// [`Status::ESTALE`] once the buffer is being revoked.
    pub fn new(buffer: &Arc<Buffer>, own: bool) -> Result<Self, Status> {
        let share = Self::count(buffer, own);
        match buffer.reach.notice() {
            Some(_) => Err(Status::ESTALE),
            None => Ok(share),
        }
    }

    pub const fn buffer(&self) -> &Arc<Buffer> {
        &self.buffer
    }

    pub const fn is_own(&self) -> bool {
        self.own
    }

    /// Notes that a host process gets an fd.
    pub fn give_out(&self) {
        if !self.own {
            self.buffer.reach.given_out.store(true, Ordering::SeqCst);
        }
    }
}

impl Clone for Share {
    fn clone(&self) -> Self {
        Self::count(&self.buffer, self.own)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let reach = &self.buffer.reach;
        if !self.own
            && reach.others.fetch_sub(1, Ordering::SeqCst) == 1
            && let Some(notice) = reach.notice()
        {
            self.look = Look::at(notice);
        }
    }
}
