// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Structures of `linux/videodev2.h`, as they are on 64-bit architectures with natural alignment (x86_64, aarch64),
//! and only those of single- and multi-plane capture. Field order and sizes are the kernel's; names say what is used.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `V4L2_BUF_TYPE_VIDEO_CAPTURE`
pub(crate) const CAPTURE: u32 = 1;
/// `V4L2_BUF_TYPE_VIDEO_CAPTURE_MPLANE`
pub(crate) const CAPTURE_MPLANE: u32 = 9;
/// `V4L2_MEMORY_DMABUF`
pub(crate) const MEMORY_DMABUF: u32 = 4;
/// `V4L2_FIELD_NONE`
pub(crate) const FIELD_NONE: u32 = 1;
/// `V4L2_CAP_VIDEO_CAPTURE`
pub(crate) const CAP_CAPTURE: u32 = 0x0000_0001;
/// `V4L2_CAP_VIDEO_CAPTURE_MPLANE`
pub(crate) const CAP_CAPTURE_MPLANE: u32 = 0x0000_1000;
/// `V4L2_CAP_STREAMING`
pub(crate) const CAP_STREAMING: u32 = 0x0400_0000;
/// `V4L2_CAP_DEVICE_CAPS`
pub(crate) const CAP_DEVICE_CAPS: u32 = 0x8000_0000;
/// `V4L2_BUF_FLAG_ERROR`
pub(crate) const BUFFER_ERROR: u32 = 0x0000_0040;
/// `V4L2_CTRL_FLAG_NEXT_CTRL`
pub(crate) const NEXT_CONTROL: u32 = 0x8000_0000;

macro_rules! layout {
    ($($(#[$doc:meta])* $name:ident [$size:literal] { $($field:ident: $ty:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub(crate) struct $name { $(pub(crate) $field: $ty,)* }
        const _: () = assert!(size_of::<$name>() == $size);
    )*};
}
pub(crate) use layout;

layout! {
    /// `struct v4l2_capability`
    Capability [104] {
        driver: [u8; 16],
        card: [u8; 32],
        bus: [u8; 32],
        version: u32,
        capabilities: u32,
        device_caps: u32,
        reserved: [u32; 3],
    }

    /// `struct v4l2_format`: the union's start is aligned for pointers that the kinds used here don't have.
    Format [208] {
        kind: u32,
        padding: u32,
        picture: [u8; 200],
    }

    /// `struct v4l2_pix_format`
    PixFormat [48] {
        width: u32,
        height: u32,
        fourcc: u32,
        field: u32,
        bytes_per_line: u32,
        size_image: u32,
        colorspace: u32,
        private: u32,
        flags: u32,
        ycbcr: u32,
        quantization: u32,
        transfer: u32,
    }

    /// `struct v4l2_pix_format_mplane`, with the first of its planes
    PixFormatMplane [192] {
        width: u32,
        height: u32,
        fourcc: u32,
        field: u32,
        colorspace: u32,
        size_image: u32,
        bytes_per_line: u32,
        other_planes: [u32; 38],
        num_planes: u8,
        rest: [u8; 11],
    }

    /// `struct v4l2_requestbuffers`
    RequestBuffers [20] {
        count: u32,
        kind: u32,
        memory: u32,
        capabilities: u32,
        flags: u8,
        reserved: [u8; 3],
    }

    /// `struct v4l2_buffer`
    Buffer [88] {
        index: u32,
        kind: u32,
        bytes_used: u32,
        flags: u32,
        field: u32,
        padding: u32,
        seconds: i64,
        microseconds: i64,
        timecode: [u32; 4],
        sequence: u32,
        memory: u32,
        memory_of_plane: u64,
        length: u32,
        reserved: u32,
        request: i32,
        padding2: u32,
    }

    /// `struct v4l2_plane`
    Plane [64] {
        bytes_used: u32,
        length: u32,
        memory: u64,
        data_offset: u32,
        reserved: [u32; 11],
    }

    /// `struct v4l2_streamparm` for capture
    Parameters [204] {
        kind: u32,
        capability: u32,
        mode: u32,
        numerator: u32,
        denominator: u32,
        rest: [u32; 46],
    }

    /// `struct v4l2_control`
    Control [8] {
        id: u32,
        value: i32,
    }

    /// `struct v4l2_queryctrl`
    QueryControl [68] {
        id: u32,
        kind: u32,
        name: [u8; 32],
        minimum: i32,
        maximum: i32,
        step: i32,
        default: i32,
        flags: u32,
        reserved: [u32; 2],
    }
}

const _: () = assert!(std::mem::offset_of!(Buffer, seconds) == 24);
const _: () = assert!(std::mem::offset_of!(Buffer, sequence) == 56);
const _: () = assert!(std::mem::offset_of!(Buffer, memory_of_plane) == 64);
const _: () = assert!(std::mem::offset_of!(Format, picture) == 8);
