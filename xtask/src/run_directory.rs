// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The run directory: all that one run of a bed needs, and the logs that stay of it.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

use crate::bed::{Ready, Request};
use crate::cpio::Archive;
use crate::initramfs;
use crate::modules;
use crate::paths;
use crate::plan::{BedKind, GuestTask, Plan};
use crate::process::privileged;
use crate::tree::Kernel;

/// A run directory, locked as long as this lives. It stays after the run, for its logs, until later runs push it out.
pub struct RunDirectory(
    pub PathBuf,
    #[expect(dead_code, reason = "the lock is held by the open file")] File,
);

impl RunDirectory {
    /// A fresh one.
    pub fn create() -> Result<Self> {
        let runs = paths::bed_cache().join("runs");
        fs::create_dir_all(&runs)?;
        discard_old(&runs);
        for number in 0..1000 {
            let path = runs.join(format!("{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error).context("can't make a run directory"),
            }
            let lock = File::open(&path)?;
            flock(&lock, FlockOperation::LockExclusive).context("can't lock a run directory")?;
            return Ok(Self(path, lock));
        }
        bail!("too many runs in {}", runs.display())
    }
}

/// Removes the directories of all but the last few runs that have ended: whose lock is free.
fn discard_old(runs: &Path) {
    let Ok(entries) = fs::read_dir(runs) else {
        return;
    };
    let mut ended: Vec<_> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let lock = File::open(entry.path()).ok()?;
            flock(&lock, FlockOperation::NonBlockingLockExclusive).ok()?;
            let time = entry.metadata().ok()?.modified().ok()?;
            Some((time, entry.path(), lock))
        })
        .collect();
    ended.sort_by_key(|(time, ..)| *time);
    let many = ended.len().saturating_sub(6);
    for (_, path, _lock) in ended.into_iter().take(many) {
        let _ = privileged("rm")
            .args(["-rf", "--one-file-system"])
            .arg(path)
            .status();
    }
}

/// Puts into the run directory what the run needs.
pub fn fill(directory: &Path, ready: &Ready, request: &Request) -> Result<()> {
    for name in ["bin", "qemu", "files", "modules", "log", "share"] {
        fs::create_dir(directory.join(name))?;
    }
    let bin = directory.join("bin");
    let this = std::env::current_exe().context("can't find this program")?;
    modules::copy_stripped(&this, &bin.join("xtask"))?;
    for program in &ready.programs {
        let name = program.file_name().context("a program has no name")?;
        modules::copy_stripped(program, &bin.join(name))?;
    }
    for program in &ready.host_tests {
        // Cargo puts a hash behind the name of a test.
        let name = name_of(program)?;
        let hash =
            |hash: &str| hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        let name = match name.rsplit_once('-') {
            Some((name, suffix)) if hash(suffix) => name,
            _ => name,
        };
        modules::copy_stripped(program, &bin.join(name))?;
    }
    for module in &ready.modules {
        let name = module.file_name().context("a module has no name")?;
        fs::copy(module, directory.join("modules").join(name))?;
    }
    fs::copy(
        paths::workspace().join("qemu/run-vm.sh"),
        directory.join("qemu/run-vm.sh"),
    )
    .context("can't copy qemu/run-vm.sh")?;
    if let Some(files) = &request.host_files {
        copy_directory(files, &directory.join("files"))?;
    }
    let config = match &request.config {
        Some(path) => path.clone(),
        None if request.bed == BedKind::Flat => paths::workspace().join("qemu/bed-flat.toml"),
        None => paths::workspace().join("qemu/bed-nested.toml"),
    };
    let config = match &request.config_text {
        Some(text) => text.clone(),
        None => fs::read_to_string(&config)
            .with_context(|| format!("can't read {}", config.display()))?,
    };
    fs::write(directory.join("config.toml"), config)?;
    let kernel = request.machine.kernel;
    let vmlinuz = paths::images(kernel).join("vmlinuz");
    fs::copy(vmlinuz, directory.join("guest-vmlinuz")).context("can't copy the kernel")?;
    fs::write(
        directory.join("guest.img"),
        initramfs::image(kernel, "guest.img", guest_archive(ready, request, &bin)?)?,
    )?;
    let mut plan = Plan {
        bed: request.bed,
        daemon: request.daemon,
        host_start: request.host_start.clone(),
        host_run: request.host_run.clone(),
        guest: if request.guest_run.is_some() {
            GuestTask::Run
        } else {
            request.guest.clone()
        },
        timeout: request.timeout.as_secs(),
        boot_limit: request.boot_limit.as_secs(),
        machine: request.machine,
        tree: None,
    };
    if request.bed == BedKind::Nested {
        let vmlinuz = paths::images(Kernel::Bed).join("vmlinuz");
        fs::copy(vmlinuz, directory.join("vmlinuz")).context("can't copy the kernel")?;
        let mut host = Archive::default();
        host.file("init", 0o755, include_bytes!("../init/host.sh"))?;
        fs::write(
            directory.join("host.img"),
            initramfs::image(Kernel::Bed, "host.img", host)?,
        )?;
    } else {
        let tree = paths::tree().display().to_string();
        let wrapper = bin.join("qemu-from-tree");
        fs::write(
            &wrapper,
            format!("#!/bin/sh\nexec chroot '{tree}' /usr/bin/qemu-system-x86_64 \"$@\"\n"),
        )?;
        fs::set_permissions(
            &wrapper,
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )?;
        plan.tree = Some(tree);
    }
    plan.write(directory)
}

/// The run's own part of the guest's initramfs.
fn guest_archive(ready: &Ready, request: &Request, bin: &Path) -> Result<Archive> {
    let mut archive = Archive::default();
    archive.file("init", 0o755, include_bytes!("../init/guest.sh"))?;
    archive.directory("etc")?;
    archive.directory("etc/bed")?;
    if let Some(command) = &request.guest_run {
        archive.file("etc/bed/run", 0o644, command.as_bytes())?;
    }
    for module in ready.modules_for(request.machine.kernel) {
        let name = name_of(module)?;
        archive.file(&format!("lib/bed/{name}"), 0o644, &fs::read(module)?)?;
    }
    for program in &ready.guest_programs {
        let name = name_of(program)?;
        archive.file(&format!("usr/bin/{name}"), 0o755, &fs::read(program)?)?;
    }
    for program in &ready.programs {
        let name = name_of(program)?;
        if name != "vhost-device-dmabuf" {
            let stripped = fs::read(bin.join(name))?;
            archive.file(&format!("usr/bin/{name}"), 0o755, &stripped)?;
        }
    }
    if !ready.static_programs.is_empty() {
        archive.directory("usr/local")?;
        archive.directory("usr/local/bin")?;
    }
    for program in &ready.static_programs {
        let name = name_of(program)?;
        let stripped = bin.join(format!("static-{name}"));
        modules::copy_stripped(program, &stripped)?;
        archive.file(
            &format!("usr/local/bin/{name}"),
            0o755,
            &fs::read(stripped)?,
        )?;
    }
    if let Some(files) = &request.guest_files {
        archive.directory("files")?;
        archive.copy(files, "files")?;
    }
    Ok(archive)
}

fn name_of(path: &Path) -> Result<&str> {
    let name = path.file_name().and_then(|name| name.to_str());
    name.with_context(|| format!("{} has no usable name", path.display()))
}

fn copy_directory(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp")
        .args(["-a", "-T"])
        .arg(from)
        .arg(to)
        .status()?;
    if !status.success() {
        bail!("can't copy {}", from.display());
    }
    Ok(())
}
