// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The least that any hand-over costs here: a thread sleeps in epoll on an eventfd, another one writes to it.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{EventfdFlags, epoll, eventfd};

/// For the other thread to fall asleep: there is no event that tells.
pub const ASLEEP: Duration = Duration::from_millis(2);

/// Prints `PLACE/floor`: from before the write until the sleeper runs.
pub fn run(place: &str, rounds: u64) -> Result<()> {
    let event = eventfd(0, EventfdFlags::CLOEXEC)?;
    let sleeper = event.try_clone()?;
    let (sender, woken) = mpsc::channel();
    thread::spawn(move || -> Result<()> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(
            &poll,
            &sleeper,
            epoll::EventData::new_u64(0),
            epoll::EventFlags::IN,
        )?;
        loop {
            let mut events = Vec::with_capacity(1);
            epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None)?;
            let at = Instant::now();
            rustix::io::read(&sleeper, &mut [0; 8])?;
            sender.send(at)?;
        }
    });
    let mut durations = Vec::new();
    for _ in 0..rounds {
        thread::sleep(ASLEEP);
        let start = Instant::now();
        rustix::io::write(&event, &1_u64.to_ne_bytes())?;
        let end = woken.recv().context("the sleeper has failed")?;
        durations.push(end.saturating_duration_since(start));
    }
    crate::print(&format!("{place}/floor"), &durations)
}
