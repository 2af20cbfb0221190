// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Host processes: producers and consumers, and those that misbehave.

use crate::client::{Client, KEEP, map, memfd};
use crate::daemon::{CONFIG, Daemon, LIMIT};
use crate::message::{PAGE, Peer, READ_ONLY, READ_WRITE, alloc_body, import_body, request, text};
use crate::vmm::FrontEnd;
use crate::window::Answer;
use dmabuf_protocol::{OpCode, Status};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::SealFlags;
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

const SIZED: SealFlags = SealFlags::SHRINK;

/// The configuration with another policy for the one client.
fn with_client(policy: &str) -> String {
    let start = CONFIG.find("[[client]]").unwrap();
    format!(
        "{}[[client]]\nname = \"producer\"\n{policy}",
        &CONFIG[..start]
    )
}

#[test]
fn alloc_publish_open() {
    let daemon = Daemon::start(CONFIG);
    let idle = daemon.idle(3);
    let mut producer = Client::connect(&daemon);
    let mut consumer = Client::connect(&daemon);
    let (reply, fd) = producer.alloc("plain", 5000).unwrap();
    assert_eq!(reply.buffer.size.get(), 2 * PAGE, "whole pages");
    assert_eq!(reply.buffer.name, [0; 64], "no name yet");
    assert_eq!(reply.buffer.access.get(), READ_WRITE);
    assert_eq!(reply.fd_offset.get(), 0);
    let file = File::from(fd);
    let memory = map(&file, 0, 2 * PAGE, true).unwrap();
    assert_eq!(crate::client::read(&memory, 0, 8192), [0; 8192]);
    assert!(consumer.names().is_empty(), "nobody else sees it");
    let handle = reply.handle.get();
    producer.publish(handle, "rw/frame", 0).unwrap();
    assert_eq!(consumer.names(), ["rw/frame"]);

    let open = consumer.try_open("rw/frame", READ_WRITE, 0).unwrap();
    assert_eq!(text(&open.buffer.name), "rw/frame");
    assert_eq!(open.buffer.id, reply.buffer.id);
    let theirs = File::from(consumer.the_fd());
    let view = map(&theirs, open.fd_offset.get(), 2 * PAGE, true).unwrap();
    vm_memory::VolatileMemory::get_slice(&memory, 4096, 5)
        .unwrap()
        .copy_from(b"hello");
    assert_eq!(crate::client::read(&view, 4096, 5), b"hello");
    // Read-only, it isn't protected by the kernel: no fd for that.
    assert_eq!(
        consumer.try_open("rw/frame", READ_ONLY, 0).unwrap_err(),
        Status::EACCES
    );
    assert_eq!(
        consumer
            .derive(open.handle.get(), READ_ONLY, 0)
            .unwrap_err(),
        Status::EACCES
    );
    assert!(consumer.fds.is_empty());

    // The memory outlives its name, its handle, and its owner.
    producer.withdraw("rw/frame").unwrap();
    assert_eq!(
        consumer.try_open("rw/frame", READ_WRITE, 0).unwrap_err(),
        Status::ENOENT
    );
    producer.publish(handle, "rw/frame", 0).unwrap();
    drop(producer);
    daemon.until("it is withdrawn", || consumer.names().is_empty());
    consumer.close(open.handle.get()).unwrap();
    assert_eq!(crate::client::read(&view, 4096, 5), b"hello");
    drop(consumer);
    daemon.returns_to(idle);
}

