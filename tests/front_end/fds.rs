// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! fds that ride along on the broker's socket: the right ones, too many, and of the wrong kind.

use crate::client::{Client, SEALED, map, memfd};
use crate::daemon::{CONFIG, Daemon};
use crate::message::{
    PAGE, Peer, READ_ONLY, READ_WRITE, import_body, one_of_each, open_body, request,
};
use dmabuf_protocol::{OpCode, Status};
use rustix::fs::{OFlags, SealFlags, fcntl_getfl};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

const SIZED: SealFlags = SealFlags::SHRINK;

fn access_mode(fd: &impl AsFd) -> OFlags {
    fcntl_getfl(fd).unwrap() & OFlags::RWMODE
}

#[test]
fn requests_with_a_wrong_number_of_fds() {
    let daemon = Daemon::start(CONFIG);
    let idle = daemon.idle(3);
    let mut client = Client::connect(&daemon);
    client.info();
    let connected = daemon.usage();
    let file = memfd(1, SIZED);
    let fds = |count| vec![file.as_fd(); count];
    for (op, bytes) in one_of_each() {
        for count in [1, 2, 4, 5, 16] {
            if (op, count) == (OpCode::Import, 1) {
                continue;
            }
            let reply = client.call_with(&bytes, &fds(count));
            // MAP and UNMAP are not for the socket anyhow. Of 16 fds the kernel drops some, and that is seen first.
            let expected = match op {
                OpCode::Map | OpCode::Unmap if count < 16 => Status::EOPNOTSUPP,
                _ => Status::EINVAL,
            };
            assert_eq!(reply.status, expected, "{} with {count} fds", op.as_str());
            daemon.returns_to(connected);
        }
    }
    let import = request(OpCode::Import.to_wire(), 1, &import_body("t/x", 0));
    assert_eq!(client.exchange(&import).status, Status::EINVAL, "none");
    // Malformed requests take no fds either.
    assert_eq!(
        client.call_with(&import[..40], &fds(1)).status,
        Status::EINVAL
    );
    let long = [&import[..], &[0; 500]].concat();
    assert_eq!(client.call_with(&long, &fds(3)).status, Status::EINVAL);
    assert!(client.names().is_empty());
    daemon.returns_to(connected);
    drop(client);
    daemon.returns_to(idle);
}

#[test]
fn import_takes_only_what_can_not_shrink() {
    let daemon = Daemon::start(CONFIG);
    // A VM whose threads come later would look like a leak.
    daemon.idle(3);
    let mut client = Client::connect(&daemon);
    client.info();
    let connected = daemon.usage();
    let (pipe, _end) = rustix::pipe::pipe().unwrap();
    let regular = File::create_new(daemon.file("regular")).unwrap();
    regular.set_len(PAGE).unwrap();
    let odd = memfd(0, SealFlags::empty());
    odd.set_len(5000).unwrap();
    rustix::fs::fcntl_add_seals(&odd, SIZED).unwrap();
    let sized = memfd(2, SIZED);
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&sized));
    let open = |path: &str| OwnedFd::from(File::open(path).unwrap());
    let wrong: [(&str, OwnedFd, Status); 9] = [
        ("a pipe", pipe, Status::EINVAL),
        ("a regular file", regular.into(), Status::EINVAL),
        ("a directory", open("/"), Status::EINVAL),
        ("a device", open("/dev/zero"), Status::EINVAL),
        (
            "a socket",
            UnixStream::pair().unwrap().0.into(),
            Status::EINVAL,
        ),
        (
            "a memfd that can shrink",
            memfd(1, SealFlags::GROW).into(),
            Status::EINVAL,
        ),
        ("an empty memfd", memfd(0, SIZED).into(), Status::EINVAL),
        ("half a page", odd.into(), Status::EINVAL),
        ("read-only", open(&path), Status::EACCES),
    ];
    for (what, fd, expected) in &wrong {
        assert_eq!(
            client.import("t/x", 0, fd).unwrap_err(),
            *expected,
            "{what}"
        );
    }
    assert!(client.names().is_empty());
    assert_eq!(client.info().handles.get(), 0);
    daemon.returns_to(connected);
    assert!(client.import("t/x", 0, &sized).is_ok());
    // The memory is the importer's own.
    let mut other = Client::connect(&daemon);
    let open = other.try_open("t/x", READ_WRITE, 0).unwrap();
    assert_eq!(open.buffer.heap.get(), 4);
    let theirs = File::from(other.the_fd());
    std::os::unix::fs::FileExt::write_at(&theirs, b"both", 4096).unwrap();
    let mut bytes = [0; 4];
    std::os::unix::fs::FileExt::read_at(&sized, &mut bytes, 4096).unwrap();
    assert_eq!(&bytes, b"both");
}

#[test]
fn a_read_only_alias_is_a_read_only_fd() {
    let daemon = Daemon::start(CONFIG);
    let mut producer = Client::connect(&daemon);
    let slots = producer.fill_pool();
    let imported = producer.share("ro/x", 2, SEALED);
    slots[1].write(0, b"slot");
    imported.write(0, b"memfd");
    let mut consumer = Client::connect(&daemon);
    for (name, expected) in [("cam/1", &b"slot"[..]), ("ro/x", b"memfd")] {
        let open = consumer.try_open(name, READ_ONLY, 4).unwrap();
        assert_eq!(open.buffer.enforcement.get(), 4);
        let fd = consumer.the_fd();
        assert_eq!(access_mode(&fd), OFlags::RDONLY);
        let file = File::from(fd);
        let (offset, size) = (open.fd_offset.get(), open.buffer.size.get());
        let view = map(&file, offset, size, false).unwrap();
        assert_eq!(crate::client::read(&view, 0, expected.len()), expected);
        assert_eq!(map(&file, offset, size, true).unwrap_err(), Errno::ACCESS);
        // Opening it again for writing gains nothing.
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        let again = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .unwrap();
        assert_eq!(map(&again, offset, size, true).unwrap_err(), Errno::PERM);
        // A derived alias is the same.
        let derived = consumer.derive(open.handle.get(), READ_ONLY, 0).unwrap();
        assert_eq!(derived.fd_offset, open.fd_offset);
        assert_eq!(access_mode(&consumer.the_fd()), OFlags::RDONLY);
        assert_eq!(
            consumer
                .derive(open.handle.get(), READ_WRITE, 0)
                .unwrap_err(),
            Status::EACCES
        );
    }
}

#[test]
fn open_gives_an_fd_and_refusals_give_none() {
    let daemon = Daemon::start(CONFIG);
    // A VM whose threads come later would look like a leak.
    daemon.idle(3);
    let mut producer = Client::connect(&daemon);
    producer.share("rw/x", 1, SIZED);
    let mut client = Client::connect(&daemon);
    client.info();
    let connected = daemon.usage();
    for _ in 0..20 {
        let open = request(OpCode::Open.to_wire(), 1, &open_body("rw/x", READ_WRITE, 0));
        let reply = client.exchange(&open);
        assert_eq!(reply.status, Status::OK);
        assert_eq!(access_mode(&client.the_fd()), OFlags::RDWR);
        let handle = u64::from_le_bytes(reply.body[..8].try_into().unwrap());
        client.close(handle).unwrap();
        assert!(client.fds.is_empty());
        assert!(client.try_open("rw/none", READ_WRITE, 0).is_err());
        assert!(client.fds.is_empty());
    }
    daemon.returns_to(connected);
}
