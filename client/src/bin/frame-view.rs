// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Looks at a stream: frames per second, CRCs, or the pictures as a Y4M file, one of them as a PNG file.

use clap::Parser;
use dmabuf_client::arguments::PlaceArguments;
use dmabuf_client::feed::FrameFeed;
use dmabuf_client::guest::Device;
use dmabuf_client::stream::{ConsumeMode, Consumer, Frame};
use dmabuf_client::{Access, Client, Error, Mapping, Result, Status, still};
use dmabuf_protocol::wire::Format;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Consume a stream: print how it goes, and what is in its frames
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The stream
    name: String,
    /// Get every frame as long as no more than this many wait [default: only the newest]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=64))]
    fifo: Option<u8>,
    /// End after this many frames [default: with --png 1]
    #[arg(long)]
    count: Option<u64>,
    /// Print a line for each frame: SEQUENCE TIMESTAMP_NS CRC32 SKIPPED
    #[arg(long)]
    crc: bool,
    /// Write the pictures to a Y4M file (NV12 streams)
    #[arg(long)]
    y4m: Option<PathBuf>,
    /// Write the last of --count frames to a PNG file
    #[arg(long)]
    png: Option<PathBuf>,
    /// Longest wait for a frame in seconds
    #[arg(long, default_value_t = 10)]
    timeout: u32,
    #[command(flatten)]
    place: PlaceArguments,
}

/// A Y4M file that is being written.
struct Y4m {
    file: BufWriter<File>,
    format: Format,
}

impl Y4m {
    fn create(path: &PathBuf, format: Option<Format>) -> Result<Self> {
        let nv12 = u32::from_le_bytes(*b"NV12");
        let format = format
            .filter(|format| format.fourcc.get() == nv12 && format.num_planes.get() == 2)
            .ok_or_else(|| Error::Argument("only NV12 streams go into a Y4M file".to_owned()))?;
        let mut file = BufWriter::new(File::create(path).map_err(Error::file("the Y4M file"))?);
        let (width, height) = (format.width.get(), format.height.get());
        writeln!(file, "YUV4MPEG2 W{width} H{height} F30:1 Ip C420jpeg")
            .map_err(Error::file("the Y4M file"))?;
        Ok(Self { file, format })
    }

    fn write(&mut self, pixels: &Mapping) -> Result<()> {
        let size = |value: u32| usize::try_from(value).unwrap_or(usize::MAX);
        let (width, height) = (
            size(self.format.width.get()),
            size(self.format.height.get()),
        );
        let [luma, chroma, ..] = self.format.offset.map(|offset| size(offset.get()));
        let [luma_stride, chroma_stride, ..] = self.format.stride.map(|stride| size(stride.get()));
        let mut picture = b"FRAME\n".to_vec();
        let mut row = vec![0; width];
        for line in 0..height {
            pixels.read(luma + line * luma_stride, &mut row)?;
            picture.extend_from_slice(&row);
        }
        let (mut blue, mut red) = (Vec::new(), Vec::new());
        for line in 0..height / 2 {
            pixels.read(chroma + line * chroma_stride, &mut row)?;
            for (place, &value) in row.iter().enumerate() {
                let plane = if place.is_multiple_of(2) {
                    &mut blue
                } else {
                    &mut red
                };
                plane.push(value);
            }
        }
        picture.extend(blue);
        picture.extend(red);
        self.file
            .write_all(&picture)
            .map_err(Error::file("the Y4M file"))
    }
}

/// Bytes of a frame, up to the end of its last plane.
fn frame_bytes(format: &Format) -> usize {
    let lines = format.height.get();
    let planes = usize::try_from(format.num_planes.get()).unwrap_or(0);
    let ends = format.offset.iter().zip(&format.stride).take(planes);
    // Planes after the first of the 4:2:0 formats have half the lines.
    let end = ends.enumerate().map(|(plane, (offset, stride))| {
        let lines = if plane == 0 { lines } else { lines.div_ceil(2) };
        u64::from(offset.get()) + u64::from(stride.get()) * u64::from(lines)
    });
    usize::try_from(end.max().unwrap_or(0)).unwrap_or(usize::MAX)
}

