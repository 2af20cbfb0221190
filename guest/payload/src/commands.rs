// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the command line can say: commands, separated by `;`.
//!
//! | command | what it prints |
//! |---|---|
//! | `info` | `info NAME HANDLES MAPPINGS`: what the host calls this VM, and what it holds |
//! | `list` | `buffer NAME SIZE ro\|rw` for each buffer |
//! | `crc NAME` | `crc NAME CRC-32` of a buffer, read through a read-only mapping |
//! | `refused NAME` | `refused NAME STATUS`: opening it for writing |
//! | `wait NAME` | `waited NAME FENCES`: for the fences of a buffer's writers, then tells its producer that it is done |
//! | `attack NAME` | writes to every page of a read-only mapping; `attacked NAME unchanged` or `changed` |
//! | `fill NAME BYTE` | fills a buffer through a read-write mapping (BYTE in hex); `filled NAME CRC-32` |
//! | `make HEAP NAME` | allocates a buffer, fills it and publishes it for good; `made NAME CRC-32` |
//! | `events COUNT` | `listening`, then each event: `added NAME` or `withdrawn NAME` |

use crate::crc::crc32;
use crate::machine::{Memory, Serial, write_anyway};
use core::fmt::{self, Write};
use core::ops::ControlFlow;
use core::time::Duration;
use dmabuf_guest::pci::PciDevice;
use dmabuf_guest::{Alias, Change, Error, Mapping};
use dmabuf_protocol::{Access, Enforcement, FenceUsage, Name, PAGE_SIZE, SyncDirection};

type Device<'a> = PciDevice<'a, Memory, crate::Ports, crate::Pit>;

/// What went wrong with a command.
pub enum Failure {
    Device(Error),
    Command,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Device(error)
    }
}

impl From<fmt::Error> for Failure {
    fn from(_: fmt::Error) -> Self {
        Self::Command
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(error) => write!(f, "{error}"),
            Self::Command => f.write_str("no such command, or not its arguments"),
        }
    }
}

/// Carries out all commands of the line, up to the first that fails.
pub fn run(device: &mut Device<'_>, line: &str, out: &mut Serial) -> Result<(), Failure> {
    for command in line.split(';') {
        let mut words = command.split_ascii_whitespace();
        let Some(verb) = words.next() else { continue };
        let first = words.next().unwrap_or_default();
        let second = words.next().unwrap_or_default();
        match verb {
            "info" => {
                let info = device.info()?;
                writeln!(out, "info {} {} {}", info.name, info.handles, info.mappings)?;
            }
            "list" => list(device, out)?,
            "crc" => crc(device, name(first)?, out)?,
            "refused" => refused(device, name(first)?, out)?,
            "wait" => wait(device, name(first)?, out)?,
            "attack" => attack(device, name(first)?, out)?,
            "fill" => {
                let byte = u8::from_str_radix(second, 16).or(Err(Failure::Command))?;
                fill(device, name(first)?, byte, out)?;
            }
            "make" => make(device, name(first)?, name(second)?, out)?,
            "events" => {
                let count: u32 = first.parse().or(Err(Failure::Command))?;
                events(device, count, out)?;
            }
            _ => return Err(Failure::Command),
        }
    }
    Ok(())
}

fn name(text: &str) -> Result<Name, Failure> {
    Name::new(text).or(Err(Failure::Command))
}

