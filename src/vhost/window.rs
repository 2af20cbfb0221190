// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The thread that asks the front-end to map and unmap (vhost-user `SHMEM_MAP` and `SHMEM_UNMAP`).
//!
//! The back-end channel answers when the front-end likes, or never; so one thread owns it, and nobody else waits on
//! it. No lock that another thread needs is held while it waits: a front-end that handles a mapping may send
//! `SET_MEM_TABLE` first.

use super::running::{Epoch, Running};
use crate::session::{JobResult, MapError, Window, WindowJob};
use crate::sys::{self, EventFd};
use dmabuf_protocol::{Access, PAGE_SIZE};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::collections::HashSet;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use vhost::vhost_user::message::{VhostUserMMap, VhostUserMMapFlags};
use vhost::vhost_user::{Backend as Channel, VhostUserFrontendReqHandler};

/// What the mapper thread, the worker thread and the vhost-user thread share.
#[derive(Debug)]
pub struct MapperShared {
    /// The device runs: its control queue is started. Mapping while it doesn't crashes QEMU 11.1.
    running: Running,
    channel: Mutex<Option<ChannelSlot>>,
    results: Mutex<Vec<JobResult>>,
    wake: EventFd,
    /// Device and inode of everything that ever was in a window of this connection.
    inodes: Mutex<HashSet<(u64, u64)>>,
}

struct ChannelSlot(Channel);

impl std::fmt::Debug for ChannelSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Channel")
    }
}

impl MapperShared {
    /// For a VM with static windows of this memory, by device and inode.
    ///
    /// # Errors
    /// EMFILE, ENFILE.
    pub fn new(fixed: impl IntoIterator<Item = (u64, u64)>) -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            running: Running::default(),
            channel: Mutex::default(),
            results: Mutex::default(),
            wake: EventFd::new()?,
            inodes: Mutex::new(fixed.into_iter().collect()),
        }))
    }

    /// Takes the back-end channel of the connection.
    pub fn set_channel(&self, channel: Channel) {
        // Without this, a front-end that didn't negotiate REPLY_ACK would seem to confirm everything at once, the
        // sealed probe included. So an answer is asked for always; one that doesn't come is a time-out.
        channel.set_reply_ack_flag(true);
        *lock(&self.channel) = Some(ChannelSlot(channel));
    }

    /// Whether the device runs.
    pub const fn running(&self) -> &Running {
        &self.running
    }

    /// The event that is set while results wait.
    pub const fn wake(&self) -> &EventFd {
        &self.wake
    }

    /// Takes the results that wait.
    pub fn take_results(&self) -> Vec<JobResult> {
        self.wake.clear();
        std::mem::take(&mut *lock(&self.results))
    }

    /// Whether memory of the front-end is really a window of ours: a dma-buf, an alias, or a memfd that was mapped there.
    pub fn is_window(&self, fd: BorrowedFd<'_>) -> bool {
        sys::is_kernel_object(fd)
            || sys::inode(fd).is_ok_and(|inode| lock(&self.inodes).contains(&inode))
    }

    fn finish(&self, result: JobResult) {
        lock(&self.results).push(result);
        self.wake.set();
    }
}

/// The running thread.
pub struct Mapper {
    jobs: Sender<(Epoch, WindowJob)>,
    shared: Arc<MapperShared>,
    ended: Receiver<()>,
    thread: JoinHandle<()>,
    window_size: u64,
}

/// The session's end of it.
struct DynamicWindow {
    jobs: Sender<(Epoch, WindowJob)>,
    shared: Arc<MapperShared>,
    size: u64,
}

impl Window for DynamicWindow {
    fn size(&self) -> u64 {
        self.size
    }

    fn submit(&self, job: WindowJob) {
        // The thread ends only after all senders are gone.
        let _ = self.jobs.send((self.shared.running.epoch(), job));
    }
}

impl Mapper {
    /// Starts the thread.
    ///
    /// # Errors
    /// EAGAIN when no thread can be had, EMFILE.
    pub fn start(peer: &str, shared: Arc<MapperShared>, window_size: u64) -> std::io::Result<Self> {
        let (jobs, inbox) = channel::<(Epoch, WindowJob)>();
        let (on_end, ended) = channel();
        let mut front_end = FrontEnd::new(Arc::clone(&shared), window_size)?;
        let results = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name(format!("map {peer}"))
            .spawn(move || {
                for (epoch, job) in inbox {
                    let outcome = front_end.run(epoch, &job);
                    results.finish(JobResult {
                        mapping: job.mapping,
                        outcome,
                        probe: front_end.probe.to_wire(),
                    });
                }
                drop(on_end);
            })?;
        Ok(Self {
            jobs,
            shared,
            ended,
            thread,
            window_size,
        })
    }

    /// What a session submits jobs to.
    pub fn window(&self) -> impl Window + use<> {
        DynamicWindow {
            jobs: self.jobs.clone(),
            shared: Arc::clone(&self.shared),
            size: self.window_size,
        }
    }

