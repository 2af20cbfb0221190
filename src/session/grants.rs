// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who may do what: grants and limits. Default deny.

use super::usage::Usage;
use crate::buffer::Published;
use dmabuf_protocol::{Access, Enforcement, Name, PeerKind, Status};
use std::sync::Arc;
use std::time::Duration;

/// A buffer name, or the start of names followed by `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    stem: String,
    open: bool,
}

impl Pattern {
    /// Checks and takes over `text`.
    ///
    /// # Errors
    /// EINVAL for text that isn't a name, apart from one `*` at its end.
    pub fn new(text: &str) -> Result<Self, Status> {
        let (stem, open) = text
            .strip_suffix('*')
            .map_or((text, false), |stem| (stem, true));
        if !(open && stem.is_empty()) {
            Name::new(stem)?;
        }
        Ok(Self {
            stem: stem.to_owned(),
            open,
        })
    }

    /// Whether it covers `name`.
    #[must_use]
    pub fn matches(&self, name: &Name) -> bool {
        if self.open {
            name.as_str().starts_with(&self.stem)
        } else {
            name.as_str() == self.stem
        }
    }
}

/// What a grant is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Every slot of a pool. There is no grant for a part of one: whoever maps a pool sees all of it.
    Pool(String),
    /// Buffers by name, other than slots of pools.
    Buffers(Pattern),
    /// Streams by name.
    Streams {
        /// Which.
        names: Pattern,
        /// Most frames of one stream that a consumer holds at once.
        max_held: u32,
        /// The longest hold of a frame.
        max_hold: Duration,
    },
}

/// What a grant says of waits and holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FenceTerms {
    /// The longest wait, and the longest hold, in milliseconds.
    pub max_wait_ms: u32,
    /// The peer may put a fence on the buffer.
    pub host_fence: bool,
}

impl Default for FenceTerms {
    fn default() -> Self {
        Self {
            max_wait_ms: 5000,
            host_fence: false,
        }
    }
}

impl FenceTerms {
    /// What two grants together say.
    const fn or(self, other: Self) -> Self {
        Self {
            max_wait_ms: if self.max_wait_ms > other.max_wait_ms {
                self.max_wait_ms
            } else {
                other.max_wait_ms
            },
            host_fence: self.host_fence || other.host_fence,
        }
    }
}

/// One right of one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// To what.
    pub target: Target,
    /// The most access.
    pub access: Access,
    /// The least enforcement for a read-only alias.
    pub enforcement: Enforcement,
    /// On a VMM that maps everything writable, share derived aliases all the same: a guest's write stops that VM.
    pub fail_stop: bool,
    /// Of waits and holds.
    pub fences: FenceTerms,
}

/// What the grants of a peer say of one buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The least enforcement for a read-only alias.
    pub least: Enforcement,
    /// See [`Grant::fail_stop`].
    pub fail_stop: bool,
    /// Of waits and holds.
    pub fences: FenceTerms,
}

impl Grant {
    fn covers(&self, name: &Name, pool: Option<&str>) -> bool {
        match (&self.target, pool) {
            (Target::Pool(granted), Some(pool)) => granted == pool,
            (Target::Buffers(pattern), None) => pattern.matches(name),
            _ => false,
        }
    }
}

/// The most of everything that a peer can have at once: the first three in each of its sessions, the others in all.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Handles.
    pub handles: u32,
    /// Mappings.
    pub mappings: u32,
    /// Waits, and brackets of CPU access.
    pub waits: u32,
    /// Buffers that it has allocated or imported.
    pub buffers: u32,
    /// Bytes that it has allocated.
    pub bytes: u64,
    /// Frames that it holds, of all streams.
    pub holds: u32,
    /// Ends of streams that get frames.
    pub consumers: u32,
}

impl Limits {
    /// What a configuration that says nothing else gives; of bytes nothing.
    pub const DEFAULT: Self = Self {
        handles: 256,
        mappings: 256,
        waits: 256,
        buffers: 256,
        bytes: 0,
        holds: 64,
        consumers: 64,
    };
}

