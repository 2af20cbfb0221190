// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest memory, and the driver's side of split virtqueues (virtio 1.3, 2.7), with nothing checked: a test can put
//! anything into the rings.

use crate::daemon::LIMIT;
use crate::sys::borrow;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Where the guest's memory starts.
pub const RAM: u64 = 0x1000_0000;
pub const RAM_SIZE: u64 = 4 << 20;
/// Where a front-end would have it in its own address space.
pub const RAM_USER: u64 = 0x7000_0000_0000;
/// Where the buffers of requests start.
pub const DATA: u64 = RAM + 0x10_0000;

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

pub type Memory = Arc<GuestMemoryMmap>;

/// Guest memory in a memfd.
pub fn memory() -> (Memory, File) {
    let fd = memfd_create("guest-ram", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, RAM_SIZE).unwrap();
    let file = File::from(fd);
    let backing = FileOffset::new(file.try_clone().unwrap(), 0);
    let range = (GuestAddress(RAM), RAM_SIZE as usize, Some(backing));
    let memory = GuestMemoryMmap::from_ranges_with_files([range]).unwrap();
    (Arc::new(memory), file)
}

/// One descriptor.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    pub address: u64,
    pub len: u32,
    pub flags: u16,
    pub next: u16,
}

impl Descriptor {
    pub const fn new(address: u64, len: u32, flags: u16, next: u16) -> Self {
        Self {
            address,
            len,
            flags,
            next,
        }
    }

    fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

/// A virtqueue, seen from the driver.
pub struct Ring {
    pub index: usize,
    pub size: u16,
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
    pub memory: Memory,
    pub kick: EventFd,
    pub call: EventFd,
    next_available: u16,
    next_used: u16,
}

impl Ring {
    pub fn new(index: usize, size: u16, memory: &Memory) -> Self {
        let base = RAM + 0x1_0000 * index as u64;
        Self {
            index,
            size,
            descriptors: base,
            available: base + 0x2000,
            used: base + 0x4000,
            memory: Arc::clone(memory),
            kick: EventFd::new(EFD_NONBLOCK).unwrap(),
            call: EventFd::new(EFD_NONBLOCK).unwrap(),
            next_available: 0,
            next_used: 0,
        }
    }

    /// As a driver has it after a reset.
    pub fn clear(&mut self) {
        let zero = [0u8; 0x1000];
        self.write(self.available, &zero);
        self.write(self.used, &zero);
        self.next_available = 0;
        self.next_used = 0;
    }

    pub fn write(&self, address: u64, bytes: &[u8]) {
        self.memory
            .write_slice(bytes, GuestAddress(address))
            .unwrap();
    }

    pub fn read(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    }

    pub fn set(&self, index: u16, descriptor: Descriptor) {
        self.set_in(self.descriptors, index, descriptor);
    }

    /// Writes a descriptor into any table.
    pub fn set_in(&self, table: u64, index: u16, descriptor: Descriptor) {
        self.write(table + 16 * u64::from(index), &descriptor.to_bytes());
    }

    /// Makes a chain available, without a kick.
    pub fn offer(&mut self, head: u16) {
        let entry = self.available + 4 + 2 * u64::from(self.next_available % self.size);
        self.write(entry, &head.to_le_bytes());
        self.set_available(self.next_available.wrapping_add(1));
    }

    /// Sets the index up to which chains are available.
    pub fn set_available(&mut self, index: u16) {
        self.next_available = index;
        self.memory
            .store(
                index.to_le(),
                GuestAddress(self.available + 2),
                Ordering::Release,
            )
            .unwrap();
    }

    pub fn kick(&self) {
        self.kick.write(1).unwrap();
    }

    /// Whether the device wants a kick for the chain with this index: avail_event, with VIRTIO_F_EVENT_IDX.
    pub fn wants_kick(&self, index: u16) -> bool {
        let event = self.used + 4 + 8 * u64::from(self.size);
        self.read(event, 2) == index.to_le_bytes()
    }

    fn used_index(&self) -> u16 {
        let index: u16 = self
            .memory
            .load(GuestAddress(self.used + 2), Ordering::Acquire)
            .unwrap();
        u16::from_le(index)
    }

    /// The next used chain: its head, and the bytes written into it.
    pub fn take_used(&mut self) -> Option<(u16, u32)> {
        if self.used_index() == self.next_used {
            return None;
        }
        let entry = self.used + 4 + 8 * u64::from(self.next_used % self.size);
        let bytes = self.read(entry, 8);
        self.next_used = self.next_used.wrapping_add(1);
        let id = u32::from_le_bytes(bytes[..4].try_into().unwrap());
        let len = u32::from_le_bytes(bytes[4..].try_into().unwrap());
        Some((u16::try_from(id).unwrap(), len))
    }

    /// Waits for the next used chain.
    pub fn wait_used(&mut self) -> (u16, u32) {
        self.wait_used_for(LIMIT)
            .unwrap_or_else(|| panic!("queue {}: nothing comes back", self.index))
    }

    /// Waits for the next used chain, a while.
    pub fn wait_used_for(&mut self, limit: Duration) -> Option<(u16, u32)> {
        let end = Instant::now() + limit;
        loop {
            // used_event: a device with VIRTIO_F_EVENT_IDX interrupts when it uses this one.
            let event = self.available + 4 + 2 * u64::from(self.size);
            self.memory
                .store(
                    self.next_used.to_le(),
                    GuestAddress(event),
                    Ordering::SeqCst,
                )
                .unwrap();
            if let Some(used) = self.take_used() {
                return Some(used);
            }
            let rest = end.saturating_duration_since(Instant::now());
            if rest.is_zero() || !readable(&self.call, rest) {
                return self.take_used();
            }
            let _ = self.call.read();
        }
    }
}

/// Waits until an eventfd is set.
pub fn readable(event: &EventFd, limit: Duration) -> bool {
    let timeout = Timespec {
        tv_sec: limit.as_secs() as i64,
        tv_nsec: limit.subsec_nanos().into(),
    };
    let fd = borrow(event);
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) == Ok(1)
}
