// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A front-end with a guest in it: the `vhost` crate's front-end, and a driver on its virtqueues.

use crate::daemon::{Daemon, LIMIT};
use crate::guest::{self, DATA, Descriptor, NEXT, RAM, RAM_USER, Ring, WRITE};
use crate::message::{Peer, Reply};
use crate::sys::borrow;
use crate::window::{Answer, Window, ram_region};
use dmabuf_protocol::DeviceConfig;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{Shutdown, shutdown};
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures, VhostUserShMemConfig,
    VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Error as VhostUserError, Frontend, FrontendReqHandler, VhostUserFrontend};
use vhost::{VhostBackend, VringConfigData};
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use zerocopy::FromBytes;

/// Room for one request or one reply.
const ROOM: u64 = 0x2000;

/// What a front-end is like.
#[derive(Clone, Copy, Debug)]
pub struct Manners {
    pub answer: Answer,
    /// Whether it negotiates REPLY_ACK, and answers the daemon's requests.
    pub reply_ack: bool,
    /// Whether it gives the daemon a back-end channel.
    pub channel: bool,
    pub event_idx: bool,
    pub queue_size: u16,
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            answer: Answer::Honours,
            reply_ack: true,
            channel: true,
            event_idx: false,
            queue_size: 256,
        }
    }
}

impl From<Answer> for Manners {
    fn from(answer: Answer) -> Self {
        Self {
            answer,
            ..Self::default()
        }
    }
}

/// A front-end with a running guest.
pub struct FrontEnd {
    pub frontend: Frontend,
    pub stream: UnixStream,
    pub window: Arc<Window>,
    pub ram: File,
    pub rings: [Ring; 3],
    pub config: DeviceConfig,
    pub shared_memory: Option<VhostUserShMemConfig>,
    channel: Option<(File, JoinHandle<()>, EventFd)>,
    answered: HashMap<u16, u32>,
    free: Vec<u16>,
}

/// A request that was sent: the head of its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent(pub u16);

impl FrontEnd {
    /// Connects to the socket of a VM, negotiates, and starts all queues.
    pub fn connect(daemon: &Daemon, vm: &str, manners: impl Into<Manners>) -> Self {
        let manners = manners.into();
        let mut front_end = Self::negotiate(daemon, vm, manners);
        front_end.start([0; 3]);
        front_end
    }

    /// Everything that a front-end does before it starts the queues.
    pub fn negotiate(daemon: &Daemon, vm: &str, manners: Manners) -> Self {
        daemon.relays.start(daemon, vm);
        let stream = UnixStream::connect(daemon.file(&format!("{vm}.sock"))).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut frontend = Frontend::from_stream(stream.try_clone().unwrap(), 3);
        frontend.set_owner().unwrap();
        let offered = frontend.get_features().unwrap();
        let mut features = 1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        if manners.event_idx {
            features |= 1 << VIRTIO_RING_F_EVENT_IDX;
        }
        assert_eq!(offered & features, features, "{offered:#x}");
        let mut protocol = frontend.get_protocol_features().unwrap();
        protocol.set(VhostUserProtocolFeatures::REPLY_ACK, manners.reply_ack);
        frontend.set_protocol_features(protocol).unwrap();
        if manners.reply_ack {
            frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        }
        frontend.set_features(features).unwrap();
        assert_eq!(frontend.get_queue_num().unwrap(), 3);
        let (_, config) = frontend
            .get_config(0, 64, VhostUserConfigFlags::WRITABLE, &[0; 64])
            .unwrap();
        let config = DeviceConfig::read_from_bytes(&config).unwrap();
        let shared_memory = protocol
            .contains(VhostUserProtocolFeatures::SHMEM)
            .then(|| frontend.get_shmem_config().unwrap());

        let window = Window::new(manners.answer);
        let (memory, ram) = guest::memory();
        let channel = (manners.channel && shared_memory.is_some())
            .then(|| answer_requests(&mut frontend, &window, manners.reply_ack));
        frontend.set_mem_table(&[ram_region(&ram)]).unwrap();
        window.belongs_to(frontend.clone(), ram.try_clone().unwrap());
        let rings = [0, 1, 2].map(|index| Ring::new(index, manners.queue_size, &memory));
        Self {
            frontend,
            stream,
            window,
            ram,
            rings,
            config,
            shared_memory,
            channel,
            answered: HashMap::new(),
            free: (0..manners.queue_size / 2)
                .map(|slot| 2 * slot)
                .rev()
                .collect(),
        }
    }

