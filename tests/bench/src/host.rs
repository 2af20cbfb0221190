// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The host: puts fences of vgem on a buffer, signals them, and takes the time until somebody has woken up.
//!
//! All times are of this clock: a guest answers by a store into a page that both have mapped, and this side spins on it.
//! What that way alone costs, there and back, is measured as `guest/answer`.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use dmabuf_client::{Access, Client};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::floor::ASLEEP;
use crate::page::{Page, Task};
use crate::sys::{self, Shared};

/// The shared page.
pub const PAGE: &str = "rw/bench-page";
/// The buffer with the fences.
pub const BUFFER: &str = "rw/bench-buffer";

const VGEM: &str = "/dev/dri/renderD128";
const SIZE: u64 = 1 << 16;

/// Measures everything; the guest's side has to be started, too.
pub fn run(broker: &Path, heap: &str, rounds: u64) -> Result<()> {
    let mut client = Client::connect(broker)?;
    let page = client.alloc(heap, SIZE)?;
    client.publish(&page, PAGE, None, false)?;
    let buffer = client.alloc(heap, SIZE)?;
    client.publish(&buffer, BUFFER, None, false)?;
    let source = Source::new(buffer.as_fd())?;
    let page = Page(Shared::map(page.as_fd(), page.fd_offset())?);
    let mut first = 1;
    for (name, task) in [
        ("guest/answer", Task::Answer),
        ("guest/dma-buf", Task::DmaBuf),
        ("guest/sync-file", Task::SyncFile),
    ] {
        let durations = (first..first + rounds).map(|round| in_guest(&source, &page, task, round));
        crate::print(name, &durations.collect::<Result<Vec<_>>>()?)?;
        first += rounds;
    }
    page.start(Task::End, first)?;

    let alias = Client::connect(broker)?.open(BUFFER, Access::ReadWrite)?;
    let durations = (0..rounds).map(|_| on_host(&source, alias.as_fd()));
    crate::print("host/dma-buf", &durations.collect::<Result<Vec<_>>>()?)
}

/// From the signal until the guest's answer is seen.
fn in_guest(source: &Source, page: &Page, task: Task, round: u64) -> Result<Duration> {
    let fence = if task == Task::Answer {
        None
    } else {
        Some(source.attach()?)
    };
    page.start(task, round)?;
    thread::sleep(ASLEEP);
    let start = Instant::now();
    match fence {
        Some(fence) => source.signal(fence)?,
        None => page.go(round),
    }
    page.answered(round)?;
    Ok(start.elapsed())
}

/// From the signal until another thread has woken up in poll().
fn on_host(source: &Source, file: BorrowedFd<'_>) -> Result<Duration> {
    let fence = source.attach()?;
    thread::scope(|scope| {
        let sleeper = scope.spawn(move || -> Result<Instant> {
            let mut wanted = [PollFd::new(&file, PollFlags::IN)];
            let limit = Timespec {
                tv_sec: 9,
                tv_nsec: 0,
            };
            ensure!(
                poll(&mut wanted, Some(&limit))? == 1,
                "the fence did not end"
            );
            Ok(Instant::now())
        });
        thread::sleep(ASLEEP);
        let start = Instant::now();
        source.signal(fence)?;
        let woken = sleeper.join().map_err(|_| anyhow!("the sleeper died"))??;
        Ok(woken.saturating_duration_since(start))
    })
}

/// Fences of vgem on one buffer.
struct Source {
    vgem: File,
    imported: u32,
}

impl Source {
    fn new(dma_buf: BorrowedFd<'_>) -> Result<Self> {
        let mut options = OpenOptions::new();
        let vgem = options.read(true).write(true).open(VGEM);
        let vgem = vgem.with_context(|| format!("can't open {VGEM}"))?;
        let imported = sys::vgem_import(&vgem, dma_buf).context("vgem does not import")?;
        Ok(Self { vgem, imported })
    }

    fn attach(&self) -> Result<u32> {
        sys::vgem_attach(&self.vgem, self.imported).context("vgem takes no fence")
    }

    fn signal(&self, fence: u32) -> Result<()> {
        sys::vgem_signal(&self.vgem, fence).context("vgem does not signal")
    }
}
