// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! STREAM_OPEN to STREAM_RECLAIM: a session's ends of streams, and the events about them.

use super::grants::Terms;
use super::{Along, Answer, Body, Held, Session, Target, Transport};
use crate::buffer::Change;
use crate::error::status_of;
use crate::gauge::Share;
use crate::stream::{Consumer, Consumption, Frame, Producer, Stream};
use dmabuf_protocol::stream::StreamRequest;
use dmabuf_protocol::wire::{self, Event, Format, ReplyHeader};
use dmabuf_protocol::{Access, BufferId, ConsumeMode, Enforcement, Handle, Name, Status};
use rustix::fd::{AsFd, OwnedFd};
use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::time::{Duration, Instant};
use zerocopy::{FromZeros, Immutable, IntoBytes};

/// Most ends of streams that a session has at once.
pub const MAX_ENDS: u32 = 64;

/// A session's end of a stream.
#[derive(Debug)]
pub enum End {
    /// It queues frames.
    Producer(Producer),
    /// It gets frames.
    Consumer {
        /// The end itself.
        consumer: Consumer,
        /// EVENT_STREAM_WITHDRAWN was given out.
        told: bool,
        /// Its place in the peer's quota.
        _place: Share,
    },
}

impl Session {
    pub(super) fn stream(
        &mut self,
        request: StreamRequest,
        capacity: usize,
        fd: Option<OwnedFd>,
    ) -> Answer {
        match request {
            StreamRequest::Open {
                name,
                mode,
                hold_ms,
            } => self.stream_open(&name, mode, hold_ms),
            StreamRequest::Close(stream) => {
                self.streams.remove(stream)?;
                Ok(Body::EMPTY)
            }
            StreamRequest::Buffer {
                stream,
                index,
                enforcement,
            } => self.stream_buffer(stream, index, enforcement),
            StreamRequest::Acquire(stream) => self.stream_acquire(stream),
            StreamRequest::Release { stream, sequence } => {
                self.consumer(stream)?.release(sequence)?;
                Ok(Body::EMPTY)
            }
            StreamRequest::Stats { name, cursor } => self.stream_stats(&name, cursor, capacity),
            StreamRequest::List { cursor, max } => Ok(self.stream_list(cursor, max, capacity)),
            StreamRequest::Create { name, format } => self.stream_create(name, format),
            StreamRequest::Add { stream, handle } => self.stream_add(stream, handle),
            StreamRequest::Queue {
                stream,
                index,
                timestamp_ns,
                flags,
            } => self.stream_queue(stream, index, timestamp_ns, flags, fd),
            StreamRequest::Reclaim(stream) => Ok(index_reply(self.producer(stream)?.reclaim()?)),
            StreamRequest::Revoke {
                stream,
                deadline_ms,
            } => self.stream_revoke(stream, deadline_ms),
        }
    }

    fn stream_open(&mut self, name: &Name, mode: ConsumeMode, hold_ms: u32) -> Answer {
        let grant = self.policy.stream_grant(name).ok_or(Status::EACCES)?;
        let Target::Streams {
            max_held, max_hold, ..
        } = grant.target
        else {
            return Err(Status::EACCES);
        };
        self.streams.has_room()?;
        let wanted = match hold_ms {
            0 => max_hold,
            ms => max_hold.min(Duration::from_millis(ms.into())),
        };
        let (usage, limits) = (&self.policy.usage, &self.policy.limits);
        let place = usage.consumers.take(1, limits.consumers.into());
        let place = place.ok_or(Status::EDQUOT)?;
        let terms = Consumption {
            mode,
            max_held,
            hold: wanted,
            holds: usage.holds.clone(),
            max_holds: limits.holds.into(),
        };
        let consumer = self
            .host
            .streams
            .open(name, terms, self.policy.name, &self.subscription)?;
        let stream = Arc::clone(consumer.stream());
        let number = self.streams.insert(End::Consumer {
            consumer,
            told: false,
            _place: place,
        })?;
        if let Some(messenger) = &self.messenger {
            self.consumer(number)?.bell().hire(messenger, number);
        }
        Ok(Body::of(&wire::StreamOpenReply {
            stream: number.into(),
            buffers: stream.buffers().into(),
            hold_ms: milliseconds(wanted).into(),
            max_held: max_held.into(),
            id: stream.id().into(),
            format: stream.format().unwrap_or_else(FromZeros::new_zeroed),
            ..FromZeros::new_zeroed()
        }))
    }

