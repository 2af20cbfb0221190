// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One at a time: who builds what is cached under `target/bed`.

use std::fs::{self, File};

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};

use crate::paths;

/// The right to change the cache, until it is dropped.
pub struct CacheLock(#[expect(dead_code, reason = "the lock is held by the open file")] File);

impl CacheLock {
    /// Waits until nobody else builds.
    pub fn take() -> Result<Self> {
        let cache = paths::bed_cache();
        fs::create_dir_all(&cache)?;
        let file =
            File::create(cache.join("lock")).context("can't create the cache's lock file")?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            eprintln!("waiting for another build in {}", cache.display());
            flock(&file, FlockOperation::LockExclusive).context("can't lock the cache")?;
        }
        Ok(Self(file))
    }
}
