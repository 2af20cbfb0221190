// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Waits whose ends come when they like, and daemons that get them wrong.

use crate::daemon::*;
use dmabuf_client::{
    Access, Client, Error, EventKind, FenceState, FenceUsage, FenceWait, Status, SyncDirection,
    Waited,
};
use dmabuf_protocol::{Handle, Request, wire};
use std::os::fd::AsFd;
use std::time::Duration;
use zerocopy::IntoBytes;

fn open(daemon: &mut Daemon) {
    daemon.request();
    let reply = opened("a", Access::ReadWrite);
    daemon.reply(reply.as_bytes(), &[pool().as_fd()]);
}

/// Takes a FENCE_WAIT, and doesn't answer; returns its tag.
fn take_wait(daemon: &mut Daemon, milliseconds: u32) -> u64 {
    let expected = Request::FenceWait {
        handle: Handle(0x1_0000_0005),
        usage: FenceUsage::Read,
        timeout_ms: milliseconds,
    };
    assert_eq!(daemon.request(), Some(expected));
    daemon.tag
}

fn end_wait(daemon: &Daemon, tag: u64, status: Status, fences: u32) {
    let header = wire::ReplyHeader {
        op: 0x20.into(),
        status: status.0.into(),
        tag: tag.into(),
    };
    let body = wire::FenceWaitReply {
        flags: 0.into(),
        fences: fences.into(),
        timestamp_ns: 1_000_000_007.into(),
    };
    let body = if status == Status::OK {
        body.as_bytes()
    } else {
        &[]
    };
    daemon.send(&[header.as_bytes(), body].concat(), &[]);
}

fn status(client: &mut Client, wait: &FenceWait) -> Option<Status> {
    client.finish_wait(wait).unwrap_err().status()
}

#[test]
fn waits_end_in_any_order_between_other_replies() {
    let (mut client, daemon) = with_daemon(|daemon| {
        open(daemon);
        let first = take_wait(daemon, 0);
        let second = take_wait(daemon, 1);
        let third = take_wait(daemon, u32::MAX);
        daemon.request();
        end_wait(daemon, second, Status(61), 0);
        daemon.event(wire::EVENT_BUFFER_RELEASED, 1, "x");
        end_wait(daemon, first, Status::OK, 2);
        daemon.reply(&list_page(0, &[]), &[]);
        assert!(matches!(daemon.request(), Some(Request::FenceCancel { tag }) if tag == third));
        end_wait(daemon, third, Status::ECANCELED, 0);
        daemon.op = 0x21;
        daemon.reply(&[], &[]);
        assert!(matches!(daemon.request(), Some(Request::FenceCancel { tag }) if tag == first));
        daemon.refuse(Status::ENOENT);
        assert!(daemon.request().is_none());
    });
    let alias = client.open("a", Access::ReadWrite).unwrap();
    let limits = [Duration::ZERO, Duration::from_nanos(1), Duration::MAX];
    let waits = limits.map(|limit| {
        let wait = client.fence_wait(&alias, FenceUsage::Read, limit);
        wait.unwrap()
    });
    assert!(client.list().unwrap().is_empty());
    let expected = Waited {
        fences: 2,
        signalled_at: Some(Duration::from_nanos(1_000_000_007)),
        no_dma_buf: false,
    };
    for _ in 0..2 {
        assert_eq!(client.wait_result(&waits[0]).unwrap(), Some(expected));
        assert_eq!(status(&mut client, &waits[1]), Some(Status(61)));
        assert_eq!(client.wait_result(&waits[2]).unwrap(), None, "goes on");
    }
    let event = client.next_event().unwrap().unwrap();
    assert_eq!(event.kind, EventKind::Released { value: 0 });
    assert!(client.cancel_wait(&waits[2]).unwrap());
    assert_eq!(status(&mut client, &waits[2]), Some(Status::ECANCELED));
    assert!(!client.cancel_wait(&waits[0]).unwrap());
    drop(client);
    daemon.join().unwrap();
}

#[test]
fn the_end_of_a_wait_can_be_polled_for() {
    let (mut client, daemon) = with_daemon(|daemon| {
        open(daemon);
        let forgotten = take_wait(daemon, 0);
        let tag = take_wait(daemon, 0);
        end_wait(daemon, forgotten, Status::OK, 1);
        end_wait(daemon, tag, Status::EOWNERDEAD, 0);
        assert!(daemon.request().is_none());
    });
    let alias = client.open("a", Access::ReadWrite).unwrap();
    let mut wait = || client.fence_wait(&alias, FenceUsage::Read, Duration::ZERO);
    drop(wait().unwrap());
    let wait = wait().unwrap();
    let error = loop {
        match client.wait_result(&wait) {
            Ok(None) => {}
            Ok(Some(waited)) => panic!("{waited:?}"),
            Err(error) => break error,
        }
        let mut fds = [rustix::event::PollFd::new(
            &wait,
            rustix::event::PollFlags::IN,
        )];
        rustix::event::poll(&mut fds, None).unwrap();
    };
    assert_eq!(error.status(), Some(Status::EOWNERDEAD));
    assert!(error.to_string().contains("producer"), "{error}");
    drop((client, wait));
    daemon.join().unwrap();
}

