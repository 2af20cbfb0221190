// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The published buffers by name and number, and who wants to hear of changes.
//!
//! One registry per daemon. Its lock is held for a look-up or a change of the maps, never across a system call that
//! can block.

use super::Buffer;
use crate::heap::Pool;
use crate::sys::EventFd;
use dmabuf_protocol::wire::{
    self, EVENT_BUFFER_ADDED, EVENT_BUFFER_RELEASED, EVENT_BUFFER_WITHDRAWN,
};
use dmabuf_protocol::{BufferId, Name, Status};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Most events that wait for one peer; the oldest go first, and the gap in the sequence tells.
const MAX_EVENTS: usize = 256;

/// A buffer that peers with a grant can open.
#[derive(Clone, Debug)]
pub struct Published {
    /// Its name.
    pub name: Name,
    /// The memory.
    pub buffer: Arc<Buffer>,
    /// Picture layout, if known.
    pub format: Option<wire::Format>,
    /// The connection that published it and takes it along when it goes; `None` if it stays.
    pub owner: Option<u64>,
}

/// A change in the list of published buffers.
#[derive(Clone, Debug)]
pub struct Change {
    /// `EVENT_BUFFER_ADDED`, `EVENT_BUFFER_WITHDRAWN`, `EVENT_BUFFER_RELEASED`, `EVENT_BUFFER_FREE` or
    /// `EVENT_STREAM_ADDED`.
    pub kind: u32,
    /// The buffer's number, or the stream's.
    pub id: BufferId,
    /// The buffer's name, while it is published; or the stream's.
    pub name: Option<Name>,
    /// As in the event.
    pub value: u64,
    /// The pool it is a slot of.
    pub pool: Option<String>,
}

/// One peer's view of changes: a bounded queue and an event to poll.
#[derive(Debug)]
pub struct Subscription {
    session: u64,
    wake: EventFd,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    changes: VecDeque<Change>,
    /// Lost before all of them.
    lost: u64,
}

impl Subscription {
    /// The event that is set while changes wait.
    #[must_use]
    pub const fn wake(&self) -> &EventFd {
        &self.wake
    }

    /// The next change, and how many were lost just before it.
    pub fn next(&self) -> Option<(Change, u64)> {
        let mut waiting = lock(&self.waiting);
        let change = waiting.changes.pop_front()?;
        Some((change, std::mem::take(&mut waiting.lost)))
    }

    /// Forgets what waits, and what was lost.
    pub fn clear(&self) {
        *lock(&self.waiting) = Waiting::default();
    }

    fn push(&self, change: &Change) {
        let mut waiting = lock(&self.waiting);
        // Not the newest: what it tells would never be heard if nothing came after it.
        if waiting.changes.len() == MAX_EVENTS && waiting.changes.pop_front().is_some() {
            waiting.lost += 1;
        }
        waiting.changes.push_back(change.clone());
        self.wake.set();
    }
}

/// See the module. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Registry(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    by_id: BTreeMap<BufferId, Published>,
    by_name: HashMap<Name, BufferId>,
    subscribers: Vec<Weak<Subscription>>,
}

impl Registry {
    /// Makes a buffer visible.
    ///
    /// # Errors
    /// EEXIST if the name is taken, EINVAL if the buffer has a name already, ESTALE if it is being revoked.
    pub fn publish(&self, published: Published) -> Result<(), Status> {
        let mut inner = lock(&self.0);
        if inner.by_name.contains_key(&published.name) {
            return Err(Status::EEXIST);
        }
        let id = published.buffer.id();
        if inner.by_id.contains_key(&id) {
            return Err(Status::EINVAL);
        }
        // Under the lock: a revocation takes the name away after it was announced.
        if published.buffer.notice().is_some() {
            return Err(Status::ESTALE);
        }
        inner.by_name.insert(published.name, id);
        if is_visible(&published) {
            inner.announce(&change(EVENT_BUFFER_ADDED, &published));
        }
        inner.by_id.insert(id, published);
        Ok(())
    }

    /// Tells that all published slots of `pool` can be seen now: it was just sealed.
    pub fn announce_sealed(&self, pool: &Arc<Pool>) {
        let inner = lock(&self.0);
        let of_pool = |published: &&Published| {
            published
                .buffer
                .pool()
                .is_some_and(|p| Arc::ptr_eq(p, pool))
        };
        let changes = inner
            .by_id
            .values()
            .filter(of_pool)
            .map(|slot| change(EVENT_BUFFER_ADDED, slot));
        changes.for_each(|change| inner.announce(&change));
    }

    /// Takes a buffer off the list; aliases of it live on.
    ///
    /// # Errors
    /// ENOENT if there is none of that name.
    pub fn withdraw(&self, name: &Name) -> Result<(), Status> {
        let mut inner = lock(&self.0);
        let id = inner.by_name.get(name).copied().ok_or(Status::ENOENT)?;
        inner.remove(id);
        Ok(())
    }

