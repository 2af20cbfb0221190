// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Buffers and aliases: what is shared, and with which right.
//!
//! A [`Buffer`] is one piece of host memory, kept alive by whoever has an [`Alias`] of it. An alias is derived from a
//! buffer or from an alias, never with more access. Knows no virtio and no sockets; used by `session`.

mod deriver;
mod reach;
mod registry;
mod revocation;
#[cfg(test)]
mod tests;

pub use deriver::Deriver;
pub use reach::Notice;
pub use registry::{Change, Published, Registry, Subscription};
pub use revocation::{Revocable, Revocations};

use crate::error::status_of;
use crate::heap::{Pool, Slot};
use crate::session::{Charge, Usage};
use crate::sys;
use dmabuf_protocol::{Access, BufferId, Enforcement, Flags, HeapKind, Status, Uuid};
use reach::{Reach, Share};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The memory of a buffer.
#[derive(Debug)]
pub enum Memory {
    /// A dma-buf of its own: from a dma-heap, or imported.
    DmaBuf {
        /// The dma-buf.
        fd: OwnedFd,
        /// How read-only aliases of it are made.
        deriver: Arc<Deriver>,
    },
    /// A slot of a pool.
    Slot(Slot),
    /// A memfd that a host process imported, and the same opened read-only.
    Memfd {
        /// As imported.
        fd: OwnedFd,
        /// `O_RDONLY`.
        read_only: OwnedFd,
    },
    /// What a broker has granted: the memory of one alias.
    Granted(Granted),
}

/// The fd that a broker has sent for an alias.
#[derive(Debug)]
pub struct Granted {
    /// A dma-buf, a memfd, or an alias of the host module.
    pub fd: OwnedFd,
    /// Where the alias starts in it, in bytes.
    pub offset: u64,
    /// The window that this memory is as a whole.
    pub window: Option<Uuid>,
}

impl Granted {
    /// Whether the fd can be mapped writable.
    #[must_use]
    pub fn can_be_written(&self) -> bool {
        let open = sys::is_read_write(self.fd.as_fd());
        // What isn't a memfd has no seals.
        open && sys::memfd_seals(self.fd.as_fd())
            .map_or(true, |seals| !seals.intersects(sys::NO_WRITING))
    }
}

/// One piece of host memory the daemon holds.
#[derive(Debug)]
pub struct Buffer {
    id: BufferId,
    parts: Parts,
    /// The session that has allocated or imported it.
    producer: Option<u64>,
    /// It outlives its producer.
    kept: AtomicBool,
    /// Whose quota it counts against.
    charge: Option<Charge>,
    reach: Reach,
}

/// What a heap gives for an allocation.
#[derive(Debug)]
pub struct Parts {
    /// Where it comes from.
    pub kind: HeapKind,
    /// Bytes, a multiple of 4096.
    pub size: u64,
    /// The memory itself.
    pub memory: Memory,
}

impl Buffer {
    /// Gives memory a new number.
    #[must_use]
    pub fn new(parts: Parts, charge: Option<Charge>) -> Arc<Self> {
        Self::made_by(None, parts, charge)
    }

