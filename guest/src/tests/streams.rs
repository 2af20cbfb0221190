// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Frames, from a host that keeps to SPEC.md and from one that doesn't.

use super::host::{Host, PAGE, Shared, name_of, start};
use crate::{Error, Result, Stream};
use core::mem::offset_of;
use core::ops::ControlFlow;
use core::time::Duration;
use dmabuf_protocol::stream::StreamRequest;
use dmabuf_protocol::wire::{self, FrameReply, StreamOpenReply};
use dmabuf_protocol::{Access, ConsumeMode, Enforcement, Name, OpCode, Status};
use std::boxed::Box;
use std::collections::BTreeSet;
use std::vec::Vec;
use zerocopy::{FromZeros, IntoBytes};

/// The fake host's streams: seven of them, all with the same frames. A buffer of index 2 is `frame/2`.
#[derive(Default)]
pub struct Frames {
    /// Consumers.
    pub ends: BTreeSet<u64>,
    /// The sequence numbers of frames that are held.
    pub held: BTreeSet<u64>,
    /// Frames that are ready.
    pub ready: u32,
    produced: u64,
}

const STREAMS: u64 = 7;

impl Frames {
    /// `number` is a fresh one.
    pub fn carry_out(&mut self, request: StreamRequest, number: u64) -> Result<Vec<u8>, Status> {
        let known = |ends: &BTreeSet<u64>, end| match ends.contains(&end) {
            true => Ok(()),
            false => Err(Status::ESTALE),
        };
        match request {
            StreamRequest::List { cursor, .. } => {
                let ids: Vec<_> = (cursor + 1..=STREAMS).take(5).collect();
                let mut head = wire::ListReply::new_zeroed();
                head.count = u32::try_from(ids.len()).unwrap().into();
                let last = ids.last().copied().unwrap_or_default();
                head.next = if last < STREAMS { last } else { 0 }.into();
                let mut body = head.as_bytes().to_vec();
                for id in ids {
                    let mut info = wire::StreamInfo::new_zeroed();
                    info.id = id.into();
                    info.buffers = 3.into();
                    info.name = name_of(id).to_wire();
                    body.extend(info.as_bytes());
                }
                Ok(body)
            }
            StreamRequest::Open { mode, hold_ms, .. } => {
                assert_eq!((mode, hold_ms), (ConsumeMode::Fifo(3), 20));
                self.ends.insert(number);
                let mut reply = StreamOpenReply::new_zeroed();
                reply.stream = number.into();
                reply.buffers = 3.into();
                (reply.hold_ms, reply.max_held) = (20.into(), 2.into());
                Ok(reply.as_bytes().to_vec())
            }
            StreamRequest::Close(end) => {
                known(&self.ends, end)?;
                self.ends.remove(&end);
                self.held.clear();
                Ok(Vec::new())
            }
            StreamRequest::Acquire(end) => {
                known(&self.ends, end)?;
                self.ready = self.ready.checked_sub(1).ok_or(Status::EAGAIN)?;
                self.produced += 1;
                self.held.insert(self.produced);
                let mut reply = FrameReply::new_zeroed();
                reply.sequence = self.produced.into();
                reply.timestamp_ns = 1_500_000_000.into();
                reply.index = u32::try_from(self.produced % 3).unwrap().into();
                (reply.hold_ms, reply.ready) = (20.into(), self.ready.into());
                Ok(reply.as_bytes().to_vec())
            }
            StreamRequest::Release { stream, sequence } => {
                known(&self.ends, stream)?;
                match self.held.remove(&sequence) {
                    true => Ok(Vec::new()),
                    false => Err(Status::ESTALE),
                }
            }
            other => panic!("the driver sent {other:?}"),
        }
    }
}

fn open(device: &mut super::host::TestDevice) -> Result<Stream> {
    let name = Name::new("camera").unwrap();
    device.open_stream(name, ConsumeMode::Fifo(3), Duration::from_millis(20))
}

