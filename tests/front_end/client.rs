// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A host process on the broker's socket, by raw messages.

use crate::daemon::{Daemon, LIMIT};
use crate::message::{
    Peer, Reply, alloc_body, import_body, name, publish_body, request, revoke_body,
};
use dmabuf_protocol::wire::{Event, OpenReply};
use dmabuf_protocol::{OpCode, Status};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg,
    sendmsg, socket_with,
};
use std::collections::VecDeque;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use vm_memory::mmap::{MmapRegion, MmapRegionBuilder};
use vm_memory::{FileOffset, VolatileMemory};
use zerocopy::FromBytes;

pub const KEEP: u64 = 1;

/// A connection.
pub struct Client {
    pub socket: OwnedFd,
    events: VecDeque<Event>,
    /// The fds that came with the last reply.
    pub fds: Vec<OwnedFd>,
}

impl Client {
    pub fn connect(daemon: &Daemon) -> Self {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let path = daemon.file("broker.sock");
        connect(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        Self::of(socket)
    }

    /// Any end of a connection.
    pub fn of(socket: OwnedFd) -> Self {
        Self {
            socket,
            events: VecDeque::new(),
            fds: Vec::new(),
        }
    }

    /// Sends a message.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> rustix::io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        }
        let flags = SendFlags::NOSIGNAL;
        sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut control, flags)
    }

    /// Waits for a message; `None` when the daemon has closed the connection.
    pub fn receive(&self, limit: Duration) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
        assert!(readable(&self.socket, limit), "no message comes");
        let mut bytes = vec![0; 64 << 10];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let received = recvmsg(
            &self.socket,
            &mut parts,
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        );
        let len = match received {
            Ok(message) => message.bytes,
            Err(Errno::CONNRESET) => 0,
            Err(errno) => panic!("{errno}"),
        };
        let fds = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        let fds = fds.flatten().collect();
        bytes.truncate(len);
        (len > 0).then_some((bytes, fds))
    }

    /// Waits for a reply; events that come before it are kept.
    pub fn reply(&mut self) -> Reply {
        loop {
            let (bytes, fds) = self
                .receive(LIMIT)
                .expect("the daemon has closed the connection");
            match Event::read_from_bytes(&bytes) {
                Ok(event) if event.kind.get() >= 0x8000_0000 => {
                    assert!(fds.is_empty(), "an event with fds");
                    self.events.push_back(event);
                }
                _ => {
                    self.fds = fds;
                    return Reply::parse(&bytes);
                }
            }
        }
    }

    /// Waits for an event.
    pub fn event(&mut self) -> Event {
        if let Some(event) = self.events.pop_front() {
            return event;
        }
        let (bytes, fds) = self
            .receive(LIMIT)
            .expect("the daemon has closed the connection");
        assert!(fds.is_empty());
        Event::read_from_bytes(&bytes).expect("an event")
    }

    /// Waits for an event of this kind.
    pub fn event_of(&mut self, kind: u32) -> Event {
        loop {
            let event = self.event();
            if event.kind.get() == kind {
                return event;
            }
        }
    }

    /// Sends a request with fds, and waits for the reply.
    pub fn call_with(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Reply {
        self.send(bytes, fds).unwrap();
        self.reply()
    }

    /// Waits until the daemon closes the connection.
    pub fn is_closed(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while readable(&self.socket, end.saturating_duration_since(Instant::now())) {
            if self.receive(limit).is_none() {
                return true;
            }
        }
        false
    }

    /// ALLOC: the reply and the fd.
    pub fn alloc(&mut self, heap: &str, size: u64) -> Result<(OpenReply, OwnedFd), Status> {
        let body = self.call(OpCode::Alloc, &alloc_body(heap, size))?;
        Ok((OpenReply::read_from_bytes(&body).unwrap(), self.the_fd()))
    }

    pub fn publish(&mut self, handle: u64, buffer: &str, flags: u64) -> Result<(), Status> {
        let body = self.call(OpCode::Publish, &publish_body(handle, buffer, flags))?;
        assert!(body.is_empty());
        Ok(())
    }

    pub fn withdraw(&mut self, buffer: &str) -> Result<(), Status> {
        let body = self.call(OpCode::Withdraw, &name(buffer))?;
        assert!(body.is_empty());
        Ok(())
    }

    /// REVOKE by name.
    pub fn revoke(&mut self, buffer: &str, deadline_ms: u32) -> Result<(), Status> {
        let body = self.call(OpCode::Revoke, &revoke_body(0, buffer, deadline_ms))?;
        assert!(body.is_empty());
        Ok(())
    }

    pub fn import(
        &mut self,
        buffer: &str,
        flags: u64,
        fd: &impl AsFd,
    ) -> Result<OpenReply, Status> {
        let bytes = request(OpCode::Import.to_wire(), 5, &import_body(buffer, flags));
        let reply = self.call_with(&bytes, &[fd.as_fd()]);
        let body = reply.into_result()?;
        assert_eq!(self.fds.len(), 1, "the fd of the alias");
        Ok(OpenReply::read_from_bytes(&body).unwrap())
    }

    /// The one fd that came with the last reply.
    pub fn the_fd(&mut self) -> OwnedFd {
        assert_eq!(self.fds.len(), 1, "fds with a reply");
        self.fds.remove(0)
    }

    /// Shares a memfd under a name for as long as the daemon lives, and seals it then.
    pub fn share(&mut self, buffer: &str, pages: u64, seals: SealFlags) -> Shared {
        let file = memfd(pages, SealFlags::SHRINK);
        let region = map(&file, 0, pages << 12, true).unwrap();
        self.import(buffer, KEEP, &file).unwrap();
        fcntl_add_seals(&file, seals).unwrap();
        Shared { region, file }
    }

    /// Fills the pool `cam` with both slots, published as `cam/0` and `cam/1`; returns the producer's mappings.
    pub fn fill_pool(&mut self) -> Vec<Shared> {
        let slots: Vec<_> = (0..2).map(|_| self.alloc("cam", 1).unwrap()).collect();
        let publish = slots.into_iter().enumerate().map(|(i, (reply, fd))| {
            let file = File::from(fd);
            let region = map(&file, reply.fd_offset.get(), reply.buffer.size.get(), true).unwrap();
            let handle = reply.handle.get();
            (handle, i, Shared { region, file })
        });
        let publish: Vec<_> = publish.collect();
        let done = publish.into_iter().map(|(handle, i, shared)| {
            self.publish(handle, &format!("cam/{i}"), KEEP).unwrap();
            shared
        });
        done.collect()
    }
}