    /// Starts the queues where they were.
    pub fn start(&mut self, bases: [u16; 3]) {
        for (index, base) in bases.into_iter().enumerate() {
            self.start_queue(index, base).unwrap();
        }
    }

    /// Starts one queue.
    pub fn start_queue(&mut self, index: usize, base: u16) -> vhost::Result<()> {
        let ring = &self.rings[index];
        let user = |address: u64| address.wrapping_sub(RAM).wrapping_add(RAM_USER);
        self.frontend.set_vring_num(index, ring.size)?;
        self.frontend.set_vring_addr(
            index,
            &VringConfigData {
                queue_max_size: ring.size,
                queue_size: ring.size,
                flags: 0,
                desc_table_addr: user(ring.descriptors),
                used_ring_addr: user(ring.used),
                avail_ring_addr: user(ring.available),
                log_addr: None,
            },
        )?;
        self.frontend.set_vring_base(index, base)?;
        self.frontend.set_vring_call(index, &ring.call)?;
        self.frontend.set_vring_kick(index, &ring.kick)?;
        self.frontend.clone().set_vring_enable(index, true)
    }

    /// Stops the queues, and returns where they were.
    pub fn stop(&mut self) -> [u16; 3] {
        [0, 1, 2].map(|index| self.frontend.get_vring_base(index).unwrap() as u16)
    }

    /// A reset of the device by its driver, as QEMU tells it.
    pub fn reset(&mut self) {
        self.stop();
        self.window.drop_mappings();
        self.rings.iter_mut().for_each(Ring::clear);
        self.answered.clear();
        self.free = (0..self.rings[0].size / 2)
            .map(|slot| 2 * slot)
            .rev()
            .collect();
        self.start([0; 3]);
    }

    /// Sends a request with so much room for its reply.
    pub fn send(&mut self, request: &[u8], room: u32) -> Sent {
        let head = self.free.pop().expect("too many requests at once");
        let address = DATA + u64::from(head) * ROOM;
        let ring = &mut self.rings[0];
        ring.write(address, request);
        ring.set(
            head,
            Descriptor::new(address, request.len() as u32, NEXT, head + 1),
        );
        ring.set(head + 1, Descriptor::new(address + ROOM, room, WRITE, 0));
        ring.offer(head);
        ring.kick();
        Sent(head)
    }

    /// Whether a request was answered.
    pub fn is_answered(&mut self, sent: Sent) -> bool {
        while let Some((head, len)) = self.rings[0].take_used() {
            self.keep(head, len);
        }
        self.answered.contains_key(&sent.0)
    }

    /// Waits until a chain comes back; returns the bytes that were written into it.
    pub fn wait_bytes(&mut self, sent: Sent) -> Vec<u8> {
        while !self.answered.contains_key(&sent.0) {
            let (head, len) = self.rings[0].wait_used();
            self.keep(head, len);
        }
        let len = self.answered.remove(&sent.0).unwrap();
        self.free.push(sent.0);
        self.rings[0].read(DATA + u64::from(sent.0) * ROOM + ROOM, len as usize)
    }

    /// Waits for a reply.
    pub fn wait(&mut self, sent: Sent) -> Reply {
        Reply::parse(&self.wait_bytes(sent))
    }

    fn keep(&mut self, head: u16, len: u32) {
        let before = self.answered.insert(head, len);
        assert_eq!(before, None, "chain {head} was used twice");
    }

