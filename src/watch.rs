// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A thread that ends what is over, when it is: holds of frames for all streams, revocations for all buffers.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

/// See the module.
#[derive(Debug, Default)]
pub struct Watch {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// When to look next.
    next: Option<Instant>,
    ended: bool,
}

impl Watch {
    /// Starts a thread of this name. `expire` ends what is over and says when the next one is; `None` ends the thread.
    pub fn start(
        name: &str,
        expire: impl Fn(Instant) -> Option<Option<Instant>> + Send + 'static,
    ) -> std::io::Result<Arc<Self>> {
        let watch = Arc::new(Self::default());
        let own = Arc::clone(&watch);
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                while own.wait() {
                    let Some(next) = expire(Instant::now()) else {
                        return;
                    };
                    if let Some(next) = next {
                        own.until(next);
                    }
                }
            })?;
        Ok(watch)
    }

    /// Looks at `deadline` at the latest. The thread is woken only if it would look later.
    pub fn until(&self, deadline: Instant) {
        let mut state = self.lock();
        if state.next.is_none_or(|next| deadline < next) {
            state.next = Some(deadline);
            self.changed.notify_one();
        }
    }

    /// Ends the thread.
    pub fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_one();
    }

    /// Until it is time to look; false at the end.
    fn wait(&self) -> bool {
        let mut state = self.lock();
        loop {
            if state.ended {
                return false;
            }
            state = match state.next {
                None => self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(next) => {
                    let rest = next.saturating_duration_since(Instant::now());
                    if rest.is_zero() {
                        state.next = None;
                        return true;
                    }
                    let waited = self.changed.wait_timeout(state, rest);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
