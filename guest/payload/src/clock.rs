// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Time, from the PC's interval timer: it needs no calibration and no interrupts, only to be looked at every 55 ms, or
//! it runs slow.

use crate::machine::{inb, outb};
use core::cell::Cell;
use core::time::Duration;
use dmabuf_guest::Platform;

const COMMAND: u16 = 0x43;
const COUNTER: u16 = 0x40;
/// Ticks per second.
const FREQUENCY: u64 = 1_193_182;

/// Counter 0, counting down from 65536 again and again.
pub struct Pit {
    ticks: Cell<u64>,
    last: Cell<u16>,
}

impl Pit {
    /// Starts it.
    pub fn start() -> Self {
        // Counter 0, low byte then high byte, mode 2; the count 0 means 65536.
        outb(COMMAND, 0x34);
        outb(COUNTER, 0);
        outb(COUNTER, 0);
        Self {
            ticks: Cell::new(0),
            last: Cell::new(0),
        }
    }
}

impl Platform for Pit {
    fn now(&self) -> Duration {
        outb(COMMAND, 0);
        let count = u16::from_le_bytes([inb(COUNTER), inb(COUNTER)]);
        let since = self.last.replace(count).wrapping_sub(count);
        let ticks = self.ticks.get() + u64::from(since);
        self.ticks.set(ticks);
        Duration::from_micros(ticks * 1_000_000 / FREQUENCY)
    }
}
