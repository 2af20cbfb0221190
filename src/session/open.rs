// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! LIST, OPEN, CLOSE, DERIVE.

use super::{Along, Answer, Body, Held, Session, Transport, access_of};
use crate::buffer::{Buffer, Published, client_may_have};
use dmabuf_protocol::wire::{self, BufferInfo, ListReply, OpenReply, ReplyHeader};
use dmabuf_protocol::{Access, Enforcement, Flags, Handle, Name, Status};
use zerocopy::{FromZeros, IntoBytes};

impl Session {
    pub(super) fn list(&self, cursor: u64, max: u32, capacity: usize) -> Body {
        let space = capacity.saturating_sub(size_of::<ReplyHeader>() + size_of::<ListReply>());
        let fit = space / size_of::<BufferInfo>();
        let wanted = if max == 0 {
            fit
        } else {
            fit.min(usize::try_from(max).unwrap_or(usize::MAX))
        };
        let (page, more) = self
            .host
            .registry
            .page(cursor, wanted, |published| self.offer(published).is_some());
        let entries: Vec<BufferInfo> = page
            .iter()
            .filter_map(|published| {
                let (access, enforcement) = self.offer(published)?;
                let mut info = self.describe(&published.buffer, access, enforcement);
                info.name = published.name.to_wire();
                info.format = published.format.unwrap_or_else(FromZeros::new_zeroed);
                Some(info)
            })
            .collect();
        let next = page
            .last()
            .filter(|_| more)
            .map_or(0, |published| published.buffer.id().0);
        let head = ListReply {
            count: u32::try_from(entries.len()).unwrap_or(u32::MAX).into(),
            next: next.into(),
            ..FromZeros::new_zeroed()
        };
        let mut bytes = head.as_bytes().to_vec();
        bytes.extend_from_slice(entries.as_bytes());
        Body { bytes, along: None }
    }

    /// The best that OPEN gives: its access and enforcement.
    fn offer(&self, published: &Published) -> Option<(Access, Enforcement)> {
        let (access, enforcement) = self.policy.best(published)?;
        let reachable = match &self.transport {
            Transport::Windows(_) => true,
            Transport::Fds => client_may_have(access, enforcement),
        };
        reachable.then_some((access, enforcement))
    }

    pub(super) fn open(&mut self, name: &Name, flags: Flags, enforcement: Enforcement) -> Answer {
        let access = access_of(flags)?;
        let Some(published) = self.host.registry.find(name) else {
            return Err(if self.policy.may_exist(name) {
                Status::ENOENT
            } else {
                Status::EACCES
            });
        };
        let terms = self.policy.permits(&published, access)?;
        let least = terms.least.max(enforcement);
        let alias = published.buffer.alias(access, least);
        if alias
            .as_ref()
            .is_err_and(|&status| status == Status::ESTALE)
        {
            // Revoked just now, and thus withdrawn.
            return Err(Status::ENOENT);
        }
        let alias = alias.inspect_err(|_| {
            if access == Access::ReadWrite {
                return self.complaints.warn(format_args!(
                    "peer {}: {name} refused: sealed memory can't be mapped writable: open it read-only, or take the \
                     buffer from a udmabuf pool",
                    self.policy.name
                ));
            }
            self.complaints.warn(format_args!(
                "peer {}: {name} refused: a read-only alias needs at least the enforcement {:?}, and this {} buffer \
                 can have {:?}: load the host module dmabuf_derive, take the buffer from a udmabuf pool, or lower the \
                 grant's enforcement",
                self.policy.name,
                least.as_str(),
                published.buffer.kind().as_str(),
                published.buffer.best_enforcement().as_str(),
            ));
        })?;
        let held = Held::granted(alias, terms);
        self.hold(held, Some(published.name), published.format)
    }

    pub(super) fn close(&mut self, handle: Handle) -> Answer {
        self.handles.get(handle.0)?;
        if let Transport::Windows(windows) = &self.transport
            && windows.uses(handle)
        {
            return Err(Status::EBUSY);
        }
        self.handles.remove(handle.0)?;
        self.heeded.forget(handle);
        self.close_lane(handle);
        Ok(Body::EMPTY)
    }

    pub(super) fn derive(
        &mut self,
        handle: Handle,
        flags: Flags,
        enforcement: Enforcement,
    ) -> Answer {
        let parent = self.handles.held(handle)?;
        let held = parent.derived(parent.alias.derive(flags, enforcement)?);
        let published = self.host.registry.published(held.alias.buffer().id());
        let (name, format) = published.map_or((None, None), |p| (Some(p.name), p.format));
        self.hold(held, name, format)
    }

    /// Gives out a handle for an alias, and describes it.
    pub(super) fn hold(
        &mut self,
        held: Held,
        name: Option<Name>,
        format: Option<wire::Format>,
    ) -> Answer {
        let alias = held.alias.clone();
        let fd_offset = match &self.transport {
            Transport::Windows(_) => 0,
            Transport::Fds => alias.client_source()?.offset,
        };
        let mut buffer = self.describe(alias.buffer(), alias.access(), alias.enforcement());
        buffer.name = name.map_or([0; 64], Name::to_wire);
        buffer.format = format.unwrap_or_else(FromZeros::new_zeroed);
        let handle = self.handles.insert(Some(held))?;
        if matches!(self.transport, Transport::Fds) {
            alias.give_out();
        }
        log::debug!(
            "peer {}: buffer {} opened, {:?}, enforcement {}",
            self.policy.name,
            alias.buffer().id().0,
            alias.access(),
            alias.enforcement().as_str()
        );
        let reply = OpenReply {
            handle: handle.into(),
            fd_offset: fd_offset.into(),
            buffer,
        };
        Ok(Body {
            bytes: reply.as_bytes().to_vec(),
            along: Some(Along::Alias(alias)),
        })
    }

    /// What there is to say of a buffer besides its name and format.
    fn describe(&self, buffer: &Buffer, access: Access, enforcement: Enforcement) -> BufferInfo {
        let fixed = match &self.transport {
            Transport::Windows(windows) => windows.is_fixed(buffer, access),
            Transport::Fds => false,
        };
        BufferInfo {
            id: buffer.id().0.into(),
            size: buffer.size().into(),
            access: access.to_wire().into(),
            enforcement: enforcement.to_wire().into(),
            heap: buffer.kind().to_wire().into(),
            flags: if fixed { wire::BUFFER_STATIC_WINDOW } else { 0 }.into(),
            ..FromZeros::new_zeroed()
        }
    }
}
