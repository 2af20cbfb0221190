// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Buffers that a host process brings along: its own dma-bufs, and memfds that can't shrink.

use crate::buffer::{Deriver, Memory, Parts};
use crate::error::status_of;
use crate::sys;
use dmabuf_protocol::{HeapKind, PAGE_SIZE, Status};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{OFlags, SealFlags, fcntl_getfl, fstat};
use std::sync::Arc;

/// Takes over `fd` as a buffer.
///
/// # Errors
/// EINVAL for anything but a dma-buf or a memfd with `F_SEAL_SHRINK` (one that shrinks would kill every VMM that
/// mapped it), and for a size that isn't whole pages; EACCES for an fd that isn't `O_RDWR`.
pub fn import(fd: OwnedFd, deriver: &Arc<Deriver>) -> Result<Parts, Status> {
    if sys::is_dma_buf(fd.as_fd()) {
        let size = whole_pages(sys::dma_buf_size(fd.as_fd()).map_err(status_of)?)?;
        require_read_write(&fd)?;
        return Ok(Parts {
            kind: HeapKind::Imported,
            size,
            memory: Memory::DmaBuf {
                fd,
                deriver: Arc::clone(deriver),
            },
        });
    }
    let seals = sys::memfd_seals(fd.as_fd()).map_err(|_| Status::EINVAL)?;
    if !seals.contains(SealFlags::SHRINK) {
        return Err(Status::EINVAL);
    }
    require_read_write(&fd)?;
    let size = u64::try_from(fstat(&fd).map_err(status_of)?.st_size).map_err(|_| Status::EINVAL)?;
    let size = whole_pages(size)?;
    let read_only = sys::reopen_read_only(fd.as_fd()).map_err(status_of)?;
    Ok(Parts {
        kind: HeapKind::Imported,
        size,
        memory: Memory::Memfd { fd, read_only },
    })
}

fn whole_pages(size: u64) -> Result<u64, Status> {
    if size != 0 && size.is_multiple_of(PAGE_SIZE) {
        Ok(size)
    } else {
        Err(Status::EINVAL)
    }
}

/// The importer decides who gets read-write access, so it must have it.
fn require_read_write(fd: &OwnedFd) -> Result<(), Status> {
    let flags = fcntl_getfl(fd).map_err(status_of)?;
    if flags & OFlags::RWMODE == OFlags::RDWR {
        Ok(())
    } else {
        Err(Status::EACCES)
    }
}