#[test]
fn producers_errors() {
    let config = with_client(
        "publish = [\"t/*\"]\nallocate = [\"plain\", \"cam\"]\nmax-bytes = \"1M\"\nmax-handles = 4\n\
         [[client.grant]]\nbuffer = \"*\"\naccess = \"read-write\"\n",
    );
    let daemon = Daemon::start(&config);
    let mut client = Client::connect(&daemon);
    assert_eq!(client.alloc("none", PAGE).unwrap_err(), Status::EACCES);
    assert_eq!(client.alloc("plain", 0).unwrap_err(), Status::EINVAL);
    assert_eq!(client.alloc("plain", u64::MAX).unwrap_err(), Status::EINVAL);
    assert_eq!(
        client.alloc("plain", (1 << 20) + 1).unwrap_err(),
        Status::EDQUOT
    );
    assert_eq!(client.alloc("plain", 1 << 62).unwrap_err(), Status::EDQUOT);
    assert_eq!(client.alloc("cam", 0x1_0001).unwrap_err(), Status::EINVAL);
    let (half, _fd) = client.alloc("plain", 1 << 19).unwrap();
    let (other_half, _fd) = client.alloc("plain", 1 << 19).unwrap();
    // The quota is the client's, whatever the connection.
    let mut again = Client::connect(&daemon);
    assert_eq!(again.alloc("plain", PAGE).unwrap_err(), Status::EDQUOT);
    client.close(other_half.handle.get()).unwrap();
    let (small, _fd) = again.alloc("plain", PAGE).unwrap();
    again.close(small.handle.get()).unwrap();

    let handle = half.handle.get();
    assert_eq!(
        client.publish(handle, "x/1", 0).unwrap_err(),
        Status::EACCES
    );
    assert_eq!(
        client.publish(handle + 1, "t/1", 0).unwrap_err(),
        Status::ESTALE
    );
    assert_eq!(again.publish(handle, "t/1", 0).unwrap_err(), Status::ESTALE);
    client.publish(handle, "t/1", 0).unwrap();
    assert_eq!(
        client.publish(handle, "t/2", 0).unwrap_err(),
        Status::EINVAL,
        "it has a name"
    );
    let opened = again.open("t/1", READ_WRITE);
    assert_eq!(
        again.publish(opened, "t/2", 0).unwrap_err(),
        Status::EACCES,
        "not its own"
    );
    let (second, _fd) = client.alloc("plain", PAGE).unwrap();
    assert_eq!(
        client.publish(second.handle.get(), "t/1", 0).unwrap_err(),
        Status::EEXIST
    );
    assert_eq!(
        client.import("t/1", 0, &memfd(1, SIZED)).unwrap_err(),
        Status::EEXIST
    );
    assert_eq!(
        client.import("x/1", 0, &memfd(1, SIZED)).unwrap_err(),
        Status::EACCES
    );
    assert_eq!(client.withdraw("x/1").unwrap_err(), Status::EACCES);
    assert_eq!(client.withdraw("t/2").unwrap_err(), Status::ENOENT);
    again.withdraw("t/1").unwrap();
    assert_eq!(client.withdraw("t/1").unwrap_err(), Status::ENOENT);

    // Handles of this connection, and buffers of all of them: 4.
    let third = client.import("t/3", 0, &memfd(1, SIZED)).unwrap();
    let fourth = client.import("t/4", 0, &memfd(1, SIZED)).unwrap();
    for status in [
        client.import("t/5", 0, &memfd(1, SIZED)).unwrap_err(),
        client.alloc("plain", PAGE).unwrap_err(),
        again.import("t/5", 0, &memfd(1, SIZED)).unwrap_err(),
    ] {
        assert!(
            [Status::EMFILE, Status::EDQUOT].contains(&status),
            "{status}"
        );
    }
    assert_eq!(
        again.names(),
        ["t/3", "t/4"],
        "what was refused has no name"
    );
    assert_eq!(client.info().handles.get(), 4);
    for handle in [third.handle, fourth.handle] {
        client.close(handle.get()).unwrap();
    }
}

#[test]
fn clients_that_die_in_the_middle() {
    let daemon = Daemon::start(CONFIG);
    let idle = daemon.idle(3);
    let file = memfd(4, SIZED);
    for round in 0..50 {
        let client = Client::connect(&daemon);
        let import = request(OpCode::Import.to_wire(), 1, &import_body("t/x", 0));
        match round % 5 {
            0 => {}
            // Requests whose replies nobody reads.
            1 => drop(client.send(&import, &[file.as_fd()]).unwrap()),
            2 => drop(
                client
                    .send(
                        &request(OpCode::Alloc.to_wire(), 1, &alloc_body("plain", 1 << 20)),
                        &[],
                    )
                    .unwrap(),
            ),
            3 => drop(client.send(&import[..7], &[file.as_fd()]).unwrap()),
            _ => drop(client.send(&[], &[]).unwrap()),
        }
        drop(client);
    }
    daemon.returns_to(idle);
    let mut client = Client::connect(&daemon);
    daemon.until("all is withdrawn", || client.names().is_empty());
    assert!(client.alloc("plain", PAGE).is_ok());
}

