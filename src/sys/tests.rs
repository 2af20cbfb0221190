// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the kernel really refuses once memory is sealed: everything that rests on the word "sealed".

use super::*;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate, ftruncate, open};
use rustix::io::{Errno, pread, pwrite};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap, mprotect, munmap};

const PAGE: usize = 4096;

fn sealed() -> (OwnedFd, Mapping) {
    let fd = memfd_create("test", 4 * 4096, false).unwrap();
    let before = Mapping::new(fd.as_fd(), 0, 4 * PAGE).unwrap();
    seal_size(fd.as_fd()).unwrap();
    seal_for_good(fd.as_fd()).unwrap();
    (fd, before)
}

fn reopened(fd: BorrowedFd<'_>, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    open(
        format!("/proc/self/fd/{}", fd.as_raw_fd()),
        flags,
        Mode::empty(),
    )
}

#[test]
fn sealed_memory_cannot_be_mapped_writable() {
    let (fd, _before) = sealed();
    let read_only = reopen_read_only(fd.as_fd()).unwrap();
    let again = reopened(fd.as_fd(), OFlags::RDWR).unwrap();
    let through = reopened(read_only.as_fd(), OFlags::RDWR).unwrap();
    for (what, fd) in [
        ("the memfd", &fd),
        ("re-opened", &again),
        ("re-opened from O_RDONLY", &through),
    ] {
        assert_eq!(
            Mapping::new(fd.as_fd(), 0, PAGE).unwrap_err(),
            Errno::PERM,
            "{what}"
        );
    }
    let refused = Mapping::new(read_only.as_fd(), 0, PAGE).unwrap_err();
    assert!(matches!(refused, Errno::PERM | Errno::ACCESS), "{refused}");
}

#[test]
fn a_read_only_mapping_of_sealed_memory_stays_so() {
    let (fd, before) = sealed();
    before.write(b"seen");
    // SAFETY: a new mapping at an address of the kernel's choice, unmapped below; read once within its length.
    unsafe {
        let at = mmap(
            std::ptr::null_mut(),
            PAGE,
            ProtFlags::READ,
            MapFlags::SHARED,
            &fd,
            0,
        )
        .unwrap();
        assert_eq!(
            mprotect(at, PAGE, MprotectFlags::READ | MprotectFlags::WRITE),
            Err(Errno::ACCESS)
        );
        let bytes = std::ptr::read_volatile(at.cast::<[u8; 4]>());
        assert_eq!(
            &bytes, b"seen",
            "mappings from before the seal are the same memory"
        );
        munmap(at, PAGE).unwrap();
    }
}

#[test]
fn sealed_memory_cannot_be_written_punched_or_resized() {
    let (fd, before) = sealed();
    before.write(b"same");
    assert_eq!(pwrite(&fd, b"other", 0), Err(Errno::PERM));
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    assert_eq!(fallocate(&fd, punch, 0, 4096), Err(Errno::PERM));
    assert_eq!(ftruncate(&fd, 0), Err(Errno::PERM));
    assert_eq!(ftruncate(&fd, 8 * 4096), Err(Errno::PERM));
    assert_eq!(
        add_seals(fd.as_fd(), rustix::fs::SealFlags::WRITE),
        Err(Errno::PERM),
        "the seals are sealed"
    );
    let mut bytes = [0; 4];
    pread(&fd, &mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"same");
    before.write(b"new!");
    pread(&fd, &mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"new!", "its producer goes on writing");
}

#[test]
fn a_fixed_size_is_not_a_seal_against_writing() {
    let fd = memfd_create("test", 4096, false).unwrap();
    assert!(!memfd_seals(fd.as_fd()).unwrap().contains(SEALED));
    seal_size(fd.as_fd()).unwrap();
    assert!(!memfd_seals(fd.as_fd()).unwrap().intersects(NO_WRITING));
    assert!(Mapping::new(fd.as_fd(), 0, PAGE).is_ok());
    seal_for_good(fd.as_fd()).unwrap();
    assert!(memfd_seals(fd.as_fd()).unwrap().contains(SEALED));
}

#[test]
fn what_is_what() {
    let fd = memfd_create("test", 4096, false).unwrap();
    assert!(!is_dma_buf(fd.as_fd()));
    assert!(!is_kernel_object(fd.as_fd()));
    let event = EventFd::new().unwrap();
    assert!(!is_dma_buf(event.as_fd()));
    assert_eq!(memfd_seals(event.as_fd()), Err(Errno::INVAL));
    let (a, b) = (
        inode(fd.as_fd()).unwrap(),
        inode(reopen_read_only(fd.as_fd()).unwrap().as_fd()).unwrap(),
    );
    assert_eq!(a, b, "every fd of a memfd has its inode");
    let other = memfd_create("test", 4096, false).unwrap();
    assert_ne!(inode(other.as_fd()).unwrap(), a);
}

#[test]
fn an_event_never_blocks() {
    let event = EventFd::new().unwrap();
    event.clear();
    // A counter that is nearly full makes the next write fail, not wait.
    pwrite_all(event.as_fd(), u64::MAX - 1);
    event.set();
    event.set();
    event.clear();
    event.clear();
}

fn pwrite_all(fd: BorrowedFd<'_>, value: u64) {
    rustix::io::write(fd, &value.to_ne_bytes()).unwrap();
}

#[test]
fn a_message_carries_its_fds_and_shows_what_was_cut() {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    let (a, b) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    let memory = memfd_create("test", 4096, false).unwrap();
    send(a.as_fd(), b"hello", Some(memory.as_fd())).unwrap();
    let mut buffer = [0; MAX_MESSAGE];
    let received = receive(b.as_fd(), &mut buffer).unwrap();
    assert_eq!(
        (received.len, received.fds.len(), received.truncated),
        (5, 1, false)
    );
    assert_eq!(inode(received.fds[0].as_fd()), inode(memory.as_fd()));
    let flags = rustix::io::fcntl_getfd(&received.fds[0]).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));

    assert_eq!(
        receive(b.as_fd(), &mut buffer).unwrap_err(),
        Errno::AGAIN,
        "it doesn't wait"
    );
    send(a.as_fd(), &[1; MAX_MESSAGE + 1], None).unwrap();
    let received = receive(b.as_fd(), &mut buffer).unwrap();
    assert_eq!((received.len, received.truncated), (MAX_MESSAGE, true));
    drop(a);
    assert_eq!(
        receive(b.as_fd(), &mut buffer).unwrap().len,
        0,
        "the other side is gone"
    );
}
