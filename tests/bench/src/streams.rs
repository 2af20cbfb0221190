// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a frame costs when it is handed over: from the producer's STREAM_QUEUE until a consumer that sleeps in poll() has a
//! FRAME event to read; the daemon's CPU time for a frame and all its consumers; and the system calls, of the daemon for
//! that and of each consumer, in a run of its own.
//!
//! Everything is a process of its own, or a thread with a connection of its own, on one machine. The frame's bytes stay
//! where they are, so that its size can't matter: both sizes are measured to show it.

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use dmabuf_client::stream::{ConsumeMode, Consumer, Producer};
use dmabuf_client::{Client, Status};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::calls::Counted;
use crate::copies::FRAMES;
use crate::floor::ASLEEP;
use crate::sys;

const CONSUMERS: [u64; 4] = [1, 4, 16, 64];
const BUFFERS: u32 = 4;
const LIMIT: Duration = Duration::from_secs(10);

/// Frames of which the system calls are counted, after as many that aren't.
const COUNTED: u64 = 20;

/// Prints `host/stream-SIZE-CONSUMERS`, `host/cpu-SIZE-CONSUMERS`, `host/calls-SIZE-CONSUMERS` and
/// `host/consumer-calls-SIZE-CONSUMERS`.
pub fn run(program: &Path, rounds: u64) -> Result<()> {
    for (name, size) in FRAMES {
        for consumers in CONSUMERS {
            let daemon = Daemon::start(program, size)?;
            // As many hand-overs in all, within limits: each frame is one for every consumer.
            let frames = (rounds / consumers).max(50);
            let (latencies, cpu) = measure(&daemon, size, consumers, frames)?;
            crate::print(&format!("host/stream-{name}-{consumers}"), &latencies)?;
            crate::print(&format!("host/cpu-{name}-{consumers}"), &cpu)?;
            drop(daemon);
            let daemon = Daemon::start(program, size)?;
            let (calls, own) = count(&daemon, size, consumers)?;
            println!("bench host/calls-{name}-{consumers} calls {calls:.1}");
            println!("bench host/consumer-calls-{name}-{consumers} calls {own:.1}");
        }
    }
    Ok(())
}

/// A stream, and the buffers that aren't queued yet.
fn produce(client: &mut Client, size: usize) -> Result<Producer> {
    let mut slots = Vec::new();
    for _ in 0..BUFFERS {
        let slot = client.alloc("frames", u64::try_from(size)?)?;
        let mapping = slot.map_mut()?;
        slots.push((slot, mapping));
    }
    for (number, (slot, _)) in slots.iter().enumerate() {
        client.publish(slot, &format!("frame/{number}"), None, false)?;
    }
    let producer = Producer::create(client, "bench", None)?;
    for (slot, _) in &slots {
        producer.add(client, slot)?;
    }
    Ok(producer)
}

/// A buffer for a frame: the first ones are there, later ones come back.
fn buffer(producer: &Producer, client: &mut Client, frame: u64) -> Result<u32> {
    if frame < BUFFERS.into() {
        return Ok(u32::try_from(frame)?);
    }
    let free = producer.reclaim(client, LIMIT)?;
    free.context("no buffer comes back")
}

/// From QUEUE to each consumer's wake; and the daemon's CPU time for each frame.
fn measure(
    daemon: &Daemon,
    size: usize,
    consumers: u64,
    frames: u64,
) -> Result<(Vec<Duration>, Vec<Duration>)> {
    let mut client = daemon.connect()?;
    let producer = produce(&mut client, size)?;
    let (ready, readies) = mpsc::channel();
    let (woken, wakes) = mpsc::channel();
    let threads = (0..consumers)
        .map(|_| {
            let consumer = Consumer::open(daemon.connect()?, "bench", ConsumeMode::Latest)?;
            let (ready, woken) = (ready.clone(), woken.clone());
            Ok(thread::spawn(move || {
                consume(consumer, frames, &ready, &woken)
            }))
        })
        .collect::<Result<Vec<_>>>()?;
    let (mut latencies, mut cpu) = (Vec::new(), Vec::new());
    for frame in 0..frames {
        let index = buffer(&producer, &mut client, frame)?;
        for _ in 0..consumers {
            readies.recv_timeout(LIMIT).context("a consumer is gone")?;
        }
        thread::sleep(ASLEEP);
        let before = daemon.cpu_time()?;
        let start = Instant::now();
        producer.queue(&mut client, index, 0)?;
        for _ in 0..consumers {
            let at = wakes.recv_timeout(LIMIT).context("a consumer sleeps on")?;
            latencies.push(at.saturating_duration_since(start));
        }
        // What the consumers' ACQUIRE and RELEASE cost is part of it.
        thread::sleep(ASLEEP);
        cpu.push(daemon.cpu_time()?.saturating_sub(before));
    }
    for thread in threads {
        thread.join().map_err(|_| anyhow!("a consumer died"))??;
    }
    Ok((latencies, cpu))
}

