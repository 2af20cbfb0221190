// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the bed asks of the agent: written into the run directory as `plan.json`, read on the host side.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::tree::Kernel;

/// Which test bed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum BedKind {
    /// Daemon and QEMU on this machine, TCG; buffers are memfds.
    Flat,
    /// Daemon and QEMU (with KVM) in a host VM that has heaps and a camera.
    Nested,
    /// Daemon and QEMU on this machine, with its KVM, heaps and camera.
    Native,
}

impl BedKind {
    /// The name on the command line and in `$BED`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flat => "flat",
            Self::Nested => "nested",
            Self::Native => "native",
        }
    }
}

/// What the guest does once it is up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuestTask {
    /// Nothing: it is there for the host command.
    Idle,
    /// Runs the command that is in its initramfs.
    Run,
    /// A shell that reads from a stream.
    Shell,
    /// A shell on a terminal, with the arguments of `stty` for it.
    Console(String),
}

/// What a guest's machine is, beside the device of its VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The kernel it runs.
    pub kernel: Kernel,
    /// It has a firmware that can wake it: QEMU's quick one can't.
    pub sleeps: bool,
    /// It has the devices of all the configuration's VMs, instead of the first one's.
    pub all_devices: bool,
    /// The CPUs of the host VM. One, where guests are to live: see [`crate::emulation`].
    pub host_cpus: u8,
}

impl Machine {
    /// That of most scenarios.
    pub const USUAL: Self = Self {
        kernel: Kernel::Bed,
        sleeps: false,
        all_devices: false,
        host_cpus: 1,
    };
}

/// A run, as the agent has to carry it out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The bed.
    pub bed: BedKind,
    /// Start the daemon, and give the guest its device.
    pub daemon: bool,
    /// A command on the host side that starts before the guest.
    pub host_start: Option<String>,
    /// The command on the host side.
    pub host_run: Option<String>,
    /// What the guest does.
    pub guest: GuestTask,
    /// The guest's machine.
    pub machine: Machine,
    /// The time limit of the commands, in seconds.
    pub timeout: u64,
    /// The time limit of the guest's boot, in seconds.
    pub boot_limit: u64,
    /// The tree's place: QEMU is run from it by chroot. In the host VM the tree is the root already.
    pub tree: Option<String>,
}

impl Plan {
    /// Reads the plan of a run directory.
    pub fn read(directory: &Path) -> Result<Self> {
        let path = directory.join("plan.json");
        let text = fs::read(&path).with_context(|| format!("can't read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is no plan", path.display()))
    }

    /// Writes the plan into a run directory.
    pub fn write(&self, directory: &Path) -> Result<()> {
        fs::write(
            directory.join("plan.json"),
            serde_json::to_vec_pretty(self)?,
        )
        .context("can't write the plan")
    }
}

/// What the agent has to know of the daemon's configuration: how a VM reaches it.
#[derive(Debug, PartialEq, Eq)]
pub struct VmConfig {
    /// Its vhost-user socket.
    pub socket: String,
    /// Its static pools.
    pub pools: Vec<PoolConfig>,
}

/// A static pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// Its name.
    pub name: String,
    /// Where the daemon links to its memory.
    pub link: PathBuf,
    /// The number of its slots.
    pub slots: u32,
    /// The size of one, as it is written in the configuration.
    pub slot_size: String,
}

impl VmConfig {
    /// Takes it from the text of a configuration: the VM of that name, or the first one.
    pub fn from_config(text: &str, wanted: Option<&str>) -> Result<Self> {
        let config = Config::read(text)?;
        let mut vms = config.vm.iter();
        let found = vms.find(|vm| wanted.is_none_or(|wanted| vm.name == wanted));
        let Some(vm) = found else {
            bail!(
                "the configuration has no [[vm]] {}",
                wanted.unwrap_or("at all")
            );
        };
        config.reached(vm)
    }

    /// All the VMs of a configuration.
    pub fn all(text: &str) -> Result<Vec<Self>> {
        let config = Config::read(text)?;
        config.vm.iter().map(|vm| config.reached(vm)).collect()
    }
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    pool: Vec<Pool>,
    #[serde(default)]
    vm: Vec<Vm>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Pool {
    name: String,
    link: Option<PathBuf>,
    slots: u32,
    slot_size: toml::Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Vm {
    name: String,
    socket_path: Option<String>,
    #[serde(default)]
    pools: Vec<String>,
}

impl Config {
    fn read(text: &str) -> Result<Self> {
        toml::from_str(text).context("the daemon's configuration")
    }

    fn reached(&self, vm: &Vm) -> Result<VmConfig> {
        let socket = vm.socket_path.clone();
        let socket = socket.with_context(|| format!("[[vm]] {} has no socket-path", vm.name))?;
        let pools = vm.pools.iter().map(|name| self.pool(name));
        let pools = pools.collect::<Result<_>>()?;
        Ok(VmConfig { socket, pools })
    }

    fn pool(&self, name: &str) -> Result<PoolConfig> {
        let pool = self.pool.iter().find(|pool| pool.name == name);
        let pool = pool.with_context(|| format!("there is no [[pool]] {name}"))?;
        let link = pool.link.clone();
        Ok(PoolConfig {
            name: name.to_owned(),
            link: link.with_context(|| format!("[[pool]] {name} has no link"))?,
            slots: pool.slots,
            slot_size: match &pool.slot_size {
                toml::Value::String(size) => size.clone(),
                number => number.to_string(),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::VmConfig;

    #[test]
    fn finds_socket_and_links_of_the_first_vm() {
        let text = r#"
            [[pool]]
            name = "camera"
            link = "/run/dmabuf/camera.pool"
            slots = 4
            slot-size = 4096
            [[vm]]
            name = "one"
            socket-path = "/run/dmabuf/one.sock"
            pools = ["camera"]
            [[vm]]
            name = "two"
        "#;
        let vm = VmConfig::from_config(text, None).unwrap();
        assert_eq!(vm.socket, "/run/dmabuf/one.sock");
        let [pool] = vm.pools.as_slice() else {
            panic!("{:?}", vm.pools)
        };
        assert_eq!(pool.link.to_str(), Some("/run/dmabuf/camera.pool"));
        assert_eq!((pool.slots, pool.slot_size.as_str()), (4, "4096"));
        assert!(
            VmConfig::from_config(text, Some("two")).is_err(),
            "it has no socket"
        );
        assert!(VmConfig::from_config(text, Some("three")).is_err());
    }

    #[test]
    fn a_missing_pool_is_named() {
        let text = "[[vm]]\nname = \"one\"\nsocket-path = \"/s\"\npools = [\"gone\"]\n";
        let error = VmConfig::from_config(text, None).unwrap_err().to_string();
        assert!(error.contains("gone"), "{error}");
        assert!(VmConfig::from_config("", None).is_err());
    }
}
