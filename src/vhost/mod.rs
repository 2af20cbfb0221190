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

use crate::session::{Host, Policy, Session, Transport};
use crate::sys::EventFd;
use backend::Backend;
use device::Device;
use dmabuf_protocol::config::{CONFIG_MAGIC, DeviceConfig};
use dmabuf_protocol::{NUM_QUEUES, VERSION, wire};
use std::sync::Arc;
use vhost::vhost_user::{Error as VhostUserError, Listener};
use vhost_user_backend::{Error as DaemonError, VhostUserDaemon};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use window::{Mapper, MapperShared};
use zerocopy::FromZeros;

/// A VM's device: everything that outlives a connection.
#[derive(Debug)]
pub struct Vm {
    /// Rights and limits.
    pub policy: Arc<Policy>,
    /// Size of the dynamic window in bytes, 0 for none.
    pub window_size: u64,
    /// The static windows.
    pub pools: Vec<Arc<crate::heap::Pool>>,
}

/// What the worker thread is woken for, besides queues 0 to 2 and the library's own event 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
enum Wake {
    Exit = 4,
    Window,
    Events,
    Deadline,
    Fences,
}

const _: () = assert!(Wake::Exit as usize > NUM_QUEUES);

impl Vm {
    fn config(&self) -> DeviceConfig {
        let dynamic = if self.window_size == 0 {
            0
        } else {
            wire::WINDOW_BIT_DYNAMIC
        };
        let fixed = if self.pools.is_empty() {
            0
        } else {
            wire::WINDOW_BIT_STATIC
        };
        DeviceConfig {
            magic: CONFIG_MAGIC,
            version: VERSION.into(),
            windows: (dynamic | fixed).into(),
            window_size: self.window_size.into(),
            uuid: self
                .pools
                .first()
                .map(|pool| pool.uuid().0)
                .unwrap_or_default(),
            max_handles: self.policy.limits.handles.into(),
            max_mappings: self.policy.limits.mappings.into(),
            max_inflight: crate::session::MAX_INFLIGHT.into(),
            num_static: u32::try_from(self.pools.len()).unwrap_or(u32::MAX).into(),
            ..FromZeros::new_zeroed()
        }
    }

    /// Serves front-ends on `listener`, one after the other, for ever.
    pub fn serve(&self, host: &Arc<Host>, mut listener: Listener) -> ! {
        loop {
            if let Err(error) = self.serve_one(host, &mut listener) {
                log::error!(
                    "peer {}: no front-end can be served now: {error}",
                    self.policy.name
                );
                // Out of fds, threads or memory: only time helps, and spinning would make it worse.
                std::thread::sleep(std::time::Duration::from_millis(500));
            }
        }
    }

    /// Waits for a front-end and serves it until it goes.
    fn serve_one(&self, host: &Arc<Host>, listener: &mut Listener) -> Result<(), std::io::Error> {
        let name = self.policy.name;
        let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
        let shared = MapperShared::new(&self.pools)?;
        let mapper = Mapper::start(name.as_str(), Arc::clone(&shared), self.window_size)?;
        let dynamic: Option<Box<dyn crate::session::Window>> =
            (self.window_size > 0).then(|| Box::new(mapper.window()) as _);
        let transport = Transport::Window {
            dynamic,
            pools: self.pools.clone(),
        };
        let session = Session::new(Arc::clone(host), Arc::clone(&self.policy), transport)?;
        let exit = EventFd::new()?;
        let device = Device::new(session, Arc::clone(&shared))?;
        let backend = Arc::new(Backend::new(self.config(), device, shared, exit.clone()));

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
