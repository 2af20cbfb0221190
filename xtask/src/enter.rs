// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The bed's own namespaces on this machine.
//!
//! `unshare` starts this program as the first process of new mount and PID namespaces: nothing a bed mounts is seen
//! outside, and all its processes end with this one. /run is empty in there, so that several beds don't meet.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, mount, mount_bind, mount_bind_recursive};

use crate::agent;
use crate::paths;
use crate::plan::{BedKind, Plan};

/// Sets the namespaces up, then becomes the agent (flat, native), or the host VM's QEMU (nested).
pub fn command(directory: &Path, tree: &Path) -> Result<i32> {
    mount(
        "tmpfs",
        "/run",
        "tmpfs",
        MountFlags::NOSUID,
        Some(c"mode=755"),
    )
    .context("can't mount /run")?;
    fs::create_dir_all(paths::IO)?;
    mount_bind(directory, paths::IO).context("can't bind the run directory")?;
    // The tree without what is mounted in it: the root of the host VM.
    mount_bind(tree, tree.join("mnt/root")).context("can't bind the tree")?;
    let plan = Plan::read(directory)?;
    if plan.bed != BedKind::Nested {
        agent::prepare_directories()?;
    }
    for shared in ["dev", "proc", "sys", "tmp", "run"] {
        mount_bind_recursive(Path::new("/").join(shared), tree.join(shared))
            .with_context(|| format!("can't bind /{shared} into the tree"))?;
    }
    if plan.bed == BedKind::Nested {
        return Err(host_vm(tree, plan.machine.host_cpus));
    }
    agent::command(None)
}

/// Replaces this process by the host VM's QEMU. Its control port is on standard input and output.
fn host_vm(tree: &Path, cpus: u8) -> anyhow::Error {
    let log = Path::new(paths::IO).join("log");
    let error = Command::new("chroot")
        .arg(tree)
        .arg("/usr/bin/qemu-system-x86_64")
        .args([
            "-M",
            "q35",
            "-accel",
            "tcg,thread=multi",
            "-smp",
            &cpus.to_string(),
            "-cpu",
            "EPYC-v4,+svm,+npt",
            "-m",
            "4096",
        ])
        .args([
            "-nodefaults",
            "-display",
            "none",
            "-monitor",
            "none",
            "-no-reboot",
        ])
        .arg("-kernel")
        .arg(Path::new(paths::IO).join("vmlinuz"))
        .arg("-initrd")
        .arg(Path::new(paths::IO).join("host.img"))
        .args([
            "-append",
            "console=ttyS0 panic=-1 loglevel=6 no_timer_check hugepages=16 mitigations=off",
        ])
        .args([
            "-serial",
            &format!("file:{}/host-console.log", log.display()),
        ])
        .args(["-device", "virtio-serial-pci"])
        .args(["-chardev", "stdio,id=control,signal=off"])
        .args(["-device", "virtserialport,chardev=control,name=bed.control"])
        .args([
            "-virtfs",
            "local,path=/mnt/root,mount_tag=tree,security_model=none,readonly=on",
        ])
        .args([
            "-virtfs",
            &format!("local,path={},mount_tag=run,security_model=none", paths::IO),
        ])
        .exec();
    anyhow::Error::new(error).context("can't run chroot")
}
