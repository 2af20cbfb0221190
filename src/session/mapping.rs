// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! MAP and UNMAP: static windows at once, the dynamic window through jobs that end later.
//!
//! A range of the dynamic window is taken before the front-end is asked, and is free again only when the front-end
//! has said that nothing is mapped there. In between, a mapping goes through [`State`]; whatever happens (deadline,
//! reset, an answer nobody waits for any more), the last step is always the same: the range is given back. The range of
//! a mapping that was revoked is kept until the peer has unmapped it, too, so that it never sees something else there.
//!
//! [`Windows`] knows aliases and handles, and not where they come from: a [`Session`](super::Session) has them from the
//! buffers of this process, a relay from a broker.

mod answers;

use super::range::Ranges;
use super::table::Table;
use super::window::{MapSource, Window, WindowJob};
use super::{Asker, Body, MAP_DEADLINE, MAX_INFLIGHT};
use crate::buffer::{Alias, Buffer};
use crate::complaints::Complaints;
use crate::gauge::Gauge;
use dmabuf_protocol::wire::{self, MapReply};
use dmabuf_protocol::{Access, Caching, Enforcement, Handle, MappingId, Name, Status, Uuid};
use std::time::Instant;
use zerocopy::FromZeros;

#[derive(Debug)]
struct Mapping {
    handle: Handle,
    /// `None`: it was revoked, and nothing is mapped any more.
    alias: Option<Alias>,
    offset: u64,
    length: u64,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Static,
    Dynamic { window_offset: u64, state: State },
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// The front-end was asked to map.
    Mapping(Waiter),
    /// Mapped.
    Active,
    /// The front-end was asked to unmap.
    Unmapping(Waiter),
    /// It was asked to unmap because the buffer was revoked; the peer hasn't asked yet.
    Revoking,
    /// It has done so, and the peer hasn't asked yet.
    Revoked,
    /// The front-end refused to unmap: the range can't be used again.
    Stuck,
}

impl State {
    const fn waiter(&mut self) -> Option<&mut Waiter> {
        match self {
            Self::Mapping(waiter) | Self::Unmapping(waiter) => Some(waiter),
            Self::Active | Self::Revoking | Self::Revoked | Self::Stuck => None,
        }
    }

    /// After a reset: whether the front-end still has to answer.
    const fn abandon(&mut self) -> bool {
        if matches!(self, Self::Revoking) {
            *self = Self::Unmapping(Waiter::Reset);
        }
        match self.waiter() {
            Some(waiter) => {
                *waiter = Waiter::Reset;
                true
            }
            None => false,
        }
    }
}

/// Who waits for the front-end's answer.
#[derive(Clone, Copy, Debug)]
enum Waiter {
    /// A request, until then.
    Request(Asker, Instant),
    /// Nobody: the request was answered when its deadline passed.
    Late,
    /// Nobody: the device was reset, by which the front-end has dropped what was mapped until then.
    Reset,
}

impl Waiter {
    fn request(asker: Asker) -> Self {
        Self::Request(asker, Instant::now() + MAP_DEADLINE)
    }

    const fn asker(self) -> Option<Asker> {
        match self {
            Self::Request(asker, _) => Some(asker),
            Self::Late | Self::Reset => None,
        }
    }
}

/// The windows of a VM, and what is mapped there.
pub struct Windows {
    peer: Name,
    dynamic: Option<Box<dyn Window>>,
    fixed: Vec<Uuid>,
    mappings: Table<Mapping>,
    /// Shows how many of those wait for the front-end.
    inflight: Gauge,
    ranges: Ranges,
    probe: u32,
    /// The alias of a grant can be fail-stop.
    fail_stop: bool,
    complaints: Complaints,
}

impl Windows {
    /// Windows with nothing mapped: the dynamic one, if the VM has it, and the static ones by their uuids.
    #[must_use]
    pub fn new(
        peer: Name,
        max_mappings: u32,
        dynamic: Option<Box<dyn Window>>,
        fixed: Vec<Uuid>,
    ) -> Self {
        Self {
            peer,
            ranges: Ranges::new(dynamic.as_ref().map_or(0, |window| window.size())),
            dynamic,
            fixed,
            mappings: Table::new(max_mappings, Gauge::default()),
            inflight: Gauge::default(),
            probe: 0,
            fail_stop: true,
            complaints: Complaints::default(),
        }
    }

