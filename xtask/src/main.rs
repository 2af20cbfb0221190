// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask`: the test bed, the demo, and all the checks of the project.
//!
//! | module | what it does |
//! |---|---|
//! | [`tree`], [`test_packages`], [`initramfs`], [`modules`], [`project`] | build what a bed is made of, cached under `target/bed` |
//! | [`bed`], [`run_directory`], [`shell`], [`printer`] | run a bed from the outside |
//! | [`checks`], [`module_checks`], [`tally`], [`demo`], [`mod@bench`], [`attack`], [`mutants`], [`mod@derive`], [`report`], [`scenario`], [`catalogue`], [`cameras`] | what is tried in beds, and what came of it |
//! | [`enter`] | the bed's namespaces, and the host VM |
//! | [`agent`], [`daemon`], [`pools`], [`guest_vm`], [`boot_watch`], [`further_guest`], [`host_command`], [`link`] | the host side: daemon, guest, commands |
//! | [`control`], [`plan`] | what bed and agent say to each other |

mod agent;
mod args;
mod attack;
mod bed;
mod bench;
mod boot_watch;
mod cameras;
mod catalogue;
mod checks;
mod control;
mod cpio;
mod daemon;
mod debug_kernel;
mod demo;
mod derive;
mod emulation;
mod enter;
mod fences;
mod first_light;
mod further_guest;
mod guest_vm;
mod host_command;
mod initramfs;
mod kernel_source;
mod lanes;
mod link;
mod lock;
mod module_checks;
mod modules;
mod monitor;
mod mutants;
mod packages;
mod paths;
mod plan;
mod pools;
mod printer;
mod process;
mod project;
mod report;
mod revoke;
mod run_directory;
mod scenario;
mod shell;
mod suspend;
mod tally;
mod test_packages;
mod tree;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match args::run(args::Arguments::parse()) {
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(1)),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(125)
        }
    }
}
