// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The kernel's dma-heaps (`/dev/dma_heap/NAME`): `system`, CMA heaps and whatever else the host has.

use super::Heap;
use crate::buffer::{Deriver, Memory, Parts};
use crate::error::status_of;
use crate::sys;
use dmabuf_protocol::{HeapKind, PAGE_SIZE, Status};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags, open};
use std::path::Path;
use std::sync::Arc;

/// One opened dma-heap.
#[derive(Debug)]
pub struct DmaHeap {
    device: OwnedFd,
    deriver: Arc<Deriver>,
}

impl DmaHeap {
    /// Opens the heap's device node.
    ///
    /// # Errors
    /// ENOENT where the host has no such heap, EACCES.
    pub fn open(path: &Path, deriver: Arc<Deriver>) -> rustix::io::Result<Self> {
        let device = open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { device, deriver })
    }
}

impl Heap for DmaHeap {
    fn allocate(&self, size: u64) -> Result<Parts, Status> {
        let size = size
            .checked_next_multiple_of(PAGE_SIZE)
            .ok_or(Status::EINVAL)?;
        let fd = sys::dma_heap_alloc(self.device.as_fd(), size).map_err(status_of)?;
        Ok(Parts {
            kind: HeapKind::DmaHeap,
            size,
            memory: Memory::DmaBuf {
                fd,
                deriver: Arc::clone(&self.deriver),
            },
        })
    }

    fn kind(&self) -> HeapKind {
        HeapKind::DmaHeap
    }
}
