// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The unsafe part: borrowing raw fds of the libraries, and telling KVM of memory.
#![allow(unsafe_code)]

use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use vm_memory::mmap::MmapRegion;

/// The fd that `owner` owns or borrows.
pub fn borrow<T: AsRawFd + ?Sized>(owner: &T) -> BorrowedFd<'_> {
    // SAFETY: the owner keeps the fd open, and is itself borrowed as long as the result lives.
    unsafe { BorrowedFd::borrow_raw(owner.as_raw_fd()) }
}

/// Host memory that a guest has; it is the guest's no more when this is dropped.
pub struct Slot {
    vm: Arc<VmFd>,
    number: u32,
    region: Arc<MmapRegion>,
}

impl Slot {
    /// Gives a mapping to the guest, at a guest-physical address.
    ///
    /// # Errors
    /// KVM's: EEXIST for a range that is taken, EINVAL for one that isn't page-aligned.
    pub fn new(
        vm: Arc<VmFd>,
        number: u32,
        address: u64,
        region: Arc<MmapRegion>,
        read_only: bool,
    ) -> Result<Self, kvm_ioctls::Error> {
        let slot = Self { vm, number, region };
        let flags = if read_only { KVM_MEM_READONLY } else { 0 };
        slot.set(address, slot.region.size() as u64, flags)?;
        Ok(slot)
    }

    fn set(&self, address: u64, size: u64, flags: u32) -> Result<(), kvm_ioctls::Error> {
        let region = kvm_userspace_memory_region {
            slot: self.number,
            flags,
            guest_phys_addr: address,
            memory_size: size,
            userspace_addr: self.region.as_ptr() as u64,
        };
        // SAFETY: the mapping is `size` bytes long and is kept by `self`; `drop` takes it from KVM before it goes.
        unsafe { self.vm.set_user_memory_region(region) }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // A size of 0 deletes the slot; one that was never made is an error that changes nothing.
        let _ = self.set(0, 0, 0);
    }
}
