// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Windows on a PCI bus: capabilities and BARs as they should be, and as they shouldn't.
#![allow(unsafe_code, clippy::cast_possible_truncation)]

use super::hal::{FakeHal, device_memory, poke};
use super::host::header;
use crate::pci::{PciBus, PciWindows};
use crate::window::Windows;
use crate::{Error, Platform};
use core::time::Duration;
use dmabuf_protocol::{Uuid, WindowHeader};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction};

const MIB: u64 = 1 << 20;
/// Size of the fake ivshmem BARs: what `header` says.
const WINDOW: u64 = 16 * 4096;

/// The functions of the bus by device number: 64 words each, and the size of the 64-bit BAR 2 or 4.
#[derive(Clone, Default)]
struct FakeBus {
    devices: BTreeMap<u8, ([u32; 64], u64)>,
    /// How often a BAR's size was asked for.
    sized: Rc<Cell<u32>>,
}

impl FakeBus {
    fn add(&mut self, device: u8, id: u16, bar: u8, address: u64, size: u64) -> &mut [u32; 64] {
        let mut words = [0; 64];
        words[0] = u32::from(id) << 16 | 0x1af4;
        words[4 + usize::from(bar)] = address as u32 | 0xc;
        words[5 + usize::from(bar)] = (address >> 32) as u32;
        self.devices.insert(device, (words, size));
        &mut self.devices.get_mut(&device).unwrap().0
    }

    /// A dmabuf device with these capabilities, at these offsets.
    fn add_dmabuf(&mut self, capabilities: &[(u8, [u32; 6])]) {
        let words = self.add(3, 0x1040 + 37, 4, 4 << 30, 64 * MIB);
        words[1] = 1 << 20;
        words[13] = u32::from(capabilities[0].0);
        for (at, capability) in capabilities {
            let at = usize::from(*at) / 4;
            words[at..at + 6].copy_from_slice(capability);
        }
    }
}

impl ConfigurationAccess for FakeBus {
    fn read_word(&self, function: DeviceFunction, register: u8) -> u32 {
        let device = self.devices.get(&function.device);
        let device = device.filter(|_| function.function == 0);
        device.map_or(!0, |(words, _)| words[usize::from(register) / 4])
    }

    fn write_word(&mut self, function: DeviceFunction, register: u8, data: u32) {
        let Some((words, size)) = self.devices.get_mut(&function.device) else {
            return;
        };
        let word = &mut words[usize::from(register) / 4];
        *word = match (register, data) {
            (0x18 | 0x20, u32::MAX) => {
                self.sized.set(self.sized.get() + 1);
                (!(*size - 1)) as u32 | 0xc
            }
            (0x1c | 0x24, u32::MAX) => (!(*size - 1) >> 32) as u32,
            _ => data,
        };
    }

    unsafe fn unsafe_clone(&self) -> Self {
        self.clone()
    }
}

/// `struct virtio_pci_cap64` of shared memory region `id`.
fn shared_memory(next: u8, bar: u8, id: u8, offset: u64, size: u64) -> [u32; 6] {
    let low = |wide: u64| wide as u32;
    let high = |wide: u64| (wide >> 32) as u32;
    [
        u32::from_le_bytes([9, next, 24, 8]),
        u32::from_le_bytes([bar, id, 0, 0]),
        low(offset),
        low(size),
        high(offset),
        high(size),
    ]
}

fn region_of(capabilities: &[(u8, [u32; 6])]) -> Result<Option<u64>, Error> {
    let mut bus = FakeBus::default();
    bus.add_dmabuf(capabilities);
    let bus = PciBus::new(bus, 0);
    let function = bus.candidates().next().unwrap();
    assert_eq!(function.device, 3);
    Ok(bus.shared_memory(function)?.map(|region| region.size()))
}

#[test]
fn shared_memory_region_0_is_the_dynamic_window() {
    let other = shared_memory(0x60, 4, 1, 0, MIB);
    let ours = shared_memory(0, 4, 0, 32 * MIB, 32 * MIB);
    assert_eq!(
        region_of(&[(0x40, other), (0x60, ours)]),
        Ok(Some(32 * MIB))
    );
    assert_eq!(
        region_of(&[(0x40, shared_memory(0, 4, 1, 0, MIB))]),
        Ok(None)
    );
}

