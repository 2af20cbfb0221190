// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How the ends of streams are told that there is something for them.

use super::board::Set;
use crate::buffer::Subscription;
use dmabuf_protocol::Name;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// Tells a consumer of its first frame on the thread of whoever queues it, without the detour by its session's.
pub trait Messenger: Send + Sync + std::fmt::Debug {
    /// Sends the event, if that can be done at once; never blocks.
    fn tell(&self, consumer: u64, stream: &Name) -> bool;
}

/// Tells an end's session that there is something for it.
#[derive(Debug)]
pub struct Bell {
    peer: Name,
    session: Arc<Subscription>,
    rung: AtomicBool,
    /// Where there is one; and what the session calls the consumer.
    messenger: OnceLock<(Arc<dyn Messenger>, u64)>,
}

impl Bell {
    /// Has events about frames sent by a messenger from now on.
    pub fn hire(&self, messenger: &Arc<dyn Messenger>, consumer: u64) {
        let _ = self.messenger.set((Arc::clone(messenger), consumer));
    }

    /// A frame is there. Whom its session will look after anyhow is not told twice.
    pub fn announce(&self, stream: &Name) {
        let waits = !self.rung.load(Ordering::Acquire);
        let sent =
            |(messenger, consumer): &(Arc<dyn Messenger>, u64)| messenger.tell(*consumer, stream);
        if !(waits && self.messenger.get().is_some_and(sent)) {
            self.ring();
        }
    }

    /// The peer of that session.
    pub const fn peer(&self) -> Name {
        self.peer
    }

    /// There is something else.
    pub fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.session.wake().set();
        }
    }

    /// Leaves it rung, without waking anybody.
    pub fn again(&self) {
        self.rung.store(true, Ordering::Release);
    }

    /// Whether it was rung since the last time.
    pub fn answer(&self) -> bool {
        self.rung.swap(false, Ordering::AcqRel)
    }
}

/// One that hasn't rung.
pub fn bell(peer: Name, session: &Arc<Subscription>) -> Arc<Bell> {
    Arc::new(Bell {
        peer,
        session: Arc::clone(session),
        rung: AtomicBool::new(false),
        messenger: OnceLock::new(),
    })
}

/// Tells these consumers of a frame.
pub fn announce(bells: &[Option<Arc<Bell>>], whose: Set, stream: &Name) {
    whose
        .iter()
        .filter_map(|number| bells.get(number)?.as_ref())
        .for_each(|bell| bell.announce(stream));
}

/// A copy of all bells with another one at this number.
pub fn with_bell(
    bells: &[Option<Arc<Bell>>],
    number: usize,
    bell: Option<Arc<Bell>>,
) -> Arc<[Option<Arc<Bell>>]> {
    let mut all = bells.to_vec();
    all.resize(all.len().max(number + 1), None);
    if let Some(place) = all.get_mut(number) {
        *place = bell;
    }
    all.into()
}
