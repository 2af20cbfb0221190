// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! mmap and ioctls: the only unsafe code of this crate. What it exports is safe to call with any arguments.
#![allow(unsafe_code)]

use crate::v4l2::raw;
use dmabuf_protocol::Access;
use rustix::io::{Errno, Result, retry_on_intr};
use rustix::ioctl::{Opcode, Setter, Updater, ioctl, opcode};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap, mprotect, munmap};
use std::ffi::c_void;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::{NonNull, null_mut};

/// A shared mapping of some fd. Other processes and devices may change its bytes at any time.
#[derive(Debug)]
pub(crate) struct Region {
    start: NonNull<u8>,
    length: usize,
    access: Access,
}

// SAFETY: the region owns its mapping, which any thread may use and unmap.
unsafe impl Send for Region {}
// SAFETY: through a shared reference bytes are only read, with volatile accesses; writing takes a mutable one.
unsafe impl Sync for Region {}

impl Region {
    /// Where it starts.
    pub(crate) const fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Maps `length` bytes of `fd` from `offset` on, `MAP_SHARED`.
    pub(crate) fn map(
        fd: BorrowedFd<'_>,
        offset: u64,
        length: usize,
        access: Access,
    ) -> Result<Self> {
        let protection = match access {
            Access::ReadOnly => ProtFlags::READ,
            Access::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
        };
        // SAFETY: without MAP_FIXED the kernel picks an address that nothing else uses; nobody else gets the pointer.
        let start = unsafe { mmap(null_mut(), length, protection, MapFlags::SHARED, fd, offset)? };
        let start = NonNull::new(start.cast()).ok_or(Errno::NOMEM)?;
        Ok(Self {
            start,
            length,
            access,
        })
    }

    pub(crate) const fn len(&self) -> usize {
        self.length
    }

    /// Adds the right to write, if the kernel lets it.
    pub(crate) fn make_writable(&mut self) -> Result<()> {
        let start: *mut c_void = self.start.as_ptr().cast();
        // SAFETY: exactly the range of this mapping; more rights invalidate no pointer into it.
        unsafe {
            mprotect(
                start,
                self.length,
                MprotectFlags::READ | MprotectFlags::WRITE,
            )?
        };
        self.access = Access::ReadWrite;
        Ok(())
    }

    /// Copies bytes out; `None` if they are not all inside.
    pub(crate) fn read(&self, offset: usize, bytes: &mut [u8]) -> Option<()> {
        let from = self.range(offset, bytes.len())?;
        let head = from.align_offset(size_of::<u64>()).min(bytes.len());
        let (head, rest) = bytes.split_at_mut(head);
        let (words, tail) = rest.as_chunks_mut::<{ size_of::<u64>() }>();
        let words_at = from.wrapping_add(head.len());
        let tail_at = words_at.wrapping_add(size_of_val(words));
        for (i, byte) in head.iter_mut().enumerate() {
            // SAFETY: `range` made sure that every byte from `from` to its end is mapped, and `head` starts there.
            *byte = unsafe { from.wrapping_add(i).read_volatile() };
        }
        for (i, word) in words.iter_mut().enumerate() {
            let at = words_at.cast::<u64>().wrapping_add(i);
            // SAFETY: inside the checked range, after `head`, whose length makes this aligned.
            *word = unsafe { at.read_volatile() }.to_ne_bytes();
        }
        for (i, byte) in tail.iter_mut().enumerate() {
            // SAFETY: inside the checked range, after `head` and `words`.
            *byte = unsafe { tail_at.wrapping_add(i).read_volatile() };
        }
        Some(())
    }

