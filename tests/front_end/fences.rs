// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Sync, waits, releases and holds: on memory without a dma-buf everywhere, and with vgem's fences where there are
//! some.

use crate::client::Client;
use crate::daemon::{CONFIG, Daemon, LIMIT, require};
use crate::guest::{Descriptor, NEXT, RAM, WRITE};
use crate::message::{PAGE, Peer, READ_ONLY, READ_WRITE, Reply, request, usage_body};
use crate::relays::is_relayed;
use crate::vmm::FrontEnd;
use crate::window::Answer;
use dmabuf_protocol::wire::*;
use dmabuf_protocol::{FEATURE_FENCE, FenceUsage, OpCode, QUEUE_FENCE, Status};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::SealFlags;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};
use vhost::VhostBackend;
use vhost_device_dmabuf::fence::FenceSource;
use zerocopy::FromBytes;

const READ: u32 = 1;
const WRITES: u32 = 2;

/// A request of this module by whichever way its peer has for it.
trait Waits {
    fn fence(&mut self, op: OpCode, body: &[u8]) -> Result<Vec<u8>, Status>;

    fn fence_wait(&mut self, handle: u64, usage: u32) -> Result<FenceWaitReply, Status> {
        let body = usage_body(handle, usage, 0);
        let reply = self.fence(OpCode::FenceWait, zerocopy::IntoBytes::as_bytes(&body))?;
        Ok(FenceWaitReply::read_from_bytes(&reply).unwrap())
    }
}

impl Waits for FrontEnd {
    fn fence(&mut self, op: OpCode, body: &[u8]) -> Result<Vec<u8>, Status> {
        self.on_queue(op.queue(), &request(op.to_wire(), 5, body))
            .into_result()
    }
}

impl Waits for Client {
    fn fence(&mut self, op: OpCode, body: &[u8]) -> Result<Vec<u8>, Status> {
        self.call(op, body)
    }
}

/// What the log says when a VM goes: a device that is a process of its own knows of waits only.
fn open_at_end(brackets: u32, waits: u32, holds: u32) -> String {
    let known = u32::from(!is_relayed());
    let (brackets, holds) = (brackets * known, holds * known);
    format!("{brackets} brackets, {waits} waits, {holds} holds")
}

fn sync(peer: &mut impl Peer, op: OpCode, handle: u64, flags: u32) -> Result<(u32, u32), Status> {
    let body = peer.call(op, &usage_body(handle, flags, 0))?;
    let body = SyncReply::read_from_bytes(&body).unwrap();
    Ok((body.flags.get(), body.open.get()))
}

fn release(peer: &mut impl Peer, handle: u64, value: u64) -> Result<(), Status> {
    let body = [handle.to_le_bytes(), value.to_le_bytes()].concat();
    peer.call(OpCode::Release, body.as_slice()).map(drop)
}

fn memory_without_a_dma_buf(peer: &mut (impl Peer + Waits), handle: u64) {
    for usage in [READ, WRITES] {
        let waited = peer.fence_wait(handle, usage).unwrap();
        assert_eq!(
            (waited.flags.get(), waited.fences.get()),
            (FENCE_NO_DMA_BUF, 0)
        );
        let body = usage_body(handle, usage, 0);
        let query = peer.fence(OpCode::FenceQuery, zerocopy::IntoBytes::as_bytes(&body));
        let query = FenceQueryReply::read_from_bytes(&query.unwrap()).unwrap();
        assert_eq!(
            (query.flags.get(), query.state.get()),
            (FENCE_NO_DMA_BUF, FENCE_SIGNALLED)
        );
    }
    let cancelled = peer.fence(OpCode::FenceCancel, &5u64.to_le_bytes());
    assert_eq!(cancelled, Err(Status::ENOENT), "no wait is left");
    assert_eq!(sync(peer, OpCode::SyncEnd, handle, 3), Err(Status::EINVAL));
    for open in 1..=3 {
        let start = sync(peer, OpCode::SyncStart, handle, 3);
        assert_eq!(start, Ok((FENCE_NO_DMA_BUF, open)));
    }
    let end = sync(peer, OpCode::SyncEnd, handle, 3);
    assert_eq!(end, Ok((FENCE_NO_DMA_BUF, 2)));
    let hold = peer.call(OpCode::Hold, &usage_body(handle, READ, 0));
    assert_eq!(hold, Err(Status::EACCES), "no grant says so");
}

