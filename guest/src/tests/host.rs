// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A small fake host: it answers at once, in the notification, unless it is told to lie or to wait.

use super::hal::{FakeHal, device_memory, peek, poke};
use super::streams::Frames;
pub use super::transport::start;
use super::transport::{FakeClock, FakeTransport, FakeWindows};
use crate::{Device, Result};
use dmabuf_protocol::request::{Envelope, Request};
use dmabuf_protocol::stream::StreamRequest;
use dmabuf_protocol::{
    Access, DeviceConfig, Enforcement, Handle, MappingId, Name, OpCode, Status, Uuid, WindowHeader,
    wire,
};
use std::boxed::Box;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::format;
use std::rc::Rc;
use std::vec::Vec;
use virtio_drivers::transport::DeviceStatus;
use zerocopy::{FromZeros, IntoBytes};

pub const PAGE: u64 = 4096;
pub const UUID: Uuid = Uuid(*b"the static one..");
/// Buffers `frame/0`… in the static window, read-only; `rw/x` comes on top.
pub const FRAMES: u64 = 12;
pub const STATIC_SIZE: u64 = 16 * PAGE;
pub const DYNAMIC_SIZE: u64 = 128 * PAGE;

pub type TestDevice = Device<FakeHal, FakeTransport, FakeWindows, FakeClock>;
/// Changes the bytes of a reply, or the length that the used ring says.
pub type Lie = Box<dyn FnMut(OpCode, &mut Vec<u8>)>;

pub struct Queue {
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
    pub size: u16,
    pub taken: u16,
    pub given: u16,
}

/// A chain that the host has.
pub struct Chain {
    queue: u16,
    head: u16,
    pub request: Vec<u8>,
    to: u64,
    space: u32,
}

pub struct Host {
    pub config: Vec<u8>,
    pub features: u64,
    pub accepted: u64,
    pub status: Vec<DeviceStatus>,
    pub queues: BTreeMap<u16, Queue>,
    pub static_window: u64,
    pub dynamic_window: u64,
    /// Handle: buffer.
    pub handles: BTreeMap<u64, u64>,
    /// Mapping: handle.
    pub mappings: BTreeMap<u64, u64>,
    next: u64,
    pub requests: Vec<OpCode>,
    pub lie: Option<Lie>,
    /// Keep requests instead of answering them.
    pub holding: bool,
    pub held: Vec<Chain>,
    pub event_buffers: Vec<Chain>,
    pub vms_window: bool,
    /// Buffers of the brackets that are open.
    pub brackets: Vec<u64>,
    pub released: u64,
    pub frames: Frames,
}

pub type Shared = Rc<RefCell<Host>>;

impl Host {
    pub fn new() -> Shared {
        let config = DeviceConfig {
            magic: dmabuf_protocol::config::CONFIG_MAGIC,
            version: 1.into(),
            windows: 3.into(),
            window_size: DYNAMIC_SIZE.into(),
            uuid: UUID.0,
            max_handles: 64.into(),
            max_mappings: 64.into(),
            max_inflight: 8.into(),
            num_static: 1.into(),
            reserved: 0.into(),
        };
        let static_window = device_memory(usize::try_from(STATIC_SIZE).unwrap());
        poke(static_window, header());
        for frame in 0..FRAMES {
            poke(static_window + (1 + frame) * PAGE, [0xf0 + frame; 512]);
        }
        Rc::new(RefCell::new(Self {
            config: config.as_bytes().to_vec(),
            features: 1 << 32 | 1 << 29 | 1 << 28 | 0xffff,
            accepted: 0,
            status: Vec::new(),
            queues: BTreeMap::new(),
            static_window,
            dynamic_window: device_memory(usize::try_from(DYNAMIC_SIZE).unwrap()),
            handles: BTreeMap::new(),
            mappings: BTreeMap::new(),
            next: 1,
            requests: Vec::new(),
            lie: None,
            holding: false,
            held: Vec::new(),
            event_buffers: Vec::new(),
            vms_window: true,
            brackets: Vec::new(),
            released: 0,
            frames: Frames::default(),
        }))
    }

