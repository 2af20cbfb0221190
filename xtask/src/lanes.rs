// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Beds side by side: a bed keeps hardly more than one core busy (the host VM has one CPU), so there is a lane per core.
//!
//! What a job tells is printed when it has ended, so that the lines of two jobs don't mix. A job alone tells it at once.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use crate::tally::Tally;

/// At most so many beds at once: each has up to 5 GiB of memory.
const MOST: usize = 4;

/// Something that runs in a bed of its own.
pub struct Job<'a> {
    /// Its name, as `--only` knows it.
    pub name: String,
    /// Does it, and tells of it.
    pub run: Box<dyn FnOnce(&mut Told) + Send + 'a>,
}

/// What a job has to tell.
pub struct Told {
    at_once: bool,
    lines: Vec<String>,
    checks: Vec<(String, bool)>,
}

impl Told {
    /// A line for people.
    pub fn line(&mut self, text: impl Into<String>) {
        let text = text.into();
        if self.at_once {
            println!("    {text}");
        } else {
            self.lines.push(text);
        }
    }

    /// A check to be counted.
    pub fn count(&mut self, name: impl Into<String>, pass: bool) {
        self.checks.push((name.into(), pass));
    }
}

/// Runs all jobs, as many at once as this machine has cores for, and counts their checks.
pub fn run(jobs: Vec<Job<'_>>, tally: &mut Tally) {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let lanes = cores.min(MOST).min(jobs.len());
    let at_once = jobs.len() == 1;
    let queue = Mutex::new(VecDeque::from(jobs));
    let tally = Mutex::new(tally);
    let next = || {
        let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.pop_front()
    };
    thread::scope(|scope| {
        for _ in 0..lanes {
            scope.spawn(|| {
                while let Some(job) = next() {
                    let start = Instant::now();
                    let mut told = Told {
                        at_once,
                        lines: Vec::new(),
                        checks: Vec::new(),
                    };
                    let say_name = || println!("==> {}", job.name);
                    if at_once {
                        say_name();
                    }
                    (job.run)(&mut told);
                    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                    if !at_once {
                        say_name();
                    }
                    for line in told.lines {
                        println!("    {line}");
                    }
                    println!("    {:.1} s", start.elapsed().as_secs_f32());
                    for (name, pass) in told.checks {
                        tally.count(name, pass);
                    }
                }
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::{Job, run};
    use crate::tally::Tally;

    #[test]
    fn every_job_runs_once_and_is_counted() {
        let job = |number: usize| Job {
            name: format!("job {number}"),
            run: Box::new(move |told| {
                told.line("a line");
                told.count(format!("job {number}"), number != 7);
            }),
        };
        let mut tally = Tally::default();
        run((0..40).map(job).collect(), &mut tally);
        assert_eq!(tally.summary(), "39 passed, 1 failed, 0 skipped");
        run(Vec::new(), &mut tally);
    }
}
