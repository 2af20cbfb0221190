// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Frames with a sync_file: from the producer to the buffer, from the buffer to whoever acquires them.

use super::fences::fenced;
use super::peer::*;
use super::usage::streams_policy;
use crate::fence::tests::FakeKernel;
use crate::session::{Along, Host, Limits, Policy};
use dmabuf_protocol::wire::*;
use dmabuf_protocol::{OpCode, Status};
use rustix::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use zerocopy::{FromBytes, FromZeros};

/// A producer of one stream over a buffer that has fences (0) and one that can't have any (1), and a consumer.
struct Rig {
    _kernel: Arc<FakeKernel>,
    host: Arc<Host>,
    camera: Peer,
    made: u64,
    viewer: Peer,
    joined: u64,
}

impl Rig {
    fn new() -> Self {
        let (host, kernel) = fenced();
        let policy = Policy {
            allocate: ["dma", "memfd"].map(str::to_owned).to_vec(),
            ..streams_policy("camera", policy().limits)
        };
        let mut camera = Peer::client(&host, policy);
        let made = camera.produce("front", 0);
        for heap in ["dma", "memfd"] {
            let handle = camera.alloc(heap, P).unwrap().handle;
            let stream = made.into();
            let request = StreamAddRequest { stream, handle };
            camera.call(OpCode::StreamAdd, &request).unwrap();
        }
        let mut viewer = Peer::client(&host, streams_policy("viewer", Limits::DEFAULT));
        let joined = viewer.stream("front").unwrap();
        Self {
            _kernel: kernel,
            host,
            camera,
            made,
            viewer,
            joined,
        }
    }

    fn queue(&mut self, index: u32, flags: u32, fds: Vec<OwnedFd>) -> Result<Vec<u8>, Status> {
        let request = StreamQueueRequest {
            stream: self.made.into(),
            index: index.into(),
            flags: flags.into(),
            ..FromZeros::new_zeroed()
        };
        let done = self.camera.send(OpCode::StreamQueue, &request, fds);
        answer(&done.unwrap())
    }

    /// The next frame's flags, and its sync_file.
    fn acquire(&mut self) -> (u32, Option<OwnedFd>) {
        let stream = self.joined.to_le_bytes();
        let done = self.viewer.send(OpCode::StreamAcquire, &stream, Vec::new());
        let done = done.unwrap();
        let reply = FrameReply::read_from_bytes(&answer(&done).unwrap()).unwrap();
        let file = done.along.map(|along| match along {
            Along::SyncFile(fd) => fd,
            Along::Alias(alias) => panic!("{alias:?}"),
        });
        (reply.flags.get(), file)
    }
}

/// What the fake kernel takes for a sync_file.
fn sync_file() -> OwnedFd {
    rustix::pipe::pipe().unwrap().0
}

fn inode(fd: &OwnedFd) -> (u64, u64) {
    crate::sys::inode(fd.as_fd()).unwrap()
}

#[test]
fn a_sync_file_comes_out_with_its_frame() {
    let mut rig = Rig::new();
    let file = sync_file();
    let put_in = inode(&file);
    rig.queue(0, FRAME_FENCED, vec![file]).unwrap();
    let (flags, file) = rig.acquire();
    assert_eq!(flags, FRAME_FENCED | FRAME_SYNC_FILE);
    assert_eq!(inode(&file.unwrap()), put_in);
}

#[test]
fn frames_without_one_stay_as_they_were() {
    let mut rig = Rig::new();
    rig.queue(0, 0, Vec::new()).unwrap();
    rig.queue(1, FRAME_FENCED, Vec::new()).unwrap();
    assert!(matches!(rig.acquire(), (0, None)));
    assert!(
        matches!(rig.acquire(), (FRAME_FENCED, None)),
        "a memfd has no fences"
    );
}

#[test]
fn where_no_sync_file_can_be_made_fence_wait_is_left() {
    let mut rig = Rig::new();
    // The fake kernel has nothing to export: as one out of fds.
    rig.queue(0, FRAME_FENCED, Vec::new()).unwrap();
    assert!(matches!(rig.acquire(), (FRAME_FENCED, None)));
}

#[test]
fn a_vm_gets_the_flag_alone() {
    let mut rig = Rig::new();
    let policy = streams_policy("vm", Limits::DEFAULT);
    rig.viewer = Peer::vm(&rig.host, policy, 8, &[]);
    rig.joined = rig.viewer.stream("front").unwrap();
    rig.queue(0, FRAME_FENCED, vec![sync_file()]).unwrap();
    assert!(matches!(rig.acquire(), (FRAME_FENCED, None)));
}

#[test]
fn fds_that_are_not_welcome() {
    let mut rig = Rig::new();
    let memfd = || crate::sys::memfd_create("no-sync-file", P, false).unwrap();
    for (index, flags, fds, expected) in [
        (0, 0, vec![sync_file()], Status::EINVAL),
        (
            0,
            FRAME_FENCED,
            vec![sync_file(), sync_file()],
            Status::EINVAL,
        ),
        (0, FRAME_FENCED, vec![memfd()], Status::EINVAL),
        (
            0,
            FRAME_FENCED | FRAME_SYNC_FILE,
            vec![sync_file()],
            Status::EINVAL,
        ),
        (1, FRAME_FENCED, vec![sync_file()], Status::ENODEV),
        (2, FRAME_FENCED, vec![sync_file()], Status::EINVAL),
    ] {
        let inodes: Vec<_> = fds.iter().map(inode).collect();
        assert_eq!(rig.queue(index, flags, fds), Err(expected));
        assert!(
            inodes.iter().all(|inode| !is_open(*inode)),
            "they are closed"
        );
    }
    // Nothing was queued, and the buffers are the producer's still.
    let stream = rig.joined.to_le_bytes();
    let none = rig.viewer.call(OpCode::StreamAcquire, &stream);
    assert_eq!(none, Err(Status::EAGAIN));
    rig.queue(0, FRAME_FENCED, vec![sync_file()]).unwrap();
    assert_eq!(
        rig.queue(0, FRAME_FENCED, vec![sync_file()]),
        Err(Status::EBUSY),
        "no fences on what consumers have"
    );
}

/// Whether some fd of this process is of this inode.
fn is_open(inode: (u64, u64)) -> bool {
    let all = std::fs::read_dir("/proc/self/fd").unwrap();
    all.filter_map(|entry| std::fs::metadata(entry.ok()?.path()).ok())
        .any(|file| (file.dev(), file.ino()) == inode)
}