    pub fn take(&mut self, index: u16) -> Option<Chain> {
        let queue = self.queues.get_mut(&index)?;
        if peek::<u16>(queue.available + 2) == queue.taken {
            return None;
        }
        let slot = u64::from(queue.taken % queue.size);
        let head: u16 = peek(queue.available + 4 + 2 * slot);
        queue.taken = queue.taken.wrapping_add(1);
        let mut chain = Chain {
            queue: index,
            head,
            request: Vec::new(),
            to: 0,
            space: 0,
        };
        let mut next = Some(head);
        while let Some(index) = next {
            let at = queue.descriptors + 16 * u64::from(index);
            let (address, length, flags): (u64, u32, u16) = (peek(at), peek(at + 8), peek(at + 12));
            if flags & 2 == 0 {
                let bytes = 0..u64::from(length);
                chain
                    .request
                    .extend(bytes.map(|byte| peek::<u8>(address + byte)));
            } else {
                assert_eq!(chain.space, 0, "one writable descriptor");
                (chain.to, chain.space) = (address, length);
            }
            next = (flags & 1 != 0).then(|| peek(at + 14));
        }
        Some(chain)
    }

    /// Gives a chain back, as it is and with whatever id and length.
    pub fn give(&mut self, index: u16, id: u32, length: u32) {
        let queue = self.queues.get_mut(&index).unwrap();
        let at = queue.used + 4 + 8 * u64::from(queue.given % queue.size);
        poke(at, (id, length));
        queue.given = queue.given.wrapping_add(1);
        poke(queue.used + 2, queue.given);
    }

    fn answer(&mut self, chain: &Chain, bytes: &[u8]) {
        let fits = bytes.len().min(usize::try_from(chain.space).unwrap());
        for (at, byte) in (chain.to..).zip(&bytes[..fits]) {
            poke(at, *byte);
        }
        self.give(
            chain.queue,
            chain.head.into(),
            u32::try_from(bytes.len()).unwrap(),
        );
    }

    pub fn event(&mut self, bytes: &[u8]) {
        let chain = self.event_buffers.remove(0);
        self.answer(&chain, bytes);
    }

