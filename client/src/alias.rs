// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A buffer as this process holds it through the broker: its memory, and the handle that the daemon knows it by.
//!
//! Made by [`crate::Client`].

use crate::buffer::BufferInfo;
use crate::error::Result;
use crate::shared_memory::SharedMemory;
use dmabuf_protocol::Handle;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A buffer, as granted to this process.
#[derive(Debug)]
pub struct Alias {
    handle: Handle,
    memory: SharedMemory,
    info: BufferInfo,
}

impl Alias {
    pub(crate) fn new(
        handle: Handle,
        fd: OwnedFd,
        fd_offset: u64,
        info: BufferInfo,
    ) -> Result<Self> {
        Ok(Self {
            handle,
            memory: SharedMemory::new(fd, fd_offset, info.size, info.access)?,
            info,
        })
    }

    /// The daemon's name for it in this connection.
    #[must_use]
    pub const fn handle(&self) -> Handle {
        self.handle
    }

    /// What the daemon said of it.
    #[must_use]
    pub const fn info(&self) -> &BufferInfo {
        &self.info
    }

    /// The memory alone. The daemon keeps the handle until the connection ends.
    #[must_use]
    pub fn into_memory(self) -> SharedMemory {
        self.memory
    }
}

impl Deref for Alias {
    type Target = SharedMemory;

    fn deref(&self) -> &SharedMemory {
        &self.memory
    }
}

impl AsRef<SharedMemory> for Alias {
    fn as_ref(&self) -> &SharedMemory {
        &self.memory
    }
}

impl AsFd for Alias {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

/// A buffer that this process allocated. Read-write, and not seen by others before [`crate::Client::publish`].
#[derive(Debug)]
pub struct Allocation(Alias);

impl Allocation {
    pub(crate) const fn new(alias: Alias) -> Self {
        Self(alias)
    }

    /// The alias, to be closed.
    #[must_use]
    pub fn into_alias(self) -> Alias {
        self.0
    }
}

impl Deref for Allocation {
    type Target = Alias;

    fn deref(&self) -> &Alias {
        &self.0
    }
}

impl AsRef<SharedMemory> for Allocation {
    fn as_ref(&self) -> &SharedMemory {
        &self.0
    }
}