impl Peer for Client {
    fn exchange(&mut self, request: &[u8]) -> Reply {
        self.call_with(request, &[])
    }
}

/// Memory that a producer has mapped.
pub struct Shared {
    pub region: MmapRegion,
    pub file: File,
}

impl Shared {
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        self.region
            .get_slice(offset as usize, bytes.len())
            .unwrap()
            .copy_from(bytes);
    }

    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        read(&self.region, offset, len)
    }
}

/// Bytes of a mapping.
pub fn read(region: &MmapRegion, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    region
        .get_slice(offset as usize, len)
        .unwrap()
        .copy_to(&mut bytes);
    bytes
}

/// A memfd with seals.
pub fn memfd(pages: u64, seals: SealFlags) -> File {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = memfd_create("producer", flags).unwrap();
    ftruncate(&fd, pages << 12).unwrap();
    fcntl_add_seals(&fd, seals).unwrap();
    File::from(fd)
}

/// The seals of memory that nobody can change through its memfd any more.
pub const SEALED: SealFlags = vhost_device_dmabuf::sys::SEALED;

/// Maps part of a file shared.
pub fn map(file: &File, offset: u64, len: u64, writable: bool) -> Result<MmapRegion, Errno> {
    let protection = if writable { 3 } else { 1 };
    let built = MmapRegionBuilder::new(len as usize)
        .with_file_offset(FileOffset::new(file.try_clone().unwrap(), offset))
        .with_mmap_prot(protection)
        .with_mmap_flags(1)
        .build();
    built.map_err(|error| match error {
        vm_memory::mmap::MmapRegionError::Mmap(error) => Errno::from_io_error(&error).unwrap(),
        other => panic!("{other}"),
    })
}

fn readable(socket: &OwnedFd, limit: Duration) -> bool {
    let timeout = Timespec {
        tv_sec: limit.as_secs() as i64,
        tv_nsec: limit.subsec_nanos().into(),
    };
    poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&timeout)) == Ok(1)
}
