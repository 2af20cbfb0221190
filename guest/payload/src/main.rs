// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A program without an operating system that uses a dmabuf device: an example of `dmabuf-guest`, and a test of it.
//!
//! It starts by PVH (`qemu -kernel`), gives the PCI BARs their addresses, starts the device, and does what its command
//! line says (see [`commands`]), with its output on the first serial port. The exit status goes to QEMU's
//! `isa-debug-exit` at port 0xf4: 33 when everything was done, 35 when not.
#![no_std]
#![no_main]

mod clock;
mod commands;
mod crc;
mod machine;
mod pci;

use clock::Pit;
use core::fmt::Write;
use dmabuf_guest::pci::PciBus;
use machine::{Ports, Serial, exit};

/// All went well.
const DONE: u32 = 0x10;
/// Something did not.
const FAILED: u32 = 0x11;

fn main(command_line: &str) -> u32 {
    let mut out = Serial;
    pci::assign_addresses(Ports);
    let bus = PciBus::new(Ports, 0);
    let mut device = match bus.first_device::<machine::Memory, _>(Pit::start()) {
        Ok(Some(device)) => device,
        Ok(None) => {
            let _ = writeln!(out, "failed: no dmabuf device");
            return FAILED;
        }
        Err(error) => {
            let _ = writeln!(out, "failed: {error}");
            return FAILED;
        }
    };
    match commands::run(&mut device, command_line, &mut out) {
        Ok(()) => DONE,
        Err(error) => {
            let _ = writeln!(out, "failed: {error}");
            FAILED
        }
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let _ = writeln!(Serial, "failed: {info}");
    exit(FAILED)
}
