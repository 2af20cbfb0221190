// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Shared mappings of buffers, for the few moments when the daemon itself touches their bytes.

use rustix::fd::BorrowedFd;
use rustix::io;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::ptr::NonNull;

/// A shared, writable mapping, undone on drop.
///
/// Others may write to the same memory at any time, so no reference to its bytes is ever made.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<core::ffi::c_void>,
    len: usize,
}

impl Mapping {
    /// Maps `len` bytes at `offset` of `fd` for reading and writing.
    ///
    /// # Errors
    /// EACCES or EPERM for an fd that may not be written, ENOMEM, ENODEV.
    pub fn new(fd: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses an address that nothing uses; the result is owned by `Self`, which unmaps it.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                len,
                protection,
                MapFlags::SHARED,
                fd,
                offset,
            )?
        };
        NonNull::new(base)
            .map(|base| Self { base, len })
            .ok_or(io::Errno::NOMEM)
    }

    /// Writes `bytes` to the start; what doesn't fit is left out.
    pub fn write(&self, bytes: &[u8]) {
        let len = bytes.len().min(self.len);
        // SAFETY: `len` bytes are readable at `bytes` and writable at `base` (see `zero`); they don't overlap, as the
        // kernel chose the address of the mapping.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.as_ptr().cast::<u8>(), len)
        };
    }

    /// Sets every byte to zero.
    pub fn zero(&self) {
        self.zero_range(0, self.len);
    }

    /// Sets the bytes from `start` to `end` to zero; what is beyond the mapping is left out.
    pub fn zero_range(&self, start: usize, end: usize) {
        let start = start.min(self.len);
        let len = end.min(self.len).saturating_sub(start);
        // SAFETY: `base` is `self.len` writable bytes as long as `self` lives (mmap succeeded, only drop unmaps), and
        // `start + len` isn't more than that. Nobody has a reference to them. The memory behind it can't shrink: pools
        // and dma-bufs have a fixed size, and so has an imported memfd; a page of it that can't be had is replaced
        // (`truncation`).
        unsafe { std::ptr::write_bytes(self.base.as_ptr().cast::<u8>().add(start), 0, len) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is ours since `new`, and nothing refers to it any more.
        let _ = unsafe { munmap(self.base.as_ptr(), self.len) };
    }
}

// SAFETY: the mapping belongs to the address space, not to a thread, and `Self` hands out no references to it.
unsafe impl Send for Mapping {}
