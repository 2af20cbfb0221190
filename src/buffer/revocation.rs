// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Revocations: a buffer is taken away from everybody but its maker (SPEC.md, "Device operation: revocation").
//!
//! ```text
//!             everybody has let go, or deadline            zero            nobody has an alias, or GRACE
//!  announced ----------------------------------> due ---> erasing ---> erased -----------------------> BUFFER_FREE
//! ```
//!
//! What has to be undone is undone by the sessions, each on its own thread: they are woken when something has changed.
//! One thread watches all revocations; the bytes are erased by workers, as that waits for the buffer's fences. A
//! revocation ends whether or not the session that has asked for it, or any other, is still there.

use super::reach::{Look, Notice};
use super::{Buffer, Change, Registry};
use crate::error::status_of;
use crate::fence::{Errands, Kernel};
use crate::sys::{self, Mapping};
use crate::watch::Watch;
use dmabuf_protocol::wire::{EVENT_BUFFER_FREE, FREE_SHARED, REVOKE_MAX_MS};
use dmabuf_protocol::{BufferId, Status, SyncDirection};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::{self, Errno};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long the peers' mappings may take to go before the maker is told that they may still be there.
const GRACE: Duration = crate::session::MAP_DEADLINE;
/// Most buffers that are erased at once.
const MAX_ERASING: usize = 16;

/// See the module.
#[derive(Debug)]
pub struct Revocations {
    shared: Arc<Shared>,
    watch: Mutex<Option<Arc<Watch>>>,
}

#[derive(Debug)]
struct Shared {
    registry: Registry,
    errands: Errands,
    open: Mutex<Vec<Revocation>>,
    /// Counts what sessions have to look at.
    changes: AtomicU64,
}

#[derive(Debug)]
struct Revocation {
    buffer: Arc<Buffer>,
    step: Step,
}

#[derive(Debug)]
enum Step {
    Announced(Bytes),
    Due(Bytes, Instant),
    Erasing(Instant),
    Erased(Instant),
}

/// What is to be set to zero.
#[derive(Debug)]
struct Bytes {
    mapping: Mapping,
    /// A file that can have holes, which must not be filled: it can be as large as its importer likes.
    file: Option<OwnedFd>,
}

/// A buffer that can be revoked: the daemon can write to it.
#[derive(Debug)]
pub struct Revocable {
    buffer: Arc<Buffer>,
    memory: Bytes,
}

impl Bytes {
    fn zero(&self) -> io::Result<()> {
        let Some(file) = &self.file else {
            self.mapping.zero();
            return Ok(());
        };
        let mut at = 0;
        while let Some((start, end)) = sys::next_data(file.as_fd(), at)? {
            let place = |at| usize::try_from(at).unwrap_or(usize::MAX);
            self.mapping.zero_range(place(start), place(end));
            at = end;
        }
        Ok(())
    }
}

impl Revocable {
    /// Maps the buffer, so that erasing it can't fail later.
    ///
    /// # Errors
    /// [`Status::ESTALE`] for a buffer that is being revoked, [`Status::EOPNOTSUPP`] for one that nobody can write to
    /// any more, [`Status::ENOMEM`].
    pub fn new(buffer: &Arc<Buffer>) -> Result<Self, Status> {
        if buffer.notice().is_some() {
            return Err(Status::ESTALE);
        }
        let alias = buffer.own_alias();
        let source = alias.source();
        let len = usize::try_from(buffer.size()).map_err(|_| Status::ENOMEM)?;
        let mapping = Mapping::new(source.fd, source.offset, len).map_err(|errno| match errno {
            Errno::NOMEM => Status::ENOMEM,
            _ => Status::EOPNOTSUPP,
        })?;
        // Opened anew: others may have an fd with the same position.
        let file = buffer.memfd().map(sys::reopen_read_only).transpose();
        let file = file.map_err(status_of)?;
        Ok(Self {
            buffer: Arc::clone(buffer),
            memory: Bytes { mapping, file },
        })
    }
}

impl Revocations {
    /// None yet. Sessions are woken through `registry`.
    #[must_use]
    pub fn new(registry: Registry, errands: Errands) -> Self {
        Self {
            shared: Arc::new(Shared {
                registry,
                errands,
                open: Mutex::default(),
                changes: AtomicU64::new(0),
            }),
            watch: Mutex::default(),
        }
    }

    /// Starts the thread, instead of with the first revocation.
    ///
    /// # Errors
    /// EAGAIN: no thread can be made.
    pub fn start(&self) -> std::io::Result<()> {
        self.watch().map(drop)
    }

    /// Takes a buffer away from everybody but its maker, `deadline_ms` from now at the latest. `session` has asked.
    ///
    /// # Errors
    /// [`Status::ESTALE`] if it is being revoked already, [`Status::ENOMEM`] if the thread can't be started.
    pub fn begin(
        &self,
        revocable: Revocable,
        deadline_ms: u32,
        session: u64,
    ) -> Result<(), Status> {
        let watch = self.watch().map_err(|_| Status::ENOMEM)?;
        let Revocable { buffer, memory } = revocable;
        let registry = &self.shared.registry;
        let notice = Notice {
            deadline: Instant::now() + Duration::from_millis(deadline_ms.min(REVOKE_MAX_MS).into()),
            asked_by: session,
            name: registry
                .published(buffer.id())
                .map(|published| published.name),
            watch: Some(Arc::clone(&watch)),
        };
        if !buffer.reach.announce(notice) {
            return Err(Status::ESTALE);
        }
        registry.withdraw_buffer(buffer.id());
        self.shared.open().push(Revocation {
            buffer,
            step: Step::Announced(memory),
        });
        self.shared.tell();
        watch.until(Instant::now());
        Ok(())
    }

