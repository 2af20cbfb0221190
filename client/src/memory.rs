// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory that a producer brings along: a memfd that can't change its size and takes no new writers.

use crate::error::{Error, Result};
use crate::sys;
use dmabuf_protocol::PAGE_SIZE;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use std::fs::File;
use std::io::{Read, copy};
use std::os::fd::{OwnedFd, RawFd};
use std::path::Path;

/// A memfd with the bytes of `file`, zero up to the end of its last page, sealed against every later change.
///
/// # Errors
/// [`Error::File`] when it can't be read or is empty; [`Error::System`].
pub fn sealed_copy(file: &Path) -> Result<OwnedFd> {
    let from = File::open(file).map_err(Error::file(file))?;
    copy_of(from, file)
}

fn copy_of(mut from: impl Read, path: &Path) -> Result<OwnedFd> {
    let memfd = memfd_create("import", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .map_err(Error::system("memfd_create"))?;
    let mut memfd = File::from(memfd);
    let size = copy(&mut from, &mut memfd).map_err(Error::file(path))?;
    if size == 0 {
        return Err(Error::Argument(format!(
            "{} is empty, and a buffer can't be",
            path.display()
        )));
    }
    memfd
        .set_len(size.next_multiple_of(PAGE_SIZE))
        .map_err(Error::file(path))?;
    let memfd = OwnedFd::from(memfd);
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
    fcntl_add_seals(&memfd, seals).map_err(Error::system("sealing a memfd"))?;
    Ok(memfd)
}

/// A copy of an fd that this process inherited, by its number.
///
/// # Errors
/// [`Error::Argument`] when no such fd is open.
pub fn inherited(number: RawFd) -> Result<OwnedFd> {
    sys::inherited(number).map_err(|errno| {
        Error::Argument(format!(
            "fd {number}: {errno}. Pass it to this process, like `--fd 3 3<>FILE`"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    #[test]
    fn copies_are_whole_pages_and_immutable() {
        let memfd = File::from(copy_of(&b"frame"[..], Path::new("-")).unwrap());
        assert_eq!(memfd.metadata().unwrap().len(), PAGE_SIZE);
        let mut start = [0xff; 6];
        memfd.read_exact_at(&mut start, 0).unwrap();
        assert_eq!(&start, b"frame\0");
        assert!(memfd.write_at(b"x", 0).is_err());
        assert!(memfd.set_len(0).is_err());
        let map = |access| sys::Region::map(memfd.as_fd(), 0, 4096, access);
        assert!(map(dmabuf_protocol::Access::ReadWrite).is_err());
        assert!(
            map(dmabuf_protocol::Access::ReadOnly)
                .unwrap()
                .make_writable()
                .is_err()
        );
    }

    #[test]
    fn empty_files_and_closed_fds_are_refused() {
        assert!(matches!(
            copy_of(&b""[..], Path::new("-")),
            Err(Error::Argument(_))
        ));
        assert!(matches!(inherited(-1), Err(Error::Argument(_))));
        assert!(matches!(inherited(9999), Err(Error::Argument(_))));
    }
}
