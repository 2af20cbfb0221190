// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One frame as a picture to look at: RGB, and PNG files.
//!
//! Frames come from others: whatever their format says, a pixel that isn't inside the bytes is an error.

use crate::error::{Error, Result};
use crate::picture::Fourcc;
use dmabuf_protocol::wire::Format;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

/// Most pixels of a picture: enough for 16384 × 16384.
const MAX_PIXELS: u64 = 1 << 28;

/// Writes a frame to a PNG file.
///
/// # Errors
/// As [`to_rgb`]; [`Error::File`].
pub fn write_png(path: &Path, format: &Format, bytes: &[u8]) -> Result<()> {
    let rgb = to_rgb(format, bytes)?;
    let file = BufWriter::new(File::create(path).map_err(Error::file(path))?);
    let (width, height) = (format.width.get(), format.height.get());
    let mut encoder = png::Encoder::new(file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    let write = || {
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&rgb)?;
        writer.finish()
    };
    write().map_err(|error| Error::file(path)(std::io::Error::other(error)))
}

/// The pixels of a frame, line by line, 3 bytes each. Takes NV12, NV21, YUYV, UYVY, grey, and RGB with 3 or 4 bytes a
/// pixel; what is transparent is shown as if it weren't.
///
/// # Errors
/// [`Error::Argument`] for another format, one with a modifier, and a frame that is shorter than its format says.
pub fn to_rgb(format: &Format, bytes: &[u8]) -> Result<Vec<u8>> {
    let (width, height) = (format.width.get(), format.height.get());
    let pixels = u64::from(width) * u64::from(height);
    let fourcc = Fourcc(format.fourcc.get());
    let drawn = pixel_of(fourcc).filter(|_| pixels <= MAX_PIXELS && format.modifier.get() == 0);
    let pixel = drawn.ok_or_else(|| {
        Error::Argument(format!(
            "frames of format {fourcc} {width}x{height} can't be drawn"
        ))
    })?;
    let planes = Planes { format, bytes };
    let mut rgb = Vec::with_capacity(usize::try_from(3 * pixels).unwrap_or(0));
    for y in 0..height {
        for x in 0..width {
            let pixel = pixel(&planes, x, y).ok_or_else(|| {
                let length = bytes.len();
                Error::Argument(format!(
                    "{length} bytes are too few for {fourcc} {width}x{height}"
                ))
            })?;
            rgb.extend_from_slice(&pixel);
        }
    }
    Ok(rgb)
}

/// The bytes of a frame by plane, line and column.
struct Planes<'a> {
    format: &'a Format,
    bytes: &'a [u8],
}

impl Planes<'_> {
    fn byte(&self, plane: usize, line: u32, column: u32) -> Option<u8> {
        let offset = u64::from(self.format.offset.get(plane)?.get());
        let stride = u64::from(self.format.stride.get(plane)?.get());
        let at = offset + u64::from(line) * stride + u64::from(column);
        self.bytes.get(usize::try_from(at).ok()?).copied()
    }

    fn bytes<const N: usize>(&self, line: u32, columns: [u32; N]) -> Option<[u8; N]> {
        let mut all = [0; N];
        for (byte, column) in all.iter_mut().zip(columns) {
            *byte = self.byte(0, line, column)?;
        }
        Some(all)
    }

    /// Luma in the first plane, chroma of two columns and two lines in the second, its bytes in this order.
    fn subsampled(&self, x: u32, y: u32, [u, v]: [u32; 2]) -> Option<[u8; 3]> {
        let pair = x & !1;
        let chroma = |which| self.byte(1, y / 2, pair + which);
        Some(colour(self.byte(0, y, x)?, chroma(u)?, chroma(v)?))
    }

    /// Two pixels in four bytes; where the luma of the first is, and where the chroma.
    fn packed(&self, x: u32, y: u32, luma: u32, [u, v]: [u32; 2]) -> Option<[u8; 3]> {
        let pair = (x & !1).checked_mul(2)?;
        let own = pair + luma + 2 * (x & 1);
        let [luma, u, v] = self.bytes(y, [own, pair + u, pair + v])?;
        Some(colour(luma, u, v))
    }

    /// Red, green and blue in pixels of `size` bytes.
    fn plain(&self, x: u32, y: u32, size: u32, [r, g, b]: [u32; 3]) -> Option<[u8; 3]> {
        let start = x.checked_mul(size)?;
        self.bytes(y, [start + r, start + g, start + b])
    }
}

