// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `heap_fill HEAP BYTES HEX`: allocates from `/dev/dma_heap/HEAP`, and fills it. With HEAP `virtio-NAME` the memory is
//! the host's, and no line here knows of that.
#![expect(unsafe_code, reason = "ioctls and mmap")]

use std::error::Error;
use std::fs::File;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use rustix::fs::OFlags;
use rustix::ioctl::{Opcode, Setter, Updater, ioctl, opcode};
use rustix::mm::{MapFlags, ProtFlags, mmap};

/// `struct dma_heap_allocation_data` of linux/dma-heap.h.
#[repr(C)]
struct Allocation {
    len: u64,
    fd: RawFd,
    fd_flags: u32,
    heap_flags: u64,
}
const ALLOC: Opcode = opcode::read_write::<Allocation>(b'H', 0);
/// `DMA_BUF_IOCTL_SYNC`, with START or END and RW.
const SYNC: Opcode = opcode::write::<u64>(b'b', 0);
const START_RW: u64 = 3;
const END_RW: u64 = 3 | 4;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [heap, bytes, hex] = arguments.as_slice() else {
        return Err("usage: heap_fill HEAP BYTES HEX".into());
    };
    let heap = File::options()
        .read(true)
        .write(true)
        .open(format!("/dev/dma_heap/{heap}"))?;
    let fd_flags = (OFlags::RDWR | OFlags::CLOEXEC).bits();
    let mut data = Allocation {
        len: bytes.parse()?,
        fd: 0,
        fd_flags,
        heap_flags: 0,
    };
    // SAFETY: the heap takes and fills this structure.
    unsafe { ioctl(&heap, Updater::<ALLOC, Allocation>::new(&mut data))? };
    // SAFETY: the heap has just made it, for us.
    let buffer = unsafe { OwnedFd::from_raw_fd(data.fd) };
    let size = usize::try_from(data.len)?;
    // SAFETY: a new mapping, which stays to the end, of memory that nobody else has.
    let map = unsafe {
        let both = ProtFlags::READ | ProtFlags::WRITE;
        let map = mmap(
            std::ptr::null_mut(),
            size,
            both,
            MapFlags::SHARED,
            &buffer,
            0,
        )?;
        ioctl(&buffer, Setter::<SYNC, u64>::new(START_RW))?;
        std::slice::from_raw_parts_mut(map.cast::<u8>(), size)
    };
    map.fill(u8::from_str_radix(hex, 16)?);
    let ends = map.first().zip(map.last()).ok_or("nothing was allocated")?;
    println!("first byte {:02x}, last byte {:02x}", ends.0, ends.1);
    // SAFETY: it takes a number. The host has the buffer back when its last file and mapping are closed: at exit.
    unsafe { ioctl(&buffer, Setter::<SYNC, u64>::new(END_RW))? };
    Ok(())
}
