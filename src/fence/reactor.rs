// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The one thread that waits for fences and deadlines, on behalf of all sessions.
//!
//! A wait is an entry in one table. Signal, deadline, cancel and the death of a buffer's owner race for it, and
//! whoever takes the entry out of the table is the one who answers: so every wait ends exactly once. The lock of the
//! table is held for that, and for calls of the kernel that can't block; results are delivered without it.

use super::{Ending, Inbox, Note, Snapshot, State};
use crate::sys::EventFd;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::{self, Errno};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Events taken from the kernel at once.
const BATCH: usize = 64;
/// Deadlines of waits that have ended are swept out when there are this many more than waits.
const STALE_DEADLINES: usize = 64;

/// What the thread was woken for, beside waits, whose ids are above.
const EXIT: u64 = 0;
const TIMER: u64 = 1;
const FIRST_ID: u64 = 2;

/// The number of a wait; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WaitId(u64);

/// See the module. The thread ends when it is dropped.
#[derive(Debug)]
pub struct Reactor {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    epoll: OwnedFd,
    timer: OwnedFd,
    exit: EventFd,
    waits: Mutex<Waits>,
}

#[derive(Debug)]
struct Waits {
    next: u64,
    open: HashMap<u64, Wait>,
    deadlines: BinaryHeap<Reverse<(Instant, u64)>>,
    /// What the timer is set to.
    armed: Option<Instant>,
}

/// One wait: for fences, for a deadline, or for both.
#[derive(Debug)]
struct Wait {
    snapshot: Option<Snapshot>,
    owner: Option<u64>,
    key: u64,
    inbox: Arc<Inbox>,
}

impl Wait {
    fn end(self, ending: Ending) {
        let (key, inbox) = (self.key, Arc::clone(&self.inbox));
        // The fence's fd goes first: who hears of the end can count on it.
        drop(self);
        inbox.push(key, Note::Ended(ending));
    }
}

impl Reactor {
    /// Starts the thread.
    ///
    /// # Errors
    /// EAGAIN when no thread can be had, EMFILE.
    pub fn start() -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            timer: timerfd_create(
                TimerfdClockId::Monotonic,
                TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
            )?,
            exit: EventFd::new()?,
            waits: Mutex::new(Waits {
                next: FIRST_ID,
                open: HashMap::new(),
                deadlines: BinaryHeap::new(),
                armed: None,
            }),
        });
        shared.watch(shared.exit.as_fd(), EXIT)?;
        shared.watch(shared.timer.as_fd(), TIMER)?;
        let own = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("fences".to_owned())
            .spawn(move || own.run())?;
        Ok(Self { shared })
    }

    /// Waits until all fences of `snapshot` (none: nothing) have ended, or until `deadline`, or until `owner` has
    /// ended. How it went comes to `inbox` under `key`, unless the wait is taken back by [`Self::cancel`].
    ///
    /// # Errors
    /// ENOMEM, ENOSPC: the kernel watches no more fds. Nothing comes to `inbox` then.
    pub fn wait(
        &self,
        snapshot: Option<Snapshot>,
        deadline: Instant,
        owner: Option<u64>,
        key: u64,
        inbox: &Arc<Inbox>,
    ) -> io::Result<WaitId> {
        let mut waits = self.shared.waits();
        let id = waits.next;
        waits.next += 1;
        // Under the lock, so that the thread finds the entry when the fence has ended already.
        if let Some(snapshot) = &snapshot {
            self.shared.watch(snapshot.as_fd(), id)?;
        }
        let inbox = Arc::clone(inbox);
        waits.open.insert(
            id,
            Wait {
                snapshot,
                owner,
                key,
                inbox,
            },
        );
        waits.deadlines.push(Reverse((deadline, id)));
        self.shared.arm(&mut waits);
        Ok(WaitId(id))
    }

    /// Takes a wait back. If this returns true, nobody else answers; if false, somebody else has.
    #[must_use]
    pub fn cancel(&self, id: WaitId) -> bool {
        let wait = self.shared.waits().open.remove(&id.0);
        wait.is_some()
    }

    /// Ends all waits for buffers of this owner.
    pub fn orphan(&self, owner: u64) {
        let orphans: Vec<Wait> = {
            let mut waits = self.shared.waits();
            let of_owner = |_: &u64, wait: &mut Wait| wait.owner == Some(owner);
            waits
                .open
                .extract_if(of_owner)
                .map(|(_, wait)| wait)
                .collect()
        };
        for wait in orphans {
            // What has ended in time counts, even if the thread hasn't seen it yet.
            let ending = match wait.snapshot.as_ref().map(Snapshot::state) {
                Some(State::Pending) | None => Ending::Orphaned,
                Some(state) => ending_of(state),
            };
            wait.end(ending);
        }
    }

    /// Waits open now, of all sessions.
    #[must_use]
    pub fn open(&self) -> usize {
        self.shared.waits().open.len()
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        self.shared.exit.set();
    }
}

