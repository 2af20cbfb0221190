// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The event queue: buffers and streams come and go, frames are ready.

use crate::error::{Error, Result};
use crate::sys::{MAX_SLOTS, SlotQueue};
use dmabuf_protocol::{Name, QUEUE_EVENT, wire};
use virtio_drivers::Hal;
use virtio_drivers::transport::Transport;
use zerocopy::{FromZeros, IntoBytes};

/// What happened to a buffer or stream. It tells that a grant covers the buffer, not that OPEN will succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What.
    pub change: Change,
    /// The buffer's or stream's number; for [`Change::Frame`] and [`Change::StreamEnded`] that of the consumer.
    pub subject: u64,
    /// Of [`Change::Revoked`]: milliseconds until it is taken away; of [`Change::Free`]: 0, or
    /// [`dmabuf_protocol::wire::FREE_SHARED`].
    pub value: u64,
    /// The buffer's or stream's name; a buffer that is revoked needn't have one.
    pub name: Option<Name>,
    /// Events before this one were lost: LIST again.
    pub lost: bool,
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A buffer was published.
    Added,
    /// A buffer was withdrawn. Handles and mappings of it stay valid.
    Withdrawn,
    /// A buffer of which this device has a handle is taken away: UNMAP and CLOSE, and don't touch it after
    /// [`Event::value`] milliseconds.
    Revoked,
    /// The revocation of a buffer of this device is complete.
    Free,
    /// A stream was created.
    StreamAdded,
    /// A frame is ready for this consumer, after there was none.
    Frame,
    /// This consumer's stream has ended.
    StreamEnded,
}

impl Change {
    const fn may_be_nameless(self) -> bool {
        matches!(self, Self::Revoked | Self::Free)
    }
}

/// The queue, always full of buffers for the device to write to.
pub(crate) struct Events<H: Hal> {
    queue: SlotQueue<H>,
    sequence: u64,
    lost: bool,
}

impl<H: Hal> Events<H> {
    pub fn new<T: Transport>(transport: &mut T) -> Result<Self> {
        Ok(Self {
            queue: SlotQueue::new(
                transport,
                QUEUE_EVENT,
                MAX_SLOTS,
                0,
                size_of::<wire::Event>(),
            )?,
            sequence: 0,
            lost: false,
        })
    }

    pub fn set_interrupts(&mut self, enable: bool) {
        self.queue.set_interrupts(enable);
    }

    /// Gives the device all buffers; only while it runs.
    pub fn fill<T: Transport>(&mut self, transport: &mut T) -> Result<()> {
        (0..MAX_SLOTS).try_for_each(|slot| self.queue.send(transport, slot, &[]))
    }

    /// The next event of a kind that is known here.
    pub fn next<T: Transport>(&mut self, transport: &mut T) -> Result<Option<Event>> {
        // Not for ever: the device could send unknown kinds as fast as they are taken.
        for _ in 0..MAX_SLOTS {
            let Some((slot, length)) = self.queue.take()? else {
                return Ok(None);
            };
            let mut event = wire::Event::new_zeroed();
            self.queue.read(slot, event.as_mut_bytes())?;
            self.queue.send(transport, slot, &[])?;
            if length != size_of::<wire::Event>() {
                return Err(Error::Protocol("an event's length"));
            }
            if let Some(event) = self.check(&event)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    fn check(&mut self, event: &wire::Event) -> Result<Option<Event>> {
        self.lost |= event.sequence.get() != self.sequence.wrapping_add(1);
        self.sequence = event.sequence.get();
        let change = match event.kind.get() {
            wire::EVENT_BUFFER_ADDED => Change::Added,
            wire::EVENT_BUFFER_WITHDRAWN => Change::Withdrawn,
            wire::EVENT_BUFFER_REVOKED => Change::Revoked,
            wire::EVENT_BUFFER_FREE => Change::Free,
            wire::EVENT_STREAM_ADDED => Change::StreamAdded,
            wire::EVENT_FRAME => Change::Frame,
            wire::EVENT_STREAM_WITHDRAWN => Change::StreamEnded,
            _ => return Ok(None),
        };
        let name = match Name::from_wire(event.name) {
            Ok(name) => Some(name),
            Err(_) if change.may_be_nameless() && event.name == [0; 64] => None,
            Err(_) => return Err(Error::Protocol("an event's name")),
        };
        Ok(Some(Event {
            change,
            subject: event.buffer.get(),
            value: event.value.get(),
            name,
            lost: core::mem::take(&mut self.lost),
        }))
    }
}
