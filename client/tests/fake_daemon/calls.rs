// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Requests, replies and events as they should be, and a daemon that is late or gone.

use crate::daemon::*;
use dmabuf_client::{Access, Client, Error, EventKind, Name, Status};
use dmabuf_protocol::{Request, wire};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{SealFlags, fcntl_add_seals};
use rustix::net::SendFlags;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromZeros, IntoBytes};

#[test]
fn a_producer_and_a_consumer() {
    let (mut client, daemon) = with_daemon(|daemon| {
        let pool = pool();
        assert!(matches!(
            daemon.request(),
            Some(Request::Alloc { size: 5000, .. })
        ));
        daemon.reply(opened("", Access::ReadWrite).as_bytes(), &[pool.as_fd()]);
        assert!(matches!(
            daemon.request(),
            Some(Request::Publish {
                keep: true,
                format: None,
                ..
            })
        ));
        daemon.reply(&[], &[]);
        assert!(matches!(daemon.request(), Some(Request::Open { .. })));
        fcntl_add_seals(&pool, SealFlags::FUTURE_WRITE).unwrap();
        daemon.reply(opened("a/0", Access::ReadOnly).as_bytes(), &[pool.as_fd()]);
        assert!(
            matches!(daemon.request(), Some(Request::Close(handle)) if handle.0 == 0x1_0000_0005)
        );
        daemon.reply(&[], &[]);
    });
    let allocation = client.alloc("pool", 5000).unwrap();
    assert_eq!(allocation.info().name, None);
    let mut written = allocation.map_mut().unwrap();
    client.publish(&allocation, "a/0", None, true).unwrap();
    let alias = client.open("a/0", Access::ReadOnly).unwrap();
    let seen = alias.map().unwrap();
    assert_eq!(seen.len(), 8192);
    for offset in [0, 1, 7, 8, 4093, 8192 - 11] {
        let bytes = *b"eleven byte";
        written.write(offset, &bytes).unwrap();
        let mut back = [0; 11];
        seen.read(offset, &mut back).unwrap();
        assert_eq!(back, bytes, "at {offset}");
    }
    written.fill(b"abc").unwrap();
    let all: Vec<u8> = b"abc".iter().copied().cycle().take(8192).collect();
    assert_eq!(seen.crc32(0, 8192).unwrap(), crc32fast::hash(&all));
    assert_eq!(
        seen.crc32(4090, 13).unwrap(),
        crc32fast::hash(&all[4090..4103])
    );
    let mut copy = Vec::new();
    seen.copy_to(1, 8191, &mut copy, "memory").unwrap();
    assert_eq!(copy, all[1..]);
    assert!(matches!(seen.crc32(1, 8192), Err(Error::OutOfRange { .. })));
    assert!(matches!(
        written.write(8192, b"x"),
        Err(Error::OutOfRange { .. })
    ));
    assert!(matches!(
        seen.read(usize::MAX, &mut [0; 2]),
        Err(Error::OutOfRange { .. })
    ));
    assert!(matches!(alias.map_mut(), Err(Error::ReadOnly)));
    let (mapped, upgraded) = alias.probe_write().unwrap();
    assert!(
        mapped.is_some() && upgraded.is_some(),
        "{mapped:?} {upgraded:?}"
    );
    client.close(alias).unwrap();
    assert_eq!(
        seen.crc32(0, 8192).unwrap(),
        crc32fast::hash(&all),
        "the mapping outlives the handle"
    );
    daemon.join().unwrap();
}

#[test]
fn lists_are_read_page_by_page() {
    let (mut client, daemon) = with_daemon(|daemon| {
        assert!(matches!(
            daemon.request(),
            Some(Request::List { cursor: 0, .. })
        ));
        let page = [
            buffer(3, "a", Access::ReadOnly),
            buffer(9, "b", Access::ReadWrite),
        ];
        daemon.reply(&list_page(9, &page), &[]);
        assert!(matches!(
            daemon.request(),
            Some(Request::List { cursor: 9, .. })
        ));
        daemon.reply(&list_page(0, &[buffer(10, "c", Access::ReadOnly)]), &[]);
    });
    let names: Vec<_> = client
        .list()
        .unwrap()
        .iter()
        .map(|b| b.name.unwrap())
        .collect();
    assert_eq!(
        names.iter().map(Name::as_str).collect::<Vec<_>>(),
        ["a", "b", "c"]
    );
    daemon.join().unwrap();
}