    /// The same where no alias can be fail-stop, so that no advice to make it so is given.
    #[must_use]
    pub const fn without_fail_stop(mut self) -> Self {
        self.fail_stop = false;
        self
    }

    /// What GET_INFO says of windows and mappings.
    pub fn describe(&self, info: &mut wire::InfoReply) {
        let size = self.dynamic.as_ref().map_or(0, |window| window.size());
        info.windows = window_bits(size, &self.fixed).into();
        info.window_size = size.into();
        info.max_mappings = self.mappings.max().into();
        info.mappings = self.mappings.len().into();
        info.probe = self.probe.into();
    }

    /// Most bytes that a mapping in the dynamic window can have.
    #[must_use]
    pub const fn room(&self) -> u64 {
        self.ranges.size()
    }

    /// What shows the number of mappings, and that of requests that wait for the front-end.
    #[must_use]
    pub fn gauges(&self) -> (Gauge, Gauge) {
        (self.mappings.gauge(), self.inflight.clone())
    }

    /// Mappings held now, those under way and stuck included.
    #[must_use]
    pub const fn mappings(&self) -> u32 {
        self.mappings.len()
    }

    /// Whether a mapping of a buffer with this access appears in a static window.
    #[must_use]
    pub fn is_fixed(&self, buffer: &Buffer, access: Access) -> bool {
        access == Access::ReadOnly && self.place(buffer).is_some()
    }

    /// The static window in which this VM sees a buffer, if it does, and where.
    fn place(&self, buffer: &Buffer) -> Option<(Uuid, u64)> {
        buffer
            .in_window()
            .filter(|(uuid, _)| self.fixed.contains(uuid))
    }

    /// Whether a handle has mappings: active, under way, being undone, or stuck.
    #[must_use]
    pub fn uses(&self, handle: Handle) -> bool {
        self.mappings
            .iter()
            .any(|(_, mapping)| mapping.handle == handle)
    }

    /// Whether an alias can have such a mapping, as far as that depends on the alias.
    ///
    /// # Errors
    /// EACCES for more access than the alias has, EINVAL for bytes beyond it, ESTALE while the buffer is being revoked.
    pub fn check(alias: &Alias, offset: u64, length: u64, access: Access) -> Result<(), Status> {
        if access > alias.access() {
            return Err(Status::EACCES);
        }
        if offset
            .checked_add(length)
            .is_none_or(|end| end > alias.buffer().size())
        {
            return Err(Status::EINVAL);
        }
        if alias.buffer().notice().is_some() {
            return Err(Status::ESTALE);
        }
        // Whoever imported a memfd can have sealed it since.
        if access.can_write() && !alias.buffer().can_be_written() {
            return Err(Status::EACCES);
        }
        Ok(())
    }

    /// MAP of a handle whose alias this is; `fail_stop` as in [`MapSource`]. Without a body the answer comes later.
    ///
    /// # Errors
    /// As SPEC.md says for MAP, `ESTALE` aside.
    pub(crate) fn map(
        &mut self,
        asker: Asker,
        (handle, alias, fail_stop): (Handle, &Alias, bool),
        offset: u64,
        length: u64,
        access: Access,
    ) -> Result<Option<Body>, Status> {
        Self::check(alias, offset, length, access)?;
        let alias = if access == alias.access() {
            alias.clone()
        } else {
            // A read-only mapping by a read-write alias is one of an alias derived for it.
            alias.derive(access.into(), Enforcement::None)?
        };
        if self.is_fixed(alias.buffer(), access) {
            let mapping = Mapping {
                handle,
                alias: Some(alias),
                offset,
                length,
                place: Place::Static,
            };
            let id = MappingId(self.mappings.insert(mapping)?);
            return Ok(Some(Body::of(&self.map_reply(id)?)));
        }
        let Some(window) = &self.dynamic else {
            return Err(Status::ENODEV);
        };
        if self.inflight() >= MAX_INFLIGHT {
            return Err(Status::EBUSY);
        }
        let window_offset = self.ranges.take(length)?;
        let state = State::Mapping(Waiter::request(asker));
        let source = MapSource {
            alias: alias.clone(),
            offset,
            fail_stop,
        };
        let place = Place::Dynamic {
            window_offset,
            state,
        };
        let mapping = Mapping {
            handle,
            alias: Some(alias),
            offset,
            length,
            place,
        };
        let inserted = match self.mappings.insert(mapping) {
            Ok(id) => id,
            Err(status) => {
                self.ranges.give_back(window_offset);
                return Err(status);
            }
        };
        window.submit(WindowJob {
            mapping: MappingId(inserted),
            window_offset,
            length,
            map: Some(source),
        });
        self.show_inflight();
        Ok(None)
    }

