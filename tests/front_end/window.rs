// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How a front-end answers mapping requests: really, with mmap, or badly. It keeps a record of all that it was asked.

use crate::daemon::LIMIT;
use crate::guest::{RAM, RAM_SIZE, RAM_USER};
use crate::sys::borrow;
use rustix::mm::ProtFlags;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use vhost::vhost_user::message::VhostUserMMap;
use vhost::vhost_user::{Frontend, HandlerResult, VhostUserFrontendReqHandler};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo};
use vm_memory::mmap::{MmapRegion, MmapRegionBuilder};
use vm_memory::{FileOffset, VolatileMemory};

/// Where the window is in the guest, for front-ends that list it as memory.
pub const WINDOW: u64 = 0x80_0000_0000;
const WINDOW_USER: u64 = 0x7100_0000_0000;
const MAP_SHARED: i32 = 1;

/// What a front-end does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Maps as asked for.
    Honours,
    /// Maps everything writable, as QEMU 11.1 does; so what can't be written to is refused.
    IgnoresReadOnly,
    /// As before, and lists the window's mappings as memory of the VM before it answers.
    ListsWindow,
    /// Says no.
    RefusesAll,
    /// Maps as asked for, and refuses to unmap.
    KeepsAll,
    /// Says nothing, until it is told to do something else.
    Silent,
}

/// A request, as the front-end saw it.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub map: bool,
    pub window_offset: u64,
    pub length: u64,
    pub fd_offset: u64,
    /// The flag.
    pub writable: bool,
    /// Whether the fd could have been mapped writable.
    pub could_write: bool,
    /// Whether it was done.
    pub done: bool,
}

#[derive(Default)]
struct State {
    answer: Option<Answer>,
    seen: Vec<Seen>,
    mapped: BTreeMap<u64, MmapRegion>,
    front_end: Option<(Frontend, File)>,
    closed: bool,
}

/// The front-end's side of the dynamic window.
#[derive(Default)]
pub struct Window {
    state: Mutex<State>,
    changed: Condvar,
}

impl Window {
    pub fn new(answer: Answer) -> Arc<Self> {
        let window = Arc::new(Self::default());
        window.answer(answer);
        window
    }

    /// From now on, and for a request that waits.
    pub fn answer(&self, answer: Answer) {
        self.state().answer = Some(answer);
        self.changed.notify_all();
    }

    /// The connection on which to list the window.
    pub fn belongs_to(&self, front_end: Frontend, ram: File) {
        self.state().front_end = Some((front_end, ram));
    }

    /// Ends a request that waits.
    pub fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.front_end = None;
        drop(state);
        self.changed.notify_all();
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }

    /// Waits until `count` requests were seen.
    pub fn wait_seen(&self, count: usize) -> Vec<Seen> {
        let waiting = |state: &mut State| state.seen.len() < count;
        let (state, timeout) = self
            .changed
            .wait_timeout_while(self.state(), LIMIT, waiting)
            .unwrap();
        assert!(!timeout.timed_out(), "only {:?}", state.seen);
        state.seen.clone()
    }

    /// Where something is mapped now.
    pub fn mapped(&self) -> Vec<u64> {
        self.state().mapped.keys().copied().collect()
    }

    /// As a virtio reset does it.
    pub fn drop_mappings(&self) {
        self.state().mapped.clear();
    }

    /// The mapped memory, as the guest would write to it.
    pub fn write(&self, window_offset: u64, offset: u64, bytes: &[u8]) {
        let state = self.state();
        let region = &state.mapped[&window_offset];
        assert!(
            region.prot() as u32 & ProtFlags::WRITE.bits() != 0,
            "it is mapped read-only"
        );
        let slice = region.get_slice(offset as usize, bytes.len()).unwrap();
        slice.copy_from(bytes);
    }

    /// The mapped memory, as the guest would read it.
    pub fn read(&self, window_offset: u64, offset: u64, len: usize) -> Vec<u8> {
        let state = self.state();
        let mut bytes = vec![0; len];
        let slice = state.mapped[&window_offset]
            .get_slice(offset as usize, len)
            .unwrap();
        slice.copy_to(&mut bytes);
        bytes
    }

    /// Whether the guest could write there.
    pub fn is_writable(&self, window_offset: u64) -> bool {
        let prot = self.state().mapped[&window_offset].prot();
        prot as u32 & ProtFlags::WRITE.bits() != 0
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn handle(&self, request: &VhostUserMMap, file: Option<File>) -> HandlerResult<u64> {
        let could_write = file
            .as_ref()
            .is_some_and(|file| map(file, request, true).is_ok());
        let mut state = self.state();
        let number = state.seen.len();
        state.seen.push(Seen {
            map: file.is_some(),
            window_offset: request.shm_offset,
            length: request.len,
            fd_offset: request.fd_offset,
            writable: request.flags == 1,
            could_write,
            done: false,
        });
        self.changed.notify_all();
        let silent = |state: &mut State| state.answer == Some(Answer::Silent) && !state.closed;
        let (mut state, _) = self
            .changed
            .wait_timeout_while(state, 3 * LIMIT, silent)
            .unwrap();
        let answer = state.answer.unwrap();
        let done = match (answer, file) {
            _ if state.closed => false,
            (Answer::RefusesAll | Answer::Silent, _) | (Answer::KeepsAll, None) => false,
            (_, None) => {
                let region = state.mapped.remove(&{ request.shm_offset });
                region.is_some_and(|region| region.size() as u64 == { request.len })
            }
            (Answer::Honours | Answer::KeepsAll, Some(file)) => {
                insert(&mut state, request, map(&file, request, request.flags == 1))
            }
            (Answer::IgnoresReadOnly | Answer::ListsWindow, Some(file)) => {
                insert(&mut state, request, map(&file, request, true))
            }
        };
        state.seen[number].done = done;
        if done && answer == Answer::ListsWindow {
            list(&state);
        }
        drop(state);
        self.changed.notify_all();
        if done {
            Ok(0)
        } else {
            Err(rustix::io::Errno::INVAL.into())
        }
    }
}

