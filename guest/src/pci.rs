// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The device and its windows on a PCI bus whose BARs have addresses.

use crate::Platform;
use crate::device::{self, Device};
use crate::error::{Error, Result};
use crate::sys::{ConfigSpace, Region};
use crate::window::{StaticWindow, Windows};
use core::cell::RefCell;
use core::marker::PhantomData;
use dmabuf_protocol::{SHM_REGION_WINDOW, Uuid};
use virtio_drivers::Hal;
use virtio_drivers::transport::pci::PciTransport;
use virtio_drivers::transport::pci::bus::{
    BarInfo, Command, ConfigurationAccess, DeviceFunction, PCI_CAP_ID_VNDR, PciRoot,
};

/// Vendor of virtio devices, and of ivshmem.
pub(crate) const VENDOR: u16 = 0x1af4;
/// Device id of ivshmem-plain; its memory is [`IVSHMEM_BAR`].
const IVSHMEM: u16 = 0x1110;
const IVSHMEM_BAR: u8 = 2;
/// Virtio ids that can be a dmabuf device: its own, and those under which crosvm can present it. The magic decides.
pub(crate) const VIRTIO_IDS: [u16; 3] = [37, 48, 63];
/// What virtio's ids start at.
pub(crate) const VIRTIO_BASE: u16 = 0x1040;
/// Virtio capability: shared memory region.
const CAP_SHARED_MEMORY: u8 = 8;
/// More capabilities than the 192 bytes for them hold.
const MAX_CAPABILITIES: usize = 48;
/// Static windows that are remembered.
const MAX_WINDOWS: usize = 8;

/// A dmabuf device on a PCI bus.
pub type PciDevice<'a, H, C, P> = Device<H, PciTransport, PciWindows<'a, H, C>, P>;

/// One PCI bus. The firmware, or the payload itself, has given the BARs their addresses.
pub struct PciBus<C> {
    access: RefCell<C>,
    number: u8,
}

impl<C: ConfigurationAccess> PciBus<C> {
    /// The bus of that number.
    pub const fn new(access: C, number: u8) -> Self {
        Self {
            access: RefCell::new(access),
            number,
        }
    }

