// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One peer's session: its handles and mappings, what it may do, and the way from a request to a reply.
//!
//! A session takes request bytes and gives reply bytes; it knows no virtqueue and no socket. What can't be answered
//! at once (a mapping in the dynamic window) goes to the [`Window`] as a job, and is answered when its result comes
//! back or its deadline passes. Driven by `vhost` and `broker`.

mod events;
mod explain;
mod fences;
mod grants;
mod mapping;
mod open;
mod producer;
mod range;
mod revoke;
mod streams;
mod sync;
mod table;
#[cfg(test)]
mod tests;
mod usage;
mod vm;
mod window;

pub use fences::FenceCounts;
pub use grants::{FenceTerms, Grant, Limits, Pattern, Policy, Target};
pub use mapping::{Windows, window_bits};
pub use producer::Host;
pub use usage::{Charge, Usage};
pub use vm::VmSession;
pub use window::{JobResult, MapError, MapSource, Window, WindowJob};

use crate::buffer::{Alias, Subscription};
use crate::stream::Messenger;
use dmabuf_protocol::request::Envelope;
use dmabuf_protocol::stream::StreamRequest;
use dmabuf_protocol::wire::{self, ReplyHeader};
use dmabuf_protocol::{Access, Handle, MappingId, OpCode, Request, Status, VERSION};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use streams::End;
use table::Table;
use usage::SessionUse;
use zerocopy::{FromZeros, IntoBytes};

/// How long a front-end may take to answer a mapping request.
pub const MAP_DEADLINE: Duration = Duration::from_secs(5);

/// Most requests of a session that wait for its window.
pub const MAX_INFLIGHT: u32 = 64;

/// What a transport gets back for a request.
#[derive(Debug)]
pub struct Done {
    /// What the transport called the request.
    pub token: u64,
    /// The whole reply, header included.
    pub reply: Vec<u8>,
    /// What goes along, on transports that carry fds.
    pub along: Option<Along>,
}

/// What an fd that goes along with a reply is of.
#[derive(Debug)]
pub enum Along {
    /// An alias.
    Alias(Alias),
    /// Fences.
    SyncFile(OwnedFd),
}

impl Along {
    /// The fd; `None` for an alias that a host process can't have.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Alias(alias) => alias.client_source().ok().map(|source| source.fd),
            Self::SyncFile(fd) => Some(fd.as_fd()),
        }
    }
}

/// A reply's body, and what goes along.
pub(crate) type Answer = Result<Body, Status>;

/// See [`Answer`].
pub(crate) struct Body {
    pub bytes: Vec<u8>,
    pub along: Option<Along>,
}

impl Body {
    pub const EMPTY: Self = Self {
        bytes: Vec::new(),
        along: None,
    };

    pub fn of(value: &(impl IntoBytes + zerocopy::Immutable)) -> Self {
        Self {
            bytes: value.as_bytes().to_vec(),
            along: None,
        }
    }
}

/// How requests come in, and thus which of them make sense.
pub enum Transport {
    /// Virtqueues: aliases appear in windows.
    Windows(Box<Windows>),
    /// A socket: aliases are fds.
    Fds,
}

/// A handle's content.
#[derive(Debug)]
struct Held {
    alias: Alias,
    /// It came from ALLOC or IMPORT of this session.
    owned: bool,
    /// It may be mapped by a VMM that maps everything writable, because a guest's write stops that VM.
    fail_stop: bool,
    fences: FenceTerms,
    /// The peer was told that the buffer is revoked.
    told: bool,
}

impl Held {
    /// Of a buffer that this session has made.
    fn own(alias: Alias) -> Self {
        Self {
            alias,
            owned: true,
            fail_stop: false,
            fences: FenceTerms::default(),
            told: false,
        }
    }

    /// Of a buffer that this peer may have on these terms.
    const fn granted(alias: Alias, terms: grants::Terms) -> Self {
        Self {
            alias,
            owned: false,
            fail_stop: terms.fail_stop,
            fences: terms.fences,
            told: false,
        }
    }

    /// Of an alias derived from this one.
    const fn derived(&self, alias: Alias) -> Self {
        Self {
            alias,
            owned: false,
            fail_stop: self.fail_stop,
            fences: self.fences,
            told: false,
        }
    }
}

/// See the module.
pub struct Session {
    host: Arc<Host>,
    policy: Arc<Policy>,
    transport: Transport,
    number: u64,
    /// A handle without anything was revoked.
    handles: Table<Option<Held>>,
    streams: Table<End>,
    /// Shows the peer that there is this session, and what it has.
    _uses: Arc<SessionUse>,
    subscription: Arc<Subscription>,
    /// Of the last event.
    sequence: Arc<AtomicU64>,
    messenger: Option<Arc<dyn Messenger>>,
    fences: fences::OpenFences,
    heeded: revoke::Heeded,
    complaints: crate::complaints::Complaints,
}

