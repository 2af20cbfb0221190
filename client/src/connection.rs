// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Messages on the broker's socket: one request out, its reply in; events and the ends of waits aside.
//!
//! The daemon is not trusted blindly. A reply must carry the request's op and tag, exactly the bytes of its structure,
//! and exactly the fds that it takes; fds beyond that are closed. Every call has a deadline. After a late reply or a
//! broken rule nobody knows what the next message belongs to, so the connection is then [`Error::Broken`] for good.
//! Owned by [`crate::Client`].

use crate::error::{Error, Result};
use crate::event::{Event, EventQueue};
use crate::fence::{Ended, Open, ParseEnded};
use dmabuf_protocol::{OpCode, Status, wire};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, IoSlice, IoSliceMut, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketAddrUnix, SocketFlags,
    SocketType, connect, recvmsg, sendmsg, shutdown, socket_with, sockopt,
};
use std::cell::RefCell;
use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Entries asked for in one LIST.
pub(crate) const LIST_PAGE: u32 = 64;
/// The longest message the daemon can send: a full page of a list.
const MAX_MESSAGE: usize = 32 << 10;
/// Every event's kind has this bit, no op has it.
const EVENT_BIT: u32 = 0x8000_0000;
/// Room for more fds than any reply has, so that extra ones are seen and closed.
const MAX_FDS: usize = 8;

/// The body of a successful reply.
pub(crate) struct Reply {
    body: Vec<u8>,
    fd: Option<OwnedFd>,
}

impl Reply {
    /// The body as exactly one structure.
    pub(crate) fn exactly<T: FromBytes>(&self) -> Result<T> {
        T::read_from_bytes(&self.body).map_err(|_| Error::Protocol("a reply with a wrong length"))
    }

    /// The body as a structure and what follows it.
    pub(crate) fn starting_with<T: FromBytes>(&self) -> Result<(T, &[u8])> {
        T::read_from_prefix(&self.body).map_err(|_| Error::Protocol("a reply that is too short"))
    }

    /// The fd that came along, if one did.
    pub(crate) fn fd(self) -> Option<OwnedFd> {
        self.fd
    }

    /// The fd that came along.
    pub(crate) fn into_fd(self) -> Result<OwnedFd> {
        self.fd.ok_or(Error::Protocol("a reply without its fd"))
    }
}

struct Message {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

/// One connection to the broker.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    events: EventQueue,
    /// Waits that were begun, by tag.
    waits: HashMap<u64, Open>,
    /// Where messages are received.
    space: RefCell<Vec<u8>>,
    last_tag: u64,
    pub(crate) deadline: Duration,
    broken: bool,
}

