// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The structures of SPEC.md, byte for byte: little-endian, without padding.
//!
//! `kernel/virtio_dmabuf/uapi/virtio_dmabuf.h` is the same in C; the golden vectors under `protocol/golden/` are
//! checked against both.

use crate::types::NAME_LEN;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

macro_rules! wire {
    ($($(#[$doc:meta])* $name:ident [$size:literal] { $($(#[$fdoc:meta])* $field:ident: $ty:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
        #[repr(C)]
        pub struct $name { $($(#[$fdoc])* pub $field: $ty,)* }
        const _: () = assert!(size_of::<$name>() == $size);
    )*};
}

pub use crate::fence::wire::*;
pub use crate::revoke::wire::*;
pub use crate::stream::wire::*;
pub use crate::usage::wire::*;
pub(crate) use wire;

wire! {
    /// Start of every request.
    RequestHeader [16] {
        /// Which request: see [`crate::request::OpCode`].
        op: U32,
        /// Zero.
        reserved: U32,
        /// Chosen by the sender, returned in the reply.
        tag: U64,
    }

    /// Start of every reply.
    ReplyHeader [16] {
        /// The request's `op`.
        op: U32,
        /// 0 or an errno: see [`crate::status::Status`].
        status: U32,
        /// The request's `tag`.
        tag: U64,
    }

    /// The layout of a picture in a buffer.
    Format [64] {
        /// DRM fourcc, e.g. `NV12`; 0: not known, and all other fields are 0.
        fourcc: U32,
        /// Width in pixels.
        width: U32,
        /// Height in pixels.
        height: U32,
        /// Planes in use, 1 to 4.
        num_planes: U32,
        /// DRM format modifier.
        modifier: U64,
        /// Offset of each plane from the start of the buffer, in bytes.
        offset: [U32; 4],
        /// Bytes from one line of a plane to the next.
        stride: [U32; 4],
        /// Zero.
        reserved: U64,
    }

    /// One buffer, as LIST and OPEN show it.
    BufferInfo [160] {
        /// The buffer's number, never used again.
        id: U64,
        /// Size in bytes, a multiple of 4096.
        size: U64,
        /// The access this peer may have (LIST) or got (OPEN): 0 read-only, 2 read-write.
        access: U32,
        /// The enforcement that a mapping will have; 0 for read-write.
        enforcement: U32,
        /// Where it comes from: see [`crate::types::HeapKind`].
        heap: U32,
        /// [`BUFFER_STATIC_WINDOW`] or 0.
        flags: U32,
        /// Layout of the picture in it, if known.
        format: Format,
        /// Name, NUL-padded.
        name: [u8; NAME_LEN],
    }

    /// Body of the GET_INFO reply.
    InfoReply [128] {
        /// [`crate::VERSION`].
        version: U32,
        /// Windows this peer has: [`WINDOW_BIT_DYNAMIC`] | [`WINDOW_BIT_STATIC`].
        windows: U32,
        /// Size of the dynamic window in bytes, 0 for none.
        window_size: U64,
        /// Most handles the peer can hold.
        max_handles: U32,
        /// Most mappings the peer can hold.
        max_mappings: U32,
        /// Most requests that may be open at once.
        max_inflight: U32,
        /// Handles held now.
        handles: U32,
        /// Mappings held now.
        mappings: U32,
        /// What the sealed probe found: 0 not run yet, 1 honours read-only, 2 does not.
        probe: U32,
        /// Zero.
        reserved: [U64; 3],
        /// The peer's name in the daemon's configuration.
        name: [u8; NAME_LEN],
    }

    /// Body of the LIST request.
    ListRequest [16] {
        /// 0 for the first page, then the `next` of the reply before.
        cursor: U64,
        /// Most entries wanted; 0: as many as fit.
        max: U32,
        /// Zero.
        reserved: U32,
    }

    /// Body of the LIST reply, followed by `count` [`BufferInfo`].
    ListReply [16] {
        /// Number of entries that follow.
        count: U32,
        /// Zero.
        reserved: U32,
        /// Cursor of the next page; 0: this was the last.
        next: U64,
    }

    /// Body of the OPEN request.
    OpenRequest [72] {
        /// The buffer's name.
        name: [u8; NAME_LEN],
        /// `O_RDONLY` (0) or `O_RDWR` (2), optionally with `O_CLOEXEC` (0x80000).
        flags: U32,
        /// The least enforcement the peer wants for a read-only alias; 0: what the grant demands.
        enforcement: U32,
    }

    /// Body of the OPEN, DERIVE, ALLOC and IMPORT replies.
    OpenReply [176] {
        /// The new handle.
        handle: U64,
        /// Socket only: where the buffer starts in the fd that came along, in bytes. 0 on a virtqueue.
        fd_offset: U64,
        /// The buffer.
        buffer: BufferInfo,
    }

    /// Body of the CLOSE request.
    CloseRequest [8] {
        /// The handle.
        handle: U64,
    }

    /// Body of the MAP request.
    MapRequest [32] {
        /// The handle.
        handle: U64,
        /// First byte to map, a multiple of 4096.
        offset: U64,
        /// Bytes to map, a multiple of 4096, not 0.
        length: U64,
        /// 0 read-only, 2 read-write.
        access: U32,
        /// Zero.
        reserved: U32,
    }

    /// Body of the MAP reply.
    MapReply [64] {
        /// The new mapping.
        mapping: U64,
        /// Where it is in the window, in bytes.
        window_offset: U64,
        /// Its length in bytes, as asked for.
        length: U64,
        /// 0 read-only, 2 read-write.
        access: U32,
        /// Who makes it read-only: see [`crate::types::Enforcement`].
        enforcement: U32,
        /// How to map it: see [`crate::types::Caching`].
        caching: U32,
        /// [`WINDOW_DYNAMIC`] or [`WINDOW_STATIC`].
        window: U32,
        /// The static window's uuid; zero for the dynamic window.
        uuid: [u8; 16],
        /// Zero.
        reserved: U64,
    }

    /// Body of the UNMAP request.
    UnmapRequest [8] {
        /// The mapping.
        mapping: U64,
    }

    /// Body of the DERIVE request.
    DeriveRequest [16] {
        /// The parent.
        handle: U64,
        /// `O_RDONLY` (0) or `O_RDWR` (2), optionally with `O_CLOEXEC` (0x80000).
        flags: U32,
        /// The least enforcement wanted for a read-only alias; 0: what the parent has.
        enforcement: U32,
    }

    /// Body of the ALLOC request.
    AllocRequest [80] {
        /// Name of the heap or pool.
        heap: [u8; NAME_LEN],
        /// Bytes wanted; rounded up to pages.
        size: U64,
        /// Zero.
        flags: U64,
    }

    /// Body of the IMPORT request (socket); one fd comes along.
    ImportRequest [136] {
        /// The buffer's name.
        name: [u8; NAME_LEN],
        /// [`PUBLISH_KEEP`] or 0.
        flags: U64,
        /// Layout of the picture in it, or all zero.
        format: Format,
    }

    /// Body of the PUBLISH request.
    PublishRequest [144] {
        /// A handle from ALLOC.
        handle: U64,
        /// [`PUBLISH_KEEP`] or 0.
        flags: U64,
        /// The name it is to have.
        name: [u8; NAME_LEN],
        /// Layout of the picture in it, or all zero.
        format: Format,
    }

    /// Body of the WITHDRAW request.
    WithdrawRequest [64] {
        /// Name of a buffer this peer may publish.
        name: [u8; NAME_LEN],
    }

    /// Body of the HEAP_LIST request.
    HeapListRequest [8] {
        /// Which of the peer's heaps, counted from 0.
        index: U32,
        /// Zero.
        reserved: U32,
    }

    /// Body of the HEAP_LIST reply.
    HeapReply [96] {
        /// Its name, for ALLOC.
        name: [u8; NAME_LEN],
        /// Most bytes that one buffer from it can have.
        max_size: U64,
        /// What its buffers are: see [`crate::types::HeapKind`].
        kind: U32,
        /// How many heaps the peer has.
        count: U32,
        /// Zero.
        reserved: [U64; 2],
    }

    /// An event: one buffer of the event queue, or one message on the socket.
    Event [96] {
        /// See [`EVENT_BUFFER_ADDED`] and its neighbours.
        kind: U32,
        /// Zero.
        reserved: U32,
        /// Counts up by 1 from 1 in a session: a gap means that events were lost.
        sequence: U64,
        /// The buffer's number, 0 if the event is about none.
        buffer: U64,
        /// [`EVENT_BUFFER_RELEASED`]: the value that RELEASE carried; [`EVENT_BUFFER_REVOKED`]: milliseconds;
        /// [`EVENT_BUFFER_FREE`]: flags; else zero.
        value: U64,
        /// The buffer's name.
        name: [u8; NAME_LEN],
    }
}

/// [`BufferInfo::flags`]: a MAP of it is answered with a static window.
pub const BUFFER_STATIC_WINDOW: u32 = 1;
/// [`InfoReply::windows`]: the peer has the dynamic window.
pub const WINDOW_BIT_DYNAMIC: u32 = 1;
/// [`InfoReply::windows`]: the peer has static windows.
pub const WINDOW_BIT_STATIC: u32 = 2;
/// [`MapReply::window`]: virtio shared memory region 0.
pub const WINDOW_DYNAMIC: u32 = 0;
/// [`MapReply::window`]: the static window with the reply's uuid.
pub const WINDOW_STATIC: u32 = 1;
/// [`ImportRequest::flags`], [`PublishRequest::flags`]: the buffer stays when its producer leaves.
pub const PUBLISH_KEEP: u64 = 1;
/// [`Event::kind`]: a buffer that this peer may open was added.
pub const EVENT_BUFFER_ADDED: u32 = 0x8000_0001;
/// [`Event::kind`]: a buffer that this peer may open was withdrawn; open handles stay valid.
pub const EVENT_BUFFER_WITHDRAWN: u32 = 0x8000_0002;
/// [`Event::kind`]: a peer is done with a buffer that this session has made, and says so by RELEASE.
pub const EVENT_BUFFER_RELEASED: u32 = 0x8000_0003;
