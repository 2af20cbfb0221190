// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Measures what `cargo xtask bench` prints.
//!
//! Output: `bench PLACE/WHAT UNIT VALUE…`, a value per round, in the order of the rounds. `PLACE/floor` is what the
//! others of that place are compared to: the wake of a thread that sleeps in epoll on an eventfd.
//!
//! * [`floor`]: that wake
//! * [`copies`]: what a frame costs when it is copied
//! * [`streams`]: what it costs when it is handed over instead; [`calls`]: the system calls of that
//! * [`host`]: signals the fences, and takes all times: the guest's clock is never read
//! * [`guest`]: waits for them in the guest
//! * [`page`]: the page that both share, on which the guest answers

mod calls;
mod copies;
mod floor;
mod guest;
mod host;
mod page;
mod streams;
mod sys;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Measures how long fences and frames take.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
    /// How often everything is measured
    #[arg(long, global = true, default_value_t = 500)]
    rounds: u64,
}

#[derive(Subcommand)]
enum What {
    /// The bare wake by an eventfd, here
    Floor {
        /// What this place is called in the output: host, guest
        #[arg(long)]
        place: String,
    },
    /// The copies of a frame that shared buffers do without
    Copies {
        /// What this place is called in the output
        #[arg(long)]
        place: String,
    },
    /// Streams: what a frame costs when it is handed over instead
    Streams {
        /// The program to measure
        #[arg(long)]
        daemon: PathBuf,
    },
    /// The consumers of those, where their system calls are counted
    Consumers {
        /// The broker's socket
        socket: PathBuf,
        /// How many
        count: u64,
    },
    /// The process that counts another one's system calls
    Count {
        /// Its number
        process: u32,
    },
    /// The host side: fences of vgem on a buffer of a heap
    FencesHost {
        /// The broker's socket
        #[arg(long, default_value = dmabuf_client::DEFAULT_SOCKET)]
        broker: PathBuf,
        /// The heap
        #[arg(long, default_value = "system")]
        heap: String,
    },
    /// The guest side
    FencesGuest,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let rounds = arguments.rounds;
    let result = match &arguments.what {
        What::Floor { place } => floor::run(place, rounds),
        What::Copies { place } => copies::run(place, rounds),
        What::Streams { daemon } => streams::run(daemon, rounds),
        What::Consumers { socket, count } => streams::consumers(socket, *count),
        What::Count { process } => calls::run(*process),
        What::FencesHost { broker, heap } => host::run(broker, heap, rounds),
        What::FencesGuest => guest::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dmabuf-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints the durations of one thing, in microseconds.
fn print(name: &str, durations: &[Duration]) -> Result<()> {
    let mut line = format!("bench {name} us");
    for duration in durations {
        write!(line, " {:.1}", duration.as_secs_f64() * 1e6)?;
    }
    println!("{line}");
    Ok(())
}
