// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Running other programs: with root's rights, with errors that say what failed, never outliving us.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::thread;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal};

/// A command that needs root: as it is for root, through sudo for everybody else.
pub fn privileged(program: impl AsRef<OsStr>) -> Command {
    if geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg("--").arg(program);
    command
}

/// Runs a command with its output in `log`, to success; the error carries the log's tail.
pub fn run_logged(command: &mut Command, log: &Path) -> Result<()> {
    let output = File::create(log).with_context(|| format!("can't create {}", log.display()))?;
    let status = command
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .status()
        .with_context(|| format!("can't run {command:?}"))?;
    if !status.success() {
        bail!(
            "{command:?} ended with {status}; the end of {}:\n{}",
            log.display(),
            tail(log, 25)
        );
    }
    Ok(())
}

/// Runs a command to success and returns its standard output.
pub fn output_of(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("can't run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} ended with {}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The last lines of a file, for error messages.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    let from = all.len().saturating_sub(lines);
    all.get(from..).unwrap_or_default().join("\n")
}

/// The first lines of a file, for error messages.
pub fn head(path: &Path, lines: usize) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().take(lines).collect();
    all.join("\n")
}

/// A shell's view of an exit status: the code, or 128 + signal.
pub fn exit_code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// A running child that reports its end as an event, and that is killed when this is dropped.
pub struct Watched {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Watched {
    /// Starts `command`; when it has ended, `ended` makes the event that is sent.
    pub fn start<E: Send + 'static>(
        command: &mut Command,
        events: Sender<E>,
        ended: impl FnOnce(ExitStatus) -> E + Send + 'static,
        with_child: impl FnOnce(&mut std::process::Child) -> Result<()>,
    ) -> Result<Self> {
        let mut child = command
            .spawn()
            .with_context(|| format!("can't run {command:?}"))?;
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).context("pidfd_open")?;
        let watched = Self { pid, pidfd };
        with_child(&mut child)?;
        thread::spawn(move || {
            if let Ok(status) = child.wait() {
                // The receiver is gone when nobody waits for this child any more.
                let _ = events.send(ended(status));
            }
        });
        Ok(watched)
    }

    /// The process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Sends a signal; a child that has ended already is left alone.
    pub fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }
}

/// The pidfd: readable once the process has ended.
impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}