#[test]
pub fn memory_without_a_dma_buf_on_a_virtqueue() {
    let daemon = Daemon::start(CONFIG);
    let idle = daemon.idle(3);
    let mut producer = Client::connect(&daemon);
    producer.share("rw/x", 1, SealFlags::SHRINK);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    assert_ne!(
        vm.frontend.get_features().unwrap() & (1 << FEATURE_FENCE),
        0,
        "it is offered"
    );
    let handle = vm.open("rw/x", READ_WRITE);
    memory_without_a_dma_buf(&mut vm, handle);
    producer.withdraw("rw/x").unwrap();
    drop((vm, producer));
    daemon.logged(&["peer a", "1 handles", &open_at_end(2, 0, 0)]);
    daemon.returns_to(idle);
}

#[test]
pub fn memory_without_a_dma_buf_on_the_socket() {
    let daemon = Daemon::start(CONFIG);
    let idle = daemon.idle(3);
    let mut producer = Client::connect(&daemon);
    producer.share("rw/x", 1, SealFlags::SHRINK);
    let mut client = Client::connect(&daemon);
    let handle = client.open("rw/x", READ_WRITE);
    client.fds.clear();
    memory_without_a_dma_buf(&mut client, handle);
    // Without waiting for answers, too.
    for (tag, op) in [
        (1, OpCode::FenceWait),
        (2, OpCode::SyncStart),
        (3, OpCode::GetInfo),
    ] {
        let bytes = match op {
            OpCode::GetInfo => request(op.to_wire(), tag, &[0u8; 0]),
            _ => request(op.to_wire(), tag, &usage_body(handle, READ, 0)),
        };
        client.send(&bytes, &[]).unwrap();
    }
    for tag in 1..=3 {
        let reply = client.reply();
        assert_eq!((reply.tag, reply.status), (tag, Status::OK));
    }
    producer.withdraw("rw/x").unwrap();
    drop((client, producer));
    daemon.returns_to(idle);
}

#[test]
pub fn the_producer_hears_of_releases() {
    let daemon = Daemon::start(CONFIG);
    let mut producer = Client::connect(&daemon);
    producer.share("rw/x", 1, SealFlags::SHRINK);
    let added = producer.event();
    assert_eq!(added.kind.get(), EVENT_BUFFER_ADDED);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let handle = vm.open("rw/x", READ_WRITE);
    release(&mut vm, handle, 77).unwrap();
    let event = producer.event();
    assert_eq!(event.kind.get(), EVENT_BUFFER_RELEASED);
    assert_eq!((event.buffer, event.value.get()), (added.buffer, 77));
    assert_eq!(event.name, added.name);
    vm.reset();
    assert_eq!(release(&mut vm, handle, 78), Err(Status::ESTALE));
}

#[test]
pub fn too_many_brackets() {
    let config = CONFIG.replace("max-mappings = 6", "max-mappings = 6\nmax-waits = 2");
    let daemon = Daemon::start(&config);
    let mut producer = Client::connect(&daemon);
    producer.share("rw/x", 1, SealFlags::SHRINK);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let handle = vm.open("rw/x", READ_WRITE);
    for _ in 0..2 {
        sync(&mut vm, OpCode::SyncStart, handle, READ).unwrap();
    }
    let busy = Err(Status::EBUSY);
    assert_eq!(sync(&mut vm, OpCode::SyncStart, handle, READ), busy);
    assert_eq!(vm.fence_wait(handle, READ).unwrap_err(), Status::EBUSY);
    vm.close(handle).unwrap();
    let handle = vm.open("rw/x", READ_WRITE);
    assert!(vm.fence_wait(handle, READ).is_ok(), "CLOSE has ended them");
}

#[test]
pub fn a_fence_source_that_is_none() {
    let mut command = crate::daemon::program();
    let directory = crate::daemon::Directory::new();
    let config = directory.join("config.toml");
    let text = CONFIG.replace("{dir}", directory.path().to_str().unwrap());
    let source = "[fence-source]\ndevice = \"/dev/null\"\n";
    std::fs::write(&config, format!("{text}\n{source}")).unwrap();
    let output = command.arg("--config").arg(&config).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(
        message.contains("fence source /dev/null") && message.contains("vgem"),
        "{message}"
    );
}

const SYSTEM: &str = "/dev/dma_heap/system";
pub const VGEM: &str = "/dev/dri/renderD128";

/// The usual configuration with buffers from the system heap, and the right to hold them.
pub fn fenced() -> Option<String> {
    if !require(SYSTEM) || !require(VGEM) {
        return None;
    }
    let heap = format!("name = \"plain\"\nkind = \"dma-heap\"\npath = \"{SYSTEM}\"");
    let config = CONFIG
        .replace("name = \"plain\"\nkind = \"memfd\"", &heap)
        .replace(
            "buffer = \"rw/*\"\naccess = \"read-write\"",
            "buffer = \"rw/*\"\naccess = \"read-write\"\nmax-wait-ms = 3000\nhost-fence = true",
        );
    Some(format!("{config}\n[fence-source]\ndevice = \"{VGEM}\"\n"))
}

