// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The first page of a buffer that both sides have mapped read-write, as three counters.
//!
//! The host asks for a round, the guest says that its fence is armed, and answers. Answering is a single store, which
//! the host sees while it spins: there is no wake in it. The host's side measures even that, as `guest/answer`.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::sys::Shared;

/// How long the other side may take.
const LIMIT: Duration = Duration::from_secs(20);

/// What the guest has to do in a round; the low bits of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Sleep in poll() on the dma-buf.
    DmaBuf,
    /// Sleep in poll() on the sync_file.
    SyncFile,
    /// Answer the second request while spinning: nothing sleeps.
    Answer,
    /// Go.
    End,
}

impl Task {
    const ALL: [Self; 4] = [Self::DmaBuf, Self::SyncFile, Self::Answer, Self::End];

    /// The request that starts a round.
    fn request(self, round: u64) -> u64 {
        let index = Self::ALL.iter().position(|task| *task == self);
        round << 8
            | index
                .and_then(|index| u64::try_from(index).ok())
                .unwrap_or(0)
    }

    fn of(request: u64) -> Option<Self> {
        let index = usize::try_from(request & 0xff).ok()?;
        Self::ALL.get(index).copied()
    }
}

/// The counters' places.
const REQUEST: usize = 0;
const ARMED: usize = 1;
const GO: usize = 2;
const ANSWER: usize = 3;

/// The page.
pub struct Page(pub Shared);

impl Page {
    /// Host: starts a round, and waits until the guest is about to sleep.
    pub fn start(&self, task: Task, round: u64) -> Result<()> {
        self.0
            .word(REQUEST)
            .store(task.request(round), Ordering::Release);
        if task == Task::End {
            return Ok(());
        }
        self.wait(ARMED, round, "arm its fence")
    }

    /// Host: lets a guest that spins answer.
    pub fn go(&self, round: u64) {
        self.0.word(GO).store(round, Ordering::Release);
    }

    /// Host: spins until the guest has answered.
    pub fn answered(&self, round: u64) -> Result<()> {
        self.wait(ANSWER, round, "answer")
    }

    /// Guest: the next round, by looking now and then.
    pub fn next(&self, last: u64) -> Result<(Task, u64)> {
        loop {
            let request = self.0.word(REQUEST).load(Ordering::Acquire);
            if let Some(task) = Task::of(request)
                && request >> 8 != last
            {
                return Ok((task, request >> 8));
            }
            thread::sleep(Duration::from_micros(200));
        }
    }

    /// Guest: it is about to sleep, or to spin.
    pub fn arm(&self, round: u64) {
        self.0.word(ARMED).store(round, Ordering::Release);
    }

    /// Guest: spins until it may answer.
    pub fn wait_go(&self, round: u64) -> Result<()> {
        self.wait(GO, round, "let it go")
    }

    /// Guest: it is awake.
    pub fn answer(&self, round: u64) {
        self.0.word(ANSWER).store(round, Ordering::Release);
    }

    fn wait(&self, place: usize, round: u64, what: &str) -> Result<()> {
        let start = Instant::now();
        while self.0.word(place).load(Ordering::Acquire) != round {
            // Whoever else has work comes first: two processors have to do for host and guest.
            thread::yield_now();
            if start.elapsed() > LIMIT {
                bail!("the other side did not {what} in round {round}");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Task;

    #[test]
    fn requests_carry_task_and_round() {
        for task in Task::ALL {
            let request = task.request(77);
            assert_eq!((Task::of(request), request >> 8), (Some(task), 77));
        }
        assert_eq!(Task::of(99), None);
        assert_ne!(Task::DmaBuf.request(1), 0, "a fresh page asks for nothing");
    }
}
