// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `SOCK_SEQPACKET` Unix sockets whose messages carry fds (unix(7), `SCM_RIGHTS`).

use dmabuf_protocol::Request;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::{self, IoSlice, IoSliceMut};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use std::mem::MaybeUninit;
use std::path::Path;

/// Longest message that is received whole: one byte more than the longest request, so that a longer one shows.
pub const MAX_MESSAGE: usize = Request::MAX_LEN + 1;
/// Most fds that are taken along with one message; the kernel drops the rest.
const MAX_FDS: usize = 4;

/// One message.
#[derive(Debug)]
pub struct Received {
    /// Its length in bytes; 0: the other side is gone.
    pub len: usize,
    /// The fds that came along, with close-on-exec set.
    pub fds: Vec<OwnedFd>,
    /// There was more, of bytes or of fds, than fits.
    pub truncated: bool,
}

/// A listening socket at `path`.
///
/// # Errors
/// EADDRINUSE if there is something, ENAMETOOLONG, EACCES, ENOENT.
pub fn listen(path: &Path) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, 64)?;
    Ok(socket)
}

/// A connection to the socket at `path`, whose calls don't block.
///
/// # Errors
/// ENOENT, ECONNREFUSED when nobody listens, EACCES, EAGAIN when too many wait to be accepted.
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// The next connection, not blocking in its own calls.
///
/// # Errors
/// The kernel's; ECONNABORTED, EMFILE and the like are passing.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
}

/// Receives one message into `buffer`.
///
/// # Errors
/// EAGAIN when there is none, ECONNRESET.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let message =
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    let mut fds = Vec::new();
    for item in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = item {
            fds.extend(rights);
        }
    }
    let truncated = message
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
    Ok(Received {
        len: message.bytes,
        fds,
        truncated,
    })
}

/// Sends one message, with an fd if there is one. Whole or not at all.
///
/// # Errors
/// EAGAIN when the other side doesn't read, EPIPE when it is gone.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Errno::NOBUFS);
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::net::sendmsg(socket.as_fd(), &[IoSlice::new(bytes)], &mut control, flags).map(drop)
}
