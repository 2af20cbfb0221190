// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! ioctls of vgem and of the guest driver, a shared page, a CPU clock, and ptrace: the only unsafe code here.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::{Context, Result};
use libc::{c_int, pid_t};
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Setter, Updater, ioctl, opcode};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// `DRM_IOCTL_BASE`.
const DRM: u8 = b'd';
/// `VIRTIO_DMABUF_IOC_MAGIC`.
const DRIVER: u8 = 0xd6;
const PAGE: usize = 4096;
const WORDS: usize = PAGE / size_of::<u64>();

/// The CPU time of a process: clock_getcpuclockid(3).
pub fn cpu_time(process: u32) -> Result<Duration> {
    let mut clock = 0;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: it writes to `clock` only.
    let error = unsafe { libc::clock_getcpuclockid(pid_t::try_from(process)?, &raw mut clock) };
    if error != 0 {
        return Err(Errno::from_raw_os_error(error).into());
    }
    // SAFETY: it writes to `time` only.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    Ok(Duration::new(
        u64::try_from(time.tv_sec)?,
        u32::try_from(time.tv_nsec)?,
    ))
}

/// A page of a file, mapped shared and writable, as counters.
pub struct Shared(NonNull<AtomicU64>);

impl Shared {
    /// Maps the page of `file` at `offset`.
    pub fn map(file: impl AsFd, offset: u64) -> Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: without MAP_FIXED the kernel picks an address that nothing else uses.
        let start = unsafe { mmap(null_mut(), PAGE, protection, MapFlags::SHARED, file, offset) };
        let start = NonNull::new(start.context("can't map the shared page")?.cast());
        Ok(Self(start.context("mapped at 0")?))
    }

    /// One of its counters, counted from its start and around.
    pub fn word(&self, index: usize) -> &AtomicU64 {
        // SAFETY: the page is mapped, aligned and all counters as long as `self` lives, and `index` is inside.
        unsafe { self.0.add(index % WORDS).as_ref() }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: exactly what was mapped; every reference to it borrowed `self`.
        let _ = unsafe { munmap(self.0.as_ptr().cast(), PAGE) };
    }
}

/// `struct drm_prime_handle`.
#[repr(C)]
#[derive(Default)]
struct Prime {
    handle: u32,
    flags: u32,
    fd: RawFd,
}

/// `struct drm_vgem_fence_attach`.
#[repr(C)]
#[derive(Default)]
struct Attach {
    handle: u32,
    flags: u32,
    fence: u32,
    pad: u32,
}

/// The import of a dma-buf into vgem.
pub fn vgem_import(vgem: impl AsFd, dma_buf: impl AsFd) -> Result<u32, Errno> {
    const CODE: Opcode = opcode::read_write::<Prime>(DRM, 0x2e);
    let mut prime = Prime {
        fd: dma_buf.as_fd().as_raw_fd(),
        ..Prime::default()
    };
    // SAFETY: DRM_IOCTL_PRIME_FD_TO_HANDLE reads and writes one `drm_prime_handle`.
    unsafe { ioctl(vgem, Updater::<CODE, Prime>::new(&mut prime))? };
    Ok(prime.handle)
}

/// Puts a writer's fence on an imported dma-buf, and returns its number.
pub fn vgem_attach(vgem: impl AsFd, handle: u32) -> Result<u32, Errno> {
    const CODE: Opcode = opcode::read_write::<Attach>(DRM, 0x41);
    let mut attach = Attach {
        handle,
        flags: 1,
        ..Attach::default()
    };
    // SAFETY: DRM_IOCTL_VGEM_FENCE_ATTACH reads and writes one `drm_vgem_fence_attach`.
    unsafe { ioctl(vgem, Updater::<CODE, Attach>::new(&mut attach))? };
    Ok(attach.fence)
}

/// Ends a fence.
pub fn vgem_signal(vgem: impl AsFd, fence: u32) -> Result<(), Errno> {
    const CODE: Opcode = opcode::write::<[u32; 2]>(DRM, 0x42);
    // SAFETY: DRM_IOCTL_VGEM_FENCE_SIGNAL reads one `drm_vgem_fence_signal`, two u32.
    unsafe { ioctl(vgem, Setter::<CODE, [u32; 2]>::new([fence, 0])) }
}

/// `struct virtio_dmabuf_ioc_open`.
#[repr(C)]
struct Open {
    name: [u8; 64],
    flags: u32,
    fd: RawFd,
    enforcement: u32,
    reserved: u32,
    size: u64,
}

