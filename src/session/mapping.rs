// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! MAP and UNMAP: static windows at once, the dynamic window through jobs that end later.
//!
//! A range of the dynamic window is taken before the front-end is asked, and is free again only when the front-end
//! has said that nothing is mapped there. In between, a mapping goes through [`State`]; whatever happens (deadline,
//! reset, an answer nobody waits for any more), the last step is always the same: the range is given back.

use super::{Asker, Body, Done, MAP_DEADLINE, MAX_INFLIGHT, Session, Transport, done};
use crate::buffer::{Alias, Buffer};
use crate::heap::{Pool, Slot};
use dmabuf_protocol::wire::{self, MapReply};
use dmabuf_protocol::{Access, Caching, Enforcement, Handle, MappingId, Status, Uuid};
use std::sync::Arc;
use std::time::Instant;
use zerocopy::FromZeros;

/// The dynamic window as a session uses it. Answers come back through [`Session::finish`].
pub trait Window: Send {
    /// Bytes.
    fn size(&self) -> u64;
    /// Starts a job; never blocks.
    fn submit(&self, job: WindowJob);
}

/// A request to the front-end.
#[derive(Debug)]
pub struct WindowJob {
    /// The mapping it is about.
    pub mapping: MappingId,
    /// Where in the window, in bytes.
    pub window_offset: u64,
    /// Bytes.
    pub length: u64,
    /// What to map; `None`: unmap.
    pub map: Option<MapSource>,
}

/// What a job maps.
#[derive(Debug)]
pub struct MapSource {
    /// The alias, whose access is that of the mapping.
    pub alias: Alias,
    /// First byte of the alias to map.
    pub offset: u64,
    /// The grant allows a mapping by a VMM that maps everything writable, if a guest's write stops that VM.
    pub fail_stop: bool,
}

/// Why the front-end didn't do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// It failed the sealed probe: it maps writable whatever is asked for.
    IgnoresReadOnly,
    /// The device is not running.
    NotRunning,
    /// It said no, or is gone.
    Refused,
}

/// How a job ended.
#[derive(Clone, Copy, Debug)]
pub struct JobResult {
    /// The job's mapping.
    pub mapping: MappingId,
    /// The outcome.
    pub outcome: Result<(), MapError>,
    /// What the probe has found by now: the `probe` field of GET_INFO.
    pub probe: u32,
}

#[derive(Debug)]
pub(super) struct Mapping {
    handle: Handle,
    alias: Alias,
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
    /// The front-end refused to unmap: the range can't be used again.
    Stuck,
}

