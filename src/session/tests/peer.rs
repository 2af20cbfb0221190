// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A peer for tests: builds requests, takes replies apart, and stands in for the front-end.

use crate::buffer::{Memory, Parts};
use crate::fence::{Fences, HostKernel, Kernel};
use crate::heap::{Heap, MemfdHeap, Pool, PoolHeap, PoolOptions};
use crate::session::{
    Done, FenceTerms, Grant, Host, JobResult, Limits, MapError, Pattern, Policy, Session, Target,
    Transport, Usage, VmSession, Window, WindowJob, Windows,
};
use crate::sys;
use dmabuf_protocol::wire::*;
use dmabuf_protocol::{
    Access, Enforcement, HeapKind, MappingId, Name, OpCode, PAGE_SIZE, PeerKind, Status, Uuid,
};
use rustix::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

pub const P: u64 = PAGE_SIZE;
/// A control queue chain's reply space in most tests.
pub const CAPACITY: usize = 4096;

/// Stands in for a dma-heap: what it gives is no dma-buf, but the daemon treats it as one.
#[derive(Debug)]
struct FakeDmaHeap;

impl Heap for FakeDmaHeap {
    fn allocate(&self, size: u64) -> Result<Parts, Status> {
        let fd = sys::memfd_create("fake-dma-buf", size, false).unwrap();
        Ok(Parts {
            kind: HeapKind::DmaHeap,
            size,
            memory: Memory::DmaBuf {
                fd,
                deriver: Arc::default(),
            },
        })
    }

    fn kind(&self) -> HeapKind {
        HeapKind::DmaHeap
    }
}

/// A host with the heap `dma`, the heap `memfd`, and the memfd pool `pool` of `slots` slots of 2 pages.
pub fn host(slots: u32) -> (Arc<Host>, Arc<Pool>) {
    host_with(slots, Arc::new(HostKernel))
}

/// The same, with somebody else to ask for fences.
pub fn host_with(slots: u32, kernel: Arc<dyn Kernel>) -> (Arc<Host>, Arc<Pool>) {
    let pool = Pool::create(PoolOptions {
        name: "pool".to_owned(),
        kind: HeapKind::Memfd,
        slots,
        slot_size: 2 * P,
        huge_pages: false,
        uuid: Uuid([7; 16]),
        link: None,
    })
    .unwrap();
    let mut host = Host::new(Fences::start(kernel, None).unwrap());
    host.heaps.insert("dma".to_owned(), Box::new(FakeDmaHeap));
    host.heaps.insert("memfd".to_owned(), Box::new(MemfdHeap));
    host.heaps
        .insert("pool".to_owned(), Box::new(PoolHeap(Arc::clone(&pool))));
    (Arc::new(host), pool)
}

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub fn buffers(pattern: &str, access: Access, enforcement: Enforcement) -> Grant {
    Grant {
        target: Target::Buffers(Pattern::new(pattern).unwrap()),
        access,
        enforcement,
        fail_stop: false,
        fences: FenceTerms::default(),
    }
}

pub fn whole_pool(access: Access) -> Grant {
    Grant {
        target: Target::Pool("pool".to_owned()),
        access,
        enforcement: Enforcement::Derived,
        fail_stop: false,
        fences: FenceTerms::default(),
    }
}

/// A policy without grants, with small limits.
pub fn policy() -> Policy {
    Policy {
        name: name("peer"),
        kind: PeerKind::Vm,
        monitor: false,
        grants: Vec::new(),
        publish: Vec::new(),
        allocate: Vec::new(),
        limits: Limits {
            handles: 200,
            buffers: 200,
            mappings: 200,
            bytes: 64 * P,
            waits: 200,
            ..Limits::DEFAULT
        },
        usage: Arc::new(Usage::default()),
    }
}

/// A host process that may allocate from every heap and publish everything.
pub fn producer(host: &Arc<Host>) -> Peer {
    Peer::client(
        host,
        Policy {
            publish: vec![Pattern::new("*").unwrap()],
            allocate: ["dma", "memfd", "pool", "absent"]
                .map(str::to_owned)
                .to_vec(),
            ..policy()
        },
    )
}

#[derive(Debug)]
struct FakeWindow {
    size: u64,
    jobs: Arc<Mutex<Vec<WindowJob>>>,
}

impl Window for FakeWindow {
    fn size(&self) -> u64 {
        self.size
    }

    fn submit(&self, job: WindowJob) {
        self.jobs.lock().unwrap().push(job);
    }
}

/// A session and everything around it.
pub struct Peer {
    pub session: Session,
    jobs: Arc<Mutex<Vec<WindowJob>>>,
    token: u64,
    /// Replies to earlier requests that came with later ones.
    pub late: Vec<Done>,
}

