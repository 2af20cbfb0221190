// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! fds that others have opened: left by the parent process, or sent by a front-end.

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::io::{Errno, ReadWriteFlags};
use rustix::net::{SocketType, sockopt};
use std::io;
use std::os::unix::net::UnixListener;

/// The listening Unix stream socket with this number.
///
/// # Errors
/// EBADF if there is no such fd or it is one of the standard streams, EINVAL if it isn't a listening stream socket.
pub fn inherited_listener(fd: i32) -> io::Result<UnixListener> {
    if fd <= 2 || !std::path::Path::new(&format!("/proc/self/fd/{fd}")).exists() {
        return Err(Errno::BADF.into());
    }
    // SAFETY: the fd is open (checked above), and it is borrowed only for these two look-ups.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let stream = sockopt::socket_type(borrowed.as_fd())? == SocketType::STREAM;
    if !stream || !sockopt::socket_acceptconn(borrowed)? {
        return Err(Errno::INVAL.into());
    }
    // SAFETY: the user has told us, on the command line, that this fd is ours; nothing else in the process uses it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    Ok(UnixListener::from(socket))
}

/// Makes operations on `fd` return rather than wait, as far as the kernel lets us.
pub fn set_nonblocking(fd: &impl AsRawFd) {
    // SAFETY: whoever owns the fd is borrowed for the time of the call, so it stays open.
    let fd = unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) };
    let _ = rustix::io::ioctl_fionbio(fd, true);
}

/// Takes up to eight bytes out of `fd` if they are there now, whatever flags others have set on it.
///
/// # Errors
/// The kernel's, and `UnexpectedEof` for a pipe or socket that is closed at its other end.
pub fn read_now(fd: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: whoever owns the fd is borrowed for the time of the call, so it stays open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) };
    let mut bytes = [0; 8];
    let mut space = [io::IoSliceMut::new(&mut bytes)];
    let from = rustix::io::preadv2(borrowed, &mut space, u64::MAX, ReadWriteFlags::NOWAIT);
    let read = match from {
        // Before Linux 6.5 or so, not every file knows the flag.
        Err(Errno::OPNOTSUPP) => {
            set_nonblocking(fd);
            rustix::io::read(borrowed, &mut bytes)
        }
        other => other,
    };
    match read {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
