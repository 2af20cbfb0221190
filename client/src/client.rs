// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! [`Client`]: one method per request of the broker's socket.
//!
//! Every call waits for its reply, at most until the deadline ([`DEFAULT_DEADLINE`], [`Client::set_deadline`]). Handles
//! belong to the connection: the daemon takes them back when the [`Client`] is dropped; the memory of an [`Alias`] stays.

use crate::alias::{Alias, Allocation};
use crate::buffer::BufferInfo;
use crate::connection::{Connection, LIST_PAGE, Reply};
use crate::error::{Error, Result};
use crate::event::Event;
use dmabuf_protocol::{Access, Enforcement, Flags, Handle, Name, OpCode, PAGE_SIZE, wire};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;
use zerocopy::FromZeros;
use zerocopy::little_endian::{U32, U64};

/// The time limit of a call when none was set.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(5);
/// More buffers than any daemon has: a LIST that goes on after that never ends.
const MAX_LISTED: usize = 1 << 16;

/// What the daemon says of itself and of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// Version of the protocol.
    pub version: u32,
    /// This process' name in the daemon's configuration.
    pub peer: Name,
    /// Most handles it can hold.
    pub max_handles: u32,
    /// Handles it holds now.
    pub handles: u32,
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    pub(crate) connection: Connection,
}

impl Client {
    /// Connects to the broker's socket.
    ///
    /// # Errors
    /// [`Error::Connect`], or [`Error::Deadline`] when the broker doesn't accept.
    pub fn connect(path: &Path) -> Result<Self> {
        Ok(Self {
            connection: Connection::connect(path, DEFAULT_DEADLINE)?,
        })
    }

    /// Takes over a `SOCK_SEQPACKET` socket that is already connected to a broker.
    ///
    /// # Errors
    /// [`Error::System`] when it can't be made non-blocking.
    pub fn from_socket(socket: OwnedFd) -> Result<Self> {
        Ok(Self {
            connection: Connection::new(socket, DEFAULT_DEADLINE)?,
        })
    }

    /// Sets the time limit of each later call.
    pub const fn set_deadline(&mut self, deadline: Duration) {
        self.connection.deadline = deadline;
    }

    /// GET_INFO: the daemon's version, and this process' name and limits.
    ///
    /// # Errors
    /// As every call: [`Error::Refused`], [`Error::Deadline`], [`Error::Gone`], [`Error::Protocol`].
    pub fn info(&mut self) -> Result<Info> {
        let reply: wire::InfoReply = self
            .connection
            .call(OpCode::GetInfo, &[0u8; 0], None)?
            .exactly()?;
        Ok(Info {
            version: reply.version.get(),
            peer: Name::from_wire(reply.name)
                .map_err(|_| Error::Protocol("a malformed peer name"))?,
            max_handles: reply.max_handles.get(),
            handles: reply.handles.get(),
        })
    }

    /// LIST, all pages: what this process may open.
    ///
    /// # Errors
    /// As every call.
    pub fn list(&mut self) -> Result<Vec<BufferInfo>> {
        let mut buffers = Vec::new();
        let mut cursor = 0;
        loop {
            let request = wire::ListRequest {
                cursor: U64::new(cursor),
                max: U32::new(LIST_PAGE),
                reserved: U32::ZERO,
            };
            let reply = self.connection.call(OpCode::List, &request, None)?;
            let next = list_page(&reply, cursor, &mut buffers)?;
            if next == 0 {
                return Ok(buffers);
            }
            if buffers.len() > MAX_LISTED {
                return Err(Error::Protocol("a list without an end"));
            }
            cursor = next;
        }
    }

    /// OPEN: an alias of the buffer `name`, with the enforcement that the grant demands.
    ///
    /// # Errors
    /// As every call; [`Error::BadName`].
    pub fn open(&mut self, name: &str, access: Access) -> Result<Alias> {
        self.open_with(name, access, Enforcement::None)
    }

    /// OPEN with at least the given enforcement ([`Enforcement::None`]: what the grant demands).
    ///
    /// # Errors
    /// As every call; [`Error::BadName`].
    pub fn open_with(&mut self, name: &str, access: Access, least: Enforcement) -> Result<Alias> {
        let name = parse_name(name)?;
        let request = wire::OpenRequest {
            name: name.to_wire(),
            flags: U32::new(Flags::from(access).0),
            enforcement: U32::new(least.to_wire()),
        };
        let reply = self.connection.call(OpCode::Open, &request, None)?;
        granted(named(alias(reply)?, name)?, access)
    }

    /// DERIVE: a second alias of the same memory, with the same or less access.
    ///
    /// # Errors
    /// As every call.
    pub fn derive(&mut self, parent: &Alias, access: Access) -> Result<Alias> {
        granted(
            self.derive_with(parent, Flags::from(access), Enforcement::None)?,
            access,
        )
    }

    /// DERIVE with access flags as they go over the wire, checked by nobody but the daemon.
    ///
    /// # Errors
    /// As every call.
    pub fn derive_with(
        &mut self,
        parent: &Alias,
        flags: Flags,
        least: Enforcement,
    ) -> Result<Alias> {
        let request = wire::DeriveRequest {
            handle: U64::new(parent.handle().0),
            flags: U32::new(flags.0),
            enforcement: U32::new(least.to_wire()),
        };
        let derived = alias(self.connection.call(OpCode::Derive, &request, None)?)?;
        if derived.info().id != parent.info().id || derived.info().access > parent.info().access {
            return Err(Error::Protocol(
                "a derived alias that isn't one of its parent",
            ));
        }
        Ok(derived)
    }

