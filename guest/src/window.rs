// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Windows: where the device makes buffers appear, and the checks that a mapping really lies there.

pub use crate::sys::Region;
use dmabuf_protocol::{PAGE_SIZE, Uuid, VERSION, WindowHeader, config::WINDOW_MAGIC};
use virtio_drivers::Hal;

/// A static window: a BAR whose header was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaticWindow {
    uuid: Uuid,
    slots: Region,
    first_slot: u64,
}

impl StaticWindow {
    /// Looks at the header page of a BAR. `None` if this is no static window, or one that doesn't keep to SPEC.md.
    #[must_use]
    pub fn recognise<H: Hal>(bar: Region) -> Option<Self> {
        let header = bar
            .part(0, PAGE_SIZE)?
            .share::<H>()?
            .read::<WindowHeader>(0)?;
        let (first, size) = (header.first_slot.get(), header.slot_size.get());
        let pages = |bytes: u64| bytes != 0 && bytes.is_multiple_of(PAGE_SIZE);
        let ours = header.magic == WINDOW_MAGIC
            && header.version.get() == VERSION
            && Uuid(header.uuid) != Uuid::NIL
            && header.size.get() == bar.size()
            && header.slots.get() != 0
            && pages(first)
            && pages(size);
        let slots = size.checked_mul(header.slots.get().into()).filter(|_| ours);
        Some(Self {
            uuid: Uuid(header.uuid),
            slots: bar.part(first, slots?)?,
            first_slot: first,
        })
    }

    /// Which one it is.
    #[must_use]
    pub const fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// The range that a MAP reply names, `offset` being from the start of the BAR; `None` if it isn't all in slots.
    #[must_use]
    pub fn part(&self, offset: u64, length: u64) -> Option<Region> {
        self.slots
            .part(offset.checked_sub(self.first_slot)?, length)
    }
}

/// Finds windows: [`crate::pci::PciWindows`] on a PCI bus. A platform that knows its windows otherwise has its own.
pub trait Windows {
    /// Virtio shared memory region 0 of the device, if it has one.
    fn dynamic(&self) -> Option<Region>;

    /// The static window of that uuid. It may have been plugged in after the device.
    fn find(&mut self, uuid: Uuid) -> Option<StaticWindow>;
}