impl Connection {
    pub(crate) fn connect(path: &Path, deadline: Duration) -> Result<Self> {
        let failed = |source| Error::Connect {
            path: path.to_owned(),
            source,
        };
        let address = SocketAddrUnix::new(path).map_err(failed)?;
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(failed)?;
        // A broker with a full backlog makes connect wait: this is its time limit.
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(deadline))
            .map_err(failed)?;
        match retry_on_intr(|| connect(&socket, &address)) {
            Err(Errno::AGAIN) => Err(Error::Deadline {
                what: "connecting to the daemon",
                after: deadline,
            }),
            Err(source) => Err(failed(source)),
            Ok(()) => Self::new(socket, deadline),
        }
    }

    /// Takes over a connected SOCK_SEQPACKET socket.
    pub(crate) fn new(socket: OwnedFd, deadline: Duration) -> Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)
            .map_err(Error::system("O_NONBLOCK on the socket"))?;
        Ok(Self {
            socket,
            events: EventQueue::default(),
            waits: HashMap::new(),
            space: RefCell::new(vec![0; MAX_MESSAGE]),
            last_tag: 0,
            deadline,
            broken: false,
        })
    }

    /// Sends one request and waits for its reply. A successful OPEN, DERIVE, ALLOC, IMPORT or
    /// STREAM_BUFFER brings one fd, STREAM_ACQUIRE can, nothing else does.
    pub(crate) fn call(
        &mut self,
        op: OpCode,
        body: &(impl IntoBytes + Immutable),
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<Reply> {
        if self.broken {
            return Err(Error::Broken);
        }
        let answer = self.exchange(op, body.as_bytes(), fd);
        self.broken = !matches!(answer, Ok(_) | Err(Error::Refused { .. }));
        answer
    }

    /// Begins a FENCE_WAIT, whose answer may come late.
    pub(crate) fn begin_wait(&mut self, body: &wire::FenceWaitRequest, open: Open) -> Result<()> {
        if self.broken {
            return Err(Error::Broken);
        }
        let until = Instant::now() + self.deadline;
        let op = OpCode::FenceWait;
        let request = self.request(op, body.as_bytes());
        self.waits.insert(self.last_tag, open);
        let sent = self.send(op, &request, None, until);
        self.broken = sent.is_err();
        sent
    }

    /// The tag of the last request.
    pub(crate) const fn last_tag(&self) -> u64 {
        self.last_tag
    }

    /// Takes in what has arrived; doesn't wait.
    pub(crate) fn take_arrived(&mut self) -> Result<()> {
        if self.broken {
            return Err(Error::Broken);
        }
        loop {
            let arrived = self.receive_late();
            self.broken = arrived.is_err();
            if !arrived? {
                return Ok(());
            }
        }
    }

    /// Whether it was told that a stream which it consumes has ended.
    pub(crate) const fn stream_ended(&self) -> bool {
        self.events.stream_ended
    }

    /// The oldest event that has arrived; doesn't wait.
    pub(crate) fn next_event(&mut self) -> Result<Option<Event>> {
        loop {
            if let Some(event) = self.events.pop() {
                return Ok(Some(event));
            }
            if self.broken {
                return Err(Error::Broken);
            }
            let arrived = self.receive_late();
            self.broken = arrived.is_err();
            if !arrived? {
                return Ok(None);
            }
        }
    }

    /// Takes in one message that comes when it likes, if one has arrived.
    fn receive_late(&mut self) -> Result<bool> {
        match self.try_receive()? {
            None => Ok(false),
            Some(message) if self.keep_late(&message)? => Ok(true),
            Some(_) => Err(Error::Protocol("a reply that nobody asked for")),
        }
    }

    /// Takes in an event, or the end of a wait; false for anything else.
    fn keep_late(&mut self, message: &Message) -> Result<bool> {
        if is_event(&message.bytes)? {
            self.keep_event(message)?;
            return Ok(true);
        }
        let (header, body) = reply_header(&message.bytes)?;
        if header.op.get() != OpCode::FenceWait.to_wire() {
            return Ok(false);
        }
        let Some(open) = self.waits.remove(&header.tag.get()) else {
            return Ok(false);
        };
        if !message.fds.is_empty() {
            return Err(Error::Protocol("a reply with a wrong number of fds"));
        }
        open.end(Ended::parse(Status(header.status.get()), body)?);
        Ok(true)
    }

    /// The bytes of the next request.
    fn request(&mut self, op: OpCode, body: &[u8]) -> Vec<u8> {
        self.last_tag += 1;
        let header = wire::RequestHeader {
            op: U32::new(op.to_wire()),
            reserved: U32::ZERO,
            tag: U64::new(self.last_tag),
        };
        [header.as_bytes(), body].concat()
    }

    fn exchange(&mut self, op: OpCode, body: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<Reply> {
        let until = Instant::now() + self.deadline;
        let request = self.request(op, body);
        self.send(op, &request, fd, until)?;
        loop {
            let message = self.receive(op, until)?;
            if !self.keep_late(&message)? {
                return self.reply(op, message);
            }
            // A daemon that sends nothing but events and the ends of waits would never make `receive` wait.
            if Instant::now() >= until {
                return Err(self.late(op));
            }
        }
    }

    fn reply(&self, op: OpCode, message: Message) -> Result<Reply> {
        let (header, body) = reply_header(&message.bytes)?;
        if header.op.get() != op.to_wire() || header.tag.get() != self.last_tag {
            return Err(Error::Protocol("a reply to another request"));
        }
        let status = Status(header.status.get());
        let fds = match op {
            _ if status != Status::OK => 0..=0,
            OpCode::StreamAcquire => 0..=1,
            op if op.brings_alias() => 1..=1,
            _ => 0..=0,
        };
        if !fds.contains(&message.fds.len()) {
            return Err(Error::Protocol("a reply with a wrong number of fds"));
        }
        if status != Status::OK {
            return Err(if body.is_empty() {
                Error::Refused {
                    request: op,
                    status,
                }
            } else {
                Error::Protocol("a refusal with a body")
            });
        }
        Ok(Reply {
            body: body.to_vec(),
            fd: message.fds.into_iter().next(),
        })
    }

    fn keep_event(&mut self, message: &Message) -> Result<()> {
        if !message.fds.is_empty() {
            return Err(Error::Protocol("an event with fds"));
        }
        self.events.push(&message.bytes)
    }

    fn send(
        &self,
        op: OpCode,
        bytes: &[u8],
        fd: Option<BorrowedFd<'_>>,
        until: Instant,
    ) -> Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        loop {
            let mut control = SendAncillaryBuffer::new(&mut space);
            let fds = fd.as_slice();
            if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(Error::Protocol("no room for the fd of a request"));
            }
            let slices = [IoSlice::new(bytes)];
            match retry_on_intr(|| {
                sendmsg(&self.socket, &slices, &mut control, SendFlags::NOSIGNAL)
            }) {
                Ok(_) => return Ok(()),
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT, op, until)?,
                Err(errno) => return Err(lost("sending a request", errno)),
            }
        }
    }

    fn receive(&self, op: OpCode, until: Instant) -> Result<Message> {
        loop {
            // A reply is hardly ever there at once: to look first would be one more system call.
            self.wait(PollFlags::IN, op, until)?;
            if let Some(message) = self.try_receive()? {
                return Ok(message);
            }
        }
    }

    fn wait(&self, what: PollFlags, op: OpCode, until: Instant) -> Result<()> {
        wait(self.socket.as_fd(), what, until)
            .map_err(Error::system("waiting for the daemon"))?
            .then_some(())
            .ok_or_else(|| self.late(op))
    }

    const fn late(&self, op: OpCode) -> Error {
        Error::Deadline {
            what: op.as_str(),
            after: self.deadline,
        }
    }

    fn try_receive(&self) -> Result<Option<Message>> {
        let mut bytes = self.space.borrow_mut();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = retry_on_intr(|| {
            recvmsg(
                &self.socket,
                &mut [IoSliceMut::new(&mut bytes)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            )
        });
        let received = match received {
            Ok(received) => received,
            Err(Errno::AGAIN) => return Ok(None),
            Err(errno) => return Err(lost("receiving a message", errno)),
        };
        let fds = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        let fds: Vec<OwnedFd> = fds.flatten().collect();
        if received
            .flags
            .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
        {
            return Err(Error::Protocol(
                "a message that is too long or has too many fds",
            ));
        }
        if received.bytes == 0 {
            return Err(Error::Gone);
        }
        let bytes = bytes.get(..received.bytes).unwrap_or_default().to_vec();
        Ok(Some(Message { bytes, fds }))
    }
}

