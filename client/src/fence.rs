// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Waiting until the hardware has finished with a buffer, and telling others that this process has.
//!
//! A wait goes on in the daemon; its end is a message on the connection. So [`FenceWait`] has an fd to poll, the
//! connection's, and whoever finds that readable asks [`Client::wait_result`]. Ask before polling, too: the end may have
//! come in between the replies to other calls.
//!
//! Who has a dma-buf ([`crate::SharedMemory::is_dma_buf`]) or an alias of the host module can also poll that: its fd is readable
//! when the buffer can be read. What a wait in the daemon has on top are its deadline, the end of the producer as an
//! error, and the errors of fences.

use crate::alias::Alias;
use crate::client::Client;
use crate::connection::wait;
use crate::error::{Error, Result};
use dmabuf_protocol::{FenceUsage, OpCode, Status, SyncDirection, wire};
use rustix::event::PollFlags;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// How a wait has ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waited {
    /// Fences that were waited for.
    pub fences: u32,
    /// When the last of them signalled, on `CLOCK_MONOTONIC`; `None` if there were none.
    pub signalled_at: Option<Duration>,
    /// The buffer is no dma-buf: it has no fences.
    pub no_dma_buf: bool,
}

/// What the fences of a buffer are doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceState {
    /// They haven't all ended.
    Pending,
    /// They have; or there are none.
    Signalled,
    /// They have, one of them with this error.
    Failed(Status),
}

/// The end of a wait, as it came from the daemon.
pub(crate) type Ended = std::result::Result<Waited, Status>;

pub(crate) trait ParseEnded: Sized {
    fn parse(status: Status, body: &[u8]) -> Result<Self>;
}

/// A wait as the connection knows it.
#[derive(Debug)]
pub(crate) struct Open(Arc<OnceLock<Ended>>);

impl Open {
    /// Notes the end.
    pub(crate) fn end(self, ended: Ended) {
        // The daemon ends a wait once: the connection has forgotten this one.
        let _ = self.0.set(ended);
    }
}

impl ParseEnded for Ended {
    fn parse(status: Status, body: &[u8]) -> Result<Self> {
        if status != Status::OK {
            return if body.is_empty() {
                Ok(Err(status))
            } else {
                Err(Error::Protocol("a refusal with a body"))
            };
        }
        let body = wire::FenceWaitReply::read_from_bytes(body)
            .map_err(|_| Error::Protocol("a reply with a wrong length"))?;
        let timestamp = body.timestamp_ns.get();
        Ok(Ok(Waited {
            fences: body.fences.get(),
            signalled_at: (timestamp != 0).then(|| Duration::from_nanos(timestamp)),
            no_dma_buf: no_dma_buf(body.flags)?,
        }))
    }
}

/// A wait that goes on in the daemon. Dropping it leaves it to end there by itself.
#[derive(Debug)]
pub struct FenceWait {
    tag: u64,
    ended: Arc<OnceLock<Ended>>,
    socket: OwnedFd,
}

impl FenceWait {
    fn result(&self) -> Option<Result<Waited>> {
        let request = OpCode::FenceWait;
        let ended = *self.ended.get()?;
        Some(ended.map_err(|status| Error::Refused { request, status }))
    }
}

impl AsFd for FenceWait {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Client {
    /// FENCE_WAIT: begins a wait until the buffer can be read or written, for at most `limit` (zero: as long as the
    /// daemon allows, which bounds longer ones, too). Fences that are added later are not waited for.
    ///
    /// # Errors
    /// [`Error::Deadline`], [`Error::Gone`], [`Error::Broken`]; what the daemon says comes from [`Self::wait_result`].
    pub fn fence_wait(
        &mut self,
        alias: &Alias,
        usage: FenceUsage,
        limit: Duration,
    ) -> Result<FenceWait> {
        let socket = self
            .as_fd()
            .try_clone_to_owned()
            .map_err(|_| Error::Argument("no more fds: close some, or raise ulimit -n".into()))?;
        let ended = Arc::new(OnceLock::new());
        let request = usage_request(alias, usage, limit);
        self.connection
            .begin_wait(&request, Open(Arc::clone(&ended)))?;
        Ok(FenceWait {
            tag: self.connection.last_tag(),
            ended,
            socket,
        })
    }

    /// How a wait has ended; `None`: it hasn't. Doesn't wait.
    ///
    /// # Errors
    /// [`Error::Refused`] with `ETIMEDOUT`, `EOWNERDEAD` when the producer ended first, `ECANCELED`, a fence's own
    /// error, `EBUSY` for too many waits, `EACCES`; [`Error::Gone`], [`Error::Protocol`], [`Error::Broken`].
    pub fn wait_result(&mut self, wait: &FenceWait) -> Result<Option<Waited>> {
        if wait.result().is_none() {
            self.connection.take_arrived()?;
        }
        wait.result().transpose()
    }

    /// Waits for the end of a wait.
    ///
    /// # Errors
    /// As [`Self::wait_result`].
    pub fn finish_wait(&mut self, fence_wait: &FenceWait) -> Result<Waited> {
        loop {
            if let Some(waited) = self.wait_result(fence_wait)? {
                return Ok(waited);
            }
            // The daemon ends every wait, and if it ends itself, the socket becomes readable.
            let a_while = Instant::now() + Duration::from_secs(60);
            wait(self.as_fd(), PollFlags::IN, a_while)
                .map_err(Error::system("waiting for the daemon"))?;
        }
    }

