// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Fences of our own, for as long as a peer uses a buffer.
//!
//! The kernel forbids fences that a process might never signal. vgem's are bounded: each ends with the opening of the
//! device that it was made by, and after 10 s whatever happens. One opening per fence, so that a [`Hold`] is one fd.

use crate::sys;
use dmabuf_protocol::FenceUsage;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{self, Errno};
use std::path::{Path, PathBuf};

/// vgem's device.
#[derive(Clone, Debug)]
pub struct FenceSource {
    device: PathBuf,
}

/// A fence on a buffer. It signals when this is dropped.
#[derive(Debug)]
pub struct Hold(#[expect(dead_code, reason = "held for its drop")] OwnedFd);

impl FenceSource {
    /// Looks at the device.
    ///
    /// # Errors
    /// ENODEV if it isn't vgem's; whatever opening it gives.
    pub fn open(device: &Path) -> io::Result<Self> {
        let source = Self {
            device: device.to_owned(),
        };
        let opened = source.opening()?;
        match sys::is_vgem(opened.as_fd()) {
            Ok(true) => Ok(source),
            Ok(false) | Err(Errno::NOTTY) => Err(Errno::NODEV),
            Err(errno) => Err(errno),
        }
    }

    /// Puts a fence on a dma-buf: for who reads it, writers must wait; for who writes it, everybody must. Can block.
    ///
    /// # Errors
    /// EBUSY if there is a fence on it that such a user would have to wait for.
    pub fn hold(&self, dma_buf: BorrowedFd<'_>, usage: FenceUsage) -> io::Result<Hold> {
        let opened = self.opening()?;
        sys::vgem_attach_fence(opened.as_fd(), dma_buf, usage == FenceUsage::Write)?;
        Ok(Hold(opened))
    }

    fn opening(&self) -> io::Result<OwnedFd> {
        open(&self.device, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
    }
}