fn map(file: &File, request: &VhostUserMMap, writable: bool) -> Result<MmapRegion, String> {
    let mut protection = ProtFlags::READ;
    protection.set(ProtFlags::WRITE, writable);
    MmapRegionBuilder::new(request.len as usize)
        .with_file_offset(FileOffset::new(
            file.try_clone().unwrap(),
            request.fd_offset,
        ))
        .with_mmap_prot(protection.bits() as i32)
        .with_mmap_flags(MAP_SHARED)
        .build()
        .map_err(|error| error.to_string())
}

fn insert(state: &mut State, request: &VhostUserMMap, region: Result<MmapRegion, String>) -> bool {
    let (start, end) = (request.shm_offset, request.shm_offset + request.len);
    let overlaps = |(&at, other): (&u64, &MmapRegion)| at < end && start < at + other.size() as u64;
    if state.mapped.iter().any(overlaps) {
        return false;
    }
    region.is_ok_and(|region| state.mapped.insert(start, region).is_none())
}

/// Sends SET_MEM_TABLE with the RAM and all mappings of the window, as QEMU does before it answers.
fn list(state: &State) {
    let Some((front_end, ram)) = &state.front_end else {
        return;
    };
    let mut regions = vec![ram_region(ram)];
    for (&offset, region) in &state.mapped {
        let backing = region.file_offset().unwrap();
        regions.push(VhostUserMemoryRegionInfo {
            guest_phys_addr: WINDOW + offset,
            memory_size: region.size() as u64,
            userspace_addr: WINDOW_USER + offset,
            mmap_offset: backing.start(),
            mmap_handle: backing.file().as_raw_fd(),
        });
    }
    front_end.set_mem_table(&regions).unwrap();
}

/// The guest's memory as a front-end lists it.
pub fn ram_region(ram: &File) -> VhostUserMemoryRegionInfo {
    VhostUserMemoryRegionInfo {
        guest_phys_addr: RAM,
        memory_size: RAM_SIZE,
        userspace_addr: RAM_USER,
        mmap_offset: 0,
        mmap_handle: ram.as_raw_fd(),
    }
}

impl VhostUserFrontendReqHandler for Window {
    fn shmem_map(&self, request: &VhostUserMMap, fd: &dyn AsRawFd) -> HandlerResult<u64> {
        let file = borrow(fd).try_clone_to_owned().unwrap();
        self.handle(request, Some(File::from(file)))
    }

    fn shmem_unmap(&self, request: &VhostUserMMap) -> HandlerResult<u64> {
        self.handle(request, None)
    }
}
