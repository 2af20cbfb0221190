// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The vectors of streams, built from the wire structures.

use crate::messages::{HANDLE, format, name, reply, request};
use dmabuf_protocol::stream::StreamRequest;
use dmabuf_protocol::wire::*;
use dmabuf_protocol::{ConsumeMode, Enforcement, Handle, Name, OpCode, Request, Status};
use zerocopy::{FromZeros, IntoBytes};

pub const STREAM: u64 = 0x2_0000_0001;
const SEQUENCE: u64 = 0x1122_3344;
const TIMESTAMP: u64 = 123_456_789_012;

/// All of them with their names.
pub fn all() -> Vec<(&'static str, Vec<u8>)> {
    let mut all = consumer();
    all.extend(lists());
    all.extend(producer());
    all.extend(events());
    all
}

fn consumer() -> Vec<(&'static str, Vec<u8>)> {
    let end = StreamRequestBody {
        stream: STREAM.into(),
    };
    let (mode, depth) = ConsumeMode::Fifo(4).to_wire();
    let open = StreamOpenRequest {
        name: name("front"),
        mode: mode.into(),
        depth: depth.into(),
        hold_ms: 250.into(),
        reserved: 0.into(),
    };
    let opened = StreamOpenReply {
        stream: STREAM.into(),
        buffers: 5.into(),
        hold_ms: 250.into(),
        max_held: 2.into(),
        reserved: 0.into(),
        id: 9.into(),
        format: format(),
    };
    let buffer = StreamBufferRequest {
        stream: STREAM.into(),
        index: 3.into(),
        enforcement: Enforcement::Derived.to_wire().into(),
    };
    let frame = FrameReply {
        sequence: SEQUENCE.into(),
        timestamp_ns: TIMESTAMP.into(),
        skipped: 17.into(),
        index: 3.into(),
        flags: FRAME_FENCED.into(),
        hold_ms: 250.into(),
        ready: 1.into(),
    };
    let release = StreamReleaseRequest {
        stream: STREAM.into(),
        sequence: SEQUENCE.into(),
    };
    vec![
        (
            "stream_open.request",
            request(OpCode::StreamOpen, 20, &open),
        ),
        (
            "stream_open.reply",
            reply(OpCode::StreamOpen, 20, Status::OK, &opened),
        ),
        (
            "stream_close.request",
            request(OpCode::StreamClose, 21, &end),
        ),
        (
            "stream_buffer.request",
            request(OpCode::StreamBuffer, 22, &buffer),
        ),
        (
            "stream_acquire.request",
            request(OpCode::StreamAcquire, 23, &end),
        ),
        (
            "stream_acquire.reply",
            reply(OpCode::StreamAcquire, 23, Status::OK, &frame),
        ),
        (
            "stream_acquire.empty",
            reply(OpCode::StreamAcquire, 23, Status::EAGAIN, &()),
        ),
        (
            "stream_release.request",
            request(OpCode::StreamRelease, 24, &release),
        ),
    ]
}

fn lists() -> Vec<(&'static str, Vec<u8>)> {
    let ask = StreamStatsRequest {
        name: name("front"),
        cursor: 2.into(),
        reserved: 0.into(),
    };
    let head = StreamStatsReply {
        produced: 1000.into(),
        buffers: 5.into(),
        with_producer: 1.into(),
        free: 2.into(),
        consumers: 3.into(),
        count: 1.into(),
        next: 0.into(),
        reserved: 0.into(),
    };
    let entry = ConsumerInfo {
        peer: name("cluster"),
        mode: MODE_LATEST.into(),
        depth: 0.into(),
        joined: 100.into(),
        delivered: 880.into(),
        skipped: 19.into(),
        expired: 4.into(),
        ready: 1.into(),
        held: 2.into(),
    };
    let list = ListRequest {
        cursor: 8.into(),
        max: 1.into(),
        reserved: 0.into(),
    };
    let list_head = ListReply {
        count: 1.into(),
        reserved: 0.into(),
        next: 9.into(),
    };
    let info = StreamInfo {
        id: 9.into(),
        produced: 1000.into(),
        buffers: 5.into(),
        consumers: 3.into(),
        reserved: 0.into(),
        format: format(),
        name: name("front"),
    };
    vec![
        (
            "stream_stats.request",
            request(OpCode::StreamStats, 25, &ask),
        ),
        (
            "stream_stats.reply",
            [
                reply(OpCode::StreamStats, 25, Status::OK, &head),
                entry.as_bytes().to_vec(),
            ]
            .concat(),
        ),
        (
            "stream_list.request",
            request(OpCode::StreamList, 26, &list),
        ),
        (
            "stream_list.reply",
            [
                reply(OpCode::StreamList, 26, Status::OK, &list_head),
                info.as_bytes().to_vec(),
            ]
            .concat(),
        ),
    ]
}

