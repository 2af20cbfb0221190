// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The device of one connection: three virtqueues around a session.
//!
//! Used by the worker thread only (under a lock that nobody else holds for long). Never waits for anything.

use super::chain::{Broken, Chain, ReplySpace};
use super::vring::Vring;
use super::window::MapperShared;
use crate::complaints::Complaints;
use crate::session::{Done, FenceCounts, VmSession};
use crate::sys;
use dmabuf_protocol::request::Envelope;
use dmabuf_protocol::wire::{Event, ReplyHeader};
use dmabuf_protocol::{
    NUM_QUEUES, OpCode, QUEUE_CONTROL, QUEUE_EVENT, QUEUE_FENCE, Request, Status,
};
use rustix::fd::{AsRawFd, OwnedFd, RawFd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use vhost_user_backend::{VringState, VringT};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryLoadGuard, GuestMemoryMmap};
use zerocopy::IntoBytes;

/// Guest memory that the front-end can change at any time.
pub type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

/// A chain whose request is not answered yet.
struct Waiting {
    queue: u16,
    head: u16,
    space: ReplySpace,
}

/// See the module.
pub struct Device {
    session: Box<dyn VmSession>,
    /// Guest memory without windows; every access to a queue goes through it.
    memory: Memory,
    shared: Arc<MapperShared>,
    timer: OwnedFd,
    /// Chains whose requests are not answered yet, by token.
    waiting: HashMap<u64, Waiting>,
    next_token: u64,
    /// Replies that came while the device, or their queue, was stopped.
    stopped: Vec<Done>,
    /// An event for which there was no space.
    event: Option<Event>,
    broken: [bool; NUM_QUEUES],
    complaints: Complaints,
}

