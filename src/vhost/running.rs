// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whether the device runs: what the worker thread and the vhost-user thread know, and the mapper thread waits for.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The number of resets that a device has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epoch(u64);

/// See the module.
#[derive(Debug, Default)]
pub struct Running {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    running: bool,
    ended: bool,
    epoch: Epoch,
}

impl Running {
    /// Whether it runs.
    pub fn now(&self) -> bool {
        self.state().running
    }

    /// Notes that it runs, or doesn't any more.
    pub fn set(&self, running: bool) {
        self.state().running = running;
        self.changed.notify_all();
    }

    /// Notes that it will never run again.
    pub fn end(&self) {
        let mut state = self.state();
        state.running = false;
        state.ended = true;
        drop(state);
        self.changed.notify_all();
    }

    /// Notes a reset: what was asked for before is void.
    pub fn reset(&self) {
        self.state().epoch.0 += 1;
    }

    /// The time between two resets in which it is.
    pub fn epoch(&self) -> Epoch {
        self.state().epoch
    }

    /// Waits until it runs, and returns in which epoch; `None` if it has ended.
    pub fn wait(&self) -> Option<Epoch> {
        let waiting = |state: &mut State| !state.running && !state.ended;
        let state = self
            .changed
            .wait_while(self.state(), waiting)
            .unwrap_or_else(PoisonError::into_inner);
        state.running.then_some(state.epoch)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
