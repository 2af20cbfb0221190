// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory that the device sees, too: DMA pages, virtqueues over them, and windows. The only module with unsafe code.
//!
//! No reference to such memory lives longer than a call here: bytes come out by volatile reads, each once.
#![allow(unsafe_code)]

use crate::error::{Error, Result};
use crate::pci::{VENDOR, VIRTIO_BASE, VIRTIO_IDS};
use core::cell::RefCell;
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::slice;
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction};
use virtio_drivers::transport::{DeviceType, Transport};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

/// Descriptors of each queue.
const QUEUE_SIZE: usize = 8;
/// Most chains that a queue holds.
pub(crate) const MAX_SLOTS: usize = QUEUE_SIZE;

/// A virtqueue whose chains live in memory of its own: one slot per chain, with a part that the device reads and a part
/// that it writes. The memory of a slot is the device's from [`Self::send`] until [`Self::take`] gives the slot back.
pub(crate) struct SlotQueue<H: Hal> {
    queue: VirtQueue<H, QUEUE_SIZE>,
    index: u16,
    memory: Pages<H>,
    readable: usize,
    writable: usize,
    /// By slot: token and request length of the chain that the device has.
    sent: [Option<(u16, usize)>; MAX_SLOTS],
}

impl<H: Hal> SlotQueue<H> {
    /// Sets up queue `index` with `slots` slots. The sizes are in bytes; `readable` is 0 for a queue that only receives.
    pub fn new<T: Transport>(
        transport: &mut T,
        index: u16,
        slots: usize,
        readable: usize,
        writable: usize,
    ) -> Result<Self> {
        let descriptors = if readable == 0 { 1 } else { 2 };
        if slots * descriptors > QUEUE_SIZE {
            return Err(Error::Argument("more slots than descriptors"));
        }
        // Neither indirect descriptors, which need an allocator, nor event indices were negotiated.
        let mut queue = VirtQueue::new(transport, index, false, false)?;
        queue.set_dev_notify(false);
        Ok(Self {
            queue,
            index,
            memory: Pages::new((slots * (readable + writable)).div_ceil(PAGE_SIZE))?,
            readable,
            writable,
            sent: [None; MAX_SLOTS],
        })
    }

    /// Whether used chains raise the device's interrupt.
    pub fn set_interrupts(&mut self, enable: bool) {
        self.queue.set_dev_notify(enable);
    }

    /// Hands a slot to the device, with a request in it. Notifies the device.
    pub fn send<T: Transport>(
        &mut self,
        transport: &mut T,
        slot: usize,
        request: &[u8],
    ) -> Result<()> {
        let sent = self.sent.get(slot).ok_or(Error::Argument("no such slot"))?;
        if sent.is_some() || request.len() > self.readable {
            return Err(Error::Argument("the slot is in use, or too small"));
        }
        let (readable, writable) = self.parts(slot, request.len())?;
        // SAFETY: `sent` says that the device doesn't have this slot, and `parts` has checked that it lies in our pages.
        // Slots don't overlap, and no reference outlives a call here, so that nobody else has one to this memory. The
        // pages live until `Drop`, which the owner calls after the reset of the device (see `Device`).
        let token = unsafe {
            let readable = slice::from_raw_parts_mut(readable.as_ptr(), request.len());
            readable.copy_from_slice(request);
            let writable = slice::from_raw_parts_mut(writable.as_ptr(), self.writable);
            if readable.is_empty() {
                self.queue.add(&[], &mut [writable])
            } else {
                self.queue.add(&[readable], &mut [writable])
            }
        }?;
        if let Some(sent) = self.sent.get_mut(slot) {
            *sent = Some((token, request.len()));
        }
        if self.queue.should_notify() {
            transport.notify(self.index);
        }
        Ok(())
    }

