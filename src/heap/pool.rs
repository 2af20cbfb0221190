// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pools: one memfd with a header page and a fixed number of equal slots, sealed so that whoever maps it can only
//! read. A static window is such a pool, mapped as a whole by the VMM.
//!
//! * kind `udmabuf`: each slot has a dma-buf, made before the seals; producers write through those. Sealed from the
//!   start; slots can be used again.
//! * kind `memfd`: for machines without udmabuf. Producers write through mappings made before the seals, so the pool
//!   is sealed when its last slot is published, and its slots are used once.

use super::Heap;
use crate::buffer::{Memory, Parts, Source};
use crate::error::{Error, status_of};
use crate::sys;
use dmabuf_protocol::{HeapKind, PAGE_SIZE, Status, Uuid, WindowHeader};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use zerocopy::IntoBytes;

const HUGE_PAGE: u64 = 2 << 20;

/// What a pool is to be like.
#[derive(Clone, Debug)]
pub struct PoolOptions {
    /// Its name in the configuration.
    pub name: String,
    /// `Udmabuf` or `Memfd`.
    pub kind: HeapKind,
    /// Number of slots, at least 1.
    pub slots: u32,
    /// Bytes of a slot, a multiple of 4096.
    pub slot_size: u64,
    /// Use 2 MiB pages.
    pub huge_pages: bool,
    /// Identity of the window.
    pub uuid: Uuid,
    /// Where to put a symbolic link to the memfd, for VMMs that map it by path.
    pub link: Option<PathBuf>,
}

impl PoolOptions {
    /// Where the first slot starts: behind the header's page, or at the next huge page, if slots are made of such. A
    /// guest can then map slots by huge pages; the power of two that the whole is stays the same.
    #[must_use]
    pub const fn first_slot(&self) -> u64 {
        if self.huge_pages || self.slot_size.is_multiple_of(HUGE_PAGE) {
            HUGE_PAGE
        } else {
            PAGE_SIZE
        }
    }

    /// Size of the whole pool: a power of two, as a PCI BAR demands. `None` if that is more than 63 bits.
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        let slots = self.slot_size.checked_mul(self.slots.into())?;
        let size = slots
            .checked_add(self.first_slot())?
            .checked_next_power_of_two()?;
        i64::try_from(size).is_ok().then_some(size)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SlotState {
    /// Nobody has it. `dirty`: somebody had.
    Free { dirty: bool },
    /// It is a buffer that has no name yet.
    Taken,
    /// It is a buffer with a name.
    Published,
}

/// See the module.
#[derive(Debug)]
pub struct Pool {
    options: PoolOptions,
    size: u64,
    memfd: OwnedFd,
    read_only: OwnedFd,
    /// One per slot for `udmabuf`, else none.
    dma_bufs: Vec<OwnedFd>,
    slots: Mutex<Vec<SlotState>>,
    sealed: AtomicBool,
}

impl Pool {
    /// Makes the memory, the udmabufs and, for kind `udmabuf`, the seals and the link.
    ///
    /// # Errors
    /// [`Error::Heap`] with what was tried: no /dev/udmabuf, no memory, a link that can't be made.
    pub fn create(options: PoolOptions) -> Result<Arc<Self>, Error> {
        let failed = |what: &str| {
            let (name, what) = (options.name.clone(), what.to_owned());
            move |source| Error::Heap { name, what, source }
        };
        let size = options
            .size()
            .ok_or(Errno::INVAL)
            .map_err(failed("size of the pool"))?;
        // Found out now, and not by the producer that seals the pool.
        if let Some(link) = options.link.as_ref().filter(|link| is_taken(link)) {
            let what = format!("make the link {}: something else is there", link.display());
            return Err(failed(&what)(Errno::EXIST));
        }
        let memfd = sys::memfd_create(&options.name, size, options.huge_pages)
            .map_err(failed("allocate the pool's memfd"))?;
        let header = WindowHeader::new(
            options.uuid,
            size,
            options.first_slot(),
            options.slot_size,
            options.slots,
        );
        write_header(&memfd, &header, options.huge_pages)
            .map_err(failed("write the pool's header"))?;
        let read_only =
            sys::reopen_read_only(memfd.as_fd()).map_err(failed("open the memfd again"))?;
        sys::seal_size(memfd.as_fd()).map_err(failed("seal the memfd's size"))?;
        let dma_bufs = if options.kind == HeapKind::Udmabuf {
            make_udmabufs(&options, memfd.as_fd()).map_err(failed(
                "make udmabufs from /dev/udmabuf (is CONFIG_UDMABUF there, and size_limit_mb large enough?)",
            ))?
        } else {
            Vec::new()
        };
        let count = usize::try_from(options.slots).unwrap_or(usize::MAX);
        let pool = Arc::new(Self {
            size,
            memfd,
            read_only,
            dma_bufs,
            slots: Mutex::new(vec![SlotState::Free { dirty: false }; count]),
            sealed: AtomicBool::new(false),
            options,
        });
        if !pool.seals_when_full() {
            pool.seal().map_err(|source| Error::Heap {
                name: pool.name().to_owned(),
                what: "seal the pool".to_owned(),
                source,
            })?;
        }
        Ok(pool)
    }