#[test]
fn a_client_that_never_reads() {
    let daemon = Daemon::start(CONFIG);
    let idle = daemon.idle(3);
    let deaf = Client::connect(&daemon);
    // Events alone would fill its socket; its own requests do it sooner.
    rustix::io::ioctl_fionbio(&deaf.socket, true).unwrap();
    let list = request(OpCode::List.to_wire(), 1, &[0u8; 16]);
    let mut other = Client::connect(&daemon);
    let start = Instant::now();
    let mut asked = start;
    loop {
        assert!(start.elapsed() < LIMIT, "it is not disconnected");
        match deaf.send(&list, &[]) {
            Ok(_) => {}
            Err(Errno::AGAIN) => {
                let timeout = Timespec {
                    tv_sec: 20,
                    tv_nsec: 0,
                };
                poll(
                    &mut [PollFd::new(&deaf.socket, PollFlags::OUT)],
                    Some(&timeout),
                )
                .unwrap();
            }
            Err(Errno::PIPE | Errno::CONNRESET) => break,
            Err(errno) => panic!("{errno}"),
        }
        // Others don't notice.
        if asked.elapsed() > Duration::from_millis(200) {
            asked = Instant::now();
            assert!(other.names().is_empty());
            assert!(asked.elapsed() < Duration::from_secs(2));
        }
    }
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    assert_eq!(vm.info().handles.get(), 0);
    daemon.logged(&["client producer", "does not read its replies"]);
    drop((deaf, other, vm));
    daemon.returns_to(idle);
}

#[test]
fn a_client_that_reads_no_events_for_long() {
    let daemon = Daemon::start(CONFIG);
    let mut deaf = Client::connect(&daemon);
    deaf.info();
    let mut producer = Client::connect(&daemon);
    let file = memfd(1, SIZED);
    // Its own events arrive, too: they are read with the replies.
    for number in 0..1500 {
        let name = format!("t/{}", number % 7);
        let handle = producer.import(&name, 0, &file).unwrap().handle.get();
        producer.withdraw(&name).unwrap();
        producer.close(handle).unwrap();
    }
    producer.import("t/last", 0, &file).unwrap();
    // Longer than it may leave a reply unread.
    let timeout = Timespec {
        tv_sec: 6,
        tv_nsec: 0,
    };
    let gone = PollFd::new(&deaf.socket, PollFlags::RDHUP);
    assert_eq!(poll(&mut [gone], Some(&timeout)), Ok(0), "disconnected");
    assert_eq!(deaf.info().handles.get(), 0);
    let mut last = 0;
    let mut count = 0;
    loop {
        let event = deaf.event();
        assert!(event.sequence.get() > last);
        (last, count) = (event.sequence.get(), count + 1);
        if text(&event.name) == "t/last" {
            break;
        }
    }
    assert_eq!(last, 3001, "every change has a number");
    // What fitted into its socket, and what the daemon keeps.
    assert!((256..3001).contains(&count), "{count}");
    producer.withdraw("t/last").unwrap();
    assert_eq!(deaf.event().sequence.get(), 3002);
}

#[test]
fn three_hundred_connections() {
    let daemon = Daemon::start(CONFIG);
    let idle = daemon.idle(3);
    let info = request(OpCode::GetInfo.to_wire(), 1, &[0u8; 0]);
    let mut clients: Vec<Client> = (0..300).map(|_| Client::connect(&daemon)).collect();
    let mut served = 0;
    for client in &mut clients {
        if client.send(&info, &[]).is_ok()
            && let Some((bytes, _)) = client.receive(Duration::from_secs(10))
        {
            assert_eq!(bytes.len(), 144);
            served += 1;
        }
    }
    assert_eq!(served, 256);
    daemon.logged(&["more than 256 connections"]);
    // VMs are served all the same.
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    assert_eq!(vm.info().handles.get(), 0);
    drop(vm);
    clients.clear();
    daemon.returns_to(idle);
    let mut client = Client::connect(&daemon);
    assert_eq!(client.info().handles.get(), 0);
}

#[test]
fn a_process_that_is_no_client() {
    let uid = rustix::process::getuid().as_raw();
    let config = with_client(&format!("uid = {}\npublish = [\"*\"]\n", uid + 1));
    let daemon = Daemon::start(&config);
    let idle = daemon.idle(3);
    let stranger = Client::connect(&daemon);
    assert!(stranger.is_closed(Duration::from_secs(10)));
    daemon.logged(&["no [[client]] fits process", &format!("uid {uid}")]);
    drop(stranger);
    daemon.returns_to(idle);
}

#[test]
fn a_list_of_more_than_a_message() {
    let daemon = Daemon::start(CONFIG);
    let mut producer = Client::connect(&daemon);
    let file = memfd(1, SIZED);
    for number in 0..400 {
        producer
            .import(&format!("rw/{number:03}"), KEEP, &file)
            .unwrap();
    }
    let (mut names, mut cursor, mut pages) = (Vec::new(), 0, 0);
    loop {
        let (page, next) = producer.list_page(cursor, 0);
        names.extend(page.iter().map(|info| text(&info.name)));
        pages += 1;
        if next == 0 {
            break;
        }
        cursor = next;
    }
    let expected: Vec<String> = (0..400).map(|number| format!("rw/{number:03}")).collect();
    assert_eq!(names, expected);
    assert!(pages > 1);
}
