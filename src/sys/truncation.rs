// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest memory whose file was truncated under us.
//!
//! A front-end shares its guest's memory as files of its own, and can truncate them. The next access is a SIGBUS, which
//! would end the daemon and with it every other VM's device. Instead, the page is replaced by an empty one of ours, and
//! the thread takes note; its device then reads its queues no more.

use std::cell::Cell;
use std::ffi::{c_int, c_void};

thread_local! {
    static TRUNCATED: Cell<bool> = const { Cell::new(false) };
}

/// Page sizes of the mappings that front-ends share; the first that fits is used.
const PAGE_SIZES: [usize; 3] = [4 << 10, 2 << 20, 1 << 30];

/// Survives accesses to truncated memory from now on.
///
/// # Errors
/// The kernel's; there is no reason for one.
pub fn survive_truncation() -> std::io::Result<()> {
    vmm_sys_util::signal::register_signal_handler(libc::SIGBUS, on_bus_error)
        .map_err(|error| std::io::Error::from_raw_os_error(error.errno()))
}

/// Whether this thread has met truncated memory since it last asked.
pub fn met_truncation() -> bool {
    TRUNCATED.with(|truncated| truncated.replace(false))
}

extern "C" fn on_bus_error(signal: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the handler is registered with SA_SIGINFO, so the kernel passes a valid siginfo; for SIGBUS with a positive
    // code `si_addr` is its active field.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr().addr()) };
    // "Non-existent physical address": the mapping is there, its file isn't. Everything else is a bug.
    if code == libc::BUS_ADRERR && replace(address) {
        TRUNCATED.with(|truncated| truncated.set(true));
        return;
    }
    // SAFETY: `signal` may be called in a handler. The access is repeated after the return, and then ends the process.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// Puts an empty page in place of the one at `address`.
fn replace(address: usize) -> bool {
    PAGE_SIZES.iter().any(|size| {
        let page = std::ptr::with_exposed_provenance_mut(address & !(size - 1));
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        // SAFETY: the page belongs to a mapping of a file that has no such page any more: nobody can have used it but by
        // the access that has just failed. mmap is a bare system call, and may be made in a handler. On a mapping of huge
        // pages the kernel refuses to replace a part of one, and the next size is tried.
        let new = unsafe { libc::mmap(page, *size, protection, flags, -1, 0) };
        new != libc::MAP_FAILED
    })
}