/// Opens a buffer of the host, read-write.
pub fn driver_open(driver: impl AsFd, name: &str) -> Result<OwnedFd> {
    const CODE: Opcode = opcode::read_write::<Open>(DRIVER, 2);
    /// O_RDWR | O_CLOEXEC.
    const FLAGS: u32 = 0o2 | 0o2_000_000;
    let mut open = Open {
        name: [0; 64],
        flags: FLAGS,
        fd: -1,
        enforcement: 0,
        reserved: 0,
        size: 0,
    };
    let place = open
        .name
        .get_mut(..name.len())
        .context("the name is too long")?;
    place.copy_from_slice(name.as_bytes());
    // SAFETY: VIRTIO_DMABUF_IOC_OPEN reads and writes one `virtio_dmabuf_ioc_open`.
    unsafe { ioctl(driver, Updater::<CODE, Open>::new(&mut open)) }
        .with_context(|| format!("can't open {name}"))?;
    // SAFETY: the driver has just made it, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(open.fd) })
}

/// `struct virtio_dmabuf_ioc_fence`.
#[repr(C)]
struct Fence {
    fd: RawFd,
    usage: u32,
    timeout_ms: u32,
    flags: u32,
    sync_file: RawFd,
    reserved: u32,
}

/// Brings the host's fences on a buffer into the guest: from when it can be read. Returns them as a sync_file.
pub fn driver_fence(driver: impl AsFd, dma_buf: impl AsFd) -> Result<OwnedFd> {
    const CODE: Opcode = opcode::read_write::<Fence>(DRIVER, 3);
    let mut fence = Fence {
        fd: dma_buf.as_fd().as_raw_fd(),
        usage: 1,
        timeout_ms: 0,
        flags: 1,
        sync_file: -1,
        reserved: 0,
    };
    // SAFETY: VIRTIO_DMABUF_IOC_FENCE reads and writes one `virtio_dmabuf_ioc_fence`.
    unsafe { ioctl(driver, Updater::<CODE, Fence>::new(&mut fence)) }
        .context("the driver takes no fence")?;
    // SAFETY: the driver has just made it, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fence.sync_file) })
}

/// Why a thread that is traced has stopped.
#[derive(Debug, PartialEq, Eq)]
pub enum Stop {
    /// At the begin or the end of a system call.
    SystemCall,
    /// It is new, or something else that needs no answer.
    Event,
    /// This signal is to be delivered.
    Signal(c_int),
    /// It has ended.
    Ended,
}

/// Begins to trace a thread, and those that it will make: for the thread that calls.
pub fn trace(thread: pid_t) -> Result<(), Errno> {
    let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE;
    ptrace(libc::PTRACE_SEIZE, thread, options)?;
    ptrace(libc::PTRACE_INTERRUPT, thread, 0)
}

/// Lets a stopped thread go on to the next begin or end of a system call.
pub fn go_on(thread: pid_t, signal: c_int) {
    // One that was killed meanwhile is reported as ended.
    let _ = ptrace(libc::PTRACE_SYSCALL, thread, signal);
}

fn ptrace(request: libc::c_uint, thread: pid_t, data: c_int) -> Result<(), Errno> {
    let (nowhere, data) = (null_mut::<libc::c_void>(), libc::c_long::from(data));
    // SAFETY: none of the requests of this module reads or writes memory of the caller.
    match unsafe { libc::ptrace(request, thread, nowhere, data) } {
        -1 => Err(last_error()),
        _ => Ok(()),
    }
}

/// Waits until one of the threads that the calling thread traces stops or ends; `None`: there is none left.
pub fn next_stop() -> Option<(pid_t, Stop)> {
    loop {
        let mut status = 0;
        // SAFETY: waitpid writes one int. Without __WNOTHREAD it would take children from other threads.
        let thread =
            unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
        match thread {
            -1 if last_error() == Errno::INTR => {}
            -1 => return None,
            thread => return Some((thread, stop_of(status))),
        }
    }
}

fn stop_of(status: c_int) -> Stop {
    if !libc::WIFSTOPPED(status) {
        return Stop::Ended;
    }
    match libc::WSTOPSIG(status) {
        signal if signal == libc::SIGTRAP | 0x80 => Stop::SystemCall,
        _ if status >> 16 != 0 => Stop::Event,
        signal => Stop::Signal(signal),
    }
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