    /// FENCE_CANCEL: ends a wait early. True: by this; false: it had ended already. Either way its result is there, or
    /// comes soon.
    ///
    /// # Errors
    /// As every call.
    pub fn cancel_wait(&mut self, wait: &FenceWait) -> Result<bool> {
        let request = wire::FenceCancelRequest {
            tag: U64::new(wait.tag),
        };
        match self.done(OpCode::FenceCancel, &request) {
            Ok(()) => Ok(true),
            Err(refused) if refused.status() == Some(Status::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// FENCE_QUERY: what the fences of a buffer are doing; doesn't wait for them.
    ///
    /// # Errors
    /// As every call.
    pub fn fence_state(&mut self, alias: &Alias, usage: FenceUsage) -> Result<FenceState> {
        let request = usage_request(alias, usage, Duration::ZERO);
        let reply: wire::FenceQueryReply = self
            .connection
            .call(OpCode::FenceQuery, &request, None)?
            .exactly()?;
        no_dma_buf(reply.flags)?;
        match (reply.state.get(), reply.error.get()) {
            (wire::FENCE_PENDING, 0) => Ok(FenceState::Pending),
            (wire::FENCE_SIGNALLED, 0) => Ok(FenceState::Signalled),
            (wire::FENCE_FAILED, error) if error != 0 => Ok(FenceState::Failed(Status(error))),
            _ => Err(Error::Protocol("a fence in a state that there isn't")),
        }
    }

    /// SYNC_START: begins an access of the CPU through the daemon, after the fences that are in its way. Returns how many
    /// such accesses of this alias are open now. For aliases that can't be bracketed by themselves: the read-only memfd of
    /// a udmabuf pool. Elsewhere [`crate::SharedMemory::begin_cpu_access`] is shorter.
    ///
    /// # Errors
    /// As every call. Set a deadline above the daemon's longest wait ([`Client::set_deadline`]).
    pub fn sync_start(&mut self, alias: &Alias, direction: SyncDirection) -> Result<u32> {
        self.sync(OpCode::SyncStart, alias, direction)
    }

    /// SYNC_END: ends the access that was begun last for the same `direction`; returns how many are open now.
    ///
    /// # Errors
    /// As every call; `EINVAL` if none is open.
    pub fn sync_end(&mut self, alias: &Alias, direction: SyncDirection) -> Result<u32> {
        self.sync(OpCode::SyncEnd, alias, direction)
    }

    fn sync(&mut self, op: OpCode, alias: &Alias, direction: SyncDirection) -> Result<u32> {
        let request = wire::SyncRequest {
            handle: U64::new(alias.handle().0),
            flags: U32::new(direction.to_wire()),
            reserved: U32::ZERO,
        };
        let reply: wire::SyncReply = self.connection.call(op, &request, None)?.exactly()?;
        no_dma_buf(reply.flags)?;
        Ok(reply.open.get())
    }

    /// RELEASE: tells the buffer's producer that this process is done with it, for now; ends a hold.
    ///
    /// # Errors
    /// As every call.
    pub fn release(&mut self, alias: &Alias, value: u64) -> Result<()> {
        let request = wire::ReleaseRequest {
            handle: U64::new(alias.handle().0),
            value: U64::new(value),
        };
        self.done(OpCode::Release, &request)
    }

    /// HOLD: puts a fence of the host on the buffer, for which devices and others wait, until [`Self::release`] or for
    /// at most `limit` (zero: as long as the daemon allows). Returns the time that it lasts at most.
    ///
    /// # Errors
    /// As every call.
    pub fn hold(&mut self, alias: &Alias, usage: FenceUsage, limit: Duration) -> Result<Duration> {
        let request = usage_request(alias, usage, limit);
        let reply: wire::HoldReply = self
            .connection
            .call(OpCode::Hold, &request, None)?
            .exactly()?;
        Ok(Duration::from_millis(reply.timeout_ms.get().into()))
    }

    fn done(&mut self, op: OpCode, request: &(impl IntoBytes + Immutable)) -> Result<()> {
        self.connection
            .call(op, request, None)?
            .exactly::<[u8; 0]>()?;
        Ok(())
    }
}

/// The request of FENCE_WAIT, HOLD, and (with a time of 0) FENCE_QUERY, which have the same form.
fn usage_request(alias: &Alias, usage: FenceUsage, limit: Duration) -> wire::FenceWaitRequest {
    // A limit below a millisecond isn't none.
    let ms = limit.as_nanos().div_ceil(1_000_000);
    wire::FenceWaitRequest {
        handle: U64::new(alias.handle().0),
        usage: U32::new(usage.to_wire()),
        timeout_ms: U32::new(u32::try_from(ms).unwrap_or(u32::MAX)),
    }
}

fn no_dma_buf(flags: U32) -> Result<bool> {
    match flags.get() {
        0 => Ok(false),
        wire::FENCE_NO_DMA_BUF => Ok(true),
        _ => Err(Error::Protocol("flags that there aren't")),
    }
}