impl Session {
    /// A session with nothing in it.
    ///
    /// # Errors
    /// EMFILE, ENFILE.
    pub fn new(
        host: Arc<Host>,
        policy: Arc<Policy>,
        transport: Transport,
    ) -> rustix::io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let first = first_generation()?;
        let (mappings, inflight) = match &transport {
            Transport::Windows(windows) => windows.gauges(),
            Transport::Fds => Default::default(),
        };
        let uses = policy.usage.join(mappings, inflight);
        Ok(Self {
            subscription: host.registry.subscribe(number)?,
            fences: fences::OpenFences::new(uses.waits.clone(), policy.limits.waits)?,
            handles: Table::starting_at(first, policy.limits.handles, uses.handles.clone()),
            streams: Table::starting_at(first, streams::MAX_ENDS, uses.ends.clone()),
            _uses: uses,
            number,
            sequence: Arc::default(),
            messenger: None,
            heeded: revoke::Heeded::default(),
            complaints: crate::complaints::Complaints::default(),
            host,
            policy,
            transport,
        })
    }

    /// Takes one request, with the fds that came along. `capacity` is what the reply may have in bytes, at least a
    /// reply header.
    ///
    /// Returns the reply, or `None` if it will come from [`Self::take_late`], [`Self::settle`], or from
    /// [`VmSession::finish`] or [`VmSession::expire`]. What [`Self::take_late`] has goes first.
    pub fn handle(
        &mut self,
        token: u64,
        bytes: &[u8],
        capacity: usize,
        fds: Vec<OwnedFd>,
    ) -> Option<Done> {
        let envelope = Envelope::of(bytes);
        let request = match Request::parse(bytes) {
            Ok(request) if capacity < request.op().min_reply() => Err(Status::EMSGSIZE),
            other => other,
        };
        let answer = match request {
            Ok(Request::Map {
                handle,
                offset,
                length,
                access,
            }) => self
                .map(Asker { token, envelope }, handle, offset, length, access)
                .transpose()?,
            Ok(Request::Unmap(mapping)) => {
                self.unmap(Asker { token, envelope }, mapping).transpose()?
            }
            Ok(request) if fds.len() > most_fds(&request) => Err(Status::EINVAL),
            Ok(Request::SyncStart { handle, direction }) => {
                return self.sync_start(Asker { token, envelope }, handle, direction);
            }
            Ok(Request::SyncEnd { handle, direction }) => {
                return self.sync_end(Asker { token, envelope }, handle, direction);
            }
            Ok(Request::FenceWait {
                handle,
                usage,
                timeout_ms,
            }) => self
                .fence_wait(Asker { token, envelope }, handle, usage, timeout_ms)
                .transpose()?,
            Ok(Request::Hold {
                handle,
                usage,
                timeout_ms,
            }) => self
                .start_hold(Asker { token, envelope }, handle, usage, timeout_ms)
                .transpose()?,
            Ok(request) => self.answer(request, capacity, fds),
            Err(status) => Err(status),
        };
        Some(done(token, envelope, answer))
    }

    fn answer(&mut self, request: Request, capacity: usize, mut fds: Vec<OwnedFd>) -> Answer {
        if !self.offers(request.op()) {
            return Err(Status::EOPNOTSUPP);
        }
        // Not more than one: the caller has looked.
        let fd = fds.pop();
        if fd.is_none() && matches!(request, Request::Import { .. }) {
            return Err(Status::EINVAL);
        }
        match request {
            Request::GetInfo => Ok(Body::of(&self.info())),
            Request::List { cursor, max } => Ok(self.list(cursor, max, capacity)),
            Request::GetUsage { cursor, max } => Ok(self.get_usage(cursor, max, capacity)),
            Request::Open {
                name,
                flags,
                enforcement,
            } => self.open(&name, flags, enforcement),
            Request::Close(handle) => self.close(handle),
            Request::Derive {
                handle,
                flags,
                enforcement,
            } => self.derive(handle, flags, enforcement),
            Request::FenceCancel { tag } => self.fence_cancel(tag),
            Request::FenceQuery { handle, usage } => self.fence_query(handle, usage),
            Request::Release { handle, value } => self.release(handle, value),
            // Those that can be answered later have been taken out by the caller.
            Request::Map { .. }
            | Request::Unmap(_)
            | Request::SyncStart { .. }
            | Request::SyncEnd { .. }
            | Request::FenceWait { .. }
            | Request::Hold { .. } => Err(Status::EOPNOTSUPP),
            Request::Alloc { heap, size } => self.alloc(&heap, size),
            Request::Import { name, keep, format } => self.import(name, keep, format, fd),
            Request::Publish {
                handle,
                name,
                keep,
                format,
            } => self.publish(handle, name, keep, format),
            Request::Withdraw(name) => self.withdraw(&name),
            Request::HeapList { index } => self.heap(index),
            Request::Revoke {
                target,
                deadline_ms,
            } => self.revoke(target, deadline_ms),
            Request::Stream(request) => self.stream(request, capacity, fd),
        }
    }

    /// Whether this peer's transport, and for a VM its configuration, have this request at all.
    fn offers(&self, op: OpCode) -> bool {
        let virtqueues = matches!(self.transport, Transport::Windows(_));
        let allocates = !self.policy.allocate.is_empty();
        let publishes = !self.policy.publish.is_empty();
        match op {
            OpCode::Map | OpCode::Unmap => virtqueues,
            OpCode::Import => !virtqueues,
            OpCode::Alloc | OpCode::HeapList => !virtqueues || allocates,
            OpCode::Revoke => !virtqueues || allocates || publishes,
            OpCode::Publish
            | OpCode::Withdraw
            | OpCode::StreamCreate
            | OpCode::StreamAdd
            | OpCode::StreamQueue
            | OpCode::StreamReclaim
            | OpCode::StreamRevoke => !virtqueues || publishes,
            _ => true,
        }
    }

    fn info(&self) -> wire::InfoReply {
        let mut info = wire::InfoReply {
            version: VERSION.into(),
            max_handles: self.policy.limits.handles.into(),
            max_inflight: MAX_INFLIGHT.into(),
            handles: self.handles.len().into(),
            name: self.policy.name.to_wire(),
            ..FromZeros::new_zeroed()
        };
        if let Transport::Windows(windows) = &self.transport {
            windows.describe(&mut info);
        }
        info
    }

    fn map(
        &mut self,
        asker: Asker,
        handle: Handle,
        offset: u64,
        length: u64,
        access: Access,
    ) -> Result<Option<Body>, Status> {
        let Transport::Windows(windows) = &mut self.transport else {
            return Err(Status::EOPNOTSUPP);
        };
        let held = self.handles.held(handle)?;
        let source = (handle, &held.alias, held.fail_stop);
        windows.map(asker, source, offset, length, access)
    }

    fn unmap(&mut self, asker: Asker, mapping: MappingId) -> Result<Option<Body>, Status> {
        match &mut self.transport {
            Transport::Windows(windows) => windows.unmap(asker, mapping),
            Transport::Fds => Err(Status::EOPNOTSUPP),
        }
    }

    /// Ends everything the peer had, as after a reset of the device: handles and mappings are stale from now on, and
    /// what it has published goes along unless it is to stay.
    ///
    /// The front-end has dropped the mappings of the window itself. What it was just being asked to map is undone when
    /// its answer comes.
    pub fn reset(&mut self) {
        self.host.registry.withdraw_all(self.number);
        self.streams.clear();
        self.handles.clear();
        if let Transport::Windows(windows) = &mut self.transport {
            windows.abandon();
        }
        self.abandon_fences();
        self.host.fences.reactor.orphan(self.number);
        self.subscription.clear();
        self.heeded.clear();
        self.sequence.store(0, Ordering::Relaxed);
    }

    /// Ends the session: everything the peer had is released, and its window is given up.
    pub fn end(&mut self) {
        self.transport = Transport::Fds;
        self.streams.clear();
        self.handles.clear();
        self.abandon_fences();
        self.host.fences.reactor.orphan(self.number);
        self.host.registry.withdraw_all(self.number);
    }

    /// Handles and mappings held now.
    #[must_use]
    pub const fn counts(&self) -> (u32, u32) {
        let mappings = match &self.transport {
            Transport::Windows(windows) => windows.mappings(),
            Transport::Fds => 0,
        };
        (self.handles.len(), mappings)
    }

    /// What the configuration says of the peer.
    #[must_use]
    pub const fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end();
    }
}

