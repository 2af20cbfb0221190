// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the tests take from the kernel's own source, as Debian packages it: its test of dma-heaps, built unmodified,
//! and the check of its coding style.
//!
//! The package is large and needed once: only what is used of it is kept, under `target/bed/kernel-source`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::paths;
use crate::process::{privileged, run_logged};
use crate::tree::{self, Kernel};

const HEAP_TEST: &str = "dmabuf-heap";
/// Raise it when something else is taken from the source.
const RECIPE: u32 = 1;

/// Where it is kept.
fn directory() -> PathBuf {
    paths::bed_cache().join("kernel-source")
}

/// The kernel's test of dma-heaps, for the guest.
pub fn heap_test() -> Result<PathBuf> {
    ensure()?;
    Ok(directory().join(HEAP_TEST))
}

/// The check of the kernel's coding style, a Perl script.
pub fn checkpatch() -> Result<PathBuf> {
    ensure()?;
    Ok(directory().join("scripts/checkpatch.pl"))
}

/// The package of the source of the bed's kernel.
pub fn package() -> Result<String> {
    let release = Kernel::Bed.release()?;
    let mut numbers = release.split('.');
    let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else {
        bail!("{release} is no kernel release");
    };
    Ok(format!("linux-source-{major}.{minor}"))
}

/// Fetches and builds, if that wasn't done for this kernel.
fn ensure() -> Result<()> {
    let release = Kernel::Bed.release()?;
    let stamp = format!("recipe {RECIPE} {release}\n");
    let stamp_file = directory().join("stamp");
    if fs::read_to_string(&stamp_file).is_ok_and(|old| old == stamp) {
        return Ok(());
    }
    let package = package()?;
    eprintln!("fetching {package}, for the kernel's own tests (170 MB, once)");
    let _ = privileged("rm").arg("-rf").arg(directory()).status()?;
    fs::create_dir_all(directory())?;
    // The lists in the tree can be older than what the mirror has: then they are fetched again, once.
    let script = r#"
        tree=$1 to=$2 package=$3
        shift 3
        mkdir -p "$tree/var/tmp/kernel-source"
        mount --bind "$to" "$tree/var/tmp/kernel-source"
        exec chroot "$tree" env LC_ALL=C PATH=/usr/bin:/bin:/usr/sbin:/sbin "$@" sh -euc '
            cd /var/tmp/kernel-source
            fetch() { apt-get -q -o APT::Sandbox::User=root download "$1"; }
            fetch "$1" || { apt-get -q update && fetch "$1"; }
            dpkg-deb --fsys-tarfile "$1"_*.deb | tar -x --to-stdout --wildcards "./usr/src/$1.tar.*" >source.tar.xz
            rm "$1"_*.deb
            tar -xf source.tar.xz --strip-components=1 --wildcards \
                "*/tools/testing/selftests/kselftest.h" "*/tools/testing/selftests/dmabuf-heaps" \
                "*/scripts/checkpatch.pl" "*/scripts/spelling.txt" "*/scripts/const_structs.checkpatch"
            rm source.tar.xz
            cd tools/testing/selftests/dmabuf-heaps
            gcc -static -O3 -Wall -I.. -o /var/tmp/kernel-source/dmabuf-heap dmabuf-heap.c
        ' sh "$package"
    "#;
    run_logged(
        privileged("unshare")
            .args([
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-euc",
                script,
                "sh",
            ])
            .arg(paths::tree())
            .arg(directory())
            .arg(&package)
            .args(tree::proxy_environment()),
        &paths::bed_cache().join("kernel-source.log"),
    )?;
    fs::write(stamp_file, stamp).context("can't write the stamp of the kernel's source")
}
