// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The window of the guest, and the thread that fills it as the daemon asks.

use crate::guest::WINDOW;
use crate::sys::{Slot, borrow};
use anyhow::{Context, Result};
use kvm_ioctls::VmFd;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::mm::ProtFlags;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vhost::vhost_user::message::{VhostUserMMap, VhostUserMMapFlags};
use vhost::vhost_user::{
    Error as VhostUserError, Frontend, FrontendReqHandler, HandlerResult, VhostUserFrontend,
    VhostUserFrontendReqHandler,
};
use vm_memory::FileOffset;
use vm_memory::mmap::{MmapRegion, MmapRegionBuilder};

const MAP_SHARED: i32 = 1;

/// What is mapped at one place of the window.
pub struct Mapped {
    /// What the daemon sent.
    pub file: File,
    /// Where the mapping starts in it.
    pub fd_offset: u64,
    /// Bytes.
    pub length: u64,
    region: Arc<MmapRegion>,
    slot: Option<Slot>,
}

#[derive(Default)]
struct State {
    mapped: BTreeMap<u64, Mapped>,
    next_slot: u32,
}

/// See the module.
pub struct Window {
    vm: Arc<VmFd>,
    /// Maps everything writable, as QEMU 11.1 does.
    ignores_read_only: bool,
    state: Mutex<State>,
}

impl Window {
    /// An empty window.
    pub fn new(vm: Arc<VmFd>, ignores_read_only: bool) -> Arc<Self> {
        let state = State {
            next_slot: 1,
            ..State::default()
        };
        Arc::new(Self {
            vm,
            ignores_read_only,
            state: Mutex::new(state),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives what is mapped at an offset to a function.
    pub fn with<T>(&self, offset: u64, use_it: impl FnOnce(&Mapped) -> Result<T>) -> Result<T> {
        let state = self.state();
        use_it(
            state
                .mapped
                .get(&offset)
                .context("nothing is mapped there")?,
        )
    }

    /// Replaces the slot by one that KVM takes for writable, over the same mapping: what a hostile VMM would try.
    pub fn make_slot_writable(&self, offset: u64) -> Result<()> {
        let mut state = self.state();
        let mapped = state
            .mapped
            .get_mut(&offset)
            .context("nothing is mapped there")?;
        // KVM refuses to change this flag of a slot: it goes first.
        let number = 31;
        mapped.slot = None;
        let region = Arc::clone(&mapped.region);
        let slot = Slot::new(Arc::clone(&self.vm), number, WINDOW + offset, region, false)
            .context("KVM_SET_USER_MEMORY_REGION without KVM_MEM_READONLY")?;
        mapped.slot = Some(slot);
        Ok(())
    }

    fn map(&self, request: &VhostUserMMap, file: File) -> Result<()> {
        let asked = request.flags & VhostUserMMapFlags::WRITABLE.bits() != 0;
        let writable = asked || self.ignores_read_only;
        let mut protection = ProtFlags::READ;
        protection.set(ProtFlags::WRITE, writable);
        let region = MmapRegionBuilder::new(usize::try_from(request.len)?)
            .with_file_offset(FileOffset::new(file.try_clone()?, request.fd_offset))
            .with_mmap_prot(protection.bits().cast_signed())
            .with_mmap_flags(MAP_SHARED)
            .build()?;
        let region = Arc::new(region);
        let mut state = self.state();
        let slot = Slot::new(
            Arc::clone(&self.vm),
            state.next_slot,
            WINDOW + request.shm_offset,
            Arc::clone(&region),
            !writable,
        )?;
        state.next_slot += 1;
        let mapped = Mapped {
            file,
            fd_offset: request.fd_offset,
            length: request.len,
            region,
            slot: Some(slot),
        };
        state.mapped.insert(request.shm_offset, mapped);
        Ok(())
    }
}

fn refused(error: &anyhow::Error) -> std::io::Error {
    std::io::Error::other(format!("{error:#}"))
}

impl VhostUserFrontendReqHandler for Window {
    fn shmem_map(&self, request: &VhostUserMMap, fd: &dyn AsRawFd) -> HandlerResult<u64> {
        let file = File::from(borrow(fd).try_clone_to_owned()?);
        self.map(request, file)
            .map(|()| 0)
            .map_err(|error| refused(&error))
    }

    fn shmem_unmap(&self, request: &VhostUserMMap) -> HandlerResult<u64> {
        let removed = self.state().mapped.remove(&{ request.shm_offset });
        removed.map(|_| 0).ok_or(rustix::io::Errno::INVAL.into())
    }
}

/// Opens the back-end channel, and starts the thread that answers on it until the daemon closes it.
pub fn answer(frontend: &mut Frontend, window: &Arc<Window>) -> Result<OwnedFd> {
    let mut handler = FrontendReqHandler::new(Arc::clone(window))?;
    handler.set_reply_ack_flag(true);
    let theirs = handler.get_tx_raw_fd();
    frontend.set_backend_request_fd(&theirs)?;
    let ours = borrow(&handler).try_clone_to_owned()?;
    std::thread::spawn(move || {
        loop {
            let ready = {
                let channel = borrow(&handler);
                poll(&mut [PollFd::new(&channel, PollFlags::IN)], None)
            };
            if ready.is_err() {
                return;
            }
            match handler.handle_request() {
                Ok(_) | Err(VhostUserError::ReqHandlerError(_)) => {}
                Err(_) => return,
            }
        }
    });
    Ok(ours)
}
