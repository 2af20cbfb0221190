// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Addresses for the memory BARs of PCI bus 0. Small firmware leaves that to the kernel, and other firmware puts them
//! above 4 GiB, where nothing is mapped here.

use crate::machine::Ports;
use virtio_drivers::transport::pci::bus::{BarInfo, Command, PciRoot};

/// The hole below the I/O APIC, above what firmware uses for PCI's memory-mapped configuration space.
const HOLE: core::ops::Range<u64> = 0xc000_0000..0xfe00_0000;

/// Gives every memory BAR an address in the hole, as long as there is room. Functions answer only once somebody
/// enables them.
pub fn assign_addresses(ports: Ports) {
    let mut root = PciRoot::new(ports);
    let mut next = HOLE.start;
    for (function, _) in root.enumerate_bus(0) {
        let (_, command) = root.get_status_command(function);
        root.set_command(function, command - Command::MEMORY_SPACE);
        let Ok(bars) = root.bars(function) else {
            continue;
        };
        for (bar, index) in bars.iter().zip(0..) {
            let Some(BarInfo::Memory { size, .. }) = bar else {
                continue;
            };
            let Some(address) = next.checked_next_multiple_of(*size) else {
                continue;
            };
            let (true, Ok(low)) = (address + size <= HOLE.end, u32::try_from(address)) else {
                continue;
            };
            next = address + size;
            if bar.as_ref().is_some_and(BarInfo::takes_two_entries) {
                root.set_bar_64(function, index, address);
            } else {
                root.set_bar_32(function, index, low);
            }
        }
    }
}
