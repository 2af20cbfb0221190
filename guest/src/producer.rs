// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! For VMs that may allocate or publish: buffers of their own.

use crate::Platform;
use crate::device::{Alias, Device};
use crate::error::{Error, Result};
use crate::reply::{self, Heap};
use crate::window::Windows;
use core::ops::ControlFlow;
use dmabuf_protocol::request::{Format, OpCode};
use dmabuf_protocol::{Access, Enforcement, Name, PAGE_SIZE, wire};
use virtio_drivers::Hal;
use virtio_drivers::transport::Transport;
use zerocopy::FromZeros;
use zerocopy::little_endian::{U32, U64};

/// More heaps than a host has.
const MAX_HEAPS: u32 = 1024;

impl<H: Hal, T: Transport, W: Windows, P: Platform> Device<H, T, W, P> {
    /// HEAP_LIST: hands `each` the heaps that this VM may allocate from, until there are no more or it breaks.
    ///
    /// # Errors
    /// [`Error::Refused`] with `EOPNOTSUPP`: there are none. Otherwise as all requests: see [`Error`].
    pub fn heaps(&mut self, mut each: impl FnMut(&Heap) -> ControlFlow<()>) -> Result<()> {
        for index in 0..MAX_HEAPS {
            let request = wire::HeapListRequest {
                index: U32::new(index),
                reserved: U32::ZERO,
            };
            let reply = self.call(OpCode::HeapList, &request)?;
            let (heap, count) = reply::heap(reply.body()?, index)?;
            if each(&heap).is_break() || index + 1 == count {
                return Ok(());
            }
        }
        Err(Error::Protocol("HEAP_LIST doesn't end"))
    }

    /// ALLOC: a new buffer of at least `size` bytes, all zero, read-write, that nobody else can open yet. It lives until
    /// it is closed and isn't published any more.
    ///
    /// # Errors
    /// [`Error::Argument`], and as all requests.
    pub fn alloc(&mut self, heap: Name, size: u64) -> Result<Alias> {
        if size == 0 || size.checked_next_multiple_of(PAGE_SIZE).is_none() {
            return Err(Error::Argument("no size of a buffer"));
        }
        let request = wire::AllocRequest {
            heap: heap.to_wire(),
            size: size.into(),
            flags: U64::ZERO,
        };
        let none = Enforcement::None;
        let alias = self.alias(OpCode::Alloc, &request, Access::ReadWrite, none)?;
        if alias.buffer().size < size || alias.buffer().name.is_some() {
            self.give_back(OpCode::Close, alias.handle.0);
            return Err(Error::Protocol("ALLOC gave something else than asked for"));
        }
        Ok(alias)
    }

    /// PUBLISH: gives a buffer of [`Self::alloc`] its name, so that others can open it. With `keep` it stays when this
    /// device is reset.
    ///
    /// # Errors
    /// As all requests: see [`Error`].
    pub fn publish(
        &mut self,
        alias: &Alias,
        name: Name,
        keep: bool,
        format: Option<Format>,
    ) -> Result<()> {
        let request = wire::PublishRequest {
            handle: alias.handle.0.into(),
            flags: if keep { wire::PUBLISH_KEEP } else { 0 }.into(),
            name: name.to_wire(),
            format: format.unwrap_or_else(Format::new_zeroed),
        };
        let reply = self.call(OpCode::Publish, &request)?;
        reply::empty(reply.body()?)
    }

    /// REVOKE: takes a buffer of [`Self::alloc`] away from everybody else, within `deadline_ms`. [`crate::Change::Free`] tells
    /// that this is complete.
    ///
    /// # Errors
    /// As all requests: see [`Error`].
    pub fn revoke(&mut self, alias: &Alias, deadline_ms: u32) -> Result<()> {
        let request = wire::RevokeRequest {
            handle: alias.handle.0.into(),
            deadline_ms: deadline_ms.into(),
            ..wire::RevokeRequest::new_zeroed()
        };
        let reply = self.call(OpCode::Revoke, &request)?;
        reply::empty(reply.body()?)
    }

    /// WITHDRAW: takes a published buffer off the list. What others have opened stays valid.
    ///
    /// # Errors
    /// As all requests: see [`Error`].
    pub fn withdraw(&mut self, name: Name) -> Result<()> {
        let request = wire::WithdrawRequest {
            name: name.to_wire(),
        };
        let reply = self.call(OpCode::Withdraw, &request)?;
        reply::empty(reply.body()?)
    }
}
