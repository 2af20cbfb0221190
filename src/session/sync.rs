// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! SYNC_START, SYNC_END and HOLD: what is carried out on a buffer's dma-buf, off this thread.
//!
//! A handle that uses them has a [`Lane`]: its SYNCs are carried out one after the other, those of other handles
//! beside them. A SYNC_START waits for the buffer's fences in the reactor, and only then takes a worker.

use super::fences::{Open, allowed, limit};
use super::{Answer, Asker, Body, Done, Session, done};
use crate::error::status_of;
use crate::fence::{Bracket, Ending, Hold, Job, Reactor, WaitId};
use crate::gauge::Share;
use dmabuf_protocol::wire::{FENCE_NO_DMA_BUF, HoldReply, SyncReply};
use dmabuf_protocol::{FenceUsage, Handle, Status, SyncDirection};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest hold: then the kernel ends its fence.
const LONGEST_HOLD_MS: u32 = 10_000;

/// What a handle has going on.
#[derive(Default)]
pub(super) struct Lane {
    brackets: Vec<(Bracket, Share)>,
    steps: VecDeque<Step>,
    /// The key under which the step before those is being carried out.
    current: Option<u64>,
    holding: Option<Holding>,
}

/// A SYNC whose turn hasn't come.
struct Step {
    asker: Asker,
    direction: SyncDirection,
    /// For a SYNC_START: its place in the session's quota.
    begins: Option<Share>,
}

enum Holding {
    /// A worker has been asked, under this key.
    Attaching(u64),
    /// The fence is there; the key and the wait of its end.
    Active(
        #[expect(dead_code, reason = "held for its drop")] Hold,
        u64,
        WaitId,
    ),
}

impl Lane {
    pub fn brackets(&self) -> usize {
        self.brackets.len()
    }

    pub const fn is_held(&self) -> bool {
        self.holding.is_some()
    }

    /// Takes back the wait for the end of a hold, which is to be dropped.
    pub fn cancel_hold(&self, reactor: &Reactor) {
        if let Some(Holding::Active(.., id)) = &self.holding {
            let _ = reactor.cancel(*id);
        }
    }

    fn reply(&self, flags: u32) -> Answer {
        let open = u32::try_from(self.brackets.len()).unwrap_or(u32::MAX);
        Ok(Body::of(&SyncReply {
            flags: flags.into(),
            open: open.into(),
        }))
    }
}

impl Session {
    pub(super) fn sync_start(
        &mut self,
        asker: Asker,
        handle: Handle,
        direction: SyncDirection,
    ) -> Option<Done> {
        let unit = self
            .may_sync(handle, direction)
            .and_then(|()| self.fences.unit());
        match unit {
            Ok(unit) => self.take_step(handle, asker, direction, Some(unit)),
            Err(status) => Some(done(asker.token, asker.envelope, Err(status))),
        }
    }

    pub(super) fn sync_end(
        &mut self,
        asker: Asker,
        handle: Handle,
        direction: SyncDirection,
    ) -> Option<Done> {
        match self.may_sync(handle, direction) {
            Ok(()) => self.take_step(handle, asker, direction, None),
            Err(status) => Some(done(asker.token, asker.envelope, Err(status))),
        }
    }

    fn may_sync(&self, handle: Handle, direction: SyncDirection) -> Result<(), Status> {
        let held = self.handles.held(handle)?;
        allowed(held.alias.access(), direction.usage())
    }

    fn take_step(
        &mut self,
        handle: Handle,
        asker: Asker,
        direction: SyncDirection,
        begins: Option<Share>,
    ) -> Option<Done> {
        let lane = self.fences.lanes.entry(handle).or_default();
        lane.steps.push_back(Step {
            asker,
            direction,
            begins,
        });
        self.advance(handle);
        None
    }

    /// Carries out the steps of a lane, until one takes longer.
    fn advance(&mut self, handle: Handle) {
        while let Some(lane) = self.fences.lanes.get_mut(&handle)
            && lane.current.is_none()
            && let Some(step) = lane.steps.pop_front()
        {
            let asker = step.asker;
            let answer = match step.begins {
                Some(unit) => self.start_step(asker, handle, step.direction, unit),
                None => self.end_step(asker, handle, step.direction),
            };
            if let Some(answer) = answer.transpose() {
                self.fences.answer(asker, answer);
            }
        }
    }

