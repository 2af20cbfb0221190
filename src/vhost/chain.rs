// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A descriptor chain as a request and the space for its reply (virtio 1.3, 2.7).
//!
//! The request is copied out once and never read again. Anything that a driver must not do in a chain (a loop, a
//! descriptor outside guest memory, a readable part after a writable one) makes the ring [`Broken`].

use dmabuf_protocol::Request;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// The driver broke the rules of the ring; it is not read any more.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The chain ends before its last descriptor: a loop, or a descriptor that isn't there.
    #[error("a descriptor chain doesn't end")]
    Endless,
    /// A readable descriptor follows a writable one.
    #[error("a readable descriptor follows a writable one")]
    Order,
    /// A descriptor points to something that isn't guest memory.
    #[error("a descriptor points outside guest memory: {0:#x}")]
    Address(u64),
    /// The front-end has truncated guest memory.
    #[error("guest memory was truncated")]
    Truncated,
    /// The ring itself can't be read or written.
    #[error("the ring can't be accessed: {0}")]
    Ring(#[from] virtio_queue::Error),
}

/// What a chain holds.
#[derive(Debug)]
pub struct Chain {
    /// Its first descriptor, by which it is given back.
    pub head: u16,
    /// The request; at most one byte more than the longest there is.
    pub request: Vec<u8>,
    /// Where the reply goes.
    pub reply: ReplySpace,
}

/// The writable part of a chain.
#[derive(Debug, Default)]
pub struct ReplySpace(Vec<(GuestAddress, usize)>);

/// Descriptors and their number of bytes, checked as they come.
type Descriptor = virtio_queue::desc::split::Descriptor;

impl Chain {
    /// Takes a chain apart.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn read(
        memory: &GuestMemoryMmap,
        head: u16,
        descriptors: impl Iterator<Item = Descriptor>,
    ) -> Result<Self, Broken> {
        let mut chain = Self {
            head,
            request: Vec::new(),
            reply: ReplySpace::default(),
        };
        let mut complete = false;
        for descriptor in descriptors {
            complete = !descriptor.has_next();
            let address = descriptor.addr();
            let len = usize::try_from(descriptor.len()).map_err(|_| Broken::Address(address.0))?;
            if !GuestMemoryBackend::check_range(memory, address, len) {
                return Err(Broken::Address(address.0));
            }
            if descriptor.is_write_only() {
                chain.reply.0.push((address, len));
            } else if chain.reply.0.is_empty() {
                chain.take_in(memory, address, len)?;
            } else {
                return Err(Broken::Order);
            }
        }
        if complete {
            Ok(chain)
        } else {
            Err(Broken::Endless)
        }
    }

    fn take_in(
        &mut self,
        memory: &GuestMemoryMmap,
        address: GuestAddress,
        len: usize,
    ) -> Result<(), Broken> {
        let room = (Request::MAX_LEN + 1).saturating_sub(self.request.len());
        let start = self.request.len();
        self.request.resize(start + len.min(room), 0);
        let target = self.request.get_mut(start..).unwrap_or_default();
        memory
            .read_slice(target, address)
            .map_err(|_| Broken::Address(address.0))
    }
}

impl ReplySpace {
    /// Bytes that fit.
    pub fn capacity(&self) -> usize {
        self.0
            .iter()
            .fold(0, |sum: usize, &(_, len)| sum.saturating_add(len))
    }

    /// Writes a reply that fits.
    ///
    /// # Errors
    /// [`Broken::Address`] if the memory went away since the chain was read.
    pub fn write(&self, memory: &GuestMemoryMmap, mut reply: &[u8]) -> Result<(), Broken> {
        for &(address, len) in &self.0 {
            let (now, later) = reply.split_at(len.min(reply.len()));
            memory
                .write_slice(now, address)
                .map_err(|_| Broken::Address(address.0))?;
            reply = later;
        }
        Ok(())
    }
}