    /// Sends a request on any queue but the event queue, and waits for its reply.
    pub fn on_queue(&mut self, queue: u16, request: &[u8]) -> Reply {
        if queue == 0 {
            return self.exchange(request);
        }
        let (address, reply) = (RAM + 0x9_0000, RAM + 0x9_8000);
        let ring = &mut self.rings[usize::from(queue)];
        ring.write(address, request);
        ring.set(0, Descriptor::new(address, request.len() as u32, NEXT, 1));
        ring.set(1, Descriptor::new(reply, ROOM as u32, WRITE, 0));
        ring.offer(0);
        ring.kick();
        let (head, len) = ring.wait_used();
        assert_eq!(head, 0, "the only chain of the queue");
        Reply::parse(&ring.read(reply, len as usize))
    }

    /// Gives the device room for an event, and returns the chain.
    pub fn offer_event(&mut self, index: u16, room: u32) {
        let address = RAM + 0x8_0000 + 0x100 * u64::from(index);
        let ring = &mut self.rings[1];
        ring.set(index, Descriptor::new(address, room, WRITE, 0));
        ring.offer(index);
        ring.kick();
    }

    /// Waits for an event.
    pub fn wait_event(&mut self) -> Vec<u8> {
        let (index, len) = self.rings[1].wait_used();
        self.rings[1].read(RAM + 0x8_0000 + 0x100 * u64::from(index), len as usize)
    }

    /// Whether the daemon has ended the connection, waiting a while for it.
    pub fn is_ended(&self, limit: Duration) -> bool {
        let timeout = rustix::event::Timespec {
            tv_sec: limit.as_secs() as i64,
            tv_nsec: limit.subsec_nanos().into(),
        };
        let mut fds = [PollFd::new(&self.stream, PollFlags::RDHUP)];
        poll(&mut fds, Some(&timeout)) == Ok(1)
    }

    /// Goes, but holds the back-end channel open; returns what holds it.
    pub fn leave_channel_open(mut self) -> File {
        let (channel, ..) = self.channel.as_ref().unwrap();
        let channel = channel.try_clone().unwrap();
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        self.end_channel(false);
        channel
    }

    fn end_channel(&mut self, close: bool) {
        if let Some((channel, thread, exit)) = self.channel.take() {
            if close {
                let _ = shutdown(&channel, Shutdown::Both);
            }
            // Before the request that waits is refused: nothing that comes after it is answered.
            exit.write(1).unwrap();
            self.window.close();
            let _ = thread.join();
        }
        self.window.close();
    }
}

impl Drop for FrontEnd {
    /// Goes without a word: no reply is sent any more.
    fn drop(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        self.end_channel(true);
    }
}

impl Peer for FrontEnd {
    fn exchange(&mut self, request: &[u8]) -> Reply {
        let sent = self.send(request, ROOM as u32);
        self.wait(sent)
    }
}

/// Starts the thread that answers the daemon's requests.
fn answer_requests(
    frontend: &mut Frontend,
    window: &Arc<Window>,
    reply_ack: bool,
) -> (File, JoinHandle<()>, EventFd) {
    let mut handler = FrontendReqHandler::new(Arc::clone(window)).unwrap();
    handler.set_reply_ack_flag(reply_ack);
    let theirs = handler.get_tx_raw_fd();
    frontend.set_backend_request_fd(&theirs).unwrap();
    let ours = File::from(borrow(&handler).try_clone_to_owned().unwrap());
    let exit = EventFd::new(EFD_NONBLOCK).unwrap();
    let end = exit.try_clone().unwrap();
    let thread = std::thread::spawn(move || {
        loop {
            let ready = {
                let (channel, exit) = (borrow(&handler), borrow(&end));
                let mut fds = [
                    PollFd::new(&channel, PollFlags::IN),
                    PollFd::new(&exit, PollFlags::IN),
                ];
                poll(&mut fds, None).unwrap();
                fds[1].revents().is_empty()
            };
            if !ready {
                return;
            }
            match handler.handle_request() {
                Ok(_) | Err(VhostUserError::ReqHandlerError(_)) => {}
                Err(_) => return,
            }
        }
    });
    (ours, thread, exit)
}
