// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What comes with a handle: the fd, checked, as an alias that can be mapped.
//!
//! A VMM that is asked for a mapping which fails can end the VM (crosvm does), and one of memory that shrinks ends it
//! later. So nothing is taken from the broker that isn't what the reply says.

use super::link::Lost;
use crate::buffer::{Alias, Buffer, Granted, client_may_have};
use crate::error::Error;
use crate::sys;
use crate::vhost::StaticWindow;
use dmabuf_protocol::config::WINDOW_MAGIC;
use dmabuf_protocol::wire::OpenReply;
use dmabuf_protocol::{
    Access, BufferId, Enforcement, HeapKind, PAGE_SIZE, Status, Uuid, VERSION, WindowHeader,
};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, SealFlags, fstat, open};
use rustix::io::Errno;
use std::path::Path;
use zerocopy::{FromZeros, IntoBytes};

/// A handle's content.
#[derive(Clone, Debug)]
pub struct Held {
    pub alias: Alias,
    /// Of a read-write alias: the one derived for read-only mappings, once there was one.
    pub read_only: Option<Alias>,
}

/// A pool that the VMM maps as a whole.
#[derive(Clone, Debug)]
pub struct Fixed {
    /// As the device knows it.
    pub window: StaticWindow,
    first_slot: u64,
    size: u64,
}

impl Fixed {
    /// Reads the header of the pool at `path`: its link, or an fd of it under /proc/self/fd.
    ///
    /// # Errors
    /// [`Error::StaticWindow`] if it can't be opened, or is no sealed pool.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let failed = |what| Error::StaticWindow {
            path: path.to_owned(),
            what,
        };
        let open_failed = |errno: Errno| {
            failed(match errno {
                Errno::NOENT => "there is nothing: a pool's link appears when the pool is sealed",
                Errno::ACCESS => {
                    "permission denied: the link of a daemon of another user. Have it opened by who may, and give \
                     /proc/self/fd/N"
                }
                _ => "can't be opened",
            })
        };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = open(path, flags, Mode::empty()).map_err(open_failed)?;
        Self::of(file.as_fd()).ok_or_else(|| failed("not the memory of a sealed pool"))
    }

    fn of(file: BorrowedFd<'_>) -> Option<Self> {
        if !sys::memfd_seals(file).ok()?.contains(sys::SEALED) {
            return None;
        }
        let mut header = WindowHeader::new_zeroed();
        let read = rustix::io::pread(file, header.as_mut_bytes(), 0).ok()?;
        let (size, first_slot) = (header.size.get(), header.first_slot.get());
        let right = read == size_of::<WindowHeader>()
            && header.magic == WINDOW_MAGIC
            && header.version.get() == VERSION
            && header.uuid != Uuid::NIL.0
            && u64::try_from(fstat(file).ok()?.st_size) == Ok(size)
            && first_slot < size;
        right.then_some(Self {
            window: StaticWindow {
                uuid: Uuid(header.uuid),
                inodes: vec![sys::inode(file).ok()?],
            },
            first_slot,
            size,
        })
    }

    fn has(&self, inode: (u64, u64), offset: u64, size: u64) -> bool {
        self.window.inodes.contains(&inode)
            && offset >= self.first_slot
            && offset.checked_add(size).is_some_and(|end| end <= self.size)
    }
}

/// Takes an alias that a broker has granted; `own`: of a buffer that this peer has made.
///
/// # Errors
/// [`Lost::Lie`] if the fd isn't what the reply says.
pub fn take(reply: &OpenReply, fd: OwnedFd, own: bool, fixed: &[Fixed]) -> Result<Held, Lost> {
    const WRONG: Lost = Lost::Lie("a handle with values that have no meaning");
    let wrong = |_: Status| WRONG;
    let info = &reply.buffer;
    let access = Access::from_wire(info.access.get()).map_err(wrong)?;
    let enforcement = Enforcement::from_wire(info.enforcement.get()).map_err(wrong)?;
    let kind = HeapKind::from_wire(info.heap.get()).map_err(wrong)?;
    let (offset, size) = (reply.fd_offset.get(), info.size.get());
    let pages = size > 0 && size.is_multiple_of(PAGE_SIZE) && offset.is_multiple_of(PAGE_SIZE);
    if !pages || reply.handle.get() == 0 || !client_may_have(access, enforcement) {
        return Err(WRONG);
    }
    if !is_as_said(fd.as_fd(), access, enforcement, (offset, size)) {
        return Err(Lost::Lie(
            "an fd that isn't the alias which the reply describes",
        ));
    }
    let inode = sys::inode(fd.as_fd())?;
    let window = fixed.iter().find(|fixed| fixed.has(inode, offset, size));
    let granted = Granted {
        fd,
        offset,
        window: window.map(|fixed| fixed.window.uuid),
    };
    let buffer = Buffer::of_broker(BufferId(info.id.get()), kind, size, granted);
    Ok(Held {
        alias: buffer.granted_alias(own, access, enforcement),
        read_only: None,
    })
}

/// Whether an fd can be mapped as promised, and goes on being so.
fn is_as_said(
    fd: BorrowedFd<'_>,
    access: Access,
    enforcement: Enforcement,
    (offset, size): (u64, u64),
) -> bool {
    let within = |len: u64| offset.checked_add(size).is_some_and(|end| end <= len);
    let writable = sys::is_read_write(fd);
    if let Ok(seals) = sys::memfd_seals(fd) {
        let len = fstat(fd).map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0));
        let kept = match access {
            Access::ReadOnly => enforcement == Enforcement::Sealed && seals.contains(sys::SEALED),
            Access::ReadWrite => writable && seals.contains(SealFlags::SHRINK),
        };
        return kept && within(len);
    }
    let kept = match access {
        Access::ReadOnly => {
            enforcement == Enforcement::Derived
                && !writable
                && sys::is_kernel_object(fd)
                && !sys::is_dma_buf(fd)
        }
        Access::ReadWrite => writable && sys::is_dma_buf(fd),
    };
    kept && sys::dma_buf_size(fd).is_ok_and(within)
}
