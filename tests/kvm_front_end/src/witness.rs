// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The producer's own view of the buffer: a read-write alias, through which every attack is judged.

use anyhow::{Context, Result, bail};
use dmabuf_client::{Access, Alias, Client, MappingMut};
use rustix::io::{FdFlags, fcntl_setfd};
use std::fmt::Display;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the buffer is filled with before an attack.
const PATTERN: &[u8] = &[0x50];

/// See the module.
pub struct Witness {
    /// Where the broker is.
    pub broker: PathBuf,
    alias: Alias,
    mapping: MappingMut,
    crc: u32,
    // Last: what it has opened goes with it.
    _client: Client,
}

impl Witness {
    /// Opens the buffer read-write, as its producer has it.
    pub fn open(broker: &Path, name: &str) -> Result<Self> {
        let mut client = Client::connect(broker)?;
        let alias = client
            .open(name, Access::ReadWrite)
            .with_context(|| format!("{name}, as its producer"))?;
        let mapping = alias.map_mut()?;
        Ok(Self {
            broker: broker.to_owned(),
            alias,
            mapping,
            crc: 0,
            _client: client,
        })
    }

    fn now(&self) -> Result<u32> {
        Ok(self
            .mapping
            .crc32(0, usize::try_from(self.alias.info().size)?)?)
    }

    /// Fills the buffer, and remembers it.
    pub fn prepare(&mut self) -> Result<()> {
        self.mapping.fill(PATTERN)?;
        self.crc = self.now()?;
        Ok(())
    }

    /// Whether any byte is another one.
    pub fn changed(&self) -> Result<bool> {
        Ok(self.now()? != self.crc)
    }

    /// Prints an outcome.
    pub fn tell(&self, route: &str, attacker: &str, name: &str, landed: bool, value: impl Display) {
        let outcome = if landed { "landed" } else { "blocked" };
        println!("attack {route} {attacker} {name} {outcome} {value}");
    }

    /// Runs the program that attacks with an fd.
    pub fn attack(
        &mut self,
        program: &Path,
        file: &impl AsFd,
        offset: u64,
        length: u64,
        route: &str,
        attacker: &str,
    ) -> Result<()> {
        let (file, own) = (file.as_fd(), self.alias.as_fd());
        for fd in [file, own] {
            fcntl_setfd(fd, FdFlags::empty())?;
        }
        let status = Command::new(program)
            .arg(file.as_raw_fd().to_string())
            .arg(offset.to_string())
            .arg(length.to_string())
            .arg(own.as_raw_fd().to_string())
            .arg(self.alias.fd_offset().to_string())
            .args([route, attacker])
            .status()
            .with_context(|| format!("can't run {}", program.display()))?;
        for fd in [file, own] {
            fcntl_setfd(fd, FdFlags::CLOEXEC)?;
        }
        if !status.success() {
            bail!("{} ended with {status}", program.display());
        }
        Ok(())
    }
}