    fn stream_buffer(&mut self, stream: u64, index: u32, enforcement: Enforcement) -> Answer {
        let stream = Arc::clone(self.consumer(stream)?.stream());
        let grant = self
            .policy
            .stream_grant(&stream.name())
            .ok_or(Status::EACCES)?;
        let terms = Terms {
            least: grant.enforcement.max(enforcement),
            fail_stop: grant.fail_stop,
            fences: grant.fences,
        };
        let least = terms.least;
        let buffer = stream.buffer(index)?;
        if let Some(pool) = buffer.pool()
            && !self.policy.has_pool(pool.name())
        {
            self.complaints.warn(format_args!(
                "peer {}: a buffer of stream {} refused: it is a slot of pool {:?}, and whoever has one slot sees all \
                 of them: grant the pool, or take the buffers from a heap",
                self.policy.name,
                stream.name(),
                pool.name(),
            ));
            return Err(Status::EACCES);
        }
        let alias = buffer.alias(Access::ReadOnly, least).inspect_err(|&status| {
            if status == Status::ESTALE {
                return;
            }
            self.complaints.warn(format_args!(
                "peer {}: a buffer of stream {} refused: a read-only alias needs at least the enforcement {:?}, and \
                 this {} buffer can have {:?}",
                self.policy.name,
                stream.name(),
                least.as_str(),
                buffer.kind().as_str(),
                buffer.best_enforcement().as_str(),
            ));
        })?;
        self.hold(Held::granted(alias, terms), None, stream.format())
    }

    fn stream_acquire(&mut self, stream: u64) -> Answer {
        let now = Instant::now();
        let consumer = self.consumer(stream)?;
        let acquired = consumer.acquire(now)?;
        let frame = acquired.frame;
        let fences = self.fences_of(consumer, &frame);
        let along = fences.map(Along::SyncFile);
        let sync_file = along.as_ref().map_or(0, |_| wire::FRAME_SYNC_FILE);
        let reply = wire::FrameReply {
            sequence: frame.sequence.into(),
            timestamp_ns: frame.timestamp_ns.into(),
            skipped: acquired.skipped.into(),
            index: frame.index.into(),
            flags: (frame.flags | sync_file).into(),
            hold_ms: milliseconds(acquired.deadline - now).into(),
            ready: acquired.ready.into(),
        };
        Ok(Body {
            along,
            ..Body::of(&reply)
        })
    }

    /// What a process can poll until a frame is finished. Where it can't be had, FENCE_WAIT is left.
    fn fences_of(&self, consumer: &Consumer, frame: &Frame) -> Option<OwnedFd> {
        if frame.flags & wire::FRAME_FENCED == 0 || !matches!(self.transport, Transport::Fds) {
            return None;
        }
        let buffer = consumer.stream().buffer(frame.index).ok()?;
        self.host.fences.kernel().export(buffer.dma_buf()?).ok()
    }

    fn stream_queue(
        &self,
        stream: u64,
        index: u32,
        timestamp_ns: u64,
        flags: u32,
        sync_file: Option<OwnedFd>,
    ) -> Answer {
        let timestamp_ns = match timestamp_ns {
            0 => now_ns(),
            given => given,
        };
        let producer = self.producer(stream)?;
        if let Some(sync_file) = sync_file {
            let buffer = producer.own(index)?;
            let dma_buf = buffer.dma_buf().ok_or(Status::ENODEV)?;
            let kernel = self.host.fences.kernel();
            // On the thread of this connection, so that a driver that is long about it keeps nobody else waiting.
            kernel
                .import(dma_buf, sync_file.as_fd())
                .map_err(status_of)?;
        }
        let sequence = producer.queue(index, timestamp_ns, flags)?;
        Ok(Body::of(&wire::StreamQueueReply {
            sequence: sequence.into(),
        }))
    }

    fn stream_stats(&self, name: &Name, cursor: u32, capacity: usize) -> Answer {
        if self.policy.stream_grant(name).is_none() {
            self.policy.may_publish(name)?;
        }
        let stream = self.host.streams.find(name).ok_or(Status::ENOENT)?;
        let fit = entries::<wire::StreamStatsReply, wire::ConsumerInfo>(capacity);
        let from = usize::try_from(cursor).unwrap_or(usize::MAX);
        // One more than fits tells whether there is another page.
        let (stats, mut consumers) = stream.consumers(from, fit.saturating_add(1));
        let next = consumers.get(fit).map_or(0, |(number, _)| *number);
        consumers.truncate(fit);
        let head = wire::StreamStatsReply {
            produced: stats.produced.into(),
            buffers: stats.buffers.into(),
            with_producer: stats.with_producer.into(),
            free: stats.free.into(),
            consumers: stats.consumers.into(),
            count: u32::try_from(consumers.len()).unwrap_or(u32::MAX).into(),
            next: u32::try_from(next).unwrap_or(u32::MAX).into(),
            ..FromZeros::new_zeroed()
        };
        let consumers: Vec<_> = consumers
            .into_iter()
            .map(|(_, stats)| {
                let (mode, depth) = stats.mode.to_wire();
                wire::ConsumerInfo {
                    peer: stats.peer.to_wire(),
                    mode: mode.into(),
                    depth: depth.into(),
                    joined: stats.counters.joined.into(),
                    delivered: stats.counters.delivered.into(),
                    skipped: stats.counters.skipped.into(),
                    expired: stats.counters.expired.into(),
                    ready: stats.ready.into(),
                    held: stats.held.into(),
                }
            })
            .collect();
        Ok(listed(&head, &consumers))
    }