    /// Takes a buffer off the list, if it is on it.
    pub fn withdraw_buffer(&self, id: BufferId) {
        lock(&self.0).remove(id);
    }

    /// Takes everything off the list that `owner` published and that isn't to stay.
    pub fn withdraw_all(&self, owner: u64) {
        let mut inner = lock(&self.0);
        let ids: Vec<BufferId> = inner
            .by_id
            .values()
            .filter(|published| published.owner == Some(owner))
            .map(|published| published.buffer.id())
            .collect();
        ids.into_iter().for_each(|id| inner.remove(id));
    }

    /// The buffer of that name.
    #[must_use]
    pub fn find(&self, name: &Name) -> Option<Published> {
        let inner = lock(&self.0);
        let published = inner.by_id.get(inner.by_name.get(name)?)?;
        is_visible(published).then(|| published.clone())
    }

    /// The buffer of that name, also if it isn't visible yet.
    #[must_use]
    pub fn named(&self, name: &Name) -> Option<Arc<Buffer>> {
        let inner = lock(&self.0);
        let published = inner.by_id.get(inner.by_name.get(name)?)?;
        Some(Arc::clone(&published.buffer))
    }

    /// The buffer of that number.
    #[must_use]
    pub fn published(&self, id: BufferId) -> Option<Published> {
        lock(&self.0).by_id.get(&id).cloned()
    }

    /// Up to `max` buffers with a number above `cursor` for which `wanted` holds, and whether there are more.
    pub fn page(
        &self,
        cursor: u64,
        max: usize,
        wanted: impl Fn(&Published) -> bool,
    ) -> (Vec<Published>, bool) {
        let inner = lock(&self.0);
        let Some(from) = cursor.checked_add(1) else {
            return (Vec::new(), false);
        };
        let mut rest = inner
            .by_id
            .range(BufferId(from)..)
            .map(|(_, published)| published)
            .filter(|published| is_visible(published) && wanted(published));
        let page = rest.by_ref().take(max).cloned().collect();
        (page, rest.next().is_some())
    }

    /// Tells the producer of a buffer that a peer has released it.
    pub fn released(&self, buffer: &Buffer, value: u64) {
        let Some(producer) = buffer.producer() else {
            return;
        };
        let change = Change {
            kind: EVENT_BUFFER_RELEASED,
            id: buffer.id(),
            name: self.published(buffer.id()).map(|published| published.name),
            value,
            pool: None,
        };
        self.tell(&change, |session| session == producer);
    }

    /// Tells some sessions of a change.
    pub fn tell(&self, change: &Change, whom: impl Fn(u64) -> bool) {
        lock(&self.0)
            .subscribers
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|subscription| whom(subscription.session))
            .for_each(|subscription| subscription.push(change));
    }

    /// Has every session look around.
    pub fn wake_all(&self) {
        lock(&self.0)
            .subscribers
            .iter()
            .filter_map(Weak::upgrade)
            .for_each(|subscription| subscription.wake.set());
    }

    /// Tells everybody who listens of a change that isn't about a buffer.
    pub fn announce(&self, change: &Change) {
        lock(&self.0).announce(change);
    }

    /// The view of a session of the changes from now on; it ends when the last reference to it is dropped.
    ///
    /// # Errors
    /// EMFILE, ENFILE.
    pub fn subscribe(&self, session: u64) -> rustix::io::Result<Arc<Subscription>> {
        let subscription = Arc::new(Subscription {
            session,
            wake: EventFd::new()?,
            waiting: Mutex::default(),
        });
        let mut inner = lock(&self.0);
        inner.subscribers.retain(|other| other.strong_count() > 0);
        inner.subscribers.push(Arc::downgrade(&subscription));
        Ok(subscription)
    }
}

impl Inner {
    fn remove(&mut self, id: BufferId) {
        if let Some(published) = self.by_id.remove(&id) {
            self.by_name.remove(&published.name);
            if is_visible(&published) {
                self.announce(&change(EVENT_BUFFER_WITHDRAWN, &published));
            }
        }
    }

    fn announce(&self, change: &Change) {
        self.subscribers
            .iter()
            .filter_map(Weak::upgrade)
            .for_each(|subscription| subscription.push(change));
    }
}

fn change(kind: u32, published: &Published) -> Change {
    let pool = published.buffer.pool().map(|pool| pool.name().to_owned());
    Change {
        kind,
        id: published.buffer.id(),
        name: Some(published.name),
        value: 0,
        pool,
    }
}

/// Slots of a pool can be seen from its sealing on.
fn is_visible(published: &Published) -> bool {
    published.buffer.pool().is_none_or(|pool| pool.is_sealed())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
