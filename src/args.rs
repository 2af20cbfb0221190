// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The command line: a configuration file, or one VM by options.

use crate::config::{self, Config, ConfigError, HeapConfig, RelayConfig, SocketSource, VmConfig};
use crate::heap::PoolOptions;
use crate::session::{FenceTerms, Grant, Limits, Pattern, Target};
use clap::Parser;
use dmabuf_protocol::{Access, Enforcement, HeapKind, Name, PAGE_SIZE};
use std::path::{Path, PathBuf};

/// Shares host dma-bufs with virtual machines, as a vhost-user device back-end.
///
/// Give either --config, or --socket-path (or --fd) for a single VM named "vm"; with --broker, this process is a VM's
/// device that holds only what the daemon at that socket grants it.
#[derive(Clone, Debug, Parser)]
#[command(name = "vhost-device-dmabuf", version, about)]
pub struct Args {
    /// Configuration file (TOML): several VMs, heaps, pools, grants
    #[arg(long, value_name = "FILE", conflicts_with_all = ["socket_path", "fd"])]
    pub config: Option<PathBuf>,

    /// vhost-user socket to create, for a single VM
    #[arg(long, value_name = "PATH")]
    pub socket_path: Option<PathBuf>,

    /// Inherited listening vhost-user socket, for a single VM
    #[arg(long, value_name = "FDNUM", conflicts_with = "socket_path")]
    pub fd: Option<i32>,

    /// Broker socket to create, for host processes of the same user
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    pub serve_broker: Option<PathBuf>,

    /// Broker socket of the daemon from which the single VM has everything
    #[arg(long, value_name = "PATH")]
    pub broker: Option<PathBuf>,

    /// With --broker: a pool that the VM's VMM maps as a whole, by its link or as /proc/self/fd/N
    #[arg(long, value_name = "PATH")]
    pub static_window: Vec<PathBuf>,

    /// Size of the dynamic window (K, M, G), a power of two; 0 for none
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "0",
        conflicts_with = "config"
    )]
    pub window_size: String,

    /// A pool NAME=KIND:SLOTSxSIZE or NAME=KIND:SLOTSxSIZE:LINK, KIND udmabuf or memfd: the VM gets it as a read-only
    /// static window
    #[arg(long, value_name = "POOL", conflicts_with = "config")]
    pub pool: Vec<String>,

    /// A dma-heap by name (/dev/dma_heap/NAME), for the broker's clients
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    pub heap: Vec<String>,

    /// A buffer NAME=HEAP:SIZE that exists from the start
    #[arg(long, value_name = "BUFFER", conflicts_with = "config")]
    pub buffer: Vec<String>,

    /// Let the VM open buffers: NAME or START*, then :ro or :rw
    #[arg(long, value_name = "GRANT", conflicts_with = "config")]
    pub grant: Vec<String>,

    /// Print the back-end's capabilities as JSON (QEMU's vhost-user conventions) and exit
    #[arg(long)]
    pub print_capabilities: bool,

    /// Check the configuration, say what is wrong with it, and exit
    #[arg(long)]
    pub check: bool,

    /// With --check: print what this VM or client may do with --what, and why not
    #[arg(long, value_name = "NAME", requires_all = ["check", "what"])]
    pub peer: Option<String>,

    /// With --check: the name of a buffer, a stream or a heap, whether or not it is there
    #[arg(long, value_name = "NAME", requires_all = ["check", "peer"])]
    pub what: Option<String>,

    /// off, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: log::LevelFilter,
}

/// What to do.
#[derive(Debug)]
pub enum Action {
    /// Print this.
    Capabilities(&'static str),
    /// Print this, too.
    Explanation(String),
    /// Nothing more: the configuration is right.
    Check,
    /// Run with this configuration.
    Run(Box<Config>),
    /// Run as the device of one VM of another daemon's.
    Relay(Box<RelayConfig>),
}

impl Args {
    /// Checks everything and says what is to be done.
    ///
    /// # Errors
    /// [`ConfigError`] for a wrong file or wrong options.
    pub fn action(&self) -> Result<Action, ConfigError> {
        if self.print_capabilities {
            // "gpu", "input" and "block" are the types that QEMU's schema knows apart from the generic ones.
            return Ok(Action::Capabilities(
                "{\n  \"type\": \"dmabuf\",\n  \"features\": []\n}",
            ));
        }
        if let Some(broker) = &self.broker {
            let relay = self.relay(broker)?;
            return Ok(if self.check {
                Action::Check
            } else {
                Action::Relay(Box::new(relay))
            });
        }
        if !self.static_window.is_empty() {
            return Err(wrong(
                "--static-window is for --broker: a pool of this process becomes a static window by --pool or by the \
                 configuration",
            ));
        }
        let config = match &self.config {
            Some(path) => Config::load(path)?,
            None => self.single_vm()?,
        };
        Ok(match (&self.peer, &self.what) {
            (Some(peer), Some(what)) => Action::Explanation(explain(&config, peer, what)?),
            _ if self.check => Action::Check,
            _ => Action::Run(Box::new(config)),
        })
    }