    /// Grows with everything that a session has to look at.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.shared.changes.load(Ordering::SeqCst)
    }

    /// Revocations that aren't complete.
    #[must_use]
    pub fn open(&self) -> usize {
        self.shared.open().len()
    }

    fn watch(&self) -> std::io::Result<Arc<Watch>> {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watch) = watch.as_ref() {
            return Ok(Arc::clone(watch));
        }
        let shared = Arc::downgrade(&self.shared);
        let started = Watch::start("revocations", move |now| Some(shared.upgrade()?.look(now)))?;
        Ok(Arc::clone(watch.insert(started)))
    }
}

impl Drop for Revocations {
    fn drop(&mut self) {
        let watch = self.watch.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(watch) = watch.take() {
            watch.end();
        }
    }
}

impl Shared {
    /// Goes on with what is to go on now; returns when to look again.
    fn look(self: &Arc<Self>, now: Instant) -> Option<Instant> {
        let mut open = self.open();
        let mut next = Next::default();
        let mut due = false;
        let mut erasing = open.iter().filter(|it| it.is_erasing()).count();
        for revocation in open.iter_mut() {
            due |= revocation.become_due(now, &mut next);
            if erasing < MAX_ERASING
                && let Some(memory) = revocation.take_memory()
            {
                erasing += 1;
                self.erase(&revocation.buffer, memory);
            }
        }
        let complete = |it: &mut Revocation| it.is_complete(now, &mut next);
        let complete: Vec<_> = open.extract_if(.., complete).collect();
        drop(open);
        if due {
            self.tell();
        }
        complete
            .into_iter()
            .for_each(|it| self.tell_maker(it.buffer));
        next.0
    }

    fn erase(self: &Arc<Self>, buffer: &Arc<Buffer>, memory: Bytes) {
        let (shared, buffer) = (Arc::clone(self), Arc::clone(buffer));
        self.errands.run(move || {
            erase(shared.errands.kernel(), &buffer, &memory);
            // A slot with a mapping isn't used again.
            drop(memory);
            let (id, look) = (buffer.id(), buffer.notice().map(Look::at));
            // The maker isn't told before this thread has let go.
            drop(buffer);
            shared.erased(id);
            drop(look);
        });
    }

    fn erased(&self, id: BufferId) {
        let mut open = self.open();
        let revocation = open.iter_mut().find(|it| it.buffer.id() == id);
        if let Some(Revocation { step, .. }) = revocation
            && let Step::Erasing(since) = *step
        {
            *step = Step::Erased(since);
        }
    }

    fn tell(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.registry.wake_all();
    }

    /// Lets go of the buffer first.
    fn tell_maker(&self, buffer: Arc<Buffer>) {
        let Some(notice) = buffer.notice() else {
            return;
        };
        // Whoever has one slot of a pool sees all of them.
        let reach = &buffer.reach;
        let shared = reach.is_shared() || reach.was_given_out() || buffer.pool().is_some();
        let change = Change {
            kind: EVENT_BUFFER_FREE,
            id: buffer.id(),
            name: notice.name,
            value: if shared { FREE_SHARED } else { 0 },
            pool: None,
        };
        let (asked_by, producer) = (notice.asked_by, buffer.producer());
        drop(buffer);
        let is_theirs = |session| session == asked_by || Some(session) == producer;
        self.registry.tell(&change, is_theirs);
    }

    fn open(&self) -> MutexGuard<'_, Vec<Revocation>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first of several moments.
#[derive(Default)]
struct Next(Option<Instant>);

impl Next {
    fn at(&mut self, moment: Instant) {
        self.0 = Some(self.0.map_or(moment, |next| next.min(moment)));
    }
}

impl Revocation {
    const fn is_erasing(&self) -> bool {
        matches!(self.step, Step::Erasing(_))
    }

    /// Whether it has become due just now.
    fn become_due(&mut self, now: Instant, next: &mut Next) -> bool {
        let (Step::Announced(_), Some(notice)) = (&self.step, self.buffer.notice()) else {
            return false;
        };
        if now < notice.deadline && self.buffer.reach.is_shared() {
            next.at(notice.deadline);
            return false;
        }
        self.buffer.reach.set_due();
        let step = std::mem::replace(&mut self.step, Step::Erasing(now));
        if let Step::Announced(memory) = step {
            self.step = Step::Due(memory, now);
        }
        true
    }

    /// What is to be erased now.
    fn take_memory(&mut self) -> Option<Bytes> {
        let Step::Due(_, since) = self.step else {
            return None;
        };
        match std::mem::replace(&mut self.step, Step::Erasing(since)) {
            Step::Due(memory, _) => Some(memory),
            _ => None,
        }
    }

    fn is_complete(&self, now: Instant, next: &mut Next) -> bool {
        let Step::Erased(since) = self.step else {
            return false;
        };
        let end = since + GRACE;
        if now < end && self.buffer.reach.is_shared() {
            next.at(end);
            return false;
        }
        true
    }
}

/// Sets all bytes to zero. Those who wait for the buffer's fences come first, but their errors don't matter.
fn erase(kernel: &dyn Kernel, buffer: &Buffer, memory: &Bytes) {
    let bracket = |end| -> io::Result<()> {
        match buffer.dma_buf() {
            Some(dma_buf) => kernel.sync(dma_buf, SyncDirection::Write, end),
            None => Ok(()),
        }
    };
    let begun = bracket(false);
    if memory.zero().is_err() {
        memory.mapping.zero();
    }
    if let Err(errno) = begun.and_then(|()| bracket(true)) {
        log::warn!(
            "buffer {}: erased, but not in a bracket: {errno}",
            buffer.id().0
        );
    }
    // Memory of an import that its owner has made holes in: there is nothing to erase.
    let _ = sys::met_truncation();
}
