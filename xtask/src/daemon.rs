// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Starts the daemon on the host side of a bed, and waits until it serves.

use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags};
use rustix::time::Timespec;

use crate::paths;
use crate::process::{Watched, tail};

/// From its start until READY=1.
const START_LIMIT: Timespec = Timespec {
    tv_sec: 30,
    tv_nsec: 0,
};

/// The running daemon.
pub struct Daemon {
    /// Its process.
    pub process: Watched,
}

/// Starts the daemon with this configuration and waits for its READY=1.
pub fn start<E: Send + 'static>(
    config: &Path,
    events: &Sender<E>,
    ended: impl FnOnce(ExitStatus) -> E + Send + 'static,
) -> Result<Daemon> {
    fs::create_dir_all(paths::DAEMON)?;
    let log = log_path();
    let notify = Path::new(paths::RUN).join("notify.sock");
    let _ = fs::remove_file(&notify);
    let socket = UnixDatagram::bind(&notify).context("can't make the notify socket")?;
    let output = File::create(&log)?;
    let mut command = Command::new(Path::new(paths::IO).join("bin/vhost-device-dmabuf"));
    command
        .arg("--config")
        .arg(config)
        .env("NOTIFY_SOCKET", &notify)
        .env("RUST_BACKTRACE", "1")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output);
    let process = Watched::start(&mut command, events.clone(), ended, |_| Ok(()))?;
    let mut message = [0; 512];
    loop {
        let mut poll = [
            PollFd::new(&socket, PollFlags::IN),
            PollFd::new(&process, PollFlags::IN),
        ];
        let ready = rustix::event::poll(&mut poll, Some(&START_LIMIT))?;
        let [notified, over] = poll;
        if notified.revents().contains(PollFlags::IN) {
            let size = socket.recv(&mut message)?;
            let text = String::from_utf8_lossy(message.get(..size).unwrap_or_default());
            if text.lines().any(|line| line == "READY=1") {
                return Ok(Daemon { process });
            }
        } else if over.revents().contains(PollFlags::IN) {
            bail!(
                "the daemon ended before it was ready. Its log:\n{}",
                tail(&log, 25)
            );
        } else if ready == 0 {
            bail!(
                "the daemon was not ready after {} s. Its log:\n{}",
                START_LIMIT.tv_sec,
                tail(&log, 25)
            );
        }
    }
}

/// The daemon's log.
pub fn log_path() -> PathBuf {
    Path::new(paths::RUN).join("log/daemon.log")
}
