// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What can end the daemon, and the one place where an errno becomes a status.

use dmabuf_protocol::Status;
use rustix::io::Errno;
use std::path::PathBuf;

/// Why the daemon can't start or go on. Shown as one line, and the process exits with status 1.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// A heap or pool can't be had.
    #[error("heap {name:?}: {what}: {source}")]
    Heap {
        /// Its name in the configuration.
        name: String,
        /// What was tried.
        what: String,
        /// The kernel's answer.
        source: Errno,
    },
    /// A socket can't be made.
    #[error("socket {}: {source}", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A predeclared buffer can't be allocated.
    #[error("buffer {name:?} of heap {heap:?}: {status}")]
    Buffer {
        /// Its name in the configuration.
        name: String,
        /// Its heap.
        heap: String,
        /// Why.
        status: Status,
    },
    /// There is no broker for this VM's device.
    #[error("broker {}: {what}", path.display())]
    Broker {
        /// Its socket.
        path: PathBuf,
        /// What is wrong, and what would help.
        what: String,
    },
    /// A static window can't be looked at.
    #[error("static window {}: {what}", path.display())]
    StaticWindow {
        /// Where its memory was looked for.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// There is no vgem where the configuration says so.
    #[error("fence source {}: {source} (it must be the render node of vgem: modprobe vgem)", device.display())]
    FenceSource {
        /// Its device.
        device: PathBuf,
        /// The kernel's answer; ENODEV for another driver's device.
        source: Errno,
    },
    /// A thread or an event can't be made.
    #[error("out of resources: {0}")]
    Resources(#[from] std::io::Error),
}

/// The status that a peer gets to see when a system call of the daemon failed.
#[must_use]
pub fn status_of(errno: Errno) -> Status {
    match errno {
        Errno::NOMEM | Errno::MFILE | Errno::NFILE => Status::ENOMEM,
        Errno::ACCESS | Errno::PERM => Status::EACCES,
        Errno::INVAL => Status::EINVAL,
        _ => Status::EIO,
    }
}
