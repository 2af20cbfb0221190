// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What only the tests need of the Debian tree: an older kernel for guests, and what checks kernel modules.
//!
//! It is added to the finished tree: demo and bed do without it (0.2 GB to fetch).

use std::fs;

use anyhow::{Result, bail};

use crate::paths;
use crate::process::{privileged, run_logged};
use crate::tree::{self, Kernel};

/// Besides the older kernel and its headers.
const PACKAGES: &[&str] = &["sparse", "dkms", "perl"];
/// Raise it when what is added here changes.
const RECIPE: u32 = 1;
const STAMP: &str = "test-packages-stamp";

/// Adds it, if it isn't there. Needs the tree, and the lock on the cache.
pub fn ensure() -> Result<()> {
    let stamp = format!("recipe {RECIPE}: {} {}", Kernel::OLDER, PACKAGES.join(" "));
    let stamp_file = paths::tree().join(STAMP);
    if fs::read_to_string(&stamp_file).is_ok_and(|old| old == stamp) {
        return Ok(());
    }
    eprintln!(
        "adding Linux {} and what checks modules to the tree (0.2 GB, once)",
        Kernel::OLDER
    );
    // The release's own kernel: the tree's is a later one, of the same name.
    let script = r#"
        older=$1 stamp=$2
        shift 2
        package() {
            version=$(apt-cache madison "$1" | awk -v older="$older." 'index($3, older) == 1 {print $3; exit}')
            apt-cache show "$1=$version" | sed -n "s/^Depends: .*\($2-$older[^ ,]*\) .*/\1/p"
        }
        add() {
            image=$(package linux-image-amd64 linux-image) headers=$(package linux-headers-amd64 linux-headers)
            [ -n "$image" ] && [ -n "$headers" ] && apt-get install -y -q --no-install-recommends "$image" "$headers" "$@"
        }
        # The lists in the tree can be older than what the mirror has: then they are fetched again, once.
        add "$@" || { apt-get -q update && add "$@"; }
        apt-get clean
        printf %s "$stamp" >"/$STAMP"
    "#;
    run_logged(
        privileged("chroot")
            .arg(paths::tree())
            .args([
                "env",
                "INITRD=No",
                "DEBIAN_FRONTEND=noninteractive",
                "LC_ALL=C",
            ])
            .arg(format!("STAMP={STAMP}"))
            .args(tree::proxy_environment())
            .args(["sh", "-euc", script, "sh", Kernel::OLDER, &stamp])
            .args(PACKAGES),
        &paths::bed_cache().join("test-packages.log"),
    )?;
    if Kernel::Older.release().is_err() {
        bail!("Linux {} was installed, and is not there", Kernel::OLDER);
    }
    Ok(())
}
