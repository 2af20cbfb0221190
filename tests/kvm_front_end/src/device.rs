// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The connection to the daemon, with the driver's side of its virtqueues.

use crate::guest::{Guest, RAM_SIZE};
use crate::sys::borrow;
use crate::window::{self, Window};
use anyhow::{Context, Result, bail};
use dmabuf_protocol::wire::{self, MapReply, OpenReply, ReplyHeader, RequestHeader};
use dmabuf_protocol::{Name, OpCode, Status};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use vhost::vhost_user::message::{
    VhostUserHeaderFlag, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

const QUEUES: usize = 3;
const QUEUE_SIZE: u16 = 16;
/// Where the rings are in guest memory, and how far apart.
const RINGS: u64 = 0x10_0000;
const RING_SPACE: u64 = 0x1_0000;
/// Where requests and replies are.
const REQUEST: u64 = 0x20_0000;
const REPLY: u64 = 0x21_0000;
const REPLY_ROOM: u32 = 0x2000;
/// Where the guest's memory would be in this process' memory: any number does.
const USER: u64 = 0x7000_0000_0000;
const LIMIT: Timespec = Timespec {
    tv_sec: 15,
    tv_nsec: 0,
};
const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// See the module.
pub struct Device {
    frontend: Frontend,
    memory: GuestMemoryMmap,
    call: EventFd,
    kicks: Vec<EventFd>,
    sent: u16,
    _channel: OwnedFd,
    ram: VhostUserMemoryRegionInfo,
}

impl Device {
    /// Connects, negotiates, starts the queues.
    pub fn connect(socket: &Path, guest: &Guest, window: &Arc<Window>) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("can't connect to {}", socket.display()))?;
        let mut frontend = Frontend::from_stream(stream, QUEUES as u64);
        frontend.set_owner()?;
        frontend.get_features()?;
        let protocol = frontend.get_protocol_features()?;
        if !protocol.contains(VhostUserProtocolFeatures::SHMEM) {
            bail!("the daemon has no dynamic window for this VM: set window-size");
        }
        frontend.set_protocol_features(protocol)?;
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        frontend.set_features(
            1 << VIRTIO_F_VERSION_1 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits(),
        )?;
        let channel = window::answer(&mut frontend, window)?;
        let ram = VhostUserMemoryRegionInfo {
            guest_phys_addr: 0,
            memory_size: RAM_SIZE as u64,
            userspace_addr: USER,
            mmap_offset: 0,
            mmap_handle: guest.ram.as_raw_fd(),
        };
        frontend.set_mem_table(&[ram])?;
        let mut device = Self {
            frontend,
            memory: guest.memory.clone(),
            call: EventFd::new(EFD_NONBLOCK)?,
            kicks: Vec::new(),
            sent: 0,
            _channel: channel,
            ram,
        };
        for index in 0..QUEUES {
            device.start(index)?;
        }
        Ok(device)
    }

    fn start(&mut self, index: usize) -> Result<()> {
        let base = USER + RINGS + RING_SPACE * index as u64;
        self.frontend.set_vring_num(index, QUEUE_SIZE)?;
        self.frontend.set_vring_addr(
            index,
            &VringConfigData {
                queue_max_size: QUEUE_SIZE,
                queue_size: QUEUE_SIZE,
                flags: 0,
                desc_table_addr: base,
                avail_ring_addr: base + 0x2000,
                used_ring_addr: base + 0x4000,
                log_addr: None,
            },
        )?;
        self.frontend.set_vring_base(index, 0)?;
        self.frontend.set_vring_call(index, &self.call)?;
        let kick = EventFd::new(EFD_NONBLOCK)?;
        self.frontend.set_vring_kick(index, &kick)?;
        self.kicks.push(kick);
        Ok(self.frontend.set_vring_enable(index, true)?)
    }

    /// Lists a file as memory of the VM, as QEMU does with what it has mapped writable.
    pub fn list_as_memory(
        &self,
        address: u64,
        file: &impl AsRawFd,
        offset: u64,
        length: u64,
    ) -> Result<()> {
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: address,
            memory_size: length,
            userspace_addr: USER + address,
            mmap_offset: offset,
            mmap_handle: file.as_raw_fd(),
        };
        self.frontend.set_mem_table(&[self.ram, region])?;
        Ok(())
    }

    /// Sends a request whose reply goes to `reply`; waits for the end of the chain: the bytes written.
    fn exchange(&mut self, request: &[u8], reply: u64, room: u32) -> Result<Option<u32>> {
        self.memory.write_slice(request, GuestAddress(REQUEST))?;
        let length = u32::try_from(request.len())?;
        let descriptor = |address: u64, length: u32, flags: u16, next: u16| {
            let mut bytes = address.to_le_bytes().to_vec();
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(&flags.to_le_bytes());
            bytes.extend_from_slice(&next.to_le_bytes());
            bytes
        };
        let table = [
            descriptor(REQUEST, length, NEXT, 1),
            descriptor(reply, room, WRITE, 0),
        ]
        .concat();
        self.memory.write_slice(&table, GuestAddress(RINGS))?;
        let (available, used) = (RINGS + 0x2000, RINGS + 0x4000);
        let entry = available + 4 + 2 * u64::from(self.sent % QUEUE_SIZE);
        self.memory.write_obj(0u16, GuestAddress(entry))?;
        let done = used + 4 + 8 * u64::from(self.sent % QUEUE_SIZE);
        self.sent = self.sent.wrapping_add(1);
        self.memory
            .store(self.sent, GuestAddress(available + 2), Ordering::Release)?;
        self.kicks.first().context("no queue")?.write(1)?;
        loop {
            let index: u16 = self
                .memory
                .load(GuestAddress(used + 2), Ordering::Acquire)?;
            if index == self.sent {
                return Ok(Some(self.memory.read_obj(GuestAddress(done + 4))?));
            }
            let call = borrow(&self.call);
            if poll(&mut [PollFd::new(&call, PollFlags::IN)], Some(&LIMIT))? == 0 {
                return Ok(None);
            }
            let _ = self.call.read();
        }
    }

    fn call<T: FromBytes>(
        &mut self,
        op: OpCode,
        body: &(impl IntoBytes + Immutable),
    ) -> Result<Result<T, Status>> {
        let request = request(op, body);
        let written = self
            .exchange(&request, REPLY, REPLY_ROOM)?
            .with_context(|| format!("{op:?}: no answer"))?;
        let mut bytes = vec![0; usize::try_from(written)?];
        self.memory.read_slice(&mut bytes, GuestAddress(REPLY))?;
        let Ok((header, body)) = ReplyHeader::read_from_prefix(&bytes) else {
            bail!("{op:?}: a reply of {written} bytes");
        };
        let status = Status(header.status.get());
        if status != Status::OK {
            return Ok(Err(status));
        }
        let Ok(body) = T::read_from_bytes(body) else {
            bail!("{op:?}: a body of {} bytes", body.len());
        };
        Ok(Ok(body))
    }

    /// OPEN
    pub fn open(&mut self, name: &str, access: u32) -> Result<Result<OpenReply, Status>> {
        let Ok(name) = Name::new(name) else {
            bail!("{name:?} is no name of a buffer");
        };
        let body = wire::OpenRequest {
            name: name.to_wire(),
            flags: access.into(),
            enforcement: 0.into(),
        };
        self.call(OpCode::Open, &body)
    }

    /// MAP of a whole buffer
    pub fn map(&mut self, open: &OpenReply, access: u32) -> Result<Result<MapReply, Status>> {
        let body = wire::MapRequest {
            handle: open.handle,
            length: open.buffer.size,
            access: access.into(),
            ..FromZeros::new_zeroed()
        };
        self.call(OpCode::Map, &body)
    }

    /// Asks for something harmless, with a reply buffer at any guest-physical address. `None`: the chain did not come
    /// back.
    pub fn reply_into(&mut self, address: u64) -> Result<Option<u32>> {
        self.exchange(&request(OpCode::GetInfo, &[0u8; 0]), address, 512)
    }
}

fn request(op: OpCode, body: &(impl IntoBytes + Immutable)) -> Vec<u8> {
    let header = RequestHeader {
        op: op.to_wire().into(),
        tag: 1.into(),
        ..FromZeros::new_zeroed()
    };
    [header.as_bytes(), body.as_bytes()].concat()
}