fn producer() -> Vec<(&'static str, Vec<u8>)> {
    let end = StreamRequestBody {
        stream: STREAM.into(),
    };
    let create = StreamCreateRequest {
        name: name("front"),
        flags: 0.into(),
        format: format(),
    };
    let created = StreamCreateReply {
        stream: STREAM.into(),
        id: 9.into(),
    };
    let add = StreamAddRequest {
        stream: STREAM.into(),
        handle: HANDLE.into(),
    };
    let index = StreamIndexReply {
        index: 3.into(),
        reserved: 0.into(),
    };
    let queue = StreamQueueRequest {
        stream: STREAM.into(),
        timestamp_ns: TIMESTAMP.into(),
        index: 3.into(),
        flags: FRAME_FENCED.into(),
    };
    let queued = StreamQueueReply {
        sequence: SEQUENCE.into(),
    };
    let revoke = StreamRevokeRequest {
        stream: STREAM.into(),
        deadline_ms: 250.into(),
        reserved: 0.into(),
    };
    vec![
        (
            "stream_create.request",
            request(OpCode::StreamCreate, 27, &create),
        ),
        (
            "stream_create.reply",
            reply(OpCode::StreamCreate, 27, Status::OK, &created),
        ),
        ("stream_add.request", request(OpCode::StreamAdd, 28, &add)),
        (
            "stream_add.reply",
            reply(OpCode::StreamAdd, 28, Status::OK, &index),
        ),
        (
            "stream_queue.request",
            request(OpCode::StreamQueue, 29, &queue),
        ),
        (
            "stream_queue.reply",
            reply(OpCode::StreamQueue, 29, Status::OK, &queued),
        ),
        (
            "stream_reclaim.request",
            request(OpCode::StreamReclaim, 30, &end),
        ),
        (
            "stream_reclaim.reply",
            reply(OpCode::StreamReclaim, 30, Status::OK, &index),
        ),
        (
            "stream_revoke.request",
            request(OpCode::StreamRevoke, 32, &revoke),
        ),
    ]
}

fn events() -> Vec<(&'static str, Vec<u8>)> {
    let event = |kind: u32, sequence: u64, about: u64| {
        Event {
            kind: kind.into(),
            sequence: sequence.into(),
            buffer: about.into(),
            name: name("front"),
            ..FromZeros::new_zeroed()
        }
        .as_bytes()
        .to_vec()
    };
    vec![
        ("event.frame", event(EVENT_FRAME, 4, STREAM)),
        (
            "event.stream_withdrawn",
            event(EVENT_STREAM_WITHDRAWN, 5, STREAM),
        ),
        ("event.stream_added", event(EVENT_STREAM_ADDED, 6, 9)),
        ("event.stream_free", event(EVENT_STREAM_FREE, 7, STREAM)),
    ]
}

/// What the request vectors mean.
pub fn parsed() -> Vec<(&'static str, Request)> {
    let front = Name::new("front").unwrap();
    let requests = [
        (
            "stream_open",
            StreamRequest::Open {
                name: front,
                mode: ConsumeMode::Fifo(4),
                hold_ms: 250,
            },
        ),
        ("stream_close", StreamRequest::Close(STREAM)),
        (
            "stream_buffer",
            StreamRequest::Buffer {
                stream: STREAM,
                index: 3,
                enforcement: Enforcement::Derived,
            },
        ),
        ("stream_acquire", StreamRequest::Acquire(STREAM)),
        (
            "stream_release",
            StreamRequest::Release {
                stream: STREAM,
                sequence: SEQUENCE,
            },
        ),
        (
            "stream_stats",
            StreamRequest::Stats {
                name: front,
                cursor: 2,
            },
        ),
        ("stream_list", StreamRequest::List { cursor: 8, max: 1 }),
        (
            "stream_create",
            StreamRequest::Create {
                name: front,
                format: Some(format()),
            },
        ),
        (
            "stream_add",
            StreamRequest::Add {
                stream: STREAM,
                handle: Handle(HANDLE),
            },
        ),
        (
            "stream_queue",
            StreamRequest::Queue {
                stream: STREAM,
                index: 3,
                timestamp_ns: TIMESTAMP,
                flags: FRAME_FENCED,
            },
        ),
        ("stream_reclaim", StreamRequest::Reclaim(STREAM)),
        (
            "stream_revoke",
            StreamRequest::Revoke {
                stream: STREAM,
                deadline_ms: 250,
            },
        ),
    ];
    requests
        .map(|(name, request)| (name, Request::Stream(request)))
        .to_vec()
}