    fn stream_list(&self, cursor: u64, max: u32, capacity: usize) -> Body {
        let fit = entries::<wire::ListReply, wire::StreamInfo>(capacity);
        let wanted = match max {
            0 => fit,
            max => fit.min(usize::try_from(max).unwrap_or(usize::MAX)),
        };
        let (streams, more) = self.host.streams.page(cursor, wanted, |name| {
            self.policy.stream_grant(name).is_some()
        });
        let next = streams
            .last()
            .filter(|_| more)
            .map_or(0, |stream| stream.id());
        let head = wire::ListReply {
            count: u32::try_from(streams.len()).unwrap_or(u32::MAX).into(),
            next: next.into(),
            ..FromZeros::new_zeroed()
        };
        let streams: Vec<_> = streams.iter().map(|stream| describe(stream)).collect();
        listed(&head, &streams)
    }

    fn stream_create(&mut self, name: Name, format: Option<Format>) -> Answer {
        self.policy.may_publish(&name)?;
        self.streams.has_room()?;
        let producer =
            self.host
                .streams
                .create(name, format, self.policy.name, &self.subscription)?;
        let id = producer.stream().id();
        let number = self.streams.insert(End::Producer(producer))?;
        self.host.registry.announce(&Change {
            kind: wire::EVENT_STREAM_ADDED,
            id: BufferId(id),
            name: Some(name),
            value: 0,
            pool: None,
        });
        Ok(Body::of(&wire::StreamCreateReply {
            stream: number.into(),
            id: id.into(),
        }))
    }

    fn stream_add(&mut self, stream: u64, handle: Handle) -> Answer {
        let producer = self.producer(stream)?;
        let index = producer.add(Arc::clone(self.owned(handle)?))?;
        Ok(index_reply(index))
    }

    fn consumer(&self, number: u64) -> Result<&Consumer, Status> {
        match self.streams.get(number)? {
            End::Consumer { consumer, .. } => Ok(consumer),
            End::Producer(_) => Err(Status::ESTALE),
        }
    }

    pub(super) fn producer(&self, number: u64) -> Result<&Producer, Status> {
        match self.streams.get(number)? {
            End::Producer(producer) => Ok(producer),
            End::Consumer { .. } => Err(Status::ESTALE),
        }
    }

    /// The next event about one of this session's ends.
    pub(super) fn stream_event(&mut self) -> Option<Event> {
        let (number, kind, name) = self
            .streams
            .iter_mut()
            .find_map(|(number, end)| Some((number, end.news()?, end.stream().name())))?;
        Some(Event {
            kind: kind.into(),
            sequence: self.count_events(1).into(),
            buffer: number.into(),
            name: name.to_wire(),
            ..FromZeros::new_zeroed()
        })
    }
}

impl End {
    fn stream(&self) -> &Arc<Stream> {
        match self {
            Self::Producer(producer) => producer.stream(),
            Self::Consumer { consumer, .. } => consumer.stream(),
        }
    }

    /// The kind of event that there is for it.
    fn news(&mut self) -> Option<u32> {
        match self {
            Self::Producer(producer) => producer.bell().answer().then_some(wire::EVENT_STREAM_FREE),
            Self::Consumer { consumer, told, .. } => {
                if !consumer.bell().answer() {
                    return None;
                }
                if !*told && consumer.is_withdrawn() {
                    *told = true;
                    // What is ready can still be acquired.
                    consumer.bell().again();
                    return Some(wire::EVENT_STREAM_WITHDRAWN);
                }
                (consumer.ready() > 0).then_some(wire::EVENT_FRAME)
            }
        }
    }
}

fn describe(stream: &Stream) -> wire::StreamInfo {
    let stats = stream.stats();
    wire::StreamInfo {
        id: stream.id().into(),
        produced: stats.produced.into(),
        buffers: stats.buffers.into(),
        consumers: stats.consumers.into(),
        format: stream.format().unwrap_or_else(FromZeros::new_zeroed),
        name: stream.name().to_wire(),
        ..FromZeros::new_zeroed()
    }
}

fn index_reply(index: u32) -> Body {
    Body::of(&wire::StreamIndexReply {
        index: index.into(),
        reserved: 0.into(),
    })
}

/// How many entries fit into a reply of `capacity` bytes.
pub(super) const fn entries<Head, Entry>(capacity: usize) -> usize {
    capacity.saturating_sub(size_of::<ReplyHeader>() + size_of::<Head>()) / size_of::<Entry>()
}

pub(super) fn listed<T: IntoBytes + Immutable>(
    head: &(impl IntoBytes + Immutable),
    entries: &[T],
) -> Body {
    let mut bytes = head.as_bytes().to_vec();
    bytes.extend_from_slice(entries.as_bytes());
    Body { bytes, along: None }
}

/// The host's `CLOCK_MONOTONIC` in nanoseconds.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

fn milliseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
