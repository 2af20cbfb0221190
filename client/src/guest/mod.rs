// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Programs in a Linux guest: the device of the driver `virtio_dmabuf`, and the files of streams that it makes.
//!
//! ```no_run
//! use dmabuf_client::Access;
//! use dmabuf_client::guest::Device;
//!
//! let device = Device::open("/dev/virtio-dmabuf0".as_ref())?;
//! let memory = device.open_buffer("front/0", Access::ReadOnly)?;
//! let pixels = memory.map()?;
//! println!("{} bytes, CRC {:08x}", pixels.len(), pixels.crc32(0, pixels.len())?);
//! # Ok::<(), dmabuf_client::Error>(())
//! ```
//!
//! Buffers are real dma-bufs here, whatever they are on the host. What the host says no to is [`Error::Refused`], as for host
//! processes, with the errno of the driver's call. The header that describes the calls is
//! `kernel/virtio_dmabuf/uapi/virtio_dmabuf.h`.

mod consumer;
mod producer;
mod raw;
mod sys;
#[cfg(test)]
mod tests;

pub use consumer::ConsumerFile;
pub use producer::ProducerFile;

use crate::buffer::{BufferInfo, picture};
use crate::client::{Info, parse_name};
use crate::error::{Error, Result};
use crate::event::{Event, EventQueue};
use crate::shared_memory::{SharedMemory, file_size};
use crate::stream::{ConsumeMode, StreamInfo};
use dmabuf_protocol::wire::{self, Format};
use dmabuf_protocol::{Access, Flags, Name, OpCode, PAGE_SIZE, Status};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;
use zerocopy::{FromZeros, IntoBytes};

/// Entries of one page of a list.
const PAGE: usize = 64;
/// More entries than any daemon has: a list that goes on after that never ends.
const MAX_LISTED: usize = 1 << 16;

/// A device of the driver: `/dev/virtio-dmabuf0`.
#[derive(Debug)]
pub struct Device {
    fd: OwnedFd,
    path: String,
    events: EventQueue,
}

/// A buffer that was allocated on the host, by a heap of this guest.
#[derive(Debug)]
pub struct Allocation(SharedMemory);

impl AsRef<SharedMemory> for Allocation {
    fn as_ref(&self) -> &SharedMemory {
        &self.0
    }
}