type Pixel = fn(&Planes<'_>, u32, u32) -> Option<[u8; 3]>;

/// How DRM's format of this name is read.
fn pixel_of(fourcc: Fourcc) -> Option<Pixel> {
    Some(match &fourcc.0.to_le_bytes() {
        b"NV12" => |frame, x, y| frame.subsampled(x, y, [0, 1]),
        b"NV21" => |frame, x, y| frame.subsampled(x, y, [1, 0]),
        b"YUYV" => |frame, x, y| frame.packed(x, y, 0, [1, 3]),
        b"UYVY" => |frame, x, y| frame.packed(x, y, 1, [0, 2]),
        b"XR24" | b"AR24" => |frame, x, y| frame.plain(x, y, 4, [2, 1, 0]),
        b"XB24" | b"AB24" => |frame, x, y| frame.plain(x, y, 4, [0, 1, 2]),
        b"RG24" => |frame, x, y| frame.plain(x, y, 3, [2, 1, 0]),
        b"BG24" => |frame, x, y| frame.plain(x, y, 3, [0, 1, 2]),
        b"R8  " | b"GREY" => |frame, x, y| frame.plain(x, y, 1, [0, 0, 0]),
        _ => return None,
    })
}

/// BT.601, limited range.
fn colour(y: u8, u: u8, v: u8) -> [u8; 3] {
    let (y, u, v) = (
        298 * (i32::from(y) - 16),
        i32::from(u) - 128,
        i32::from(v) - 128,
    );
    let channel = |sum: i32| u8::try_from(((sum + 128) >> 8).clamp(0, 255)).unwrap_or(u8::MAX);
    [
        channel(y + 409 * v),
        channel(y - 100 * u - 208 * v),
        channel(y + 516 * u),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::layout;
    use zerocopy::little_endian::{U32, U64};

    const BLACK: [u8; 3] = [0; 3];
    const WHITE: [u8; 3] = [255; 3];

    fn frame(fourcc: [u8; 4], width: u32, height: u32, stride: u32) -> Format {
        layout(Fourcc::of(fourcc), width, height, stride).unwrap()
    }

    fn drawn(format: &Format, bytes: &[u8]) -> Vec<[u8; 3]> {
        let rgb = to_rgb(format, bytes).unwrap();
        rgb.as_chunks().0.to_vec()
    }

    #[test]
    fn known_colours() {
        assert_eq!(colour(16, 128, 128), BLACK);
        assert_eq!(colour(235, 128, 128), WHITE);
        let [red, green, blue] = colour(81, 90, 240);
        assert!(red > 250 && green < 5 && blue < 5, "{red} {green} {blue}");
    }

    #[test]
    fn nv12_with_padding() {
        let format = frame(*b"NV12", 2, 2, 4);
        let bytes = [16, 235, 9, 9, 235, 16, 9, 9, 128, 128, 9, 9];
        assert_eq!(drawn(&format, &bytes), [BLACK, WHITE, WHITE, BLACK]);
        let red = [81, 81, 9, 9, 81, 81, 9, 9, 90, 240, 9, 9];
        assert!(
            drawn(&format, &red)
                .iter()
                .all(|[r, _, b]| *r > 250 && *b < 5)
        );
        let swapped = frame(*b"NV21", 2, 2, 4);
        let red = [81, 81, 9, 9, 81, 81, 9, 9, 240, 90, 9, 9];
        assert!(
            drawn(&swapped, &red)
                .iter()
                .all(|[r, _, b]| *r > 250 && *b < 5)
        );
    }

    #[test]
    fn packed_and_plain_formats() {
        let yuyv = frame(*b"YUYV", 2, 1, 6);
        assert_eq!(drawn(&yuyv, &[16, 128, 235, 128, 9, 9]), [BLACK, WHITE]);
        let [[r, g, b], _] = drawn(&yuyv, &[81, 90, 81, 240])[..] else {
            panic!("two pixels");
        };
        assert!(r > 250 && g < 5 && b < 5);
        let uyvy = frame(*b"UYVY", 2, 1, 4);
        assert_eq!(drawn(&uyvy, &[128, 235, 128, 16]), [WHITE, BLACK]);
        for name in [b"XR24", b"AR24"] {
            let format = frame(*name, 2, 1, 8);
            let pixels = drawn(&format, &[3, 2, 1, 0, 6, 5, 4, 0]);
            assert_eq!(pixels, [[1, 2, 3], [4, 5, 6]]);
        }
        assert_eq!(drawn(&frame(*b"AB24", 1, 1, 4), &[1, 2, 3, 0]), [[1, 2, 3]]);
        assert_eq!(drawn(&frame(*b"BG24", 1, 1, 3), &[1, 2, 3]), [[1, 2, 3]]);
        assert_eq!(drawn(&frame(*b"RG24", 1, 1, 3), &[3, 2, 1]), [[1, 2, 3]]);
        assert_eq!(drawn(&frame(*b"R8  ", 2, 1, 2), &[0, 255]), [BLACK, WHITE]);
        assert_eq!(drawn(&frame(*b"GREY", 1, 1, 1), &[7]), [[7; 3]]);
    }

    #[test]
    fn what_can_not_be_drawn() {
        let error = |format: &Format, bytes: &[u8]| to_rgb(format, bytes).unwrap_err().to_string();
        let nv12 = frame(*b"NV12", 2, 2, 4);
        let text = error(&nv12, &[0; 9]);
        assert!(text.contains("9 bytes are too few for NV12 2x2"), "{text}");
        assert!(error(&frame(*b"P010", 2, 2, 4), &[0; 64]).contains("P010"));
        let mut tiled = nv12;
        tiled.modifier = U64::new(1);
        assert!(error(&tiled, &[0; 64]).contains("can't be drawn"));
        let mut huge = nv12;
        (huge.width, huge.height) = (U32::new(u32::MAX), U32::new(u32::MAX));
        assert!(error(&huge, &[0; 64]).contains("can't be drawn"));
        let mut far = frame(*b"XR24", 1, 1, 4);
        far.offset[0] = U32::new(u32::MAX);
        assert!(error(&far, &[0; 64]).contains("too few"));
    }
}