    /// Copies bytes in; `None` if they are not all inside, or the region is read-only.
    pub(crate) fn write(&mut self, offset: usize, bytes: &[u8]) -> Option<()> {
        if !self.access.can_write() {
            return None;
        }
        let to = self.range(offset, bytes.len())?;
        let head = to.align_offset(size_of::<u64>()).min(bytes.len());
        let (head, rest) = bytes.split_at(head);
        let (words, tail) = rest.as_chunks::<{ size_of::<u64>() }>();
        let words_at = to.wrapping_add(head.len());
        let tail_at = words_at.wrapping_add(size_of_val(words));
        for (i, byte) in head.iter().enumerate() {
            // SAFETY: `range` made sure that every byte from `to` to its end is mapped, writable by `access`.
            unsafe { to.wrapping_add(i).write_volatile(*byte) };
        }
        for (i, word) in words.iter().enumerate() {
            let at = words_at.cast::<u64>().wrapping_add(i);
            // SAFETY: inside the checked range, after `head`, whose length makes this aligned.
            unsafe { at.write_volatile(u64::from_ne_bytes(*word)) };
        }
        for (i, byte) in tail.iter().enumerate() {
            // SAFETY: inside the checked range, after `head` and `words`.
            unsafe { tail_at.wrapping_add(i).write_volatile(*byte) };
        }
        Some(())
    }

    /// Where `length` bytes at `offset` start, if all of them are inside.
    fn range(&self, offset: usize, length: usize) -> Option<*mut u8> {
        let end = offset.checked_add(length)?;
        (end <= self.length).then(|| self.start.as_ptr().wrapping_add(offset))
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: exactly what `map` got; no reference into it was ever made.
        if let Err(errno) = unsafe { munmap(self.start.as_ptr().cast(), self.length) } {
            log::warn!("munmap failed: {errno}");
        }
    }
}

/// Which end of an access by the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bracket {
    Start,
    End,
}

/// `DMA_BUF_IOCTL_SYNC`
pub(crate) fn sync(fd: BorrowedFd<'_>, access: Access, bracket: Bracket) -> Result<()> {
    const SYNC: Opcode = opcode::write::<u64>(b'b', 0);
    const READ: u64 = 1;
    const WRITE: u64 = 2;
    const END: u64 = 4;
    let access = if access.can_write() {
        READ | WRITE
    } else {
        READ
    };
    let flags = access | if bracket == Bracket::End { END } else { 0 };
    // SAFETY: the ioctl reads one u64 (struct dma_buf_sync) and touches no other memory of this process.
    retry_on_intr(|| unsafe { ioctl(fd, Setter::<SYNC, u64>::new(flags)) })
}

/// `DMA_BUF_IOCTL_EXPORT_SYNC_FILE`: the fences of whoever writes to a dma-buf now.
pub(crate) fn export_sync_file(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    const EXPORT: Opcode = opcode::read_write::<[i32; 2]>(b'b', 2);
    const READ: i32 = 1;
    // struct dma_buf_export_sync_file: flags, fd
    let mut export = [READ, -1];
    update::<EXPORT, _>(fd, &mut export)?;
    match export {
        // SAFETY: the ioctl has succeeded, and has just made this fd for its caller: it is nobody else's.
        [_, fence] if fence >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fence) }),
        _ => Err(Errno::BADF),
    }
}

/// `struct sync_file_info`
#[repr(C)]
#[derive(Default)]
struct SyncFileInfo {
    name: [u8; 32],
    status: i32,
    flags: u32,
    fences: u32,
    pad: u32,
    list: u64,
}

/// The error with which one of the fences of a sync_file has ended, if one has.
pub(crate) fn sync_file_error(fd: BorrowedFd<'_>) -> Option<Errno> {
    const INFO: Opcode = opcode::read_write::<SyncFileInfo>(b'>', 4);
    let mut info = SyncFileInfo::default();
    // With room for no fences, the kernel doesn't follow the pointer to their list.
    match update::<INFO, _>(fd, &mut info) {
        Ok(()) if info.status >= 0 => None,
        Ok(()) => Some(Errno::from_raw_os_error(info.status.saturating_neg())),
        Err(errno) => Some(errno),
    }
}

/// A copy of an fd that this process inherited, by its number.
pub(crate) fn inherited(number: RawFd) -> Result<OwnedFd> {
    if number < 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: not -1. Used only for F_DUPFD_CLOEXEC, which answers EBADF when no such fd is open.
    rustix::io::fcntl_dupfd_cloexec(unsafe { BorrowedFd::borrow_raw(number) }, 3)
}

fn update<const OP: Opcode, T>(fd: BorrowedFd<'_>, value: &mut T) -> Result<()> {
    // SAFETY: private to this module; each caller below passes the opcode whose argument is `T`, which has the size
    // that the opcode tells the kernel, and makes sure that no field is a pointer that the kernel would follow.
    retry_on_intr(|| unsafe { ioctl(fd, Updater::<OP, T>::new(value)) })
}

