// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A mapping: the bytes of a buffer, where they are.

use crate::sys::Shared;
use core::ptr::NonNull;
use dmabuf_protocol::{Access, Enforcement, MappingId, Uuid};
use zerocopy::{FromBytes, IntoBytes};

/// Bytes of a buffer in a window: the buffer's memory itself, which its producer can change at any time.
///
/// So there is no `&[u8]`: bytes are read by value, each once. Only [`crate::Device::unmap`] ends a mapping. When the
/// device is dropped, this stays what it is, but what is read from the dynamic window then isn't defined.
#[derive(Debug)]
pub struct Mapping {
    pub(crate) id: MappingId,
    pub(crate) access: Access,
    pub(crate) enforcement: Enforcement,
    pub(crate) window: Option<Uuid>,
    pub(crate) memory: Shared,
}

impl Mapping {
    /// Bytes, whole pages.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a mapping is never empty")]
    pub const fn len(&self) -> usize {
        self.memory.len()
    }

    /// What may be done with it.
    #[must_use]
    pub const fn access(&self) -> Access {
        self.access
    }

    /// Who makes it read-only.
    #[must_use]
    pub const fn enforcement(&self) -> Enforcement {
        self.enforcement
    }

    /// The static window it is in; `None`: the dynamic window.
    #[must_use]
    pub const fn window(&self) -> Option<Uuid> {
        self.window
    }

    /// Reads one value; `None` if it isn't inside, or not aligned.
    #[must_use]
    pub fn read<V: FromBytes>(&self, offset: usize) -> Option<V> {
        self.memory.read(offset)
    }

    /// Writes one value; `None` if it isn't inside, or not aligned, or the mapping is read-only.
    #[must_use]
    pub fn write<V: IntoBytes>(&self, offset: usize, value: V) -> Option<()> {
        if !self.access.can_write() {
            return None;
        }
        self.memory.write(offset, value)
    }

    /// All of it, word by word, in the order of the bytes in memory.
    pub fn words(&self) -> impl Iterator<Item = [u8; 8]> {
        (0..self.len())
            .step_by(8)
            .map_while(|at| self.memory.read::<u64>(at).map(u64::to_ne_bytes))
    }

    /// Where it starts, for those who take care themselves: it is shared memory, and valid until UNMAP.
    #[must_use]
    pub const fn as_ptr(&self) -> NonNull<u8> {
        self.memory.as_ptr()
    }
}
