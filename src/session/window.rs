// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is asked of a front-end, and what it answers: the jobs between [`Windows`](super::Windows) and the thread that
//! talks to the VMM.

use crate::buffer::Alias;
use dmabuf_protocol::{MappingId, Status};

/// The dynamic window as a session uses it. Answers come back through [`Windows::finish`](super::Windows::finish).
pub trait Window: Send {
    /// Bytes.
    fn size(&self) -> u64;
    /// Starts a job; never blocks.
    fn submit(&self, job: WindowJob);
}

/// A request to the front-end.
#[derive(Debug)]
pub struct WindowJob {
    /// The mapping it is about.
    pub mapping: MappingId,
    /// Where in the window, in bytes.
    pub window_offset: u64,
    /// Bytes.
    pub length: u64,
    /// What to map; `None`: unmap.
    pub map: Option<MapSource>,
}

/// What a job maps.
#[derive(Debug)]
pub struct MapSource {
    /// The alias, whose access is that of the mapping.
    pub alias: Alias,
    /// First byte of the alias to map.
    pub offset: u64,
    /// The grant allows a mapping by a VMM that maps everything writable, if a guest's write stops that VM.
    pub fail_stop: bool,
}

/// Why the front-end didn't do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// It failed the sealed probe: it maps writable whatever is asked for.
    IgnoresReadOnly,
    /// The device is not running.
    NotRunning,
    /// It said no, or is gone.
    Refused,
}

/// How a job ended.
#[derive(Clone, Copy, Debug)]
pub struct JobResult {
    /// The job's mapping.
    pub mapping: MappingId,
    /// The outcome.
    pub outcome: Result<(), MapError>,
    /// What the probe has found by now: the `probe` field of GET_INFO.
    pub probe: u32,
}

impl MapError {
    pub(super) const fn status(self) -> Status {
        match self {
            Self::IgnoresReadOnly => Status::EACCES,
            Self::NotRunning => Status::ENODEV,
            Self::Refused => Status::EIO,
        }
    }
}