    /// Gives memory that a session has allocated or imported a new number.
    #[must_use]
    pub fn made_by(producer: Option<u64>, parts: Parts, charge: Option<Charge>) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = BufferId(NEXT.fetch_add(1, Ordering::Relaxed));
        Arc::new(Self {
            id,
            parts,
            producer,
            kept: AtomicBool::new(false),
            charge,
            reach: Reach::default(),
        })
    }

    /// A buffer that a broker holds, by the number that it has there.
    #[must_use]
    pub fn of_broker(id: BufferId, kind: HeapKind, size: u64, granted: Granted) -> Arc<Self> {
        let memory = Memory::Granted(granted);
        Arc::new(Self {
            id,
            parts: Parts { kind, size, memory },
            producer: None,
            kept: AtomicBool::new(false),
            charge: None,
            reach: Reach::default(),
        })
    }

    /// Its number, never used again.
    #[must_use]
    pub const fn id(&self) -> BufferId {
        self.id
    }

    /// Bytes, a multiple of 4096.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.parts.size
    }

    /// Where it came from.
    #[must_use]
    pub const fn kind(&self) -> HeapKind {
        self.parts.kind
    }

    /// The session that has made it, which hears of its releases.
    #[must_use]
    pub const fn producer(&self) -> Option<u64> {
        self.producer
    }

    /// The session whose end leaves nobody who would finish what is being done with it.
    #[must_use]
    pub fn owner(&self) -> Option<u64> {
        self.producer.filter(|_| !self.kept.load(Ordering::Relaxed))
    }

    /// Whether a peer of this usage has made it. The configuration's own count as everybody's.
    #[must_use]
    pub fn is_made_by(&self, peer: &Arc<Usage>) -> bool {
        self.charge.as_ref().is_none_or(|charge| charge.is_of(peer))
    }

    /// What there is to know of its revocation, from that moment on.
    #[must_use]
    pub fn notice(&self) -> Option<&Notice> {
        self.reach.notice()
    }

    /// Notes that it is to outlive its producer.
    pub fn keep(&self) {
        self.kept.store(true, Ordering::Relaxed);
    }

    /// The dma-buf that it is, if it is one.
    #[must_use]
    pub fn dma_buf(&self) -> Option<BorrowedFd<'_>> {
        match &self.parts.memory {
            Memory::DmaBuf { fd, .. } => Some(fd.as_fd()),
            Memory::Slot(slot) => slot.dma_buf(),
            Memory::Memfd { .. } | Memory::Granted(_) => None,
        }
    }

    /// The memfd of its own that it is, if it is one.
    #[must_use]
    pub fn memfd(&self) -> Option<BorrowedFd<'_>> {
        match &self.parts.memory {
            Memory::Memfd { read_only, .. } => Some(read_only.as_fd()),
            Memory::DmaBuf { .. } | Memory::Slot(_) | Memory::Granted(_) => None,
        }
    }

    /// The pool it is a slot of.
    #[must_use]
    pub fn pool(&self) -> Option<&Arc<Pool>> {
        self.slot().map(Slot::pool)
    }

    /// The slot it is.
    #[must_use]
    pub const fn slot(&self) -> Option<&Slot> {
        match &self.parts.memory {
            Memory::Slot(slot) => Some(slot),
            Memory::DmaBuf { .. } | Memory::Memfd { .. } | Memory::Granted(_) => None,
        }
    }

    /// The window that has it in it, and where: that of its pool.
    #[must_use]
    pub fn in_window(&self) -> Option<(Uuid, u64)> {
        match &self.parts.memory {
            Memory::Slot(slot) => Some((slot.pool().uuid(), slot.offset())),
            Memory::Granted(granted) => granted.window.map(|uuid| (uuid, granted.offset)),
            Memory::DmaBuf { .. } | Memory::Memfd { .. } => None,
        }
    }

    /// Device and inode of what a VMM gets to map for this buffer.
    #[must_use]
    pub fn inodes(&self) -> Vec<(u64, u64)> {
        match &self.parts.memory {
            Memory::DmaBuf { fd, .. }
            | Memory::Memfd { fd, .. }
            | Memory::Granted(Granted { fd, .. }) => sys::inode(fd.as_fd()).into_iter().collect(),
            Memory::Slot(slot) => slot.pool().inodes(),
        }
    }

    /// The strongest enforcement that a read-only alias of this buffer can have.
    ///
    /// `Vmm` is what is left where the kernel enforces nothing: good for a front-end that passed the sealed probe,
    /// and for nobody else.
    #[must_use]
    pub fn best_enforcement(&self) -> Enforcement {
        match &self.parts.memory {
            Memory::DmaBuf { fd, deriver } => deriver.best(fd.as_fd()),
            Memory::Slot(slot) if slot.pool().is_sealed() => Enforcement::Sealed,
            Memory::Memfd { fd, .. } if is_sealed(fd) => Enforcement::Sealed,
            Memory::Slot(_) | Memory::Memfd { .. } | Memory::Granted(_) => Enforcement::Vmm,
        }
    }

    /// Whether a writable mapping of it can be made: of sealed memory, by a dma-buf only.
    ///
    /// A VMM must not be asked for one that fails: crosvm ends then.
    #[must_use]
    pub fn can_be_written(&self) -> bool {
        match &self.parts.memory {
            Memory::DmaBuf { .. } => true,
            Memory::Slot(slot) => slot.can_be_written(),
            Memory::Granted(granted) => granted.can_be_written(),
            Memory::Memfd { fd, .. } => {
                sys::memfd_seals(fd.as_fd()).is_ok_and(|seals| !seals.intersects(sys::NO_WRITING))
            }
        }
    }

    /// The alias of a whole buffer with `access`, for a peer whose grant demands at least `least`.
    ///
    /// # Errors
    /// ESTALE if it is being revoked; EACCES if no route to read-only reaches `least`, or if it is sealed memory that
    /// can't be mapped writable; ENOMEM or EIO if deriving fails.
    pub fn alias(self: &Arc<Self>, access: Access, least: Enforcement) -> Result<Alias, Status> {
        self.alias_by(false, access, least)
    }

    /// The same, of its maker or of somebody else.
    fn alias_by(
        self: &Arc<Self>,
        own: bool,
        access: Access,
        least: Enforcement,
    ) -> Result<Alias, Status> {
        let share = Share::new(self, own)?;
        if access == Access::ReadWrite && !self.can_be_written() {
            return Err(Status::EACCES);
        }
        let (enforcement, derived) = match access {
            Access::ReadWrite => (Enforcement::None, None),
            Access::ReadOnly => (self.best_enforcement(), self.derive_fd()?),
        };
        if access == Access::ReadOnly && enforcement < least {
            return Err(Status::EACCES);
        }
        Ok(Alias {
            share,
            access,
            enforcement,
            derived,
        })
    }

    /// The alias of whoever has allocated or imported the buffer: read-write, also of memory that it has sealed.
    #[must_use]
    pub fn own_alias(self: &Arc<Self>) -> Alias {
        Alias {
            share: Share::count(self, true),
            access: Access::ReadWrite,
            enforcement: Enforcement::None,
            derived: None,
        }
    }

    /// The alias that a broker has granted; `own`: because this peer has made the buffer.
    #[must_use]
    pub fn granted_alias(
        self: &Arc<Self>,
        own: bool,
        access: Access,
        enforcement: Enforcement,
    ) -> Alias {
        Alias {
            share: Share::count(self, own),
            access,
            enforcement,
            derived: None,
        }
    }

    fn derive_fd(&self) -> Result<Option<Arc<OwnedFd>>, Status> {
        let Memory::DmaBuf { fd, deriver } = &self.parts.memory else {
            return Ok(None);
        };
        Ok(deriver.derive(fd.as_fd()).map_err(status_of)?.map(Arc::new))
    }
}