    /// Waits until the thread has ended: all windows must be gone before.
    ///
    /// A front-end that keeps the channel open and never answers keeps the thread; it also keeps this VM's socket from
    /// being served again, so that it can't pile up threads.
    pub fn join(self, peer: &str) {
        drop(self.jobs);
        if self.ended.recv_timeout(Duration::from_secs(5)) == Err(RecvTimeoutError::Timeout) {
            log::warn!(
                "peer {peer}: its VMM is gone but holds the back-end channel open; waiting for it to be closed"
            );
        }
        if self.thread.join().is_err() {
            log::error!("peer {peer}: the mapper thread panicked");
        }
    }
}

/// What the sealed probe has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    NotRun,
    Honours,
    Ignores,
}

impl Probe {
    const fn to_wire(self) -> u32 {
        match self {
            Self::NotRun => 0,
            Self::Honours => 1,
            Self::Ignores => 2,
        }
    }
}

/// The front-end, as seen through the back-end channel.
struct FrontEnd {
    shared: Arc<MapperShared>,
    probe: Probe,
    /// One sealed page.
    sealed: OwnedFd,
    /// Where it is mapped for the probe: the window's last page, which is never given out.
    probe_offset: u64,
}

impl FrontEnd {
    fn new(shared: Arc<MapperShared>, window_size: u64) -> std::io::Result<Self> {
        let sealed = sys::memfd_create("sealed-probe", PAGE_SIZE, false)?;
        sys::seal_for_good(sealed.as_fd())?;
        lock(&shared.inodes).extend(sys::inode(sealed.as_fd()));
        let probe_offset = window_size.saturating_sub(PAGE_SIZE);
        Ok(Self {
            shared,
            probe: Probe::NotRun,
            sealed,
            probe_offset,
        })
    }

    /// Does a job, after a pause if there is one.
    fn run(&mut self, epoch: Epoch, job: &WindowJob) -> Result<(), MapError> {
        if self.shared.running.wait() != Some(epoch) {
            // The device was reset since, or has ended: the front-end has dropped its mappings.
            return if job.map.is_some() {
                Err(MapError::NotRunning)
            } else {
                Ok(())
            };
        }
        let channel = lock(&self.shared.channel)
            .as_ref()
            .map(|slot| slot.0.clone());
        let channel = channel.ok_or(MapError::Refused)?;
        let Some(map) = &job.map else {
            channel
                .shmem_unmap(&request(job.window_offset, job.length, 0, false))
                .map_err(|_| MapError::Refused)?;
            return Ok(());
        };
        if self.probe == Probe::NotRun {
            self.run_probe(&channel);
        }
        let writable = map.alias.access() == Access::ReadWrite;
        let fail_stop = if writable || self.probe == Probe::Honours {
            None
        } else if map.fail_stop {
            Some(
                map.alias
                    .fail_stop_fd()
                    .map_err(|_| MapError::IgnoresReadOnly)?,
            )
        } else {
            return Err(MapError::IgnoresReadOnly);
        };
        lock(&self.shared.inodes).extend(map.alias.buffer().inodes());
        let mut source = map.alias.source();
        if let Some(fd) = &fail_stop {
            source.fd = fd.as_fd();
        }
        let request = request(
            job.window_offset,
            job.length,
            source.offset + map.offset,
            writable,
        );
        channel
            .shmem_map(&request, &source.fd.as_raw_fd())
            .map_err(|_| MapError::Refused)?;
        if self.probe == Probe::Ignores {
            self.barrier(&channel);
        }
        Ok(())
    }

    /// Asks for a read-only mapping of a page that can't be mapped writable. Who succeeds has honoured the flag.
    fn run_probe(&mut self, channel: &Channel) {
        let page = request(self.probe_offset, PAGE_SIZE, 0, false);
        if channel.shmem_map(&page, &self.sealed.as_raw_fd()).is_ok() {
            self.probe = Probe::Honours;
            let _ = channel.shmem_unmap(&page);
        } else {
            self.probe = Probe::Ignores;
        }
        log::info!(
            "the front-end {} read-only mappings",
            if self.probe == Probe::Honours {
                "honours"
            } else {
                "does not honour"
            }
        );
    }

    /// Waits until an acknowledged mapping can be used.
    ///
    /// QEMU acknowledges a mapping before the guest can reach it, and handles the next request only after. The one
    /// request known to be refused, and to change nothing, is the probe it has refused before.
    fn barrier(&self, channel: &Channel) {
        let page = request(self.probe_offset, PAGE_SIZE, 0, false);
        let _ = channel.shmem_map(&page, &self.sealed.as_raw_fd());
    }
}

fn request(window_offset: u64, length: u64, fd_offset: u64, writable: bool) -> VhostUserMMap {
    let flags = if writable {
        VhostUserMMapFlags::WRITABLE
    } else {
        VhostUserMMapFlags::default()
    };
    VhostUserMMap {
        shmid: dmabuf_protocol::SHM_REGION_WINDOW,
        padding: [0; 7],
        fd_offset,
        shm_offset: window_offset,
        len: length,
        flags: flags.bits(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
