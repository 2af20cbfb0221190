// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Fences of dma-bufs as sync_files, and CPU access brackets (Linux `include/uapi/linux/{dma-buf,sync_file}.h`).

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::io::{self, Errno};
use rustix::ioctl::{self, Opcode, Setter, Updater, opcode};

/// `struct dma_buf_export_sync_file`
#[repr(C)]
struct ExportSyncFile {
    flags: u32,
    fd: i32,
}
/// `struct dma_buf_import_sync_file`
#[repr(C)]
struct ImportSyncFile {
    flags: u32,
    fd: i32,
}
const DMA_BUF_IOCTL_IMPORT_SYNC_FILE: Opcode = opcode::write::<ImportSyncFile>(b'b', 3);
const DMA_BUF_IOCTL_EXPORT_SYNC_FILE: Opcode = opcode::read_write::<ExportSyncFile>(b'b', 2);

/// `struct dma_buf_sync`
#[repr(C)]
struct DmaBufSync {
    flags: u64,
}
const DMA_BUF_IOCTL_SYNC: Opcode = opcode::write::<DmaBufSync>(b'b', 0);
/// `DMA_BUF_SYNC_READ`: the CPU reads; of fences: those that a reader waits for.
pub const SYNC_READ: u32 = 1;
/// `DMA_BUF_SYNC_WRITE`: the CPU writes; of fences: those that a writer waits for.
pub const SYNC_WRITE: u32 = 2;
const DMA_BUF_SYNC_END: u32 = 4;

/// `struct sync_fence_info`
#[repr(C)]
#[derive(Clone, Copy)]
struct FenceInfo {
    obj_name: [u8; 32],
    driver_name: [u8; 32],
    status: i32,
    flags: u32,
    timestamp_ns: u64,
}

impl FenceInfo {
    const ZERO: Self = Self {
        obj_name: [0; 32],
        driver_name: [0; 32],
        status: 0,
        flags: 0,
        timestamp_ns: 0,
    };
}

/// `struct sync_file_info`
#[repr(C)]
struct FileInfo {
    name: [u8; 32],
    status: i32,
    flags: u32,
    num_fences: u32,
    pad: u32,
    sync_fence_info: u64,
}
const SYNC_IOC_FILE_INFO: Opcode = opcode::read_write::<FileInfo>(b'>', 4);

/// What the kernel says of a sync_file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncFileInfo {
    /// 1: signalled, 0: not yet, below: an error of one of its fences as a negative errno.
    pub status: i32,
    /// Fences in it.
    pub fences: u32,
    /// When the last of them signalled, in nanoseconds of `CLOCK_MONOTONIC`; 0 while they haven't.
    pub timestamp_ns: u64,
}

/// A snapshot of a dma-buf's fences: those that a reader ([`SYNC_READ`]) or a writer ([`SYNC_WRITE`]) must wait for.
///
/// # Errors
/// ENOTTY for something that is no dma-buf, EMFILE, ENOMEM.
pub fn export_sync_file(dma_buf: BorrowedFd<'_>, flags: u32) -> io::Result<OwnedFd> {
    let mut export = ExportSyncFile { flags, fd: -1 };
    // SAFETY: the opcode takes a struct dma_buf_export_sync_file, which `ExportSyncFile` is, field by field.
    unsafe {
        ioctl::ioctl(
            dma_buf,
            Updater::<DMA_BUF_IOCTL_EXPORT_SYNC_FILE, _>::new(&mut export),
        )?
    };
    // SAFETY: on success the kernel has put a new fd there, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(export.fd) })
}

/// Adds the fences of a sync_file to those of a dma-buf: as those of a reader ([`SYNC_READ`]) or a writer
/// ([`SYNC_WRITE`]). Waits for no fence; for the lock of the buffer's fences it does, as long as a driver holds that.
///
/// # Errors
/// EINVAL for something that is no sync_file; ENOTTY for something that is no dma-buf, and before Linux 6.0; ENOMEM.
pub fn import_sync_file(
    dma_buf: BorrowedFd<'_>,
    sync_file: BorrowedFd<'_>,
    flags: u32,
) -> io::Result<()> {
    let import = ImportSyncFile {
        flags,
        fd: sync_file.as_raw_fd(),
    };
    // SAFETY: the opcode takes a struct dma_buf_import_sync_file, which `ImportSyncFile` is; the kernel only reads it,
    // and looks the fd up by itself.
    unsafe {
        ioctl::ioctl(
            dma_buf,
            Setter::<DMA_BUF_IOCTL_IMPORT_SYNC_FILE, _>::new(import),
        )
    }
}

/// Begins, or with `end` ends, an access of the CPU. To begin waits for fences of the buffer, for as long as they take.
///
/// # Errors
/// ENOTTY for something that is no dma-buf; the exporter's.
pub fn dma_buf_sync(dma_buf: BorrowedFd<'_>, flags: u32, end: bool) -> io::Result<()> {
    let flags = u64::from(flags | if end { DMA_BUF_SYNC_END } else { 0 });
    io::retry_on_intr(|| {
        // SAFETY: the opcode takes a struct dma_buf_sync, which `DmaBufSync` is; the kernel only reads it.
        unsafe {
            ioctl::ioctl(
                dma_buf.as_fd(),
                Setter::<DMA_BUF_IOCTL_SYNC, _>::new(DmaBufSync { flags }),
            )
        }
    })
}

/// What has become of the fences in a sync_file.
///
/// # Errors
/// ENOTTY for something that is no sync_file, ENOMEM.
pub fn sync_file_info(sync_file: BorrowedFd<'_>) -> io::Result<SyncFileInfo> {
    let mut few = [FenceInfo::ZERO; 8];
    match file_info(sync_file, &mut few) {
        // More fences than there was room for.
        Err(Errno::INVAL) => {
            let count = file_info(sync_file, &mut [])?.fences;
            let count = usize::try_from(count).map_err(|_| Errno::NOMEM)?;
            file_info(sync_file, &mut vec![FenceInfo::ZERO; count])
        }
        other => other,
    }
}

fn file_info(sync_file: BorrowedFd<'_>, room: &mut [FenceInfo]) -> io::Result<SyncFileInfo> {
    let mut info = FileInfo {
        name: [0; 32],
        status: 0,
        flags: 0,
        num_fences: u32::try_from(room.len()).unwrap_or(u32::MAX),
        pad: 0,
        sync_fence_info: u64::try_from(room.as_mut_ptr().expose_provenance()).unwrap_or(0),
    };
    // SAFETY: the opcode takes a struct sync_file_info, which `FileInfo` is, field by field. The kernel writes at most
    // `num_fences` structs sync_fence_info to the address in it, which is that of so many `FenceInfo`, borrowed mutably.
    unsafe { ioctl::ioctl(sync_file, Updater::<SYNC_IOC_FILE_INFO, _>::new(&mut info))? };
    let filled = usize::try_from(info.num_fences).unwrap_or(0);
    let timestamps = room.iter().take(filled).map(|fence| fence.timestamp_ns);
    Ok(SyncFileInfo {
        status: info.status,
        fences: info.num_fences,
        timestamp_ns: timestamps.max().unwrap_or(0),
    })
}
