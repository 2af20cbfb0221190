// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Structures of the driver's uapi header, `kernel/virtio_dmabuf/uapi/virtio_dmabuf.h`, and of `linux/dma-heap.h`. Field
//! order and sizes are those; a test compares them with what a C compiler makes of the header.

use crate::v4l2::raw::layout;
use dmabuf_protocol::wire;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// `VIRTIO_DMABUF_STREAM_FENCES`
pub(crate) const STREAM_FENCES: u32 = 1;
/// `VIRTIO_DMABUF_FRAME_FENCED`
pub(crate) const FRAME_FENCED: u32 = 1;
/// `VIRTIO_DMABUF_PUBLISH_KEEP`
pub(crate) const PUBLISH_KEEP: u32 = 1;
/// `VIRTIO_DMABUF_NAME_LEN`
type Name = [u8; 64];

layout! {
    /// `struct virtio_dmabuf_ioc_info`
    Info [120] {
        version: u32,
        windows: u32,
        window_size: u64,
        max_handles: u32,
        max_mappings: u32,
        handles: u32,
        mappings: u32,
        probe: u32,
        reserved: u32,
        uuid: [u8; 16],
        name: Name,
    }

    /// `struct virtio_dmabuf_ioc_format`
    Format [56] {
        fourcc: u32,
        width: u32,
        height: u32,
        num_planes: u32,
        modifier: u64,
        offset: [u32; 4],
        stride: [u32; 4],
    }

    /// `struct virtio_dmabuf_ioc_buffer`
    Buffer [152] {
        id: u64,
        size: u64,
        access: u32,
        enforcement: u32,
        heap: u32,
        flags: u32,
        format: Format,
        name: Name,
    }

    /// `struct virtio_dmabuf_ioc_list`
    List [32] {
        cursor: u64,
        next: u64,
        entries: u64,
        count: u32,
        reserved: u32,
    }

    /// `struct virtio_dmabuf_ioc_open`
    Open [88] {
        name: Name,
        flags: u32,
        fd: i32,
        enforcement: u32,
        reserved: u32,
        size: u64,
    }

    /// `struct virtio_dmabuf_ioc_event`
    Event [96] {
        kind: u32,
        reserved: u32,
        sequence: u64,
        buffer: u64,
        value: u64,
        name: Name,
    }

    /// `struct virtio_dmabuf_ioc_publish`
    Publish [128] {
        name: Name,
        fd: i32,
        flags: u32,
        format: Format,
    }

    /// `struct virtio_dmabuf_ioc_withdraw`
    Withdraw [64] {
        name: Name,
    }

    /// `struct virtio_dmabuf_ioc_stream_info`
    StreamInfo [144] {
        id: u64,
        produced: u64,
        buffers: u32,
        consumers: u32,
        format: Format,
        name: Name,
    }

    /// `struct virtio_dmabuf_ioc_stream_open`
    StreamOpen [160] {
        name: Name,
        mode: u32,
        depth: u32,
        hold_ms: u32,
        flags: u32,
        options: u32,
        fd: i32,
        buffers: u32,
        max_held: u32,
        id: u64,
        format: Format,
    }

    /// `struct virtio_dmabuf_ioc_frame`
    Frame [40] {
        sequence: u64,
        timestamp_ns: u64,
        skipped: u64,
        index: u32,
        flags: u32,
        hold_ms: u32,
        ready: u32,
    }

    /// `struct virtio_dmabuf_ioc_stream_release`
    StreamRelease [8] {
        sequence: u64,
    }

    /// `struct virtio_dmabuf_ioc_stream_buffer`
    StreamBuffer [24] {
        index: u32,
        flags: u32,
        enforcement: u32,
        fd: i32,
        size: u64,
    }

    /// `struct virtio_dmabuf_ioc_stream_create`
    StreamCreate [136] {
        name: Name,
        format: Format,
        flags: u32,
        fd: i32,
        id: u64,
    }

    /// `struct virtio_dmabuf_ioc_stream_add`
    StreamAdd [8] {
        fd: i32,
        index: u32,
    }

    /// `struct virtio_dmabuf_ioc_stream_queue`
    StreamQueue [24] {
        index: u32,
        flags: u32,
        timestamp_ns: u64,
        sequence: u64,
    }

    /// `struct virtio_dmabuf_ioc_stream_reclaim`
    StreamReclaim [8] {
        index: u32,
        reserved: u32,
    }

    /// `struct dma_heap_allocation_data`
    HeapAllocation [24] {
        length: u64,
        fd: u32,
        fd_flags: u32,
        heap_flags: u64,
    }
}

impl From<Format> for wire::Format {
    fn from(format: Format) -> Self {
        let mut wire = Self::new_zeroed();
        wire.fourcc = U32::new(format.fourcc);
        wire.width = U32::new(format.width);
        wire.height = U32::new(format.height);
        wire.num_planes = U32::new(format.num_planes);
        wire.modifier = U64::new(format.modifier);
        wire.offset = format.offset.map(U32::new);
        wire.stride = format.stride.map(U32::new);
        wire
    }
}

impl From<Option<wire::Format>> for Format {
    fn from(format: Option<wire::Format>) -> Self {
        let format = format.unwrap_or_else(wire::Format::new_zeroed);
        Self {
            fourcc: format.fourcc.get(),
            width: format.width.get(),
            height: format.height.get(),
            num_planes: format.num_planes.get(),
            modifier: format.modifier.get(),
            offset: format.offset.map(U32::get),
            stride: format.stride.map(U32::get),
        }
    }
}

impl From<&Buffer> for wire::BufferInfo {
    fn from(buffer: &Buffer) -> Self {
        let mut wire = Self::new_zeroed();
        wire.id = U64::new(buffer.id);
        wire.size = U64::new(buffer.size);
        wire.access = U32::new(buffer.access);
        wire.enforcement = U32::new(buffer.enforcement);
        wire.heap = U32::new(buffer.heap);
        wire.flags = U32::new(buffer.flags);
        wire.format = buffer.format.into();
        wire.name = buffer.name;
        wire
    }
}

impl From<&Event> for wire::Event {
    fn from(event: &Event) -> Self {
        let mut wire = Self::new_zeroed();
        wire.kind = U32::new(event.kind);
        wire.sequence = U64::new(event.sequence);
        wire.buffer = U64::new(event.buffer);
        wire.value = U64::new(event.value);
        wire.name = event.name;
        wire
    }
}
