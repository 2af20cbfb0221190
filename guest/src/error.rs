// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What can go wrong, by whose fault.

use dmabuf_protocol::{Status, Uuid};
use thiserror::Error;

/// Every error of this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration space doesn't start with the magic: the device belongs to another driver.
    #[error("not a dmabuf device")]
    NotOurs,
    /// The device speaks another version of the protocol.
    #[error("the device speaks version {0} of the protocol")]
    Version(u32),
    /// The device doesn't keep to SPEC.md; the text says where. Nothing of what it said was used.
    #[error("the device answers wrongly: {0}")]
    Protocol(&'static str),
    /// The host refused.
    #[error("refused by the host: {0}")]
    Refused(Status),
    /// No reply within the driver's time limit. What the request gives when it is answered after all is given back.
    #[error("no reply in time")]
    TimedOut,
    /// All request slots wait for the late replies of requests that have timed out.
    #[error("too many requests are still open")]
    Busy,
    /// [`crate::MAX_DYNAMIC`] mappings of the dynamic window exist.
    #[error("too many mappings in the dynamic window")]
    TooManyMappings,
    /// A virtqueue lied: the device isn't used any more.
    #[error("the device's virtqueue is broken")]
    Broken,
    /// This machine doesn't have the window that a MAP was answered with.
    #[error("no static window {0}: does this VM have the pool's ivshmem device?")]
    NoWindow(Uuid),
    /// An argument makes no sense, or doesn't fit into this machine's addresses.
    #[error("invalid argument: {0}")]
    Argument(&'static str),
    /// The bus or the transport failed.
    #[error("transport: {0}")]
    Transport(#[from] virtio_drivers::Error),
    /// The device's PCI capabilities or BARs aren't those of a virtio device.
    #[error("PCI: {0}")]
    Pci(&'static str),
}

/// The result of this crate's functions.
pub type Result<T, E = Error> = core::result::Result<T, E>;
