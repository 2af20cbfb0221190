// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Buffers that the broker takes back: what it does to a session of its own, done here to the VM's windows and handles.
//!
//! The broker says when, and erases the bytes; it can neither unmap what this process has had mapped, nor close its fds.
//! What is announced ends at its deadline, whether or not the connection lasts until then.

use super::Relay;
use super::memory::Held;
use super::open::{Open, Purpose};
use crate::buffer::Alias;
use dmabuf_protocol::wire::REVOKE_MAX_MS;
use dmabuf_protocol::{BufferId, Handle, OpCode, Status};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

impl Held {
    fn aliases(&self) -> impl Iterator<Item = &Alias> {
        std::iter::once(&self.alias).chain(&self.read_only)
    }
}

impl Relay {
    /// What is behind a handle.
    ///
    /// # Errors
    /// [`Status::ESTALE`]: never given out, given back, or revoked.
    pub(super) fn held(&self, handle: Handle) -> Result<&Held, Status> {
        let held = self.handles.get(&handle).and_then(Option::as_ref);
        held.ok_or(Status::ESTALE)
    }

    /// What is behind handles, those that are just being closed included: they can come back.
    fn all_held(&self) -> impl Iterator<Item = (Handle, &Held)> {
        let kept = self.handles.iter().map(|(handle, held)| (*handle, held));
        let closing = self.open.values().filter_map(|open| match &open.purpose {
            Purpose::Close(handle, held) => Some((*handle, held)),
            _ => None,
        });
        kept.chain(closing)
            .filter_map(|(handle, held)| Some((handle, held.as_ref()?)))
    }

    /// Whether the alias that a request brings stays when the buffer is revoked, as this peer has made it.
    pub(super) fn makes_own(&self, request: &Open) -> bool {
        match request.op {
            OpCode::Alloc => true,
            OpCode::Derive => self
                .all_held()
                .any(|(handle, held)| handle == request.handle() && held.alias.is_own()),
            _ => false,
        }
    }

    /// REVOKE of a buffer that this guest has made: if it has nothing else of it, it hears of the end only.
    pub(super) fn announce_own(&mut self, handle: Handle, rest_ms: u64) {
        let held = self.all_held().find(|(of, _)| *of == handle);
        if let Some(id) = held.map(|(_, held)| held.alias.buffer().id()) {
            self.announce(id, rest_ms);
        }
    }

    /// A buffer is taken away so many milliseconds from now, and nothing new is done with it until then.
    pub(super) fn announce(&mut self, id: BufferId, rest_ms: u64) {
        let rest = rest_ms.min(REVOKE_MAX_MS.into());
        let deadline = Instant::now() + Duration::from_millis(rest);
        let buffers = self
            .all_held()
            .flat_map(|(_, held)| held.aliases())
            .map(Alias::buffer);
        let announced: Vec<_> = buffers
            .filter(|buffer| buffer.id() == id && buffer.announce(deadline))
            .map(Arc::downgrade)
            .collect();
        self.announced.retain(|buffer| buffer.strong_count() > 0);
        self.announced.extend(announced);
    }

    /// When the next buffer is to go.
    pub(super) fn next_revoked(&self) -> Option<Instant> {
        let buffers = self.announced.iter().filter_map(Weak::upgrade);
        buffers.filter_map(|it| Some(it.notice()?.deadline)).min()
    }

    /// Has the VMM unmap what is due, and drops the fds.
    pub(super) fn let_go(&mut self, now: Instant) {
        let before = self.announced.len();
        self.announced.retain(|buffer| {
            let Some(buffer) = buffer.upgrade() else {
                return false;
            };
            let due = buffer.notice().is_some_and(|it| it.deadline <= now);
            if due {
                buffer.take_away();
            }
            !due
        });
        if self.announced.len() == before {
            return;
        }
        let closing = self.open.values_mut().filter_map(|open| {
            if let Purpose::Close(_, held) = &mut open.purpose {
                return Some(held);
            }
            None
        });
        for held in self.handles.values_mut().chain(closing) {
            if held.as_ref().is_some_and(|held| held.alias.is_revoked()) {
                *held = None;
            }
        }
        self.windows.unmap_revoked();
    }
}
