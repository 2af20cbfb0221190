// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a frame costs when it is copied: by memcpy, and through a Unix socket to a thread that sleeps in read().

use std::hint::black_box;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};

use crate::floor::ASLEEP;

/// NV12 frames: a small one, and 4K.
pub const FRAMES: [(&str, usize); 2] = [("64x64", 64 * 64 * 3 / 2), ("4k", 3840 * 2160 * 3 / 2)];

/// Prints `PLACE/memcpy-SIZE` and `PLACE/socket-SIZE`: from the start of the copy until the other side has all of it.
pub fn run(place: &str, rounds: u64) -> Result<()> {
    for (name, size) in FRAMES {
        let frame = vec![0x5a_u8; size];
        let mut copy = vec![0; size];
        let durations: Vec<_> = (0..rounds)
            .map(|_| {
                let start = Instant::now();
                copy.copy_from_slice(black_box(&frame));
                black_box(&mut copy);
                start.elapsed()
            })
            .collect();
        crate::print(&format!("{place}/memcpy-{name}"), &durations)?;

        let (mut to, mut from) = UnixStream::pair()?;
        let (sender, received) = mpsc::channel();
        let reader = thread::spawn(move || -> Result<()> {
            for _ in 0..rounds {
                from.read_exact(&mut copy)?;
                sender.send(Instant::now())?;
            }
            Ok(())
        });
        let mut durations = Vec::new();
        for _ in 0..rounds {
            thread::sleep(ASLEEP);
            let start = Instant::now();
            to.write_all(&frame)?;
            let end = received.recv().context("the reader has failed")?;
            durations.push(end.saturating_duration_since(start));
        }
        reader.join().map_err(|_| anyhow!("the reader died"))??;
        crate::print(&format!("{place}/socket-{name}"), &durations)?;
    }
    Ok(())
}