impl Shared {
    fn watch(&self, fd: impl AsFd, id: u64) -> io::Result<()> {
        epoll::add(
            &self.epoll,
            fd,
            epoll::EventData::new_u64(id),
            epoll::EventFlags::IN,
        )
    }

    fn run(&self) {
        let mut events = Vec::with_capacity(BATCH);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None::<&Timespec>) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => {
                    log::error!("fences: can't wait any more: {errno}");
                    return;
                }
            }
            for event in &events {
                match event.data.u64() {
                    EXIT => return,
                    TIMER => self.expire(Instant::now()),
                    id => self.ready(id),
                }
            }
        }
    }

    /// The fences of a wait have ended, if it is still there.
    fn ready(&self, id: u64) {
        let wait = self.waits().open.remove(&id);
        let Some(wait) = wait else { return };
        let state = wait
            .snapshot
            .as_ref()
            .map_or(State::Pending, Snapshot::state);
        wait.end(ending_of(state));
    }

    fn expire(&self, now: Instant) {
        let _ = io::read(&self.timer, &mut [0; 8]);
        let mut late = Vec::new();
        let mut waits = self.waits();
        waits.armed = None;
        while let Some(&Reverse((deadline, id))) = waits.deadlines.peek()
            && deadline <= now
        {
            waits.deadlines.pop();
            late.extend(waits.open.remove(&id));
        }
        self.arm(&mut waits);
        drop(waits);
        for wait in late {
            wait.end(Ending::TimedOut);
        }
    }

    /// Sets the timer to the first deadline, if it isn't set to one before.
    fn arm(&self, waits: &mut Waits) {
        if waits.deadlines.len() > 2 * waits.open.len() + STALE_DEADLINES {
            let Waits {
                open, deadlines, ..
            } = waits;
            deadlines.retain(|Reverse((_, id))| open.contains_key(id));
        }
        let Some(&Reverse((first, _))) = waits.deadlines.peek() else {
            return;
        };
        if waits.armed.is_some_and(|armed| armed <= first) {
            return;
        }
        // Zero would disarm it.
        let rest = first
            .saturating_duration_since(Instant::now())
            .max(Duration::from_micros(1));
        let zero = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let once = Itimerspec {
            it_interval: zero,
            it_value: Timespec {
                tv_sec: i64::try_from(rest.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: rest.subsec_nanos().into(),
            },
        };
        let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once);
        waits.armed = Some(first);
    }

    fn waits(&self) -> MutexGuard<'_, Waits> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of a wait whose fd was ready. One that is pending all the same has lost its fence.
const fn ending_of(state: State) -> Ending {
    match state {
        State::Signalled {
            fences,
            timestamp_ns,
        } => Ending::Signalled {
            fences,
            timestamp_ns,
        },
        State::Failed(errno) => Ending::Failed(errno),
        State::Pending => Ending::Failed(dmabuf_protocol::Status::EIO.0),
    }
}
