// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What peers use of what the daemon lets them have (SPEC.md, "GET_USAGE").

use crate::client::Client;
use crate::error::{Error, Result};
use crate::stream::{MAX_PAGES, entries_of, name};
use dmabuf_protocol::{Name, OpCode, wire};
pub use dmabuf_protocol::{PeerKind, Resource};
use zerocopy::little_endian::{U32, U64};

/// One resource of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// What it is.
    pub resource: Resource,
    /// How much is in use.
    pub used: u64,
    /// The most there can be; `None`: no limit.
    pub limit: Option<u64>,
    /// It is limited for each session, and `used` is that of the session that has most; otherwise both are for all
    /// sessions together.
    pub per_session: bool,
}

/// One peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerUsage {
    /// As the configuration calls it.
    pub name: Name,
    /// Who it is.
    pub kind: PeerKind,
    /// Its connections now; a VM has one whether or not its VMM is there.
    pub sessions: u32,
    /// Every resource, in the order of the protocol.
    pub uses: [Use; Resource::COUNT],
}

impl Client {
    /// GET_USAGE, all pages: this peer, or all of them if the configuration lets it monitor them.
    ///
    /// # Errors
    /// As every call.
    pub fn usage(&mut self) -> Result<Vec<PeerUsage>> {
        let mut peers = Vec::new();
        let mut cursor = 0;
        for _ in 0..MAX_PAGES {
            let request = wire::ListRequest {
                cursor: U64::new(cursor),
                max: U32::ZERO,
                reserved: U32::ZERO,
            };
            let reply = self.connection.call(OpCode::GetUsage, &request, None)?;
            let (head, entries) = reply.starting_with::<wire::ListReply>()?;
            for entry in entries_of::<wire::PeerUsage>(entries, head.count.get())? {
                peers.push(peer(&entry)?);
            }
            match head.next.get() {
                0 => return Ok(peers),
                next if next > cursor => cursor = next,
                _ => return Err(Error::Protocol("a list that goes back")),
            }
        }
        Err(Error::Protocol("a list without an end"))
    }
}

fn peer(entry: &wire::PeerUsage) -> Result<PeerUsage> {
    let mut per_session = entry.per_session.get();
    let mut numbers = entry.uses.iter();
    let uses = Resource::ALL.map(|resource| {
        let each = per_session & 1 == 1;
        per_session >>= 1;
        let (used, limit) = numbers
            .next()
            .map_or((0, 0), |number| (number.used.get(), number.limit.get()));
        Use {
            resource,
            used,
            limit: (limit != u64::MAX).then_some(limit),
            per_session: each,
        }
    });
    Ok(PeerUsage {
        name: name(entry.name)?,
        kind: PeerKind::from_wire(entry.kind.get())
            .map_err(|_| Error::Protocol("a peer of an unknown kind"))?,
        sessions: entry.sessions.get(),
        uses,
    })
}