/// `VIDIOC_QUERYCAP`
pub(crate) fn query_capability(fd: BorrowedFd<'_>, value: &mut raw::Capability) -> Result<()> {
    update::<{ opcode::read::<raw::Capability>(b'V', 0) }, _>(fd, value)
}

/// `VIDIOC_S_FMT` for capture. Other kinds of formats carry pointers and are EINVAL.
pub(crate) fn set_format(fd: BorrowedFd<'_>, value: &mut raw::Format) -> Result<()> {
    capture(value.kind)?;
    update::<{ opcode::read_write::<raw::Format>(b'V', 5) }, _>(fd, value)
}

/// `VIDIOC_REQBUFS`
pub(crate) fn request_buffers(fd: BorrowedFd<'_>, value: &mut raw::RequestBuffers) -> Result<()> {
    update::<{ opcode::read_write::<raw::RequestBuffers>(b'V', 8) }, _>(fd, value)
}

/// `VIDIOC_QBUF` of a dma-buf.
pub(crate) fn queue(
    fd: BorrowedFd<'_>,
    value: &mut raw::Buffer,
    plane: &mut raw::Plane,
) -> Result<()> {
    with_plane::<{ opcode::read_write::<raw::Buffer>(b'V', 15) }>(fd, value, plane)
}

/// `VIDIOC_DQBUF` of a dma-buf.
pub(crate) fn dequeue(
    fd: BorrowedFd<'_>,
    value: &mut raw::Buffer,
    plane: &mut raw::Plane,
) -> Result<()> {
    with_plane::<{ opcode::read_write::<raw::Buffer>(b'V', 17) }>(fd, value, plane)
}

/// `VIDIOC_STREAMON`
pub(crate) fn stream_on(fd: BorrowedFd<'_>, kind: u32) -> Result<()> {
    const STREAM_ON: Opcode = opcode::write::<u32>(b'V', 18);
    // SAFETY: the ioctl reads one int.
    unsafe { ioctl(fd, Setter::<STREAM_ON, u32>::new(kind)) }
}

/// `VIDIOC_S_PARM`
pub(crate) fn set_parameters(fd: BorrowedFd<'_>, value: &mut raw::Parameters) -> Result<()> {
    update::<{ opcode::read_write::<raw::Parameters>(b'V', 22) }, _>(fd, value)
}

/// `VIDIOC_S_CTRL`
pub(crate) fn set_control(fd: BorrowedFd<'_>, value: &mut raw::Control) -> Result<()> {
    update::<{ opcode::read_write::<raw::Control>(b'V', 28) }, _>(fd, value)
}

/// `VIDIOC_QUERYCTRL`
pub(crate) fn query_control(fd: BorrowedFd<'_>, value: &mut raw::QueryControl) -> Result<()> {
    update::<{ opcode::read_write::<raw::QueryControl>(b'V', 36) }, _>(fd, value)
}

fn capture(kind: u32) -> Result<()> {
    if matches!(kind, raw::CAPTURE | raw::CAPTURE_MPLANE) {
        Ok(())
    } else {
        Err(Errno::INVAL)
    }
}

/// Buffers of one memory plane, which is a dma-buf: in `value` itself, or in an array of one plane.
fn with_plane<const OP: Opcode>(
    fd: BorrowedFd<'_>,
    value: &mut raw::Buffer,
    plane: &mut raw::Plane,
) -> Result<()> {
    capture(value.kind)?;
    // With this kind of memory the kernel takes no address from `value` or `plane`, except that of `plane` itself.
    value.memory = raw::MEMORY_DMABUF;
    let multi = value.kind == raw::CAPTURE_MPLANE;
    if multi {
        value.memory_of_plane =
            u64::try_from((&raw mut *plane).expose_provenance()).map_err(|_| Errno::FAULT)?;
        value.length = 1;
    } else {
        value.memory_of_plane = plane.memory;
        value.length = plane.length;
    }
    update::<OP, _>(fd, value)?;
    if !multi {
        plane.bytes_used = value.bytes_used;
        plane.memory = value.memory_of_plane;
        plane.length = value.length;
    }
    value.memory_of_plane = 0;
    Ok(())
}