    /// UNMAP. Without a body the answer comes later.
    ///
    /// # Errors
    /// ESTALE.
    pub(crate) fn unmap(&mut self, asker: Asker, id: MappingId) -> Result<Option<Body>, Status> {
        let mapping = self.mappings.get_mut(id.0)?;
        match &mut mapping.place {
            Place::Static => {
                self.remove_mapping(id);
                Ok(Some(Body::EMPTY))
            }
            Place::Dynamic {
                state: state @ State::Active,
                ..
            } => {
                *state = State::Unmapping(Waiter::request(asker));
                self.submit_unmap(id);
                self.show_inflight();
                Ok(None)
            }
            Place::Dynamic {
                state: state @ State::Revoking,
                ..
            } => {
                *state = State::Unmapping(Waiter::request(asker));
                Ok(None)
            }
            Place::Dynamic {
                state: State::Revoked,
                ..
            } => {
                self.remove_mapping(id);
                Ok(Some(Body::EMPTY))
            }
            // Not given out yet, or given back already.
            Place::Dynamic { .. } => Err(Status::ESTALE),
        }
    }

    /// Has the front-end unmap what was revoked. The ranges stay taken.
    pub fn unmap_revoked(&mut self) {
        for id in self.mappings.numbers() {
            if let Ok(Mapping {
                alias: Some(alias),
                place:
                    Place::Dynamic {
                        state: state @ State::Active,
                        ..
                    },
                ..
            }) = self.mappings.get_mut(id)
                && alias.is_revoked()
            {
                *state = State::Revoking;
                self.submit_unmap(MappingId(id));
            }
        }
    }

    fn remove_mapping(&mut self, id: MappingId) {
        let Ok(mapping) = self.mappings.remove(id.0) else {
            return;
        };
        if let Place::Dynamic { window_offset, .. } = mapping.place {
            self.ranges.give_back(window_offset);
        }
    }

    fn submit_unmap(&self, id: MappingId) {
        if let Some(window) = &self.dynamic
            && let Ok(Mapping {
                length,
                place: Place::Dynamic { window_offset, .. },
                ..
            }) = self.mappings.get(id.0)
        {
            let job = WindowJob {
                mapping: id,
                window_offset: *window_offset,
                length: *length,
                map: None,
            };
            window.submit(job);
        }
    }

    fn show_inflight(&self) {
        self.inflight.set(self.inflight());
    }

    fn inflight(&self) -> u32 {
        let waits = |mapping: &Mapping| {
            matches!(
                mapping.place,
                Place::Dynamic {
                    state: State::Mapping(..) | State::Unmapping(..),
                    ..
                }
            )
        };
        let count = self
            .mappings
            .iter()
            .filter(|(_, mapping)| waits(mapping))
            .count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    fn map_reply(&self, id: MappingId) -> Result<MapReply, Status> {
        let mapping = self.mappings.get(id.0)?;
        let alias = mapping.alias.as_ref().ok_or(Status::ESTALE)?;
        let (window, uuid, window_offset) = match mapping.place {
            Place::Dynamic { window_offset, .. } => {
                (wire::WINDOW_DYNAMIC, Uuid::NIL, window_offset)
            }
            Place::Static => {
                let (uuid, at) = self.place(alias.buffer()).ok_or(Status::EIO)?;
                (wire::WINDOW_STATIC, uuid, at + mapping.offset)
            }
        };
        Ok(MapReply {
            mapping: id.0.into(),
            window_offset: window_offset.into(),
            length: mapping.length.into(),
            access: alias.access().to_wire().into(),
            enforcement: alias.enforcement().to_wire().into(),
            caching: Caching::Cached.to_wire().into(),
            window: window.into(),
            uuid: uuid.0,
            ..FromZeros::new_zeroed()
        })
    }
}

/// The `windows` of GET_INFO and of the configuration space.
#[must_use]
pub const fn window_bits(dynamic_size: u64, fixed: &[Uuid]) -> u32 {
    let dynamic = if dynamic_size == 0 {
        0
    } else {
        wire::WINDOW_BIT_DYNAMIC
    };
    let fixed = if fixed.is_empty() {
        0
    } else {
        wire::WINDOW_BIT_STATIC
    };
    dynamic | fixed
}