/// Whether a dma-buf can be written now, or within `limit`: no fence is in the way.
fn is_free(dma_buf: &OwnedFd, limit: Duration) -> bool {
    let timeout = Timespec::try_from(limit).unwrap();
    poll(&mut [PollFd::new(dma_buf, PollFlags::OUT)], Some(&timeout)) == Ok(1)
}

/// Offers a FENCE_WAIT on the fence queue, and doesn't wait.
fn offer_wait(vm: &mut FrontEnd, slot: u16, handle: u64, timeout_ms: u32) {
    let (address, reply) = places(slot);
    let tag = u64::from(slot);
    let op = OpCode::FenceWait.to_wire();
    let bytes = request(op, tag, &usage_body(handle, READ, timeout_ms));
    let ring = &mut vm.rings[usize::from(QUEUE_FENCE)];
    ring.write(address, &bytes);
    let head = 2 * slot;
    ring.set(
        head,
        Descriptor::new(address, bytes.len() as u32, NEXT, head + 1),
    );
    ring.set(head + 1, Descriptor::new(reply, 64, WRITE, 0));
    ring.offer(head);
    ring.kick();
}

fn places(slot: u16) -> (u64, u64) {
    let address = RAM + 0x9_0000 + 0x100 * u64::from(slot);
    (address, address + 0x80)
}

fn ended_wait(vm: &mut FrontEnd, limit: Duration) -> Option<Reply> {
    let ring = &mut vm.rings[usize::from(QUEUE_FENCE)];
    let (head, len) = ring.wait_used_for(limit)?;
    Some(Reply::parse(&ring.read(places(head / 2).1, len as usize)))
}

#[test]
pub fn a_guest_waits_for_the_hosts_fence_and_nothing_else_does() {
    let Some(config) = fenced() else { return };
    let daemon = Daemon::start(&config);
    let idle = daemon.idle(3);
    let mut producer = Client::connect(&daemon);
    let (reply, dma_buf) = producer.alloc("plain", PAGE).unwrap();
    producer.publish(reply.handle.get(), "rw/x", 0).unwrap();
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let handle = vm.open("rw/x", READ_WRITE);
    let source = FenceSource::open(Path::new(VGEM)).unwrap();
    let fence = source.hold(dma_buf.as_fd(), FenceUsage::Write).unwrap();
    offer_wait(&mut vm, 1, handle, 0);
    offer_wait(&mut vm, 2, handle, 0);
    // A bracket waits for the same fence, and nothing waits for the bracket.
    let start = request(OpCode::SyncStart.to_wire(), 9, &usage_body(handle, READ, 0));
    let start = vm.send(&start, 64);
    for _ in 0..100 {
        assert_eq!(vm.info().handles.get(), 1);
    }
    assert!(!vm.is_answered(start));
    assert_eq!(ended_wait(&mut vm, Duration::from_millis(50)), None);
    drop(fence);
    for _ in 0..2 {
        let reply = ended_wait(&mut vm, LIMIT).expect("it has signalled");
        let body = FenceWaitReply::read_from_bytes(&reply.into_result().unwrap()).unwrap();
        assert_eq!((body.flags.get(), body.fences.get()), (0, 1));
        assert_ne!(body.timestamp_ns.get(), 0);
    }
    assert_eq!(vm.wait(start).status, Status::OK);
    // What ends while the VM is paused is told when it goes on.
    let fence = source.hold(dma_buf.as_fd(), FenceUsage::Write).unwrap();
    offer_wait(&mut vm, 6, handle, 0);
    assert_eq!(vm.info().handles.get(), 1);
    let bases = vm.stop();
    drop(fence);
    assert_eq!(ended_wait(&mut vm, Duration::from_millis(50)), None);
    vm.start(bases);
    assert_eq!(vm.info().handles.get(), 1);
    // The daemon looks at what it has kept when one of the queues is kicked.
    vm.rings[usize::from(QUEUE_FENCE)].kick();
    let reply = ended_wait(&mut vm, LIMIT).expect("it has signalled meanwhile");
    assert_eq!((reply.tag, reply.status), (6, Status::OK));
    // One that takes too long, and one whose producer goes.
    let _fence = source.hold(dma_buf.as_fd(), FenceUsage::Write).unwrap();
    offer_wait(&mut vm, 3, handle, 30);
    let late = ended_wait(&mut vm, LIMIT).expect("its deadline passes");
    assert_eq!((late.tag, late.status), (3, Status::ETIMEDOUT));
    offer_wait(&mut vm, 4, handle, 0);
    assert_eq!(vm.info().handles.get(), 1);
    drop(producer);
    let orphan = ended_wait(&mut vm, LIMIT).expect("its producer has gone");
    assert_eq!((orphan.tag, orphan.status), (4, Status::EOWNERDEAD));
    // What is open when the VM goes is gone with it.
    offer_wait(&mut vm, 5, handle, 0);
    drop(vm);
    daemon.logged(&["peer a", &open_at_end(1, 1, 0)]);
    drop(dma_buf);
    daemon.returns_to(idle);
}

