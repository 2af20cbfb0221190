// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the kernel knows of a dma-buf's fences, and of the CPU's access to it.

use crate::sys;
use dmabuf_protocol::{FenceUsage, SyncDirection};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io;

/// What has become of the fences of a [`Snapshot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// They haven't all ended.
    Pending,
    /// They have signalled.
    Signalled {
        /// How many there are.
        fences: u32,
        /// When the last one did, in nanoseconds of `CLOCK_MONOTONIC`.
        timestamp_ns: u64,
    },
    /// They have ended, one of them with this errno.
    Failed(u32),
}

/// The fences that a buffer had at one moment. Later ones are not in it.
#[derive(Debug)]
pub struct Snapshot {
    fd: OwnedFd,
    state: fn(BorrowedFd<'_>) -> State,
    fences: u32,
}

impl Snapshot {
    /// Of an fd that can be read (poll(2)) once all fences have ended; `state` then tells how.
    #[must_use]
    pub const fn new(fd: OwnedFd, state: fn(BorrowedFd<'_>) -> State, fences: u32) -> Self {
        Self { fd, state, fences }
    }

    /// What has become of them.
    #[must_use]
    pub fn state(&self) -> State {
        (self.state)(self.fd.as_fd())
    }

    /// Fences in it.
    #[must_use]
    pub const fn fences(&self) -> u32 {
        self.fences
    }
}

impl AsFd for Snapshot {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The calls that need a dma-buf; tests have their own.
pub trait Kernel: Send + Sync + std::fmt::Debug {
    /// The fences that a dma-buf has now; `None` if none is left to wait for. Doesn't block.
    ///
    /// # Errors
    /// The kernel's.
    fn snapshot(&self, dma_buf: BorrowedFd<'_>, usage: FenceUsage) -> io::Result<Option<Snapshot>>;

    /// Adds the fences of a sync_file as those of a writer. Waits for none of them.
    ///
    /// # Errors
    /// EINVAL for something that is no sync_file; the kernel's.
    fn import(&self, dma_buf: BorrowedFd<'_>, sync_file: BorrowedFd<'_>) -> io::Result<()>;

    /// A sync_file of the fences that a reader must wait for now; one that has ended if there are none. Doesn't block.
    ///
    /// # Errors
    /// The kernel's.
    fn export(&self, dma_buf: BorrowedFd<'_>) -> io::Result<OwnedFd>;

    /// Opens a bracket, after all fences that are in its way have ended; or closes one. Opening blocks.
    ///
    /// # Errors
    /// The kernel's.
    fn sync(&self, dma_buf: BorrowedFd<'_>, direction: SyncDirection, end: bool) -> io::Result<()>;
}

/// The kernel itself.
#[derive(Debug)]
pub struct HostKernel;

impl Kernel for HostKernel {
    fn snapshot(&self, dma_buf: BorrowedFd<'_>, usage: FenceUsage) -> io::Result<Option<Snapshot>> {
        let flags = match usage {
            FenceUsage::Read => sys::SYNC_READ,
            FenceUsage::Write => sys::SYNC_WRITE,
        };
        let fd = sys::export_sync_file(dma_buf, flags)?;
        let info = sys::sync_file_info(fd.as_fd())?;
        // Fences that have signalled aren't exported: for a buffer without others, the kernel makes one up.
        if info.status == 1 {
            return Ok(None);
        }
        Ok(Some(Snapshot::new(fd, state_of_sync_file, info.fences)))
    }

    fn import(&self, dma_buf: BorrowedFd<'_>, sync_file: BorrowedFd<'_>) -> io::Result<()> {
        sys::import_sync_file(dma_buf, sync_file, sys::SYNC_WRITE)
    }

    fn export(&self, dma_buf: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        sys::export_sync_file(dma_buf, sys::SYNC_READ)
    }

    fn sync(&self, dma_buf: BorrowedFd<'_>, direction: SyncDirection, end: bool) -> io::Result<()> {
        // The numbers are the kernel's.
        sys::dma_buf_sync(dma_buf, direction.to_wire(), end)
    }
}

fn state_of_sync_file(fd: BorrowedFd<'_>) -> State {
    match sys::sync_file_info(fd) {
        Ok(info) if info.status == 0 => State::Pending,
        Ok(info) if info.status > 0 => State::Signalled {
            fences: info.fences,
            timestamp_ns: info.timestamp_ns,
        },
        Ok(info) => State::Failed(info.status.unsigned_abs()),
        Err(errno) => State::Failed(errno.raw_os_error().unsigned_abs()),
    }
}
