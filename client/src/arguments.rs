// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Values on the command lines of the tools.

use crate::DEFAULT_SOCKET;
use crate::error::{Error, Result};
use std::path::PathBuf;
use std::time::Duration;

/// Where buffers and streams are: with the daemon of this host, or in a guest with its driver.
#[derive(Clone, Debug, clap::Args)]
pub struct PlaceArguments {
    /// The daemon's broker socket
    #[arg(long, default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// In a guest: the device of its driver, /dev/virtio-dmabuf0, instead of the socket
    #[arg(long, conflicts_with = "socket")]
    pub guest_device: Option<PathBuf>,
}

/// A number of bytes: decimal or `0x…`, optionally with K, M or G (1024, 1024², 1024³).
///
/// # Errors
/// [`Error::Argument`]
pub fn parse_size(text: &str) -> Result<u64> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (text.get(..text.len() - 1), 10),
        Some(b'M' | b'm') => (text.get(..text.len() - 1), 20),
        Some(b'G' | b'g') => (text.get(..text.len() - 1), 30),
        _ => (Some(text), 0),
    };
    let digits = digits.unwrap_or_default();
    let number = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    number
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| {
            Error::Argument(format!(
                "{text:?} is no size: give bytes, or a number with K, M or G"
            ))
        })
}

/// A time in seconds, like 2 or 0.5; not 0.
///
/// # Errors
/// [`Error::Argument`]
pub fn parse_seconds(text: &str) -> Result<Duration> {
    let seconds = text.parse().ok();
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|time| !time.is_zero())
        .ok_or_else(|| {
            Error::Argument(format!(
                "{text:?} is no time: give seconds above 0, like 0.5"
            ))
        })
}

/// Bytes as pairs of hex digits.
///
/// # Errors
/// [`Error::Argument`]
pub fn parse_hex(text: &str) -> Result<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |c: u8| {
        char::from(c)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    let bytes: Option<Vec<u8>> = pairs
        .iter()
        .map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?))
        .collect();
    bytes
        .filter(|bytes| rest.is_empty() && !bytes.is_empty())
        .ok_or_else(|| {
            Error::Argument(format!(
                "{text:?} is not hex: give pairs of hex digits, like 00ff"
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("0x10", 16),
            ("4K", 4096),
            ("2M", 2 << 20),
            ("1g", 1 << 30),
        ] {
            assert_eq!(parse_size(text).unwrap(), bytes);
        }
        for bad in ["", "K", "-1", "4T", "99999999999G", "1.5M", "4 K", "ü"] {
            assert!(parse_size(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn seconds() {
        for (text, ms) in [("1", 1000), ("0.5", 500), ("3600", 3_600_000)] {
            assert_eq!(parse_seconds(text).unwrap(), Duration::from_millis(ms));
        }
        for bad in ["", "0", "-1", "nan", "inf", "1s", "1e30"] {
            assert!(parse_seconds(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn hex() {
        assert_eq!(parse_hex("00fFa5").unwrap(), [0, 0xff, 0xa5]);
        for bad in ["", "0", "0x", "g0", "123"] {
            assert!(parse_hex(bad).is_err(), "{bad:?}");
        }
    }
}
