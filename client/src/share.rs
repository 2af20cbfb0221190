// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The producer's loop: take buffers from a sink, let a source fill them, name them, keep going.
//!
//! Free-running, frames just happen and consumers see them in the buffers. In *lockstep* each frame stands still until a
//! partner on stdin says so, which lets a test compare what both sides see:
//!
//! ```text
//! frame NAME SEQUENCE TIMESTAMP_NS BYTES CRC32     ours, one line per frame
//! next                                             partner: give the buffer back, go on
//! tag HEX                                          partner: write HEX + page number (u64 LE) at each page's start
//! tagged                                           ours: done
//! crc                                              partner: read the frame again
//! crc CRC32                                        ours
//! dump PATH                                        partner: write the frame's bytes to a file
//! dumped                                           ours: done
//! quit                                             partner (or end of input): stop
//! error TEXT                                       ours: that command could not be done; the frame still stands
//! ```
//!
//! With `--stream`, consumers acquire the frames and give them back (see [`crate::stream`]); a buffer is filled again when
//! nobody uses it any more.
//!
//! Events are taken from the socket once per frame; while a frame stands still they wait there.

use crate::arguments::PlaceArguments;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::guest::Device;
use crate::mapping::Mapping;
use crate::shared_memory::SharedMemory;
use crate::sink::FrameSink;
use crate::source::{Frame, FrameSource, Slot};
use dmabuf_protocol::{Access, PAGE_SIZE, Status};
use std::fs::File;
use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

/// Longest wait for a frame, and for the fences of a buffer.
const FRAME_LIMIT: Duration = Duration::from_secs(5);

/// What to share, and how: the arguments that `camera-share` and `test-pattern` have in common.
#[derive(Clone, Debug, clap::Args)]
pub struct ShareArguments {
    /// Heap or pool that the buffers come from
    #[arg(long, default_value = "camera")]
    pub heap: String,
    /// The buffers are named NAME/0, NAME/1 …
    #[arg(long)]
    pub name: String,
    /// Number of buffers. Take all slots of a memfd pool: it is sealed, and seen by others, with its last one
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=32))]
    pub buffers: u32,
    /// End after this many frames
    #[arg(long)]
    pub frames: Option<u64>,
    /// Make them a stream called NAME, too, and keep each frame until nobody uses it any more
    #[arg(long, conflicts_with = "lockstep")]
    pub stream: bool,
    /// Print a line for each frame of the stream: SEQUENCE TIMESTAMP_NS CRC32
    #[arg(long, requires = "stream")]
    pub crc: bool,
    /// Print each frame's CRC and wait for a command (next, tag HEX, crc, dump PATH, quit) before the next one
    #[arg(long)]
    pub lockstep: bool,
}

/// [`share`] on the host, or in a guest.
///
/// # Errors
/// As [`share`]; [`Error::Connect`], and [`Error::Device`] in a guest, when nobody is there.
pub fn share_at(
    place: &PlaceArguments,
    source: &mut impl FrameSource,
    arguments: &ShareArguments,
    input: &mut impl BufRead,
    output: &mut impl Write,
) -> Result<()> {
    match &place.guest_device {
        None => {
            let mut client = Client::connect(&place.socket)?;
            share(&mut client, source, arguments, input, output)
        }
        Some(device) => {
            let mut device = Device::open(device)?;
            share(&mut device, source, arguments, input, output)
        }
    }
}

