// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which parts of the dynamic window are taken: first fit over whole pages.

use dmabuf_protocol::{PAGE_SIZE, Status};
use std::collections::BTreeMap;

/// The taken ranges of a window. Its last page is never given out: the front-end is probed there.
#[derive(Debug)]
pub struct Ranges {
    /// Bytes that can be given out.
    size: u64,
    /// Start and length of what is taken.
    taken: BTreeMap<u64, u64>,
}

impl Ranges {
    /// A free window of `window_size` bytes.
    pub const fn new(window_size: u64) -> Self {
        Self {
            size: window_size.saturating_sub(PAGE_SIZE),
            taken: BTreeMap::new(),
        }
    }

    /// Bytes that can be given out in all.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Takes `len` bytes, whole pages, and returns where they start.
    ///
    /// # Errors
    /// ENODEV if there is no window at all, ENOSPC if no gap is large enough.
    pub fn take(&mut self, len: u64) -> Result<u64, Status> {
        if self.size == 0 {
            return Err(Status::ENODEV);
        }
        let mut start = 0;
        for (&taken, &taken_len) in &self.taken {
            if taken - start >= len {
                break;
            }
            start = taken + taken_len;
        }
        if self.size - start < len {
            return Err(Status::ENOSPC);
        }
        self.taken.insert(start, len);
        Ok(start)
    }

    /// Gives a range back.
    pub fn give_back(&mut self, start: u64) {
        self.taken.remove(&start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: u64 = PAGE_SIZE;

    #[test]
    fn ranges_never_overlap_and_gaps_are_reused() {
        let mut ranges = Ranges::new(8 * P);
        let a = ranges.take(2 * P).unwrap();
        let b = ranges.take(3 * P).unwrap();
        let c = ranges.take(2 * P).unwrap();
        assert_eq!((a, b, c), (0, 2 * P, 5 * P));
        assert_eq!(ranges.take(P), Err(Status::ENOSPC), "the last page is kept");
        ranges.give_back(b);
        assert_eq!(ranges.take(4 * P), Err(Status::ENOSPC));
        assert_eq!(ranges.take(P), Ok(2 * P));
        assert_eq!(ranges.take(2 * P), Ok(3 * P));
    }

    #[test]
    fn no_window() {
        assert_eq!(Ranges::new(0).take(P), Err(Status::ENODEV));
        assert_eq!(Ranges::new(4 * P).take(!(P - 1)), Err(Status::ENOSPC));
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

        /// Against a window that is a list of pages.
        #[test]
        fn a_window_of_pages(pages in 2u64..40, steps in proptest::collection::vec((1u64..8, proptest::bool::ANY, 0usize..64), 1..80)) {
            let mut ranges = Ranges::new(pages * P);
            let mut used = vec![false; usize::try_from(pages - 1).unwrap()];
            let mut taken: Vec<(u64, u64)> = Vec::new();
            for (len, take, choice) in steps {
                if take || taken.is_empty() {
                    let wanted = usize::try_from(len).unwrap();
                    let gap = used.windows(wanted).position(|gap| gap.iter().all(|used| !used));
                    let start = ranges.take(len * P);
                    match gap {
                        None => assert_eq!(start, Err(Status::ENOSPC)),
                        Some(first) => {
                            assert_eq!(start, Ok(u64::try_from(first).unwrap() * P), "first fit");
                            used[first..first + wanted].fill(true);
                            taken.push((u64::try_from(first).unwrap(), len));
                        }
                    }
                } else {
                    let (first, len) = taken.swap_remove(choice % taken.len());
                    ranges.give_back(first * P);
                    let first = usize::try_from(first).unwrap();
                    used[first..first + usize::try_from(len).unwrap()].fill(false);
                }
            }
        }
    }
}