    fn relay(&self, broker: &Path) -> Result<RelayConfig, ConfigError> {
        let serves = "--broker PATH connects to another daemon's broker; to create a broker socket, give \
                      --serve-broker PATH instead";
        let elsewhere = "with --broker, the VM has everything from the daemon at that socket: configure it there, \
                         with a [[client]] for the user of this process";
        for (option, given, advice) in [
            ("--serve-broker", self.serve_broker.is_some(), serves),
            ("--config", self.config.is_some(), elsewhere),
            ("--pool", !self.pool.is_empty(), elsewhere),
            ("--heap", !self.heap.is_empty(), elsewhere),
            ("--buffer", !self.buffer.is_empty(), elsewhere),
            ("--grant", !self.grant.is_empty(), elsewhere),
        ] {
            if given {
                return Err(wrong(format!("{option} and --broker: {advice}")));
            }
        }
        Ok(RelayConfig {
            broker: broker.to_owned(),
            socket: self.socket()?,
            window_size: self.window_size()?,
            static_windows: self.static_window.clone(),
        })
    }

    fn socket(&self) -> Result<SocketSource, ConfigError> {
        match (&self.socket_path, self.fd) {
            (Some(path), _) => Ok(SocketSource::Path(path.clone())),
            (None, Some(fd)) => Ok(SocketSource::Fd(fd)),
            (None, None) => Err(wrong(
                "expected --config FILE, --socket-path PATH or --fd FDNUM",
            )),
        }
    }

    fn window_size(&self) -> Result<u64, ConfigError> {
        let size = config::parse_size(&self.window_size).ok_or_else(|| {
            wrong(format!(
                "--window-size: expected a size, found {:?}",
                self.window_size
            ))
        })?;
        config::check_window(size).map_err(|what| wrong(format!("--window-size: {what}")))
    }

