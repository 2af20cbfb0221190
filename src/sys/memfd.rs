// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! memfds and their seals (memfd_create(2), fcntl(2) "File Sealing").

use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    MemfdFlags, Mode, OFlags, SealFlags, SeekFrom, fcntl_add_seals, fcntl_get_seals, fstat,
    ftruncate, open, seek,
};
use rustix::io;

/// The seals of memory that nobody can change through its memfd any more: no writable mapping can be made, its size
/// stays, and the seals stay.
pub const SEALED: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::FUTURE_WRITE)
    .union(SealFlags::SEAL);

/// The seals by which no new writable mapping can be made.
pub const NO_WRITING: SealFlags = SealFlags::WRITE.union(SealFlags::FUTURE_WRITE);

/// A memfd of `size` bytes that can be sealed; `huge` takes 2 MiB pages from hugetlbfs.
///
/// # Errors
/// ENOMEM, EMFILE, EINVAL for a size that isn't whole (huge) pages.
pub fn memfd_create(name: &str, size: u64, huge: bool) -> io::Result<OwnedFd> {
    let mut flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    flags.set(MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB, huge);
    let fd = rustix::fs::memfd_create(name, flags)?;
    ftruncate(&fd, size)?;
    Ok(fd)
}

/// Fixes the size.
///
/// # Errors
/// EPERM if seals can't be added any more.
pub fn seal_size(fd: BorrowedFd<'_>) -> io::Result<()> {
    add_seals(fd, SealFlags::SHRINK | SealFlags::GROW)
}

/// Ends all writing through the memfd, for good: see [`SEALED`]. Mappings and udmabufs made before stay writable.
///
/// # Errors
/// EPERM if seals can't be added any more.
pub fn seal_for_good(fd: BorrowedFd<'_>) -> io::Result<()> {
    add_seals(fd, SEALED)
}

/// Adds seals.
///
/// # Errors
/// EPERM if seals can't be added any more, EINVAL if it isn't a memfd.
pub fn add_seals(fd: BorrowedFd<'_>, seals: SealFlags) -> io::Result<()> {
    fcntl_add_seals(fd, seals)
}

/// The seals in force.
///
/// # Errors
/// EINVAL if `fd` can't have seals, i.e. is no memfd.
pub fn memfd_seals(fd: BorrowedFd<'_>) -> io::Result<SealFlags> {
    fcntl_get_seals(fd)
}

/// A read-only fd of the same memfd: a new open file description, with `O_RDONLY`.
///
/// # Errors
/// ENOENT without /proc, EMFILE.
pub fn reopen_read_only(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    open(
        format!("/proc/self/fd/{}", fd.as_raw_fd()),
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// Whether an fd is open for reading and writing.
#[must_use]
pub fn is_read_write(fd: BorrowedFd<'_>) -> bool {
    rustix::fs::fcntl_getfl(fd).is_ok_and(|flags| flags & OFlags::RWMODE == OFlags::RDWR)
}

/// The next bytes of a file that aren't a hole, from `offset` on: where they start and end. Moves the position of `fd`.
///
/// # Errors
/// The kernel's.
pub fn next_data(fd: BorrowedFd<'_>, offset: u64) -> io::Result<Option<(u64, u64)>> {
    match seek(fd, SeekFrom::Data(offset)) {
        Ok(start) => Ok(Some((start, seek(fd, SeekFrom::Hole(start))?))),
        Err(io::Errno::NXIO) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Device and inode: the same for every fd of one memfd or one dma-buf, and for nothing else.
///
/// # Errors
/// The kernel's.
pub fn inode(fd: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let stat = fstat(fd)?;
    Ok((stat.st_dev, stat.st_ino))
}