pub(crate) fn done(token: u64, envelope: Envelope, answer: Answer) -> Done {
    let (status, body) = match answer {
        Ok(body) => (Status::OK, body),
        Err(status) => (status, Body::EMPTY),
    };
    let mut reply = Vec::with_capacity(size_of::<ReplyHeader>() + body.bytes.len());
    reply.extend_from_slice(envelope.reply(status).as_bytes());
    reply.extend_from_slice(&body.bytes);
    Done {
        token,
        reply,
        along: body.along,
    }
}

/// How many fds can come along.
const fn most_fds(request: &Request) -> usize {
    match request {
        Request::Import { .. } => 1,
        Request::Stream(StreamRequest::Queue { flags, .. }) if *flags & wire::FRAME_FENCED != 0 => {
            1
        }
        _ => 0,
    }
}

/// Who is to get a reply that comes later.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker {
    pub token: u64,
    pub envelope: Envelope,
}

/// A peer that comes back can still have numbers of the session before: they are to be stale, and not to be others.
/// Half of the generations are left to be used.
fn first_generation() -> rustix::io::Result<u32> {
    let mut random = [0; 4];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    Ok(u32::from_ne_bytes(random) >> 1 | 1)
}

fn access_of(flags: dmabuf_protocol::Flags) -> Result<Access, Status> {
    flags.access_from(Access::ReadWrite)
}
