// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One client's connection: requests in, replies and events out, until it goes or stalls.

use super::line::Line;
use crate::session::{Along, Done, Session};
use crate::sys::{self, MAX_MESSAGE};
use dmabuf_protocol::OpCode;
use dmabuf_protocol::request::Envelope;
use dmabuf_protocol::wire::Event;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use zerocopy::IntoBytes;

/// Longest reply: a page of the list.
const MAX_REPLY: usize = 32 << 10;
/// Most requests that a client has open, waits aside, before no further one is read.
const MAX_OPEN: usize = 64;
/// How long a client may leave its socket full when there is a reply for it.
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
pub fn serve(socket: OwnedFd, mut session: Session) {
    let name = session.policy().name;
    log::debug!("client {name}: connected");
    let line = Arc::new(Line::new(socket, Arc::clone(session.event_sequence())));
    session.set_messenger(Arc::clone(&line) as _);
    let end = exchange(&line, &mut session);
    let (handles, _) = session.counts();
    let fences = session.fence_counts();
    match end {
        Err(End::Left | End::Socket(Errno::CONNRESET | Errno::PIPE)) | Ok(()) => {
            log::debug!("client {name}: gone, {handles} handles released, {fences}");
        }
        Err(end) => {
            log::warn!(
                "client {name}: connection ended: {end}; {handles} handles released, {fences}"
            )
        }
    }
}

/// What is known of the exchange besides the session.
struct Exchange<'a> {
    socket: &'a OwnedFd,
    buffer: [u8; MAX_MESSAGE],
    /// The number of the last request, by which its reply is known.
    last: u64,
    /// The requests that are not answered yet. Waits, which have a quota, are not in it.
    open: HashSet<u64>,
    /// The next event, for which the socket had no room. Those after it wait in the session, where the oldest are lost.
    unsent: Option<Event>,
}

fn exchange(line: &Line, session: &mut Session) -> Result<(), End> {
    let socket = line.socket();
    let mut exchange = Exchange {
        socket,
        buffer: [0; MAX_MESSAGE],
        last: 0,
        open: HashSet::new(),
        unsent: None,
    };
    let mut awake = None;
    loop {
        let busy = exchange.open.len() >= MAX_OPEN;
        let mut wanted = if busy {
            PollFlags::RDHUP
        } else {
            PollFlags::IN
        };
        if exchange.unsent.is_some() {
            wanted |= PollFlags::OUT;
        } else {
            // While an event has its number, but was not sent, nobody else may send one.
            awake = None;
        }
        let [client, events, fences] = {
            let mut fds = [
                PollFd::new(socket, wanted),
                PollFd::from_borrowed_fd(session.wake().as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(session.fence_wake().as_fd(), PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            fds.map(|fd| fd.revents())
        };
        awake.get_or_insert_with(|| line.take());
        if !fences.is_empty() {
            let settled = session.settle();
            exchange.answer(settled)?;
        }
        if !events.is_empty() {
            session.wake().clear();
            let ended = session.settle();
            exchange.answer(ended)?;
        }
        let room = client.contains(PollFlags::OUT);
        if room || (!events.is_empty() && exchange.unsent.is_none()) {
            exchange.tell(session)?;
        }
        match !client.difference(PollFlags::OUT).is_empty() {
            // Not asked for, so it is the end of the connection.
            true if busy => return Err(End::Left),
            true => exchange.take_request(session)?,
            false => {}
        }
    }
}

impl Exchange<'_> {
    fn take_request(&mut self, session: &mut Session) -> Result<(), End> {
        let received = match sys::receive(self.socket.as_fd(), &mut self.buffer) {
            Ok(received) => received,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        if received.len == 0 {
            return Err(End::Left);
        }
        // A message that was cut, of bytes or of fds, is handed on as longer than any request, and thus refused.
        let len = if received.truncated {
            MAX_MESSAGE
        } else {
            received.len
        };
        let bytes = self.buffer.get(..len).unwrap_or_default();
        self.last += 1;
        if Envelope::of(bytes).op != OpCode::FenceWait.to_wire() {
            self.open.insert(self.last);
        }
        let done = session.handle(self.last, bytes, MAX_REPLY, received.fds);
        let late = session.take_late();
        self.answer(late.into_iter().chain(done))
    }

    /// Sends events as long as there is room. A client may leave them unread.
    fn tell(&mut self, session: &mut Session) -> Result<(), End> {
        while let Some(event) = self.unsent.take().or_else(|| session.next_event()) {
            match sys::send(self.socket.as_fd(), event.as_bytes(), None) {
                Ok(()) => {}
                Err(Errno::AGAIN | Errno::INTR) => {
                    self.unsent = Some(event);
                    return Ok(());
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn answer(&mut self, replies: impl IntoIterator<Item = Done>) -> Result<(), End> {
        for done in replies {
            self.open.remove(&done.token);
            answer(self.socket, &done)?;
        }
        Ok(())
    }
}

/// Sends a reply, and gives a full socket some time.
fn answer(socket: &OwnedFd, done: &Done) -> Result<(), End> {
    // A session gives no alias to a client that can't have its fd.
    let fd = done.along.as_ref().and_then(Along::fd);
    let until = Instant::now() + STALL;
    loop {
        match sys::send(socket.as_fd(), &done.reply, fd) {
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
