// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whatever a daemon gets wrong is noticed, and nothing of it is used.

use crate::daemon::*;
use dmabuf_client::{Access, Error, Name, Status};
use dmabuf_protocol::{OpCode, wire};
use rustix::fs::{MemfdFlags, SealFlags, memfd_create};
use std::os::fd::AsFd;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromZeros, IntoBytes};

/// Fds of this process that are memfds called "leak".
fn leaked() -> usize {
    let links = std::fs::read_dir("/proc/self/fd").unwrap();
    links
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter(|link| link.to_string_lossy().contains("memfd:leak"))
        .count()
}

/// Opens a buffer of a daemon that answers with `script`, which must be called a lie, after which nothing more is said.
#[track_caller]
fn lie(script: impl FnOnce(&mut Daemon) + Send + 'static) {
    let (mut client, daemon) = with_daemon(move |daemon| {
        assert_eq!(daemon.request().map(|r| r.op()), Some(OpCode::Open));
        script(daemon);
        assert!(daemon.request().is_none());
    });
    let error = client.open("a", Access::ReadOnly).unwrap_err();
    assert!(matches!(error, Error::Protocol(_)), "{error:?}");
    drop(client);
    daemon.join().unwrap();
}

/// A change to what would be an honest reply to OPEN.
#[track_caller]
fn lie_in_body(change: impl FnOnce(&mut wire::OpenReply) + Send + 'static) {
    lie(|daemon| {
        let mut reply = opened("a", Access::ReadOnly);
        change(&mut reply);
        daemon.reply(reply.as_bytes(), &[pool().as_fd()]);
    });
}

#[test]
fn lies_about_the_request() {
    lie(|daemon| {
        daemon.tag += 1;
        daemon.reply(opened("a", Access::ReadOnly).as_bytes(), &[pool().as_fd()]);
    });
    lie(|daemon| {
        daemon.op = OpCode::Derive.to_wire();
        daemon.reply(opened("a", Access::ReadOnly).as_bytes(), &[pool().as_fd()]);
    });
    lie(|daemon| daemon.event(wire::EVENT_BUFFER_ADDED, 0, "sequence-from-1"));
}

#[test]
fn lies_about_lengths() {
    lie(|daemon| daemon.send(&[1], &[]));
    lie(|daemon| daemon.send(&daemon.header(Status::OK).as_bytes()[..12], &[]));
    lie(|daemon| {
        daemon.reply(
            &opened("a", Access::ReadOnly).as_bytes()[..100],
            &[pool().as_fd()],
        )
    });
    lie(|daemon| {
        let long = [opened("a", Access::ReadOnly).as_bytes(), &[0]].concat();
        daemon.reply(&long, &[pool().as_fd()]);
    });
    lie(|daemon| daemon.reply(&vec![0; 1 << 15], &[pool().as_fd()]));
    lie(|daemon| {
        let refusal = [daemon.header(Status::EACCES).as_bytes(), &[0; 8]].concat();
        daemon.send(&refusal, &[]);
    });
    lie(|daemon| daemon.send(&wire::Event::new_zeroed().as_bytes()[..95], &[]));
}

#[test]
fn lies_about_fds() {
    lie(|daemon| daemon.reply(opened("a", Access::ReadOnly).as_bytes(), &[]));
    lie(|daemon| daemon.send(daemon.header(Status::EACCES).as_bytes(), &[pool().as_fd()]));
    for count in [2, 8, 9, 16] {
        lie(move |daemon| {
            let leak = memfd_create("leak", MemfdFlags::CLOEXEC).unwrap();
            daemon.reply(
                opened("a", Access::ReadOnly).as_bytes(),
                &vec![leak.as_fd(); count],
            );
        });
    }
    assert_eq!(leaked(), 0, "fds that nobody asked for are closed");
}

#[test]
fn lies_about_the_buffer() {
    lie_in_body(|reply| reply.buffer.name = Name::new("b").unwrap().to_wire());
    lie_in_body(|reply| reply.buffer.name = [0; 64]);
    lie_in_body(|reply| reply.buffer.name[0] = b' ');
    lie_in_body(|reply| reply.buffer.access = U32::new(2));
    lie_in_body(|reply| reply.buffer.access = U32::new(3));
    lie_in_body(|reply| reply.buffer.enforcement = U32::new(9));
    lie_in_body(|reply| reply.buffer.heap = U32::new(0));
    lie_in_body(|reply| reply.buffer.size = U64::new(0));
    lie_in_body(|reply| reply.buffer.size = U64::new(100));
    lie_in_body(|reply| reply.buffer.size = U64::new(3 * 4096));
    lie_in_body(|reply| reply.fd_offset = U64::new(2 * 4096));
    lie_in_body(|reply| reply.fd_offset = U64::new(1));
    lie_in_body(|reply| reply.fd_offset = U64::new(u64::MAX - 4095));
    lie_in_body(|reply| {
        reply.buffer.format.fourcc = U32::new(1);
        reply.buffer.format.num_planes = U32::new(5);
    });
}

#[test]
fn memory_that_can_shrink_is_refused() {
    lie(|daemon| {
        let fd = memfd(3 * 4096, SealFlags::GROW);
        daemon.reply(opened("a", Access::ReadOnly).as_bytes(), &[fd.as_fd()]);
    });
    lie(|daemon| {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        daemon.reply(opened("a", Access::ReadOnly).as_bytes(), &[file.as_fd()]);
    });
}

#[test]
fn lies_in_lists() {
    let pages: [fn() -> Vec<u8>; 6] = [
        || {
            list_page(
                0,
                &[
                    buffer(1, "a", Access::ReadOnly),
                    buffer(1, "b", Access::ReadOnly),
                ],
            )
        },
        || list_page(5, &[]),
        || list_page(7, &[buffer(1, "a", Access::ReadOnly)]),
        || list_page(0, &[buffer(0, "a", Access::ReadOnly)]),
        || list_page(0, &[buffer(1, "a", Access::ReadOnly)])[..100].to_vec(),
        || {
            let mut page = list_page(0, &[buffer(1, "a", Access::ReadOnly)]);
            page[0] = 2;
            page
        },
    ];
    for page in pages {
        let (mut client, daemon) = with_daemon(move |daemon| {
            daemon.request();
            daemon.reply(&page(), &[]);
        });
        assert!(matches!(client.list(), Err(Error::Protocol(_))));
        daemon.join().unwrap();
    }
}

#[test]
fn replies_without_a_request_break_the_connection() {
    let (mut client, daemon) = with_daemon(|daemon| daemon.reply(&[], &[]));
    daemon.join().unwrap();
    assert!(matches!(client.next_event(), Err(Error::Protocol(_))));
    assert!(matches!(client.list(), Err(Error::Broken)));
}
