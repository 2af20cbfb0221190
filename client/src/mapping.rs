// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The bytes of a buffer. Devices, virtual machines and other processes change them at any time, so there are no
//! references into them: bytes are copied in and out, each read once.

use crate::error::{Error, Result};
use crate::sys::Region;
use std::io::Write;
use std::ops::Deref;

/// How much is copied at a time on the way through a CRC or to a file.
const CHUNK: usize = 64 * 1024;

/// A buffer mapped for reading.
#[derive(Debug)]
pub struct Mapping {
    region: Region,
}

impl Mapping {
    pub(crate) const fn new(region: Region) -> Self {
        Self { region }
    }

    /// Size in bytes.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a mapping is never empty")]
    pub const fn len(&self) -> usize {
        self.region.len()
    }

    /// Where it is in this process' memory: for other languages, and for programs that know when nobody writes.
    #[must_use]
    pub const fn as_ptr(&self) -> *const u8 {
        self.region.start().cast_const()
    }

    /// Copies bytes out.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]
    pub fn read(&self, offset: usize, bytes: &mut [u8]) -> Result<()> {
        let length = bytes.len();
        self.region.read(offset, bytes).ok_or(Error::OutOfRange {
            offset,
            length,
            size: self.len(),
        })
    }

    /// CRC-32/ISO-HDLC (zlib's) of a range.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]
    pub fn crc32(&self, offset: usize, length: usize) -> Result<u32> {
        let mut crc = crc32fast::Hasher::new();
        self.chunks(offset, length, |bytes| {
            crc.update(bytes);
            Ok(())
        })?;
        Ok(crc.finalize())
    }

    /// Writes a range to a file or the like.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::File`] with `path` when the writer fails.
    pub fn copy_to(
        &self,
        offset: usize,
        length: usize,
        to: &mut impl Write,
        path: &str,
    ) -> Result<()> {
        self.chunks(offset, length, |bytes| {
            to.write_all(bytes).map_err(Error::file(path))
        })
    }

    fn chunks(
        &self,
        offset: usize,
        length: usize,
        mut each: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        if offset
            .checked_add(length)
            .is_none_or(|end| end > self.len())
        {
            return Err(Error::OutOfRange {
                offset,
                length,
                size: self.len(),
            });
        }
        let mut copy = vec![0; CHUNK.min(length)];
        for start in (0..length).step_by(CHUNK) {
            copy.truncate(length - start);
            self.read(offset + start, &mut copy)?;
            each(&copy)?;
        }
        Ok(())
    }
}

/// A buffer mapped for reading and writing.
#[derive(Debug)]
pub struct MappingMut {
    mapping: Mapping,
}

impl MappingMut {
    pub(crate) const fn new(region: Region) -> Self {
        Self {
            mapping: Mapping::new(region),
        }
    }

    /// Where it is in this process' memory: as [`Mapping::as_ptr`], and to write.
    #[must_use]
    pub const fn as_mut_ptr(&mut self) -> *mut u8 {
        self.mapping.region.start()
    }

    /// Copies bytes in.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]
    pub fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<()> {
        let size = self.len();
        self.mapping
            .region
            .write(offset, bytes)
            .ok_or(Error::OutOfRange {
                offset,
                length: bytes.len(),
                size,
            })
    }

    /// Writes `pattern` over and over until the buffer is full.
    ///
    /// # Errors
    /// [`Error::Argument`] for an empty pattern.
    pub fn fill(&mut self, pattern: &[u8]) -> Result<()> {
        if pattern.is_empty() {
            return Err(Error::Argument(
                "the pattern to fill a buffer with is empty".to_owned(),
            ));
        }
        let repeat: Vec<u8> = pattern
            .iter()
            .copied()
            .cycle()
            .take(pattern.len() * CHUNK.div_ceil(pattern.len()))
            .collect();
        for start in (0..self.len()).step_by(repeat.len()) {
            let length = repeat.len().min(self.len() - start);
            self.write(start, repeat.get(..length).unwrap_or_default())?;
        }
        Ok(())
    }
}

impl Deref for MappingMut {
    type Target = Mapping;

    fn deref(&self) -> &Mapping {
        &self.mapping
    }
}
