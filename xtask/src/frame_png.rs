// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Writes camera frames as PNG files, for people to look at.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// What a frame's bytes mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameShape {
    /// The pixel format, as V4L2 names it: `NV12` or `RGB3`.
    pub fourcc: [u8; 4],
    /// Pixels per line.
    pub width: u32,
    /// Lines.
    pub height: u32,
    /// Bytes from a line to the next one, of the first plane.
    pub stride: u32,
}

impl FrameShape {
    /// Reads `FOURCC WIDTH HEIGHT STRIDE`.
    pub fn from_words(words: &[&str]) -> Result<Self> {
        let [fourcc, width, height, stride] = words else {
            bail!("a frame's shape is FOURCC WIDTH HEIGHT STRIDE, not {words:?}");
        };
        Ok(Self {
            fourcc: fourcc
                .as_bytes()
                .try_into()
                .context("a fourcc has four letters")?,
            width: width.parse().context("width")?,
            height: height.parse().context("height")?,
            stride: stride.parse().context("stride")?,
        })
    }
}

/// Writes the frame as an RGB picture.
pub fn write(path: &Path, shape: FrameShape, bytes: &[u8]) -> Result<()> {
    let rgb = to_rgb(shape, bytes)?;
    let file = File::create(path).with_context(|| format!("can't create {}", path.display()))?;
    let mut encoder = png::Encoder::new(BufWriter::new(file), shape.width, shape.height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    encoder.write_header()?.write_image_data(&rgb)?;
    Ok(())
}

fn to_rgb(shape: FrameShape, bytes: &[u8]) -> Result<Vec<u8>> {
    let (width, height) = (
        usize::try_from(shape.width)?,
        usize::try_from(shape.height)?,
    );
    let stride = usize::try_from(shape.stride)?;
    let short = || {
        format!(
            "a frame of {} bytes is too short for {shape:?}",
            bytes.len()
        )
    };
    let mut rgb = Vec::new();
    match &shape.fourcc {
        b"RGB3" => {
            for line in 0..height {
                let start = line * stride;
                rgb.extend_from_slice(bytes.get(start..start + width * 3).with_context(short)?);
            }
        }
        b"NV12" => {
            let chroma = bytes.get(stride * height..).with_context(short)?;
            for line in 0..height {
                let luma = bytes
                    .get(line * stride..line * stride + width)
                    .with_context(short)?;
                for (column, y) in luma.iter().enumerate() {
                    let at = (line / 2) * stride + (column & !1);
                    let (Some(u), Some(v)) = (chroma.get(at), chroma.get(at + 1)) else {
                        bail!(short());
                    };
                    rgb.extend_from_slice(&pixel(*y, *u, *v));
                }
            }
        }
        other => bail!(
            "frames of format {:?} can't be drawn",
            String::from_utf8_lossy(other)
        ),
    }
    Ok(rgb)
}

/// BT.601, limited range.
fn pixel(y: u8, u: u8, v: u8) -> [u8; 3] {
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
    use super::{FrameShape, pixel, to_rgb};

    #[test]
    fn known_colours() {
        assert_eq!(pixel(16, 128, 128), [0, 0, 0]);
        assert_eq!(pixel(235, 128, 128), [255, 255, 255]);
        let [red, green, blue] = pixel(81, 90, 240);
        assert!(red > 250 && green < 5 && blue < 5, "{red} {green} {blue}");
    }

    #[test]
    fn nv12_with_padding() {
        let shape = FrameShape::from_words(&["NV12", "2", "2", "4"]).unwrap();
        let frame = [16, 235, 9, 9, 235, 16, 9, 9, 128, 128, 9, 9];
        let rgb = to_rgb(shape, &frame).unwrap();
        assert_eq!(rgb, [0, 0, 0, 255, 255, 255, 255, 255, 255, 0, 0, 0]);
        assert!(to_rgb(shape, &frame[..9]).is_err());
    }
}
