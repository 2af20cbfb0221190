// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Buffers that are memfds of their own, for machines without any dma-buf exporter.
//!
//! Their size is sealed, their content isn't: they are for read-write sharing. What is to be read-only for the kernel,
//! too, belongs in a pool.

use super::Heap;
use crate::buffer::{Memory, Parts};
use crate::error::status_of;
use crate::sys;
use dmabuf_protocol::{HeapKind, PAGE_SIZE, Status};
use rustix::fd::AsFd;
use rustix::fs::SealFlags;

/// The heap; it has no state.
#[derive(Debug)]
pub struct MemfdHeap;

impl Heap for MemfdHeap {
    fn allocate(&self, size: u64) -> Result<Parts, Status> {
        let size = size
            .checked_next_multiple_of(PAGE_SIZE)
            .ok_or(Status::EINVAL)?;
        let fd = sys::memfd_create("dmabuf-buffer", size, false).map_err(status_of)?;
        sys::seal_size(fd.as_fd()).map_err(status_of)?;
        // Whoever gets the fd could else seal it, and a VMM's writable mapping would fail.
        sys::add_seals(fd.as_fd(), SealFlags::SEAL).map_err(status_of)?;
        let read_only = sys::reopen_read_only(fd.as_fd()).map_err(status_of)?;
        Ok(Parts {
            kind: HeapKind::Memfd,
            size,
            memory: Memory::Memfd { fd, read_only },
        })
    }

    fn kind(&self) -> HeapKind {
        HeapKind::Memfd
    }
}
