// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Log lines that a peer can cause: a few a minute, so that nobody fills the log.

use std::time::{Duration, Instant};

/// Lines per period.
const LINES: u32 = 20;
const PERIOD: Duration = Duration::from_secs(60);

/// A budget of log lines.
#[derive(Debug)]
pub struct Complaints {
    since: Instant,
    written: u32,
    swallowed: u64,
}

impl Default for Complaints {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            written: 0,
            swallowed: 0,
        }
    }
}

impl Complaints {
    /// Logs a warning, unless too many were logged lately.
    pub fn warn(&mut self, line: std::fmt::Arguments<'_>) {
        if self.since.elapsed() >= PERIOD {
            if self.swallowed > 0 {
                log::warn!(
                    "{} more warnings like these were not logged",
                    self.swallowed
                );
            }
            *self = Self::default();
        }
        if self.written < LINES {
            self.written += 1;
            log::warn!("{line}");
        } else {
            self.swallowed += 1;
        }
    }
}