    fn single_vm(&self) -> Result<Config, ConfigError> {
        let socket = self.socket()?;
        let window_size = self.window_size()?;
        let pools = self
            .pool
            .iter()
            .map(|text| pool(text))
            .collect::<Result<Vec<_>, _>>()?;
        let heaps: Vec<HeapConfig> = self
            .heap
            .iter()
            .map(|name| HeapConfig {
                name: name.clone(),
                device: Some(Path::new("/dev/dma_heap").join(name)),
            })
            .collect();
        let sources: Vec<String> = pools
            .iter()
            .map(|pool| &pool.name)
            .chain(heaps.iter().map(|heap| &heap.name))
            .cloned()
            .collect();
        if let Some(name) = sources
            .iter()
            .enumerate()
            .find(|(i, name)| sources.iter().take(*i).any(|n| n == *name))
        {
            return Err(wrong(format!(
                "the heap or pool {:?} is there twice",
                name.1
            )));
        }
        let buffers = self
            .buffer
            .iter()
            .map(|text| buffer(text, &sources))
            .collect::<Result<Vec<_>, _>>()?;
        let mut grants: Vec<Grant> = pools
            .iter()
            .map(|pool| Grant {
                target: Target::Pool(pool.name.clone()),
                access: Access::ReadOnly,
                enforcement: Enforcement::Derived,
                fail_stop: false,
                fences: FenceTerms::default(),
            })
            .collect();
        for text in &self.grant {
            grants.push(grant(text)?);
        }
        let peer = |name: &str| Name::new(name).map_err(|_| wrong("internal name"));
        let clients = match &self.serve_broker {
            None => Vec::new(),
            Some(_) => vec![config::ClientConfig {
                name: peer("host")?,
                uid: Some(rustix::process::getuid().as_raw()),
                gid: None,
                grants: pools
                    .iter()
                    .map(|pool| Target::Pool(pool.name.clone()))
                    .chain(Pattern::new("*").ok().map(Target::Buffers))
                    .map(|target| Grant {
                        target,
                        access: Access::ReadWrite,
                        enforcement: Enforcement::Derived,
                        fail_stop: false,
                        fences: FenceTerms::default(),
                    })
                    .collect(),
                publish: Pattern::new("*").into_iter().collect(),
                allocate: sources,
                monitor: true,
                limits: Limits {
                    mappings: 0,
                    bytes: u64::MAX,
                    ..Limits::DEFAULT
                },
            }],
        };
        let vm = VmConfig {
            name: peer("vm")?,
            socket,
            window_size,
            static_pools: pools.iter().map(|pool| pool.name.clone()).collect(),
            grants,
            publish: Vec::new(),
            allocate: Vec::new(),
            limits: Limits::DEFAULT,
        };
        Ok(Config {
            heaps,
            pools,
            buffers,
            vms: vec![vm],
            clients,
            broker: self.serve_broker.clone(),
            fence_source: None,
        })
    }
}

/// What a peer of a configuration may do with a name.
fn explain(config: &Config, peer: &str, what: &str) -> Result<String, ConfigError> {
    let vms = config.vms.iter().map(VmConfig::policy);
    let clients = config.clients.iter().map(config::ClientConfig::policy);
    let policy = vms
        .chain(clients)
        .find(|policy| policy.name.as_str() == peer);
    let policy =
        policy.ok_or_else(|| wrong(format!("--peer: there is no VM or client {peer:?}")))?;
    let name = Name::new(what).map_err(|_| wrong(format!("--what: {what:?} can't be a name")))?;
    Ok(policy.explain(&name))
}

fn wrong(message: impl Into<String>) -> ConfigError {
    ConfigError {
        file: "command line".to_owned(),
        line: 1,
        message: message.into(),
    }
}

/// `NAME=KIND:SLOTSxSIZE[:LINK]`
fn pool(text: &str) -> Result<PoolOptions, ConfigError> {
    let parsed = || {
        let (name, rest) = text.split_once('=')?;
        let mut parts = rest.splitn(3, ':');
        let kind = match parts.next()? {
            "udmabuf" => HeapKind::Udmabuf,
            "memfd" => HeapKind::Memfd,
            _ => return None,
        };
        let (slots, size) = parts.next()?.split_once('x')?;
        let slot_size =
            config::parse_size(size).filter(|s| *s > 0 && s.is_multiple_of(PAGE_SIZE))?;
        let slots = slots
            .parse()
            .ok()
            .filter(|slots| (1..=1024).contains(slots))?;
        let link = parts.next().map(PathBuf::from);
        let name = Name::new(name).ok()?.as_str().to_owned();
        let uuid = config::random_uuid();
        let options = PoolOptions {
            name,
            kind,
            slots,
            slot_size,
            huge_pages: false,
            uuid,
            link,
        };
        options.size().is_some().then_some(options)
    };
    parsed().ok_or_else(|| {
        wrong(format!("--pool: expected NAME=udmabuf|memfd:SLOTSxSIZE[:LINK], like cam=udmabuf:4x2M, found {text:?}"))
    })
}

/// `NAME=HEAP:SIZE`
fn buffer(text: &str, sources: &[String]) -> Result<config::BufferConfig, ConfigError> {
    let parsed = || {
        let (name, rest) = text.split_once('=')?;
        let (heap, size) = rest.rsplit_once(':')?;
        let size = config::parse_size(size).filter(|size| *size > 0)?;
        let heap = sources.iter().find(|source| *source == heap)?.clone();
        Some(config::BufferConfig {
            name: Name::new(name).ok()?,
            heap,
            size,
        })
    };
    parsed().ok_or_else(|| {
        wrong(format!("--buffer: expected NAME=HEAP:SIZE with a heap or pool of this command line, found {text:?}"))
    })
}

/// `PATTERN:ro` or `PATTERN:rw`
fn grant(text: &str) -> Result<Grant, ConfigError> {
    let parsed = || {
        let (pattern, access) = text.rsplit_once(':')?;
        let access = match access {
            "ro" => Access::ReadOnly,
            "rw" => Access::ReadWrite,
            _ => return None,
        };
        let target = Target::Buffers(Pattern::new(pattern).ok()?);
        Some(Grant {
            target,
            access,
            enforcement: Enforcement::Derived,
            fail_stop: false,
            fences: FenceTerms::default(),
        })
    };
    parsed().ok_or_else(|| {
        wrong(format!(
            "--grant: expected NAME:ro, NAME:rw or START*:ro, found {text:?}"
        ))
    })
}