    /// Starts the first dmabuf device on the bus. `None`: there is none.
    ///
    /// # Errors
    /// Those of [`Device::new`], except [`Error::NotOurs`]; [`Error::Pci`].
    pub fn first_device<H: Hal, P: Platform>(
        &self,
        platform: P,
    ) -> Result<Option<PciDevice<'_, H, C, P>>> {
        for function in self.candidates() {
            self.enable(function);
            let Ok(transport) = PciTransport::new::<H, _>(&mut self.root(), function) else {
                return Err(Error::Pci("a device without virtio's capabilities"));
            };
            match device::recognise(transport)? {
                Some(ours) => {
                    let windows = PciWindows::new(self, self.shared_memory(function)?);
                    return Device::start(ours, windows, platform).map(Some);
                }
                None => continue,
            }
        }
        Ok(None)
    }

    /// What can be a dmabuf device, by its id.
    pub(crate) fn candidates(&self) -> impl Iterator<Item = DeviceFunction> {
        self.of_vendor(|id| VIRTIO_IDS.contains(&id.wrapping_sub(VIRTIO_BASE)))
    }

    fn root(&self) -> PciRoot<ConfigSpace<'_, C>> {
        PciRoot::new(ConfigSpace(&self.access))
    }

    /// The functions of our vendor with such a device id.
    fn of_vendor(&self, wanted: impl Fn(u16) -> bool) -> impl Iterator<Item = DeviceFunction> {
        let bus = self.number;
        (0..32)
            .flat_map(move |device| {
                (0..8).map(move |function| DeviceFunction {
                    bus,
                    device,
                    function,
                })
            })
            .filter(move |function| {
                let [a, b, c, d] = self.word(*function, 0).to_le_bytes();
                u16::from_le_bytes([a, b]) == VENDOR && wanted(u16::from_le_bytes([c, d]))
            })
    }

    fn word(&self, function: DeviceFunction, register: u8) -> u32 {
        self.access.borrow().read_word(function, register)
    }

    /// Lets a function answer to its memory BARs, and use memory.
    fn enable(&self, function: DeviceFunction) {
        let mut root = self.root();
        let (_, command) = root.get_status_command(function);
        let wanted = command | Command::MEMORY_SPACE | Command::BUS_MASTER;
        if wanted != command {
            root.set_command(function, wanted);
        }
    }

    fn bar(&self, function: DeviceFunction, index: u8) -> Result<Region> {
        match self.root().bar_info(function, index) {
            Ok(Some(BarInfo::Memory { address, size, .. })) => Region::bar(address, size).or(Err(
                Error::Pci("a BAR that has no address, or isn't made of pages"),
            )),
            _ => Err(Error::Pci("a BAR that isn't memory")),
        }
    }

    /// Virtio shared memory region 0 of the device: `struct virtio_pci_cap64` with the id 0.
    pub(crate) fn shared_memory(&self, function: DeviceFunction) -> Result<Option<Region>> {
        let root = self.root();
        // A list that leads back to itself ends, too.
        for capability in root.capabilities(function).take(MAX_CAPABILITIES) {
            let [length, kind] = capability.private_header.to_le_bytes();
            let last = capability.offset.checked_add(20);
            let (true, true, Some(_)) = (
                capability.id == PCI_CAP_ID_VNDR && kind == CAP_SHARED_MEMORY,
                length >= 24,
                last,
            ) else {
                continue;
            };
            let word = |at: u8| self.word(function, capability.offset + at);
            let [bar, id, _, _] = word(4).to_le_bytes();
            if id != SHM_REGION_WINDOW || bar > 5 {
                continue;
            }
            let wide = |low: u8, high: u8| u64::from(word(low)) | u64::from(word(high)) << 32;
            let (offset, size) = (wide(8, 16), wide(12, 20));
            let region = self.bar(function, bar)?.part(offset, size);
            return region
                .map(Some)
                .ok_or(Error::Pci("the shared memory region isn't in its BAR"));
        }
        Ok(None)
    }
}

/// The windows of a device on a PCI bus: its shared memory region, and the ivshmem devices beside it.
pub struct PciWindows<'a, H, C> {
    bus: &'a PciBus<C>,
    dynamic: Option<Region>,
    /// Those that were looked at: finding out a BAR's size makes it disappear for a moment, so this is done once.
    known: [Option<(DeviceFunction, StaticWindow)>; MAX_WINDOWS],
    hal: PhantomData<H>,
}

impl<'a, H: Hal, C: ConfigurationAccess> PciWindows<'a, H, C> {
    pub(crate) const fn new(bus: &'a PciBus<C>, dynamic: Option<Region>) -> Self {
        Self {
            bus,
            dynamic,
            known: [None; MAX_WINDOWS],
            hal: PhantomData,
        }
    }

    fn recall(
        &self,
        wanted: impl Fn(&(DeviceFunction, StaticWindow)) -> bool,
    ) -> Option<StaticWindow> {
        let mut known = self.known.iter().flatten();
        known.find(|entry| wanted(entry)).map(|(_, window)| *window)
    }
}

impl<H: Hal, C: ConfigurationAccess> Windows for PciWindows<'_, H, C> {
    fn dynamic(&self) -> Option<Region> {
        self.dynamic
    }

    fn find(&mut self, uuid: Uuid) -> Option<StaticWindow> {
        if let Some(window) = self.recall(|(_, window)| window.uuid() == uuid) {
            return Some(window);
        }
        let bus = self.bus;
        for function in bus.of_vendor(|id| id == IVSHMEM) {
            if self.recall(|(known, _)| *known == function).is_some() {
                continue;
            }
            bus.enable(function);
            let bar = bus.bar(function, IVSHMEM_BAR);
            let Some(window) = bar.ok().and_then(StaticWindow::recognise::<H>) else {
                continue;
            };
            let Some(free) = self.known.iter_mut().find(|entry| entry.is_none()) else {
                return (window.uuid() == uuid).then_some(window);
            };
            *free = Some((function, window));
            if window.uuid() == uuid {
                return Some(window);
            }
        }
        None
    }
}
