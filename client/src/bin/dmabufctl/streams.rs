// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `streams`, `stats`: what streams there are, and how they do.

use crate::show::line;
use dmabuf_client::picture::Fourcc;
use dmabuf_client::stream::{ConsumeMode, Stats};
use dmabuf_client::{Client, Result, Status};
use std::io::Write;
use std::time::Duration;

/// One line per stream under a heading.
pub fn list(client: &mut Client, out: &mut impl Write) -> Result<()> {
    line(
        out,
        format_args!(
            "{:24}  {:>10}  BUFFERS  CONSUMERS  FORMAT",
            "NAME", "PRODUCED"
        ),
    )?;
    for stream in client.streams()? {
        let format = stream.format.map_or("-".to_owned(), |format| {
            let (width, height) = (format.width.get(), format.height.get());
            format!("{} {width}x{height}", Fourcc(format.fourcc.get()))
        });
        line(
            out,
            format_args!(
                "{:24}  {:>10}  {:>7}  {:>9}  {format}",
                stream.name, stream.produced, stream.buffers, stream.consumers
            ),
        )?;
    }
    Ok(())
}

/// Counters, once or again and again.
pub fn stats(
    client: &mut Client,
    name: &str,
    every: Option<Duration>,
    out: &mut impl Write,
) -> Result<()> {
    let mut last = client.stream_stats(name)?;
    print(name, &last, None, out)?;
    let Some(every) = every else { return Ok(()) };
    loop {
        std::thread::sleep(every);
        let now = match client.stream_stats(name) {
            Err(ended) if ended.status() == Some(Status::ENOENT) => return Ok(()),
            other => other?,
        };
        print(name, &now, Some((&last, every)), out)?;
        last = now;
    }
}

fn print(
    name: &str,
    stats: &Stats,
    before: Option<(&Stats, Duration)>,
    out: &mut impl Write,
) -> Result<()> {
    let rate = before.map_or(String::new(), |(before, every)| {
        let frames = stats.produced.saturating_sub(before.produced);
        let frames = u32::try_from(frames).unwrap_or(u32::MAX);
        format!(", {:.1} fps", f64::from(frames) / every.as_secs_f64())
    });
    line(
        out,
        format_args!(
            "{name}: produced {}{rate}; buffers {}, with the producer {}, free {}",
            stats.produced, stats.buffers, stats.with_producer, stats.free
        ),
    )?;
    for consumer in &stats.consumers {
        let mode = mode(consumer.mode);
        line(
            out,
            format_args!(
                "  {:16}  {mode:8}  joined {}  delivered {}  skipped {}  expired {}  ready {}  held {}",
                consumer.peer,
                consumer.joined,
                consumer.delivered,
                consumer.skipped,
                consumer.expired,
                consumer.ready,
                consumer.held
            ),
        )?;
    }
    Ok(())
}

/// Which frames a consumer gets.
pub fn mode(mode: ConsumeMode) -> String {
    match mode {
        ConsumeMode::Latest => "latest".to_owned(),
        ConsumeMode::Fifo(depth) => format!("fifo({depth})"),
    }
}