/// What the configuration says of one peer, and what it uses of it.
#[derive(Debug)]
pub struct Policy {
    /// Its name.
    pub name: Name,
    /// Who it is.
    pub kind: PeerKind,
    /// It may see what all peers use.
    pub monitor: bool,
    /// What it may open.
    pub grants: Vec<Grant>,
    /// Which names it may publish.
    pub publish: Vec<Pattern>,
    /// Heaps and pools it may allocate from.
    pub allocate: Vec<String>,
    /// The most it can have.
    pub limits: Limits,
    /// What it has.
    pub usage: Arc<Usage>,
}

impl Policy {
    /// Whether events about this buffer are for this peer.
    #[must_use]
    pub fn sees(&self, name: &Name, pool: Option<&str>) -> bool {
        self.grants.iter().any(|grant| grant.covers(name, pool))
    }

    /// Whether some grant could be about a buffer of this name that isn't there.
    #[must_use]
    pub fn may_exist(&self, name: &Name) -> bool {
        self.grants.iter().any(|grant| grant.covers(name, None))
    }

    /// The grant by which this peer may consume a stream, whether or not there is one: the first that covers its name.
    #[must_use]
    pub fn stream_grant(&self, name: &Name) -> Option<&Grant> {
        self.grants.iter().find(
            |grant| matches!(&grant.target, Target::Streams { names, .. } if names.matches(name)),
        )
    }

    /// Whether this peer may publish, and withdraw, under this name.
    ///
    /// # Errors
    /// EACCES if not.
    pub fn may_publish(&self, name: &Name) -> Result<(), Status> {
        let allowed = self.publish.iter().any(|pattern| pattern.matches(name));
        if allowed { Ok(()) } else { Err(Status::EACCES) }
    }

    /// Whether this peer may have every slot of a pool.
    #[must_use]
    pub fn has_pool(&self, pool: &str) -> bool {
        self.grants
            .iter()
            .any(|grant| matches!(&grant.target, Target::Pool(granted) if granted == pool))
    }

    /// The terms on which this peer can open `published` for `wanted` access.
    ///
    /// # Errors
    /// EACCES if no grant allows it.
    pub fn permits(&self, published: &Published, wanted: Access) -> Result<Terms, Status> {
        let pool = published.buffer.pool().map(|pool| pool.name());
        self.terms(&published.name, pool, wanted)
    }

    /// The same for a buffer of this name, in a pool or not.
    pub(super) fn terms(
        &self,
        name: &Name,
        pool: Option<&str>,
        wanted: Access,
    ) -> Result<Terms, Status> {
        let covering = self.grants.iter().filter(|grant| grant.covers(name, pool));
        let mut allowing = covering.clone().filter(|grant| wanted <= grant.access);
        let first = allowing.next().ok_or(Status::EACCES)?;
        // Whoever may write needs no protection from itself.
        let writes = covering
            .clone()
            .any(|grant| grant.access == Access::ReadWrite);
        let least = allowing.fold(first.enforcement, |least, grant| {
            least.min(grant.enforcement)
        });
        Ok(Terms {
            least: if writes { Enforcement::None } else { least },
            fail_stop: covering.clone().any(|grant| grant.fail_stop),
            fences: covering
                .clone()
                .fold(first.fences, |all, grant| all.or(grant.fences)),
        })
    }

    /// The most access that this peer may have to `published`, and the enforcement it would have; `None` if it can't
    /// open it at all.
    #[must_use]
    pub fn best(&self, published: &Published) -> Option<(Access, Enforcement)> {
        let read_write = self.permits(published, Access::ReadWrite).is_ok();
        if read_write && published.buffer.can_be_written() {
            return Some((Access::ReadWrite, Enforcement::None));
        }
        let terms = self.permits(published, Access::ReadOnly).ok()?;
        let enforcement = published.buffer.best_enforcement();
        (enforcement >= terms.least).then_some((Access::ReadOnly, enforcement))
    }
}