    fn start_step(
        &mut self,
        asker: Asker,
        handle: Handle,
        direction: SyncDirection,
        unit: Share,
    ) -> Result<Option<Body>, Status> {
        let held = self.handles.held(handle)?;
        let buffer = held.alias.buffer();
        let Some(dma_buf) = buffer.dma_buf() else {
            let lane = self.fences.lanes.entry(handle).or_default();
            lane.brackets.push((Bracket::counted(direction), unit));
            return lane.reply(FENCE_NO_DMA_BUF).map(Some);
        };
        let kernel = self.host.fences.kernel();
        let snapshot = kernel
            .snapshot(dma_buf, direction.usage())
            .map_err(status_of)?;
        let key = self.fences.key();
        if let Some(snapshot) = snapshot {
            let deadline = Instant::now() + limit(0, held.fences.max_wait_ms);
            let reactor = &self.host.fences.reactor;
            let id = reactor
                .wait(
                    Some(snapshot),
                    deadline,
                    buffer.owner(),
                    key,
                    &self.fences.inbox,
                )
                .map_err(|_| Status::ENOMEM)?;
            let open = Open::Start(asker, handle, direction, id, unit);
            self.fences.open.insert(key, open);
        } else {
            self.begin(key, (asker, handle, direction, unit))?;
        }
        if let Some(lane) = self.fences.lanes.get_mut(&handle) {
            lane.current = Some(key);
        }
        Ok(None)
    }

    fn end_step(
        &mut self,
        asker: Asker,
        handle: Handle,
        direction: SyncDirection,
    ) -> Result<Option<Body>, Status> {
        let has_dma_buf = self
            .handles
            .held(handle)?
            .alias
            .buffer()
            .dma_buf()
            .is_some();
        let key = self.fences.key();
        let lane = self.fences.lanes.entry(handle).or_default();
        let at = lane
            .brackets
            .iter()
            .rposition(|(bracket, _)| bracket.direction() == direction)
            .ok_or(Status::EINVAL)?;
        let (bracket, _) = lane.brackets.swap_remove(at);
        if !has_dma_buf {
            return lane.reply(FENCE_NO_DMA_BUF).map(Some);
        }
        lane.current = Some(key);
        self.fences.open.insert(key, Open::Finish(asker, handle));
        self.work(key, Job::Finish(bracket));
        Ok(None)
    }

    /// Has a worker open a bracket.
    fn begin(
        &mut self,
        key: u64,
        (asker, handle, direction, unit): (Asker, Handle, SyncDirection, Share),
    ) -> Result<(), Status> {
        let buffer = Arc::clone(self.handles.held(handle)?.alias.buffer());
        let open = Open::Begin(asker, handle, unit);
        self.fences.open.insert(key, open);
        self.work(key, Job::Begin { buffer, direction });
        Ok(())
    }

    /// The fences that a SYNC_START has waited for have ended, in some way. Their own errors are for FENCE_WAIT.
    pub(super) fn fences_ended(
        &mut self,
        key: u64,
        start: (Asker, Handle, SyncDirection, Share),
        ending: Ending,
    ) {
        let (asker, handle) = (start.0, start.1);
        let begun = match ending {
            Ending::Signalled { .. } | Ending::Failed(_) => self.begin(key, start),
            Ending::TimedOut => Err(Status::ETIMEDOUT),
            Ending::Orphaned => Err(Status::EOWNERDEAD),
        };
        if let Err(status) = begun {
            self.step_done(asker, handle, Err(status));
        }
    }

    pub(super) fn begun(
        &mut self,
        asker: Asker,
        handle: Handle,
        bracket: Result<(Bracket, Share), Errno>,
    ) {
        let answer = match (bracket, self.fences.lanes.get_mut(&handle)) {
            (Ok(bracket), Some(lane)) => {
                lane.brackets.push(bracket);
                lane.reply(0)
            }
            (Err(errno), _) => Err(status_of(errno)),
            (Ok(_), None) => Err(Status::ESTALE),
        };
        self.step_done(asker, handle, answer);
    }

    pub(super) fn finished(&mut self, asker: Asker, handle: Handle, result: Result<(), Errno>) {
        let answer = match (result, self.fences.lanes.get(&handle)) {
            (Ok(()), Some(lane)) => lane.reply(0),
            (Err(errno), _) => Err(status_of(errno)),
            (Ok(()), None) => Err(Status::ESTALE),
        };
        self.step_done(asker, handle, answer);
    }