impl Device {
    /// A device with nothing in its queues.
    ///
    /// # Errors
    /// EMFILE, ENFILE.
    pub fn new(session: Box<dyn VmSession>, shared: Arc<MapperShared>) -> std::io::Result<Self> {
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )?;
        Ok(Self {
            session,
            memory: GuestMemoryAtomic::new(GuestMemoryMmap::new()),
            shared,
            timer,
            waiting: HashMap::new(),
            next_token: 0,
            stopped: Vec::new(),
            event: None,
            broken: [false; NUM_QUEUES],
            complaints: Complaints::default(),
        })
    }

    /// The memory in which it looks for queues and requests.
    pub const fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The timer that runs out at the first deadline.
    pub fn timer(&self) -> RawFd {
        self.timer.as_raw_fd()
    }

    /// The event that is set while events may wait.
    pub fn event_wake(&self) -> RawFd {
        self.session.event_wake().as_raw_fd()
    }

    /// What is readable while there may be replies to requests that are open.
    pub fn late_wake(&self) -> RawFd {
        self.session.late_wake()
    }

    /// A queue has new chains.
    pub fn kicked(&mut self, queue: u16, vrings: &[Vring]) {
        let Some(vring) = vrings.get(usize::from(queue)) else {
            return;
        };
        // A kick can still be on its way when the front-end has stopped the queue.
        if !is_live(&vring.get_ref()) {
            return;
        }
        if queue == QUEUE_CONTROL && !self.shared.running().now() {
            self.start(vrings);
        }
        if self.shared.running().now() {
            for done in std::mem::take(&mut self.stopped) {
                self.reply(vrings, done);
            }
        }
        match queue {
            QUEUE_EVENT => self.send_events(vrings),
            _ => self.take_requests(queue, vrings),
        }
        self.set_timer();
    }

    /// The control queue runs: for the first time since a reset, or again after a pause.
    ///
    /// A reset is told by a queue that starts from 0; a VM that is paused and goes on has its position kept.
    fn start(&mut self, vrings: &[Vring]) {
        let Some(control) = vrings.get(usize::from(QUEUE_CONTROL)) else {
            return;
        };
        self.broken = [false; NUM_QUEUES];
        if control.get_ref().get_queue().next_avail() == 0 {
            self.shared.running().reset();
            self.session.reset();
            self.waiting.clear();
            self.stopped.clear();
            self.event = None;
        }
        self.shared.running().set(true);
    }

    fn take_requests(&mut self, queue: u16, vrings: &[Vring]) {
        let Some(vring) = vrings.get(usize::from(queue)) else {
            return;
        };
        loop {
            let quiet = vring
                .get_mut()
                .get_queue_mut()
                .disable_notification(&*self.memory.memory());
            if let Err(error) = quiet {
                return self.stop(queue, &error.into());
            }
            while let Some(chain) = self.next_chain(queue, vring) {
                self.take_request(queue, vrings, chain);
            }
            if !self.has_more(queue, vring) {
                return;
            }
        }
    }

    fn take_request(&mut self, queue: u16, vrings: &[Vring], chain: Chain) {
        let capacity = chain.reply.capacity();
        let token = self.next_token;
        self.next_token += 1;
        let Chain {
            head,
            request,
            reply: space,
        } = chain;
        self.waiting.insert(token, Waiting { queue, head, space });
        if capacity < size_of::<ReplyHeader>() {
            self.complaints.warn(format_args!(
                "peer {}: a request without space for a reply header is not carried out",
                self.session.name()
            ));
            let reply = Vec::new();
            return self.reply(
                vrings,
                Done {
                    token,
                    reply,
                    along: None,
                },
            );
        }
        let done = match misplaced(queue, &request, capacity) {
            Some(status) => Some(Done {
                token,
                reply: Envelope::of(&request).reply(status).as_bytes().to_vec(),
                along: None,
            }),
            None => self.session.handle(token, &request, capacity),
        };
        for done in self.session.take_late().into_iter().chain(done) {
            self.reply(vrings, done);
        }
    }

    /// Results of mapping jobs.
    pub fn window_results(&mut self, vrings: &[Vring]) {
        for result in self.shared.take_results() {
            if let Some(done) = self.session.finish(result) {
                self.reply_later(vrings, done);
            }
        }
        self.set_timer();
    }

    /// The timer has run out.
    pub fn deadline(&mut self, vrings: &[Vring]) {
        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
        for done in self.session.expire(Instant::now()) {
            self.reply_later(vrings, done);
        }
        self.set_timer();
    }

    /// Replies to requests that are open, waits among them.
    pub fn late_replies(&mut self, vrings: &[Vring]) {
        for done in self.session.settle() {
            self.reply_later(vrings, done);
        }
        self.set_timer();
    }

    fn reply_later(&mut self, vrings: &[Vring], done: Done) {
        if self.shared.running().now() {
            self.reply(vrings, done);
        } else {
            self.stopped.push(done);
        }
    }

    fn reply(&mut self, vrings: &[Vring], done: Done) {
        let Some(Waiting { queue, head, space }) = self.waiting.remove(&done.token) else {
            return;
        };
        let Some(vring) = vrings.get(usize::from(queue)) else {
            return;
        };
        if self.is_broken(queue) {
            return;
        }
        // Stopped with, before or after the control queue: its turn comes when it is kicked again.
        if !is_live(&vring.get_ref()) {
            self.waiting
                .insert(done.token, Waiting { queue, head, space });
            return self.stopped.push(done);
        }
        match space.write(&self.memory.memory(), &done.reply) {
            Ok(()) => self.give_back(queue, vring, head, done.reply.len()),
            Err(broken) => self.stop(queue, &broken),
        }
    }

    /// Events may wait, or there is new space for them.
    pub fn send_events(&mut self, vrings: &[Vring]) {
        let Some(vring) = vrings.get(usize::from(QUEUE_EVENT)) else {
            return;
        };
        self.session.event_wake().clear();
        // What has been taken away from the guest meanwhile can end requests.
        self.late_replies(vrings);
        loop {
            if self.event.is_none() {
                self.event = self.session.next_event();
            }
            let Some(event) = self.event else { return };
            let Some(chain) = self.next_chain(QUEUE_EVENT, vring) else {
                if self.has_more(QUEUE_EVENT, vring) {
                    continue;
                }
                return;
            };
            if chain.reply.capacity() < size_of::<Event>() {
                self.give_back(QUEUE_EVENT, vring, chain.head, 0);
                continue;
            }
            self.event = None;
            match chain.reply.write(&self.memory.memory(), event.as_bytes()) {
                Ok(()) => self.give_back(QUEUE_EVENT, vring, chain.head, size_of::<Event>()),
                Err(broken) => return self.stop(QUEUE_EVENT, &broken),
            }
        }
    }

    /// The next chain of a queue, once.
    fn next_chain(&mut self, queue: u16, vring: &Vring) -> Option<Chain> {
        if self.is_broken(queue) {
            return None;
        }
        let memory = self.memory.memory();
        let mut state = vring.get_mut();
        if !is_live(&state) {
            return None;
        }
        let mut read = next_of(state.get_queue_mut(), &memory).transpose();
        drop(state);
        if sys::met_truncation() {
            read = Some(Err(Broken::Truncated));
        }
        read?.inspect_err(|broken| self.stop(queue, broken)).ok()
    }

    /// The front-end has truncated the guest's memory: no queue is read any more.
    pub fn memory_truncated(&mut self) {
        for queue in [QUEUE_CONTROL, QUEUE_EVENT, QUEUE_FENCE] {
            self.stop(queue, &Broken::Truncated);
        }
    }

    /// Asks to be kicked from now on. Whether there is something already.
    fn has_more(&mut self, queue: u16, vring: &Vring) -> bool {
        if self.is_broken(queue) || !is_live(&vring.get_ref()) {
            return false;
        }
        let more = vring
            .get_mut()
            .get_queue_mut()
            .enable_notification(&*self.memory.memory());
        more.unwrap_or_else(|error| {
            self.stop(queue, &error.into());
            false
        })
    }

    fn give_back(&mut self, queue: u16, vring: &Vring, head: u16, len: usize) {
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        let memory = self.memory.memory();
        let mut state = vring.get_mut();
        let queue_state = state.get_queue_mut();
        let used = queue_state.add_used(&*memory, head, len);
        let notify = used.and_then(|()| queue_state.needs_notification(&*memory));
        drop(state);
        match notify {
            Ok(false) => {}
            Ok(true) => signal(vring),
            Err(error) => self.stop(queue, &error.into()),
        }
    }

    fn is_broken(&self, queue: u16) -> bool {
        self.broken.get(usize::from(queue)).copied().unwrap_or(true)
    }

    /// Reads a queue no more, until the device is started again.
    fn stop(&mut self, queue: u16, broken: &Broken) {
        if let Some(flag) = self.broken.get_mut(usize::from(queue))
            && !std::mem::replace(flag, true)
        {
            let peer = self.session.name();
            self.complaints.warn(format_args!(
                "peer {peer}: queue {queue} is stopped: {broken}"
            ));
        }
    }

    fn set_timer(&self) {
        let rest = self
            .session
            .next_deadline()
            .map(|at| at.saturating_duration_since(Instant::now()));
        // Zero would disarm it.
        let rest = rest.map(|rest| rest.max(std::time::Duration::from_micros(1)));
        let value = rest.map_or(
            Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            |rest| Timespec {
                tv_sec: i64::try_from(rest.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: rest.subsec_nanos().into(),
            },
        );
        let once = Itimerspec {
            it_interval: Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: value,
        };
        let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once);
    }

    /// Handles and mappings held now, and what is open of fences.
    pub fn counts(&self) -> (u32, u32, FenceCounts) {
        self.session.counts()
    }

    /// Gives everything back: the connection has ended.
    pub fn end(&mut self) {
        self.waiting.clear();
        self.session.end();
    }
}

