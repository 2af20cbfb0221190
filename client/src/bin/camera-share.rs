// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Shares a V4L2 camera: it captures into buffers of the daemon, which consumers open by name. Nothing is copied.

use clap::Parser;
use dmabuf_client::Result;
use dmabuf_client::arguments::PlaceArguments;
use dmabuf_client::picture::{Fourcc, Picture};
use dmabuf_client::share::{ShareArguments, share_at};
use dmabuf_client::source::camera::Camera;
use std::path::PathBuf;
use std::process::ExitCode;

/// Let a camera capture into shared buffers, without a copy
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The camera
    #[arg(long, default_value = "/dev/video0")]
    device: PathBuf,
    #[command(flatten)]
    share: ShareArguments,
    /// Pixels; the driver takes the nearest size that it has
    #[arg(long, default_value_t = 1280)]
    width: u32,
    /// Pixels
    #[arg(long, default_value_t = 720)]
    height: u32,
    /// V4L2's fourcc, of a format with one memory plane
    #[arg(long, default_value = "NV12")]
    fourcc: Fourcc,
    /// Frames per second; the driver takes the nearest rate that it has
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    fps: Option<u32>,
    /// Make the picture of the kernel's test camera (vivid) move
    #[arg(long)]
    vivid_motion: bool,
    #[command(flatten)]
    place: PlaceArguments,
}

fn run(arguments: &Arguments) -> Result<()> {
    let picture = Picture {
        width: arguments.width,
        height: arguments.height,
        fourcc: arguments.fourcc,
    };
    let mut camera = Camera::open(&arguments.device, picture, arguments.fps)?;
    if arguments.vivid_motion {
        camera.vivid_motion()?;
    }
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    share_at(
        &arguments.place,
        &mut camera,
        &arguments.share,
        &mut input,
        &mut output,
    )
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
