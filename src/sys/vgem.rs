// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! vgem, the one driver whose fences a process may signal: the kernel ends them after 10 s whatever the process does
//! (Linux `include/uapi/drm/{drm,vgem_drm}.h`).

use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::io;
use rustix::ioctl::{self, Opcode, Updater, opcode};

/// `struct drm_version`
#[repr(C)]
struct DrmVersion {
    major: i32,
    minor: i32,
    patchlevel: i32,
    name_len: usize,
    name: *mut u8,
    date_len: usize,
    date: *mut u8,
    desc_len: usize,
    desc: *mut u8,
}
const DRM_IOCTL_VERSION: Opcode = opcode::read_write::<DrmVersion>(b'd', 0x00);

/// `struct drm_prime_handle`
#[repr(C)]
struct PrimeHandle {
    handle: u32,
    flags: u32,
    fd: i32,
}
const DRM_IOCTL_PRIME_FD_TO_HANDLE: Opcode = opcode::read_write::<PrimeHandle>(b'd', 0x2e);

/// `struct drm_vgem_fence_attach`
#[repr(C)]
struct FenceAttach {
    handle: u32,
    flags: u32,
    out_fence: u32,
    pad: u32,
}
const DRM_IOCTL_VGEM_FENCE_ATTACH: Opcode = opcode::read_write::<FenceAttach>(b'd', 0x41);
const VGEM_FENCE_WRITE: u32 = 1;

/// Whether an opened DRM device is vgem's.
///
/// # Errors
/// ENOTTY for something that is no DRM device.
pub fn is_vgem(device: BorrowedFd<'_>) -> io::Result<bool> {
    let mut name = [0u8; 16];
    let mut version = DrmVersion {
        major: 0,
        minor: 0,
        patchlevel: 0,
        name_len: name.len(),
        name: name.as_mut_ptr(),
        date_len: 0,
        date: std::ptr::null_mut(),
        desc_len: 0,
        desc: std::ptr::null_mut(),
    };
    // SAFETY: the opcode takes a struct drm_version, which `DrmVersion` is, field by field. The kernel writes at most
    // `name_len` bytes to `name`, and nothing to the other two, whose lengths are 0.
    unsafe { ioctl::ioctl(device, Updater::<DRM_IOCTL_VERSION, _>::new(&mut version))? };
    Ok(name.get(..version.name_len) == Some(b"vgem".as_slice()))
}

/// Puts a fence on a dma-buf: a writer's, or a reader's. It ends when `device`, an opening of vgem's device of its own,
/// is closed, and after 10 s.
///
/// # Errors
/// EBUSY if there is a fence on the buffer that such a user would have to wait for.
pub fn vgem_attach_fence(
    device: BorrowedFd<'_>,
    dma_buf: BorrowedFd<'_>,
    writer: bool,
) -> io::Result<()> {
    let mut import = PrimeHandle {
        handle: 0,
        flags: 0,
        fd: dma_buf.as_raw_fd(),
    };
    // SAFETY: the opcode takes a struct drm_prime_handle, which `PrimeHandle` is, field by field.
    unsafe {
        ioctl::ioctl(
            device,
            Updater::<DRM_IOCTL_PRIME_FD_TO_HANDLE, _>::new(&mut import),
        )?
    };
    let mut attach = FenceAttach {
        handle: import.handle,
        flags: if writer { VGEM_FENCE_WRITE } else { 0 },
        out_fence: 0,
        pad: 0,
    };
    // SAFETY: the opcode takes a struct drm_vgem_fence_attach, which `FenceAttach` is, field by field.
    unsafe {
        ioctl::ioctl(
            device,
            Updater::<DRM_IOCTL_VGEM_FENCE_ATTACH, _>::new(&mut attach),
        )
    }
}
