// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! FENCE_WAIT, FENCE_CANCEL, FENCE_QUERY, RELEASE; and how late results find their request.
//!
//! What the reactor or a worker has been asked for is in [`OpenFences::open`], under a key that is never used again. A
//! result whose key isn't there any more (a reset, a CLOSE) is dropped, which undoes it.

use super::sync::Lane;
use super::{Answer, Asker, Body, Done, Session, done};
use crate::error::status_of;
use crate::fence::{Ending, Inbox, Job, Note, State, WaitId};
use crate::gauge::{Gauge, Share};
use crate::sys::EventFd;
use dmabuf_protocol::wire::{
    FENCE_FAILED, FENCE_NO_DMA_BUF, FENCE_PENDING, FENCE_SIGNALLED, FenceQueryReply, FenceWaitReply,
};
use dmabuf_protocol::{Access, FenceUsage, Handle, Status, SyncDirection};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use zerocopy::FromZeros;

/// Most jobs of a session that worker threads have at once; further ones wait for those.
const MAX_AT_WORKERS: u32 = 16;

/// What a session waits for, and what it has to undo at its end.
pub(super) struct OpenFences {
    pub inbox: Arc<Inbox>,
    next_key: u64,
    pub open: HashMap<u64, Open>,
    /// FENCE_WAITs by tag and key.
    by_tag: BTreeSet<(u64, u64)>,
    pub lanes: HashMap<Handle, Lane>,
    at_workers: u32,
    parked: VecDeque<(u64, Job)>,
    /// Waits and brackets, and the most of them.
    units: (Gauge, u32),
    /// Replies that are ready.
    pub late: Vec<Done>,
    notes: Vec<(u64, Note)>,
}

/// What was asked for.
pub(super) enum Open {
    /// A FENCE_WAIT.
    Wait {
        asker: Asker,
        handle: Handle,
        id: WaitId,
        _unit: Share,
    },
    /// A SYNC_START that waits for fences.
    Start(Asker, Handle, SyncDirection, WaitId, Share),
    /// A SYNC_START that a worker carries out.
    Begin(Asker, Handle, Share),
    /// A SYNC_END that a worker carries out.
    Finish(Asker, Handle),
    /// A HOLD that a worker carries out, for so long.
    Attach(Asker, Handle, Duration),
    /// The end of a hold.
    HoldEnd(Handle),
}

/// What was open when a session ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FenceCounts {
    /// Brackets of CPU access.
    pub brackets: usize,
    /// Waits, those of SYNC_STARTs included.
    pub waits: usize,
    /// Fences that held buffers.
    pub holds: usize,
}

impl std::fmt::Display for FenceCounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} brackets, {} waits, {} holds ended",
            self.brackets, self.waits, self.holds
        )
    }
}

impl OpenFences {
    pub fn new(units: Gauge, max: u32) -> rustix::io::Result<Self> {
        Ok(Self {
            inbox: Arc::new(Inbox::new()?),
            next_key: 0,
            open: HashMap::new(),
            by_tag: BTreeSet::new(),
            lanes: HashMap::new(),
            at_workers: 0,
            parked: VecDeque::new(),
            units: (units, max),
            late: Vec::new(),
            notes: Vec::new(),
        })
    }

    pub fn key(&mut self) -> u64 {
        self.next_key += 1;
        self.next_key
    }

    /// One more wait or bracket.
    ///
    /// # Errors
    /// EBUSY.
    pub fn unit(&self) -> Result<Share, Status> {
        let (units, max) = &self.units;
        units.take(1, (*max).into()).ok_or(Status::EBUSY)
    }

    pub fn answer(&mut self, asker: Asker, answer: Answer) {
        self.late.push(done(asker.token, asker.envelope, answer));
    }
}

impl Session {
    /// The event that is set while results of waits may be there for [`Self::settle`].
    #[must_use]
    pub fn fence_wake(&self) -> &EventFd {
        self.fences.inbox.wake()
    }

    /// Takes the results that have come in, and lets go of what was revoked: to be called when [`Self::fence_wake`] or
    /// [`Self::wake`] was set. Returns the replies to requests that this has ended.
    pub fn settle(&mut self) -> Vec<Done> {
        self.heed_revocations();
        let mut notes = std::mem::take(&mut self.fences.notes);
        self.fences.inbox.take(&mut notes);
        for (key, note) in notes.drain(..) {
            self.take_note(key, note);
        }
        self.fences.notes = notes;
        self.take_late()
    }

