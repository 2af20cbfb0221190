// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The values in a configuration: names, paths, sizes, uuids, and the complaint about one that is wrong.
//!
//! Called by `check`; the command line uses what is public for sizes and uuids.

use super::raw;
use crate::session::Pattern;
use dmabuf_protocol::{Name, PAGE_SIZE, Uuid};
use std::path::PathBuf;
use toml::Spanned;

/// Largest dynamic window: what a 46-bit guest-physical address space can place.
const MAX_WINDOW: u64 = 1 << 40;

/// Longest wait for a fence: an hour.
const MAX_WAIT_MS: u32 = 3_600_000;

/// A complaint about the text at `offset`.
pub struct Wrong {
    /// Byte in the text.
    pub offset: usize,
    /// What was found and what was expected.
    pub message: String,
}

/// A complaint about `what`.
pub fn wrong<T>(what: &Spanned<T>, message: impl Into<String>) -> Wrong {
    Wrong {
        offset: what.span().start,
        message: message.into(),
    }
}

/// An absolute path.
pub fn absolute(raw: &Spanned<PathBuf>) -> Result<PathBuf, Wrong> {
    if raw.get_ref().is_absolute() {
        return Ok(raw.get_ref().clone());
    }
    Err(wrong(
        raw,
        format!("expected an absolute path, found {:?}", raw.get_ref()),
    ))
}

/// A name.
pub fn name(raw: &Spanned<String>) -> Result<Name, Wrong> {
    Name::new(raw.get_ref()).map_err(|_| {
        let message = format!(
            "expected a name of 1 to 64 of A-Z a-z 0-9 . _ - /, found {:?}",
            raw.get_ref()
        );
        wrong(raw, message)
    })
}

/// A buffer name, or the start of names and `*`.
pub fn pattern(raw: &Spanned<String>) -> Result<Pattern, Wrong> {
    Pattern::new(raw.get_ref()).map_err(|_| {
        let message = format!(
            "expected a buffer name, or the start of names and *, found {:?}",
            raw.get_ref()
        );
        wrong(raw, message)
    })
}

/// The most of something that a peer may have; `default` if there is none.
pub fn limit(raw: Option<&Spanned<u32>>, default: u32) -> Result<u32, Wrong> {
    match raw {
        None => Ok(default),
        Some(value) if (1..=65536).contains(value.get_ref()) => Ok(*value.get_ref()),
        Some(value) => Err(wrong(
            value,
            format!("expected 1 to 65536, found {}", value.get_ref()),
        )),
    }
}

/// A number of bytes in all, or `default`.
pub fn byte_limit(raw: Option<&Spanned<raw::Size>>, default: u64) -> Result<u64, Wrong> {
    raw.map_or(Ok(default), |size| bytes(size, 1))
}

/// The longest wait in milliseconds; `default` if there is none.
pub fn wait_ms(raw: Option<&Spanned<u32>>, default: u32) -> Result<u32, Wrong> {
    match raw {
        None => Ok(default),
        Some(value) if (1..=MAX_WAIT_MS).contains(value.get_ref()) => Ok(*value.get_ref()),
        Some(value) => Err(wrong(
            value,
            format!(
                "expected 1 to {MAX_WAIT_MS} milliseconds, found {}",
                value.get_ref()
            ),
        )),
    }
}

/// A size as a number or as text with K, M or G (powers of 1024): not 0, a multiple of `unit`.
pub fn bytes(raw: &Spanned<raw::Size>, unit: u64) -> Result<u64, Wrong> {
    let size = match raw.get_ref() {
        raw::Size::Number(number) => Some(*number),
        raw::Size::Text(text) => parse_size(text),
    };
    let size = size.ok_or_else(|| {
        wrong(
            raw,
            "expected a size: a number, or text like \"4M\" (K, M, G)",
        )
    })?;
    if size == 0 || !size.is_multiple_of(unit) {
        return Err(wrong(
            raw,
            format!("expected a size above 0 that is a multiple of {unit}, found {size}"),
        ));
    }
    Ok(size)
}

/// Bytes of a text like `4096`, `64K`, `4M`, `1G`.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.strip_suffix(['K', 'k']) {
        Some(digits) => (digits, 10),
        None => match text.strip_suffix(['M', 'm']) {
            Some(digits) => (digits, 20),
            None => text
                .strip_suffix(['G', 'g'])
                .map_or((text, 0), |digits| (digits, 30)),
        },
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Checks the size of a dynamic window; 0 means none.
///
/// # Errors
/// What was expected.
pub fn check_window(size: u64) -> Result<u64, String> {
    let fits =
        size == 0 || (size.is_power_of_two() && (2 * PAGE_SIZE..=MAX_WINDOW).contains(&size));
    if fits {
        Ok(size)
    } else {
        Err(format!(
            "expected a power of two from 8K to 1024G, found {size}"
        ))
    }
}

/// A uuid that isn't all zero.
pub fn parse_uuid(raw: &Spanned<String>) -> Result<Uuid, Wrong> {
    let text = raw.get_ref();
    let groups: Vec<usize> = text.split('-').map(str::len).collect();
    let hex: String = text.split('-').collect();
    let mut bytes = [0; 16];
    let digits = groups == [8, 4, 4, 4, 12] && hex.bytes().all(|digit| digit.is_ascii_hexdigit());
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = hex
            .get(2 * i..2 * i + 2)
            .and_then(|pair| u8::from_str_radix(pair, 16).ok())
            .unwrap_or(0);
    }
    if !digits || bytes == [0; 16] {
        let message =
            format!("expected a uuid like 5f0c1f6e-93a1-4f0e-8f5a-0d5b2c1a7e10, found {text:?}");
        return Err(wrong(raw, message));
    }
    Ok(Uuid(bytes))
}

/// A version 4 uuid.
#[must_use]
pub fn random_uuid() -> Uuid {
    let mut bytes = [0u8; 16];
    // The kernel fills up to 256 bytes whole, or fails on a kernel without getrandom(2), which is below our floor.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    if let Some(byte) = bytes.get_mut(6) {
        *byte = (*byte & 0x0f) | 0x40;
    }
    if let Some(byte) = bytes.get_mut(8) {
        *byte = (*byte & 0x3f) | 0x80;
    }
    Uuid(bytes)
}
