// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Waiting for the fences of buffers, CPU access brackets, and fences that hold a buffer (DESIGN, "Fences and sync").
//!
//! * `kernel`: a dma-buf's fences as a [`Snapshot`], brackets: what the kernel is asked for, never blocking but for
//!   the begin of a bracket
//! * `reactor`: one thread that waits for all snapshots, and for all deadlines
//! * `workers`: threads for the calls that can block
//! * `source`: fences of our own, bounded by the kernel
//! * `inbox`: how results come back to a session
//!
//! Knows no sessions: results go to the [`Inbox`] of whoever asked, under the key that it chose. Used by `session`.

mod inbox;
mod kernel;
mod reactor;
mod source;
#[cfg(test)]
pub(crate) mod tests;
mod workers;

pub use inbox::{Inbox, Note};
pub use kernel::{HostKernel, Kernel, Snapshot, State};
pub use reactor::{Reactor, WaitId};
pub use source::{FenceSource, Hold};
pub use workers::{Bracket, Errands, Job, Workers};

use std::sync::Arc;

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All fences have signalled.
    Signalled {
        /// How many there were.
        fences: u32,
        /// When the last one did, in nanoseconds of `CLOCK_MONOTONIC`.
        timestamp_ns: u64,
    },
    /// One of them ended with this errno.
    Failed(u32),
    /// Its deadline has passed.
    TimedOut,
    /// The owner of the buffer ended first.
    Orphaned,
}

/// What all sessions of a daemon share to wait and to hold.
#[derive(Debug)]
pub struct Fences {
    /// Waits.
    pub reactor: Reactor,
    /// Calls that can block.
    pub workers: Workers,
    /// Fences of our own, if the host has a source that was configured.
    pub source: Option<FenceSource>,
}

impl Fences {
    /// Starts the threads.
    ///
    /// # Errors
    /// EAGAIN when no thread can be had, EMFILE.
    pub fn start(kernel: Arc<dyn Kernel>, source: Option<FenceSource>) -> std::io::Result<Self> {
        Ok(Self {
            reactor: Reactor::start()?,
            workers: Workers::start(kernel)?,
            source,
        })
    }

    /// How snapshots and brackets are made.
    #[must_use]
    pub fn kernel(&self) -> &dyn Kernel {
        self.workers.kernel()
    }
}