impl Peer {
    pub fn client(host: &Arc<Host>, policy: Policy) -> Self {
        Self::new(host, policy, Transport::Fds, Arc::default())
    }

    /// A VM with a dynamic window of `pages` pages, the probe's not counted; 0: none.
    pub fn vm(host: &Arc<Host>, policy: Policy, pages: u64, pools: &[&Arc<Pool>]) -> Self {
        let jobs = Arc::default();
        let window = FakeWindow {
            size: (pages + 1) * P,
            jobs: Arc::clone(&jobs),
        };
        let windows = Windows::new(
            policy.name,
            policy.limits.mappings,
            (pages > 0).then(|| Box::new(window) as _),
            pools.iter().map(|pool| pool.uuid()).collect(),
        );
        Self::new(host, policy, Transport::Windows(Box::new(windows)), jobs)
    }

    fn new(
        host: &Arc<Host>,
        policy: Policy,
        transport: Transport,
        jobs: Arc<Mutex<Vec<WindowJob>>>,
    ) -> Self {
        let session = Session::new(Arc::clone(host), Arc::new(policy), transport).unwrap();
        Self {
            session,
            jobs,
            token: 0,
            late: Vec::new(),
        }
    }

    pub fn bytes(op: OpCode, tag: u64, body: &(impl IntoBytes + Immutable)) -> Vec<u8> {
        let header = RequestHeader {
            op: op.to_wire().into(),
            tag: tag.into(),
            ..FromZeros::new_zeroed()
        };
        [header.as_bytes(), body.as_bytes()].concat()
    }

    /// Sends a request. Its token and tag are the number of requests so far.
    pub fn send(
        &mut self,
        op: OpCode,
        body: &(impl IntoBytes + Immutable),
        fds: Vec<OwnedFd>,
    ) -> Option<Done> {
        self.token += 1;
        let bytes = Self::bytes(op, self.token, body);
        let done = self.session.handle(self.token, &bytes, CAPACITY, fds);
        let late = self.session.take_late();
        self.late.extend(late);
        let at = |done: &Done| done.token == self.token;
        let done = done.or_else(|| {
            let at = self.late.iter().position(at)?;
            Some(self.late.remove(at))
        })?;
        assert_eq!(done.token, self.token);
        Some(done)
    }

    /// The token of the last request.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Sends a request that is answered at once.
    pub fn call(
        &mut self,
        op: OpCode,
        body: &(impl IntoBytes + Immutable),
    ) -> Result<Vec<u8>, Status> {
        let done = self.send(op, body, Vec::new()).expect("answered at once");
        answer(&done)
    }

    pub fn open_with(&mut self, text: &str, flags: u32, least: u32) -> Result<OpenReply, Status> {
        let request = OpenRequest {
            name: name(text).to_wire(),
            flags: flags.into(),
            enforcement: least.into(),
        };
        self.call(OpCode::Open, &request).map(read)
    }

    pub fn open(&mut self, text: &str, access: Access) -> Result<OpenReply, Status> {
        self.open_with(text, access.to_wire(), 0)
    }

    pub fn close(&mut self, handle: u64) -> Result<(), Status> {
        let request = CloseRequest {
            handle: handle.into(),
        };
        self.call(OpCode::Close, &request).map(drop)
    }

    pub fn derive(&mut self, handle: u64, flags: u32, least: u32) -> Result<OpenReply, Status> {
        let request = DeriveRequest {
            handle: handle.into(),
            flags: flags.into(),
            enforcement: least.into(),
        };
        self.call(OpCode::Derive, &request).map(read)
    }

    pub fn info(&mut self) -> InfoReply {
        read(self.call(OpCode::GetInfo, &()).unwrap())
    }

    /// Asks for a mapping; `None`: the answer will come.
    pub fn map(
        &mut self,
        handle: u64,
        offset: u64,
        length: u64,
        access: Access,
    ) -> Option<Result<MapReply, Status>> {
        let request = MapRequest {
            handle: handle.into(),
            offset: offset.into(),
            length: length.into(),
            access: access.to_wire().into(),
            reserved: 0.into(),
        };
        let done = self.send(OpCode::Map, &request, Vec::new())?;
        Some(answer(&done).map(read))
    }

    /// Asks for the end of a mapping; `None`: the answer will come.
    pub fn unmap(&mut self, mapping: u64) -> Option<Result<(), Status>> {
        let request = UnmapRequest {
            mapping: mapping.into(),
        };
        let done = self.send(OpCode::Unmap, &request, Vec::new())?;
        Some(answer(&done).map(drop))
    }

