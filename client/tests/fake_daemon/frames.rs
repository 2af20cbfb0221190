// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A consumer against a daemon that hands out sync_files, sends events at odd moments, and lies; and GET_USAGE.

use crate::daemon::*;
use dmabuf_client::stream::{ConsumeMode, Consumer, Frame};
use dmabuf_client::{Client, Error, Status};
use dmabuf_protocol::stream::StreamRequest;
use dmabuf_protocol::wire::{self, FRAME_FENCED, FRAME_SYNC_FILE};
use dmabuf_protocol::{Name, Request};
use std::os::fd::AsFd;
use std::time::Duration;
use zerocopy::little_endian::U32;
use zerocopy::{FromZeros, IntoBytes};

const LONG: Duration = Duration::from_secs(10);

fn open(daemon: &mut Daemon) {
    let request = daemon.request();
    assert!(matches!(
        request,
        Some(Request::Stream(StreamRequest::Open { .. }))
    ));
    let mut reply = wire::StreamOpenReply::new_zeroed();
    reply.max_held = U32::new(2);
    daemon.reply(reply.as_bytes(), &[]);
}

fn acquire(daemon: &mut Daemon) {
    let request = daemon.request();
    assert!(matches!(
        request,
        Some(Request::Stream(StreamRequest::Acquire(0)))
    ));
}

fn frame(flags: u32, ready: u32) -> wire::FrameReply {
    let mut frame = wire::FrameReply::new_zeroed();
    (frame.flags, frame.ready) = (U32::new(flags), U32::new(ready));
    frame
}

fn consumer(client: Client) -> Consumer {
    Consumer::open(client, "t/front", ConsumeMode::Latest).unwrap()
}

/// What a consumer makes of this answer to its ACQUIRE; `files` fds come along.
fn acquired(flags: u32, files: usize) -> Result<Option<Frame>, Error> {
    let (client, daemon) = with_daemon(move |daemon| {
        open(daemon);
        acquire(daemon);
        let pool = pool();
        daemon.reply(frame(flags, 0).as_bytes(), &vec![pool.as_fd(); files]);
    });
    let frame = consumer(client).try_next();
    daemon.join().unwrap();
    frame
}

#[test]
fn a_sync_file_comes_with_its_flag_and_only_then() {
    let plain = acquired(0, 0).unwrap().unwrap();
    assert!(!plain.fenced && plain.fence.is_none());
    let alone = acquired(FRAME_FENCED, 0).unwrap().unwrap();
    assert!(alone.fenced && alone.fence.is_none());
    let both = acquired(FRAME_FENCED | FRAME_SYNC_FILE, 1)
        .unwrap()
        .unwrap();
    assert!(both.fenced && both.fence.is_some());
    for (flags, files) in [
        (0, 1),
        (FRAME_FENCED, 1),
        (FRAME_FENCED | FRAME_SYNC_FILE, 0),
        (3, 2),
    ] {
        let lie = acquired(flags, files).unwrap_err();
        assert!(
            matches!(lie, Error::Protocol(_)),
            "{flags} {files}: {lie:?}"
        );
    }
}

#[test]
fn nothing_is_asked_while_no_frame_can_be_there() {
    let (client, daemon) = with_daemon(|daemon| {
        open(daemon);
        acquire(daemon);
        daemon.refuse(Status::EAGAIN);
        // Not a word until there is an event.
        daemon.event(wire::EVENT_FRAME, 1, "t/front");
        acquire(daemon);
        daemon.reply(frame(0, 1).as_bytes(), &[]);
        // One more is ready: it is asked for at once.
        acquire(daemon);
        daemon.reply(frame(0, 0).as_bytes(), &[]);
        daemon.event(wire::EVENT_STREAM_WITHDRAWN, 2, "t/front");
        acquire(daemon);
        daemon.refuse(Status::ENODEV);
    });
    let mut consumer = consumer(client);
    assert!(consumer.next(LONG).unwrap().is_some());
    assert!(consumer.next(LONG).unwrap().is_some());
    let ended = consumer.next(LONG).unwrap_err();
    assert_eq!(ended.status(), Some(Status::ENODEV));
    daemon.join().unwrap();
}

#[test]
fn the_end_of_a_stream_is_noticed_after_its_last_frame() {
    let (client, daemon) = with_daemon(|daemon| {
        open(daemon);
        acquire(daemon);
        // A last frame, and the end: heard of before that frame is asked for, and never again.
        daemon.event(wire::EVENT_STREAM_WITHDRAWN, 1, "t/front");
        daemon.refuse(Status::EAGAIN);
        acquire(daemon);
        daemon.reply(frame(0, 0).as_bytes(), &[]);
        acquire(daemon);
        daemon.refuse(Status::ENODEV);
    });
    let mut consumer = consumer(client);
    assert!(consumer.next(LONG).unwrap().is_some());
    let ended = consumer.next(LONG).unwrap_err();
    assert_eq!(ended.status(), Some(Status::ENODEV));
    daemon.join().unwrap();
}

#[test]
fn an_event_before_the_answer_is_not_lost() {
    let (client, daemon) = with_daemon(|daemon| {
        open(daemon);
        acquire(daemon);
        daemon.event(wire::EVENT_FRAME, 1, "t/front");
        daemon.refuse(Status::EAGAIN);
        acquire(daemon);
        daemon.reply(frame(0, 0).as_bytes(), &[]);
    });
    assert!(consumer(client).next(LONG).unwrap().is_some());
    daemon.join().unwrap();
}

fn usage(change: impl FnOnce(&mut wire::ListReply, &mut wire::PeerUsage)) -> Vec<u8> {
    let mut head = wire::ListReply::new_zeroed();
    let mut peer = wire::PeerUsage::new_zeroed();
    peer.name = Name::new("peer").unwrap().to_wire();
    (head.count, peer.kind) = (U32::new(1), U32::new(2));
    change(&mut head, &mut peer);
    [head.as_bytes(), peer.as_bytes()].concat()
}

#[test]
fn lies_about_usage() {
    let pages = [
        usage(|head, _| head.count = U32::new(2)),
        usage(|_, peer| peer.kind = U32::new(3)),
        usage(|_, peer| peer.name = [0; 64]),
        usage(|_, _| ())[..100].to_vec(),
    ];
    for page in pages {
        let (mut client, daemon) = with_daemon(move |daemon| {
            daemon.request();
            daemon.reply(&page, &[]);
        });
        assert!(matches!(client.usage(), Err(Error::Protocol(_))));
        daemon.join().unwrap();
    }
    // A list that goes round.
    let (mut client, daemon) = with_daemon(|daemon| {
        for _ in 0..2 {
            daemon.request();
            daemon.reply(&usage(|head, _| head.next = 1.into()), &[]);
        }
    });
    assert!(matches!(client.usage(), Err(Error::Protocol(_))));
    daemon.join().unwrap();
}