    /// The next slot that the device has given back, and how many bytes it says it has written: not checked.
    ///
    /// # Errors
    /// [`Error::Broken`] when it gives back what it doesn't have.
    pub fn take(&mut self) -> Result<Option<(usize, usize)>> {
        let Some(token) = self.queue.peek_used() else {
            return Ok(None);
        };
        let is_it = |sent: &Option<(u16, usize)>| sent.is_some_and(|(theirs, _)| theirs == token);
        let slot = self.sent.iter().position(is_it).ok_or(Error::Broken)?;
        let (_, length) = self
            .sent
            .get_mut(slot)
            .and_then(Option::take)
            .ok_or(Error::Broken)?;
        let (readable, writable) = self.parts(slot, length)?;
        // SAFETY: these are the buffers that `send` added under this token: same slot, same length. The device has given
        // them back, and as in `send` nobody else has a reference.
        let written = unsafe {
            let readable = slice::from_raw_parts(readable.as_ptr(), length);
            let writable = slice::from_raw_parts_mut(writable.as_ptr(), self.writable);
            if readable.is_empty() {
                self.queue.pop_used(token, &[], &mut [writable])
            } else {
                self.queue.pop_used(token, &[readable], &mut [writable])
            }
        }
        .map_err(|_| Error::Broken)?;
        Ok(Some((slot, usize::try_from(written).unwrap_or(usize::MAX))))
    }

    /// Copies the start of what the device has written into a slot that was given back. Each byte is read once.
    pub fn read(&self, slot: usize, to: &mut [u8]) -> Result<()> {
        if to.len() > self.writable {
            return Err(Error::Argument("more than a slot holds"));
        }
        let (_, from) = self.parts(slot, 0)?;
        for (i, byte) in to.iter_mut().enumerate() {
            // SAFETY: `parts` has checked that `writable` bytes from here are in our pages, and `i` is below that.
            // Volatile: the device could write here although it must not.
            *byte = unsafe { from.add(i).read_volatile() };
        }
        Ok(())
    }

    /// Where the two parts of a slot are, `request` bytes being used of the first.
    fn parts(&self, slot: usize, request: usize) -> Result<(NonNull<u8>, NonNull<u8>)> {
        let size = self.readable + self.writable;
        let start = slot
            .checked_mul(size)
            .filter(|start| *start + size <= self.memory.len() && request <= self.readable)
            .ok_or(Error::Argument("no such slot"))?;
        // SAFETY: `start + size` is inside the pages, which are one allocation.
        unsafe {
            let readable = self.memory.base.add(start);
            Ok((readable, readable.add(self.readable)))
        }
    }
}

// SAFETY: the slots' memory is owned and reached through `&mut self`, or read only; the queue is Send.
unsafe impl<H: Hal> Send for SlotQueue<H> {}

/// DMA pages.
struct Pages<H: Hal> {
    physical: PhysAddr,
    base: NonNull<u8>,
    count: usize,
    hal: PhantomData<H>,
}

impl<H: Hal> Pages<H> {
    fn new(count: usize) -> Result<Self> {
        let (physical, base) = H::dma_alloc(count, BufferDirection::Both);
        // That is how a HAL says that it has no memory.
        if physical == 0 {
            return Err(Error::Transport(virtio_drivers::Error::DmaError));
        }
        Ok(Self {
            physical,
            base,
            count,
            hal: PhantomData,
        })
    }

    fn len(&self) -> usize {
        self.count * PAGE_SIZE
    }
}

impl<H: Hal> Drop for Pages<H> {
    fn drop(&mut self) {
        // SAFETY: these are the values of `dma_alloc`, and this is the only place that frees them.
        unsafe { H::dma_dealloc(self.physical, self.base, self.count) };
    }
}

/// A range of guest-physical memory that no Rust object lives in: a memory BAR of a device, or a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    start: PhysAddr,
    size: u64,
}

impl Region {
    /// A range of whole pages.
    ///
    /// # Errors
    /// [`Error::Argument`] if it is empty, isn't made of pages, or is beyond this machine's addresses.
    ///
    /// # Safety
    /// It has to be device memory: nothing that Rust code has a reference to, now or later.
    pub unsafe fn new(start: PhysAddr, size: u64) -> Result<Self> {
        let end = start
            .checked_add(size)
            .and_then(|end| usize::try_from(end).ok());
        let pages = |bytes: u64| bytes != 0 && bytes.is_multiple_of(PAGE_SIZE as u64);
        if !pages(start) || !pages(size) || end.is_none() {
            return Err(Error::Argument("not a range of device memory"));
        }
        Ok(Self { start, size })
    }

