// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The driver's ioctls, and the one of dma-heaps. What is exported here is safe to call with any arguments.
#![allow(unsafe_code)]

use super::raw;
use rustix::io::{Errno, Result, retry_on_intr};
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// `VIRTIO_DMABUF_IOC_MAGIC`
const MAGIC: u8 = 0xd6;

pub(crate) const INFO: Opcode = opcode::read::<raw::Info>(MAGIC, 0);
pub(crate) const LIST: Opcode = opcode::read_write::<raw::List>(MAGIC, 1);
pub(crate) const OPEN: Opcode = opcode::read_write::<raw::Open>(MAGIC, 2);
pub(crate) const PUBLISH: Opcode = opcode::write::<raw::Publish>(MAGIC, 8);
pub(crate) const WITHDRAW: Opcode = opcode::write::<raw::Withdraw>(MAGIC, 9);
pub(crate) const STREAM_LIST: Opcode = opcode::read_write::<raw::List>(MAGIC, 10);
pub(crate) const STREAM_OPEN: Opcode = opcode::read_write::<raw::StreamOpen>(MAGIC, 12);
pub(crate) const STREAM_CREATE: Opcode = opcode::read_write::<raw::StreamCreate>(MAGIC, 13);
pub(crate) const STREAM_RELEASE: Opcode = opcode::write::<raw::StreamRelease>(MAGIC, 14);
pub(crate) const STREAM_BUFFER: Opcode = opcode::read_write::<raw::StreamBuffer>(MAGIC, 15);
pub(crate) const STREAM_ADD: Opcode = opcode::read_write::<raw::StreamAdd>(MAGIC, 16);
pub(crate) const STREAM_QUEUE: Opcode = opcode::read_write::<raw::StreamQueue>(MAGIC, 17);
pub(crate) const STREAM_RECLAIM: Opcode = opcode::read::<raw::StreamReclaim>(MAGIC, 18);
/// `DMA_HEAP_IOCTL_ALLOC`
pub(crate) const HEAP_ALLOC: Opcode = opcode::read_write::<raw::HeapAllocation>(b'H', 0);

fn update<const OP: Opcode, T>(fd: BorrowedFd<'_>, value: &mut T) -> Result<()> {
    // SAFETY: private to this module; each caller below passes the opcode whose argument is `T`, which has the size
    // that the opcode tells the kernel. Only LIST and STREAM_LIST have an address in it, which `page` takes care of.
    retry_on_intr(|| unsafe { ioctl(fd, Updater::<OP, T>::new(value)) })
}

