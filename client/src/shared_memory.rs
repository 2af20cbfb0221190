// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The memory of a buffer as this process has it, on the host as in a guest: an fd, where the buffer starts in it, and
//! what may be done with it.
//!
//! The fd is checked once, here: the mapping of a memfd that can shrink would be a trap.

use crate::connection::wait;
use crate::error::{Error, Result};
use crate::mapping::{Mapping, MappingMut};
use crate::sys;
use dmabuf_protocol::Access;
use rustix::event::PollFlags;
use rustix::fs::{SealFlags, SeekFrom, fcntl_get_seals, fstat, fstatfs, seek};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// `DMA_BUF_MAGIC`: the file system of dma-bufs.
const DMA_BUF_FS: u32 = 0x444d_4142;
/// `ANON_INODE_FS_MAGIC`: the file system of alias fds.
const ANON_INODE_FS: u32 = 0x0904_1934;

/// What the fd is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    DmaBuf,
    /// An alias fd of the host module: mapped and synced like a dma-buf, imported by no device.
    DerivedFd,
    Memfd,
}

/// Memory that is shared with others.
#[derive(Debug)]
pub struct SharedMemory {
    fd: OwnedFd,
    kind: Kind,
    fd_offset: u64,
    size: u64,
    access: Access,
}

impl SharedMemory {
    /// Checks the fd, and that the buffer is inside.
    pub(crate) fn new(fd: OwnedFd, fd_offset: u64, size: u64, access: Access) -> Result<Self> {
        let kind = kind(fd.as_fd())?;
        let end = fd_offset.checked_add(size);
        if end.is_none_or(|end| file_size(fd.as_fd()).is_ok_and(|size| end > size)) {
            return Err(Error::Protocol("an fd that is smaller than its buffer"));
        }
        Ok(Self {
            fd,
            kind,
            fd_offset,
            size,
            access,
        })
    }

    /// Size in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// What may be done with it.
    #[must_use]
    pub const fn access(&self) -> Access {
        self.access
    }

    /// Where the buffer starts in [`Self::as_fd`], in bytes: not 0 for the slots of a pool.
    #[must_use]
    pub const fn fd_offset(&self) -> u64 {
        self.fd_offset
    }

    /// Whether the fd is a dma-buf, which devices can import.
    #[must_use]
    pub const fn is_dma_buf(&self) -> bool {
        matches!(self.kind, Kind::DmaBuf)
    }

    /// Maps the whole buffer for reading.
    ///
    /// # Errors
    /// [`Error::System`] when the kernel refuses.
    pub fn map(&self) -> Result<Mapping> {
        Ok(Mapping::new(self.region(Access::ReadOnly)?))
    }

    /// Maps the whole buffer for reading and writing.
    ///
    /// # Errors
    /// [`Error::ReadOnly`]; [`Error::System`] when the kernel refuses (a slot of a memfd pool that is sealed already).
    pub fn map_mut(&self) -> Result<MappingMut> {
        if !self.access.can_write() {
            return Err(Error::ReadOnly);
        }
        Ok(MappingMut::new(self.region(Access::ReadWrite)?))
    }

    fn region(&self, access: Access) -> Result<sys::Region> {
        let length = usize::try_from(self.size)
            .map_err(|_| Error::Protocol("a buffer larger than this process' memory"))?;
        sys::Region::map(self.fd.as_fd(), self.fd_offset, length, access)
            .map_err(Error::system("mapping a buffer"))
    }

    /// Tries what an attacker would: a shared writable mapping of a read-only alias, then mprotect to writable.
    /// Returns the two outcomes, [`None`] where the kernel let it happen.
    ///
    /// # Errors
    /// [`Error::System`] when not even a read-only mapping is possible.
    pub fn probe_write(&self) -> Result<(Option<Errno>, Option<Errno>)> {
        let length = usize::try_from(self.size).unwrap_or(usize::MAX);
        let mapped =
            sys::Region::map(self.fd.as_fd(), self.fd_offset, length, Access::ReadWrite).err();
        let upgraded = self.region(Access::ReadOnly)?.make_writable().err();
        Ok((mapped, upgraded))
    }

    /// Starts an access by the CPU (`DMA_BUF_IOCTL_SYNC`), after the fences that stand against it have ended.
    /// Memfds need none of it: for them this does nothing.
    ///
    /// # Errors
    /// [`Error::Deadline`] when the fences are not signalled within `limit`; [`Error::System`].
    pub fn begin_cpu_access(&self, access: Access, limit: Duration) -> Result<CpuAccess<'_>> {
        if self.kind == Kind::Memfd {
            return Ok(CpuAccess { fd: None, access });
        }
        // SYNC itself would wait for them too, but without a time limit.
        let ready = if access.can_write() {
            PollFlags::OUT
        } else {
            PollFlags::IN
        };
        let until = Instant::now() + limit;
        if !wait(self.fd.as_fd(), ready, until).map_err(Error::system("waiting for fences"))? {
            return Err(Error::Deadline {
                what: "waiting for the fences of a buffer",
                after: limit,
            });
        }
        sys::sync(self.fd.as_fd(), access, sys::Bracket::Start)
            .map_err(Error::system("DMA_BUF_IOCTL_SYNC"))?;
        Ok(CpuAccess {
            fd: Some(self.fd.as_fd()),
            access,
        })
    }
}

impl AsRef<Self> for SharedMemory {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl AsFd for SharedMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A CPU access that has begun; it ends when this is dropped.
#[derive(Debug)]
pub struct CpuAccess<'a> {
    fd: Option<BorrowedFd<'a>>,
    access: Access,
}

impl Drop for CpuAccess<'_> {
    fn drop(&mut self) {
        let Some(fd) = self.fd else { return };
        if let Err(errno) = sys::sync(fd, self.access, sys::Bracket::End) {
            log::warn!("DMA_BUF_IOCTL_SYNC at the end of an access failed: {errno}");
        }
    }
}

/// Tells dma-bufs from memfds, and refuses a memfd that could shrink under a mapping (SIGBUS).
fn kind(fd: BorrowedFd<'_>) -> Result<Kind> {
    let file_system = fstatfs(fd)
        .map_err(Error::system("looking at the daemon's fd"))?
        .f_type;
    match u32::try_from(file_system) {
        Ok(DMA_BUF_FS) => return Ok(Kind::DmaBuf),
        Ok(ANON_INODE_FS) => return Ok(Kind::DerivedFd),
        _ => {}
    }
    match fcntl_get_seals(fd) {
        Ok(seals) if seals.contains(SealFlags::SHRINK) => Ok(Kind::Memfd),
        _ => Err(Error::Protocol(
            "an fd that is neither a dma-buf nor a memfd with F_SEAL_SHRINK",
        )),
    }
}

/// Size of the file in bytes. Alias fds only have one for lseek.
pub(crate) fn file_size(fd: BorrowedFd<'_>) -> rustix::io::Result<u64> {
    match u64::try_from(fstat(fd)?.st_size) {
        Ok(0) | Err(_) => seek(fd, SeekFrom::End(0)),
        Ok(size) => Ok(size),
    }
}
