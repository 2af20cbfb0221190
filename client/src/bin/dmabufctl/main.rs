// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `dmabufctl`: what host processes can do with the daemon, on the command line.
//!
//! `main.rs` holds the arguments, [`produce`] what makes buffers, [`consume`] what reads them, [`streams`] what looks at
//! streams, [`watch`] again and again, [`usage`] at peers, [`grant`] tries what it may, [`show`] how they are printed.

mod consume;
mod derive_check;
mod grant;
mod produce;
mod show;
mod streams;
mod usage;
mod watch;

use clap::{Args, Parser, Subcommand, ValueEnum};
use dmabuf_client::arguments::{parse_hex, parse_seconds, parse_size};
use dmabuf_client::{Client, DEFAULT_SOCKET, Error, FenceUsage, Result};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// List, make, import and read shared buffers
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The daemon's broker socket
    #[arg(long, default_value = DEFAULT_SOCKET, global = true)]
    socket: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Buffers that this user may open
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// The daemon and this user's place in it, or one buffer
    Info {
        /// A buffer
        name: Option<String>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a buffer and publish it
    Alloc(AllocArguments),
    /// Publish memory that comes from elsewhere
    Import(ImportArguments),
    /// Take a published buffer back
    Withdraw {
        /// The buffer
        name: String,
    },
    /// Take a published buffer away from everybody who has it open; its bytes are zero then
    Revoke {
        /// The buffer
        name: String,
        /// Milliseconds that they get to let go of it, up to 60000
        #[arg(long, value_name = "MS", default_value_t = 1000)]
        deadline: u32,
    },
    /// CRC-32 (zlib's) of a buffer
    Crc {
        /// The buffer
        name: String,
        /// Bytes, from the start [default: all]
        #[arg(long, value_parser = parse_size)]
        size: Option<u64>,
    },
    /// Bytes of a buffer as hex
    Read {
        /// The buffer
        name: String,
        /// First byte
        #[arg(value_parser = parse_size)]
        offset: u64,
        /// Bytes
        #[arg(value_parser = parse_size)]
        size: u64,
    },
    /// Write a buffer's bytes to a file
    Dump {
        /// The buffer
        name: String,
        /// The file
        file: PathBuf,
        /// Bytes, from the start [default: all]
        #[arg(long, value_parser = parse_size)]
        size: Option<u64>,
    },
    /// Write into a buffer
    Write {
        /// The buffer
        name: String,
        /// First byte
        #[arg(value_parser = parse_size)]
        offset: u64,
        /// The bytes, like 00ff
        hex: Hex,
    },
    /// Wait until the hardware has finished with a buffer
    Wait {
        /// The buffer
        name: String,
        /// What it is to be ready for
        #[arg(long = "for", value_enum, default_value_t = Purpose::Read)]
        purpose: Purpose,
        /// Longest wait in seconds, like 0.5 [default: as long as the daemon allows]
        #[arg(long, value_parser = parse_seconds)]
        timeout: Option<Duration>,
    },
    /// Tell a buffer's producer that this user is done with it
    Release {
        /// The buffer
        name: String,
        /// A number for the producer
        #[arg(long, default_value_t = 0)]
        value: u64,
    },
    /// Check that aliases of a buffer can do no more than they may
    DeriveCheck {
        /// The buffer
        name: String,
    },
    /// Streams that this user may consume
    Streams,
    /// What a stream's producer and consumers have done; without a stream, what peers use of what they may have
    Stats {
        /// The stream
        name: Option<String>,
        /// Print again every so many seconds, with frames per second, until the stream ends
        #[arg(long, value_parser = parse_seconds)]
        every: Option<Duration>,
    },
    /// What this user may do with a buffer or a stream, and why not
    GrantCheck {
        /// The buffer, or the stream
        name: String,
        /// It is a stream
        #[arg(long)]
        stream: bool,
    },
    /// Watch streams and their consumers: frames per second, skipped, held; until the daemon ends
    Watch {
        /// Seconds from one look to the next, like 0.5
        #[arg(long, value_parser = parse_seconds, default_value = "1")]
        every: Duration,
        /// End after this many looks
        #[arg(long)]
        count: Option<u64>,
    },
    /// Print buffers that come and go, until the daemon ends
    Events {
        /// End after this many events
        #[arg(long)]
        count: Option<u64>,
    },
}

