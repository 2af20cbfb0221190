// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Writes cpio archives of the kind the kernel unpacks as its initramfs ("newc"); everything in them belongs to root.
//! Archives may be put one after the other: the kernel unpacks them in turn, later files win.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

/// An archive under construction.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// A directory; its parents have to be there.
    pub fn directory(&mut self, name: &str) -> Result<()> {
        self.entry(name, 0o040_755, &[])
    }

    /// A file with these contents.
    pub fn file(&mut self, name: &str, mode: u32, contents: &[u8]) -> Result<()> {
        self.entry(name, 0o100_000 | (mode & 0o777), contents)
    }

    /// Everything below a directory of this machine, to appear below `name` ("" is the root).
    /// Symlinks stay symlinks; an executable file stays executable.
    pub fn copy(&mut self, from: &Path, name: &str) -> Result<()> {
        let read = || format!("can't read {}", from.display());
        let mut children: Vec<_> = fs::read_dir(from)
            .with_context(read)?
            .collect::<Result<_, _>>()
            .with_context(read)?;
        children.sort_by_key(fs::DirEntry::file_name);
        for child in children {
            let file = child.file_name();
            let file = file.to_str().context("a file name is not UTF-8")?;
            let inside = if name.is_empty() {
                file.to_owned()
            } else {
                format!("{name}/{file}")
            };
            let kind = child.file_type()?;
            let path = child.path();
            if kind.is_dir() {
                self.directory(&inside)?;
                self.copy(&path, &inside)?;
            } else if kind.is_symlink() {
                let target = fs::read_link(&path)?;
                self.entry(&inside, 0o120_777, target.as_os_str().as_encoded_bytes())?;
            } else if kind.is_file() {
                let contents =
                    fs::read(&path).with_context(|| format!("can't read {}", path.display()))?;
                self.file(&inside, child.metadata()?.permissions().mode(), &contents)?;
            }
        }
        Ok(())
    }

    /// The finished archive.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.entry("TRAILER!!!", 0, &[])?;
        self.pad(512);
        Ok(self.bytes)
    }

    fn entry(&mut self, name: &str, mode: u32, contents: &[u8]) -> Result<()> {
        self.entries += 1;
        let size = u32::try_from(contents.len()).with_context(|| format!("{name} is too large"))?;
        let name_size = u32::try_from(name.len() + 1)?;
        let links = if mode & 0o170_000 == 0o040_000 { 2 } else { 1 };
        let fields = [
            self.entries,
            mode,
            0,
            0,
            links,
            0,
            size,
            0,
            0,
            0,
            0,
            name_size,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad(4);
        self.bytes.extend_from_slice(contents);
        self.pad(4);
        Ok(())
    }

    fn pad(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn an_entry_has_the_documented_bytes() {
        let mut archive = Archive::default();
        archive.file("a", 0o644, b"xyz").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[6..30], b"00000001000081a400000000");
        assert_eq!(&bytes[54..62], b"00000003", "file size");
        assert_eq!(&bytes[94..102], b"00000002", "name size, with its NUL");
        assert_eq!(&bytes[110..116], b"a\0xyz\0"); // 110 + 2 is a multiple of four already
        assert_eq!(bytes.len() % 512, 0);
        assert!(bytes.windows(10).any(|window| window == b"TRAILER!!!"));
    }
}
