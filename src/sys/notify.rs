// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Readiness for a service manager (sd_notify(3)).

use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;

/// Sends `READY=1` to `$NOTIFY_SOCKET`, if there is one.
pub fn notify_ready() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let sent = UnixDatagram::unbound().and_then(|socket| {
        socket.set_nonblocking(true)?;
        match path.as_bytes().strip_prefix(b"@") {
            Some(name) => {
                use std::os::linux::net::SocketAddrExt;
                let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
                socket.send_to_addr(b"READY=1\n", &address)
            }
            None => socket.send_to(b"READY=1\n", &path),
        }
    });
    if let Err(error) = sent {
        log::warn!(
            "can't tell {} that the daemon is ready: {error}",
            path.display()
        );
    }
}
