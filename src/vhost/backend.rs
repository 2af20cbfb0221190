// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The device as the vhost-user library sees it: features, configuration space, memory, and who is woken for what.

use super::Wake;
use super::device::{Device, Memory};
use super::vring::Vring;
use super::window::MapperShared;
use crate::session::FenceCounts;
use crate::sys::{self, EventFd};
use dmabuf_protocol::{
    DeviceConfig, FEATURE_ALLOC, FEATURE_FENCE, FEATURE_STATIC_WINDOW, FEATURE_STREAM, NUM_QUEUES,
    QUEUE_CONTROL,
};
use rustix::fd::{AsFd, AsRawFd, RawFd};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vhost::vhost_user::Backend as Channel;
use vhost::vhost_user::message::{
    VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserVirtioFeatures,
};
use vhost_user_backend::VhostUserBackend;
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC,
};
use vm_memory::{
    GuestAddressSpace, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
};
use vmm_sys_util::epoll::EventSet;
use zerocopy::IntoBytes;

/// Largest queue a front-end may set up. crosvm asks for this one unless it is told otherwise.
const MAX_QUEUE_SIZE: usize = 32768;

/// See the module.
pub struct Backend {
    config: DeviceConfig,
    /// The VM may allocate.
    allocates: bool,
    device: Mutex<Device>,
    shared: Arc<MapperShared>,
    /// Guest memory without windows.
    memory: Memory,
    exit: EventFd,
    wakes: [(RawFd, Wake); 4],
}

impl Backend {
    /// For one connection.
    pub fn new(
        (config, allocates): (DeviceConfig, bool),
        device: Device,
        shared: Arc<MapperShared>,
        exit: EventFd,
    ) -> Self {
        let wakes = [
            (shared.wake().as_raw_fd(), Wake::Window),
            (device.event_wake(), Wake::Events),
            (device.timer(), Wake::Deadline),
            (device.late_wake(), Wake::Late),
        ];
        Self {
            memory: device.memory().clone(),
            config,
            allocates,
            device: Mutex::new(device),
            shared,
            exit,
            wakes,
        }
    }

    /// The fds to poll besides the queues'.
    pub fn wakes(&self, exit: &EventFd) -> impl Iterator<Item = (RawFd, Wake)> {
        self.wakes
            .into_iter()
            .chain([(exit.as_raw_fd(), Wake::Exit)])
    }

    /// Gives everything back; returns how many handles and mappings there were, and what was open of
    /// fences.
    pub fn end(&self) -> (u32, u32, FenceCounts) {
        self.shared.running().end();
        let mut device = self.device();
        let counts = device.counts();
        device.end();
        counts
    }

    fn device(&self) -> MutexGuard<'_, Device> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl VhostUserBackend for Backend {
    type Bitmap = ();
    type Vring = Vring;

    fn num_queues(&self) -> usize {
        NUM_QUEUES
    }

    fn max_queue_size(&self) -> usize {
        MAX_QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        let fixed = u64::from(self.config.num_static.get() > 0) << FEATURE_STATIC_WINDOW;
        let alloc = u64::from(self.allocates) << FEATURE_ALLOC;
        fixed
            | alloc
            | 1 << FEATURE_FENCE
            | 1 << FEATURE_STREAM
            | 1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        let mut features = VhostUserProtocolFeatures::BACKEND_REQ
            | VhostUserProtocolFeatures::BACKEND_SEND_FD
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS;
        features.set(
            VhostUserProtocolFeatures::SHMEM,
            self.config.window_size.get() > 0,
        );
        features
    }

    fn set_event_idx(&self, _: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let config = self.config.as_bytes();
        let bytes = usize::try_from(offset)
            .ok()
            .and_then(|offset| config.get(offset..));
        let mut bytes = bytes.unwrap_or_default().to_vec();
        // The library has checked that this is at most 256.
        bytes.resize(usize::try_from(size).unwrap_or(0), 0);
        bytes
    }

    fn set_config(&self, _: u32, _: &[u8]) -> io::Result<()> {
        Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "the configuration space is read-only",
        ))
    }

    fn get_shmem_config(&self) -> io::Result<VhostUserShMemConfig> {
        let regions = u32::from(self.config.window_size.get() > 0);
        Ok(VhostUserShMemConfig::new(
            regions,
            &[self.config.window_size.get()],
        ))
    }

    /// Keeps windows out of the memory in which queues and requests may be: a front-end that can't map read-only
    /// lists them as RAM, and the daemon must not be made to write there.
    ///
    /// The library's own table stays whole, because the front-end will ask it to remove those regions again.
    fn update_memory(&self, all: Memory) -> io::Result<()> {
        let mut kept: GuestMemoryMmap = (*all.memory()).clone();
        let windows: Vec<_> = kept
            .iter()
            .filter(|region| self.is_window(region))
            .map(|region| (region.start_addr(), region.len()))
            .collect();
        for (start, len) in windows {
            let removed = kept.remove_region(start, len);
            kept = removed
                .map_err(|error| io::Error::other(error.to_string()))?
                .0;
        }
        self.memory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .replace(kept);
        Ok(())
    }

    fn set_backend_req_fd(&self, channel: Channel) {
        self.shared.set_channel(channel);
    }

    fn stop_vring(&self, queue: u32) -> io::Result<()> {
        if queue == u32::from(QUEUE_CONTROL) {
            // A kick from before that is being handled must not take this for a device that starts: the reset that
            // follows would then not be one.
            let _worker = self.device();
            self.shared.running().set(false);
        }
        Ok(())
    }

    /// An error here ends the worker thread, so there is none but the one that is to end it.
    fn handle_event(&self, event: u16, _: EventSet, vrings: &[Vring], _: usize) -> io::Result<()> {
        let mut device = self.device();
        match event {
            event if event == Wake::Exit as u16 => {
                self.exit.clear();
                return Err(io::Error::other("the connection has ended"));
            }
            event if event == Wake::Window as u16 => device.window_results(vrings),
            event if event == Wake::Events as u16 => device.send_events(vrings),
            event if event == Wake::Deadline as u16 => device.deadline(vrings),
            event if event == Wake::Late as u16 => device.late_replies(vrings),
            queue => device.kicked(queue, vrings),
        }
        if sys::met_truncation() {
            device.memory_truncated();
        }
        Ok(())
    }
}

impl Backend {
    fn is_window(&self, region: &GuestRegionMmap) -> bool {
        region
            .file_offset()
            .is_some_and(|backing| self.shared.is_window(backing.file().as_fd()))
    }
}
