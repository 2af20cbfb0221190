// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! ioctls of dma-bufs, dma-heaps and udmabuf (Linux `include/uapi/linux/{dma-buf,dma-heap,udmabuf}.h`).

use super::sync_file::{SYNC_WRITE, dma_buf_sync};
use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::fs::{SeekFrom, seek};
use rustix::io::{self, Errno};
use rustix::ioctl::{self, Opcode, Updater, opcode};

/// `struct dma_heap_allocation_data`
#[repr(C)]
struct HeapAllocation {
    len: u64,
    fd: u32,
    fd_flags: u32,
    heap_flags: u64,
}
const DMA_HEAP_IOCTL_ALLOC: Opcode = opcode::read_write::<HeapAllocation>(b'H', 0);

/// `struct udmabuf_create`
#[repr(C)]
struct UdmabufCreate {
    memfd: u32,
    flags: u32,
    offset: u64,
    size: u64,
}
const UDMABUF_CREATE: Opcode = opcode::write::<UdmabufCreate>(b'u', 0x42);
const UDMABUF_FLAGS_CLOEXEC: u32 = 1;

/// A new buffer of `size` bytes from an opened dma-heap, zeroed by the kernel.
///
/// # Errors
/// The kernel's: ENOMEM most of all.
pub fn dma_heap_alloc(heap: BorrowedFd<'_>, size: u64) -> io::Result<OwnedFd> {
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    let mut data = HeapAllocation {
        len: size,
        fd: 0,
        fd_flags: flags.bits(),
        heap_flags: 0,
    };
    // SAFETY: the opcode takes a struct dma_heap_allocation_data, which `HeapAllocation` is, field by field.
    unsafe { ioctl::ioctl(heap, Updater::<DMA_HEAP_IOCTL_ALLOC, _>::new(&mut data))? };
    let fd = i32::try_from(data.fd).map_err(|_| Errno::BADF)?;
    // SAFETY: on success the kernel has put a new fd there, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A dma-buf over `size` bytes at `offset` of a memfd that has `F_SEAL_SHRINK`.
///
/// # Errors
/// EINVAL for a memfd without that seal, with a write seal, or for a range that isn't whole pages.
pub fn udmabuf_create(
    device: BorrowedFd<'_>,
    memfd: BorrowedFd<'_>,
    offset: u64,
    size: u64,
) -> io::Result<OwnedFd> {
    struct Create(UdmabufCreate);
    // SAFETY: the opcode takes a struct udmabuf_create, which `UdmabufCreate` is, field by field; the kernel only
    // reads it, and returns the new fd as the ioctl's result.
    unsafe impl ioctl::Ioctl for Create {
        type Output = OwnedFd;
        const IS_MUTATING: bool = false;
        fn opcode(&self) -> Opcode {
            UDMABUF_CREATE
        }
        fn as_ptr(&mut self) -> *mut core::ffi::c_void {
            (&raw mut self.0).cast()
        }
        unsafe fn output_from_ptr(
            out: ioctl::IoctlOutput,
            _: *mut core::ffi::c_void,
        ) -> io::Result<OwnedFd> {
            // SAFETY: a successful UDMABUF_CREATE returns a new fd, which nobody else owns.
            Ok(unsafe { OwnedFd::from_raw_fd(out) })
        }
    }
    let memfd = u32::try_from(memfd.as_raw_fd()).map_err(|_| Errno::BADF)?;
    let create = Create(UdmabufCreate {
        memfd,
        flags: UDMABUF_FLAGS_CLOEXEC,
        offset,
        size,
    });
    // SAFETY: see `Create`.
    unsafe { ioctl::ioctl(device, create) }
}

/// `DMA_BUF_MAGIC` of Linux `include/uapi/linux/magic.h`
const DMA_BUF_MAGIC: u64 = 0x444d_4142;

/// Whether `fd` is a dma-buf: those, and only those, live on the kernel's dmabuf pseudo file system.
#[must_use]
pub fn is_dma_buf(fd: BorrowedFd<'_>) -> bool {
    rustix::fs::fstatfs(fd).is_ok_and(|fs| u64::try_from(fs.f_type) == Ok(DMA_BUF_MAGIC))
}

/// `ANON_INODE_FS_MAGIC` of Linux `include/uapi/linux/magic.h`
const ANON_INODE_FS_MAGIC: u64 = 0x0904_1934;

/// Whether `fd` is a dma-buf or an object of a driver, such as an alias, rather than a file with memory of its own.
#[must_use]
pub fn is_kernel_object(fd: BorrowedFd<'_>) -> bool {
    rustix::fs::fstatfs(fd).is_ok_and(|fs| {
        let magic = u64::try_from(fs.f_type);
        magic == Ok(DMA_BUF_MAGIC) || magic == Ok(ANON_INODE_FS_MAGIC)
    })
}

/// How many references a dma-buf has besides the fd itself: other fds of it, mappings, fds in flight, importers.
#[must_use]
pub fn open_users(fd: BorrowedFd<'_>) -> Option<u64> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
    let count = info.lines().find_map(|line| line.strip_prefix("count:"))?;
    Some(count.trim().parse::<u64>().ok()?.saturating_sub(1))
}

/// Size in bytes of a dma-buf, which has no `stat` size.
///
/// # Errors
/// The kernel's.
pub fn dma_buf_size(fd: BorrowedFd<'_>) -> io::Result<u64> {
    seek(fd, SeekFrom::End(0))
}

/// Runs `write` between DMA_BUF_IOCTL_SYNC START and END for writing by the CPU.
///
/// # Errors
/// The kernel's. START waits for the buffer's fences: only for buffers that no hardware uses.
pub fn sync_cpu_write(fd: BorrowedFd<'_>, write: impl FnOnce()) -> io::Result<()> {
    dma_buf_sync(fd, SYNC_WRITE, false)?;
    write();
    dma_buf_sync(fd, SYNC_WRITE, true)
}