#[test]
fn capabilities_that_can_not_be() {
    let outside = [
        (4, 32 * MIB, 33 * MIB),
        (4, 64 * MIB, 4096),
        (4, !0xfff, 4096),
        (4, 0, !0xfff),
        (4, 1, 4096),
        (4, 0, 0),
        (0, 0, 4096),
    ];
    for (bar, offset, size) in outside {
        let refused = region_of(&[(0x40, shared_memory(0, bar, 0, offset, size))]);
        assert!(
            matches!(refused, Err(Error::Pci(_))),
            "{bar} {offset:#x} {size:#x} {refused:?}"
        );
    }
    // A BAR that there can't be, a capability too short, one behind the end, and a list without an end.
    assert_eq!(
        region_of(&[(0x40, shared_memory(0, 6, 0, 0, MIB))]),
        Ok(None)
    );
    let mut short = shared_memory(0, 4, 0, 0, MIB);
    short[0] = u32::from_le_bytes([9, 0, 20, 8]);
    assert_eq!(region_of(&[(0x40, short)]), Ok(None));
    let mut last = [0; 6];
    last[0] = u32::from_le_bytes([9, 0xfc, 16, 1]);
    let mut bus = FakeBus::default();
    bus.add_dmabuf(&[(0x40, last)]);
    bus.devices.get_mut(&3).unwrap().0[63] = u32::from_le_bytes([9, 0, 24, 8]);
    let bus = PciBus::new(bus, 0);
    let function = bus.candidates().next().unwrap();
    assert_eq!(bus.shared_memory(function), Ok(None));
    assert_eq!(
        region_of(&[(0x40, shared_memory(0x40, 4, 1, 0, MIB))]),
        Ok(None)
    );
}

/// An ivshmem device whose memory starts with this header.
fn add_window(bus: &mut FakeBus, device: u8, header: WindowHeader) {
    let memory = device_memory(usize::try_from(WINDOW).unwrap());
    poke(memory, header);
    bus.add(device, 0x1110, 2, memory, WINDOW);
}

fn with_uuid(uuid: Uuid) -> WindowHeader {
    let mut header = header();
    header.uuid = uuid.0;
    header
}

#[test]
fn static_windows_are_found_by_uuid_and_remembered() {
    let uuid = |number: u8| Uuid([number; 16]);
    let mut access = FakeBus::default();
    let mut foreign = with_uuid(uuid(9));
    foreign.magic = *b"SOMEONES";
    add_window(&mut access, 4, foreign);
    for number in 1..=3 {
        add_window(&mut access, 10 + number, with_uuid(uuid(number)));
    }
    let sized = Rc::clone(&access.sized);
    let bus = PciBus::new(access, 0);
    let mut windows = PciWindows::<FakeHal, _>::new(&bus, None);
    assert_eq!(
        windows.find(uuid(2)).map(|window| window.uuid()),
        Some(uuid(2))
    );
    assert_eq!(sized.get(), 3, "the foreign one and two of ours");
    for number in [1, 2] {
        assert!(windows.find(uuid(number)).is_some());
    }
    assert_eq!(sized.get(), 3, "no window disappears while it is used");
    assert!(windows.find(uuid(3)).is_some());
    assert_eq!(windows.find(uuid(9)), None, "magic and uuid");
    assert_eq!(windows.find(uuid(5)), None);
    let last = windows.find(uuid(3)).unwrap();
    assert!(last.part(4096, 4096).is_some());
    assert_eq!(last.part(0, 4096), None, "the header");
    assert_eq!(last.part(13 * 4096, 4096), None, "behind the last slot");
}

struct Stopped;
impl Platform for Stopped {
    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

#[test]
fn a_bus_without_a_device() {
    let mut access = FakeBus::default();
    add_window(&mut access, 1, header());
    access.add(2, 0x1041, 4, 4 << 30, MIB);
    let bus = PciBus::new(access, 0);
    assert!(matches!(bus.first_device::<FakeHal, _>(Stopped), Ok(None)));
}

#[test]
fn a_device_without_virtio_capabilities() {
    let mut access = FakeBus::default();
    access.add_dmabuf(&[(0x40, shared_memory(0, 4, 0, 0, MIB))]);
    let bus = PciBus::new(access, 0);
    assert!(matches!(
        bus.first_device::<FakeHal, _>(Stopped),
        Err(Error::Pci(_))
    ));
}