/// Begins a wait with a daemon that answers with `script`, which must be called a lie.
fn lie(script: impl FnOnce(&mut Daemon, u64) + Send + 'static) {
    let (mut client, daemon) = with_daemon(move |daemon| {
        open(daemon);
        let tag = take_wait(daemon, 0);
        script(daemon, tag);
        assert!(daemon.request().is_none());
    });
    let alias = client.open("a", Access::ReadWrite).unwrap();
    let wait = client.fence_wait(&alias, FenceUsage::Read, Duration::ZERO);
    let error = client.finish_wait(&wait.unwrap()).unwrap_err();
    assert!(matches!(error, Error::Protocol(_)), "{error:?}");
    assert!(matches!(client.list(), Err(Error::Broken)));
    drop(client);
    daemon.join().unwrap();
}

#[test]
fn lies_about_waits() {
    lie(|daemon, tag| end_wait(daemon, tag + 1, Status::OK, 0));
    lie(|daemon, _| daemon.reply(&[0; 15], &[]));
    lie(|daemon, _| daemon.reply(&[0; 17], &[]));
    lie(|daemon, _| daemon.reply(&[2; 16], &[]));
    lie(|daemon, _| daemon.reply(&[0; 16], &[pool().as_fd()]));
    lie(|daemon, _| {
        let header = daemon.header(Status::EIO);
        daemon.send(&[header.as_bytes(), &[0; 16]].concat(), &[]);
    });
}

#[test]
fn a_wait_that_ends_twice_is_a_lie() {
    let (mut client, daemon) = with_daemon(|daemon| {
        open(daemon);
        let tag = take_wait(daemon, 0);
        end_wait(daemon, tag, Status::OK, 1);
        end_wait(daemon, tag, Status::OK, 1);
        assert!(daemon.request().is_none());
    });
    let alias = client.open("a", Access::ReadWrite).unwrap();
    let wait = client.fence_wait(&alias, FenceUsage::Read, Duration::ZERO);
    // Both have come, or the second is yet to come.
    let _ = client.finish_wait(&wait.unwrap());
    let error = loop {
        match client.next_event() {
            Ok(None) => std::thread::yield_now(),
            Ok(Some(event)) => panic!("{event:?}"),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(error, Error::Protocol(_) | Error::Broken),
        "{error:?}"
    );
    drop(client);
    daemon.join().unwrap();
}

#[test]
fn what_the_other_calls_send_and_take() {
    let handle = Handle(0x1_0000_0005);
    let (mut client, daemon) = with_daemon(move |daemon| {
        open(daemon);
        let direction = SyncDirection::Read;
        let start = Request::SyncStart { handle, direction };
        assert_eq!(daemon.request(), Some(start));
        daemon.reply(&[0, 0, 0, 0, 2, 0, 0, 0], &[]);
        let end = Request::SyncEnd { handle, direction };
        assert_eq!(daemon.request(), Some(end));
        daemon.reply(&[1, 0, 0, 0, 1, 0, 0, 0], &[]);
        let release = Request::Release { handle, value: 9 };
        assert_eq!(daemon.request(), Some(release));
        daemon.reply(&[], &[]);
        let hold = Request::Hold {
            handle,
            usage: FenceUsage::Write,
            timeout_ms: 1500,
        };
        assert_eq!(daemon.request(), Some(hold));
        daemon.reply(&[0xe8, 3, 0, 0, 0, 0, 0, 0], &[]);
        let query = Request::FenceQuery {
            handle,
            usage: FenceUsage::Read,
        };
        for (state, error) in [(0, 0), (1, 0), (2, 5), (3, 0)] {
            assert_eq!(daemon.request(), Some(query));
            let body = [[0; 4], [1, 0, 0, 0], [state, 0, 0, 0], [error, 0, 0, 0]];
            daemon.reply(&body.concat(), &[]);
        }
        assert!(daemon.request().is_none());
    });
    let alias = client.open("a", Access::ReadWrite).unwrap();
    let read = SyncDirection::Read;
    assert_eq!(client.sync_start(&alias, read).unwrap(), 2);
    assert_eq!(client.sync_end(&alias, read).unwrap(), 1);
    client.release(&alias, 9).unwrap();
    let limit = Duration::from_millis(1500);
    let held = client.hold(&alias, FenceUsage::Write, limit).unwrap();
    assert_eq!(held, Duration::from_secs(1));
    for state in [
        FenceState::Pending,
        FenceState::Signalled,
        FenceState::Failed(Status::EIO),
    ] {
        assert_eq!(client.fence_state(&alias, FenceUsage::Read).unwrap(), state);
    }
    let lie = client.fence_state(&alias, FenceUsage::Read).unwrap_err();
    assert!(matches!(lie, Error::Protocol(_)), "{lie:?}");
    drop(client);
    daemon.join().unwrap();
}
