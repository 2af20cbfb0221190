// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A kernel for guests that looks for bugs in drivers (lockdep, KASAN, and others), from the distribution's source: the
//! distribution has none.
//!
//! It has what the beds need and no more, so that it is built in about 20 minutes on two cores. It is kept in the tree,
//! with the source, which modules need.

use std::fs;
use std::time::Instant;

use anyhow::{Result, ensure};

use crate::kernel_source;
use crate::paths;
use crate::process::{privileged, run_logged};
use crate::tree::{self, Kernel};

/// What its release ends with.
pub const VERSION: &str = "-debug";
const CONFIG: &str = include_str!("../debug-kernel.config");
/// What building a kernel needs besides what building a module does.
const PACKAGES: &[&str] = &["flex", "bison", "bc", "libelf-dev", "libssl-dev"];
/// Raise it when something else than the configuration changes.
const RECIPE: u32 = 1;
const STAMP: &str = "debug-kernel-stamp";

/// Builds it, if it isn't there. Needs the tree, and the lock on the cache.
pub fn ensure() -> Result<()> {
    let package = kernel_source::package()?;
    let stamp = format!("recipe {RECIPE}: {package}\n{CONFIG}");
    let stamp_file = paths::tree().join(STAMP);
    if fs::read_to_string(&stamp_file).is_ok_and(|old| old == stamp) {
        return Ok(());
    }
    eprintln!("building a kernel that looks for bugs, from {package} (20 minutes, 3 GB, once)");
    let start = Instant::now();
    // What was made for the one before, which has the same name.
    for old in [paths::images(Kernel::Debug), paths::modules(Kernel::Debug)] {
        let removed = privileged("rm").arg("-rf").arg(&old).status()?;
        ensure!(removed.success(), "can't remove {}", old.display());
    }
    let script = r#"
        tree=$1
        mount -t proc proc "$tree/proc"
        mount --rbind /dev "$tree/dev"
        shift
        exec chroot "$tree" env DEBIAN_FRONTEND=noninteractive LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
    "#;
    let build = r#"
        package=$1 suite=$2 version=$3 config=$4 stamp=$5
        shift 5
        # Libraries that the bed has from backports have their headers there, too.
        fetch() {
            apt-get install -y -q --no-install-recommends -t "$suite-backports" "$@" &&
                apt-get -q -o APT::Sandbox::User=root download "$package"
        }
        rm -rf "/usr/lib/modules/"*"$version" "/boot/vmlinuz-"*"$version" "/usr/src/linux-headers-"*"$version"
        rm -rf /usr/src/debug-kernel "/$STAMP"
        mkdir /usr/src/debug-kernel
        cd /usr/src/debug-kernel
        # The lists in the tree can be older than what the mirror has: then they are fetched again, once.
        fetch "$@" || { apt-get -q update && fetch "$@"; }
        dpkg-deb --fsys-tarfile "$package"_*.deb | tar -x --to-stdout --wildcards "./usr/src/$package.tar.*" >source.tar.xz
        tar -xf source.tar.xz --strip-components=1
        rm "$package"_*.deb source.tar.xz
        apt-get clean

        printf %s "$config" >debug.config
        printf 'CONFIG_LOCALVERSION="%s"\n' "$version" >>debug.config
        make -s allnoconfig
        scripts/kconfig/merge_config.sh -m .config debug.config
        make -s olddefconfig
        # What another option has taken away is not to be missed in silence.
        grep '^CONFIG' debug.config | grep -v '=n$' | while read -r line; do
            grep -qxF "$line" .config || { echo "not in the configuration: $line"; exit 1; }
        done
        nice make -s -j"$(nproc)" bzImage modules
        release=$(make -s kernelrelease)
        make -s modules_install
        cp arch/x86/boot/bzImage "/boot/vmlinuz-$release"
        ln -s debug-kernel "/usr/src/linux-headers-$release"
        # Modules need the tools, headers and symbol versions.
        find . -name '*.[oa]' ! -path './scripts/*' ! -path './tools/*' -delete
        rm -f vmlinux vmlinux.unstripped
        printf %s "$stamp" >"/$STAMP"
    "#;
    run_logged(
        privileged("unshare")
            .args(["--mount", "--propagation", "private"])
            .args(["sh", "-euc", script, "sh"])
            .arg(paths::tree())
            .arg(format!("STAMP={STAMP}"))
            .args(tree::proxy_environment())
            .args(["sh", "-euc", build, "sh"])
            .args([&package, tree::SUITE, VERSION, CONFIG, &stamp])
            .args(PACKAGES),
        &paths::bed_cache().join("debug-kernel.log"),
    )?;
    eprintln!("the kernel is built: {} s", start.elapsed().as_secs());
    Ok(())
}