impl State {
    const fn waiter(&mut self) -> Option<&mut Waiter> {
        match self {
            Self::Mapping(waiter) | Self::Unmapping(waiter) => Some(waiter),
            Self::Active | Self::Stuck => None,
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

impl Session {
    /// The static window in which this peer sees a buffer, if it does.
    pub(super) fn static_pool<'a>(&self, buffer: &'a Buffer) -> Option<(&'a Arc<Pool>, &'a Slot)> {
        let Transport::Window { pools, .. } = &self.transport else {
            return None;
        };
        let slot = buffer.slot()?;
        pools
            .iter()
            .any(|pool| Arc::ptr_eq(pool, slot.pool()))
            .then_some((slot.pool(), slot))
    }

    pub(super) fn map(
        &mut self,
        asker: Asker,
        handle: Handle,
        offset: u64,
        length: u64,
        access: Access,
    ) -> Result<Option<Body>, Status> {
        let Transport::Window { dynamic, .. } = &self.transport else {
            return Err(Status::EOPNOTSUPP);
        };
        let held = self.handles.get(handle.0)?;
        if access > held.alias.access() {
            return Err(Status::EACCES);
        }
        if offset
            .checked_add(length)
            .is_none_or(|end| end > held.alias.buffer().size())
        {
            return Err(Status::EINVAL);
        }
        // Whoever imported a memfd can have sealed it since.
        if access.can_write() && !held.alias.buffer().can_be_written() {
            return Err(Status::EACCES);
        }
        let alias = if access == held.alias.access() {
            held.alias.clone()
        } else {
            // A read-only mapping by a read-write alias is one of an alias derived for it.
            held.alias.derive(access.into(), Enforcement::None)?
        };
        let fixed = access == Access::ReadOnly && self.static_pool(alias.buffer()).is_some();
        if fixed {
            let mapping = Mapping {
                handle,
                alias,
                offset,
                length,
                place: Place::Static,
            };
            let id = self.insert_mapping(mapping)?;
            return Ok(Some(Body::of(&self.map_reply(id)?)));
        }
        let Some(window) = dynamic else {
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
            fail_stop: held.fail_stop,
        };
        let place = Place::Dynamic {
            window_offset,
            state,
        };
        let mapping = Mapping {
            handle,
            alias,
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
        let mapping = MappingId(inserted);
        window.submit(WindowJob {
            mapping,
            window_offset,
            length,
            map: Some(source),
        });
        self.count_mapping(handle, 1);
        Ok(None)
    }

    pub(super) fn unmap(&mut self, asker: Asker, id: MappingId) -> Result<Option<Body>, Status> {
        if matches!(self.transport, Transport::Fds) {
            return Err(Status::EOPNOTSUPP);
        }
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
                Ok(None)
            }
            // Not given out yet, or given back already.
            Place::Dynamic { .. } => Err(Status::ESTALE),
        }
    }

    /// Takes the result of a job; returns the reply that was waiting for it, if one was.
    pub fn finish(&mut self, result: JobResult) -> Option<Done> {
        self.probe = result.probe;
        let id = result.mapping;
        let Ok(Mapping {
            place: Place::Dynamic { state, .. },
            ..
        }) = self.mappings.get_mut(id.0)
        else {
            return None;
        };
        let (asker, answer) = match (*state, result.outcome) {
            (State::Mapping(Waiter::Request(asker, _)), Ok(())) => {
                *state = State::Active;
                (
                    Some(asker),
                    self.map_reply(id).map(|reply| Body::of(&reply)),
                )
            }
            (State::Mapping(waiter), Ok(())) => {
                // Nobody knows of this mapping.
                *state = State::Unmapping(waiter);
                self.submit_unmap(id);
                (None, Ok(Body::EMPTY))
            }
            (State::Mapping(waiter), Err(error)) => {
                self.complain(id, error);
                self.remove_mapping(id);
                (waiter.asker(), Err(status_of(error)))
            }
            // What was mapped before a reset is gone by it, and can't be unmapped once more.
            (State::Unmapping(Waiter::Reset), _) => {
                self.remove_mapping(id);
                (None, Ok(Body::EMPTY))
            }
            (State::Unmapping(waiter), Ok(())) => {
                self.remove_mapping(id);
                (waiter.asker(), Ok(Body::EMPTY))
            }
            (State::Unmapping(waiter), Err(_)) => {
                *state = State::Stuck;
                (waiter.asker(), Err(Status::EIO))
            }
            (State::Active | State::Stuck, _) => return None,
        };
        asker.map(|asker| done(asker.token, asker.envelope, answer))
    }

    /// When the first deadline passes.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let waiting = |mapping: &Mapping| match mapping.place {
            Place::Dynamic {
                state:
                    State::Mapping(Waiter::Request(_, deadline))
                    | State::Unmapping(Waiter::Request(_, deadline)),
                ..
            } => Some(deadline),
            _ => None,
        };
        self.mappings
            .iter()
            .filter_map(|(_, mapping)| waiting(mapping))
            .min()
    }

    /// Answers what has waited too long, with ETIMEDOUT. The jobs go on, and end without a reply.
    pub fn expire(&mut self, now: Instant) -> Vec<Done> {
        let mut replies = Vec::new();
        for id in self.mappings.numbers() {
            let Ok(Mapping {
                place: Place::Dynamic { state, .. },
                ..
            }) = self.mappings.get_mut(id)
            else {
                continue;
            };
            if let Some(waiter) = state.waiter()
                && let Waiter::Request(asker, deadline) = *waiter
                && deadline <= now
            {
                *waiter = Waiter::Late;
                self.complaints.warn(format_args!(
                    "peer {}: its VMM did not answer a mapping request within {} s",
                    self.policy.name,
                    MAP_DEADLINE.as_secs()
                ));
                replies.push(done(asker.token, asker.envelope, Err(Status::ETIMEDOUT)));
            }
        }
        replies
    }

    /// After a reset: the front-end has dropped what was mapped; what is under way ends without a reply.
    pub(super) fn abandon_mappings(&mut self) {
        for id in self.mappings.numbers() {
            let under_way = match self.mappings.get_mut(id).map(|mapping| &mut mapping.place) {
                Ok(Place::Dynamic { state, .. }) => {
                    state.waiter().map(|waiter| *waiter = Waiter::Reset)
                }
                _ => None,
            };
            if under_way.is_none() {
                self.remove_mapping(MappingId(id));
            }
        }
    }

    fn insert_mapping(&mut self, mapping: Mapping) -> Result<MappingId, Status> {
        let handle = mapping.handle;
        let id = self.mappings.insert(mapping)?;
        self.count_mapping(handle, 1);
        Ok(MappingId(id))
    }

    fn remove_mapping(&mut self, id: MappingId) {
        let Ok(mapping) = self.mappings.remove(id.0) else {
            return;
        };
        if let Place::Dynamic { window_offset, .. } = mapping.place {
            self.ranges.give_back(window_offset);
        }
        self.count_mapping(mapping.handle, -1);
    }

    /// A handle that is gone already (reset) needs no counting.
    fn count_mapping(&mut self, handle: Handle, by: i32) {
        if let Ok(held) = self.handles.get_mut(handle.0) {
            held.mappings = held.mappings.saturating_add_signed(by);
        }
    }

    fn submit_unmap(&self, id: MappingId) {
        if let Transport::Window {
            dynamic: Some(window),
            ..
        } = &self.transport
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
        let (window, uuid, window_offset) = match mapping.place {
            Place::Dynamic { window_offset, .. } => {
                (wire::WINDOW_DYNAMIC, Uuid::NIL, window_offset)
            }
            Place::Static => {
                let (pool, slot) = self
                    .static_pool(mapping.alias.buffer())
                    .ok_or(Status::EIO)?;
                (
                    wire::WINDOW_STATIC,
                    pool.uuid(),
                    slot.offset() + mapping.offset,
                )
            }
        };
        Ok(MapReply {
            mapping: id.0.into(),
            window_offset: window_offset.into(),
            length: mapping.length.into(),
            access: mapping.alias.access().to_wire().into(),
            enforcement: mapping.alias.enforcement().to_wire().into(),
            caching: Caching::Cached.to_wire().into(),
            window: window.into(),
            uuid: uuid.0,
            ..FromZeros::new_zeroed()
        })
    }

    fn complain(&mut self, id: MappingId, error: MapError) {
        let Ok(mapping) = self.mappings.get(id.0) else {
            return;
        };
        let buffer = mapping.alias.buffer().id().0;
        let peer = self.policy.name;
        match error {
            MapError::IgnoresReadOnly => self.complaints.warn(format_args!(
                "peer {peer}: read-only mapping of buffer {buffer} refused: its VMM maps writable whatever is asked \
                 for (it failed the sealed probe; QEMU 11.1 does). Share the buffer through a static window (put it in \
                 a pool, and the pool in the VM's `pools`), or load the host module dmabuf_derive and set fail-stop = \
                 true in the grant"
            )),
            MapError::NotRunning => {}
            MapError::Refused => self.complaints.warn(format_args!(
                "peer {peer}: its VMM refused to map buffer {buffer}, or is gone"
            )),
        }
    }
}

const fn status_of(error: MapError) -> Status {
    match error {
        MapError::IgnoresReadOnly => Status::EACCES,
        MapError::NotRunning => Status::ENODEV,
        MapError::Refused => Status::EIO,
    }
}
