// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory of the fake machine: addresses are addresses, and DMA pages are counted.
#![allow(unsafe_code)]

use core::ptr::NonNull;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::Cell;
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

std::thread_local! {
    static PAGES: Cell<usize> = const { Cell::new(0) };
}

/// DMA pages that this test has not freed yet.
pub fn pages() -> usize {
    PAGES.get()
}

/// Zeroed pages that stay as long as the test program.
pub fn device_memory(size: usize) -> u64 {
    // SAFETY: the size isn't 0.
    unsafe { alloc_zeroed(layout(size)) as u64 }
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, PAGE_SIZE).unwrap()
}

/// Reads what driver and fake host share.
pub fn peek<V: Copy>(address: u64) -> V {
    // SAFETY: tests only look where the driver or `device_memory` has put something, and in one thread.
    unsafe { (address as *const V).read_unaligned() }
}

/// Writes what driver and fake host share.
pub fn poke<V: Copy>(address: u64, value: V) {
    // SAFETY: as `peek`.
    unsafe { (address as *mut V).write_unaligned(value) }
}

#[derive(Debug)]
pub struct FakeHal;

// SAFETY: pages come from the allocator, zeroed and aligned.
unsafe impl Hal for FakeHal {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        PAGES.set(PAGES.get() + pages);
        let start = device_memory(pages * PAGE_SIZE);
        (start, NonNull::new(start as *mut u8).unwrap())
    }

    unsafe fn dma_dealloc(_: PhysAddr, address: NonNull<u8>, pages: usize) -> i32 {
        PAGES.set(PAGES.get() - pages);
        // SAFETY: the layout of `dma_alloc`.
        unsafe { dealloc(address.as_ptr(), layout(pages * PAGE_SIZE)) };
        0
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::new(address as *mut u8).unwrap()
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr() as PhysAddr
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}
