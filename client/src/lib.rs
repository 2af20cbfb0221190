// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Host producers and consumers of shared buffers: the library behind `dmabufctl`, `camera-share` and `test-pattern`.
//!
//! A host process talks to the daemon over the broker's socket with the requests of `protocol/SPEC.md`; fds ride along.
//!
//! ```no_run
//! use dmabuf_client::{Access, Client};
//!
//! let mut client = Client::connect("/run/dmabuf/broker.sock".as_ref())?;
//! let alias = client.open("front/0", Access::ReadOnly)?;
//! let pixels = alias.map()?;
//! println!("{} bytes, CRC {:08x}", pixels.len(), pixels.crc32(0, pixels.len())?);
//! # Ok::<(), dmabuf_client::Error>(())
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | [`client`] | [`Client`]: one method per request, and the events |
//! | `connection` | messages on the socket: deadlines, tags, fds; checks everything the daemon says |
//! | [`alias`] | [`Alias`] and [`Allocation`]: a buffer this process holds through the broker |
//! | [`shared_memory`] | [`SharedMemory`]: what it holds of a buffer, mapped and synced from here |
//! | [`buffer`] | [`BufferInfo`]: what the daemon says of a buffer, checked |
//! | [`mapping`] | [`Mapping`] and [`MappingMut`]: the bytes of a buffer, with copies in and out and no references |
//! | [`event`] | [`Event`]: buffers that come and go, are released, or are taken away |
//! | `revoke` | buffers that this process takes away from everybody |
//! | [`fence`] | [`FenceWait`]: waiting for fences with an fd to poll; brackets, releases, holds |
//! | [`picture`] | fourccs and plane layouts |
//! | [`still`] | one frame as a PNG file |
//! | [`memory`] | sealed memfds, for producers that bring their own memory |
//! | [`source`] | where frames come from: a camera or a drawn test pattern |
//! | [`sink`], [`feed`] | where a producer's frames go, and a consumer's come from: the same on the host and in a guest |
//! | [`guest`] | the same as [`Client`] and [`stream`] for programs in a Linux guest: the driver's device and files |
//! | [`share`] | the loop that captures into shared buffers, free-running or in lockstep with a test |
//! | [`stream`] | frames from one producer to many consumers: both ends |
//! | [`usage`] | what peers use of what they may have |
//! | `views` | what a consumer has opened of its stream's buffers |
//! | [`v4l2`] | the few ioctls of a V4L2 capture device that this needs |
//! | [`arguments`] | sizes, fourccs and hex on command lines |
//! | `sys` | mmap and ioctls: the only unsafe code |

pub mod alias;
pub mod arguments;
pub mod buffer;
pub mod client;
mod connection;
pub mod error;
pub mod event;
pub mod feed;
pub mod fence;
pub mod guest;
pub mod mapping;
pub mod memory;
pub mod picture;
mod revoke;
pub mod share;
pub mod shared_memory;
pub mod sink;
pub mod source;
pub mod still;
pub mod stream;
mod sys;
pub mod usage;
pub mod v4l2;
mod views;

pub use alias::{Alias, Allocation};
pub use buffer::BufferInfo;
pub use client::{Client, DEFAULT_DEADLINE, Info};
pub use dmabuf_protocol::{
    Access, BufferId, Enforcement, FenceUsage, Flags, Handle, HeapKind, Name, PeerKind, Resource,
    Status, SyncDirection,
};
pub use error::{Error, Result};
pub use event::{Event, EventKind};
pub use fence::{FenceState, FenceWait, Waited};
pub use mapping::{Mapping, MappingMut};
pub use shared_memory::SharedMemory;

/// Where the broker listens when nothing else was configured.
pub const DEFAULT_SOCKET: &str = "/run/dmabuf/broker.sock";
