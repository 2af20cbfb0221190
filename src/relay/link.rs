// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The connection to the broker: messages out and in, never waiting.
//!
//! A broker that doesn't read makes messages wait here, one that doesn't answer is not waited for, one that breaks the
//! connection ends it. A new connection says nothing before the broker has ended the one before: what the guest had is
//! then released, names and quotas are free.

use crate::sys;
use rustix::event::epoll;
use rustix::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};
use std::collections::VecDeque;
use std::path::Path;

/// Longest message of a broker, and one byte more, so that a longer one shows.
const MAX_MESSAGE: usize = (32 << 10) + 1;

/// Why a connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// The broker has closed it.
    #[error("the broker has closed the connection")]
    Closed,
    /// A system call failed.
    #[error("no connection to the broker: {0}")]
    Socket(#[from] Errno),
    /// The broker has broken a rule of the protocol.
    #[error("the broker lies: {0}")]
    Lie(&'static str),
}

/// One message of the broker.
#[derive(Debug)]
pub struct Message {
    /// All its bytes.
    pub bytes: Vec<u8>,
    /// The fds that came along.
    pub fds: Vec<OwnedFd>,
}

/// See the module.
#[derive(Debug)]
pub struct Link {
    /// Readable while there is something to do; the same for all connections.
    epoll: OwnedFd,
    socket: Option<OwnedFd>,
    /// The connection before, until the broker has ended it.
    closing: Option<OwnedFd>,
    /// Requests that wait to be sent, by tag.
    outgoing: VecDeque<(u64, Vec<u8>)>,
    /// The broker doesn't read: room for a message is waited for.
    full: bool,
    buffer: Vec<u8>,
}

impl Link {
    /// No connection.
    ///
    /// # Errors
    /// EMFILE, ENFILE.
    pub fn new() -> rustix::io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            socket: None,
            closing: None,
            outgoing: VecDeque::new(),
            full: false,
            buffer: vec![0; MAX_MESSAGE],
        })
    }

    /// The fd that is readable while there is something to do.
    pub fn wake(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    /// Whether there is a connection.
    pub const fn is_up(&self) -> bool {
        self.socket.is_some()
    }

    /// Ends the connection that there is, and makes a new one.
    ///
    /// # Errors
    /// Of connect(2): there is no connection then.
    pub fn renew(&mut self, path: &Path) -> rustix::io::Result<()> {
        self.outgoing.clear();
        if let Some(old) = self.socket.take() {
            // The broker ends its session, and then this connection.
            let _ = shutdown(&old, Shutdown::Write);
            self.closing = Some(old);
        }
        let socket = sys::connect(path)?;
        let data = epoll::EventData::new_u64(0);
        epoll::add(&self.epoll, &socket, data, epoll::EventFlags::IN)?;
        self.socket = Some(socket);
        self.full = false;
        Ok(())
    }

    /// Ends everything.
    pub fn close(&mut self) {
        self.socket = None;
        self.closing = None;
        self.outgoing.clear();
    }

    /// Sends a request, now or later.
    ///
    /// # Errors
    /// [`Lost`] if there is no connection any more.
    pub fn send(&mut self, tag: u64, request: Vec<u8>) -> Result<(), Lost> {
        self.outgoing.push_back((tag, request));
        self.flush()
    }

    /// Takes back a request that was not sent yet.
    pub fn take_back(&mut self, tag: u64) -> bool {
        let before = self.outgoing.len();
        self.outgoing.retain(|(waiting, _)| *waiting != tag);
        self.outgoing.len() < before
    }

    /// Sends what waits, as far as the broker takes it.
    fn flush(&mut self) -> Result<(), Lost> {
        let Some(socket) = &self.socket else {
            return Err(Lost::Closed);
        };
        if self.closing.is_some() {
            return Ok(());
        }
        let mut full = false;
        while let Some((_, request)) = self.outgoing.front() {
            match sys::send(socket.as_fd(), request, None) {
                Ok(()) => drop(self.outgoing.pop_front()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    full = true;
                    break;
                }
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(Lost::Closed),
                Err(errno) => return Err(errno.into()),
            }
        }
        if std::mem::replace(&mut self.full, full) != full {
            let mut wanted = epoll::EventFlags::IN;
            wanted.set(epoll::EventFlags::OUT, full);
            epoll::modify(&self.epoll, socket, epoll::EventData::new_u64(0), wanted)?;
        }
        Ok(())
    }

    /// The next message, if one has arrived. Sends what waits, too.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn receive(&mut self) -> Result<Option<Message>, Lost> {
        self.see_end_of_last();
        let Some(socket) = &self.socket else {
            return Ok(None);
        };
        match sys::receive(socket.as_fd(), &mut self.buffer) {
            Ok(received) if received.len == 0 => Err(Lost::Closed),
            Ok(received) if received.truncated => {
                Err(Lost::Lie("a message that is too long or has too many fds"))
            }
            Ok(received) => {
                let bytes = self.buffer.get(..received.len).unwrap_or_default();
                Ok(Some(Message {
                    bytes: bytes.to_vec(),
                    fds: received.fds,
                }))
            }
            Err(Errno::INTR) => Ok(None),
            Err(Errno::AGAIN) if self.outgoing.is_empty() => Ok(None),
            Err(Errno::AGAIN) => self.flush().map(|()| None),
            Err(Errno::CONNRESET) => Err(Lost::Closed),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Drops what still comes by the connection before, up to its end.
    fn see_end_of_last(&mut self) {
        while let Some(closing) = &self.closing {
            match sys::receive(closing.as_fd(), &mut self.buffer) {
                Ok(received) if received.len > 0 => {}
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Ok(_) | Err(_) => self.closing = None,
            }
        }
    }
}
