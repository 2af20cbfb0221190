// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The few packages this machine itself needs: everything else lives in the Debian tree.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::process::privileged;

/// (program or file, package, why) of what has to be installed here.
const NEEDED: &[(&str, &str, &str)] = &[
    (
        "debootstrap",
        "debootstrap",
        "builds the Debian tree of the test beds",
    ),
    (
        "/usr/share/keyrings/debian-archive-keyring.gpg",
        "debian-archive-keyring",
        "the keys with which debootstrap checks what it fetches",
    ),
    (
        "unshare",
        "util-linux",
        "keeps a bed's mounts and processes to itself",
    ),
    (
        "setpriv",
        "util-linux",
        "ends a bed together with this program",
    ),
];

/// Installs with apt-get what is missing, and says what and why.
pub fn install_missing() -> Result<()> {
    let missing: Vec<_> = NEEDED
        .iter()
        .filter(|(program, ..)| !installed(program))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    for (_, package, why) in &missing {
        eprintln!("installing {package}: {why}");
    }
    if !installed("apt-get") {
        bail!("there is no apt-get here: install the programs above by hand");
    }
    // A fresh image has no package lists, or old ones: fetch them first.
    for arguments in [
        vec!["-q", "-q", "update"],
        ["-q", "-q", "install", "-y", "--no-install-recommends"]
            .into_iter()
            .chain(missing.iter().map(|(_, package, _)| *package))
            .collect(),
    ] {
        let status = privileged("env")
            .args(["DEBIAN_FRONTEND=noninteractive", "apt-get"])
            .args(&arguments)
            .status()
            .context("can't run apt-get (root, or sudo, is needed)")?;
        if !status.success() {
            bail!("apt-get {} failed: {status}", arguments.join(" "));
        }
    }
    Ok(())
}

fn installed(program: &str) -> bool {
    if program.starts_with('/') {
        return Path::new(program).exists();
    }
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin"])
        .any(|directory| Path::new(directory).join(program).exists())
}