/// Whether an fd of such an alias can be given to a host process: not one that it could write with all the same.
#[must_use]
pub fn client_may_have(access: Access, enforcement: Enforcement) -> bool {
    access == Access::ReadWrite || enforcement >= Enforcement::Derived
}

fn is_sealed(memfd: &OwnedFd) -> bool {
    sys::memfd_seals(memfd.as_fd()).is_ok_and(|seals| seals.contains(sys::SEALED))
}

/// A buffer as granted to one peer.
#[derive(Clone, Debug)]
pub struct Alias {
    share: Share,
    access: Access,
    enforcement: Enforcement,
    /// The fd of a read-only alias of a dma-buf of its own.
    derived: Option<Arc<OwnedFd>>,
}

/// The fd by which an alias can be mapped, and where in it.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// A dma-buf or a memfd.
    pub fd: BorrowedFd<'a>,
    /// Where the alias starts in it, in bytes.
    pub offset: u64,
}

impl Alias {
    /// What it is an alias of.
    #[must_use]
    pub const fn buffer(&self) -> &Arc<Buffer> {
        self.share.buffer()
    }

    /// Whether it is that of the buffer's maker, or derived from it.
    #[must_use]
    pub const fn is_own(&self) -> bool {
        self.share.is_own()
    }

    /// Whether it has been taken away: from everybody but the buffer's maker.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        !self.share.is_own() && self.buffer().reach.is_due()
    }

    /// Notes that a host process gets its fd, which can't be taken away.
    pub fn give_out(&self) {
        self.share.give_out();
    }

    /// What may be done with it.
    #[must_use]
    pub const fn access(&self) -> Access {
        self.access
    }

    /// Who makes it read-only; `None` for a read-write one.
    #[must_use]
    pub const fn enforcement(&self) -> Enforcement {
        self.enforcement
    }

    /// A second alias with the same or less access (DESIGN: the derive contract).
    ///
    /// # Errors
    /// EINVAL for flags that aren't `O_RDONLY` or `O_RDWR` with or without `O_CLOEXEC`; EACCES for more access than
    /// this alias has, and for an enforcement that can't be met.
    pub fn derive(&self, flags: Flags, least: Enforcement) -> Result<Self, Status> {
        let access = flags.access_from(self.access)?;
        let least = least.max(self.enforcement);
        self.buffer().alias_by(self.share.is_own(), access, least)
    }

    /// The fd to give to a VMM, for a mapping with the access of this alias.
    ///
    /// With `Vmm` enforcement this is a writable fd: only for a front-end that passed the sealed probe.
    #[must_use]
    pub fn source(&self) -> Source<'_> {
        let read_only = self.access == Access::ReadOnly;
        let fd = match (&self.buffer().parts.memory, &self.derived) {
            (Memory::Slot(slot), _) => return slot.source(read_only),
            (Memory::Granted(Granted { fd, offset, .. }), _) => {
                return Source {
                    fd: fd.as_fd(),
                    offset: *offset,
                };
            }
            (Memory::DmaBuf { .. }, Some(derived)) => derived.as_fd(),
            (Memory::DmaBuf { fd, .. }, None) => fd.as_fd(),
            (Memory::Memfd { read_only: fd, .. }, _) if read_only => fd.as_fd(),
            (Memory::Memfd { fd, .. }, _) => fd.as_fd(),
        };
        Source { fd, offset: 0 }
    }

    /// The fd to give to a VMM that maps everything writable: it may ask for a writable mapping, gets a read-only one,
    /// and a guest's write stops the VM.
    ///
    /// # Errors
    /// EACCES for anything but an alias that the host module has derived.
    pub fn fail_stop_fd(&self) -> Result<OwnedFd, Status> {
        match &self.buffer().parts.memory {
            Memory::DmaBuf { fd, deriver } if self.enforcement == Enforcement::Derived => {
                deriver.derive_fail_stop(fd.as_fd()).map_err(status_of)
            }
            _ => Err(Status::EACCES),
        }
    }

    /// The fd to give to a host process: never one that allows more than the alias.
    ///
    /// # Errors
    /// EACCES for a read-only alias that the kernel doesn't enforce.
    pub fn client_source(&self) -> Result<Source<'_>, Status> {
        if client_may_have(self.access, self.enforcement) {
            Ok(self.source())
        } else {
            Err(Status::EACCES)
        }
    }
}
