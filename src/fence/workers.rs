// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Threads for the calls that can block: the begin of CPU access waits for fences, for as long as those take.
//!
//! One thread is always there; while all are busy, further jobs get further threads, which end when there is nothing
//! left to do. How many jobs a session may have here at once is its own affair, and bounds the number of threads.

use super::{FenceSource, Hold, Inbox, Kernel, Note};
use crate::buffer::Buffer;
use dmabuf_protocol::{FenceUsage, SyncDirection};
use rustix::io::{self, Errno};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// An access of the CPU that has begun. It ends when this is dropped, at the latest.
#[derive(Debug)]
pub struct Bracket {
    direction: SyncDirection,
    /// `None` for memory without a dma-buf, and once it was closed.
    open: Option<(Arc<Buffer>, Arc<Shared>)>,
}

impl Bracket {
    /// One of memory that has no dma-buf: nothing to do but to count it.
    #[must_use]
    pub const fn counted(direction: SyncDirection) -> Self {
        Self {
            direction,
            open: None,
        }
    }

    /// What the CPU does.
    #[must_use]
    pub const fn direction(&self) -> SyncDirection {
        self.direction
    }

    fn close(mut self) -> io::Result<()> {
        let Some((buffer, shared)) = self.open.take() else {
            return Ok(());
        };
        let dma_buf = buffer.dma_buf().ok_or(Errno::NOTTY)?;
        shared.kernel.sync(dma_buf, self.direction, true)
    }
}

impl Drop for Bracket {
    fn drop(&mut self) {
        if let Some((buffer, shared)) = self.open.take() {
            let bracket = Self {
                direction: self.direction,
                open: Some((buffer, Arc::clone(&shared))),
            };
            shared.submit(Task::Close(bracket));
        }
    }
}

/// What a worker does for a session. Its result comes to an inbox, under a key.
#[derive(Debug)]
pub enum Job {
    /// Open a bracket.
    Begin {
        /// Of this buffer, which has a dma-buf.
        buffer: Arc<Buffer>,
        /// For this.
        direction: SyncDirection,
    },
    /// Close one.
    Finish(Bracket),
    /// Put a fence on a buffer.
    Attach {
        /// The buffer, which has a dma-buf.
        buffer: Arc<Buffer>,
        /// Whose fence.
        usage: FenceUsage,
        /// From here.
        source: FenceSource,
    },
}

enum Task {
    Job(Job, u64, Arc<Inbox>),
    Close(Bracket),
    Errand(Box<dyn FnOnce() + Send>),
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Job(..) => "Job",
            Self::Close(_) => "Close",
            Self::Errand(_) => "Errand",
        })
    }
}

/// See the module. The threads end when it is dropped and everything is done.
#[derive(Debug)]
pub struct Workers(Arc<Shared>);

/// The way to have the workers do something of which no session waits to hear.
#[derive(Clone, Debug)]
pub struct Errands(Arc<Shared>);

impl Errands {
    /// How brackets are made.
    #[must_use]
    pub fn kernel(&self) -> &dyn Kernel {
        self.0.kernel.as_ref()
    }

    /// Starts an errand; never blocks.
    pub fn run(&self, errand: impl FnOnce() + Send + 'static) {
        self.0.submit(Task::Errand(Box::new(errand)));
    }
}

#[derive(Debug)]
struct Shared {
    kernel: Arc<dyn Kernel>,
    queue: Mutex<Queue>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    tasks: VecDeque<Task>,
    /// Threads that wait for a task.
    idle: usize,
    ended: bool,
}

impl Workers {
    /// Starts the first thread.
    ///
    /// # Errors
    /// EAGAIN when no thread can be had.
    pub fn start(kernel: Arc<dyn Kernel>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            kernel,
            queue: Mutex::default(),
            more: Condvar::new(),
        });
        let own = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("sync".to_owned())
            .spawn(move || own.run(true))?;
        Ok(Self(shared))
    }

    /// Starts a job; never blocks.
    pub fn submit(&self, job: Job, key: u64, inbox: &Arc<Inbox>) {
        self.0.submit(Task::Job(job, key, Arc::clone(inbox)));
    }

    /// For what isn't a session's.
    #[must_use]
    pub fn errands(&self) -> Errands {
        Errands(Arc::clone(&self.0))
    }

    pub(super) fn kernel(&self) -> &dyn Kernel {
        self.0.kernel.as_ref()
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.0.queue().ended = true;
        self.0.more.notify_all();
    }
}

impl Shared {
    fn submit(self: &Arc<Self>, task: Task) {
        let mut queue = self.queue();
        queue.tasks.push_back(task);
        let enough = queue.idle >= queue.tasks.len();
        drop(queue);
        if enough {
            return self.more.notify_one();
        }
        let own = Arc::clone(self);
        // Without a further thread, one that is there does it later.
        let _ = std::thread::Builder::new()
            .name("sync".to_owned())
            .spawn(move || own.run(false));
    }

    fn run(self: &Arc<Self>, stays: bool) {
        while let Some(task) = self.next(stays) {
            match task {
                Task::Close(bracket) => drop(bracket.close()),
                Task::Errand(errand) => errand(),
                Task::Job(job, key, inbox) => {
                    let note = self.perform(job);
                    inbox.push(key, note);
                }
            }
        }
    }

    fn next(&self, stays: bool) -> Option<Task> {
        let mut queue = self.queue();
        loop {
            if let Some(task) = queue.tasks.pop_front() {
                return Some(task);
            }
            if queue.ended || !stays {
                return None;
            }
            queue.idle += 1;
            queue = self
                .more
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
        }
    }

    fn perform(self: &Arc<Self>, job: Job) -> Note {
        match job {
            Job::Begin { buffer, direction } => Note::Begun(self.begin(buffer, direction)),
            Job::Finish(bracket) => Note::Finished(bracket.close()),
            Job::Attach {
                buffer,
                usage,
                source,
            } => Note::Attached(attach(&buffer, usage, &source)),
        }
    }

    fn begin(
        self: &Arc<Self>,
        buffer: Arc<Buffer>,
        direction: SyncDirection,
    ) -> io::Result<Bracket> {
        let dma_buf = buffer.dma_buf().ok_or(Errno::NOTTY)?;
        self.kernel.sync(dma_buf, direction, false)?;
        Ok(Bracket {
            direction,
            open: Some((buffer, Arc::clone(self))),
        })
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn attach(buffer: &Buffer, usage: FenceUsage, source: &FenceSource) -> io::Result<Hold> {
    source.hold(buffer.dma_buf().ok_or(Errno::NOTTY)?, usage)
}