#[test]
fn frames_come_and_are_given_back() {
    let host = Host::new();
    let mut device = start(&host).unwrap();
    let mut stream = open(&mut device).unwrap();
    assert_eq!((stream.buffers(), stream.max_held()), (3, 2));
    let sealed = Enforcement::Sealed;
    let alias = device.stream_buffer(&stream, 1, sealed).unwrap();
    let memory = device.map(&alias, 0, PAGE, Access::ReadOnly).unwrap();
    assert_eq!(memory.read::<u64>(0), Some(0xf1));
    assert_eq!(device.acquire(&mut stream), Ok(None));
    host.borrow_mut().frames.ready = 2;
    let frame = device.acquire(&mut stream).unwrap().unwrap();
    assert_eq!((frame.sequence, frame.index, frame.ready), (1, 1, 1));
    assert_eq!(frame.timestamp, Duration::from_millis(1500));
    device.release(&stream, &frame).unwrap();
    let stale = device.release(&stream, &frame);
    assert_eq!(stale, Err(Error::Refused(Status::ESTALE)));
    assert_eq!(device.acquire(&mut stream).unwrap().unwrap().sequence, 2);
    device.close_stream(stream).unwrap();
    assert!(host.borrow().frames.ends.is_empty());
    assert!(host.borrow().frames.held.is_empty());
}

#[test]
fn streams_are_listed_page_by_page() {
    let host = Host::new();
    let mut device = start(&host).unwrap();
    let mut names = Vec::new();
    let all: Vec<_> = (1..=STREAMS).map(name_of).collect();
    device
        .streams(|stream| {
            names.push(stream.name);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(names, all);
}

/// The host puts these bytes there into each reply to `op`.
fn lying(op: OpCode, at: usize, bytes: &[u8]) -> Shared {
    let host = Host::new();
    let bytes = bytes.to_vec();
    host.borrow_mut().frames.ready = 2;
    host.borrow_mut().lie = Some(Box::new(move |of, reply| {
        if of == op {
            reply[16 + at..16 + at + bytes.len()].copy_from_slice(&bytes);
        }
    }));
    host
}

#[test]
fn terms_that_can_not_be() {
    let lies: &[(usize, &[u8])] = &[
        (offset_of!(StreamOpenReply, buffers), &[65]),
        (offset_of!(StreamOpenReply, hold_ms), &[0]),
        (offset_of!(StreamOpenReply, max_held), &[0]),
        (offset_of!(StreamOpenReply, format), &[1]),
    ];
    for (at, bytes) in lies {
        let host = lying(OpCode::StreamOpen, *at, bytes);
        let refused = open(&mut start(&host).unwrap());
        assert!(
            matches!(refused, Err(Error::Protocol(_))),
            "{at}: {refused:?}"
        );
        assert!(host.borrow().frames.ends.is_empty(), "{at}: given back");
    }
}

#[test]
fn frames_that_can_not_be() {
    let lies: &[(usize, &[u8])] = &[
        (offset_of!(FrameReply, sequence), &[0]),
        (offset_of!(FrameReply, index), &[64]),
    ];
    for (at, bytes) in lies {
        let host = lying(OpCode::StreamAcquire, *at, bytes);
        let mut device = start(&host).unwrap();
        let mut stream = open(&mut device).unwrap();
        let refused = device.acquire(&mut stream);
        assert!(
            matches!(refused, Err(Error::Protocol(_))),
            "{at}: {refused:?}"
        );
    }
    let host = lying(
        OpCode::StreamAcquire,
        offset_of!(FrameReply, sequence),
        &[7],
    );
    let mut device = start(&host).unwrap();
    let mut stream = open(&mut device).unwrap();
    device.acquire(&mut stream).unwrap();
    let again = device.acquire(&mut stream);
    assert_eq!(again, Err(Error::Protocol("frames aren't in order")));
}

#[test]
fn a_late_stream_is_closed() {
    let host = Host::new();
    let mut device = start(&host).unwrap();
    host.borrow_mut().holding = true;
    assert_eq!(open(&mut device), Err(Error::TimedOut));
    super::late::go_on(&host);
    assert_eq!(host.borrow().frames.ends.len(), 1);
    device.info().unwrap();
    assert!(host.borrow().frames.ends.is_empty());
}
