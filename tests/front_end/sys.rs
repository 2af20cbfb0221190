// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the libraries' raw fds need unsafe code for.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use vmm_sys_util::eventfd::EventFd;

/// The fd that `owner` owns or borrows.
pub fn borrow<T: AsRawFd + ?Sized>(owner: &T) -> BorrowedFd<'_> {
    // SAFETY: the owner keeps the fd open, and is itself borrowed as long as the result lives.
    unsafe { BorrowedFd::borrow_raw(owner.as_raw_fd()) }
}

/// Any fd in the place of an eventfd.
pub fn as_event(fd: OwnedFd) -> EventFd {
    // SAFETY: the fd is owned, and given away here; `EventFd` does nothing with it but read, write and close.
    unsafe { EventFd::from_raw_fd(fd.into_raw_fd()) }
}
