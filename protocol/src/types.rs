// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The values inside the wire structures, as types that can't hold a wrong one.
//!
//! Used by both sides of the protocol; conversions from raw integers are the only place where they are checked.

use crate::status::Status;

/// Longest name in bytes, without the terminating NUL that a full field doesn't have.
pub const NAME_LEN: usize = 64;

/// What a peer may do with the bytes of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// `O_RDONLY`
    ReadOnly,
    /// `O_RDWR`
    ReadWrite,
}

impl Access {
    /// The value on the wire: Linux's `O_RDONLY` (0) or `O_RDWR` (2).
    #[must_use]
    pub const fn to_wire(self) -> u32 {
        match self {
            Self::ReadOnly => 0,
            Self::ReadWrite => 2,
        }
    }

    /// The reverse of [`Self::to_wire`], for fields that carry nothing but the access mode.
    ///
    /// # Errors
    /// [`Status::EINVAL`] for every other value.
    pub const fn from_wire(raw: u32) -> Result<Self, Status> {
        match raw {
            0 => Ok(Self::ReadOnly),
            2 => Ok(Self::ReadWrite),
            _ => Err(Status::EINVAL),
        }
    }

    /// Whether writing is allowed.
    #[must_use]
    pub const fn can_write(self) -> bool {
        matches!(self, Self::ReadWrite)
    }
}

/// The access flags of OPEN and DERIVE: an access mode, optionally with `O_CLOEXEC`.
///
/// Kept raw, because which error a wrong one gets depends on the parent's access: see [`Flags::access_from`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(pub u32);

impl Flags {
    /// The mask of the access mode.
    pub const ACCMODE: u32 = 3;
    /// `O_WRONLY`: counts as write access, and is never granted.
    pub const WRONLY: u32 = 1;
    /// `O_CLOEXEC` of Linux. Accepted, and without a meaning on a virtqueue.
    pub const CLOEXEC: u32 = 0o2_000_000;

    /// The access asked for, of a parent with `parent` access.
    ///
    /// # Errors
    /// [`Status::EACCES`] when write access (`O_WRONLY` counts) is asked of a read-only parent; otherwise
    /// [`Status::EINVAL`] for anything but `O_RDONLY` or `O_RDWR`, optionally with `O_CLOEXEC`.
    pub const fn access_from(self, parent: Access) -> Result<Access, Status> {
        if self.0 & !(Self::ACCMODE | Self::CLOEXEC) != 0 {
            return Err(Status::EINVAL);
        }
        match (self.0 & Self::ACCMODE, parent) {
            (0, _) => Ok(Access::ReadOnly),
            (2, Access::ReadWrite) => Ok(Access::ReadWrite),
            (Self::WRONLY | 2, Access::ReadOnly) => Err(Status::EACCES),
            _ => Err(Status::EINVAL),
        }
    }
}

impl From<Access> for Flags {
    fn from(access: Access) -> Self {
        Self(access.to_wire() | Self::CLOEXEC)
    }
}

/// Who makes a read-only alias read-only. Ordered from the weakest to the strongest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Enforcement {
    /// Nobody: the alias is read-write.
    None,
    /// The VMM, by honouring the flag of a mapping request.
    Vmm,
    /// The kernel's `DMA_BUF_IOCTL_DERIVE`: mmap only, devices are not stopped.
    Ioctl,
    /// The host module: an alias that no device can import.
    Derived,
    /// Seals on the memfd behind the buffer.
    Sealed,
}

impl Enforcement {
    /// The value on the wire, 0 to 4.
    #[must_use]
    pub const fn to_wire(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Vmm => 1,
            Self::Ioctl => 2,
            Self::Derived => 3,
            Self::Sealed => 4,
        }
    }

    /// The reverse of [`Self::to_wire`].
    ///
    /// # Errors
    /// [`Status::EINVAL`] for a value that has no meaning.
    pub const fn from_wire(raw: u32) -> Result<Self, Status> {
        match raw {
            0 => Ok(Self::None),
            1 => Ok(Self::Vmm),
            2 => Ok(Self::Ioctl),
            3 => Ok(Self::Derived),
            4 => Ok(Self::Sealed),
            _ => Err(Status::EINVAL),
        }
    }

    /// The word used in configuration files, logs and documentation.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Vmm => "vmm",
            Self::Ioctl => "ioctl",
            Self::Derived => "derived",
            Self::Sealed => "sealed",
        }
    }
}

/// Where a buffer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeapKind {
    /// A kernel dma-heap.
    DmaHeap,
    /// A slot of a sealed udmabuf pool.
    Udmabuf,
    /// A slot of a memfd pool, or a memfd of its own.
    Memfd,
    /// Imported by a host process.
    Imported,
}

impl HeapKind {
    /// The value on the wire, 1 to 4.
    #[must_use]
    pub const fn to_wire(self) -> u32 {
        match self {
            Self::DmaHeap => 1,
            Self::Udmabuf => 2,
            Self::Memfd => 3,
            Self::Imported => 4,
        }
    }

    /// The reverse of [`Self::to_wire`].
    ///
    /// # Errors
    /// [`Status::EINVAL`] for a value that has no meaning.
    pub const fn from_wire(raw: u32) -> Result<Self, Status> {
        match raw {
            1 => Ok(Self::DmaHeap),
            2 => Ok(Self::Udmabuf),
            3 => Ok(Self::Memfd),
            4 => Ok(Self::Imported),
            _ => Err(Status::EINVAL),
        }
    }

    /// The word used in configuration files, logs and documentation.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DmaHeap => "dma-heap",
            Self::Udmabuf => "udmabuf",
            Self::Memfd => "memfd",
            Self::Imported => "imported",
        }
    }
}

