// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where buffers come from. A new kind of heap is one new file that implements [`Heap`].
//!
//! Heaps are opened from the configuration when the daemon starts, and live as long as it. Knows no virtio; used by
//! `session` (ALLOC, IMPORT) and by `lib.rs` (predeclared buffers).

mod dma_heap;
mod import;
mod memfd;
mod pool;
#[cfg(test)]
mod tests;

pub use dma_heap::DmaHeap;
pub use import::import;
pub use memfd::MemfdHeap;
pub use pool::{Pool, PoolHeap, PoolOptions, Slot};

use crate::buffer::Parts;
use dmabuf_protocol::{HeapKind, Status};
use std::sync::Arc;

/// A source of buffers.
pub trait Heap: Send + Sync + std::fmt::Debug {
    /// A new buffer of at least `size` bytes, all zero, that nobody else can reach.
    ///
    /// # Errors
    /// ENOMEM, EBUSY when every slot is taken, EINVAL for a size the heap can't give.
    fn allocate(&self, size: u64) -> Result<Parts, Status>;

    /// What its buffers are.
    fn kind(&self) -> HeapKind;

    /// Most bytes that one buffer can have, as far as the heap itself limits that.
    fn largest(&self) -> u64 {
        u64::MAX
    }

    /// The pool, if this heap is one.
    fn pool(&self) -> Option<&Arc<Pool>> {
        None
    }
}
