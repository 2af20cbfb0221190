// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where a consumer's frames come from. Whoever looks at frames knows only [`FrameFeed`], and so runs on the host, where
//! that is a [`Consumer`], as in a guest, where it is a [`crate::guest::ConsumerFile`].

use crate::error::Result;
use crate::mapping::Mapping;
use crate::shared_memory::SharedMemory;
use crate::stream::{Consumer, Frame};
use dmabuf_protocol::wire::Format;
use std::time::Duration;

/// Gives frames, and takes them back.
pub trait FrameFeed {
    /// The layout of the frames, if known. It is as the producer has described it: check that it fits.
    fn format(&self) -> Option<Format>;

    /// The next frame; `None` when there is none within `limit`.
    ///
    /// # Errors
    /// As every call; refused with `ENODEV` when the stream has ended, with `EBUSY` when as many frames are held as may be.
    fn next(&mut self, limit: Duration) -> Result<Option<Frame>>;

    /// Waits until the hardware has finished with a frame; false: it hasn't within `limit`. True at once for one that isn't
    /// fenced.
    ///
    /// # Errors
    /// [`crate::Error::System`] with the fence's own error: the frame is spoilt.
    fn wait_finished(&mut self, frame: &Frame, limit: Duration) -> Result<bool>;

    /// A frame's memory and its bytes: opened and mapped once, and kept.
    ///
    /// # Errors
    /// As every call; [`crate::Error::System`] when it can't be mapped.
    fn view(&mut self, frame: &Frame) -> Result<(&SharedMemory, &Mapping)>;

    /// Gives a frame back.
    ///
    /// # Errors
    /// As every call; refused with `ESTALE` when its time was over before.
    fn release(&mut self, frame: Frame) -> Result<()>;
}

impl FrameFeed for Consumer {
    fn format(&self) -> Option<Format> {
        self.format()
    }

    fn next(&mut self, limit: Duration) -> Result<Option<Frame>> {
        self.next(limit)
    }

    fn wait_finished(&mut self, frame: &Frame, limit: Duration) -> Result<bool> {
        self.wait_finished(frame, limit)
    }

    fn view(&mut self, frame: &Frame) -> Result<(&SharedMemory, &Mapping)> {
        self.view(frame).map(|(alias, mapping)| (&**alias, mapping))
    }

    fn release(&mut self, frame: Frame) -> Result<()> {
        self.release(frame)
    }
}
