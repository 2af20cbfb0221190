// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The configuration file: what exists, and who may use it. Default deny.
//!
//! TOML, every table closed (an unknown key is an error). [`Config::load`] checks everything that can be checked
//! without touching a device, so that `--check` and the start of the daemon say the same. The result is plain data
//! for `lib.rs`, `session::Policy` and `heap`.

mod check;
mod raw;
#[cfg(test)]
mod tests;
mod values;

pub use values::{check_window, parse_size, random_uuid};

use crate::heap::PoolOptions;
use crate::session::{Grant, Limits, Pattern, Policy, Usage};
use check::Checker;
use dmabuf_protocol::{Name, PeerKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use values::Wrong;

/// What is wrong with a configuration: file, line, and what was expected.
#[derive(Debug, thiserror::Error)]
#[error("{file}:{line}: {message}")]
pub struct ConfigError {
    /// The file, or `command line`.
    pub file: String,
    /// Line number, counted from 1.
    pub line: usize,
    /// What was found and what was expected.
    pub message: String,
}

/// A checked configuration.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The heaps that are no pools.
    pub heaps: Vec<HeapConfig>,
    /// The pools.
    pub pools: Vec<PoolOptions>,
    /// Buffers that exist from the start.
    pub buffers: Vec<BufferConfig>,
    /// The VMs.
    pub vms: Vec<VmConfig>,
    /// Host processes.
    pub clients: Vec<ClientConfig>,
    /// Path of the broker socket.
    pub broker: Option<PathBuf>,
    /// Device of the fence source.
    pub fence_source: Option<PathBuf>,
}

/// A heap that is no pool.
#[derive(Clone, Debug)]
pub struct HeapConfig {
    /// Its name for ALLOC.
    pub name: String,
    /// Device node of a dma-heap; `None`: memfds.
    pub device: Option<PathBuf>,
}

/// A buffer that exists from the start.
#[derive(Clone, Debug)]
pub struct BufferConfig {
    /// Its name.
    pub name: Name,
    /// Heap or pool.
    pub heap: String,
    /// Bytes.
    pub size: u64,
}

/// One VM.
#[derive(Clone, Debug)]
pub struct VmConfig {
    /// Its name.
    pub name: Name,
    /// Where its front-end connects.
    pub socket: SocketSource,
    /// Size of the dynamic window in bytes, 0 for none; a power of two.
    pub window_size: u64,
    /// Pools that it has as static windows.
    pub static_pools: Vec<String>,
    /// What it may open.
    pub grants: Vec<Grant>,
    /// Which names it may publish.
    pub publish: Vec<Pattern>,
    /// Heaps and pools it may allocate from.
    pub allocate: Vec<String>,
    /// The most it may have.
    pub limits: Limits,
}

impl VmConfig {
    /// The peer's rights, with nothing in use.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy {
            name: self.name,
            kind: PeerKind::Vm,
            monitor: false,
            grants: self.grants.clone(),
            publish: self.publish.clone(),
            allocate: self.allocate.clone(),
            limits: self.limits,
            usage: Arc::new(Usage::default()),
        }
    }
}

/// One VM that has everything from another process's broker.
#[derive(Clone, Debug)]
pub struct RelayConfig {
    /// The broker's socket.
    pub broker: PathBuf,
    /// Where the VM's front-end connects.
    pub socket: SocketSource,
    /// Size of the dynamic window in bytes, 0 for none; a power of two.
    pub window_size: u64,
    /// Where the pools are that the VMM maps as a whole.
    pub static_windows: Vec<PathBuf>,
}

/// Where a VM's front-end connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketSource {
    /// A socket to be made at this path.
    Path(PathBuf),
    /// A listening socket inherited as this fd.
    Fd(i32),
}

/// Host processes of one user or group.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Name of the peer.
    pub name: Name,
    /// Only this user.
    pub uid: Option<u32>,
    /// Only this group.
    pub gid: Option<u32>,
    /// What it may open.
    pub grants: Vec<Grant>,
    /// Which names it may publish.
    pub publish: Vec<Pattern>,
    /// Heaps and pools it may allocate from.
    pub allocate: Vec<String>,
    /// It may see what all peers use.
    pub monitor: bool,
    /// The most it may have; no mappings.
    pub limits: Limits,
}

impl ClientConfig {
    /// The peer's rights, with nothing in use.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy {
            name: self.name,
            kind: PeerKind::Client,
            monitor: self.monitor,
            grants: self.grants.clone(),
            publish: self.publish.clone(),
            allocate: self.allocate.clone(),
            limits: self.limits,
            usage: Arc::new(Usage::default()),
        }
    }
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`] with the line.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError {
            file: file.clone(),
            line: 1,
            message: error.to_string(),
        })?;
        Self::parse(&file, &text)
    }

    /// Checks a configuration's text; `file` is for messages.
    ///
    /// # Errors
    /// [`ConfigError`] with the line.
    pub fn parse(file: &str, text: &str) -> Result<Self, ConfigError> {
        let at = |offset: usize, message: String| {
            let line = text
                .as_bytes()
                .iter()
                .take(offset)
                .filter(|&&byte| byte == b'\n')
                .count()
                + 1;
            ConfigError {
                file: file.to_owned(),
                line,
                message,
            }
        };
        let raw: raw::File = toml::from_str(text).map_err(|error| {
            at(
                error.span().map_or(0, |span| span.start),
                error.message().to_owned(),
            )
        })?;
        Checker::default()
            .check(raw)
            .map_err(|Wrong { offset, message }| at(offset, message))
    }
}
