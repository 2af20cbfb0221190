// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::bed::{Programs, Request};
use crate::bench::Bench;
use crate::plan::BedKind;
use crate::{
    agent, attack, bench, checks, demo, derive, enter, first_light, further_guest, link, lock,
    modules, monitor, mutants, packages, shell,
};

/// Development tasks of vhost-device-dmabuf.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
pub struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Start a test bed, daemon and guest driver up, and run commands in it; without a command, a shell in the guest
    Bed(BedArguments),
    /// Show what this project does: a camera frame, shared with a guest, which can't change it
    Demo {
        /// Where (default: this machine, when its KVM boots and it has heaps and a camera; else nested)
        #[arg(long, value_enum)]
        bed: Option<BedKind>,
    },
    /// Try to write to what may only be read: every attacker, on every route
    Attack {
        /// Show that every protection is needed: take one away at a time
        #[arg(long)]
        mutants: bool,
    },
    /// The host module alone: show that each of its protections is needed (its checks are part of `test`)
    Derive {
        /// Take one protection away at a time
        #[arg(long, required = true)]
        mutants: bool,
    },
    /// Run all checks: formatting, lints, docs, tests, module builds, scenarios in both beds
    Test {
        /// Only steps whose name contains one of these: fmt, clippy, doc, rust, modules, bed, flat/smoke…
        #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
        only: Vec<String>,
        /// Scenarios in the beds, with guests whose kernel looks for bugs (lockdep, KASAN). It is built when it is first
        /// needed: 20 minutes, 3 GB
        #[arg(long, requires = "only")]
        debug_kernel: bool,
    },
    /// Measure, and compare to the bare wake of a process in the same run
    Bench {
        /// What
        #[arg(value_enum, default_value = "fences")]
        what: Bench,
    },
    /// Build the kernel modules under kernel/ against the test bed's kernel
    Modules,
    /// Inside of a bed, for host commands: run a command in a further guest
    Guest {
        /// The command
        #[arg(long, value_name = "CMD")]
        run: String,
        /// The VM's name in the daemon's configuration (default: the first)
        #[arg(long)]
        vm: Option<String>,
        /// Its device's socket, if that isn't the daemon's; its pools are those of the VM all the same
        #[arg(long, value_name = "SOCKET")]
        socket: Option<String>,
        /// The command's time limit in seconds; status 124 when it is reached
        #[arg(long, value_name = "SECONDS", default_value_t = 120)]
        timeout: u64,
        /// The socket of this guest's port bed.link (default: one without a fixed name)
        #[arg(long, value_name = "SOCKET")]
        link: Option<PathBuf>,
    },
    /// Inside of a bed, for scripts: relays lines to a guest's `guest-check lockstep`, one answer for each
    #[command(hide = true)]
    Link {
        /// The socket of the guest's port bed.link
        socket: PathBuf,
    },
    /// Inside of a bed, for scripts: one command for the monitor of a guest's QEMU
    #[command(hide = true)]
    Monitor {
        /// The monitor's socket: that of the guest's port bed.link, with the extension `monitor`
        socket: PathBuf,
        /// The command, as at the monitor's prompt
        command: String,
        /// Wait until the device of this id is gone, too
        #[arg(long, value_name = "DEVICE")]
        deleted: Option<String>,
    },
    /// Inside of a bed, for scripts: wakes a guest whenever it sleeps
    #[command(hide = true)]
    Awake {
        /// The monitor's socket
        socket: PathBuf,
    },
    /// Inside of a bed: the demo's main job, between its producer and the guest
    #[command(hide = true)]
    FirstLight,
    /// The host side of a running bed (started by the bed itself)
    #[command(hide = true)]
    Agent {
        /// The port to talk over, instead of standard input and output
        #[arg(long)]
        control: Option<PathBuf>,
    },
    /// The first process of a bed's namespaces (started by the bed itself)
    #[command(hide = true)]
    Enter {
        /// The run directory
        #[arg(long)]
        directory: PathBuf,
        /// The Debian tree
        #[arg(long)]
        tree: PathBuf,
    },
}

#[derive(Args)]
struct BedArguments {
    /// Which bed: flat (this machine, TCG, memfds) or nested (a host VM with heaps, KVM and a camera)
    #[arg(long, value_enum)]
    bed: BedKind,
    /// A directory that appears on the host side as /files (nested) and $BED_FILES (all beds), in its PATH
    #[arg(long, value_name = "DIR")]
    host_files: Option<PathBuf>,
    /// A directory that appears in the guest as /files, in its PATH
    #[arg(long, value_name = "DIR")]
    guest_files: Option<PathBuf>,
    /// A command for the host side's shell that starts before the guest and goes on beside it: a producer that seals a
    /// memfd pool, say. Without it, the bed fills such pools with buffers bed/0, bed/1…
    #[arg(long, value_name = "CMD")]
    host_start: Option<String>,
    /// A command for the host side's shell, run as root
    #[arg(long, value_name = "CMD")]
    host_run: Option<String>,
    /// A command for the guest's shell, run as root at the same time
    #[arg(long, value_name = "CMD")]
    guest_run: Option<String>,
    /// The daemon's configuration, instead of qemu/bed-flat.toml or qemu/bed-nested.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The commands' time limit in seconds; status 124 when it is reached
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
    /// Start no daemon, and a guest without the device
    #[arg(long, hide = true)]
    no_daemon: bool,
    /// Build nothing: take the project's programs from this directory
    #[arg(long, hide = true, value_name = "DIR")]
    programs: Option<PathBuf>,
}

/// Runs the task and returns the status to end with.
pub fn run(arguments: Arguments) -> Result<i32> {
    match arguments.task {
        Task::Bed(bed) => {
            let programs = match bed.programs {
                Some(directory) => Programs::From(directory),
                None if bed.no_daemon => Programs::None,
                None => Programs::Build,
            };
            let request = Request {
                host_files: bed.host_files,
                guest_files: bed.guest_files,
                host_start: bed.host_start,
                host_run: bed.host_run,
                guest_run: bed.guest_run,
                config: bed.config,
                daemon: !bed.no_daemon,
                timeout: Duration::from_secs(bed.timeout),
                ..Request::new(bed.bed)
            };
            shell::command(request, &programs)
        }
        Task::Demo { bed } => demo::command(bed),
        Task::Attack { mutants: true } => mutants::command(),
        Task::Attack { mutants: false } => attack::command(),
        Task::Derive { .. } => derive::mutants(),
        Task::Test { only, debug_kernel } => checks::command(&only, debug_kernel),
        Task::Bench { what } => bench::command(what),
        Task::Modules => {
            packages::install_missing()?;
            let _lock = lock::CacheLock::take()?;
            modules::command()
        }
        Task::Guest {
            run,
            vm,
            socket,
            timeout,
            link,
        } => further_guest::command(
            &run,
            (vm.as_deref(), socket),
            Duration::from_secs(timeout),
            link,
        ),
        Task::Link { socket } => link::command(&socket),
        Task::Monitor {
            socket,
            command,
            deleted,
        } => monitor::command(&socket, &command, deleted.as_deref()),
        Task::Awake { socket } => monitor::awake(&socket),
        Task::FirstLight => first_light::command(),
        Task::Agent { control } => agent::command(control.as_deref()),
        Task::Enter { directory, tree } => enter::command(&directory, &tree),
    }
}