fn list(device: &mut Device<'_>, out: &mut Serial) -> Result<(), Failure> {
    let mut printed = Ok(());
    device.list(|buffer| {
        let access = if buffer.access.can_write() {
            "rw"
        } else {
            "ro"
        };
        if let Some(name) = buffer.name {
            printed = writeln!(out, "buffer {name} {} {access}", buffer.size);
        }
        if printed.is_ok() {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })?;
    Ok(printed?)
}

/// Opens and maps a whole buffer.
fn whole(device: &mut Device<'_>, name: Name, access: Access) -> Result<(Alias, Mapping), Failure> {
    let alias = device.open(name, access, Enforcement::None)?;
    match device.map(&alias, 0, alias.buffer().size, access) {
        Ok(mapping) => Ok((alias, mapping)),
        Err(error) => {
            device.close(&alias)?;
            Err(error.into())
        }
    }
}

fn give_back(device: &mut Device<'_>, (alias, mapping): (Alias, Mapping)) -> Result<(), Failure> {
    device.unmap(mapping)?;
    Ok(device.close(&alias)?)
}

fn crc_of(mapping: &Mapping) -> u32 {
    crc32(mapping.words().flatten())
}

fn crc(device: &mut Device<'_>, name: Name, out: &mut Serial) -> Result<(), Failure> {
    let held = whole(device, name, Access::ReadOnly)?;
    device.sync_start(&held.0, SyncDirection::Read)?;
    writeln!(out, "crc {name} {:08x}", crc_of(&held.1))?;
    device.sync_end(&held.0, SyncDirection::Read)?;
    give_back(device, held)
}

fn refused(device: &mut Device<'_>, name: Name, out: &mut Serial) -> Result<(), Failure> {
    match device.open(name, Access::ReadWrite, Enforcement::None) {
        Err(Error::Refused(status)) => Ok(writeln!(out, "refused {name} {status}")?),
        Err(error) => Err(error.into()),
        Ok(alias) => {
            device.close(&alias)?;
            Ok(writeln!(out, "refused {name} not")?)
        }
    }
}

fn wait(device: &mut Device<'_>, name: Name, out: &mut Serial) -> Result<(), Failure> {
    let alias = device.open(name, Access::ReadOnly, Enforcement::None)?;
    let fences = device.fence_wait(&alias, FenceUsage::Read, Duration::from_secs(1))?;
    writeln!(out, "waited {name} {fences}")?;
    device.release_buffer(&alias, 1)?;
    Ok(device.close(&alias)?)
}

fn attack(device: &mut Device<'_>, name: Name, out: &mut Serial) -> Result<(), Failure> {
    let held = whole(device, name, Access::ReadOnly)?;
    let before = crc_of(&held.1);
    let page = usize::try_from(PAGE_SIZE).or(Err(Failure::Command))?;
    for offset in (0..held.1.len()).step_by(page) {
        if let Some(byte) = held.1.read::<u8>(offset) {
            // SAFETY of the place: see `write_anyway`; `offset` is inside.
            let address = held
                .1
                .as_ptr()
                .map_addr(|start| start.saturating_add(offset));
            write_anyway(address, !byte);
        }
    }
    let same = crc_of(&held.1) == before;
    writeln!(
        out,
        "attacked {name} {}",
        if same { "unchanged" } else { "changed" }
    )?;
    give_back(device, held)
}

fn fill(device: &mut Device<'_>, name: Name, byte: u8, out: &mut Serial) -> Result<(), Failure> {
    let held = whole(device, name, Access::ReadWrite)?;
    for offset in 0..held.1.len() {
        held.1.write(offset, byte).ok_or(Failure::Command)?;
    }
    writeln!(out, "filled {name} {:08x}", crc_of(&held.1))?;
    give_back(device, held)
}

fn make(device: &mut Device<'_>, heap: Name, name: Name, out: &mut Serial) -> Result<(), Failure> {
    let alias = device.alloc(heap, 16 * PAGE_SIZE)?;
    let size = alias.buffer().size;
    let mapping = device.map(&alias, 0, size, Access::ReadWrite)?;
    for (offset, byte) in (0..mapping.len()).zip((0..=250).cycle()) {
        let byte: u8 = byte;
        mapping.write(offset, byte).ok_or(Failure::Command)?;
    }
    device.publish(&alias, name, true, None)?;
    writeln!(out, "made {name} {:08x}", crc_of(&mapping))?;
    give_back(device, (alias, mapping))
}

fn events(device: &mut Device<'_>, count: u32, out: &mut Serial) -> Result<(), Failure> {
    writeln!(out, "listening")?;
    let mut left = count;
    while left > 0 {
        let Some(event) = device.event()? else {
            core::hint::spin_loop();
            continue;
        };
        let change = match event.change {
            Change::Added => "added",
            Change::Withdrawn => "withdrawn",
            _ => continue,
        };
        let Some(name) = event.name else { continue };
        writeln!(out, "{change} {name}")?;
        left -= 1;
    }
    Ok(())
}