    /// ALLOC: a new buffer of at least `size` bytes from `heap`. Nobody else sees it before [`Self::publish`].
    ///
    /// # Errors
    /// As every call; [`Error::BadName`].
    pub fn alloc(&mut self, heap: &str, size: u64) -> Result<Allocation> {
        let request = wire::AllocRequest {
            heap: parse_name(heap)?.to_wire(),
            size: U64::new(size),
            flags: U64::ZERO,
        };
        let alias = granted(
            alias(self.connection.call(OpCode::Alloc, &request, None)?)?,
            Access::ReadWrite,
        )?;
        if alias.info().size < size {
            return Err(Error::Protocol("a buffer that is smaller than asked for"));
        }
        Ok(Allocation::new(alias))
    }

    /// PUBLISH: gives an allocated buffer a name. With `keep` it stays when this process leaves.
    ///
    /// Slots of a memfd pool must be mapped before: the pool is sealed against new writers with its last slot.
    ///
    /// # Errors
    /// As every call; [`Error::BadName`].
    pub fn publish(
        &mut self,
        allocation: &Allocation,
        name: &str,
        format: Option<wire::Format>,
        keep: bool,
    ) -> Result<()> {
        let request = wire::PublishRequest {
            handle: U64::new(allocation.handle().0),
            flags: publish_flags(keep),
            name: parse_name(name)?.to_wire(),
            format: format.unwrap_or_else(wire::Format::new_zeroed),
        };
        self.connection
            .call(OpCode::Publish, &request, None)?
            .exactly::<[u8; 0]>()?;
        Ok(())
    }

    /// IMPORT: names memory that this process brings along: a dma-buf, or a memfd with `F_SEAL_SHRINK`.
    ///
    /// # Errors
    /// As every call; [`Error::BadName`].
    pub fn import(
        &mut self,
        name: &str,
        memory: BorrowedFd<'_>,
        format: Option<wire::Format>,
        keep: bool,
    ) -> Result<Alias> {
        let name = parse_name(name)?;
        let request = wire::ImportRequest {
            name: name.to_wire(),
            flags: publish_flags(keep),
            format: format.unwrap_or_else(wire::Format::new_zeroed),
        };
        let alias = alias(
            self.connection
                .call(OpCode::Import, &request, Some(memory))?,
        )?;
        granted(named(alias, name)?, Access::ReadWrite)
    }

    /// WITHDRAW: takes a published buffer back. Aliases that others hold stay valid.
    ///
    /// # Errors
    /// As every call; [`Error::BadName`].
    pub fn withdraw(&mut self, name: &str) -> Result<()> {
        let request = wire::WithdrawRequest {
            name: parse_name(name)?.to_wire(),
        };
        self.connection
            .call(OpCode::Withdraw, &request, None)?
            .exactly::<[u8; 0]>()?;
        Ok(())
    }

    /// CLOSE: gives the daemon an alias' handle back. Mappings made from the alias stay.
    ///
    /// # Errors
    /// As every call.
    pub fn close(&mut self, alias: Alias) -> Result<()> {
        let request = wire::CloseRequest {
            handle: U64::new(alias.handle().0),
        };
        self.connection
            .call(OpCode::Close, &request, None)?
            .exactly::<[u8; 0]>()?;
        Ok(())
    }

    /// The oldest event that has arrived and wasn't taken yet; doesn't wait. Poll [`Self::as_fd`] for input to wait.
    ///
    /// # Errors
    /// [`Error::Gone`], [`Error::Protocol`], [`Error::Broken`].
    pub fn next_event(&mut self) -> Result<Option<Event>> {
        self.connection.next_event()
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

pub(crate) fn parse_name(text: &str) -> Result<Name> {
    Name::new(text).map_err(|_| Error::BadName(text.to_owned()))
}

const fn publish_flags(keep: bool) -> U64 {
    U64::new(if keep { wire::PUBLISH_KEEP } else { 0 })
}

/// Adds the entries of one page; returns the cursor of the next, 0 at the end.
fn list_page(reply: &Reply, cursor: u64, buffers: &mut Vec<BufferInfo>) -> Result<u64> {
    let wrong = Err(Error::Protocol(
        "a list whose pages don't follow each other",
    ));
    let (head, entries) = reply.starting_with::<wire::ListReply>()?;
    let (entries, rest) = entries.as_chunks::<{ size_of::<wire::BufferInfo>() }>();
    if !rest.is_empty() || u32::try_from(entries.len()) != Ok(head.count.get()) {
        return Err(Error::Protocol("a list with a wrong length"));
    }
    let mut last = cursor;
    for entry in entries {
        let info = BufferInfo::try_from(&zerocopy::transmute!(*entry))?;
        if info.id.0 <= last {
            return wrong;
        }
        last = info.id.0;
        buffers.push(info);
    }
    match head.next.get() {
        0 => Ok(0),
        next if next == last && next > cursor => Ok(next),
        _ => wrong,
    }
}

pub(crate) fn alias(reply: Reply) -> Result<Alias> {
    let body: wire::OpenReply = reply.exactly()?;
    let info = BufferInfo::try_from(&body.buffer)?;
    let offset = body.fd_offset.get();
    if !offset.is_multiple_of(PAGE_SIZE) {
        return Err(Error::Protocol(
            "a buffer that starts inside a page of its fd",
        ));
    }
    Alias::new(Handle(body.handle.get()), reply.into_fd()?, offset, info)
}

fn named(alias: Alias, name: Name) -> Result<Alias> {
    if alias.info().name == Some(name) {
        Ok(alias)
    } else {
        Err(Error::Protocol("another buffer than the one asked for"))
    }
}

fn granted(alias: Alias, access: Access) -> Result<Alias> {
    if alias.info().access == access {
        Ok(alias)
    } else {
        Err(Error::Protocol(
            "an alias with another access than asked for",
        ))
    }
}
