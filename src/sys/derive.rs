// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Deriving read-only aliases of dma-bufs: by the host module (`kernel/dmabuf_derive/uapi/dmabuf_derive.h`), or by an
//! ioctl of the kernel itself that no released kernel has.

use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::fs::OFlags;
use rustix::io;
use rustix::ioctl::{self, Opcode, Updater, opcode};

/// `struct dmabuf_derive`
#[repr(C)]
struct ModuleDerive {
    fd: i32,
    flags: u32,
    options: u32,
    alias: i32,
}
const DMABUF_DERIVE_IOC_DERIVE: Opcode = opcode::read_write::<ModuleDerive>(0xd7, 0);
const DMABUF_DERIVE_MAP_WRITABLE_AS_READONLY: u32 = 1;

/// `struct dma_buf_derive` of the rejected kernel series
#[repr(C)]
struct KernelDerive {
    flags: u32,
    fd: i32,
}
const DMA_BUF_IOCTL_DERIVE: Opcode = opcode::read_write::<KernelDerive>(b'b', 4);

/// A read-only alias of a dma-buf from the host module, whose device is opened as `module`.
///
/// With `map_writable_as_read_only` the alias accepts a request for a writable mapping, and maps it read-only.
///
/// # Errors
/// The module's: EINVAL for something that is neither dma-buf nor alias, EMFILE, ENOMEM.
pub fn module_derive(
    module: BorrowedFd<'_>,
    dma_buf: BorrowedFd<'_>,
    map_writable_as_read_only: bool,
) -> io::Result<OwnedFd> {
    let mut derive = ModuleDerive {
        fd: dma_buf.as_raw_fd(),
        flags: (OFlags::RDONLY | OFlags::CLOEXEC).bits(),
        options: if map_writable_as_read_only {
            DMABUF_DERIVE_MAP_WRITABLE_AS_READONLY
        } else {
            0
        },
        alias: -1,
    };
    // SAFETY: the opcode takes a struct dmabuf_derive, which `ModuleDerive` is, field by field.
    unsafe {
        ioctl::ioctl(
            module,
            Updater::<DMABUF_DERIVE_IOC_DERIVE, _>::new(&mut derive),
        )?
    };
    // SAFETY: on success the module has put a new fd there, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(derive.alias) })
}

/// A read-only alias of a dma-buf from the kernel's own ioctl.
///
/// # Errors
/// ENOTTY where the kernel has no such ioctl, as all released ones.
pub fn kernel_derive(dma_buf: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = (OFlags::RDONLY | OFlags::CLOEXEC).bits();
    let mut derive = KernelDerive { flags, fd: -1 };
    // SAFETY: the opcode takes a struct of a u32 and an i32, which `KernelDerive` is.
    unsafe {
        ioctl::ioctl(
            dma_buf,
            Updater::<DMA_BUF_IOCTL_DERIVE, _>::new(&mut derive),
        )?
    };
    if derive.fd < 0 {
        return Err(io::Errno::NOTTY);
    }
    // SAFETY: on success the kernel has put a new fd there, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(derive.fd) })
}
