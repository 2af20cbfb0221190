// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The device configuration space, and the header page by which a driver recognises a static window.

use crate::types::Uuid;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First bytes of the configuration space.
pub const CONFIG_MAGIC: [u8; 8] = *b"VDMABUF\0";
/// First bytes of a static window.
pub const WINDOW_MAGIC: [u8; 8] = *b"VDMABUFW";

/// The configuration space: 64 bytes, read-only for the driver.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct DeviceConfig {
    /// [`CONFIG_MAGIC`]: a driver bound under another virtio id leaves the device alone without it.
    pub magic: [u8; 8],
    /// [`crate::VERSION`].
    pub version: U32,
    /// [`crate::wire::WINDOW_BIT_DYNAMIC`] | [`crate::wire::WINDOW_BIT_STATIC`].
    pub windows: U32,
    /// Size of the dynamic window in bytes, 0 for none.
    pub window_size: U64,
    /// uuid of the first static window, or zero. Further ones are named by MAP replies.
    pub uuid: [u8; 16],
    /// Most handles a session can hold.
    pub max_handles: U32,
    /// Most mappings a session can hold.
    pub max_mappings: U32,
    /// Most requests that may be open at once.
    pub max_inflight: U32,
    /// Number of static windows.
    pub num_static: U32,
    /// Zero.
    pub reserved: U64,
}

const _: () = assert!(size_of::<DeviceConfig>() == 64);

/// First 64 bytes of a static window; the rest of its first page is zero, the slots come after it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct WindowHeader {
    /// [`WINDOW_MAGIC`].
    pub magic: [u8; 8],
    /// [`crate::VERSION`].
    pub version: U32,
    /// Zero.
    pub reserved: U32,
    /// Identity of the window, never all zero.
    pub uuid: [u8; 16],
    /// Size of the window in bytes, a power of two.
    pub size: U64,
    /// Offset of the first slot in bytes.
    pub first_slot: U64,
    /// Distance from one slot to the next in bytes.
    pub slot_size: U64,
    /// Number of slots.
    pub slots: U32,
    /// Zero.
    pub reserved2: U32,
}

const _: () = assert!(size_of::<WindowHeader>() == 64);

impl WindowHeader {
    /// The header of a window with `slots` slots of `slot_size` bytes each, the first at `first_slot`.
    #[must_use]
    pub const fn new(uuid: Uuid, size: u64, first_slot: u64, slot_size: u64, slots: u32) -> Self {
        Self {
            magic: WINDOW_MAGIC,
            version: U32::new(crate::VERSION),
            reserved: U32::ZERO,
            uuid: uuid.0,
            size: U64::new(size),
            first_slot: U64::new(first_slot),
            slot_size: U64::new(slot_size),
            slots: U32::new(slots),
            reserved2: U32::ZERO,
        }
    }
}
