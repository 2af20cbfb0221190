// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#![doc = include_str!("../README.md")]
#![no_std]

#[cfg(test)]
extern crate std;

mod control;
mod device;
mod error;
mod event;
mod mapping;
pub mod pci;
mod producer;
mod reply;
mod stream;
mod sync;
mod sys;
#[cfg(test)]
mod tests;
pub mod window;

use core::time::Duration;

pub use device::{Alias, Device};
pub use dmabuf_protocol as protocol;
pub use error::{Error, Result};
pub use event::{Change, Event};
pub use mapping::Mapping;
pub use reply::{Buffer, Heap, Info};
pub use stream::{Frame, Stream, StreamInfo};
pub use sync::Fences;

/// How long a reply is waited for unless [`Device::set_time_limit`] says otherwise. Twice the device's own limit for
/// the VMM.
pub const TIME_LIMIT: Duration = Duration::from_secs(10);
/// Most mappings in the dynamic window at a time.
pub const MAX_DYNAMIC: usize = 64;

/// What the driver needs of the platform, besides virtio-drivers' [`virtio_drivers::Hal`].
pub trait Platform {
    /// The time since any moment. It never goes back.
    fn now(&self) -> Duration;

    /// Called again and again while there is no reply yet: an RTOS yields here.
    fn idle(&self) {
        core::hint::spin_loop();
    }
}
