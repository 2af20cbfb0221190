// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The Debian tree under `target/bed/tree`: QEMU, kernel, headers and compiler of both beds.
//!
//! It is built in a directory of its own and renamed when complete, so that an aborted build is done again.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::debug_kernel;
use crate::packages;
use crate::paths;
use crate::process::{output_of, privileged, run_logged};

/// The release of the distribution.
pub const SUITE: &str = "trixie";
const DEFAULT_MIRROR: &str = "http://deb.debian.org/debian";
const PACKAGES: &[&str] = &[
    "qemu-system-x86",
    "linux-image-amd64",
    "linux-headers-amd64",
    "busybox-static",
    "kmod",
    "xz-utils",
    "make",
    "gcc",
    "libc6-dev",
    "linux-libc-dev",
    "libdrm-dev",
    "v4l-utils",
];
/// Raise it when what is built here changes, so that cached trees are built again.
const RECIPE: u32 = 1;
const STAMP: &str = "bed-stamp";

/// Builds the tree if there is none, or if it was built by another recipe.
pub fn ensure() -> Result<()> {
    let tree = paths::tree();
    if fs::read_to_string(tree.join(STAMP)).is_ok_and(|stamp| stamp.starts_with(&recipe_line())) {
        return Ok(());
    }
    packages::install_missing()?;
    let cache = paths::bed_cache();
    fs::create_dir_all(&cache)?;
    let start = Instant::now();
    let building = cache.join(format!("tree.building.{}", std::process::id()));
    eprintln!(
        "building the Debian {SUITE} tree in {} (about 1 GB, a few minutes, once)",
        tree.display()
    );
    let built = build(&building).and_then(|()| {
        remove(&tree)?;
        let renamed = privileged("mv")
            .arg("-T")
            .arg(&building)
            .arg(&tree)
            .status()?;
        if renamed.success() {
            return Ok(());
        }
        bail!("can't rename {} to {}", building.display(), tree.display())
    });
    if built.is_err() {
        remove(&building)?;
    }
    built?;
    eprintln!("the tree is built: {} s", start.elapsed().as_secs());
    Ok(())
}

/// `package version` of each package the beds are made of.
pub fn versions() -> Result<Vec<(String, String)>> {
    let stamp = fs::read_to_string(paths::tree().join(STAMP)).context("the tree has no stamp")?;
    Ok(stamp
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(' '))
        .map(|(package, version)| (package.to_owned(), version.to_owned()))
        .collect())
}

/// A kernel of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kernel {
    /// Host VM and guest run it.
    Bed,
    /// The distribution's own, for guests: only tests have it, see `test_packages`.
    Older,
    /// One that looks for bugs in drivers, for guests: see `debug_kernel`.
    Debug,
}

impl Kernel {
    /// The series of the older one.
    pub const OLDER: &str = "6.12";

    /// Its release name, as `uname -r` tells it.
    pub fn release(self) -> Result<String> {
        let modules = paths::tree().join("usr/lib/modules");
        let mut names: Vec<String> = fs::read_dir(&modules)
            .with_context(|| format!("can't read {}", modules.display()))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| self == Self::of_release(name))
            .collect();
        names.sort();
        names.pop().context("the tree has no kernel")
    }

    fn of_release(name: &str) -> Self {
        match name.strip_prefix(Self::OLDER) {
            _ if name.ends_with(debug_kernel::VERSION) => Self::Debug,
            Some(rest) if rest.starts_with('.') => Self::Older,
            _ => Self::Bed,
        }
    }
}

fn recipe_line() -> String {
    format!("recipe {RECIPE}: {SUITE} {}\n", PACKAGES.join(" "))
}