fn look(
    feed: &mut impl FrameFeed,
    frame: &Frame,
    arguments: &Arguments,
    y4m: &mut Option<Y4m>,
    png: Option<&Path>,
) -> Result<Option<u32>> {
    let limit = Duration::from_secs(arguments.timeout.into());
    if !feed.wait_finished(frame, limit)? {
        return Err(Error::Deadline {
            what: "waiting until a frame is finished",
            after: limit,
        });
    }
    let format = feed.format();
    let (memory, pixels) = feed.view(frame)?;
    let _access = memory.begin_cpu_access(Access::ReadOnly, limit)?;
    if let Some(y4m) = y4m {
        y4m.write(pixels)?;
    }
    let bytes = format.map_or(pixels.len(), |format| frame_bytes(&format));
    let bytes = bytes.min(pixels.len());
    if let Some(path) = png {
        let format = format
            .ok_or_else(|| Error::Argument("the stream doesn't say what its frames are".into()))?;
        let mut copy = vec![0; bytes];
        pixels.read(0, &mut copy)?;
        still::write_png(path, &format, &copy)?;
    }
    arguments.crc.then(|| pixels.crc32(0, bytes)).transpose()
}

fn run(arguments: &Arguments, out: &mut impl Write) -> Result<()> {
    let mode = arguments
        .fifo
        .map_or(ConsumeMode::Latest, ConsumeMode::Fifo);
    match &arguments.place.guest_device {
        None => {
            let client = Client::connect(&arguments.place.socket)?;
            view(
                Consumer::open(client, &arguments.name, mode)?,
                arguments,
                out,
            )
        }
        Some(device) => {
            let device = Device::open(device)?;
            // As long as the host allows.
            let hold = Duration::ZERO;
            view(device.consume(&arguments.name, mode, hold)?, arguments, out)
        }
    }
}

fn view(mut feed: impl FrameFeed, arguments: &Arguments, out: &mut impl Write) -> Result<()> {
    let limit = Duration::from_secs(arguments.timeout.into());
    let mut y4m = match &arguments.y4m {
        Some(path) => Some(Y4m::create(path, feed.format())?),
        None => None,
    };
    let (mut count, mut shown, mut since) = (0u64, 0u32, Instant::now());
    let most = arguments.count.or(arguments.png.as_ref().map(|_| 1));
    while most.is_none_or(|most| count < most) {
        let frame = match feed.next(limit) {
            Ok(Some(frame)) => frame,
            Ok(None) => {
                return Err(Error::Deadline {
                    what: "waiting for a frame",
                    after: limit,
                });
            }
            Err(ended) if ended.status() == Some(Status::ENODEV) => break,
            Err(error) => return Err(error),
        };
        let is_last = most == Some(count + 1);
        let png = arguments.png.as_deref().filter(|_| is_last);
        let crc = look(&mut feed, &frame, arguments, &mut y4m, png)?;
        let (sequence, timestamp, skipped) = (frame.sequence, frame.timestamp_ns, frame.skipped);
        match feed.release(frame) {
            Ok(()) => {}
            // What was read may have been of another frame.
            Err(late) if late.status() == Some(Status::ESTALE) => {
                log::warn!("frame {sequence}: its hold was over before it was read");
                continue;
            }
            Err(error) => return Err(error),
        }
        count += 1;
        shown += 1;
        if let Some(crc) = crc {
            say(
                out,
                format_args!("{sequence} {timestamp} {crc:08x} {skipped}"),
            )?;
        }
        let elapsed = since.elapsed();
        if !arguments.crc && elapsed >= Duration::from_secs(1) {
            let rate = f64::from(shown) / elapsed.as_secs_f64();
            say(
                out,
                format_args!("{rate:.1} fps, frame {sequence}, skipped {skipped}"),
            )?;
            (shown, since) = (0, Instant::now());
        }
    }
    if let Some(mut y4m) = y4m {
        y4m.file.flush().map_err(Error::file("the Y4M file"))?;
    }
    Ok(())
}

/// Writes one line at once, so that a reader of a pipe sees it now.
fn say(out: &mut impl Write, text: std::fmt::Arguments<'_>) -> Result<()> {
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(Error::file("stdout"))
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