    /// Answers a request.
    pub fn serve(&mut self, chain: &Chain) {
        let request = Request::parse(&chain.request).expect("the driver's requests are valid");
        assert_eq!(request.op().queue(), chain.queue);
        self.requests.push(request.op());
        let (status, body) = match self.carry_out(request) {
            Ok(body) => (Status::OK, body),
            Err(status) => (status, Vec::new()),
        };
        let mut reply = Envelope::of(&chain.request)
            .reply(status)
            .as_bytes()
            .to_vec();
        reply.extend(body);
        if let Some(lie) = &mut self.lie {
            lie(request.op(), &mut reply);
        }
        self.answer(chain, &reply);
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn opened(&mut self, buffer: u64, access: Access) -> Vec<u8> {
        let handle = self.number();
        self.handles.insert(handle, buffer);
        let reply = wire::OpenReply {
            handle: handle.into(),
            fd_offset: 0.into(),
            buffer: info(buffer, access),
        };
        reply.as_bytes().to_vec()
    }

    fn carry_out(&mut self, request: Request) -> Result<Vec<u8>, Status> {
        match request {
            Request::GetInfo => {
                let mut info = wire::InfoReply::new_zeroed();
                info.version = 1.into();
                info.handles = u32::try_from(self.handles.len()).unwrap().into();
                info.name = Name::new("this").unwrap().to_wire();
                Ok(info.as_bytes().to_vec())
            }
            Request::List { cursor, .. } => {
                let entries: Vec<_> = (cursor + 1..=FRAMES + 1).take(5).collect();
                let more = entries.last().is_some_and(|last| *last <= FRAMES);
                let head = wire::ListReply {
                    count: u32::try_from(entries.len()).unwrap().into(),
                    reserved: 0.into(),
                    next: if more { *entries.last().unwrap() } else { 0 }.into(),
                };
                let mut body = head.as_bytes().to_vec();
                for id in entries {
                    body.extend(info(id, best(id)).as_bytes());
                }
                Ok(body)
            }
            Request::Open { name, flags, .. } => {
                let named = |id: &u64| name_of(*id) == name;
                let buffer = (1..=FRAMES + 1).find(named).ok_or(Status::ENOENT)?;
                let access = flags.access_from(best(buffer))?;
                Ok(self.opened(buffer, access))
            }
            Request::Derive { handle, flags, .. } => {
                let buffer = *self.handles.get(&handle.0).ok_or(Status::ESTALE)?;
                let access = flags.access_from(best(buffer))?;
                Ok(self.opened(buffer, access))
            }
            Request::Close(Handle(handle)) => {
                if self.mappings.values().any(|of| *of == handle) {
                    return Err(Status::EBUSY);
                }
                self.handles.remove(&handle).ok_or(Status::ESTALE)?;
                Ok(Vec::new())
            }
            Request::Map {
                handle,
                offset,
                length,
                access,
            } => {
                let buffer = *self.handles.get(&handle.0).ok_or(Status::ESTALE)?;
                let mapping = self.number();
                self.mappings.insert(mapping, handle.0);
                let fixed = buffer <= FRAMES;
                let reply = wire::MapReply {
                    mapping: mapping.into(),
                    window_offset: if fixed {
                        buffer * PAGE + offset
                    } else {
                        2 * PAGE
                    }
                    .into(),
                    length: length.into(),
                    access: access.to_wire().into(),
                    enforcement: enforcement(access).to_wire().into(),
                    caching: 1.into(),
                    window: u32::from(fixed).into(),
                    uuid: if fixed { UUID } else { Uuid::NIL }.0,
                    reserved: 0.into(),
                };
                Ok(reply.as_bytes().to_vec())
            }
            Request::Unmap(MappingId(mapping)) => {
                self.mappings.remove(&mapping).ok_or(Status::ESTALE)?;
                Ok(Vec::new())
            }
            Request::HeapList { index } => {
                let mut reply = wire::HeapReply::new_zeroed();
                reply.name = Name::new(["system", "camera"][usize::try_from(index).unwrap()])
                    .unwrap()
                    .to_wire();
                reply.max_size = (4 * PAGE).into();
                (reply.kind, reply.count) = (1.into(), 2.into());
                Ok(reply.as_bytes().to_vec())
            }
            Request::Alloc { .. } => {
                let mut body = self.opened(FRAMES + 1, Access::ReadWrite);
                let name = body.len() - 64;
                body[name..].fill(0);
                Ok(body)
            }
            Request::Publish { handle, .. } => match self.handles.contains_key(&handle.0) {
                true => Ok(Vec::new()),
                false => Err(Status::ESTALE),
            },
            Request::Withdraw(_) | Request::Revoke { .. } => Ok(Vec::new()),
            Request::SyncStart { handle, .. } => {
                self.brackets
                    .push(*self.handles.get(&handle.0).ok_or(Status::ESTALE)?);
                Ok(wire::SyncReply::new_zeroed().as_bytes().to_vec())
            }
            Request::SyncEnd { .. } => {
                self.brackets.pop().ok_or(Status::EINVAL)?;
                Ok(wire::SyncReply::new_zeroed().as_bytes().to_vec())
            }
            Request::FenceWait { timeout_ms, .. } => {
                let mut reply = wire::FenceWaitReply::new_zeroed();
                reply.fences = timeout_ms.into();
                Ok(reply.as_bytes().to_vec())
            }
            Request::FenceQuery { .. } => {
                let mut reply = wire::FenceQueryReply::new_zeroed();
                reply.state = wire::FENCE_SIGNALLED.into();
                Ok(reply.as_bytes().to_vec())
            }
            Request::Release { value, .. } => {
                self.released = value;
                Ok(Vec::new())
            }
            Request::Stream(StreamRequest::Buffer { index, .. }) => {
                Ok(self.opened(u64::from(index) + 1, Access::ReadOnly))
            }
            Request::Stream(request) => {
                let number = self.number();
                self.frames.carry_out(request, number)
            }
            other => panic!("the driver sent {other:?}"),
        }
    }
}

pub fn header() -> WindowHeader {
    WindowHeader::new(
        UUID,
        STATIC_SIZE,
        PAGE,
        PAGE,
        u32::try_from(FRAMES).unwrap(),
    )
}

pub fn name_of(id: u64) -> Name {
    if id <= FRAMES {
        Name::new(&format!("frame/{}", id - 1)).unwrap()
    } else {
        Name::new("rw/x").unwrap()
    }
}

fn best(id: u64) -> Access {
    if id <= FRAMES {
        Access::ReadOnly
    } else {
        Access::ReadWrite
    }
}

fn enforcement(access: Access) -> Enforcement {
    if access.can_write() {
        Enforcement::None
    } else {
        Enforcement::Sealed
    }
}

fn info(id: u64, access: Access) -> wire::BufferInfo {
    wire::BufferInfo {
        id: id.into(),
        size: if id <= FRAMES { PAGE } else { 4 * PAGE }.into(),
        access: access.to_wire().into(),
        enforcement: enforcement(access).to_wire().into(),
        heap: 3.into(),
        flags: u32::from(id <= FRAMES).into(),
        format: FromZeros::new_zeroed(),
        name: name_of(id).to_wire(),
    }
}
