// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pixel formats: V4L2's and DRM's fourccs, and where the planes of a picture are in its buffer.

use crate::error::{Error, Result};
use dmabuf_protocol::wire::Format;
use std::fmt;
use std::str::FromStr;
use zerocopy::FromZeros;
use zerocopy::little_endian::U32;

/// Four characters that name a pixel format. V4L2 and DRM don't always use the same ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fourcc(pub u32);

impl Fourcc {
    /// Luma, then interleaved chroma with half the lines and half the columns.
    pub const NV12: Self = Self::of(*b"NV12");

    /// From its characters.
    #[must_use]
    pub const fn of(characters: [u8; 4]) -> Self {
        Self(u32::from_le_bytes(characters))
    }

    /// DRM's fourcc of the same pixels as this one of V4L2, if that is known here.
    #[must_use]
    pub const fn v4l2_to_drm(self) -> Option<Self> {
        match &self.0.to_le_bytes() {
            b"NV12" | b"NV21" | b"NV16" | b"NV61" | b"NV24" | b"YUYV" | b"UYVY" | b"YVYU"
            | b"VYUY" | b"YU12" | b"YV12" | b"XR24" | b"AR24" => Some(self),
            b"RGB3" => Some(Self::of(*b"BG24")),
            b"BGR3" => Some(Self::of(*b"RG24")),
            b"RGBP" => Some(Self::of(*b"RG16")),
            b"GREY" => Some(Self::of(*b"R8  ")),
            _ => None,
        }
    }
}

impl FromStr for Fourcc {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match <[u8; 4]>::try_from(text.as_bytes()) {
            Ok(characters)
                if characters
                    .iter()
                    .all(|c| c.is_ascii_graphic() || *c == b' ') =>
            {
                Ok(Self::of(characters))
            }
            _ => Err(Error::Argument(format!(
                "{text:?} is no fourcc: give 4 characters, like NV12"
            ))),
        }
    }
}

impl fmt::Display for Fourcc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text: String = self
            .0
            .to_le_bytes()
            .iter()
            .map(|&c| {
                if c.is_ascii_graphic() || c == b' ' {
                    char::from(c)
                } else {
                    '?'
                }
            })
            .collect();
        f.pad(text.trim_end())
    }
}

/// The pixels of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// How they are stored.
    pub fourcc: Fourcc,
}

impl fmt::Display for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}×{}", self.fourcc, self.width, self.height)
    }
}

/// The layout of a picture with DRM's `fourcc` in contiguous memory whose first plane has `stride` bytes per line.
/// [`None`] when it doesn't fit the protocol's fields.
#[must_use]
pub fn layout(fourcc: Fourcc, width: u32, height: u32, stride: u32) -> Option<Format> {
    let luma = stride.checked_mul(height)?;
    // Strides of the planes after the first, and their lines.
    let planes: &[(u32, u32)] = match &fourcc.0.to_le_bytes() {
        b"NV12" | b"NV21" => &[(stride, height.div_ceil(2))],
        b"NV16" | b"NV61" => &[(stride, height)],
        b"NV24" => &[(stride.checked_mul(2)?, height)],
        b"YU12" | b"YV12" => &[
            (stride / 2, height.div_ceil(2)),
            (stride / 2, height.div_ceil(2)),
        ],
        _ => &[],
    };
    let mut format = Format::new_zeroed();
    format.fourcc = U32::new(fourcc.0);
    format.width = U32::new(width);
    format.height = U32::new(height);
    format.num_planes = U32::new(u32::try_from(planes.len()).ok()? + 1);
    if let Some(first) = format.stride.first_mut() {
        *first = U32::new(stride);
    }
    let mut end = luma;
    let fields = format
        .offset
        .iter_mut()
        .zip(format.stride.iter_mut())
        .skip(1);
    for (&(stride, lines), (offset, plane_stride)) in planes.iter().zip(fields) {
        *offset = U32::new(end);
        *plane_stride = U32::new(stride);
        end = end.checked_add(stride.checked_mul(lines)?)?;
    }
    Some(format)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nv12_has_two_planes_and_rgb_one() {
        let format = layout(Fourcc::NV12, 1280, 720, 1280).unwrap();
        assert_eq!(format.num_planes.get(), 2);
        assert_eq!(format.offset.map(U32::get), [0, 1280 * 720, 0, 0]);
        assert_eq!(format.stride.map(U32::get), [1280, 1280, 0, 0]);
        let rgb = Fourcc::of(*b"RGB3").v4l2_to_drm().unwrap();
        assert_eq!(rgb.to_string(), "BG24");
        assert_eq!(layout(rgb, 10, 10, 32).unwrap().num_planes.get(), 1);
        assert_eq!(layout(Fourcc::NV12, 1, u32::MAX, 2), None);
    }

    #[test]
    fn fourccs_are_four_characters() {
        assert_eq!("NV12".parse::<Fourcc>().unwrap(), Fourcc::NV12);
        assert!("NV1".parse::<Fourcc>().is_err());
        assert!("NVä".parse::<Fourcc>().is_err());
        assert_eq!(Fourcc::of(*b"R8  ").to_string(), "R8");
    }
}
