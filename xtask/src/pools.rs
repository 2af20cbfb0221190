// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Before the guest starts: its static pools have to be there.
//!
//! A pool of kind `memfd` gets its link when it is sealed, and that is when its last slot has been published. Either
//! the user's own start command does it, or the bed fills the slots with buffers `bed/0`, `bed/1`…

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::time::Timespec;

use crate::paths;
use crate::plan::PoolConfig;
use crate::process::output_of;

/// How long the start command has until all pools are there.
const LIMIT: Duration = Duration::from_secs(60);

/// Publishes all slots of the pools that have no link yet.
pub fn fill(pools: &[PoolConfig]) -> Result<()> {
    let mut number = 0;
    for pool in pools.iter().filter(|pool| !pool.link.exists()) {
        for _ in 0..pool.slots {
            let mut command = Command::new(Path::new(paths::IO).join("bin/dmabufctl"));
            command
                .args(["alloc", "--heap", &pool.name, "--size", &pool.slot_size])
                .args(["--name", &format!("bed/{number}"), "--keep"]);
            output_of(&mut command).with_context(|| {
                format!(
                    "can't fill pool {:?} (may uid 0 allocate and publish?)",
                    pool.name
                )
            })?;
            number += 1;
        }
    }
    Ok(())
}

/// Waits until all pools have their links.
pub fn wait(pools: &[PoolConfig]) -> Result<()> {
    let changes = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    for pool in pools {
        let directory = pool.link.parent().unwrap_or(Path::new("/"));
        inotify::add_watch(
            &changes,
            directory,
            WatchFlags::CREATE | WatchFlags::MOVED_TO,
        )
        .with_context(|| format!("can't watch {}", directory.display()))?;
    }
    let deadline = Instant::now() + LIMIT;
    loop {
        let missing: Vec<&PathBuf> = pools
            .iter()
            .map(|pool| &pool.link)
            .filter(|link| !link.exists())
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let mut poll = [PollFd::new(&changes, PollFlags::IN)];
        if rustix::event::poll(&mut poll, Some(&Timespec::try_from(left)?))? == 0 {
            bail!(
                "after {} s there is still no {missing:?}: publish all slots of a memfd pool to seal it",
                LIMIT.as_secs()
            );
        }
        // What has changed does not matter: the links are looked at again.
        let mut events = [const { std::mem::MaybeUninit::uninit() }; 4096];
        let mut reader = inotify::Reader::new(&changes, &mut events);
        while reader.next().is_ok() {}
    }
}
