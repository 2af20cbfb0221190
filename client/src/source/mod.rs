// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where frames come from: anything that fills the buffers it is given, in some order, again and again.
//!
//! [`camera`] lets a V4L2 device do it, [`pattern`] draws. [`crate::share`] drives them.

pub mod camera;
pub mod pattern;

use crate::error::Result;
use crate::mapping::MappingMut;
use crate::picture::Picture;
use crate::shared_memory::SharedMemory;
use dmabuf_protocol::wire::Format;
use std::time::Duration;

/// One of the buffers that frames go into, as a [`crate::sink::FrameSink`] has given it.
#[derive(Debug)]
pub struct Slot<B> {
    /// The name it is published under.
    pub name: String,
    /// The buffer.
    pub buffer: B,
    /// The producer's mapping of it.
    pub mapping: MappingMut,
}

/// A finished frame. Its buffer belongs to whoever asked for it, until it is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Which slot it is in.
    pub slot: usize,
    /// Counts frames; a gap means that frames were dropped.
    pub sequence: u64,
    /// When it was captured, in ns of `CLOCK_MONOTONIC`.
    pub timestamp_ns: u64,
    /// Bytes of it, from the start of the buffer.
    pub bytes: usize,
}

/// Fills buffers with frames.
pub trait FrameSource {
    /// What the frames look like, to tell people.
    fn picture(&self) -> Picture;

    /// Bytes that each buffer must have.
    fn frame_size(&self) -> u64;

    /// The layout to publish the buffers with, if DRM has a fourcc for it.
    fn format(&self) -> Option<Format>;

    /// How many buffers it needs at least to go on while others look at the rest.
    fn needs(&self) -> usize {
        1
    }

    /// Gets all buffers and begins. Called once, before everything below.
    ///
    /// # Errors
    /// When the source can't use these buffers.
    fn start(&mut self, slots: &[Slot<impl AsRef<SharedMemory>>]) -> Result<()>;

    /// Waits for the next frame.
    ///
    /// # Errors
    /// [`crate::Error::Deadline`] when there is none within `limit`.
    fn next(
        &mut self,
        slots: &mut [Slot<impl AsRef<SharedMemory>>],
        limit: Duration,
    ) -> Result<Frame>;

    /// Gives the source a frame's buffer back.
    ///
    /// # Errors
    /// When the source doesn't take it.
    fn give_back(&mut self, slots: &[Slot<impl AsRef<SharedMemory>>], frame: Frame) -> Result<()>;
}
