// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The virtqueue transport: one thread per VM serves its front-ends, one after the other.
//!
//! * `backend`: what the vhost-user library asks of a device
//! * `device`: the queues of one connection, and its session
//! * `chain`: a descriptor chain as request bytes and reply space
//! * `window`: the thread that asks the front-end to map and unmap
//!
//! Nothing that a guest or a front-end does ends more than its own connection.

mod backend;
mod chain;
mod device;
mod running;
mod vring;
mod window;

use crate::session::{
    Host, MAX_INFLIGHT, Policy, Session, Transport, VmSession, Windows, window_bits,
};
use crate::sys::EventFd;
use backend::Backend;
use device::Device;
use dmabuf_protocol::config::{CONFIG_MAGIC, DeviceConfig};
use dmabuf_protocol::{NUM_QUEUES, Name, Uuid, VERSION};
use std::sync::Arc;
use vhost::vhost_user::{Error as VhostUserError, Listener};
use vhost_user_backend::{Error as DaemonError, VhostUserDaemon};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use window::{Mapper, MapperShared};
use zerocopy::FromZeros;

/// A VM's device: everything that outlives a connection.
#[derive(Debug)]
pub struct Vm<S> {
    /// What the host calls the VM.
    pub name: Name,
    /// Most handles.
    pub max_handles: u32,
    /// Most mappings.
    pub max_mappings: u32,
    /// It may allocate from some heap.
    pub allocates: bool,
    /// Size of the dynamic window in bytes, 0 for none.
    pub window_size: u64,
    /// The static windows.
    pub fixed: Vec<StaticWindow>,
    /// Who answers its requests.
    pub sessions: S,
}

/// A pool that the VMM maps as a whole.
#[derive(Clone, Debug)]
pub struct StaticWindow {
    /// Its identity.
    pub uuid: Uuid,
    /// Device and inode of its memory, by whichever fds there are.
    pub inodes: Vec<(u64, u64)>,
}

/// Where the session of a connection comes from.
pub trait Sessions {
    /// A session with nothing in it, for a VM with these windows.
    ///
    /// # Errors
    /// EMFILE, ENFILE.
    fn start(&self, windows: Windows) -> std::io::Result<Box<dyn VmSession>>;
}

/// Sessions of this process.
#[derive(Debug)]
pub struct Local {
    /// What all sessions share.
    pub host: Arc<Host>,
    /// Rights and limits.
    pub policy: Arc<Policy>,
}

impl Sessions for Local {
    fn start(&self, windows: Windows) -> std::io::Result<Box<dyn VmSession>> {
        let (host, policy) = (Arc::clone(&self.host), Arc::clone(&self.policy));
        let session = Session::new(host, policy, Transport::Windows(Box::new(windows)))?;
        Ok(Box::new(session))
    }
}

/// What the worker thread is woken for, besides queues 0 to 2 and the library's own event 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
enum Wake {
    Exit = 4,
    Window,
    Events,
    Deadline,
    Late,
}

const _: () = assert!(Wake::Exit as usize > NUM_QUEUES);

impl<S: Sessions> Vm<S> {
    fn config(&self) -> DeviceConfig {
        let uuids = self.uuids();
        DeviceConfig {
            magic: CONFIG_MAGIC,
            version: VERSION.into(),
            windows: window_bits(self.window_size, &uuids).into(),
            window_size: self.window_size.into(),
            uuid: uuids.first().map(|uuid| uuid.0).unwrap_or_default(),
            max_handles: self.max_handles.into(),
            max_mappings: self.max_mappings.into(),
            max_inflight: MAX_INFLIGHT.into(),
            num_static: u32::try_from(uuids.len()).unwrap_or(u32::MAX).into(),
            ..FromZeros::new_zeroed()
        }
    }

    fn uuids(&self) -> Vec<Uuid> {
        self.fixed.iter().map(|window| window.uuid).collect()
    }

    /// Serves front-ends on `listener`, one after the other, for ever.
    pub fn serve(&self, mut listener: Listener) -> ! {
        loop {
            if let Err(error) = self.serve_one(&mut listener) {
                log::error!(
                    "peer {}: no front-end can be served now: {error}",
                    self.name
                );
                // Out of fds, threads or memory: only time helps, and spinning would make it worse.
                std::thread::sleep(std::time::Duration::from_millis(500));
            }
        }
    }

    /// Waits for a front-end and serves it until it goes.
    fn serve_one(&self, listener: &mut Listener) -> Result<(), std::io::Error> {
        let name = self.name;
        let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
        let shared = MapperShared::new(self.fixed.iter().flat_map(|window| window.inodes.clone()))?;
        let mapper = Mapper::start(name.as_str(), Arc::clone(&shared), self.window_size)?;
        let dynamic: Option<Box<dyn crate::session::Window>> =
            (self.window_size > 0).then(|| Box::new(mapper.window()) as _);
        let windows = Windows::new(name, self.max_mappings, dynamic, self.uuids());
        let session = self.sessions.start(windows)?;
        let exit = EventFd::new()?;
        let device = Device::new(session, Arc::clone(&shared))?;
        let backend = Arc::new(Backend::new(
            (self.config(), self.allocates),
            device,
            shared,
            exit.clone(),
        ));

        let other = |error: DaemonError| std::io::Error::other(error.to_string());
        let mut daemon =
            VhostUserDaemon::new(name.as_str().to_owned(), Arc::clone(&backend), memory)
                .map_err(other)?;
        for handler in daemon.get_epoll_handlers() {
            for (fd, wake) in backend.wakes(&exit) {
                handler.register_listener(fd, EventSet::IN, wake as u64)?;
            }
        }
        let started = daemon.start(listener);
        if started.is_ok() {
            log::info!("peer {name}: front-end connected");
        }
        let ended = started.and_then(|()| daemon.wait());
        exit.set();
        // Waits for the worker thread, which ends on `exit`.
        drop(daemon);
        let (handles, mappings, fences) = backend.end();
        mapper.join(name.as_str());
        match ended {
            Ok(())
            | Err(DaemonError::HandleRequest(
                VhostUserError::Disconnected | VhostUserError::PartialMessage,
            )) => log::info!(
                "peer {name}: front-end gone, {handles} handles and {mappings} mappings released, {fences}"
            ),
            Err(DaemonError::CreateBackendListener(error)) => {
                return Err(std::io::Error::other(error.to_string()));
            }
            Err(error) => log::warn!(
                "peer {name}: connection ended: {error}; {handles} handles and {mappings} mappings released, {fences}"
            ),
        }
        Ok(())
    }
}