/// Takes buffers, publishes them, and lets `source` fill them until the number of frames is reached or `input` says quit.
///
/// # Errors
/// Whatever the daemon or the source fails with; [`Error::Gone`] when the daemon ends.
pub fn share(
    sink: &mut impl FrameSink,
    source: &mut impl FrameSource,
    arguments: &ShareArguments,
    input: &mut impl BufRead,
    output: &mut impl Write,
) -> Result<()> {
    let mut slots = slots(sink, source, arguments)?;
    source.start(&slots)?;
    if arguments.stream {
        return stream(sink, source, arguments, &mut slots, output);
    }
    log::info!(
        "sharing {} as {}/0 to {}/{}",
        source.picture(),
        arguments.name,
        arguments.name,
        slots.len().saturating_sub(1)
    );
    let views = if arguments.lockstep {
        views(sink, &slots)?
    } else {
        Vec::new()
    };
    let begun = Instant::now();
    let mut count = 0;
    while arguments.frames.is_none_or(|frames| count < frames) {
        let frame = source.next(&mut slots, FRAME_LIMIT)?;
        count += 1;
        if arguments.lockstep {
            let (Some(slot), Some(view)) = (slots.get_mut(frame.slot), views.get(frame.slot))
            else {
                break;
            };
            let standing = Lockstep { slot, view, frame };
            if standing.serve(input, output)? == Next::Quit {
                break;
            }
        }
        source.give_back(&slots, frame)?;
        sink.check()?;
    }
    log::info!("{count} frames in {:.1} s", begun.elapsed().as_secs_f32());
    Ok(())
}

/// Hands the frames over to the consumers of a stream, until the number of frames is reached.
fn stream<S: FrameSink>(
    sink: &mut S,
    source: &mut impl FrameSource,
    arguments: &ShareArguments,
    slots: &mut [Slot<S::Buffer>],
    output: &mut impl Write,
) -> Result<()> {
    let stream = sink.begin(&arguments.name, source.format())?;
    for slot in slots.iter() {
        sink.add(&stream, &slot.buffer)?;
    }
    log::info!("stream {} of {}", arguments.name, source.picture());
    let begun = Instant::now();
    let mut count = 0;
    // What consumers have.
    let mut out: Vec<Option<Frame>> = vec![None; slots.len()];
    while arguments.frames.is_none_or(|frames| count < frames) {
        while out.iter().filter(|frame| frame.is_none()).count() < source.needs() {
            let Some(index) = sink.reclaim(&stream, FRAME_LIMIT)? else {
                log::warn!("no consumer gives a buffer back");
                continue;
            };
            let frame = usize::try_from(index)
                .ok()
                .and_then(|index| out.get_mut(index)?.take());
            source.give_back(
                slots,
                frame.ok_or(Error::Protocol("a buffer that was not queued"))?,
            )?;
        }
        let frame = source.next(slots, FRAME_LIMIT)?;
        let (Some(slot), Some(place)) = (slots.get(frame.slot), out.get_mut(frame.slot)) else {
            return Err(Error::Protocol("a frame in a buffer that can't be"));
        };
        let crc = if arguments.crc {
            let _access = slot
                .buffer
                .as_ref()
                .begin_cpu_access(Access::ReadOnly, FRAME_LIMIT)?;
            Some(slot.mapping.crc32(0, frame.bytes)?)
        } else {
            None
        };
        let index = u32::try_from(frame.slot).unwrap_or(u32::MAX);
        let sequence = sink.queue(&stream, index, frame.timestamp_ns)?;
        *place = Some(frame);
        count += 1;
        if let Some(crc) = crc {
            say(
                output,
                &format!("{sequence} {} {crc:08x}", frame.timestamp_ns),
            )?;
        }
    }
    log::info!("{count} frames in {:.1} s", begun.elapsed().as_secs_f32());
    Ok(())
}

/// All buffers are allocated and mapped before the first is published: a memfd pool can't be mapped writable after.
fn slots<S: FrameSink>(
    sink: &mut S,
    source: &impl FrameSource,
    arguments: &ShareArguments,
) -> Result<Vec<Slot<S::Buffer>>> {
    let mut slots = Vec::new();
    let name = |number| format!("{}/{number}", arguments.name);
    for number in 0..arguments.buffers {
        sink.make_room(&name(number))?;
    }
    for number in 0..arguments.buffers {
        let buffer = sink.take(&arguments.heap, source.frame_size())?;
        let mapping = buffer.as_ref().map_mut()?;
        slots.push(Slot {
            name: name(number),
            buffer,
            mapping,
        });
    }
    for slot in &slots {
        sink.show(&slot.buffer, &slot.name, source.format())?;
    }
    Ok(slots)
}

/// How this process looks at a frame as a consumer.
enum View {
    /// As other consumers: by an alias of its own.
    Alias(SharedMemory, Mapping),
    /// By the producer's mapping, when no grant lets it open its own buffers read-only.
    Producer,
}

