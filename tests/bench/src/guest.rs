// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest: sleeps until a fence of the host ends, and answers on the shared page as soon as it runs again.

use std::fs::OpenOptions;

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::host::{BUFFER, PAGE};
use crate::page::{Page, Task};
use crate::sys::{self, Shared};

/// Carries out rounds until the host says that it was the last.
pub fn run() -> Result<()> {
    let node = "/dev/virtio-dmabuf0";
    let mut options = OpenOptions::new();
    let driver = options.read(true).write(true).open(node);
    let driver = driver.with_context(|| format!("can't open {node}"))?;
    let page = Page(Shared::map(sys::driver_open(&driver, PAGE)?, 0)?);
    let buffer = sys::driver_open(&driver, BUFFER)?;
    let mut last = 0;
    loop {
        let (task, round) = page.next(last)?;
        last = round;
        if task == Task::End {
            return Ok(());
        }
        if task == Task::Answer {
            page.arm(round);
            page.wait_go(round)?;
            page.answer(round);
            continue;
        }
        let fence = sys::driver_fence(&driver, &buffer)?;
        let file = if task == Task::DmaBuf {
            &buffer
        } else {
            &fence
        };
        let mut wanted = [PollFd::new(file, PollFlags::IN)];
        let now = Timespec::default();
        ensure!(
            poll(&mut wanted, Some(&now))? == 0,
            "the fence of round {round} has ended before it was signalled"
        );
        page.arm(round);
        let limit = Timespec {
            tv_sec: 9,
            tv_nsec: 0,
        };
        ensure!(
            poll(&mut wanted, Some(&limit))? == 1,
            "the fence of round {round} did not end"
        );
        page.answer(round);
    }
}