/// An fd that an ioctl has made for this process.
fn made(number: i32) -> Result<OwnedFd> {
    if number < 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: private to this module; each caller passes what an ioctl that has succeeded has just made. It is nobody
    // else's.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// One page of a list: how many entries were filled, and the next cursor.
fn page<const OP: Opcode, T: FromBytes + IntoBytes>(
    fd: BorrowedFd<'_>,
    cursor: u64,
    entries: &mut [T],
) -> Result<(usize, u64)> {
    let mut list = raw::List::new_zeroed();
    list.cursor = cursor;
    // The kernel writes at most `count` entries of this size there, any bytes of which are a `T`; `entries` is borrowed
    // for as long as the call lasts.
    list.entries =
        u64::try_from(entries.as_mut_ptr().expose_provenance()).map_err(|_| Errno::FAULT)?;
    list.count = u32::try_from(entries.len()).map_err(|_| Errno::INVAL)?;
    update::<OP, _>(fd, &mut list)?;
    match usize::try_from(list.count) {
        Ok(count) if count <= entries.len() => Ok((count, list.next)),
        _ => Err(Errno::PROTO),
    }
}

/// `VIRTIO_DMABUF_IOC_INFO`
pub(crate) fn info(fd: BorrowedFd<'_>) -> Result<raw::Info> {
    let mut info = raw::Info::new_zeroed();
    update::<INFO, _>(fd, &mut info)?;
    Ok(info)
}

/// `VIRTIO_DMABUF_IOC_LIST`
pub(crate) fn list(
    fd: BorrowedFd<'_>,
    cursor: u64,
    entries: &mut [raw::Buffer],
) -> Result<(usize, u64)> {
    page::<LIST, _>(fd, cursor, entries)
}

/// `VIRTIO_DMABUF_IOC_STREAM_LIST`
pub(crate) fn stream_list(
    fd: BorrowedFd<'_>,
    cursor: u64,
    entries: &mut [raw::StreamInfo],
) -> Result<(usize, u64)> {
    page::<STREAM_LIST, _>(fd, cursor, entries)
}

/// `VIRTIO_DMABUF_IOC_OPEN`
pub(crate) fn open(fd: BorrowedFd<'_>, value: &mut raw::Open) -> Result<OwnedFd> {
    update::<OPEN, _>(fd, value)?;
    made(value.fd)
}

/// `VIRTIO_DMABUF_IOC_PUBLISH`
pub(crate) fn publish(fd: BorrowedFd<'_>, value: &mut raw::Publish) -> Result<()> {
    update::<PUBLISH, _>(fd, value)
}

/// `VIRTIO_DMABUF_IOC_WITHDRAW`
pub(crate) fn withdraw(fd: BorrowedFd<'_>, value: &mut raw::Withdraw) -> Result<()> {
    update::<WITHDRAW, _>(fd, value)
}

/// `VIRTIO_DMABUF_IOC_STREAM_OPEN`
pub(crate) fn stream_open(fd: BorrowedFd<'_>, value: &mut raw::StreamOpen) -> Result<OwnedFd> {
    update::<STREAM_OPEN, _>(fd, value)?;
    made(value.fd)
}

/// `VIRTIO_DMABUF_IOC_STREAM_CREATE`
pub(crate) fn stream_create(fd: BorrowedFd<'_>, value: &mut raw::StreamCreate) -> Result<OwnedFd> {
    update::<STREAM_CREATE, _>(fd, value)?;
    made(value.fd)
}

/// `VIRTIO_DMABUF_IOC_STREAM_RELEASE`
pub(crate) fn stream_release(fd: BorrowedFd<'_>, sequence: u64) -> Result<()> {
    update::<STREAM_RELEASE, _>(fd, &mut raw::StreamRelease { sequence })
}

/// `VIRTIO_DMABUF_IOC_STREAM_BUFFER`
pub(crate) fn stream_buffer(fd: BorrowedFd<'_>, value: &mut raw::StreamBuffer) -> Result<OwnedFd> {
    update::<STREAM_BUFFER, _>(fd, value)?;
    made(value.fd)
}

/// `VIRTIO_DMABUF_IOC_STREAM_ADD`
pub(crate) fn stream_add(fd: BorrowedFd<'_>, value: &mut raw::StreamAdd) -> Result<()> {
    update::<STREAM_ADD, _>(fd, value)
}

/// `VIRTIO_DMABUF_IOC_STREAM_QUEUE`
pub(crate) fn stream_queue(fd: BorrowedFd<'_>, value: &mut raw::StreamQueue) -> Result<()> {
    update::<STREAM_QUEUE, _>(fd, value)
}

/// `VIRTIO_DMABUF_IOC_STREAM_RECLAIM`
pub(crate) fn stream_reclaim(fd: BorrowedFd<'_>) -> Result<u32> {
    let mut value = raw::StreamReclaim::new_zeroed();
    update::<STREAM_RECLAIM, _>(fd, &mut value)?;
    Ok(value.index)
}

/// `DMA_HEAP_IOCTL_ALLOC`
pub(crate) fn heap_alloc(heap: BorrowedFd<'_>, value: &mut raw::HeapAllocation) -> Result<OwnedFd> {
    update::<HEAP_ALLOC, _>(heap, value)?;
    made(i32::try_from(value.fd).map_err(|_| Errno::BADF)?)
}