#[test]
pub fn a_hold_is_the_hosts_fence() {
    let Some(config) = fenced() else { return };
    let daemon = Daemon::start(&config);
    let idle = daemon.idle(3);
    let mut producer = Client::connect(&daemon);
    let (reply, dma_buf) = producer.alloc("plain", PAGE).unwrap();
    producer.publish(reply.handle.get(), "rw/x", 0).unwrap();
    producer.publish(reply.handle.get(), "ro/x", 0).unwrap_err();
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let handle = vm.open("rw/x", READ_WRITE);
    let now = Duration::ZERO;
    let hold = |vm: &mut FrontEnd, usage, timeout_ms| {
        let body = vm.call(OpCode::Hold, &usage_body(handle, usage, timeout_ms))?;
        Ok(HoldReply::read_from_bytes(&body).unwrap().timeout_ms.get())
    };
    for usage in [READ, WRITES] {
        assert_eq!(hold(&mut vm, usage, 0), Ok(3000));
        assert!(!is_free(&dma_buf, now), "held");
        assert_eq!(hold(&mut vm, usage, 0), Err(Status::EINVAL), "once");
        release(&mut vm, handle, 1).unwrap();
        assert!(is_free(&dma_buf, LIMIT), "released");
    }
    assert_eq!(hold(&mut vm, READ, 50), Ok(50));
    let start = Instant::now();
    assert!(is_free(&dma_buf, LIMIT), "its time is over");
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
    // The handle can be held again once the daemon has seen that, too.
    daemon.until("it can be held again", || hold(&mut vm, READ, 0).is_ok());
    vm.close(handle).unwrap();
    assert!(is_free(&dma_buf, LIMIT), "closed");
    let handle = vm.open("rw/x", READ_WRITE);
    for ends_by_reset in [true, false] {
        let handle = if ends_by_reset {
            handle
        } else {
            vm.open("rw/x", READ_WRITE)
        };
        vm.call(OpCode::Hold, &usage_body(handle, READ, 0)).unwrap();
        assert!(!is_free(&dma_buf, now));
        if ends_by_reset {
            vm.reset();
            // The device sees a reset when it is started again.
            assert_eq!(vm.info().handles.get(), 0);
        } else {
            break;
        }
        assert!(is_free(&dma_buf, LIMIT), "reset");
    }
    drop(vm);
    assert!(is_free(&dma_buf, LIMIT), "killed");
    daemon.logged(&["peer a", &open_at_end(0, 0, 1)]);
    drop((producer, dma_buf));
    daemon.returns_to(idle);
}

#[test]
pub fn a_client_goes_on_while_it_waits() {
    let Some(config) = fenced() else { return };
    let daemon = Daemon::start(&config);
    let mut producer = Client::connect(&daemon);
    let (reply, dma_buf) = producer.alloc("plain", PAGE).unwrap();
    producer.publish(reply.handle.get(), "rw/x", 0).unwrap();
    let mut client = Client::connect(&daemon);
    let handle = client.open("rw/x", READ_WRITE);
    let source = FenceSource::open(Path::new(VGEM)).unwrap();
    let fence = source.hold(dma_buf.as_fd(), FenceUsage::Write).unwrap();
    for tag in [70, 71] {
        let bytes = request(
            OpCode::FenceWait.to_wire(),
            tag,
            &usage_body(handle, READ, 0),
        );
        client.send(&bytes, &[]).unwrap();
    }
    for _ in 0..100 {
        assert_eq!(client.info().handles.get(), 1);
    }
    client
        .send(
            &request(OpCode::FenceCancel.to_wire(), 72, &70u64.to_le_bytes()),
            &[],
        )
        .unwrap();
    for (tag, status) in [(70, Status::ECANCELED), (72, Status::OK)] {
        let reply = client.reply();
        assert_eq!((reply.tag, reply.status), (tag, status));
    }
    drop(fence);
    let reply = client.reply();
    assert_eq!((reply.tag, reply.status), (71, Status::OK));
    assert_eq!(
        client.try_open("ro/none", READ_ONLY, 0).unwrap_err(),
        Status::ENOENT
    );
}
