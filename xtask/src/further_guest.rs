// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `xtask guest`, for host commands in a bed: starts a further guest, runs a command in it, ends it.
//!
//! The bed's own guest goes on unless the host command ended it: a scenario can so try a second VM beside the first,
//! or the next VM on the same socket.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::control::Source;
use crate::cpio::Archive;
use crate::guest_vm::{self, GuestEvent, GuestOptions, GuestVm};
use crate::paths;
use crate::plan::{GuestTask, Plan, VmConfig};
use crate::shell::TIMED_OUT;

/// For powering off.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Runs the command in a guest of its own, and returns its status.
pub fn command(
    run: &str,
    (vm, socket): (Option<&str>, Option<String>),
    timeout: Duration,
    link: Option<PathBuf>,
) -> Result<i32> {
    let io = Path::new(paths::IO);
    let plan = Plan::read(io).context("`xtask guest` works inside of a bed only")?;
    let name = format!("guest-{}", std::process::id());
    let base = Path::new(paths::RUN);
    let mut own = Archive::default();
    own.directory("etc")?;
    own.directory("etc/bed")?;
    own.file("etc/bed/run", 0o644, run.as_bytes())?;
    let mut image = fs::read(io.join("guest.img")).context("can't read the guest's image")?;
    image.extend_from_slice(&own.finish()?);
    let initrd = base.join(format!("{name}.img"));
    fs::write(&initrd, image)?;
    let mut options = GuestOptions {
        directory: base.join(&name),
        console: base.join(format!("log/{name}-console.log")),
        qemu_log: base.join(format!("log/{name}-qemu.log")),
        vms: Vec::new(),
        link: link.unwrap_or_else(|| base.join(format!("{name}.sock"))),
        initrd: initrd.clone(),
    };
    if plan.daemon {
        let text =
            fs::read_to_string(io.join("config.toml")).context("can't read the configuration")?;
        let mut vm = VmConfig::from_config(&text, vm)?;
        if let Some(socket) = socket {
            vm.socket = socket;
        }
        options.vms = vec![vm];
    }
    let (events, receiver) = mpsc::channel::<GuestEvent>();
    let mut guest = GuestVm::boot(
        &plan,
        &options,
        (&events, &receiver),
        |event| {
            if let GuestEvent::Line(line) = &event
                && let Some(note) = line.strip_prefix("note ")
            {
                eprintln!("guest: {note}");
            }
            Ok(Some(event))
        },
        |death| {
            eprintln!("bed: {death}");
            Ok(())
        },
    )?;
    fs::remove_file(&initrd)?;
    guest.order(&GuestTask::Run)?;
    let mut status = None;
    let mut deadline = Instant::now() + timeout;
    while !guest.is_gone() {
        match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(GuestEvent::Output(Source::GuestErr, bytes)) => io::stderr().write_all(&bytes)?,
            Ok(GuestEvent::Output(_, bytes)) => {
                io::stdout().write_all(&bytes)?;
                io::stdout().flush()?;
            }
            Ok(GuestEvent::Line(line)) => {
                if let Some(code) = line.strip_prefix("status ") {
                    status = code.parse().ok();
                    guest.end();
                    deadline = Instant::now() + END_LIMIT;
                }
            }
            Ok(GuestEvent::Drained) => guest.mark_drained(),
            Ok(GuestEvent::Ended(_)) => guest.mark_ended(),
            Err(_) => {
                guest.kill();
                if status.is_none() {
                    return Ok(TIMED_OUT);
                }
                bail!("the guest did not power off.\n{}", guest.last_words());
            }
        }
    }
    for line in guest_vm::kernel_complaints(&options.console) {
        eprintln!("the guest's kernel complained: {line}");
    }
    status.with_context(|| format!("QEMU ended before the command had.\n{}", guest.last_words()))
}
