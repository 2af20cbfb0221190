// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A moving NV12 picture, drawn by the CPU: bright diagonal bars that go to the right, over colours that change
//! with every frame. For machines without a camera.

use super::{Frame, FrameSource, Slot};
use crate::error::{Error, Result};
use crate::picture::{Fourcc, Picture, layout};
use crate::shared_memory::SharedMemory;
use dmabuf_protocol::Access;
use dmabuf_protocol::wire::Format;
use rustix::time::{ClockId, clock_gettime};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Pixels that the bars move by per frame.
const STEP: u64 = 4;

/// Draws the test pattern.
#[derive(Debug)]
pub struct Pattern {
    picture: Picture,
    free: VecDeque<usize>,
    sequence: u64,
    interval: Duration,
    due: Option<Instant>,
}

impl Pattern {
    /// A pattern of this size, which must be even and not 0. Without a rate, a frame comes whenever one is asked for.
    ///
    /// # Errors
    /// [`Error::Argument`]
    pub fn new(width: u32, height: u32, frames_per_second: Option<u32>) -> Result<Self> {
        let even = |side: u32| side != 0 && side.is_multiple_of(2);
        let picture = Picture {
            width,
            height,
            fourcc: Fourcc::NV12,
        };
        if !even(width) || !even(height) || width > 1 << 14 || height > 1 << 14 {
            return Err(Error::Argument(format!(
                "a test pattern can't be {width}×{height}: give even numbers from 2 to 16384"
            )));
        }
        let interval = match frames_per_second {
            Some(rate) => Duration::from_secs(1).checked_div(rate).unwrap_or_default(),
            None => Duration::ZERO,
        };
        Ok(Self {
            picture,
            free: VecDeque::new(),
            sequence: 0,
            interval,
            due: None,
        })
    }

    fn bytes(&self) -> usize {
        usize::try_from(self.frame_size()).unwrap_or(usize::MAX)
    }

    fn draw(&self, slot: &mut Slot<impl AsRef<SharedMemory>>) -> Result<()> {
        let _access = slot
            .buffer
            .as_ref()
            .begin_cpu_access(Access::ReadWrite, Duration::from_secs(5))?;
        let width = usize::try_from(self.picture.width).unwrap_or_default();
        let mut at = 0;
        for line in 0..self.picture.height {
            let row: Vec<u8> = (0..width).map(|x| self.luma(x, line)).collect();
            slot.mapping.write(at, &row)?;
            at += width;
        }
        for line in 0..self.picture.height / 2 {
            let row: Vec<u8> = (0..width).map(|x| self.chroma(x, line)).collect();
            slot.mapping.write(at, &row)?;
            at += width;
        }
        Ok(())
    }

    /// Ramps from dark to bright, 256 pixels wide.
    fn luma(&self, x: usize, line: u32) -> u8 {
        let moved = self.sequence.wrapping_mul(STEP);
        low_byte(
            u64::try_from(x)
                .unwrap_or_default()
                .wrapping_add(line.into())
                .wrapping_sub(moved),
        )
    }

    /// Even bytes are blue-yellow, odd ones red-green; both fade along their own axis.
    fn chroma(&self, x: usize, line: u32) -> u8 {
        let across = u64::try_from(x).unwrap_or_default() / 4;
        let along = if x.is_multiple_of(2) {
            across
        } else {
            u64::from(line) / 2
        };
        low_byte(along.wrapping_add(self.sequence))
    }
}

const fn low_byte(value: u64) -> u8 {
    let [low, ..] = value.to_le_bytes();
    low
}

impl FrameSource for Pattern {
    fn picture(&self) -> Picture {
        self.picture
    }

    fn frame_size(&self) -> u64 {
        u64::from(self.picture.width) * u64::from(self.picture.height) * 3 / 2
    }

    fn format(&self) -> Option<Format> {
        layout(
            self.picture.fourcc,
            self.picture.width,
            self.picture.height,
            self.picture.width,
        )
    }

    fn start(&mut self, slots: &[Slot<impl AsRef<SharedMemory>>]) -> Result<()> {
        self.free = (0..slots.len()).collect();
        Ok(())
    }

    fn next(
        &mut self,
        slots: &mut [Slot<impl AsRef<SharedMemory>>],
        limit: Duration,
    ) -> Result<Frame> {
        let nothing_free = Error::Deadline {
            what: "a buffer that is given back",
            after: limit,
        };
        let index = self.free.pop_front().ok_or(nothing_free)?;
        let now = Instant::now();
        let due = self.due.unwrap_or(now).max(now);
        // Time itself is what is waited for here.
        std::thread::sleep(due.saturating_duration_since(now).min(limit));
        self.due = Some(due + self.interval);
        if let Some(slot) = slots.get_mut(index) {
            self.draw(slot)?;
        }
        let frame = Frame {
            slot: index,
            sequence: self.sequence,
            timestamp_ns: now_ns(),
            bytes: self.bytes(),
        };
        self.sequence += 1;
        Ok(frame)
    }

    fn give_back(&mut self, _slots: &[Slot<impl AsRef<SharedMemory>>], frame: Frame) -> Result<()> {
        self.free.push_back(frame.slot);
        Ok(())
    }
}

fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or_default();
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_moves() {
        let mut pattern = Pattern::new(64, 32, None).unwrap();
        let before: Vec<u8> = (0..64).map(|x| pattern.luma(x, 3)).collect();
        pattern.sequence += 1;
        let after: Vec<u8> = (0..64).map(|x| pattern.luma(x, 3)).collect();
        assert_eq!(before[..60], after[4..], "bars go to the right");
        assert_ne!(before, after);
    }

    #[test]
    fn sizes_are_checked() {
        for (width, height) in [(0, 2), (2, 0), (3, 2), (1 << 15, 2)] {
            assert!(Pattern::new(width, height, None).is_err());
        }
        assert_eq!(
            Pattern::new(1280, 720, Some(30)).unwrap().frame_size(),
            1_382_400
        );
    }
}
