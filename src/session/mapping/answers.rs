// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How mappings go on: by what the front-end answers, by a deadline, by a reset.

use super::{Mapping, Place, State, Waiter, Windows};
use crate::buffer::Alias;
use crate::session::{Body, Done, JobResult, MAP_DEADLINE, MapError, done};
use dmabuf_protocol::{MappingId, Status};
use std::time::Instant;

impl Windows {
    /// Takes the result of a job; returns the reply that was waiting for it, if one was.
    pub fn finish(&mut self, result: JobResult) -> Option<Done> {
        self.probe = result.probe;
        let id = result.mapping;
        let Ok(Mapping {
            place: Place::Dynamic { state, .. },
            alias,
            ..
        }) = self.mappings.get_mut(id.0)
        else {
            return None;
        };
        let revoked = alias.as_ref().is_none_or(Alias::is_revoked);
        let (asker, answer) = match (*state, result.outcome) {
            (State::Mapping(Waiter::Request(asker, _)), Ok(())) if revoked => {
                *state = State::Unmapping(Waiter::Late);
                self.submit_unmap(id);
                (Some(asker), Err(Status::ESTALE))
            }
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
                (waiter.asker(), Err(error.status()))
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
            (State::Revoking, Ok(())) => {
                *state = State::Revoked;
                // The memory isn't kept for a peer that doesn't unmap.
                *alias = None;
                return None;
            }
            (State::Revoking, Err(_)) => {
                *state = State::Stuck;
                self.complain_of_revoked(id);
                return None;
            }
            (State::Active | State::Revoked | State::Stuck, _) => return None,
        };
        self.show_inflight();
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
                    self.peer,
                    MAP_DEADLINE.as_secs()
                ));
                replies.push(done(asker.token, asker.envelope, Err(Status::ETIMEDOUT)));
            }
        }
        replies
    }

    /// After a reset: the front-end has dropped what was mapped; what is under way ends without a reply.
    pub fn abandon(&mut self) {
        for id in self.mappings.numbers() {
            let under_way = match self.mappings.get_mut(id).map(|mapping| &mut mapping.place) {
                Ok(Place::Dynamic { state, .. }) => state.abandon(),
                _ => false,
            };
            if !under_way {
                self.remove_mapping(MappingId(id));
            }
        }
    }

    fn buffer_of(&self, id: MappingId) -> Option<u64> {
        let alias = self.mappings.get(id.0).ok()?.alias.as_ref()?;
        Some(alias.buffer().id().0)
    }

    fn complain_of_revoked(&mut self, id: MappingId) {
        if let Some(buffer) = self.buffer_of(id) {
            self.complaints.warn(format_args!(
                "peer {}: its VMM refused to unmap buffer {buffer}, which was revoked: the VM sees it as zeroes",
                self.peer
            ));
        }
    }

    fn complain(&mut self, id: MappingId, error: MapError) {
        let Some(buffer) = self.buffer_of(id) else {
            return;
        };
        let peer = self.peer;
        match error {
            MapError::IgnoresReadOnly if !self.fail_stop => self.complaints.warn(format_args!(
                "peer {peer}: read-only mapping of buffer {buffer} refused: its VMM maps writable whatever is asked \
                 for (it failed the sealed probe; QEMU 11.1 does), and fail-stop can't be had through a broker. Share \
                 the buffer through a static window: put it in a pool, and name that by --static-window"
            )),
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