#[test]
fn events_between_replies_are_kept_in_order() {
    let (mut client, daemon) = with_daemon(|daemon| {
        daemon.request();
        daemon.event(wire::EVENT_BUFFER_ADDED, 1, "x");
        daemon.event(0x8000_00ff, 2, "unknown-kind");
        daemon.reply(&list_page(0, &[]), &[]);
        daemon.event(wire::EVENT_BUFFER_WITHDRAWN, 5, "x");
        daemon.request();
        daemon.refuse(Status::ENOENT);
        assert!(daemon.request().is_none());
    });
    assert_eq!(client.list().unwrap(), []);
    let first = client.next_event().unwrap().unwrap();
    assert_eq!(
        (first.kind, first.sequence, first.lost),
        (EventKind::Added, 1, 0)
    );
    let limit = Timespec {
        tv_sec: 20,
        tv_nsec: 0,
    };
    poll(
        &mut [PollFd::new(&client.as_fd(), PollFlags::IN)],
        Some(&limit),
    )
    .unwrap();
    let refused = client.open("y", Access::ReadOnly).unwrap_err();
    assert_eq!(refused.status(), Some(Status::ENOENT));
    assert!(refused.to_string().contains("dmabufctl list"), "{refused}");
    let second = client.next_event().unwrap().unwrap();
    assert_eq!((second.kind, second.sequence), (EventKind::Withdrawn, 5));
    assert_eq!(
        second.lost, 3,
        "a kind that is not known counts, and so do the missing numbers"
    );
    assert_eq!(client.next_event().unwrap(), None);
    drop(client);
    daemon.join().unwrap();
}

#[test]
fn imports_send_one_fd_and_get_one_back() {
    let (mut client, daemon) = with_daemon(|daemon| {
        assert!(matches!(
            daemon.request(),
            Some(Request::Import { keep: false, .. })
        ));
        assert_eq!(daemon.fds.len(), 1);
        let sent = daemon.fds.pop().unwrap();
        daemon.reply(opened("in", Access::ReadWrite).as_bytes(), &[sent.as_fd()]);
        assert!(matches!(daemon.request(), Some(Request::Withdraw(_))));
        daemon.reply(&[], &[]);
    });
    let memory = pool();
    let alias = client.import("in", memory.as_fd(), None, false).unwrap();
    assert_eq!(alias.info().name.unwrap().as_str(), "in");
    let mut written = alias.map_mut().unwrap();
    written.write(0, b"mine").unwrap();
    let mut bytes = [0; 4];
    rustix::io::pread(&memory, &mut bytes, 4096).unwrap();
    assert_eq!(&bytes, b"mine");
    client.withdraw("in").unwrap();
    assert!(matches!(
        client.withdraw("not a name"),
        Err(Error::BadName(_))
    ));
    daemon.join().unwrap();
}

#[test]
fn a_late_daemon_is_not_waited_for() {
    let (mut client, daemon) = with_daemon(|daemon| {
        daemon.request();
        assert!(
            daemon.request().is_none(),
            "nothing is sent after a deadline"
        );
    });
    client.set_deadline(Duration::from_millis(50));
    let begun = Instant::now();
    assert!(matches!(
        client.info(),
        Err(Error::Deadline {
            what: "GET_INFO",
            ..
        })
    ));
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert!(
        matches!(client.info(), Err(Error::Broken)),
        "nobody knows whose reply comes next"
    );
    drop(client);
    daemon.join().unwrap();
}

#[test]
fn a_daemon_that_only_sends_events_does_not_extend_the_deadline() {
    let (mut client, daemon) = with_daemon(|daemon| {
        daemon.request();
        let alive = |daemon: &Daemon| {
            let mut fds = [PollFd::new(&daemon.socket, PollFlags::OUT)];
            poll(
                &mut fds,
                Some(&Timespec {
                    tv_sec: 20,
                    tv_nsec: 0,
                }),
            )
            .unwrap();
            !fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
        };
        let mut event = wire::Event::new_zeroed();
        event.kind = U32::new(wire::EVENT_BUFFER_ADDED);
        event.name = Name::new("flood").unwrap().to_wire();
        for sequence in 1.. {
            event.sequence = U64::new(sequence);
            let sent = rustix::net::send(&daemon.socket, event.as_bytes(), SendFlags::NOSIGNAL);
            if sent.is_err() || !alive(daemon) {
                break;
            }
        }
    });
    client.set_deadline(Duration::from_millis(200));
    assert!(matches!(client.info(), Err(Error::Deadline { .. })));
    drop(client);
    daemon.join().unwrap();
}

#[test]
fn a_daemon_that_goes_is_gone() {
    let (mut client, daemon) = with_daemon(|daemon| {
        daemon.request();
    });
    assert!(matches!(client.info(), Err(Error::Gone)));
    assert!(matches!(client.next_event(), Err(Error::Broken)));
    daemon.join().unwrap();
}

#[test]
fn nobody_listens() {
    let error = Client::connect("/nonexistent/broker.sock".as_ref()).unwrap_err();
    assert!(matches!(error, Error::Connect { .. }));
    assert!(
        error.to_string().contains("/nonexistent/broker.sock"),
        "{error}"
    );
}