fn consume(
    mut consumer: Consumer,
    frames: u64,
    ready: &Sender<()>,
    woken: &Sender<Instant>,
) -> Result<()> {
    for _ in 0..frames {
        ensure!(consumer.try_next()?.is_none(), "a frame that wasn't queued");
        ready.send(())?;
        // Other events wake, too: of buffers that come.
        let (frame, at) = loop {
            let limit = Timespec::try_from(LIMIT)?;
            let mut wanted = [PollFd::new(&consumer, PollFlags::IN)];
            ensure!(poll(&mut wanted, Some(&limit))? == 1, "no frame comes");
            let at = Instant::now();
            if let Some(frame) = consumer.try_next()? {
                break (frame, at);
            }
        };
        consumer.release(frame)?;
        woken.send(at)?;
    }
    Ok(())
}

/// System calls for each frame: of the daemon, for all consumers; and of one consumer.
fn count(daemon: &Daemon, size: usize, consumers: u64) -> Result<(f64, f64)> {
    let mut client = daemon.connect()?;
    let producer = produce(&mut client, size)?;
    let mut child = Command::new(std::env::current_exe()?)
        .arg("consumers")
        .arg(daemon.socket())
        .arg(consumers.to_string())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut told = child.stdout.take().context("no pipe")?;
    let all = &mut vec![0; usize::try_from(consumers)?];
    told.read_exact(all).context("the consumers don't start")?;
    let counted = [daemon.process.id(), child.id()].map(Counted::begin);
    let [of_daemon, of_consumers] = counted;
    let (mut of_daemon, mut of_consumers) = (of_daemon?, of_consumers?);
    let mut before = [0; 2];
    for frame in 0..2 * COUNTED {
        if frame == COUNTED {
            before = [of_daemon.calls()?, of_consumers.calls()?];
        }
        let index = buffer(&producer, &mut client, frame)?;
        producer.queue(&mut client, index, 0)?;
        told.read_exact(all).context("the consumers have died")?;
        // Until all are back in poll().
        thread::sleep(ASLEEP);
    }
    let after = [of_daemon.calls()?, of_consumers.calls()?];
    drop((producer, client));
    ensure!(child.wait()?.success(), "the consumers have failed");
    let mean = |which: usize, of: u64| -> Result<f64> {
        let calls = after.get(which).zip(before.get(which));
        let calls = calls.map_or(0, |(after, before)| after - before);
        Ok(f64::from(u32::try_from(calls)?) / f64::from(u32::try_from(COUNTED * of)?))
    };
    // Less the one by which a consumer tells that it has had its frame.
    Ok((mean(0, 1)?, mean(1, consumers)? - 1.0))
}

/// Consumers of the stream `bench`, until it ends. Each writes a byte when it is there, and one for each frame.
pub fn consumers(socket: &Path, count: u64) -> Result<()> {
    let threads = (0..count)
        .map(|_| {
            let mut consumer =
                Consumer::open(Client::connect(socket)?, "bench", ConsumeMode::Latest)?;
            Ok(thread::spawn(move || -> Result<()> {
                loop {
                    rustix::io::write(std::io::stdout(), b".")?;
                    match consumer.next(LIMIT) {
                        Ok(frame) => consumer.release(frame.context("no frame comes")?)?,
                        Err(ended) if ended.status() == Some(Status::ENODEV) => return Ok(()),
                        Err(error) => return Err(error.into()),
                    }
                }
            }))
        })
        .collect::<Result<Vec<_>>>()?;
    for thread in threads {
        thread.join().map_err(|_| anyhow!("a consumer died"))??;
    }
    Ok(())
}

/// A daemon with one pool for frames of a size.
struct Daemon {
    process: Child,
    directory: PathBuf,
}

impl Daemon {
    fn start(program: &Path, size: usize) -> Result<Self> {
        let directory = std::env::temp_dir().join(format!("dmabuf-bench-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir(&directory)?;
        let config = directory.join("config.toml");
        let slot = size.next_multiple_of(4096);
        let text = format!(
            "[broker]\nsocket-path = \"{0}/broker.sock\"\n\
             [[pool]]\nname = \"frames\"\nkind = \"memfd\"\nslots = {BUFFERS}\nslot-size = {slot}\n\
             link = \"{0}/frames.pool\"\n\
             [[client]]\nname = \"bench\"\npublish = [\"*\"]\nallocate = [\"frames\"]\n\
             [[client.grant]]\npool = \"frames\"\naccess = \"read-only\"\n\
             [[client.grant]]\nstream = \"*\"\naccess = \"read-only\"\n",
            directory.display()
        );
        fs::write(&config, text)?;
        let notify = directory.join("notify.sock");
        let ready = UnixDatagram::bind(&notify)?;
        ready.set_read_timeout(Some(LIMIT))?;
        let mut process = Command::new(program)
            .arg("--config")
            .arg(&config)
            .env("NOTIFY_SOCKET", &notify)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("can't run {}", program.display()))?;
        if ready.recv(&mut [0; 64]).is_err() {
            let _ = process.kill();
            let mut said = String::new();
            if let Some(mut stderr) = process.stderr.take() {
                let _ = stderr.read_to_string(&mut said);
            }
            let _ = process.wait();
            return Err(anyhow!("the daemon did not start: {said}"));
        }
        Ok(Self { process, directory })
    }

    fn connect(&self) -> Result<Client> {
        Ok(Client::connect(&self.socket())?)
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("broker.sock")
    }

    /// What all its threads have had so far, those that have ended included.
    fn cpu_time(&self) -> Result<Duration> {
        sys::cpu_time(self.process.id()).context("the daemon's CPU time")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}
