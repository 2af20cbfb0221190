// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! REVOKE and STREAM_REVOKE; and what becomes of this session's handles and mappings of buffers that others revoke.
//!
//! `buffer::Revocations` decides when a buffer is due, and wakes every session. Each then looks through its handles, on
//! its own thread ([`Session::heed_revocations`]). A request that comes before that finds the handle stale all the same
//! ([`Table::held`]).

use super::table::Table;
use super::{Answer, Body, Held, Session, Transport};
use crate::buffer::{Alias, Buffer, Revocable};
use dmabuf_protocol::wire::{EVENT_BUFFER_REVOKED, Event};
use dmabuf_protocol::{BufferId, Handle, Name, RevokeTarget, Status};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;
use zerocopy::FromZeros;

/// What a session knows of revocations.
#[derive(Debug, Default)]
pub(super) struct Heeded {
    /// [`crate::buffer::Revocations::changes`] when it last looked.
    changes: u64,
    /// What the peer is to hear of: at most one for each handle that it has.
    news: VecDeque<News>,
}

#[derive(Debug)]
struct News {
    handle: Handle,
    buffer: BufferId,
    name: Option<Name>,
    deadline: Instant,
}

impl Heeded {
    /// Nothing is to be told any more.
    pub fn clear(&mut self) {
        self.news.clear();
    }

    /// Who has closed a handle needs not hear of it any more.
    pub fn forget(&mut self, handle: Handle) {
        self.news.retain(|news| news.handle != handle);
    }

    /// Who has asked is told as well, if it has handles that it won't keep.
    fn tell(&mut self, handle: Handle, alias: &Alias, session: u64) {
        let buffer = alias.buffer();
        if let Some(notice) = buffer.notice()
            && (notice.asked_by != session || !alias.is_own())
        {
            self.news.push_back(News {
                handle,
                buffer: buffer.id(),
                name: notice.name,
                deadline: notice.deadline,
            });
        }
    }
}

impl Table<Option<Held>> {
    /// A handle that can be used.
    ///
    /// # Errors
    /// [`Status::ESTALE`]: never given out, given back, or revoked.
    pub fn held(&self, handle: Handle) -> Result<&Held, Status> {
        let held = self.get(handle.0)?.as_ref();
        held.filter(|held| !held.alias.is_revoked())
            .ok_or(Status::ESTALE)
    }
}

impl Session {
    /// The buffer of a handle, for somebody who wants to do something new with it.
    ///
    /// # Errors
    /// [`Status::ESTALE`] also while it is being revoked; [`Status::EACCES`] if this session hasn't made it.
    pub(super) fn owned(&self, handle: Handle) -> Result<&Arc<Buffer>, Status> {
        let held = self.handles.held(handle)?;
        if !held.owned {
            return Err(Status::EACCES);
        }
        let buffer = held.alias.buffer();
        match buffer.notice() {
            Some(_) => Err(Status::ESTALE),
            None => Ok(buffer),
        }
    }

    pub(super) fn revoke(&self, target: RevokeTarget, deadline_ms: u32) -> Answer {
        let buffer = match target {
            RevokeTarget::Handle(handle) => Arc::clone(self.owned(handle)?),
            RevokeTarget::Name(name) => self.revocable(&name)?,
        };
        let revocable = Revocable::new(&buffer)?;
        self.host
            .revocations
            .begin(revocable, deadline_ms, self.number)?;
        Ok(Body::EMPTY)
    }

    /// A published buffer that this peer has made, perhaps by another connection, or that is the configuration's.
    fn revocable(&self, name: &Name) -> Result<Arc<Buffer>, Status> {
        self.policy.may_publish(name)?;
        let buffer = self.host.registry.named(name).ok_or(Status::ENOENT)?;
        if buffer.is_made_by(&self.policy.usage) {
            Ok(buffer)
        } else {
            Err(Status::EACCES)
        }
    }

    pub(super) fn stream_revoke(&mut self, stream: u64, deadline_ms: u32) -> Answer {
        let buffers = self.producer(stream)?.stream().all_buffers();
        let live = buffers.iter().filter(|buffer| buffer.notice().is_none());
        let revocable: Vec<_> = live.map(Revocable::new).collect::<Result<_, _>>()?;
        // From here on nothing can fail, unless somebody else revokes one of them just now.
        self.host.revocations.start().map_err(|_| Status::ENOMEM)?;
        self.streams.remove(stream)?;
        for revocable in revocable {
            let _ = self
                .host
                .revocations
                .begin(revocable, deadline_ms, self.number);
        }
        Ok(Body::EMPTY)
    }

    /// Lets go of what is revoked, and takes note of what will be.
    pub(super) fn heed_revocations(&mut self) {
        let changes = self.host.revocations.changes();
        if std::mem::replace(&mut self.heeded.changes, changes) != changes {
            for handle in self.handles.numbers() {
                self.heed(Handle(handle));
            }
            if let Transport::Windows(windows) = &mut self.transport {
                windows.unmap_revoked();
            }
        }
    }

    fn heed(&mut self, handle: Handle) {
        let Ok(Some(held)) = self.handles.get_mut(handle.0) else {
            return;
        };
        if held.alias.buffer().notice().is_none() {
            return;
        }
        if !std::mem::replace(&mut held.told, true) {
            self.heeded.tell(handle, &held.alias, self.number);
        }
        if held.alias.is_revoked() {
            self.end_use(handle);
        }
    }

    /// Ends whatever goes on with a handle. Its number stays until CLOSE, but nothing is behind it any more.
    fn end_use(&mut self, handle: Handle) {
        self.close_lane(handle);
        self.cancel_waits(handle);
        if let Ok(held) = self.handles.get_mut(handle.0) {
            *held = None;
        }
    }

    /// The next buffer that the peer is to hear of.
    pub(super) fn revocation_event(&mut self) -> Option<Event> {
        let news = self.heeded.news.pop_front()?;
        self.heeded.news.retain(|other| other.buffer != news.buffer);
        let rest = news.deadline.saturating_duration_since(Instant::now());
        let sequence = self.count_events(1);
        Some(Event {
            kind: EVENT_BUFFER_REVOKED.into(),
            sequence: sequence.into(),
            buffer: news.buffer.0.into(),
            value: u64::try_from(rest.as_millis()).unwrap_or(u64::MAX).into(),
            name: news.name.map_or([0; 64], Name::to_wire),
            ..FromZeros::new_zeroed()
        })
    }
}