    fn step_done(&mut self, asker: Asker, handle: Handle, answer: Answer) {
        self.fences.answer(asker, answer);
        if let Some(lane) = self.fences.lanes.get_mut(&handle) {
            lane.current = None;
        }
        self.advance(handle);
    }

    pub(super) fn start_hold(
        &mut self,
        asker: Asker,
        handle: Handle,
        usage: FenceUsage,
        timeout_ms: u32,
    ) -> Result<Option<Body>, Status> {
        let held = self.handles.held(handle)?;
        if !held.fences.host_fence {
            return Err(Status::EACCES);
        }
        allowed(held.alias.access(), usage)?;
        if self.fences.lanes.get(&handle).is_some_and(Lane::is_held) {
            return Err(Status::EINVAL);
        }
        let buffer = Arc::clone(held.alias.buffer());
        let most = held.fences.max_wait_ms.min(LONGEST_HOLD_MS);
        let time = limit(timeout_ms, most);
        let source = self.host.fences.source.clone().ok_or(Status::ENODEV)?;
        if buffer.dma_buf().is_none() {
            return Err(Status::ENODEV);
        }
        let key = self.fences.key();
        self.fences
            .open
            .insert(key, Open::Attach(asker, handle, time));
        self.fences.lanes.entry(handle).or_default().holding = Some(Holding::Attaching(key));
        let job = Job::Attach {
            buffer,
            usage,
            source,
        };
        self.work(key, job);
        Ok(None)
    }

    pub(super) fn attached(
        &mut self,
        asker: Asker,
        handle: Handle,
        time: Duration,
        hold: Result<Hold, Errno>,
    ) {
        let answer = self.activate(handle, time, hold);
        if answer.is_err()
            && let Some(lane) = self.fences.lanes.get_mut(&handle)
        {
            lane.holding = None;
        }
        self.fences.answer(asker, answer);
    }

    fn activate(&mut self, handle: Handle, time: Duration, hold: Result<Hold, Errno>) -> Answer {
        let hold = hold.map_err(|errno| match errno {
            Errno::BUSY => Status::EBUSY,
            other => status_of(other),
        })?;
        let key = self.fences.key();
        let lane = self.fences.lanes.get_mut(&handle).ok_or(Status::ESTALE)?;
        let reactor = &self.host.fences.reactor;
        let until = Instant::now() + time;
        let id = reactor
            .wait(None, until, None, key, &self.fences.inbox)
            .map_err(|_| Status::ENOMEM)?;
        lane.holding = Some(Holding::Active(hold, key, id));
        self.fences.open.insert(key, Open::HoldEnd(handle));
        let timeout_ms = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        Ok(Body::of(&HoldReply {
            timeout_ms: timeout_ms.into(),
            reserved: 0.into(),
        }))
    }

    /// Takes the fence of a handle away; a HOLD that is under way is answered with ECANCELED.
    pub(super) fn end_hold(&mut self, handle: Handle) {
        let Some(lane) = self.fences.lanes.get_mut(&handle) else {
            return;
        };
        lane.cancel_hold(&self.host.fences.reactor);
        let key = match lane.holding.take() {
            Some(Holding::Attaching(key) | Holding::Active(_, key, _)) => key,
            None => return,
        };
        if let Some(Open::Attach(asker, ..)) = self.fences.open.remove(&key) {
            self.fences.answer(asker, Err(Status::ECANCELED));
        }
    }

    /// A handle was closed: what is open ends, what is under way is answered with ECANCELED.
    pub(super) fn close_lane(&mut self, handle: Handle) {
        self.end_hold(handle);
        let Some(lane) = self.fences.lanes.remove(&handle) else {
            return;
        };
        if let Some(key) = lane.current {
            match self.fences.open.remove(&key) {
                Some(Open::Start(asker, _, _, id, _)) => {
                    // If it has ended, nobody will be found for its result.
                    let _ = self.host.fences.reactor.cancel(id);
                    self.fences.answer(asker, Err(Status::ECANCELED));
                }
                Some(Open::Begin(asker, ..) | Open::Finish(asker, _)) => {
                    self.fences.answer(asker, Err(Status::ECANCELED));
                }
                _ => {}
            }
        }
        for step in lane.steps {
            self.fences.answer(step.asker, Err(Status::ECANCELED));
        }
    }
}