impl Device {
    /// Opens the device node.
    ///
    /// # Errors
    /// [`Error::Device`]
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let shown = path.display().to_string();
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(fd) => Ok(Self {
                fd,
                path: shown,
                events: EventQueue::default(),
            }),
            Err(errno) => Err(Error::Device {
                device: shown,
                what: format!(
                    "can't open it: {errno}. Is the driver virtio_dmabuf loaded, and may this user open its device?"
                ),
            }),
        }
    }

    /// What the host says of itself and of this guest.
    ///
    /// # Errors
    /// As every call: [`Error::Refused`]; [`Error::Protocol`] when the driver says what can't be.
    pub fn info(&self) -> Result<Info> {
        let info = sys::info(self.as_fd()).map_err(self.refused(OpCode::GetInfo))?;
        Ok(Info {
            version: info.version,
            peer: name(info.name)?,
            max_handles: info.max_handles,
            handles: info.handles,
        })
    }

    /// The buffers that this guest may open.
    ///
    /// # Errors
    /// As every call.
    pub fn list(&self) -> Result<Vec<BufferInfo>> {
        let listed = |cursor, page: &mut [raw::Buffer]| sys::list(self.as_fd(), cursor, page);
        let raw = pages(listed).map_err(self.refused(OpCode::List))?;
        raw.iter()
            .map(|buffer| BufferInfo::try_from(&wire::BufferInfo::from(buffer)))
            .collect()
    }

    /// The streams that this guest may consume.
    ///
    /// # Errors
    /// As every call.
    pub fn streams(&self) -> Result<Vec<StreamInfo>> {
        let listed =
            |cursor, page: &mut [raw::StreamInfo]| sys::stream_list(self.as_fd(), cursor, page);
        let raw = pages(listed).map_err(self.refused(OpCode::StreamList))?;
        let stream = |stream: &raw::StreamInfo| {
            Ok(StreamInfo {
                name: name(stream.name)?,
                id: stream.id,
                produced: stream.produced,
                buffers: stream.buffers,
                consumers: stream.consumers,
                format: picture(&stream.format.into())?,
            })
        };
        raw.iter().map(stream).collect()
    }

    /// A dma-buf of the buffer with this name.
    ///
    /// # Errors
    /// As every call; [`Error::BadName`].
    pub fn open_buffer(&self, name: &str, access: Access) -> Result<SharedMemory> {
        let mut open = raw::Open::new_zeroed();
        open.name = parse_name(name)?.to_wire();
        open.flags = Flags::from(access).0 | OFlags::CLOEXEC.bits();
        let fd = sys::open(self.as_fd(), &mut open).map_err(self.refused(OpCode::Open))?;
        memory(fd, open.size, access)
    }

    /// A new buffer of at least `size` bytes from the host's `heap`, by this guest's `/dev/dma_heap/virtio-HEAP`.
    ///
    /// # Errors
    /// As every call; [`Error::BadName`].
    pub fn alloc(&self, heap: &str, size: u64) -> Result<Allocation> {
        // The driver's way to make a file name of it.
        let node = parse_name(heap)?.as_str().replace('/', "_");
        let refused = self.refused(OpCode::Alloc);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let heap = rustix::fs::open(format!("/dev/dma_heap/virtio-{node}"), flags, Mode::empty());
        let mut wanted = raw::HeapAllocation::new_zeroed();
        wanted.length = size;
        wanted.fd_flags = (OFlags::RDWR | OFlags::CLOEXEC).bits();
        let fd = heap.and_then(|heap| sys::heap_alloc(heap.as_fd(), &mut wanted));
        let fd = fd.map_err(refused)?;
        let got = file_size(fd.as_fd()).map_err(Error::system("the size of a buffer"))?;
        if got < size {
            return Err(Error::Protocol("a buffer that is smaller than asked for"));
        }
        Ok(Allocation(memory(fd, got, Access::ReadWrite)?))
    }

    /// Gives an allocated buffer a name. With `keep` it stays when this guest is reset.
    ///
    /// # Errors
    /// As every call; [`Error::BadName`].
    pub fn publish(
        &self,
        buffer: &Allocation,
        name: &str,
        format: Option<Format>,
        keep: bool,
    ) -> Result<()> {
        let mut publish = raw::Publish {
            name: parse_name(name)?.to_wire(),
            fd: buffer.0.as_fd().as_raw_fd(),
            flags: if keep { raw::PUBLISH_KEEP } else { 0 },
            format: format.into(),
        };
        sys::publish(self.as_fd(), &mut publish).map_err(self.refused(OpCode::Publish))
    }

    /// Takes a name away. Who has opened the buffer keeps it.
    ///
    /// # Errors
    /// As every call; [`Error::BadName`].
    pub fn withdraw(&self, name: &str) -> Result<()> {
        let mut withdraw = raw::Withdraw {
            name: parse_name(name)?.to_wire(),
        };
        sys::withdraw(self.as_fd(), &mut withdraw).map_err(self.refused(OpCode::Withdraw))
    }

    /// The oldest event that has arrived and wasn't taken yet; doesn't wait. Poll [`Self::as_fd`] for input to wait.
    ///
    /// # Errors
    /// As every call.
    pub fn next_event(&mut self) -> Result<Option<Event>> {
        let mut event = raw::Event::new_zeroed();
        loop {
            if let Some(event) = self.events.pop() {
                return Ok(Some(event));
            }
            match read(self.as_fd(), event.as_mut_bytes()) {
                Ok(0) | Err(Errno::AGAIN) => return Ok(None),
                Ok(size) if size == size_of_val(&event) => {
                    self.events.push(wire::Event::from(&event).as_bytes())?;
                }
                Ok(_) => return Err(Error::Protocol("an event with a wrong length")),
                Err(errno) => {
                    return Err(Error::System {
                        what: "reading events of the driver",
                        source: errno,
                    });
                }
            }
        }
    }

    /// Becomes a consumer of a stream, with holds of at most `hold`; zero: as long as the host allows.
    ///
    /// # Errors
    /// As every call; [`Error::BadName`].
    pub fn consume(&self, name: &str, mode: ConsumeMode, hold: Duration) -> Result<ConsumerFile> {
        let (mode, depth) = mode.to_wire();
        let mut open = raw::StreamOpen::new_zeroed();
        open.name = parse_name(name)?.to_wire();
        open.mode = mode;
        open.depth = depth;
        open.hold_ms = u32::try_from(hold.as_millis()).unwrap_or(u32::MAX);
        open.flags = (OFlags::CLOEXEC | OFlags::NONBLOCK).bits();
        open.options = raw::STREAM_FENCES;
        let file = sys::stream_open(self.as_fd(), &mut open);
        ConsumerFile::new(file.map_err(self.refused(OpCode::StreamOpen))?, &open)
    }

    /// Begins a stream.
    ///
    /// # Errors
    /// As every call; [`Error::BadName`].
    pub fn produce(&self, name: &str, format: Option<Format>) -> Result<ProducerFile> {
        let mut create = raw::StreamCreate::new_zeroed();
        create.name = parse_name(name)?.to_wire();
        create.format = format.into();
        create.flags = (OFlags::CLOEXEC | OFlags::NONBLOCK).bits();
        let file = sys::stream_create(self.as_fd(), &mut create);
        let file = file.map_err(self.refused(OpCode::StreamCreate))?;
        Ok(ProducerFile::new(file, create.id))
    }

    /// For `map_err`: the answer to a call of the device.
    fn refused(&self, request: OpCode) -> impl FnOnce(Errno) -> Error {
        let device = self.path.clone();
        move |errno| match errno {
            Errno::NOTTY => Error::Device {
                device,
                what: format!(
                    "doesn't know {}. Is it a device of virtio_dmabuf, and is that new enough?",
                    request.as_str()
                ),
            },
            errno => refused(request)(errno),
        }
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// For `map_err`: the driver's answer, which is the host's in most cases.
fn refused(request: OpCode) -> impl FnOnce(Errno) -> Error {
    move |errno| match errno {
        Errno::PROTO => Error::Protocol("an answer of the driver that can't be"),
        errno => Error::Refused {
            request,
            status: Status(errno.raw_os_error().unsigned_abs()),
        },
    }
}

fn read(fd: BorrowedFd<'_>, bytes: &mut [u8]) -> rustix::io::Result<usize> {
    rustix::io::retry_on_intr(|| rustix::io::read(fd, &mut *bytes))
}

/// A dma-buf that the driver has made.
fn memory(fd: OwnedFd, size: u64, access: Access) -> Result<SharedMemory> {
    if size == 0 || !size.is_multiple_of(PAGE_SIZE) {
        return Err(Error::Protocol("a buffer whose size is not whole pages"));
    }
    let memory = SharedMemory::new(fd, 0, size, access)?;
    if memory.is_dma_buf() {
        Ok(memory)
    } else {
        Err(Error::Protocol("a buffer that is no dma-buf"))
    }
}

fn name(raw: [u8; 64]) -> Result<Name> {
    Name::from_wire(raw).map_err(|_| Error::Protocol("a malformed name"))
}

/// All entries of a list, page by page.
fn pages<T: FromZeros + Clone>(
    mut page: impl FnMut(u64, &mut [T]) -> rustix::io::Result<(usize, u64)>,
) -> rustix::io::Result<Vec<T>> {
    let mut all = Vec::new();
    let mut cursor = 0;
    while all.len() <= MAX_LISTED {
        let mut entries = vec![T::new_zeroed(); PAGE];
        let (count, next) = page(cursor, &mut entries)?;
        entries.truncate(count);
        all.append(&mut entries);
        if next == 0 {
            return Ok(all);
        }
        if next <= cursor {
            break;
        }
        cursor = next;
    }
    // Goes back, or has no end.
    Err(Errno::PROTO)
}