/// How a peer must map the memory of a MAP reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Caching {
    /// Normal, cached memory.
    Cached,
    /// Write-combining.
    WriteCombining,
    /// Uncached.
    Uncached,
}

impl Caching {
    /// The value on the wire, 1 to 3 (the numbers of virtio-gpu's map info).
    #[must_use]
    pub const fn to_wire(self) -> u32 {
        match self {
            Self::Cached => 1,
            Self::Uncached => 2,
            Self::WriteCombining => 3,
        }
    }
}

/// A buffer's or peer's name: 1 to 64 bytes of `A–Z a–z 0–9 . _ - /`, NUL-padded on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name([u8; NAME_LEN]);

impl Name {
    /// Checks and wraps the wire form.
    ///
    /// # Errors
    /// [`Status::EINVAL`] for an empty name, a byte outside the alphabet, or bytes after the first NUL.
    pub fn from_wire(raw: [u8; NAME_LEN]) -> Result<Self, Status> {
        let len = raw.iter().position(|&b| b == 0).unwrap_or(NAME_LEN);
        let (text, padding) = raw.split_at(len);
        let legal = |b: &u8| b.is_ascii_alphanumeric() || b"._-/".contains(b);
        if text.is_empty() || !text.iter().all(legal) || padding.iter().any(|&b| b != 0) {
            return Err(Status::EINVAL);
        }
        Ok(Self(raw))
    }

    /// Checks and wraps text.
    ///
    /// # Errors
    /// [`Status::EINVAL`] as [`Self::from_wire`], and for text of more than 64 bytes.
    pub fn new(text: &str) -> Result<Self, Status> {
        let mut raw = [0; NAME_LEN];
        raw.get_mut(..text.len())
            .ok_or(Status::EINVAL)?
            .copy_from_slice(text.as_bytes());
        Self::from_wire(raw)
    }

    /// The wire form.
    #[must_use]
    pub const fn to_wire(self) -> [u8; NAME_LEN] {
        self.0
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let len = self.0.iter().position(|&b| b == 0).unwrap_or(NAME_LEN);
        self.0
            .get(..len)
            .and_then(|text| core::str::from_utf8(text).ok())
            .unwrap_or_default()
    }
}

impl core::fmt::Debug for Name {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

impl core::fmt::Display for Name {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.pad(self.as_str())
    }
}

/// A session's reference to an alias: slot index in the low 32 bits, generation in the high 32. Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(pub u64);

/// A session's reference to a mapping. Same form as [`Handle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MappingId(pub u64);

/// A buffer's number in the daemon: counts up from 1 and is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(pub u64);

/// The identity of a static window, as 16 bytes in RFC 9562 order. All zero means the dynamic window.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// The uuid that no static window has.
    pub const NIL: Self = Self([0; 16]);
}

impl core::fmt::Display for Uuid {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl core::fmt::Debug for Uuid {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derive_flags_follow_the_contract() {
        use Access::{ReadOnly, ReadWrite};
        let ask = |flags, parent| Flags(flags).access_from(parent);
        assert_eq!(ask(0, ReadOnly), Ok(ReadOnly));
        assert_eq!(ask(0, ReadWrite), Ok(ReadOnly));
        assert_eq!(ask(2, ReadWrite), Ok(ReadWrite));
        assert_eq!(ask(Flags::CLOEXEC | 2, ReadWrite), Ok(ReadWrite));
        assert_eq!(ask(2, ReadOnly), Err(Status::EACCES));
        assert_eq!(
            ask(1, ReadOnly),
            Err(Status::EACCES),
            "O_WRONLY is write access"
        );
        assert_eq!(ask(1, ReadWrite), Err(Status::EINVAL));
        assert_eq!(ask(3, ReadOnly), Err(Status::EINVAL), "access mode 3");
        assert_eq!(ask(3, ReadWrite), Err(Status::EINVAL), "access mode 3");
        assert_eq!(ask(4, ReadWrite), Err(Status::EINVAL));
        assert_eq!(ask(Flags::CLOEXEC | 0o4000, ReadWrite), Err(Status::EINVAL));
    }

    #[test]
    fn names_are_checked() {
        assert_eq!(
            Name::new("front-camera/0").unwrap().as_str(),
            "front-camera/0"
        );
        let full = [b'a'; NAME_LEN];
        assert_eq!(Name::from_wire(full).unwrap().as_str().len(), NAME_LEN);
        for bad in ["", "a b", "ü", "a\nb", "a*"] {
            assert_eq!(Name::new(bad), Err(Status::EINVAL), "{bad:?}");
        }
        let mut tail = [0; NAME_LEN];
        tail[0] = b'a';
        tail[9] = b'b';
        assert_eq!(Name::from_wire(tail), Err(Status::EINVAL));
    }

    #[test]
    fn uuid_text_form() {
        let uuid = Uuid([
            0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0, 1, 2, 3, 4, 5, 6, 7, 8,
        ]);
        let mut text = [0u8; 36];
        use core::fmt::Write as _;
        struct Sink<'a>(&'a mut [u8], usize);
        impl core::fmt::Write for Sink<'_> {
            fn write_str(&mut self, s: &str) -> core::fmt::Result {
                self.0[self.1..self.1 + s.len()].copy_from_slice(s.as_bytes());
                self.1 += s.len();
                Ok(())
            }
        }
        write!(Sink(&mut text, 0), "{uuid}").unwrap();
        assert_eq!(&text, b"12345678-9abc-def0-0102-030405060708");
    }
}
