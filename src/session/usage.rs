// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a peer uses of what it may have, over all its sessions; and GET_USAGE.

use super::grants::{Limits, Policy};
use super::streams::{MAX_ENDS, entries, listed};
use super::{Body, MAX_INFLIGHT, Session};
use crate::gauge::{Gauge, Share};
use dmabuf_protocol::wire::{ListReply, PeerUsage, ResourceUse};
use dmabuf_protocol::{PeerKind, Resource, Status};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use zerocopy::FromZeros;

/// What a peer has, over all its sessions.
#[derive(Debug, Default)]
pub struct Usage {
    /// Buffers that it has allocated or imported.
    pub buffers: Gauge,
    /// Bytes that it has allocated.
    pub bytes: Gauge,
    /// Frames that it holds.
    pub holds: Gauge,
    /// Ends of streams that get frames.
    pub consumers: Gauge,
    sessions: Mutex<Vec<Weak<SessionUse>>>,
}

/// What one session has: its limits are for each of a peer's sessions.
#[derive(Debug, Default)]
pub struct SessionUse {
    /// Handles.
    pub handles: Gauge,
    /// Mappings.
    pub mappings: Gauge,
    /// Requests that wait for the window.
    pub inflight: Gauge,
    /// Waits and brackets.
    pub waits: Gauge,
    /// Ends of streams.
    pub ends: Gauge,
}

impl SessionUse {
    fn of(&self, resource: Resource) -> u64 {
        match resource {
            Resource::Handles => self.handles.get(),
            Resource::Mappings => self.mappings.get(),
            Resource::Inflight => self.inflight.get(),
            Resource::Waits => self.waits.get(),
            Resource::Ends => self.ends.get(),
            Resource::Buffers | Resource::Bytes | Resource::Holds | Resource::Consumers => 0,
        }
    }
}

impl Usage {
    /// One more session, until what this returns is dropped.
    pub fn join(&self, mappings: Gauge, inflight: Gauge) -> Arc<SessionUse> {
        let session = Arc::new(SessionUse {
            mappings,
            inflight,
            ..SessionUse::default()
        });
        let mut sessions = self.lock();
        sessions.retain(|session| session.strong_count() > 0);
        sessions.push(Arc::downgrade(&session));
        session
    }

    /// Books one buffer of `bytes` bytes.
    ///
    /// # Errors
    /// EDQUOT if that is more than `limits` allow.
    pub fn charge(&self, limits: &Limits, bytes: u64) -> Result<Charge, Status> {
        let take = |gauge: &Gauge, amount, most| gauge.take(amount, most).ok_or(Status::EDQUOT);
        Ok(Charge {
            buffer: take(&self.buffers, 1, limits.buffers.into())?,
            _bytes: take(&self.bytes, bytes, limits.bytes)?,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<SessionUse>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One buffer's part of the [`Usage`]; given back on drop.
#[derive(Debug)]
pub struct Charge {
    buffer: Share,
    _bytes: Share,
}

impl Charge {
    /// Whether it counts against the peer of this usage.
    #[must_use]
    pub fn is_of(&self, peer: &Usage) -> bool {
        self.buffer.is_of(&peer.buffers)
    }
}

/// Whether a resource is counted for each session.
const fn is_per_session(resource: Resource) -> bool {
    match resource {
        Resource::Handles
        | Resource::Mappings
        | Resource::Inflight
        | Resource::Waits
        | Resource::Ends => true,
        Resource::Buffers | Resource::Bytes | Resource::Holds | Resource::Consumers => false,
    }
}

impl Policy {
    fn describe_usage(&self) -> PeerUsage {
        let sessions: Vec<_> = self.usage.lock().iter().filter_map(Weak::upgrade).collect();
        let uses = Resource::ALL.map(|resource| {
            let used = match resource {
                Resource::Buffers => self.usage.buffers.get(),
                Resource::Bytes => self.usage.bytes.get(),
                Resource::Holds => self.usage.holds.get(),
                Resource::Consumers => self.usage.consumers.get(),
                // A limit is reached by the session that has most.
                _ => {
                    let most = sessions.iter().map(|session| session.of(resource)).max();
                    most.unwrap_or(0)
                }
            };
            ResourceUse {
                used: used.into(),
                limit: self.limit(resource).into(),
            }
        });
        let per_session = (0..)
            .zip(Resource::ALL)
            .filter(|(_, resource)| is_per_session(*resource))
            .fold(0u32, |all, (n, _)| all | 1 << n);
        PeerUsage {
            name: self.name.to_wire(),
            kind: self.kind.to_wire().into(),
            sessions: u32::try_from(sessions.len()).unwrap_or(u32::MAX).into(),
            per_session: per_session.into(),
            reserved: 0.into(),
            uses,
        }
    }

    fn limit(&self, resource: Resource) -> u64 {
        let limits = &self.limits;
        match (resource, self.kind) {
            (Resource::Handles, _) => limits.handles.into(),
            (Resource::Mappings, _) => limits.mappings.into(),
            (Resource::Inflight, PeerKind::Vm) => MAX_INFLIGHT.into(),
            // A process maps by itself, and has one request at a time.
            (Resource::Inflight, PeerKind::Client) => 0,
            (Resource::Waits, _) => limits.waits.into(),
            (Resource::Ends, _) => MAX_ENDS.into(),
            (Resource::Buffers, _) => limits.buffers.into(),
            (Resource::Bytes, _) => limits.bytes,
            (Resource::Holds, _) => limits.holds.into(),
            (Resource::Consumers, _) => limits.consumers.into(),
        }
    }
}

impl Session {
    pub(super) fn get_usage(&self, cursor: u64, max: u32, capacity: usize) -> Body {
        let own = std::slice::from_ref(&self.policy);
        let peers = if self.policy.monitor {
            self.host.peers.as_slice()
        } else {
            own
        };
        let fit = entries::<ListReply, PeerUsage>(capacity);
        let wanted = match max {
            0 => fit,
            max => fit.min(usize::try_from(max).unwrap_or(usize::MAX)),
        };
        let first = usize::try_from(cursor).unwrap_or(usize::MAX);
        let rest = peers.get(first..).unwrap_or_default();
        let page: Vec<_> = rest
            .iter()
            .take(wanted)
            .map(|policy| policy.describe_usage())
            .collect();
        let next = if page.len() < rest.len() {
            first + page.len()
        } else {
            0
        };
        let head = ListReply {
            count: u32::try_from(page.len()).unwrap_or(u32::MAX).into(),
            next: u64::try_from(next).unwrap_or(0).into(),
            ..FromZeros::new_zeroed()
        };
        listed(&head, &page)
    }
}
