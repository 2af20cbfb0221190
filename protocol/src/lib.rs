// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Wire format of the virtio dmabuf device.
//!
//! `SPEC.md` beside this crate is the normative text; this crate is its Rust form. The same bytes travel on
//! virtqueues (between guest driver and daemon) and on the broker's `SOCK_SEQPACKET` socket (between host processes
//! and daemon). It allocates nothing, knows no transport, and contains no unsafe code.
//!
//! * [`config`]: the device configuration space and the header page of a static window
//! * [`wire`]: the fixed-size little-endian structures, byte for byte
//! * [`request`]: parsing a request, with all validation, into [`request::Request`]
//! * [`types`]: access, enforcement, names, handles: the values inside the structures
//! * [`fence`]: sync, fences, release, hold
//! * [`stream`]: frames from one producer to many consumers
//! * [`usage`]: what peers use of what they may have
//! * [`status`]: the status codes of a reply
#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod config;
pub mod fence;
pub mod request;
pub mod revoke;
pub mod status;
pub mod stream;
pub mod types;
pub mod usage;
pub mod wire;

pub use config::{DeviceConfig, WindowHeader};
pub use fence::{FenceUsage, SyncDirection};
pub use request::{OpCode, Request};
pub use revoke::RevokeTarget;
pub use status::Status;
pub use stream::ConsumeMode;
pub use types::{
    Access, BufferId, Caching, Enforcement, Flags, Handle, HeapKind, MappingId, Name, Uuid,
};
pub use usage::{PeerKind, Resource};

/// Version of the protocol, as the configuration space and GET_INFO report it (SPEC.md, "Versions").
pub const VERSION: u32 = 1;
/// Smallest unit of sizes and offsets in a window, in bytes.
pub const PAGE_SIZE: u64 = 4096;
/// Index of the control queue.
pub const QUEUE_CONTROL: u16 = 0;
/// Index of the event queue.
pub const QUEUE_EVENT: u16 = 1;
/// Index of the fence queue.
pub const QUEUE_FENCE: u16 = 2;
/// Number of virtqueues.
pub const NUM_QUEUES: usize = 3;
/// The id of the virtio shared memory region that is the dynamic window.
pub const SHM_REGION_WINDOW: u8 = 0;
/// Feature bit number: the device accepts ALLOC from the driver.
pub const FEATURE_ALLOC: u32 = 0;
/// Feature bit number: the device relays fences.
pub const FEATURE_FENCE: u32 = 1;
/// Feature bit number: the device offers streams.
pub const FEATURE_STREAM: u32 = 2;
/// Feature bit number: MAP may answer with a static window.
pub const FEATURE_STATIC_WINDOW: u32 = 3;
