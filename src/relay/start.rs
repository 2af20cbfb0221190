// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Before the VM starts: who this process is to the broker, and what the device looks like because of that.

use super::{Fixed, Relay};
use crate::error::Error;
use crate::session::{VmSession, Windows};
use crate::sys;
use crate::vhost::Sessions;
use dmabuf_protocol::wire::{HeapListRequest, InfoReply, ReplyHeader, RequestHeader};
use dmabuf_protocol::{Name, OpCode, Status};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// How long the broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The broker of a VM.
#[derive(Clone, Debug)]
pub struct Broker {
    /// Its socket.
    pub path: PathBuf,
    /// What it has said at the start.
    pub terms: Terms,
    /// The pools that the VMM maps as a whole.
    pub fixed: Vec<Fixed>,
}

/// What doesn't change as long as the device exists.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// What the broker calls this peer.
    pub name: Name,
    /// Most handles.
    pub max_handles: u32,
    /// It may allocate from some heap.
    pub allocates: bool,
}

impl Sessions for Arc<Broker> {
    fn start(&self, windows: Windows) -> std::io::Result<Box<dyn VmSession>> {
        Ok(Box::new(Relay::new(Self::clone(self), windows)?))
    }
}

impl Terms {
    /// Asks the broker.
    ///
    /// # Errors
    /// [`Error::Broker`] when it isn't there, doesn't serve this process, or doesn't answer.
    pub fn ask(path: &Path) -> Result<Self, Error> {
        let failed = |what: String| Error::Broker {
            path: path.to_owned(),
            what,
        };
        let socket = sys::connect(path).map_err(|errno| {
            failed(format!(
                "{errno}: is the daemon running that serves it, and may this user connect? (--serve-broker makes one)"
            ))
        })?;
        Self::ask_by(&socket).map_err(|errno| {
            failed(match errno {
                Errno::CONNRESET | Errno::PIPE => format!(
                    "it doesn't serve this process: is there a [[client]] for uid {} and gid {}?",
                    rustix::process::getuid().as_raw(),
                    rustix::process::getgid().as_raw()
                ),
                Errno::TIMEDOUT => "it doesn't answer".to_owned(),
                Errno::PROTO => "it doesn't speak this protocol".to_owned(),
                errno => errno.to_string(),
            })
        })
    }

    fn ask_by(socket: &OwnedFd) -> rustix::io::Result<Self> {
        let (status, body) = call(socket, OpCode::GetInfo, &[])?;
        let info = InfoReply::read_from_bytes(&body).map_err(|_| Errno::PROTO)?;
        let name = Name::from_wire(info.name).map_err(|_| Errno::PROTO)?;
        if status != Status::OK || info.version.get() != dmabuf_protocol::VERSION {
            return Err(Errno::PROTO);
        }
        let first = HeapListRequest::new_zeroed();
        let (status, _) = call(socket, OpCode::HeapList, first.as_bytes())?;
        Ok(Self {
            name,
            max_handles: info.max_handles.get(),
            allocates: status == Status::OK,
        })
    }
}

/// One request and its reply.
fn call(socket: &OwnedFd, op: OpCode, body: &[u8]) -> rustix::io::Result<(Status, Vec<u8>)> {
    let header = RequestHeader {
        op: op.to_wire().into(),
        ..FromZeros::new_zeroed()
    };
    let until = Instant::now() + PATIENCE;
    sys::send(socket.as_fd(), &[header.as_bytes(), body].concat(), None)?;
    let mut buffer = [0; 1024];
    loop {
        let rest = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(rest).map_err(|_| Errno::INVAL)?;
        match poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Err(Errno::TIMEDOUT),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        let received = match sys::receive(socket.as_fd(), &mut buffer) {
            Err(Errno::AGAIN | Errno::INTR) => continue,
            received => received?,
        };
        let bytes = buffer.get(..received.len).unwrap_or_default();
        if bytes.is_empty() {
            return Err(Errno::CONNRESET);
        }
        let (reply, body) = ReplyHeader::read_from_prefix(bytes).map_err(|_| Errno::PROTO)?;
        // Events can come at any time.
        if reply.op.get() == op.to_wire() {
            return Ok((Status(reply.status.get()), body.to_vec()));
        }
    }
}