    /// Maps, with a front-end that does it.
    pub fn mapped(&mut self, handle: u64, length: u64, access: Access) -> MapReply {
        assert!(self.map(handle, 0, length, access).is_none());
        let job = self.job();
        let done = self.finish(&job, Ok(())).expect("an answer");
        read(answer(&done).unwrap())
    }

    /// The one job that waits.
    pub fn job(&self) -> WindowJob {
        let mut jobs = self.jobs();
        assert_eq!(jobs.len(), 1, "{jobs:?}");
        jobs.remove(0)
    }

    /// All jobs that wait.
    pub fn jobs(&self) -> Vec<WindowJob> {
        std::mem::take(&mut *self.jobs.lock().unwrap())
    }

    /// Ends a job.
    pub fn finish(&mut self, job: &WindowJob, outcome: Result<(), MapError>) -> Option<Done> {
        self.session.finish(JobResult {
            mapping: MappingId(job.mapping.0),
            outcome,
            probe: 1,
        })
    }

    pub fn alloc(&mut self, heap: &str, size: u64) -> Result<OpenReply, Status> {
        let request = AllocRequest {
            heap: name(heap).to_wire(),
            size: size.into(),
            flags: 0.into(),
        };
        self.call(OpCode::Alloc, &request).map(read)
    }

    /// What HEAP_LIST says of the heap with this number.
    pub fn heap(&mut self, index: u32) -> Result<HeapReply, Status> {
        let request = HeapListRequest {
            index: index.into(),
            reserved: 0.into(),
        };
        self.call(OpCode::HeapList, &request).map(read)
    }

    pub fn publish(&mut self, handle: u64, text: &str, keep: bool) -> Result<(), Status> {
        let request = PublishRequest {
            handle: handle.into(),
            flags: u64::from(keep).into(),
            name: name(text).to_wire(),
            format: FromZeros::new_zeroed(),
        };
        self.call(OpCode::Publish, &request).map(drop)
    }

    pub fn import(&mut self, text: &str, fds: Vec<OwnedFd>) -> Result<OpenReply, Status> {
        let request = ImportRequest {
            name: name(text).to_wire(),
            flags: 0.into(),
            format: FromZeros::new_zeroed(),
        };
        let done = self.send(OpCode::Import, &request, fds).unwrap();
        answer(&done).map(read)
    }

    pub fn withdraw(&mut self, text: &str) -> Result<(), Status> {
        let request = WithdrawRequest {
            name: name(text).to_wire(),
        };
        self.call(OpCode::Withdraw, &request).map(drop)
    }

    /// REVOKE by name.
    pub fn revoke(&mut self, text: &str, deadline_ms: u32) -> Result<(), Status> {
        let request = RevokeRequest {
            deadline_ms: deadline_ms.into(),
            name: name(text).to_wire(),
            ..FromZeros::new_zeroed()
        };
        self.call(OpCode::Revoke, &request).map(drop)
    }

    /// REVOKE by handle.
    pub fn revoke_handle(&mut self, handle: u64, deadline_ms: u32) -> Result<(), Status> {
        let request = RevokeRequest {
            handle: handle.into(),
            deadline_ms: deadline_ms.into(),
            ..FromZeros::new_zeroed()
        };
        self.call(OpCode::Revoke, &request).map(drop)
    }

    /// Does what a transport does when the session was woken.
    pub fn heed(&mut self) {
        self.session.wake().clear();
        let late = self.session.settle();
        self.late.extend(late);
    }

    /// Allocates and publishes a buffer; returns its handle.
    pub fn share(&mut self, heap: &str, size: u64, text: &str) -> u64 {
        let handle = self.alloc(heap, size).unwrap().handle.get();
        self.publish(handle, text, false).unwrap();
        handle
    }

    /// Kind, sequence and name of every event that waits.
    pub fn events(&mut self) -> Vec<(u32, u64, String)> {
        let events = std::iter::from_fn(|| self.session.next_event());
        let events = events.map(|event| {
            let name = Name::from_wire(event.name).unwrap().as_str().to_owned();
            (event.kind.get(), event.sequence.get(), name)
        });
        events.collect()
    }
}

/// A reply's body or status.
pub fn answer(done: &Done) -> Result<Vec<u8>, Status> {
    let (header, body) = ReplyHeader::read_from_prefix(&done.reply).unwrap();
    match Status(header.status.get()) {
        Status::OK => Ok(body.to_vec()),
        status => {
            assert!(body.is_empty(), "no body with a status");
            assert!(done.along.is_none(), "no fd with a status");
            Err(status)
        }
    }
}

pub fn read<T: FromBytes>(body: Vec<u8>) -> T {
    T::read_from_bytes(&body).expect("the body of this kind")
}