#[derive(Debug, Args)]
struct AllocArguments {
    /// Heap or pool that it comes from
    #[arg(long)]
    heap: String,
    /// Bytes [default: those of --file]
    #[arg(long, value_parser = parse_size, required_unless_present = "file")]
    size: Option<u64>,
    /// The name it gets
    #[arg(long)]
    name: String,
    /// Leave it in the daemon. Without this, it stays until stdin ends or this process does
    #[arg(long)]
    keep: bool,
    /// Fill it with these bytes over and over, like 00ff
    #[arg(long, conflicts_with = "file")]
    fill: Option<Hex>,
    /// Fill it with the bytes of a file
    #[arg(long)]
    file: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ImportArguments {
    /// The name it gets
    #[arg(long)]
    name: String,
    /// An fd that this process inherited: a dma-buf, or a memfd with F_SEAL_SHRINK
    #[arg(long, conflicts_with = "file", required_unless_present = "file")]
    fd: Option<i32>,
    /// A file, whose bytes are copied into a sealed memfd
    #[arg(long)]
    file: Option<PathBuf>,
    /// Leave it in the daemon. Without this, it stays until stdin ends or this process does
    #[arg(long)]
    keep: bool,
}

/// What a buffer is waited for.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Purpose {
    /// Whoever writes it has finished
    Read,
    /// Everybody has finished
    Write,
}

impl From<Purpose> for FenceUsage {
    fn from(purpose: Purpose) -> Self {
        match purpose {
            Purpose::Read => Self::Read,
            Purpose::Write => Self::Write,
        }
    }
}

/// Bytes on the command line.
#[derive(Clone, Debug)]
struct Hex(Vec<u8>);

impl std::str::FromStr for Hex {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parse_hex(text).map(Self)
    }
}

fn run(arguments: &Arguments, out: &mut impl Write) -> Result<()> {
    let mut client = Client::connect(&arguments.socket)?;
    if let Command::GrantCheck { name, stream: true } = &arguments.command {
        return grant::stream(client, name, out);
    }
    let client = &mut client;
    match &arguments.command {
        Command::List { json: false } => show::table(out, &client.list()?),
        Command::List { json: true } => show::list_json(out, &client.list()?),
        Command::Info { name: None, json } => show::peer(out, &client.info()?, *json),
        Command::Info {
            name: Some(name),
            json,
        } => show::buffer(out, &consume::find(client, name)?, *json),
        Command::Alloc(alloc) => produce::alloc(client, alloc, out),
        Command::Import(import) => produce::import(client, import, out),
        Command::Withdraw { name } => client.withdraw(name),
        Command::Revoke { name, deadline } => {
            produce::revoke(client, name, Duration::from_millis((*deadline).into()), out)
        }
        Command::Crc { name, size } => consume::crc(client, name, *size, out),
        Command::Read { name, offset, size } => consume::read(client, name, *offset, *size, out),
        Command::Dump { name, file, size } => consume::dump(client, name, file, *size),
        Command::Write { name, offset, hex } => consume::write(client, name, *offset, &hex.0),
        Command::Wait {
            name,
            purpose,
            timeout,
        } => {
            let limit = timeout.unwrap_or_default();
            consume::wait(client, name, (*purpose).into(), limit, out)
        }
        Command::Release { name, value } => consume::release(client, name, *value),
        Command::Streams => streams::list(client, out),
        Command::Stats { name: None, every } => usage::table(client, *every, out),
        Command::Stats {
            name: Some(name),
            every,
        } => streams::stats(client, name, *every, out),
        Command::DeriveCheck { name } => derive_check::run(client, name, out),
        Command::GrantCheck { name, .. } => grant::buffer(client, name, out),
        Command::Watch { every, count } => watch::run(client, *every, *count, out),
        Command::Events { count } => consume::events(client, *count, out),
    }
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    match run(&Arguments::parse(), &mut std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
