// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What can go wrong for a host process, each with what to do about it.

use dmabuf_protocol::{OpCode, Status};
use rustix::io::Errno;
use std::path::PathBuf;
use std::time::Duration;

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can fail.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The broker's socket can't be connected to.
    #[error(
        "can't connect to the daemon at {}: {source}. Is vhost-device-dmabuf running with [broker] socket-path set to this path, and may this user open it?",
        path.display()
    )]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: Errno,
    },
    /// The daemon said no.
    #[error("{} was refused: {status}. {}", request.as_str(), advice(*request, *status))]
    Refused {
        /// What was asked.
        request: OpCode,
        /// The answer.
        status: Status,
    },
    /// No answer, or no frame, in time.
    #[error(
        "{what} took longer than {} s. Look at the log of the daemon; a longer deadline can be set where it is only slow",
        after.as_secs_f32()
    )]
    Deadline {
        /// What was waited for.
        what: &'static str,
        /// The time limit.
        after: Duration,
    },
    /// The daemon closed the connection.
    #[error(
        "the daemon closed the connection: it ended, or this user has no [[client]] entry in its configuration. See its log, then connect again"
    )]
    Gone,
    /// An earlier call failed in the middle of an exchange.
    #[error("the connection can't be used after its earlier error. Connect again")]
    Broken,
    /// The daemon sent something that the protocol doesn't allow.
    #[error(
        "the daemon broke the protocol: {0}. Make sure that daemon and client are of the same version"
    )]
    Protocol(&'static str),
    /// A name that no buffer can have.
    #[error("{0:?} can't be a name: use 1 to 64 of the characters A–Z a–z 0–9 . _ - /")]
    BadName(String),
    /// A write through an alias that is read-only.
    #[error("the alias is read-only. Open the buffer read-write, if a grant allows it")]
    ReadOnly,
    /// A range that is not inside the buffer.
    #[error("bytes {offset} to {offset}+{length} are not inside the buffer of {size} bytes")]
    OutOfRange {
        /// First byte.
        offset: usize,
        /// Bytes.
        length: usize,
        /// Size of the mapping.
        size: usize,
    },
    /// Memory that needs to be a dma-buf isn't.
    #[error(
        "the buffer is a memfd, and a camera needs a dma-buf: take it from a heap of kind udmabuf or dma-heap"
    )]
    NotDmaBuf,
    /// A request that the device can't do.
    #[error("{device}: {what}")]
    Device {
        /// The device's path.
        device: String,
        /// What it can't do, and what would help.
        what: String,
    },
    /// A command line value that can't be used.
    #[error("{0}")]
    Argument(String),
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// The error.
        #[source]
        source: Errno,
    },
    /// Reading or writing a file failed.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The error.
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// For `map_err`: a system call that failed while doing `what`.
    pub(crate) fn system(what: &'static str) -> impl FnOnce(Errno) -> Self {
        move |source| Self::System { what, source }
    }

    /// For `map_err`: `path` could not be read or written.
    pub fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }

    /// The daemon's answer, if it is one.
    #[must_use]
    pub const fn status(&self) -> Option<Status> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// What the user of this process can do about a refusal.
const fn advice(request: OpCode, status: Status) -> &'static str {
    match (request, status) {
        (OpCode::Alloc, Status::ENOENT) => "The daemon has no heap or pool of that name",
        (OpCode::FenceCancel, Status::ENOENT) => "The wait has ended already",
        (_, Status::ENOENT) => "There is no buffer of that name now; `dmabufctl list` shows them",
        (OpCode::Open | OpCode::Derive, Status::EACCES) => {
            "No grant allows it: see this client's grants in the daemon's configuration, and the daemon's log"
        }
        (OpCode::Import, Status::EACCES) => {
            "This client may not publish that name (see its [[client]] entry in the daemon's configuration), or the fd isn't O_RDWR, or it is sealed against writing"
        }
        (OpCode::Hold, Status::EACCES) => {
            "The grant needs host-fence = true, and for a fence of a writer access = \"read-write\""
        }
        (
            OpCode::SyncStart | OpCode::SyncEnd | OpCode::FenceWait | OpCode::FenceQuery,
            Status::EACCES,
        ) => "The alias is read-only: it can be waited for and bracketed for reading",
        (OpCode::Revoke, Status::EACCES) => {
            "Only the client that has made a buffer can revoke it, and it must be allowed to publish the name"
        }
        (_, Status::EACCES) => {
            "This peer may not do that: its entry in the daemon's configuration, [[client]] or of a guest [[vm]], must allow the name or heap"
        }
        (OpCode::Alloc, Status::EBUSY) => {
            "All slots of the pool are taken: withdraw buffers, or configure more slots"
        }
        (OpCode::Hold, Status::EBUSY) => "The buffer has a fence already: wait for it first",
        (OpCode::FenceWait | OpCode::SyncStart, Status::EBUSY) => {
            "This client has as many waits and accesses open as it may: see max-waits in the daemon's configuration"
        }
        (_, Status::ETIMEDOUT) => "What uses the buffer has not finished in time: wait again",
        (_, Status::EOWNERDEAD) => {
            "The buffer's producer has ended: what it was doing will not be finished"
        }
        (OpCode::Hold, Status::ENODEV) => {
            "The daemon needs a [fence-source], and the buffer must be a dma-buf"
        }
        (_, Status::EBUSY) => "It is in use: give back its mappings and handles first",
        (_, Status::EEXIST) => "The name is taken: withdraw the other buffer, or use another name",
        (OpCode::Import, Status::EINVAL) => {
            "Only a dma-buf can be imported, or a memfd with F_SEAL_SHRINK"
        }
        (OpCode::Alloc, Status::EINVAL) => {
            "The size must not be 0, and not larger than a slot of the pool"
        }
        (_, Status::EINVAL) => "The request is malformed or can't be done with this buffer",
        (_, Status::EMFILE) => "This client holds as many handles as it may: close some",
        (_, Status::ENOMEM) => "The host has no memory for it: ask for less, or free some",
        (OpCode::StreamAcquire, Status::EDQUOT) => {
            "This client holds as many frames of all streams as it may: release some, or raise max-holds in the daemon's configuration"
        }
        (OpCode::StreamOpen, Status::EDQUOT) => {
            "This client consumes as many streams as it may: see max-consumers in the daemon's configuration"
        }
        (_, Status::EDQUOT) => "The quota of this client is used up: withdraw or close buffers",
        (OpCode::Revoke | OpCode::StreamRevoke, Status::EOPNOTSUPP) => {
            "Its memory is sealed against writing, so that nobody can set it to zero: withdraw it, or take such buffers from a udmabuf pool or a heap"
        }
        (_, Status::EOPNOTSUPP) => "The daemon doesn't offer this request on its socket",
        (_, Status::ESTALE) => {
            "The handle was closed, or its buffer withdrawn or revoked: open it again"
        }
        (_, Status::EIO) => "The host failed to do it: see the daemon's log",
        _ => "See the daemon's log",
    }
}
