// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `watch`: streams and their consumers, how fast they go and what they skip. On a terminal a table that is drawn again and
//! again, elsewhere a line for each.

use crate::show::line;
use crate::streams::mode;
use crate::usage::aligned;
use dmabuf_client::stream::{ConsumerStats, Stats};
use dmabuf_client::{Client, Error, EventKind, Name, Result, Status};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Clears a terminal.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Watches until the daemon ends, or `rounds` times.
pub fn run(
    client: &mut Client,
    every: Duration,
    rounds: Option<u64>,
    out: &mut impl Write,
) -> Result<()> {
    let terminal = std::io::stdout().is_terminal();
    let mut before = Seen::default();
    let mut round = 0;
    while rounds.is_none_or(|rounds| round < rounds) {
        let now = look(client)?;
        let rows = rows(&now, &before);
        if terminal {
            let table = aligned(std::iter::once(heading()).chain(rows).collect());
            line(out, format_args!("{CLEAR}{}", table.join("\n")))?;
        } else {
            rows.iter()
                .try_for_each(|row| line(out, format_args!("{}", told(row))))?;
        }
        before = now.into_iter().collect();
        round += 1;
        if rounds != Some(round) {
            rest(client, every)?;
        }
    }
    Ok(())
}

/// Waits for the next round: until `every` is over, or a stream was created.
fn rest(client: &mut Client, every: Duration) -> Result<()> {
    let until = Instant::now() + every;
    loop {
        while let Some(event) = client.next_event()? {
            if event.kind == EventKind::StreamAdded {
                return Ok(());
            }
        }
        let left = until.saturating_duration_since(Instant::now());
        let failed = |source| Error::System {
            what: "waiting for the daemon",
            source,
        };
        let limit = Timespec::try_from(left).map_err(|_| failed(rustix::io::Errno::INVAL))?;
        match poll(&mut [PollFd::new(client, PollFlags::IN)], Some(&limit)) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
}

/// A stream at a moment.
struct Stream {
    name: Name,
    id: u64,
    stats: Stats,
    at: Instant,
}

/// What the last round saw, by number.
type Seen = HashMap<u64, (Stats, Instant)>;

impl FromIterator<Stream> for Seen {
    fn from_iter<I: IntoIterator<Item = Stream>>(streams: I) -> Self {
        let seen = streams.into_iter();
        seen.map(|stream| (stream.id, (stream.stats, stream.at)))
            .collect()
    }
}

fn look(client: &mut Client) -> Result<Vec<Stream>> {
    let mut streams = Vec::new();
    for info in client.streams()? {
        match client.stream_stats(info.name.as_str()) {
            Ok(stats) => streams.push(Stream {
                name: info.name,
                id: info.id,
                stats,
                at: Instant::now(),
            }),
            // It has ended in between.
            Err(gone) if gone.status() == Some(Status::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(streams)
}

fn heading() -> Vec<String> {
    let columns = [
        "STREAM", "CONSUMER", "MODE", "FPS", "FRAMES", "SKIPPED", "EXPIRED", "READY", "HELD",
    ];
    columns.map(str::to_owned).to_vec()
}

/// A row for each stream, whose frames are those produced, and one for each of its consumers.
fn rows(now: &[Stream], before: &Seen) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for stream in now {
        let last = before.get(&stream.id);
        let since = last.map(|(_, at)| stream.at.saturating_duration_since(*at));
        let rate = |now: u64, before: Option<u64>| match before.zip(since) {
            Some((before, since)) => rate(now.saturating_sub(before), since),
            None => "-".to_owned(),
        };
        let stats = &stream.stats;
        let dash = || "-".to_owned();
        rows.push(vec![
            stream.name.to_string(),
            "(producer)".to_owned(),
            dash(),
            rate(stats.produced, last.map(|(stats, _)| stats.produced)),
            stats.produced.to_string(),
            dash(),
            dash(),
            dash(),
            (stats.buffers - stats.buffers.min(stats.with_producer + stats.free)).to_string(),
        ]);
        for (nth, consumer) in stats.consumers.iter().enumerate() {
            let was = last.and_then(|(stats, _)| same(consumer, nth, stats));
            rows.push(vec![
                stream.name.to_string(),
                consumer.peer.to_string(),
                mode(consumer.mode),
                rate(consumer.delivered, was.map(|was| was.delivered)),
                consumer.delivered.to_string(),
                consumer.skipped.to_string(),
                consumer.expired.to_string(),
                consumer.ready.to_string(),
                consumer.held.to_string(),
            ]);
        }
    }
    rows
}

/// What a consumer was in the round before: at its place, or wherever one of the same peer joined at the same frame.
fn same<'a>(now: &ConsumerStats, nth: usize, before: &'a Stats) -> Option<&'a ConsumerStats> {
    let is = |was: &&ConsumerStats| {
        (was.peer, was.joined, was.mode) == (now.peer, now.joined, now.mode)
            && was.delivered <= now.delivered
    };
    let there = before.consumers.get(nth).filter(is);
    there.or_else(|| before.consumers.iter().find(is))
}

fn rate(frames: u64, since: Duration) -> String {
    let frames = f64::from(u32::try_from(frames).unwrap_or(u32::MAX));
    let rate = frames / since.as_secs_f64().max(0.001);
    format!("{rate:.1}")
}

/// A row as a line that programs can take apart: the names, then `key=value`.
fn told(row: &[String]) -> String {
    let keys = heading();
    let cells = keys.iter().zip(row).enumerate();
    let words = cells.map(|(nth, (key, value))| match nth {
        0 | 1 => value.clone(),
        _ => format!("{}={value}", key.to_lowercase()),
    });
    words.collect::<Vec<_>>().join(" ")
}
