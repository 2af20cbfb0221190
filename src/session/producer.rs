// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! ALLOC, IMPORT, PUBLISH, WITHDRAW, HEAP_LIST: what a producer does. And the [`Host`], what all sessions share.

use super::{Answer, Body, Held, Policy, Session, Transport};
use crate::buffer::{Buffer, Deriver, Published, Registry, Revocations};
use crate::error::status_of;
use crate::fence::Fences;
use crate::heap::{self, Heap};
use crate::stream::Streams;
use dmabuf_protocol::wire::{Format, HeapReply};
use dmabuf_protocol::{Handle, Name, PAGE_SIZE, Status};
use rustix::fd::OwnedFd;
use std::collections::HashMap;
use std::sync::Arc;
use zerocopy::FromZeros;

/// What all sessions of a daemon share.
#[derive(Debug)]
pub struct Host {
    /// How read-only aliases of dma-bufs are made.
    pub deriver: Arc<Deriver>,
    /// All peers, in the order of the configuration.
    pub peers: Vec<Arc<Policy>>,
    /// The published buffers.
    pub registry: Registry,
    /// Buffers that are being taken away.
    pub revocations: Revocations,
    /// The streams.
    pub streams: Streams,
    /// Heaps and pools by name.
    pub heaps: HashMap<String, Box<dyn Heap>>,
    /// Waits and holds.
    pub fences: Fences,
}

impl Host {
    /// A host without heaps and buffers.
    #[must_use]
    pub fn new(fences: Fences) -> Self {
        let registry = Registry::default();
        Self {
            deriver: Arc::default(),
            peers: Vec::new(),
            revocations: Revocations::new(registry.clone(), fences.workers.errands()),
            registry,
            streams: Streams::default(),
            heaps: HashMap::new(),
            fences,
        }
    }

    /// Names a buffer, and seals its pool if it was the last slot.
    ///
    /// # Errors
    /// EEXIST if the name is taken, EINVAL if the buffer has one.
    pub fn publish(&self, published: Published) -> Result<(), Status> {
        let (buffer, name) = (Arc::clone(&published.buffer), published.name);
        let kept = published.owner.is_none();
        self.registry.publish(published)?;
        if kept {
            buffer.keep();
        }
        let Some(slot) = buffer.slot() else {
            return Ok(());
        };
        match slot.pool().publish(slot) {
            Ok(false) => Ok(()),
            Ok(true) => {
                self.registry.announce_sealed(slot.pool());
                Ok(())
            }
            Err(errno) => {
                let _ = self.registry.withdraw(&name);
                Err(status_of(errno))
            }
        }
    }
}

impl Session {
    pub(super) fn alloc(&mut self, heap: &Name, size: u64) -> Answer {
        if !self
            .policy
            .allocate
            .iter()
            .any(|allowed| allowed == heap.as_str())
        {
            return Err(Status::EACCES);
        }
        let heap = self.host.heaps.get(heap.as_str()).ok_or(Status::ENOENT)?;
        let size = size
            .checked_next_multiple_of(PAGE_SIZE)
            .ok_or(Status::EINVAL)?;
        // Before a slot is taken, which of a memfd pool can't be given back.
        self.handles.has_room()?;
        let charge = self.policy.usage.charge(&self.policy.limits, size)?;
        let buffer = Buffer::made_by(Some(self.number), heap.allocate(size)?, Some(charge));
        let alias = buffer.own_alias();
        self.hold(Held::own(alias), None, None)
    }

    pub(super) fn import(
        &mut self,
        name: Name,
        keep: bool,
        format: Option<Format>,
        fd: Option<OwnedFd>,
    ) -> Answer {
        self.policy.may_publish(&name)?;
        let parts = heap::import(fd.ok_or(Status::EINVAL)?, &self.host.deriver)?;
        let charge = self.policy.usage.charge(&self.policy.limits, 0)?;
        let buffer = Buffer::made_by(Some(self.number), parts, Some(charge));
        let alias = buffer.own_alias();
        let answer = self.hold(Held::own(alias), Some(name), format)?;
        let owner = (!keep).then_some(self.number);
        if let Err(status) = self.host.publish(Published {
            name,
            buffer,
            format,
            owner,
        }) {
            self.give_up(&answer);
            return Err(status);
        }
        Ok(answer)
    }

    pub(super) fn publish(
        &mut self,
        handle: Handle,
        name: Name,
        keep: bool,
        format: Option<Format>,
    ) -> Answer {
        let buffer = Arc::clone(self.owned(handle)?);
        self.policy.may_publish(&name)?;
        let owner = (!keep).then_some(self.number);
        self.host.publish(Published {
            name,
            buffer,
            format,
            owner,
        })?;
        Ok(Body::EMPTY)
    }

    pub(super) fn withdraw(&self, name: &Name) -> Answer {
        self.policy.may_publish(name)?;
        self.host.registry.withdraw(name)?;
        Ok(Body::EMPTY)
    }

    pub(super) fn heap(&self, index: u32) -> Answer {
        let count = self.policy.allocate.len();
        let name = usize::try_from(index)
            .ok()
            .and_then(|index| self.policy.allocate.get(index))
            .ok_or(Status::ENOENT)?;
        let heap = self.host.heaps.get(name).ok_or(Status::ENOENT)?;
        // What can't be mapped, or goes beyond the quota, can't be had.
        let window = match &self.transport {
            Transport::Windows(windows) => windows.room(),
            Transport::Fds => u64::MAX,
        };
        let most = heap.largest().min(self.policy.limits.bytes).min(window);
        Ok(Body::of(&HeapReply {
            name: Name::new(name)?.to_wire(),
            max_size: (most & !(PAGE_SIZE - 1)).into(),
            kind: heap.kind().to_wire().into(),
            count: u32::try_from(count).unwrap_or(u32::MAX).into(),
            ..FromZeros::new_zeroed()
        }))
    }

    /// Takes a handle back whose number the peer will never see.
    fn give_up(&mut self, answer: &Body) {
        let number = answer
            .bytes
            .first_chunk()
            .map(|raw| u64::from_le_bytes(*raw));
        let _ = number.map(|number| self.handles.remove(number));
    }
}