fn views<S: FrameSink>(sink: &mut S, slots: &[Slot<S::Buffer>]) -> Result<Vec<View>> {
    slots
        .iter()
        .map(|slot| match sink.look_at(&slot.name) {
            Ok(memory) => {
                let mapping = memory.map()?;
                log::info!("reading {} by a read-only alias", slot.name);
                Ok(View::Alias(memory, mapping))
            }
            Err(Error::Refused {
                status: status @ (Status::EACCES | Status::ENOENT),
                ..
            }) => {
                log::info!(
                    "reading {} by the producer's mapping (open read-only: {status})",
                    slot.name
                );
                Ok(View::Producer)
            }
            Err(error) => Err(error),
        })
        .collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Frame,
    Quit,
}

/// One frame that stands still.
struct Lockstep<'a, B> {
    slot: &'a mut Slot<B>,
    view: &'a View,
    frame: Frame,
}

impl<B: AsRef<SharedMemory>> Lockstep<'_, B> {
    fn serve(mut self, input: &mut impl BufRead, output: &mut impl Write) -> Result<Next> {
        let crc = self.crc()?;
        let Frame {
            sequence,
            timestamp_ns,
            bytes,
            ..
        } = self.frame;
        say(
            output,
            &format!(
                "frame {} {sequence} {timestamp_ns} {bytes} {crc:08x}",
                self.slot.name
            ),
        )?;
        loop {
            let mut line = String::new();
            if input.read_line(&mut line).map_err(Error::file("stdin"))? == 0 {
                return Ok(Next::Quit);
            }
            let answer = match line.trim().split_once(' ').unwrap_or((line.trim(), "")) {
                ("next", "") => return Ok(Next::Frame),
                ("quit", "") => return Ok(Next::Quit),
                ("crc", "") => self.crc().map(|crc| format!("crc {crc:08x}")),
                ("tag", first) => self.tag(first).map(|()| "tagged".to_owned()),
                ("dump", path) => self.dump(path).map(|()| "dumped".to_owned()),
                _ => Err(Error::Argument(format!(
                    "{:?} is no command: next, tag HEX, crc, dump PATH, quit",
                    line.trim()
                ))),
            };
            say(
                output,
                &answer.unwrap_or_else(|error| format!("error {error}")),
            )?;
        }
    }

    fn crc(&self) -> Result<u32> {
        self.look(|mapping, bytes| mapping.crc32(0, bytes))
    }

    fn dump(&self, path: &str) -> Result<()> {
        let mut file = File::create(path).map_err(Error::file(path))?;
        self.look(|mapping, bytes| mapping.copy_to(0, bytes, &mut file, path))
    }

    fn look<T>(&self, look: impl FnOnce(&Mapping, usize) -> Result<T>) -> Result<T> {
        let (memory, mapping) = match self.view {
            View::Alias(memory, mapping) => (memory, mapping),
            View::Producer => (self.slot.buffer.as_ref(), &*self.slot.mapping),
        };
        let _access = memory.begin_cpu_access(Access::ReadOnly, FRAME_LIMIT)?;
        look(mapping, self.frame.bytes)
    }

    fn tag(&mut self, first: &str) -> Result<()> {
        let tag = u64::from_str_radix(first.trim_start_matches("0x"), 16).map_err(|_| {
            Error::Argument(format!("{first:?} is no tag: give up to 16 hex digits"))
        })?;
        let _access = self
            .slot
            .buffer
            .as_ref()
            .begin_cpu_access(Access::ReadWrite, FRAME_LIMIT)?;
        let page_size = usize::try_from(PAGE_SIZE).unwrap_or(4096);
        for (page, offset) in (0..).zip((0..self.frame.bytes).step_by(page_size)) {
            self.slot
                .mapping
                .write(offset, &tag.wrapping_add(page).to_le_bytes())?;
        }
        Ok(())
    }
}

fn say(output: &mut impl Write, line: &str) -> Result<()> {
    writeln!(output, "{line}")
        .and_then(|()| output.flush())
        .map_err(Error::file("stdout"))
}