    /// Its name in the configuration.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Identity of the window it is.
    #[must_use]
    pub const fn uuid(&self) -> Uuid {
        self.options.uuid
    }

    /// Bytes in all, header included; a power of two.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Whether nobody can get a writable mapping of the memfd any more.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    /// Whether the pool is sealed by the publishing of its last slot.
    fn seals_when_full(&self) -> bool {
        self.options.kind == HeapKind::Memfd
    }

    /// Device and inode of the memory.
    #[must_use]
    pub fn inodes(&self) -> Vec<(u64, u64)> {
        let fds = self.dma_bufs.iter().chain([&self.memfd]);
        fds.filter_map(|fd| sys::inode(fd.as_fd()).ok()).collect()
    }

    /// The path under /proc by which a VMM can open the memfd read-only.
    #[must_use]
    pub fn proc_path(&self) -> PathBuf {
        format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.read_only.as_raw_fd()
        )
        .into()
    }

    fn seal(&self) -> rustix::io::Result<()> {
        sys::seal_for_good(self.memfd.as_fd())?;
        self.sealed.store(true, Ordering::Release);
        if let Some(link) = &self.options.link {
            replace_link(link, &self.proc_path())?;
        }
        log::info!(
            "pool {:?}: {} slots of {} bytes, window {} of {} bytes, sealed",
            self.name(),
            self.options.slots,
            self.options.slot_size,
            self.uuid(),
            self.size
        );
        Ok(())
    }

    /// Notes that a slot has its name now. Returns whether that has sealed the pool.
    ///
    /// # Errors
    /// EPERM if somebody else added the seal that ends sealing.
    pub fn publish(&self, slot: &Slot) -> rustix::io::Result<bool> {
        let mut slots = self.slots();
        if let Some(state) = slots.get_mut(slot.index) {
            *state = SlotState::Published;
        }
        let full = slots.iter().all(|state| *state == SlotState::Published);
        drop(slots);
        let seals = full && self.seals_when_full() && !self.is_sealed();
        if seals {
            self.seal()?;
        }
        Ok(seals)
    }

    fn take_slot(self: &Arc<Self>) -> Result<Slot, Status> {
        let mut slots = self.slots();
        let free = slots
            .iter()
            .enumerate()
            .find_map(|(index, state)| match state {
                SlotState::Free { dirty } if !*dirty || self.can_reuse(index) => {
                    Some((index, *dirty))
                }
                _ => None,
            });
        let (index, dirty) = free.ok_or(Status::EBUSY)?;
        let Some(state) = slots.get_mut(index) else {
            return Err(Status::EIO);
        };
        *state = SlotState::Taken;
        drop(slots);
        // From here on, dropping the slot gives it back.
        let slot = Slot {
            pool: Arc::clone(self),
            index,
        };
        if dirty {
            slot.zero().map_err(status_of)?;
        }
        Ok(slot)
    }

    /// A used slot is free again when nobody has its dma-buf any more: no fd, no mapping, no importer; and when what its
    /// last producer has started on it has ended: to be zeroed, it would wait for that.
    ///
    /// Without dma-bufs, until the pool is sealed: until then all its producers can write everywhere in it. Afterwards
    /// a new producer could write nowhere.
    fn can_reuse(&self, index: usize) -> bool {
        match self.dma_bufs.get(index) {
            Some(dma_buf) => {
                sys::open_users(dma_buf.as_fd()) == Some(0) && is_idle(dma_buf.as_fd())
            }
            None => !self.is_sealed(),
        }
    }

    fn slots(&self) -> MutexGuard<'_, Vec<SlotState>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    /// Takes the link away, if it still is this pool's.
    pub fn remove_link(&self) {
        if let Some(link) = &self.options.link
            && std::fs::read_link(link).is_ok_and(|target| target == self.proc_path())
        {
            let _ = std::fs::remove_file(link);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.remove_link();
    }
}

/// Whether a dma-buf has no fences that haven't ended. A kernel that can't tell (before Linux 6.0) has it so.
fn is_idle(dma_buf: BorrowedFd<'_>) -> bool {
    match sys::export_sync_file(dma_buf, sys::SYNC_WRITE) {
        Ok(fences) => sys::sync_file_info(fences.as_fd()).is_ok_and(|info| info.status != 0),
        Err(errno) => errno == Errno::NOTTY,
    }
}

/// The right to use one slot; given back on drop.
#[derive(Debug)]
pub struct Slot {
    pool: Arc<Pool>,
    index: usize,
}

impl Slot {
    /// Its pool.
    #[must_use]
    pub const fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Where it starts in the pool, in bytes.
    #[must_use]
    pub fn offset(&self) -> u64 {
        let index = u64::try_from(self.index).unwrap_or(u64::MAX);
        // Both factors were checked by PoolOptions::size.
        self.pool.options.first_slot() + index * self.pool.options.slot_size
    }

