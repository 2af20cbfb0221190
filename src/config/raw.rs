// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The configuration file as TOML has it, each value with its place in the text.

use serde::Deserialize;
use std::path::PathBuf;
use toml::Spanned;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct File {
    pub broker: Option<Broker>,
    pub fence_source: Option<FenceSource>,
    #[serde(default)]
    pub heap: Vec<Heap>,
    #[serde(default)]
    pub pool: Vec<Pool>,
    #[serde(default)]
    pub buffer: Vec<Buffer>,
    #[serde(default)]
    pub vm: Vec<Vm>,
    #[serde(default)]
    pub client: Vec<Client>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Broker {
    pub socket_path: Spanned<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FenceSource {
    pub device: Spanned<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Heap {
    pub name: Spanned<String>,
    pub kind: Spanned<String>,
    pub path: Option<Spanned<PathBuf>>,
}

#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a size: a number, or text like \"4M\" (K, M, G)"
)]
pub enum Size {
    Number(u64),
    Text(String),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Pool {
    pub name: Spanned<String>,
    pub kind: Spanned<String>,
    pub slots: Spanned<u32>,
    pub slot_size: Spanned<Size>,
    #[serde(default)]
    pub huge_pages: bool,
    pub uuid: Option<Spanned<String>>,
    pub link: Option<Spanned<PathBuf>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Buffer {
    pub name: Spanned<String>,
    pub heap: Spanned<String>,
    pub size: Spanned<Size>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Vm {
    pub name: Spanned<String>,
    pub socket_path: Spanned<PathBuf>,
    pub window_size: Option<Spanned<Size>>,
    #[serde(default)]
    pub pools: Vec<Spanned<String>>,
    #[serde(default)]
    pub publish: Vec<Spanned<String>>,
    #[serde(default)]
    pub allocate: Vec<Spanned<String>>,
    pub max_handles: Option<Spanned<u32>>,
    pub max_mappings: Option<Spanned<u32>>,
    pub max_buffers: Option<Spanned<u32>>,
    pub max_bytes: Option<Spanned<Size>>,
    pub max_waits: Option<Spanned<u32>>,
    pub max_holds: Option<Spanned<u32>>,
    pub max_consumers: Option<Spanned<u32>>,
    #[serde(default)]
    pub grant: Vec<Grant>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Client {
    pub name: Spanned<String>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    #[serde(default)]
    pub monitor: bool,
    #[serde(default)]
    pub publish: Vec<Spanned<String>>,
    #[serde(default)]
    pub allocate: Vec<Spanned<String>>,
    pub max_handles: Option<Spanned<u32>>,
    pub max_buffers: Option<Spanned<u32>>,
    pub max_bytes: Option<Spanned<Size>>,
    pub max_waits: Option<Spanned<u32>>,
    pub max_holds: Option<Spanned<u32>>,
    pub max_consumers: Option<Spanned<u32>>,
    #[serde(default)]
    pub grant: Vec<Grant>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Grant {
    pub pool: Option<Spanned<String>>,
    pub buffer: Option<Spanned<String>>,
    pub stream: Option<Spanned<String>>,
    pub access: Spanned<String>,
    pub enforcement: Option<Spanned<String>>,
    #[serde(default)]
    pub fail_stop: bool,
    pub max_wait_ms: Option<Spanned<u32>>,
    pub host_fence: Option<Spanned<bool>>,
    pub max_held: Option<Spanned<u32>>,
    pub max_hold_ms: Option<Spanned<u32>>,
}
