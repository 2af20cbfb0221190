// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The fake daemon, and pieces of what it says.

use dmabuf_client::{Access, Client, HeapKind, Status};
use dmabuf_protocol::{Name, Request, wire};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::{IoSlice, IoSliceMut};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// The daemon's end of the socket.
pub struct Daemon {
    pub socket: OwnedFd,
    pub tag: u64,
    pub op: u32,
    pub fds: Vec<OwnedFd>,
}

impl Daemon {
    /// Waits for a request that the protocol crate accepts. `None` when the client has gone.
    pub fn request(&mut self) -> Option<Request> {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let received = recvmsg(
            &self.socket,
            &mut slices,
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
        .unwrap();
        self.fds = control
            .drain()
            .filter_map(|m| match m {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            })
            .flatten()
            .collect();
        if received.bytes == 0 {
            return None;
        }
        let (header, _) = wire::RequestHeader::read_from_prefix(&bytes).unwrap();
        self.op = header.op.get();
        self.tag = header.tag.get();
        Some(Request::parse(&bytes[..received.bytes]).expect("the client sends valid requests"))
    }

    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        }
        sendmsg(
            &self.socket,
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        )
        .unwrap();
    }

    pub fn header(&self, status: Status) -> wire::ReplyHeader {
        wire::ReplyHeader {
            op: U32::new(self.op),
            status: U32::new(status.0),
            tag: U64::new(self.tag),
        }
    }

    pub fn reply(&self, body: &[u8], fds: &[BorrowedFd<'_>]) {
        self.send(&[self.header(Status::OK).as_bytes(), body].concat(), fds);
    }

    pub fn refuse(&self, status: Status) {
        self.send(self.header(status).as_bytes(), &[]);
    }

    pub fn event(&self, kind: u32, sequence: u64, name: &str) {
        let mut event = wire::Event::new_zeroed();
        event.kind = U32::new(kind);
        event.sequence = U64::new(sequence);
        event.buffer = U64::new(7);
        event.name = Name::new(name).unwrap().to_wire();
        self.send(event.as_bytes(), &[]);
    }
}

/// A client, and a thread that plays the daemon.
pub fn with_daemon(script: impl FnOnce(&mut Daemon) + Send + 'static) -> (Client, JoinHandle<()>) {
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    let daemon = spawn(move || {
        let mut daemon = Daemon {
            socket: theirs,
            tag: 0,
            op: 0,
            fds: Vec::new(),
        };
        script(&mut daemon);
    });
    let mut client = Client::from_socket(ours).unwrap();
    client.set_deadline(Duration::from_secs(20));
    (client, daemon)
}

pub fn memfd(size: u64, seals: SealFlags) -> OwnedFd {
    let fd = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&fd, size).unwrap();
    fcntl_add_seals(&fd, seals).unwrap();
    fd
}

pub fn pool() -> OwnedFd {
    memfd(3 * 4096, SealFlags::SHRINK | SealFlags::GROW)
}

pub fn buffer(id: u64, name: &str, access: Access) -> wire::BufferInfo {
    let mut info = wire::BufferInfo::new_zeroed();
    info.id = U64::new(id);
    info.size = U64::new(8192);
    info.access = U32::new(access.to_wire());
    info.heap = U32::new(HeapKind::Memfd.to_wire());
    if !name.is_empty() {
        info.name = Name::new(name).unwrap().to_wire();
    }
    info
}

pub fn opened(name: &str, access: Access) -> wire::OpenReply {
    wire::OpenReply {
        handle: U64::new(0x1_0000_0005),
        fd_offset: U64::new(4096),
        buffer: buffer(1, name, access),
    }
}

pub fn list_page(next: u64, entries: &[wire::BufferInfo]) -> Vec<u8> {
    let head = wire::ListReply {
        count: U32::new(u32::try_from(entries.len()).unwrap()),
        reserved: U32::ZERO,
        next: U64::new(next),
    };
    [head.as_bytes(), entries.as_bytes()].concat()
}
