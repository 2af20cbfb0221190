// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Shares a moving test pattern, like `camera-share` shares a camera: for machines that have none.

use clap::Parser;
use dmabuf_client::Result;
use dmabuf_client::arguments::PlaceArguments;
use dmabuf_client::share::{ShareArguments, share_at};
use dmabuf_client::source::pattern::Pattern;
use std::process::ExitCode;

/// Draw a moving NV12 picture into shared buffers
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    share: ShareArguments,
    /// Pixels, even
    #[arg(long, default_value_t = 1280)]
    width: u32,
    /// Pixels, even
    #[arg(long, default_value_t = 720)]
    height: u32,
    /// Frames per second; in lockstep, the partner sets the pace
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=1000))]
    fps: u32,
    #[command(flatten)]
    place: PlaceArguments,
}

fn run(arguments: &Arguments) -> Result<()> {
    let rate = (!arguments.share.lockstep).then_some(arguments.fps);
    let mut pattern = Pattern::new(arguments.width, arguments.height, rate)?;
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    share_at(
        &arguments.place,
        &mut pattern,
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