impl Drop for Connection {
    /// Ends the connection even while somebody has a copy of its fd to poll: the daemon takes the handles back.
    fn drop(&mut self) {
        let _ = shutdown(&self.socket, Shutdown::Both);
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn is_event(bytes: &[u8]) -> Result<bool> {
    let (kind, _) = U32::read_from_prefix(bytes)
        .map_err(|_| Error::Protocol("a message without a whole header"))?;
    Ok(kind.get() & EVENT_BIT != 0)
}

fn reply_header(bytes: &[u8]) -> Result<(wire::ReplyHeader, &[u8])> {
    wire::ReplyHeader::read_from_prefix(bytes)
        .map_err(|_| Error::Protocol("a reply without a whole header"))
}

fn lost(what: &'static str, errno: Errno) -> Error {
    match errno {
        Errno::PIPE | Errno::CONNRESET => Error::Gone,
        source => Error::System { what, source },
    }
}

/// Waits until `fd` is ready for `what`, or has an error to report; false: not before `until`.
pub(crate) fn wait(
    fd: BorrowedFd<'_>,
    what: PollFlags,
    until: Instant,
) -> rustix::io::Result<bool> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
        match poll(&mut [PollFd::from_borrowed_fd(fd, what)], Some(&timeout)) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
            Ok(ready) => return Ok(ready > 0),
        }
    }
}
