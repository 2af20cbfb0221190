// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The commands on the host side of a bed: the environment that `qemu/README.md` promises them, and their output.

use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::Sender;
use std::thread;

use anyhow::{Context, Result};

use crate::agent::Event;
use crate::control::Source;
use crate::daemon;
use crate::paths;
use crate::plan::Plan;
use crate::process::Watched;

/// What a command on the host side is started with.
pub struct HostCommand<'a> {
    /// The run.
    pub plan: &'a Plan,
    /// The daemon's process.
    pub daemon: Option<i32>,
}

impl HostCommand<'_> {
    /// A shell on the host side, with all that `qemu/README.md` promises.
    fn shell(&self, command: &str) -> Command {
        let io = Path::new(paths::IO);
        let run = Path::new(paths::RUN);
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!(
            "{}:{}:{path}",
            io.join("bin").display(),
            run.join("files").display()
        );
        let daemon = self.daemon.map(|pid| pid.to_string());
        let mut shell = Command::new("sh");
        shell
            .args(["-c", command])
            .env("PATH", path)
            .env("BED", self.plan.bed.name())
            .env("BED_RUN", run)
            .env("BED_SHARE", run.join("share"))
            .env("BED_FILES", run.join("files"))
            .env("BED_MODULES", io.join("modules"))
            .env("BED_LOG", daemon::log_path())
            .env("BED_CONFIG", io.join("config.toml"))
            .env("BED_DAEMON_PID", daemon.unwrap_or_default())
            .current_dir(run)
            .process_group(0)
            .stdin(Stdio::null());
        shell
    }

    /// Starts the command that goes on beside everything else; it ends with the bed.
    pub fn start_before_guest(&self, command: &str) -> Result<()> {
        let log = File::create(Path::new(paths::RUN).join("log/host-start.log"))?;
        self.shell(command)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("can't run sh")?;
        Ok(())
    }

    /// Starts the host command; its output and its end become events.
    pub fn start(&self, command: &str, qemu: i32, events: &Sender<Event>) -> Result<Watched> {
        let mut shell = self.shell(command);
        shell
            .env("BED_QEMU_PID", qemu.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Watched::start(&mut shell, events.clone(), Event::HostEnded, |child| {
            let out = child.stdout.take().context("no stdout")?;
            let err = child.stderr.take().context("no stderr")?;
            pump(out, Source::HostOut, events.clone());
            pump(err, Source::HostErr, events.clone());
            Ok(())
        })
    }
}

fn pump(mut from: impl Read + Send + 'static, source: Source, events: Sender<Event>) {
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let event = match from.read(&mut buffer) {
                Ok(0) | Err(_) => Event::HostDrained,
                Ok(size) => {
                    Event::HostOutput(source, buffer.get(..size).unwrap_or_default().to_vec())
                }
            };
            let end = matches!(event, Event::HostDrained);
            if events.send(event).is_err() || end {
                return;
            }
        }
    });
}
