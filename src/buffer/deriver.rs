// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The routes to a read-only alias of a dma-buf that this machine has: the host module, and the kernel's own ioctl.
//!
//! One per daemon, shared by the buffers that are dma-bufs of their own. Slots of pools need none: their memfd is sealed.

use crate::sys;
use dmabuf_protocol::Enforcement;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use std::sync::OnceLock;

/// The host module's device node.
const MODULE: &str = "/dev/dmabuf-derive";

/// See the module.
#[derive(Debug, Default)]
pub struct Deriver {
    module: Option<OwnedFd>,
    /// Whether the kernel has `DMA_BUF_IOCTL_DERIVE`; found out with the first dma-buf.
    ioctl: OnceLock<bool>,
}

impl Deriver {
    /// Looks for the host module.
    #[must_use]
    pub fn open() -> Self {
        let module = match open(MODULE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
            Ok(module) => {
                log::info!("{MODULE}: read-only aliases of any dma-buf");
                Some(module)
            }
            Err(Errno::NOENT) => None,
            Err(errno) => {
                log::warn!("{MODULE} can't be used: {errno}");
                None
            }
        };
        Self {
            module,
            ioctl: OnceLock::new(),
        }
    }

    /// The strongest enforcement of a read-only alias of `dma_buf`.
    pub fn best(&self, dma_buf: BorrowedFd<'_>) -> Enforcement {
        if self.module.is_some() {
            return Enforcement::Derived;
        }
        // Any other error than "no such ioctl" says that there is one.
        let probe = || {
            !matches!(
                sys::kernel_derive(dma_buf),
                Err(Errno::NOTTY | Errno::INVAL | Errno::NOSYS)
            )
        };
        if *self.ioctl.get_or_init(probe) {
            Enforcement::Ioctl
        } else {
            Enforcement::Vmm
        }
    }

    /// A read-only alias by the strongest route; `None` where there is only the VMM.
    ///
    /// # Errors
    /// The kernel's.
    pub fn derive(&self, dma_buf: BorrowedFd<'_>) -> rustix::io::Result<Option<OwnedFd>> {
        match (&self.module, self.best(dma_buf)) {
            (Some(module), _) => sys::module_derive(module.as_fd(), dma_buf, false).map(Some),
            (None, Enforcement::Ioctl) => sys::kernel_derive(dma_buf).map(Some),
            (None, _) => Ok(None),
        }
    }

    /// A read-only alias for a VMM that maps everything writable: it may ask for that, and gets a read-only mapping.
    ///
    /// # Errors
    /// ENODEV without the module.
    pub fn derive_fail_stop(&self, dma_buf: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
        let module = self.module.as_ref().ok_or(Errno::NODEV)?;
        sys::module_derive(module.as_fd(), dma_buf, true)
    }
}