    /// Replies to earlier requests that the last one has brought about, and to that one if [`Self::handle`] gave none.
    pub fn take_late(&mut self) -> Vec<Done> {
        std::mem::take(&mut self.fences.late)
    }

    /// What is open now.
    #[must_use]
    pub fn fence_counts(&self) -> FenceCounts {
        let waits = |open: &&Open| matches!(open, Open::Wait { .. } | Open::Start(..));
        FenceCounts {
            brackets: self.fences.lanes.values().map(Lane::brackets).sum(),
            waits: self.fences.open.values().filter(waits).count(),
            holds: self
                .fences
                .lanes
                .values()
                .filter(|lane| lane.is_held())
                .count(),
        }
    }

    pub(super) fn fence_wait(
        &mut self,
        asker: Asker,
        handle: Handle,
        usage: FenceUsage,
        timeout_ms: u32,
    ) -> Result<Option<Body>, Status> {
        let held = self.handles.held(handle)?;
        allowed(held.alias.access(), usage)?;
        let buffer = held.alias.buffer();
        let unit = self.fences.unit()?;
        let Some(dma_buf) = buffer.dma_buf() else {
            return Ok(Some(Body::of(&FenceWaitReply {
                flags: FENCE_NO_DMA_BUF.into(),
                ..FromZeros::new_zeroed()
            })));
        };
        let snapshot = self.host.fences.kernel().snapshot(dma_buf, usage);
        let Some(snapshot) = snapshot.map_err(status_of)? else {
            return Ok(Some(Body::of(&FenceWaitReply::new_zeroed())));
        };
        let deadline = Instant::now() + limit(timeout_ms, held.fences.max_wait_ms);
        let key = self.fences.key();
        let inbox = &self.fences.inbox;
        let reactor = &self.host.fences.reactor;
        let id = reactor
            .wait(Some(snapshot), deadline, buffer.owner(), key, inbox)
            .map_err(|_| Status::ENOMEM)?;
        let open = Open::Wait {
            asker,
            handle,
            id,
            _unit: unit,
        };
        self.fences.open.insert(key, open);
        self.fences.by_tag.insert((asker.envelope.tag, key));
        Ok(None)
    }

    /// Ends the oldest wait with this tag that hasn't ended.
    pub(super) fn fence_cancel(&mut self, tag: u64) -> Answer {
        let reactor = &self.host.fences.reactor;
        let open = &self.fences.open;
        let mut keys = self.fences.by_tag.range((tag, 0)..=(tag, u64::MAX));
        let won = keys.find(
            |(_, key)| matches!(open.get(key), Some(Open::Wait { id, .. }) if reactor.cancel(*id)),
        );
        let &(_, key) = won.ok_or(Status::ENOENT)?;
        self.cancelled(key);
        Ok(Body::EMPTY)
    }

    /// Ends all waits of a handle that haven't ended.
    pub(super) fn cancel_waits(&mut self, handle: Handle) {
        let reactor = &self.host.fences.reactor;
        let is_won = |open: &Open| matches!(open, Open::Wait { handle: of, id, .. } if *of == handle && reactor.cancel(*id));
        let open = self.fences.open.iter();
        let won: Vec<u64> = open
            .filter(|(_, open)| is_won(open))
            .map(|(key, _)| *key)
            .collect();
        for key in won {
            self.cancelled(key);
        }
    }

    /// Answers a FENCE_WAIT that was taken back from the reactor.
    fn cancelled(&mut self, key: u64) {
        if let Some(Open::Wait { asker, .. }) = self.fences.open.remove(&key) {
            self.fences.by_tag.remove(&(asker.envelope.tag, key));
            self.fences.answer(asker, Err(Status::ECANCELED));
        }
    }

    pub(super) fn fence_query(&self, handle: Handle, usage: FenceUsage) -> Answer {
        let held = self.handles.held(handle)?;
        allowed(held.alias.access(), usage)?;
        let mut reply = FenceQueryReply {
            state: FENCE_SIGNALLED.into(),
            ..FromZeros::new_zeroed()
        };
        let Some(dma_buf) = held.alias.buffer().dma_buf() else {
            reply.flags = FENCE_NO_DMA_BUF.into();
            return Ok(Body::of(&reply));
        };
        let snapshot = self.host.fences.kernel().snapshot(dma_buf, usage);
        if let Some(snapshot) = snapshot.map_err(status_of)? {
            let (state, error) = match snapshot.state() {
                State::Pending => (FENCE_PENDING, 0),
                State::Signalled { .. } => (FENCE_SIGNALLED, 0),
                State::Failed(errno) => (FENCE_FAILED, errno),
            };
            reply.fences = snapshot.fences().into();
            reply.state = state.into();
            reply.error = error.into();
        }
        Ok(Body::of(&reply))
    }