fn build(tree: &Path) -> Result<()> {
    let cache = paths::bed_cache();
    let mirror = mirror();
    run_logged(
        privileged("env")
            .arg("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .args(proxy_environment())
            .args([
                "debootstrap",
                "--variant=minbase",
                "--include=ca-certificates",
                SUITE,
            ])
            .arg(tree)
            .arg(&mirror),
        &cache.join("debootstrap.log"),
    )?;
    // The script runs as root outside the tree; what it needs to know comes as arguments.
    let script = r#"
        tree=$1 mirror=$2 suite=$3 settings=$4
        printf 'deb %s %s main\n' "$mirror" "$suite" "$mirror" "$suite-backports" >"$tree/etc/apt/sources.list"
        printf '%s\n' "$settings" >"$tree/etc/apt/apt.conf.d/90bed"
        printf '%s\n' force-unsafe-io 'path-exclude=/usr/share/doc/*' 'path-exclude=/usr/share/man/*' \
            'path-exclude=/usr/share/locale/*' >"$tree/etc/dpkg/dpkg.cfg.d/90bed"
        printf '#!/bin/sh\nexit 101\n' >"$tree/usr/sbin/policy-rc.d"
        chmod 755 "$tree/usr/sbin/policy-rc.d"
        mkdir -p "$tree/mnt/root" "$tree/mnt/modules"
        cp -L /etc/resolv.conf "$tree/etc/resolv.conf" || true
        if [ -d /usr/local/share/ca-certificates ]; then
            cp -r /usr/local/share/ca-certificates/. "$tree/usr/local/share/ca-certificates/"
            chroot "$tree" update-ca-certificates
        fi
    "#;
    run_logged(
        privileged("sh")
            .args(["-euc", script, "sh"])
            .arg(tree)
            .args([&mirror, SUITE, &apt_settings()]),
        &cache.join("tree.log"),
    )?;
    // INITRD=No: the beds pack their own initramfs.
    let in_tree = |arguments: &[&str], log: &str| {
        run_logged(
            privileged("chroot")
                .arg(tree)
                .args([
                    "env",
                    "INITRD=No",
                    "DEBIAN_FRONTEND=noninteractive",
                    "LC_ALL=C",
                ])
                .args(proxy_environment())
                .args(arguments),
            &cache.join(log),
        )
    };
    in_tree(&["apt-get", "-q", "update"], "apt-update.log")?;
    let backports = format!("{SUITE}-backports");
    let mut install = vec![
        "apt-get",
        "install",
        "-y",
        "-q",
        "--no-install-recommends",
        "-t",
        &backports,
    ];
    install.extend(PACKAGES);
    in_tree(&install, "apt-install.log")?;
    in_tree(&["apt-get", "clean"], "apt-clean.log")?;

    let mut stamp = recipe_line();
    stamp.push_str(&output_of(
        privileged("chroot")
            .arg(tree)
            .args(["dpkg-query", "-W", "-f", "${Package} ${Version}\n"])
            .args(PACKAGES),
    )?);
    let status = privileged("sh")
        .args(["-euc", "printf %s \"$2\" >\"$1\"", "sh"])
        .arg(tree.join(STAMP))
        .arg(&stamp)
        .status()?;
    if !status.success() {
        bail!("can't write the stamp of {}", tree.display());
    }
    Ok(())
}

/// Removes a tree, which belongs to root.
fn remove(tree: &Path) -> Result<()> {
    if !tree.exists() {
        return Ok(());
    }
    let status = privileged("rm")
        .args(["-rf", "--one-file-system"])
        .arg(tree)
        .status()?;
    if !status.success() {
        bail!(
            "can't remove {}: is something mounted in it?",
            tree.display()
        );
    }
    Ok(())
}

/// The mirror this machine's own apt uses for Debian, else the public one.
fn mirror() -> String {
    let mut files = vec![Path::new("/etc/apt/sources.list").to_path_buf()];
    if let Ok(directory) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(directory.filter_map(|entry| Some(entry.ok()?.path())));
    }
    files
        .iter()
        .filter(|path| {
            path.extension()
                .is_some_and(|end| end == "list" || end == "sources")
        })
        .filter_map(|path| fs::read_to_string(path).ok())
        .find_map(|text| text.lines().find_map(debian_mirror))
        .unwrap_or_else(|| DEFAULT_MIRROR.to_owned())
}

/// The address in one line of apt's sources, if it is a plain Debian mirror (no security, no third party).
fn debian_mirror(line: &str) -> Option<String> {
    let line = line.trim();
    if !(line.starts_with("deb ") || line.starts_with("URIs:")) {
        return None;
    }
    line.split_whitespace()
        .map(|word| word.trim_end_matches('/'))
        .find(|word| word.starts_with("http") && word.ends_with("/debian"))
        .map(str::to_owned)
}

/// The settings of this machine's apt without which its mirror can't be used.
fn apt_settings() -> String {
    let dump = output_of(std::process::Command::new("apt-config").arg("dump")).unwrap_or_default();
    let mut settings: String = dump
        .lines()
        .filter(|line| line.starts_with("Acquire::"))
        .filter(|line| {
            line.contains("Proxy \"")
                || line.contains("Check-Valid-Until")
                || line.contains("Check-Date")
        })
        .map(|line| format!("{line}\n"))
        .collect();
    settings.push_str("Acquire::Languages \"none\";\n");
    settings
}

/// The proxy variables of the environment, as `NAME=value` (sudo drops them).
pub fn proxy_environment() -> Vec<String> {
    ["http_proxy", "https_proxy", "no_proxy"]
        .iter()
        .filter_map(|name| Some(format!("{name}={}", std::env::var(name).ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Kernel, debian_mirror};

    #[test]
    fn tells_the_kernels_apart() {
        for (name, kernel) in [
            ("6.12.117+deb13-amd64", Kernel::Older),
            ("6.120.1+deb13-amd64", Kernel::Bed),
            ("7.3.4+deb13-amd64", Kernel::Bed),
            ("7.3.4-debug", Kernel::Debug),
        ] {
            assert_eq!(Kernel::of_release(name), kernel, "{name}");
        }
    }

    #[test]
    fn finds_the_debian_mirror_and_no_other() {
        let one_line = "deb [signed-by=/k] http://mirror.example/debian/ bookworm main";
        assert_eq!(
            debian_mirror(one_line).as_deref(),
            Some("http://mirror.example/debian")
        );
        assert_eq!(
            debian_mirror("URIs: https://m.example/debian").as_deref(),
            Some("https://m.example/debian")
        );
        for other in [
            "URIs: http://m.example/debian-security",
            "# deb http://m.example/debian x",
            "Suites: bookworm",
        ] {
            assert_eq!(debian_mirror(other), None, "{other}");
        }
    }
}
