// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Requests and replies as bytes, and the calls that both kinds of peers can make.

use dmabuf_protocol::wire::{
    self, BufferInfo, InfoReply, ListReply, MapReply, OpenReply, ReplyHeader, RequestHeader,
};
use dmabuf_protocol::{Name, OpCode, Status};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

pub const READ_ONLY: u32 = 0;
pub const READ_WRITE: u32 = 2;
pub const PAGE: u64 = 4096;

/// A whole request.
pub fn request(op: u32, tag: u64, body: &(impl IntoBytes + Immutable + ?Sized)) -> Vec<u8> {
    let header = RequestHeader {
        op: op.into(),
        tag: tag.into(),
        ..FromZeros::new_zeroed()
    };
    [header.as_bytes(), body.as_bytes()].concat()
}

pub fn name(text: &str) -> [u8; 64] {
    Name::new(text).unwrap().to_wire()
}

/// One well-formed request of every kind, with handles, mappings and names that don't exist.
pub fn one_of_each() -> Vec<(OpCode, Vec<u8>)> {
    let all = OpCode::ALL.iter().map(|&op| {
        let make = |body: &[u8]| request(op.to_wire(), 77, body);
        let request = match op {
            OpCode::GetInfo => make(&[]),
            OpCode::List | OpCode::GetUsage => make(wire::ListRequest::new_zeroed().as_bytes()),
            OpCode::Open => make(open_body("ro/none", READ_ONLY, 0).as_bytes()),
            OpCode::Close | OpCode::Unmap => make(&9u64.to_le_bytes()),
            OpCode::Map => make(map_body(9, 0, PAGE, READ_ONLY).as_bytes()),
            OpCode::Derive => make(derive_body(9, READ_ONLY, 0).as_bytes()),
            OpCode::SyncStart
            | OpCode::SyncEnd
            | OpCode::FenceQuery
            | OpCode::FenceWait
            | OpCode::Hold => make(usage_body(9, 1, 0).as_bytes()),
            OpCode::FenceCancel => make(&9u64.to_le_bytes()),
            OpCode::Release => make(&[9u64.to_le_bytes(), [0; 8]].concat()),
            OpCode::Alloc => make(alloc_body("none", PAGE).as_bytes()),
            OpCode::Import => make(import_body("t/none", 0).as_bytes()),
            OpCode::Publish => make(publish_body(9, "t/none", 0).as_bytes()),
            OpCode::Withdraw => make(&name("t/none")),
            OpCode::HeapList => make(&[0; 8]),
            OpCode::Revoke => make(revoke_body(0, "t/none", 0).as_bytes()),
            OpCode::StreamOpen => make(stream_open_body("t/none", wire::MODE_LATEST, 0).as_bytes()),
            OpCode::StreamClose | OpCode::StreamAcquire | OpCode::StreamReclaim => {
                make(&9u64.to_le_bytes())
            }
            OpCode::StreamBuffer
            | OpCode::StreamRelease
            | OpCode::StreamAdd
            | OpCode::StreamRevoke => make(&[9u64.to_le_bytes(), [0; 8]].concat()),
            OpCode::StreamStats => make(&[&name("t/none")[..], &[0; 8]].concat()),
            OpCode::StreamList => make(wire::ListRequest::new_zeroed().as_bytes()),
            OpCode::StreamCreate => make(stream_create_body("t/none").as_bytes()),
            OpCode::StreamQueue => make(&[&9u64.to_le_bytes()[..], &[0; 16]].concat()),
        };
        (op, request)
    });
    all.collect()
}

/// The body of SYNC_START, SYNC_END, FENCE_WAIT, FENCE_QUERY and HOLD, which have the same form.
pub fn usage_body(handle: u64, usage: u32, timeout_ms: u32) -> wire::FenceWaitRequest {
    wire::FenceWaitRequest {
        handle: handle.into(),
        usage: usage.into(),
        timeout_ms: timeout_ms.into(),
    }
}

pub fn stream_open_body(stream: &str, mode: u32, depth: u32) -> wire::StreamOpenRequest {
    wire::StreamOpenRequest {
        name: name(stream),
        mode: mode.into(),
        depth: depth.into(),
        ..FromZeros::new_zeroed()
    }
}

pub fn stream_create_body(stream: &str) -> wire::StreamCreateRequest {
    wire::StreamCreateRequest {
        name: name(stream),
        ..FromZeros::new_zeroed()
    }
}

pub fn open_body(buffer: &str, flags: u32, enforcement: u32) -> wire::OpenRequest {
    wire::OpenRequest {
        name: name(buffer),
        flags: flags.into(),
        enforcement: enforcement.into(),
    }
}

pub fn derive_body(handle: u64, flags: u32, enforcement: u32) -> wire::DeriveRequest {
    wire::DeriveRequest {
        handle: handle.into(),
        flags: flags.into(),
        enforcement: enforcement.into(),
    }
}

pub fn map_body(handle: u64, offset: u64, length: u64, access: u32) -> wire::MapRequest {
    wire::MapRequest {
        handle: handle.into(),
        offset: offset.into(),
        length: length.into(),
        access: access.into(),
        ..FromZeros::new_zeroed()
    }
}

pub fn alloc_body(heap: &str, size: u64) -> wire::AllocRequest {
    wire::AllocRequest {
        heap: name(heap),
        size: size.into(),
        ..FromZeros::new_zeroed()
    }
}