    /// A BAR, as the bus describes it: whoever owns the bus has assigned the address, and nothing else is there.
    pub(crate) fn bar(start: PhysAddr, size: u64) -> Result<Self> {
        // SAFETY: the same trust that virtio-drivers has in the PCI root when it makes a transport.
        unsafe { Self::new(start, size) }
    }

    /// Its size in bytes.
    #[must_use]
    pub const fn size(self) -> u64 {
        self.size
    }

    /// Some pages of it; `None` if they aren't inside.
    #[must_use]
    pub fn part(self, offset: u64, size: u64) -> Option<Self> {
        if offset.checked_add(size)? > self.size {
            return None;
        }
        // SAFETY: a part of what is device memory.
        unsafe { Self::new(self.start.checked_add(offset)?, size) }.ok()
    }

    /// Makes it reachable.
    pub(crate) fn share<H: Hal>(self) -> Option<Shared> {
        let len = usize::try_from(self.size).ok()?;
        // SAFETY: a region is device memory, see `new`.
        let base = unsafe { H::mmio_phys_to_virt(self.start, len) };
        Some(Shared { base, len })
    }
}

/// A region, made reachable.
#[derive(Debug)]
pub(crate) struct Shared {
    base: NonNull<u8>,
    len: usize,
}

impl Shared {
    /// Bytes.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// The start, for those who take care themselves.
    pub const fn as_ptr(&self) -> NonNull<u8> {
        self.base
    }

    /// Reads one `T`: once, and in one access if the machine can.
    pub fn read<T: zerocopy::FromBytes>(&self, offset: usize) -> Option<T> {
        let from = self.at::<T>(offset)?;
        // SAFETY: `at` has checked range and alignment; every pattern of bytes is a `T`.
        Some(unsafe { from.read_volatile() })
    }

    /// Writes one `T`.
    pub fn write<T: zerocopy::IntoBytes>(&self, offset: usize, value: T) -> Option<()> {
        let to = self.at::<T>(offset)?;
        // SAFETY: `at` has checked range and alignment. It is no memory of Rust's, so that nobody has a reference.
        unsafe { to.write_volatile(value) };
        Some(())
    }

    fn at<T>(&self, offset: usize) -> Option<NonNull<T>> {
        if offset.checked_add(size_of::<T>())? > self.len {
            return None;
        }
        // SAFETY: just checked to be inside the range.
        let place = unsafe { self.base.add(offset) }.cast::<T>();
        place.is_aligned().then_some(place)
    }
}

// SAFETY: accesses are volatile and may come from any CPU.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// PCI configuration space, as virtio-drivers gets to see it: it takes no device whose virtio id isn't in its own list,
/// and ours isn't. So such a device is shown with another id; what it is, its configuration space tells.
pub(crate) struct ConfigSpace<'a, C>(pub &'a RefCell<C>);

impl<C: ConfigurationAccess> ConfigurationAccess for ConfigSpace<'_, C> {
    fn read_word(&self, function: DeviceFunction, register: u8) -> u32 {
        let word = self.0.borrow().read_word(function, register);
        let shown = u32::from(VIRTIO_BASE) + DeviceType::Memory as u32;
        let ours = |id: &u16| word == u32::from(VIRTIO_BASE + id) << 16 | u32::from(VENDOR);
        if register == 0 && VIRTIO_IDS.iter().any(ours) {
            return shown << 16 | u32::from(VENDOR);
        }
        word
    }

    fn write_word(&mut self, function: DeviceFunction, register: u8, data: u32) {
        self.0.borrow_mut().write_word(function, register, data);
    }

    unsafe fn unsafe_clone(&self) -> Self {
        Self(self.0)
    }
}
