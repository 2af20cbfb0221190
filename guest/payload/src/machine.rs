// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The machine: where it starts, its ports, its memory. The only module with unsafe code.
#![allow(unsafe_code)]

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};
use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

global_asm!(include_str!("start.s"), options(att_syntax));
global_asm!(include_str!("memory.s"), options(att_syntax));

/// `hvm_start_info.magic` of PVH.
const START_MAGIC: u32 = 0x336e_c578;
/// Longest command line.
const MAX_LINE: usize = 1024;

/// Called by `start.s` with the address of PVH's start info.
#[unsafe(no_mangle)]
extern "C" fn payload_main(info: u32) -> ! {
    let mut line = [0; MAX_LINE];
    exit(crate::main(command_line(info, &mut line)))
}

/// Copies the command line; without one, or if it is no text, it is empty.
fn command_line(info: u32, line: &mut [u8; MAX_LINE]) -> &str {
    // SAFETY: the loader has put the start info there: in memory, aligned to 8, 56 bytes, `cmdline_paddr` at 24.
    let (magic, from) = unsafe {
        let info = info as usize as *const u32;
        (
            info.read_volatile(),
            info.add(6).cast::<u64>().read_volatile(),
        )
    };
    let mut length = 0;
    if magic == START_MAGIC && from != 0 && from < 1 << 31 {
        for to in line.iter_mut() {
            // SAFETY: the first 4 GiB are mapped, and the loader has ended the line with a NUL.
            *to = unsafe { (from as *const u8).add(length).read_volatile() };
            if *to == 0 {
                break;
            }
            length += 1;
        }
    }
    let line = line.get(..length).unwrap_or_default();
    core::str::from_utf8(line).unwrap_or_default()
}

/// Ends QEMU, or stops the CPU if there is no `isa-debug-exit`.
pub fn exit(code: u32) -> ! {
    out32(0xf4, code);
    loop {
        // SAFETY: interrupts are off, so that the CPU stays here.
        unsafe { asm!("hlt", options(nomem, nostack)) };
    }
}

/// Writes a byte to a port.
pub fn outb(port: u16, value: u8) {
    // SAFETY: the ports that are used here belong to devices that don't touch memory.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack)) };
}

/// Reads a byte from a port.
pub fn inb(port: u16) -> u8 {
    let value;
    // SAFETY: as `outb`.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack)) };
    value
}

fn out32(port: u16, value: u32) {
    // SAFETY: as `outb`; a write to PCI configuration space may change what is in memory, so no `nomem`.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack)) };
}

fn in32(port: u16) -> u32 {
    let value;
    // SAFETY: as `out32`.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nostack)) };
    value
}

/// The first serial port; QEMU's needs no set-up.
pub struct Serial;

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            while inb(0x3fd) & 0x20 == 0 {}
            outb(0x3f8, byte);
        }
        Ok(())
    }
}

/// PCI configuration space by ports 0xcf8 and 0xcfc.
#[derive(Clone, Copy)]
pub struct Ports;

impl Ports {
    fn select(function: DeviceFunction, register: u8) {
        let DeviceFunction {
            bus,
            device,
            function,
        } = function;
        let [bus, device, function] = [bus, device, function].map(u32::from);
        let register = u32::from(register & 0xfc);
        out32(
            0xcf8,
            1 << 31 | bus << 16 | device << 11 | function << 8 | register,
        );
    }
}

impl ConfigurationAccess for Ports {
    fn read_word(&self, function: DeviceFunction, register: u8) -> u32 {
        Self::select(function, register);
        in32(0xcfc)
    }

    fn write_word(&mut self, function: DeviceFunction, register: u8, data: u32) {
        Self::select(function, register);
        out32(0xcfc, data);
    }

    unsafe fn unsafe_clone(&self) -> Self {
        Self
    }
}

/// Pages for DMA.
const PAGES: usize = 32;
#[repr(C, align(4096))]
struct Dma(UnsafeCell<[u8; PAGES * PAGE_SIZE]>);
// SAFETY: the bytes are only reached by pointers to pages that `TAKEN` says belong to one owner.
unsafe impl Sync for Dma {}
static DMA: Dma = Dma(UnsafeCell::new([0; PAGES * PAGE_SIZE]));
/// A bit for each page that is taken.
static TAKEN: AtomicU32 = AtomicU32::new(0);

/// Memory as it is here: guest-physical addresses are addresses.
pub struct Memory;

impl Memory {
    fn mask(pages: usize, first: usize) -> Option<u32> {
        let bits = 1_u64.checked_shl(u32::try_from(pages).ok()?)? - 1;
        u32::try_from(bits.checked_shl(u32::try_from(first).ok()?)?).ok()
    }

    fn first_of(address: NonNull<u8>) -> usize {
        (address.as_ptr() as usize - DMA.0.get() as usize) / PAGE_SIZE
    }
}

// SAFETY: pages are aligned, zeroed, and given out once until they are freed; addresses are the same for devices.
unsafe impl Hal for Memory {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let taken = TAKEN.load(Ordering::Relaxed);
        let free = (0..PAGES).find_map(|first| {
            let mask = Self::mask(pages, first).filter(|mask| mask & taken == 0)?;
            Some((first, mask))
        });
        let Some((first, mask)) = free else {
            return (0, NonNull::dangling());
        };
        TAKEN.store(taken | mask, Ordering::Relaxed);
        // SAFETY: `first` and the pages after it are inside, and were free: nobody has a reference.
        unsafe {
            let start = DMA.0.get().cast::<u8>().add(first * PAGE_SIZE);
            start.write_bytes(0, pages * PAGE_SIZE);
            (start as PhysAddr, NonNull::new_unchecked(start))
        }
    }

    unsafe fn dma_dealloc(_: PhysAddr, address: NonNull<u8>, pages: usize) -> i32 {
        match Self::mask(pages, Self::first_of(address)) {
            Some(mask) => {
                TAKEN.fetch_and(!mask, Ordering::Relaxed);
                0
            }
            None => -1,
        }
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, _: usize) -> NonNull<u8> {
        // Device memory has been put below 4 GiB, and never at 0.
        NonNull::new(address as *mut u8).unwrap_or(NonNull::dangling())
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr() as PhysAddr
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

/// Writes to memory that may only be read: what an attacker would do. What comes of it depends on the VMM.
pub fn write_anyway(address: NonNull<u8>, value: u8) {
    // SAFETY: the caller has it from a mapping, which is device memory: nothing of Rust's is there.
    unsafe { address.write_volatile(value) };
}
