// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The sockets on which peers connect: made before anything else, so that a second daemon with the same configuration
//! fails before it has touched what the first one has.

use crate::config::{Config, SocketSource};
use crate::{Error, sys};
use rustix::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use vhost::vhost_user::Listener;

/// Listening sockets; their paths are removed on drop.
#[derive(Default)]
pub struct Sockets {
    /// One for each VM, in the configuration's order.
    pub vms: Vec<Listener>,
    /// The broker's.
    pub broker: Option<OwnedFd>,
    paths: Vec<PathBuf>,
}

impl Sockets {
    /// Makes, or takes over, all that the configuration names.
    ///
    /// # Errors
    /// [`Error::Socket`] for the first that can't be had: another daemon listens there, or there is something else.
    pub fn open(config: &Config) -> Result<Self, Error> {
        let mut sockets = Self::default();
        for vm in &config.vms {
            sockets.open_vm(&vm.socket)?;
        }
        if let Some(path) = &config.broker {
            sockets.broker = Some(sockets.bind(path, |path| Ok(sys::listen(path)?))?);
        }
        Ok(sockets)
    }

    /// Makes, or takes over, one VM's.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_vm(&mut self, source: &SocketSource) -> Result<(), Error> {
        let listener = match source {
            SocketSource::Path(path) => self.bind(path, |path| UnixListener::bind(path))?,
            SocketSource::Fd(fd) => {
                sys::inherited_listener(*fd).map_err(|source| Error::Socket {
                    path: format!("(fd {fd})").into(),
                    source,
                })?
            }
        };
        self.vms.push(listener.into());
        Ok(())
    }

    fn bind<T>(
        &mut self,
        path: &Path,
        bind: impl FnOnce(&Path) -> std::io::Result<T>,
    ) -> Result<T, Error> {
        let socket = free(path)
            .and_then(|()| bind(path))
            .map_err(|source| Error::Socket {
                path: path.to_owned(),
                source,
            })?;
        self.paths.push(path.to_owned());
        Ok(socket)
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        for path in &self.paths {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Removes a socket that nobody listens on.
///
/// # Errors
/// EADDRINUSE if somebody does, or if it isn't a socket.
fn free(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let Ok(meta) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    let refused = |error: std::io::Error| error.kind() == std::io::ErrorKind::ConnectionRefused;
    let stale = UnixStream::connect(path).is_err_and(refused);
    if !meta.file_type().is_socket() || !stale {
        return Err(rustix::io::Errno::ADDRINUSE.into());
    }
    std::fs::remove_file(path)
}
