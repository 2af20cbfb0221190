// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `frame_crc NAME`: opens a buffer of the host by its name, and prints its size and the CRC of what is in it.
#![expect(unsafe_code, reason = "ioctls and mmap")]

use std::error::Error;
use std::fs::File;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};

use rustix::ioctl::{Setter, Updater, ioctl, opcode};
use rustix::mm::{MapFlags, ProtFlags, mmap};

/// `struct virtio_dmabuf_ioc_open` of kernel/virtio_dmabuf/uapi/virtio_dmabuf.h.
#[repr(C)]
struct Open {
    name: [u8; 64],
    flags: u32,
    fd: RawFd,
    enforcement: u32,
    reserved: u32,
    size: u64,
}
const OPEN: rustix::ioctl::Opcode = opcode::read_write::<Open>(0xd6, 2);
/// `DMA_BUF_IOCTL_SYNC`, with START or END and READ.
const SYNC: rustix::ioctl::Opcode = opcode::write::<u64>(b'b', 0);
const START_READ: u64 = 1;
const END_READ: u64 = 1 | 4;

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 * (crc & 1))
        })
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let wanted = std::env::args().nth(1).ok_or("usage: frame_crc NAME")?;
    let mut name = [0; 64];
    name.get_mut(..wanted.len())
        .ok_or("the name is too long")?
        .copy_from_slice(wanted.as_bytes());
    let device = File::options()
        .read(true)
        .write(true)
        .open("/dev/virtio-dmabuf0")?;
    let flags = rustix::fs::OFlags::CLOEXEC.bits(); // and O_RDONLY, which is 0
    let mut open = Open {
        name,
        flags,
        fd: -1,
        enforcement: 0,
        reserved: 0,
        size: 0,
    };
    // SAFETY: the driver takes and fills this structure.
    unsafe { ioctl(device.as_fd(), Updater::<OPEN, Open>::new(&mut open))? };
    // SAFETY: the driver has just made it, for us.
    let buffer = unsafe { OwnedFd::from_raw_fd(open.fd) };
    let size = usize::try_from(open.size)?;
    // SAFETY: a new mapping, which stays to the end; the host's writes to it are bracketed out by SYNC.
    let bytes = unsafe {
        let map = mmap(
            std::ptr::null_mut(),
            size,
            ProtFlags::READ,
            MapFlags::SHARED,
            &buffer,
            0,
        )?;
        ioctl(&buffer, Setter::<SYNC, u64>::new(START_READ))?;
        std::slice::from_raw_parts(map.cast::<u8>(), size)
    };
    println!("{size} bytes, crc {:08x}", crc32(bytes));
    // SAFETY: it takes a number.
    unsafe { ioctl(&buffer, Setter::<SYNC, u64>::new(END_READ))? };
    Ok(())
}