/// The answer to a request of another queue.
fn misplaced(queue: u16, request: &[u8], capacity: usize) -> Option<Status> {
    let op = OpCode::try_from(Envelope::of(request).op).ok()?;
    if op.queue() == queue {
        return None;
    }
    Some(match Request::parse(request) {
        Err(status) => status,
        Ok(_) if capacity < op.min_reply() => Status::EMSGSIZE,
        Ok(_) => Status::EOPNOTSUPP,
    })
}

/// Whether a queue may be read.
fn is_live(state: &VringState) -> bool {
    state.get_queue().ready() && state.is_enabled()
}

/// Takes the next chain of a ring, if there is one.
fn next_of(
    queue: &mut Queue,
    memory: &GuestMemoryLoadGuard<GuestMemoryMmap>,
) -> Result<Option<Chain>, Broken> {
    if queue.avail_idx(&**memory, Ordering::Acquire)?.0 == queue.next_avail() {
        return Ok(None);
    }
    let next = queue.iter(memory.clone())?.next();
    // The iterator also ends when it can't read the ring, and would do so again and again.
    let chain = next.ok_or(Broken::Ring(virtio_queue::Error::InvalidAvailRingIndex))?;
    Chain::read(memory, chain.head_index(), chain).map(Some)
}

/// Interrupts the guest.
///
/// The eventfd is the front-end's: it may be blocking and full, so it is made non-blocking first. A front-end that
/// undoes that in between stops its own worker thread and nothing else.
fn signal(vring: &Vring) {
    if let Some(call) = vring.get_ref().get_call() {
        sys::set_nonblocking(call);
    }
    let _ = vring.signal_used_queue();
}
