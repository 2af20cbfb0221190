// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The daemon's command line: parse, start logging, run.

use clap::Parser;
use std::process::ExitCode;
use vhost_device_dmabuf::args::{Action, Args};

fn main() -> ExitCode {
    let args = Args::parse();
    env_logger::Builder::new()
        .filter_level(args.log_level)
        .parse_env("VHOST_DEVICE_DMABUF_LOG")
        .format_timestamp_millis()
        .init();
    let result = match args.action() {
        Ok(Action::Capabilities(json)) => {
            println!("{json}");
            Ok(())
        }
        Ok(Action::Explanation(text)) => {
            print!("{text}");
            Ok(())
        }
        Ok(Action::Check) => Ok(()),
        Ok(Action::Run(config)) => vhost_device_dmabuf::run(&config),
        Ok(Action::Relay(config)) => vhost_device_dmabuf::run_relay(&config),
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vhost-device-dmabuf: {error}");
            ExitCode::FAILURE
        }
    }
}