    /// Ends the hold of a handle, if there is one, and tells the producer.
    pub(super) fn release(&mut self, handle: Handle, value: u64) -> Answer {
        let buffer = Arc::clone(self.handles.held(handle)?.alias.buffer());
        self.end_hold(handle);
        self.host.registry.released(&buffer, value);
        Ok(Body::EMPTY)
    }

    /// Gives a job to the workers, or puts it aside while they have enough of this session.
    pub(super) fn work(&mut self, key: u64, job: Job) {
        self.fences.parked.push_back((key, job));
        self.unpark();
    }

    fn unpark(&mut self) {
        while self.fences.at_workers < MAX_AT_WORKERS
            && let Some((key, job)) = self.fences.parked.pop_front()
        {
            if self.fences.open.contains_key(&key) {
                self.fences.at_workers += 1;
                let workers = &self.host.fences.workers;
                workers.submit(job, key, &self.fences.inbox);
            }
        }
    }

    fn take_note(&mut self, key: u64, note: Note) {
        if !matches!(note, Note::Ended(_)) {
            self.fences.at_workers -= 1;
            self.unpark();
        }
        let Some(open) = self.fences.open.remove(&key) else {
            return;
        };
        match (open, note) {
            (Open::Wait { asker, .. }, Note::Ended(ending)) => {
                self.fences.by_tag.remove(&(asker.envelope.tag, key));
                self.fences.answer(asker, answer_of(ending));
            }
            (Open::Start(asker, handle, direction, _, unit), Note::Ended(ending)) => {
                self.fences_ended(key, (asker, handle, direction, unit), ending);
            }
            (Open::Begin(asker, handle, unit), Note::Begun(bracket)) => {
                self.begun(asker, handle, bracket.map(|bracket| (bracket, unit)));
            }
            (Open::Finish(asker, handle), Note::Finished(result)) => {
                self.finished(asker, handle, result);
            }
            (Open::Attach(asker, handle, time), Note::Attached(hold)) => {
                self.attached(asker, handle, time, hold);
            }
            (Open::HoldEnd(handle), _) => self.end_hold(handle),
            // The reactor answers what it was asked, and so do the workers.
            (_, _) => {}
        }
    }

    /// Forgets all waits, and undoes what they have led to. Nobody is answered.
    pub(super) fn abandon_fences(&mut self) {
        let reactor = &self.host.fences.reactor;
        for open in self.fences.open.values() {
            if let Open::Wait { id, .. } | Open::Start(.., id, _) = open {
                // If it has ended, nobody will be found for its result.
                let _ = reactor.cancel(*id);
            }
        }
        for lane in self.fences.lanes.values() {
            lane.cancel_hold(reactor);
        }
        self.fences.open.clear();
        self.fences.by_tag.clear();
        self.fences.parked.clear();
        self.fences.late.clear();
        self.fences.lanes.clear();
    }
}

/// The time of a wait or a hold.
pub(super) fn limit(wanted_ms: u32, most_ms: u32) -> Duration {
    let wanted = if wanted_ms == 0 { most_ms } else { wanted_ms };
    Duration::from_millis(wanted.min(most_ms).into())
}

/// Who may not write has no business with what a writer would have to wait for.
pub(super) fn allowed(access: Access, usage: FenceUsage) -> Result<(), Status> {
    match usage {
        FenceUsage::Write if access == Access::ReadOnly => Err(Status::EACCES),
        _ => Ok(()),
    }
}

fn answer_of(ending: Ending) -> Answer {
    match ending {
        Ending::Signalled {
            fences,
            timestamp_ns,
        } => Ok(Body::of(&FenceWaitReply {
            flags: 0.into(),
            fences: fences.into(),
            timestamp_ns: timestamp_ns.into(),
        })),
        Ending::Failed(errno) => Err(Status(errno)),
        Ending::TimedOut => Err(Status::ETIMEDOUT),
        Ending::Orphaned => Err(Status::EOWNERDEAD),
    }
}
