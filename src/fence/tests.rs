// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The reactor and the workers, with sockets in place of fences: they can be polled, and looked at without being read.

use super::*;
use crate::buffer::{Buffer, Memory, Parts};
use crate::sys;
use dmabuf_protocol::{FenceUsage, HeapKind, SyncDirection};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

/// Longest wait for anything that must happen.
pub const LIMIT: Duration = Duration::from_secs(20);

/// What ends a fence. One that is dropped without having ended is one that fails with EIO.
#[derive(Debug)]
pub struct Signal(Mutex<Vec<OwnedFd>>, bool);

impl Signal {
    /// Ends it, with an errno or (0) well.
    pub fn end(&self, errno: u8) {
        for end in self.0.lock().unwrap().iter() {
            // A wait that is over has closed its side.
            let _ = send(end, &[errno], SendFlags::NOSIGNAL);
        }
    }

    fn snapshot(&self) -> Snapshot {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::DGRAM, flags, None).unwrap();
        self.0.lock().unwrap().push(ours);
        Snapshot::new(theirs, state, 1)
    }
}

/// A fence that hasn't ended, and what ends it.
pub fn fence() -> (Snapshot, Signal) {
    let signal = Signal(Mutex::default(), true);
    (signal.snapshot(), signal)
}

fn state(fd: BorrowedFd<'_>) -> State {
    let mut errno = [0u8];
    match recv(fd, &mut errno[..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((1, _)) if errno == [0] => State::Signalled {
            fences: 1,
            timestamp_ns: 7,
        },
        Ok((1, _)) => State::Failed(errno[0].into()),
        _ => State::Pending,
    }
}

/// Stands in for the kernel: fences by hand, brackets that are counted and can be made to wait.
#[derive(Debug, Default)]
pub struct FakeKernel {
    fences: Mutex<HashMap<(u64, u64), Arc<Signal>>>,
    imported: Mutex<HashMap<(u64, u64), OwnedFd>>,
    brackets: Mutex<Brackets>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Brackets {
    blocked: BTreeSet<(u64, u64)>,
    begun: Vec<(u64, u64)>,
    ended: Vec<(u64, u64)>,
}

impl FakeKernel {
    /// Puts a fence on a buffer: a writer's or a reader's.
    pub fn attach(&self, buffer: &Buffer, writer: bool) -> Arc<Signal> {
        let signal = Arc::new(Signal(Mutex::default(), writer));
        let inode = inode(buffer);
        self.fences
            .lock()
            .unwrap()
            .insert(inode, Arc::clone(&signal));
        signal
    }

    /// Takes the fence off a buffer, as the kernel does with one that has ended.
    pub fn detach(&self, buffer: &Buffer) {
        self.fences.lock().unwrap().remove(&inode(buffer));
    }

    /// Makes the begin of brackets of a buffer wait, or go on.
    pub fn block(&self, buffer: &Buffer, blocked: bool) {
        let mut brackets = self.brackets.lock().unwrap();
        if blocked {
            brackets.blocked.insert(inode(buffer));
        } else {
            brackets.blocked.remove(&inode(buffer));
        }
        self.changed.notify_all();
    }

    /// Waits until so many brackets have begun and ended.
    pub fn brackets(&self, begun: usize, ended: usize) {
        let brackets = self.brackets.lock().unwrap();
        let waiting = |brackets: &mut Brackets| {
            (brackets.begun.len(), brackets.ended.len()) != (begun, ended)
        };
        let (brackets, late) = self
            .changed
            .wait_timeout_while(brackets, LIMIT, waiting)
            .unwrap();
        assert!(!late.timed_out(), "{begun}, {ended}: {brackets:?}");
    }
}

fn inode(buffer: &Buffer) -> (u64, u64) {
    sys::inode(buffer.dma_buf().unwrap()).unwrap()
}

impl Kernel for FakeKernel {
    fn snapshot(
        &self,
        dma_buf: BorrowedFd<'_>,
        usage: FenceUsage,
    ) -> rustix::io::Result<Option<Snapshot>> {
        let inode = sys::inode(dma_buf).unwrap();
        let fences = self.fences.lock().unwrap();
        let signal = fences.get(&inode);
        let relevant = signal.filter(|signal| usage == FenceUsage::Write || signal.1);
        Ok(relevant.map(|signal| signal.snapshot()))
    }

    /// Pipes stand in for sync_files.
    fn import(&self, dma_buf: BorrowedFd<'_>, sync_file: BorrowedFd<'_>) -> rustix::io::Result<()> {
        let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(sync_file)?.st_mode);
        if kind != rustix::fs::FileType::Fifo {
            return Err(rustix::io::Errno::INVAL);
        }
        let fd = sync_file.try_clone_to_owned().unwrap();
        let inode = sys::inode(dma_buf).unwrap();
        self.imported.lock().unwrap().insert(inode, fd);
        Ok(())
    }

    fn export(&self, dma_buf: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
        let inode = sys::inode(dma_buf).unwrap();
        let imported = self.imported.lock().unwrap();
        let fd = imported.get(&inode).ok_or(rustix::io::Errno::NFILE)?;
        Ok(fd.try_clone().unwrap())
    }

    fn sync(&self, dma_buf: BorrowedFd<'_>, _: SyncDirection, end: bool) -> rustix::io::Result<()> {
        let inode = sys::inode(dma_buf).unwrap();
        let brackets = self.brackets.lock().unwrap();
        let blocked = |brackets: &mut Brackets| !end && brackets.blocked.contains(&inode);
        let mut brackets = self.changed.wait_while(brackets, blocked).unwrap();
        if end {
            brackets.ended.push(inode);
        } else {
            brackets.begun.push(inode);
        }
        self.changed.notify_all();
        Ok(())
    }
}

/// Waits until an event is set.
pub fn wait_for(event: &sys::EventFd) {
    let limit = Timespec::try_from(LIMIT).unwrap();
    let ready = poll(&mut [PollFd::new(event, PollFlags::IN)], Some(&limit));
    assert_eq!(ready, Ok(1), "nothing comes");
}

fn notes(inbox: &Inbox, count: usize) -> Vec<(u64, Ending)> {
    let mut taken = Vec::new();
    while taken.len() < count {
        wait_for(inbox.wake());
        inbox.take(&mut taken);
    }
    let endings = taken.into_iter().map(|(key, note)| match note {
        Note::Ended(ending) => (key, ending),
        other => panic!("{other:?}"),
    });
    endings.collect()
}

const WELL: Ending = Ending::Signalled {
    fences: 1,
    timestamp_ns: 7,
};

fn later() -> Instant {
    Instant::now() + LIMIT
}

/// Numbers from 0 to `count` in an order that is the same each time.
fn shuffled(count: u64) -> Vec<u64> {
    let mut order: Vec<u64> = (0..count).collect();
    order.sort_by_key(|number| (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    order
}

#[test]
fn a_thousand_waits_end_once_each_in_any_order() {
    let reactor = Reactor::start().unwrap();
    let inbox = Arc::new(Inbox::new().unwrap());
    let mut signals = HashMap::new();
    for key in 0..1000 {
        let (snapshot, signal) = fence();
        reactor
            .wait(Some(snapshot), later(), None, key, &inbox)
            .unwrap();
        signals.insert(key, signal);
    }
    assert_eq!(reactor.open(), 1000);
    let order = shuffled(1000);
    for key in &order {
        signals[key].end(u8::from(key % 5 == 0));
    }
    let mut ended = notes(&inbox, 1000);
    ended.sort_by_key(|(key, _)| *key);
    let expected: Vec<_> = (0..1000)
        .map(|key| {
            (
                key,
                if key % 5 == 0 {
                    Ending::Failed(1)
                } else {
                    WELL
                },
            )
        })
        .collect();
    assert_eq!(ended, expected);
    assert_eq!(reactor.open(), 0);
}

#[test]
fn a_cancel_that_races_with_a_signal_has_one_winner() {
    const ROUNDS: u64 = 5000;
    let reactor = Arc::new(Reactor::start().unwrap());
    let inbox = Arc::new(Inbox::new().unwrap());
    let (give, take) = std::sync::mpsc::sync_channel::<(u64, WaitId, Arc<std::sync::Barrier>)>(0);
    let canceller = {
        let reactor = Arc::clone(&reactor);
        std::thread::spawn(move || {
            let mut won = BTreeSet::new();
            for (key, id, start) in take {
                start.wait();
                if reactor.cancel(id) {
                    won.insert(key);
                }
            }
            won
        })
    };
    for key in 0..ROUNDS {
        let (snapshot, signal) = fence();
        let id = reactor
            .wait(Some(snapshot), later(), None, key, &inbox)
            .unwrap();
        let start = Arc::new(std::sync::Barrier::new(2));
        give.send((key, id, Arc::clone(&start))).unwrap();
        start.wait();
        signal.end(0);
    }
    drop(give);
    let cancelled = canceller.join().unwrap();
    // What was to come has come when this one has: the thread takes events in the order of their coming.
    let (snapshot, signal) = fence();
    reactor
        .wait(Some(snapshot), later(), None, ROUNDS, &inbox)
        .unwrap();
    signal.end(0);
    let signalled = notes(
        &inbox,
        usize::try_from(ROUNDS).unwrap() - cancelled.len() + 1,
    );
    let keys: BTreeSet<u64> = signalled.iter().map(|(key, _)| *key).collect();
    assert_eq!(keys.len(), signalled.len(), "never twice");
    assert!(keys.is_disjoint(&cancelled), "never by both");
    let all: BTreeSet<u64> = keys.union(&cancelled).copied().collect();
    assert_eq!(all, (0..=ROUNDS).collect(), "never by none");
    assert_eq!(reactor.open(), 0);
}

#[test]
fn deadlines_pass_in_their_order() {
    let reactor = Reactor::start().unwrap();
    let inbox = Arc::new(Inbox::new().unwrap());
    // Time enough for all to be there before the first passes.
    let now = Instant::now() + Duration::from_secs(1);
    let mut signals = Vec::new();
    for key in shuffled(20) {
        let (snapshot, signal) = fence();
        signals.push(signal);
        let deadline = now + Duration::from_millis(5 * key);
        // Some are for nothing but their deadline.
        let snapshot = (key % 2 == 0).then_some(snapshot);
        reactor.wait(snapshot, deadline, None, key, &inbox).unwrap();
    }
    let (snapshot, signal) = fence();
    reactor
        .wait(Some(snapshot), later(), None, 99, &inbox)
        .unwrap();
    let expected: Vec<_> = (0..20).map(|key| (key, Ending::TimedOut)).collect();
    assert_eq!(notes(&inbox, 20), expected);
    assert!(now.elapsed() >= Duration::from_millis(95), "none too early");
    assert_eq!(reactor.open(), 1, "the one that has time goes on");
    signal.end(0);
    assert_eq!(notes(&inbox, 1), [(99, WELL)]);
}

#[test]
fn the_end_of_an_owner_ends_its_waits_and_no_others() {
    let reactor = Reactor::start().unwrap();
    let inbox = Arc::new(Inbox::new().unwrap());
    let mut signals = Vec::new();
    for (key, owner) in [(0, Some(5)), (1, Some(6)), (2, None), (3, Some(5))] {
        let (snapshot, signal) = fence();
        reactor
            .wait(Some(snapshot), later(), owner, key, &inbox)
            .unwrap();
        signals.push(signal);
    }
    reactor.orphan(5);
    let mut orphans = notes(&inbox, 2);
    orphans.sort_by_key(|(key, _)| *key);
    assert_eq!(orphans, [(0, Ending::Orphaned), (3, Ending::Orphaned)]);
    assert_eq!(reactor.open(), 2);
    signals[1].end(0);
    signals[2].end(0);
    assert_eq!(notes(&inbox, 2).len(), 2);
}

#[test]
fn a_fence_that_is_lost_is_an_error() {
    let reactor = Reactor::start().unwrap();
    let inbox = Arc::new(Inbox::new().unwrap());
    let (end, other) = std::io::pipe().unwrap();
    let lost = Snapshot::new(end.into(), |_| State::Pending, 1);
    reactor.wait(Some(lost), later(), None, 1, &inbox).unwrap();
    drop(other);
    assert_eq!(notes(&inbox, 1), [(1, Ending::Failed(5))]);
}

/// A buffer that has what the daemon takes for a dma-buf.
pub fn dma_buf() -> Arc<Buffer> {
    let fd = sys::memfd_create("fake-dma-buf", 4096, false).unwrap();
    let parts = Parts {
        kind: HeapKind::DmaHeap,
        size: 4096,
        memory: Memory::DmaBuf {
            fd,
            deriver: Arc::default(),
        },
    };
    Buffer::new(parts, None)
}

#[test]
fn a_job_that_blocks_delays_no_other() {
    let kernel = Arc::new(FakeKernel::default());
    let workers = Workers::start(Arc::clone(&kernel) as _).unwrap();
    let inbox = Arc::new(Inbox::new().unwrap());
    let (blocked, free) = (dma_buf(), dma_buf());
    kernel.block(&blocked, true);
    let begin = |key, buffer: &Arc<Buffer>| {
        let job = Job::Begin {
            buffer: Arc::clone(buffer),
            direction: SyncDirection::Read,
        };
        workers.submit(job, key, &inbox);
    };
    for key in 0..5 {
        begin(key, &blocked);
    }
    begin(5, &free);
    wait_for(inbox.wake());
    let mut taken = Vec::new();
    inbox.take(&mut taken);
    assert!(matches!(taken[..], [(5, Note::Begun(Ok(_)))]), "{taken:?}");
    kernel.block(&blocked, false);
    while taken.len() < 6 {
        wait_for(inbox.wake());
        inbox.take(&mut taken);
    }
    kernel.brackets(6, 0);
    // What nobody has taken leaves nothing behind.
    drop(taken);
    kernel.brackets(6, 6);
}

#[test]
fn a_result_that_nobody_takes_is_undone() {
    let kernel = Arc::new(FakeKernel::default());
    let workers = Workers::start(Arc::clone(&kernel) as _).unwrap();
    let inbox = Arc::new(Inbox::new().unwrap());
    let buffer = dma_buf();
    kernel.block(&buffer, true);
    let job = Job::Begin {
        buffer: Arc::clone(&buffer),
        direction: SyncDirection::ReadWrite,
    };
    workers.submit(job, 1, &inbox);
    // The session is gone, the daemon's workers are, too: the one that is blocked has to tidy up.
    drop((inbox, workers));
    kernel.block(&buffer, false);
    kernel.brackets(1, 1);
}

#[test]
fn what_is_no_dma_buf_has_no_fences() {
    let buffer = dma_buf();
    let fd = buffer.dma_buf().unwrap();
    let snapshot = HostKernel.snapshot(fd, FenceUsage::Read);
    assert_eq!(snapshot.unwrap_err(), rustix::io::Errno::NOTTY);
    let sync = HostKernel.sync(fd, SyncDirection::Read, false);
    assert_eq!(sync, Err(rustix::io::Errno::NOTTY));
    let null = std::path::Path::new("/dev/null");
    let source = FenceSource::open(null).unwrap_err();
    assert_eq!(source, rustix::io::Errno::NODEV, "no fence source");
    let _ = fd.as_fd();
}
