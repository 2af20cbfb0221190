// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the daemon says of a buffer, checked.

use crate::error::{Error, Result};
use dmabuf_protocol::{Access, BufferId, Enforcement, HeapKind, Name, PAGE_SIZE, wire};

/// One buffer, as LIST shows it and as OPEN, DERIVE, ALLOC and IMPORT answer it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferInfo {
    /// The buffer's number, never used again.
    pub id: BufferId,
    /// Its name; none before it is published.
    pub name: Option<Name>,
    /// Size in bytes, a multiple of 4096, not 0.
    pub size: u64,
    /// The access this process may have (LIST) or got.
    pub access: Access,
    /// Who makes it read-only.
    pub enforcement: Enforcement,
    /// Where it comes from.
    pub heap: HeapKind,
    /// Whether virtual machines find it in a static window.
    pub static_window: bool,
    /// The picture in it, if known.
    pub format: Option<wire::Format>,
}

impl TryFrom<&wire::BufferInfo> for BufferInfo {
    type Error = Error;

    fn try_from(raw: &wire::BufferInfo) -> Result<Self> {
        let wrong = |what| move |_| Error::Protocol(what);
        let size = raw.size.get();
        if size == 0 || !size.is_multiple_of(PAGE_SIZE) {
            return Err(Error::Protocol("a buffer whose size is not whole pages"));
        }
        let name = match raw.name {
            [0, ..] => None,
            text => Some(Name::from_wire(text).map_err(wrong("a malformed name"))?),
        };
        Ok(Self {
            id: BufferId(raw.id.get()),
            name,
            size,
            access: Access::from_wire(raw.access.get()).map_err(wrong("an unknown access"))?,
            enforcement: Enforcement::from_wire(raw.enforcement.get())
                .map_err(wrong("an unknown enforcement"))?,
            heap: HeapKind::from_wire(raw.heap.get()).map_err(wrong("an unknown heap"))?,
            static_window: raw.flags.get() & wire::BUFFER_STATIC_WINDOW != 0,
            format: picture(&raw.format)?,
        })
    }
}

pub(crate) fn picture(raw: &wire::Format) -> Result<Option<wire::Format>> {
    if raw.fourcc.get() == 0 {
        return Ok(None);
    }
    if !(1..=4).contains(&raw.num_planes.get()) {
        return Err(Error::Protocol(
            "a picture without planes, or with too many",
        ));
    }
    Ok(Some(*raw))
}