pub fn import_body(buffer: &str, flags: u64) -> wire::ImportRequest {
    wire::ImportRequest {
        name: name(buffer),
        flags: flags.into(),
        ..FromZeros::new_zeroed()
    }
}

/// By handle, or with handle 0 by name.
pub fn revoke_body(handle: u64, buffer: &str, deadline_ms: u32) -> wire::RevokeRequest {
    wire::RevokeRequest {
        handle: handle.into(),
        deadline_ms: deadline_ms.into(),
        reserved: 0.into(),
        name: if handle == 0 { name(buffer) } else { [0; 64] },
    }
}

pub fn publish_body(handle: u64, buffer: &str, flags: u64) -> wire::PublishRequest {
    wire::PublishRequest {
        handle: handle.into(),
        flags: flags.into(),
        name: name(buffer),
        ..FromZeros::new_zeroed()
    }
}

/// A reply whose shape is right: a header, and a body only on success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub op: u32,
    pub tag: u64,
    pub status: Status,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn parse(bytes: &[u8]) -> Self {
        let (header, body) = ReplyHeader::read_from_prefix(bytes).unwrap();
        let status = Status(header.status.get());
        assert!(status.name().is_some(), "an unknown status: {status}");
        assert!(
            status == Status::OK || body.is_empty(),
            "a refusal has no body"
        );
        Self {
            op: header.op.get(),
            tag: header.tag.get(),
            status,
            body: body.to_vec(),
        }
    }

    pub fn into_result(self) -> Result<Vec<u8>, Status> {
        if self.status == Status::OK {
            Ok(self.body)
        } else {
            Err(self.status)
        }
    }
}

fn exactly<T: FromBytes>(bytes: &[u8]) -> T {
    T::read_from_bytes(bytes).unwrap_or_else(|_| panic!("{} bytes in a reply", bytes.len()))
}

fn no_body(bytes: Vec<u8>) {
    assert_eq!(bytes, [0u8; 0]);
}

/// Whoever sends requests and waits for each reply.
pub trait Peer {
    /// Sends bytes as one request, and waits for its reply.
    fn exchange(&mut self, request: &[u8]) -> Reply;

    fn call(
        &mut self,
        op: OpCode,
        body: &(impl IntoBytes + Immutable + ?Sized),
    ) -> Result<Vec<u8>, Status> {
        let reply = self.exchange(&request(op.to_wire(), 0x1122_3344_5566_7788, body));
        assert_eq!(
            (reply.op, reply.tag),
            (op.to_wire(), 0x1122_3344_5566_7788),
            "the reply to another request"
        );
        reply.into_result()
    }

    fn info(&mut self) -> InfoReply {
        exactly(&self.call(OpCode::GetInfo, &[0u8; 0]).unwrap())
    }

    fn list_page(&mut self, cursor: u64, max: u32) -> (Vec<BufferInfo>, u64) {
        let body = wire::ListRequest {
            cursor: cursor.into(),
            max: max.into(),
            ..FromZeros::new_zeroed()
        };
        let reply = self.call(OpCode::List, &body).unwrap();
        list_reply(&reply)
    }

    fn names(&mut self) -> Vec<String> {
        let (page, next) = self.list_page(0, 0);
        assert_eq!(next, 0, "one page is enough");
        page.iter().map(|info| text(&info.name)).collect()
    }

    fn try_open(
        &mut self,
        buffer: &str,
        flags: u32,
        enforcement: u32,
    ) -> Result<OpenReply, Status> {
        self.call(OpCode::Open, &open_body(buffer, flags, enforcement))
            .map(|body| exactly(&body))
    }

    fn open(&mut self, buffer: &str, access: u32) -> u64 {
        let reply = self.try_open(buffer, access, 0);
        let reply = reply.unwrap_or_else(|status| panic!("open {buffer}: {status}"));
        reply.handle.get()
    }

    fn close(&mut self, handle: u64) -> Result<(), Status> {
        self.call(OpCode::Close, &handle.to_le_bytes()).map(no_body)
    }

    fn derive(&mut self, handle: u64, flags: u32, enforcement: u32) -> Result<OpenReply, Status> {
        self.call(OpCode::Derive, &derive_body(handle, flags, enforcement))
            .map(|body| exactly(&body))
    }

    fn map(
        &mut self,
        handle: u64,
        offset: u64,
        length: u64,
        access: u32,
    ) -> Result<MapReply, Status> {
        self.call(OpCode::Map, &map_body(handle, offset, length, access))
            .map(|body| exactly(&body))
    }

    fn unmap(&mut self, mapping: u64) -> Result<(), Status> {
        self.call(OpCode::Unmap, &mapping.to_le_bytes())
            .map(no_body)
    }
}

/// Takes the body of a LIST reply apart.
pub fn list_reply(body: &[u8]) -> (Vec<BufferInfo>, u64) {
    let (head, entries) = ListReply::read_from_prefix(body).unwrap();
    let entries: Vec<BufferInfo> = entries
        .chunks(size_of::<BufferInfo>())
        .map(exactly)
        .collect();
    assert_eq!(entries.len(), head.count.get() as usize);
    assert_eq!(head.reserved.get(), 0);
    (entries, head.next.get())
}

/// A name on the wire as text.
pub fn text(raw: &[u8; 64]) -> String {
    Name::from_wire(*raw).unwrap().as_str().to_owned()
}
