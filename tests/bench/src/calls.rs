// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How many system calls a process makes: each of its threads is stopped at each by ptrace(2), and counted. That slows it
//! down by far, so it has runs of its own, and nothing is timed in them.

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result};

use crate::sys::{self, Stop};

/// A process that is being counted, by another one: whose parent it is would get to see the stops, too.
pub struct Counted {
    tracer: Child,
    ask: ChildStdin,
    answer: BufReader<ChildStdout>,
}

impl Counted {
    /// Begins to count a process. Threads that it makes from now on are counted, too.
    pub fn begin(process: u32) -> Result<Self> {
        let mut tracer = Command::new(std::env::current_exe()?)
            .arg("count")
            .arg(process.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let ask = tracer.stdin.take().context("no pipe")?;
        let answer = BufReader::new(tracer.stdout.take().context("no pipe")?);
        let mut counted = Self {
            tracer,
            ask,
            answer,
        };
        counted.calls()?;
        Ok(counted)
    }

    /// System calls that were begun so far.
    pub fn calls(&mut self) -> Result<u64> {
        writeln!(self.ask)?;
        let mut line = String::new();
        self.answer.read_line(&mut line)?;
        line.trim()
            .parse()
            .context("system calls can't be counted here")
    }
}

impl Drop for Counted {
    /// What was counted goes on by itself.
    fn drop(&mut self) {
        let _ = self.tracer.kill();
        let _ = self.tracer.wait();
    }
}

/// The process that counts another one: says how much it is for each line of its standard input.
pub fn run(process: u32) -> Result<()> {
    let count = Arc::new(AtomicU64::new(0));
    let own = Arc::clone(&count);
    let (sender, begun) = mpsc::channel();
    // A tracer is a thread: that one waits for stops, this one for questions.
    thread::spawn(move || {
        let attached = attach(process);
        let goes_on = attached.is_ok();
        if sender.send(attached).is_ok() && goes_on {
            follow(&own);
        }
    });
    begun.recv().context("the tracer has failed")??;
    for line in std::io::stdin().lines() {
        line?;
        println!("{}", count.load(Ordering::Relaxed));
    }
    Ok(())
}

fn attach(process: u32) -> Result<()> {
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        let name = task?.file_name();
        let thread = name.to_str().and_then(|name| name.parse().ok());
        let thread = thread.context("a task without a number")?;
        sys::trace(thread).with_context(|| {
            format!("can't trace process {process}: may ptrace(2) be used here?")
        })?;
    }
    Ok(())
}

/// Lets the threads go on from stop to stop, until none is left.
fn follow(count: &AtomicU64) {
    // Threads that are in a system call, which stop once more at its end.
    let mut inside = HashSet::new();
    while let Some((thread, stop)) = sys::next_stop() {
        let signal = match stop {
            Stop::SystemCall => {
                if inside.insert(thread) {
                    count.fetch_add(1, Ordering::Relaxed);
                } else {
                    inside.remove(&thread);
                }
                0
            }
            Stop::Event => 0,
            Stop::Signal(signal) => signal,
            Stop::Ended => {
                inside.remove(&thread);
                continue;
            }
        };
        sys::go_on(thread, signal);
    }
}
