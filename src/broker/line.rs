// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A client's socket, shared by the thread of its connection and those that queue frames for it.
//!
//! While the connection's thread sleeps, others may send: the event about a frame then takes one switch of threads less.
//! While it is awake, the line is its own, so that events keep their order among themselves and to replies. Nobody but
//! that thread ever waits for the line; who finds it taken leaves word with the thread.

use crate::stream::Messenger;
use crate::sys;
use dmabuf_protocol::Name;
use dmabuf_protocol::wire::{EVENT_FRAME, Event};
use rustix::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use zerocopy::{FromZeros, IntoBytes};

/// See the module.
#[derive(Debug)]
pub struct Line {
    socket: OwnedFd,
    /// Held by the connection's thread while it is awake.
    taken: Mutex<()>,
    /// The number of the last event.
    sequence: Arc<AtomicU64>,
}

impl Line {
    /// A line whose events are numbered by `sequence`.
    pub const fn new(socket: OwnedFd, sequence: Arc<AtomicU64>) -> Self {
        Self {
            socket,
            taken: Mutex::new(()),
            sequence,
        }
    }

    /// The socket.
    pub const fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// For the connection's thread, which is awake until it drops what this returns.
    pub fn take(&self) -> MutexGuard<'_, ()> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Messenger for Line {
    fn tell(&self, consumer: u64, stream: &Name) -> bool {
        let Ok(_taken) = self.taken.try_lock() else {
            return false;
        };
        let sequence = self.sequence.load(Ordering::Relaxed) + 1;
        let event = Event {
            kind: EVENT_FRAME.into(),
            sequence: sequence.into(),
            buffer: consumer.into(),
            name: stream.to_wire(),
            ..FromZeros::new_zeroed()
        };
        let sent = sys::send(self.socket.as_fd(), event.as_bytes(), None).is_ok();
        if sent {
            self.sequence.store(sequence, Ordering::Relaxed);
        }
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use zerocopy::FromBytes;

    fn line() -> (Line, OwnedFd) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        (Line::new(ours, Arc::default()), theirs)
    }

    fn received(socket: &OwnedFd) -> Option<Event> {
        let mut bytes = [0; size_of::<Event>()];
        let message = sys::receive(socket.as_fd(), &mut bytes).ok()?;
        assert_eq!((message.len, message.truncated), (bytes.len(), false));
        Some(Event::read_from_bytes(&bytes).unwrap())
    }

    #[test]
    fn events_go_out_while_the_line_is_free_and_only_then() {
        let (line, client) = line();
        let front = Name::new("front").unwrap();
        assert!(line.tell(7, &front));
        let event = received(&client).unwrap();
        assert_eq!((event.kind.get(), event.sequence.get()), (EVENT_FRAME, 1));
        assert_eq!((event.buffer.get(), event.name), (7, front.to_wire()));
        let taken = line.take();
        assert!(!line.tell(7, &front));
        line.sequence.store(5, Ordering::Relaxed);
        drop(taken);
        assert!(line.tell(8, &front));
        assert_eq!(received(&client).unwrap().sequence.get(), 6);
        assert_eq!(received(&client), None);
    }

    #[test]
    fn an_event_that_does_not_fit_has_no_number() {
        let (line, client) = line();
        let front = Name::new("front").unwrap();
        let sent = (0..100_000).take_while(|_| line.tell(7, &front)).count();
        assert!((1..100_000).contains(&sent), "{sent}");
        assert_eq!(line.sequence.load(Ordering::Relaxed), sent as u64);
        let numbers = std::iter::from_fn(|| received(&client)).map(|event| event.sequence.get());
        assert!(numbers.eq(1..=sent as u64));
        assert!(line.tell(7, &front), "there is room again");
        drop(client);
        assert!(!line.tell(7, &front), "nobody is there");
    }
}
