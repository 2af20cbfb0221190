// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One client's connection: requests in, replies and events out, until it goes or stalls.

use crate::session::{Done, Session};
use crate::sys::{self, MAX_MESSAGE};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use std::time::{Duration, Instant};
use zerocopy::IntoBytes;

/// Longest reply: a page of the list.
const MAX_REPLY: usize = 32 << 10;
/// How long a client may leave a message unread when its socket is full.
const STALL: Duration = Duration::from_secs(5);

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("it has left")]
    Left,
    #[error("it does not read its replies")]
    Stalled,
    #[error(transparent)]
    Socket(#[from] Errno),
}

/// Serves a client until it goes.
pub fn serve(socket: &OwnedFd, mut session: Session) {
    let name = session.policy().name;
    log::debug!("client {name}: connected");
    let end = exchange(socket, &mut session);
    let (handles, _) = session.counts();
    match end {
        Err(End::Left | End::Socket(Errno::CONNRESET | Errno::PIPE)) | Ok(()) => {
            log::debug!("client {name}: gone, {handles} handles released");
        }
        Err(end) => {
            log::warn!("client {name}: connection ended: {end}; {handles} handles released")
        }
    }
}

fn exchange(socket: &OwnedFd, session: &mut Session) -> Result<(), End> {
    let mut request = [0; MAX_MESSAGE];
    loop {
        let (readable, events) = {
            let mut fds = [
                PollFd::new(socket, PollFlags::IN),
                PollFd::from_borrowed_fd(session.wake().as_fd(), PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let [socket, wake] = fds.map(|fd| !fd.revents().is_empty());
            (socket, wake)
        };
        if events {
            session.wake().clear();
            while let Some(event) = session.next_event() {
                deliver(socket, event.as_bytes(), None)?;
            }
        }
        if readable {
            take_request(socket, session, &mut request)?;
        }
    }
}

fn take_request(socket: &OwnedFd, session: &mut Session, buffer: &mut [u8]) -> Result<(), End> {
    let received = match sys::receive(socket.as_fd(), buffer) {
        Ok(received) => received,
        Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    if received.len == 0 {
        return Err(End::Left);
    }
    // A message that was cut is longer than any request, and thus refused as such.
    let bytes = buffer.get(..received.len).unwrap_or_default();
    let Some(done) = session.handle(0, bytes, MAX_REPLY, received.fds) else {
        return Ok(());
    };
    answer(socket, &done)
}

fn answer(socket: &OwnedFd, done: &Done) -> Result<(), End> {
    // A session gives no alias to a client that has no source for it.
    let source = done
        .alias
        .as_ref()
        .and_then(|alias| alias.client_source().ok());
    deliver(socket, &done.reply, source.map(|source| source.fd))
}

/// Sends a message, and gives a full socket some time.
fn deliver(
    socket: &OwnedFd,
    bytes: &[u8],
    fd: Option<rustix::fd::BorrowedFd<'_>>,
) -> Result<(), End> {
    let until = Instant::now() + STALL;
    loop {
        match sys::send(socket.as_fd(), bytes, fd) {
            Ok(()) => return Ok(()),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let rest = until.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            return Err(End::Stalled);
        }
        let timeout = Timespec {
            tv_sec: i64::try_from(rest.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: rest.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