    /// Its dma-buf, in a udmabuf pool.
    #[must_use]
    pub fn dma_buf(&self) -> Option<BorrowedFd<'_>> {
        self.pool.dma_bufs.get(self.index).map(OwnedFd::as_fd)
    }

    /// Whether a writable mapping of it can be made.
    #[must_use]
    pub fn can_be_written(&self) -> bool {
        self.pool.dma_bufs.get(self.index).is_some() || !self.pool.is_sealed()
    }

    /// The fd by which it can be mapped.
    #[must_use]
    pub fn source(&self, read_only: bool) -> Source<'_> {
        match self.pool.dma_bufs.get(self.index) {
            _ if read_only => Source {
                fd: self.pool.read_only.as_fd(),
                offset: self.offset(),
            },
            Some(dma_buf) => Source {
                fd: dma_buf.as_fd(),
                offset: 0,
            },
            None => Source {
                fd: self.pool.memfd.as_fd(),
                offset: self.offset(),
            },
        }
    }

    fn zero(&self) -> rustix::io::Result<()> {
        let Source { fd, offset } = self.source(false);
        let len = usize::try_from(self.pool.options.slot_size).map_err(|_| Errno::NOMEM)?;
        let mapping = sys::Mapping::new(fd, offset, len)?;
        match self.pool.dma_bufs.get(self.index) {
            Some(dma_buf) => sys::sync_cpu_write(dma_buf.as_fd(), || mapping.zero()),
            None => {
                mapping.zero();
                Ok(())
            }
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(state) = self.pool.slots().get_mut(self.index) {
            *state = SlotState::Free { dirty: true };
        }
    }
}

/// The pool as a heap.
#[derive(Debug)]
pub struct PoolHeap(pub Arc<Pool>);

impl Heap for PoolHeap {
    fn allocate(&self, size: u64) -> Result<Parts, Status> {
        if size > self.0.options.slot_size {
            return Err(Status::EINVAL);
        }
        let slot = self.0.take_slot()?;
        let options = &self.0.options;
        Ok(Parts {
            kind: options.kind,
            size: options.slot_size,
            memory: Memory::Slot(slot),
        })
    }

    fn kind(&self) -> HeapKind {
        self.0.options.kind
    }

    fn largest(&self) -> u64 {
        self.0.options.slot_size
    }

    fn pool(&self) -> Option<&Arc<Pool>> {
        Some(&self.0)
    }
}

fn write_header(memfd: &OwnedFd, header: &WindowHeader, huge: bool) -> rustix::io::Result<()> {
    if huge {
        // hugetlbfs has no write(2).
        let len = usize::try_from(HUGE_PAGE).map_err(|_| Errno::NOMEM)?;
        return sys::Mapping::new(memfd.as_fd(), 0, len)
            .map(|mapping| mapping.write(header.as_bytes()));
    }
    let written = rustix::io::pwrite(memfd, header.as_bytes(), 0)?;
    if written == size_of::<WindowHeader>() {
        Ok(())
    } else {
        Err(Errno::NOSPC)
    }
}

fn make_udmabufs(options: &PoolOptions, memfd: BorrowedFd<'_>) -> rustix::io::Result<Vec<OwnedFd>> {
    let device = open(
        "/dev/udmabuf",
        OFlags::RDWR | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    (0..u64::from(options.slots))
        .map(|slot| {
            let offset = options.first_slot() + slot * options.slot_size;
            sys::udmabuf_create(device.as_fd(), memfd, offset, options.slot_size)
        })
        .collect()
}

/// Whether there is something at the link's place that isn't a link.
fn is_taken(link: &Path) -> bool {
    std::fs::symlink_metadata(link).is_ok_and(|meta| !meta.file_type().is_symlink())
}

/// Puts the link in place in one step, over an old link but over nothing else.
fn replace_link(link: &Path, target: &Path) -> rustix::io::Result<()> {
    if is_taken(link) {
        return Err(Errno::EXIST);
    }
    let mut fresh = link.as_os_str().to_owned();
    fresh.push(format!(".{}", std::process::id()));
    let _ = std::fs::remove_file(&fresh);
    rustix::fs::symlink(target, Path::new(&fresh))?;
    rustix::fs::rename(Path::new(&fresh), link)
}
