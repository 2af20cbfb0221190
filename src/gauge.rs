// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How much of something is in use: counted where it is taken, read by whoever asks. Never blocks.
//!
//! Used by `session` for what a peer may have, and by `stream` for the frames that it holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A count. Clones are of the same one.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicU64>);

impl Gauge {
    /// Takes `amount`, if that makes no more than `most` in all.
    #[must_use]
    pub fn take(&self, amount: u64, most: u64) -> Option<Share> {
        let more = |used: u64| used.checked_add(amount).filter(|used| *used <= most);
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .ok()?;
        Some(Share {
            of: self.clone(),
            amount,
        })
    }

    /// Says how much it is, for what is counted elsewhere.
    pub fn set(&self, value: impl Into<u64>) {
        self.0.store(value.into(), Ordering::Relaxed);
    }

    /// How much it is.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A part of a [`Gauge`]; given back on drop.
#[derive(Debug)]
pub struct Share {
    of: Gauge,
    amount: u64,
}

impl Share {
    /// Whether it is a part of this gauge.
    #[must_use]
    pub fn is_of(&self, gauge: &Gauge) -> bool {
        Arc::ptr_eq(&self.of.0, &gauge.0)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.0.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::Gauge;

    #[test]
    fn a_share_is_taken_whole_or_not_at_all() {
        let gauge = Gauge::default();
        let most = gauge.take(7, 10).unwrap();
        assert!(gauge.take(4, 10).is_none());
        assert!(gauge.take(u64::MAX, u64::MAX).is_none(), "it overflows");
        assert_eq!(gauge.get(), 7);
        let rest = gauge.take(3, 10).unwrap();
        drop(most);
        assert_eq!(gauge.get(), 3);
        drop(rest);
        assert_eq!(gauge.get(), 0);
    }
}
