// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The kernel and the initramfs images of host VM and guest.
//!
//! The large part (busybox, kernel modules, shared libraries) is made once per tree and cached; what changes from
//! run to run is a small archive that is put behind it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cpio::Archive;
use crate::paths;
use crate::process::{privileged, run_logged};
use crate::tree::{self, Kernel};

/// In the order in which the host VM loads them.
const HOST_MODULES: &[&str] = &[
    "9p",
    "9pnet_virtio",
    "overlay",
    "kvm-amd",
    "kvm-intel",
    "vgem",
    "vivid",
];
/// What `modprobe` finds in the guest.
const GUEST_MODULES: &[&str] = &["9p", "9pnet_virtio", "vgem", "vivid"];
/// What dynamically linked programs find in the guest, under /lib/x86_64-linux-gnu.
const GUEST_LIBRARIES: &[&str] = &[
    "libc.so.6",
    "libm.so.6",
    "libdl.so.2",
    "libpthread.so.0",
    "librt.so.1",
    "libgcc_s.so.1",
    "libstdc++.so.6",
    "libdrm.so.2",
    "libv4l2.so.0",
    "libv4lconvert.so.0",
    "libjpeg.so.62",
];
const RECIPE: u32 = 1;

/// Makes a kernel's cached images if they are missing, or older than the tree.
pub fn ensure(kernel: Kernel) -> Result<()> {
    let images = paths::images(kernel);
    let release = kernel.release()?;
    let versions: Vec<String> = tree::versions()?
        .into_iter()
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    let stamp = format!(
        "recipe {RECIPE} {release} {HOST_MODULES:?} {GUEST_MODULES:?} {GUEST_LIBRARIES:?}\n{}\n",
        versions.join("\n")
    );
    let stamp_file = images.join("stamp");
    if fs::read_to_string(&stamp_file).is_ok_and(|old| old == stamp) {
        return Ok(());
    }
    eprintln!("packing the initramfs images for Linux {release}");
    fs::create_dir_all(&images)?;
    let _ = fs::remove_file(&stamp_file);
    let work = images.join("work");
    let _ = privileged("rm").arg("-rf").arg(&work).status()?;
    fs::create_dir_all(&work)?;
    let host_modules = match kernel {
        Kernel::Bed => HOST_MODULES,
        Kernel::Older | Kernel::Debug => &[],
    };
    unpack_modules(&work, &release, host_modules)?;

    let tree = paths::tree();
    fs::copy(
        tree.join("boot").join(format!("vmlinuz-{release}")),
        images.join("vmlinuz"),
    )
    .context("can't copy the kernel out of the tree")?;
    let busybox = fs::read(tree.join("usr/bin/busybox")).context("the tree has no busybox")?;

    if !host_modules.is_empty() {
        let mut host = Archive::default();
        host.directory("bin")?;
        host.file("bin/busybox", 0o755, &busybox)?;
        host.directory("modules")?;
        host.copy(&work.join("host"), "modules")?;
        write(&images.join("host.img"), &host.finish()?)?;
    }

    let mut guest = Archive::default();
    for directory in [
        "bin",
        "lib",
        "lib/bed",
        "lib/modules",
        "lib/x86_64-linux-gnu",
        "lib64",
        "usr",
        "usr/bin",
    ] {
        guest.directory(directory)?;
    }
    guest.file("bin/busybox", 0o755, &busybox)?;
    guest.copy(&work.join("guest/lib/modules"), "lib/modules")?;
    let libraries = tree.join("usr/lib/x86_64-linux-gnu");
    for library in GUEST_LIBRARIES {
        let contents = fs::read(libraries.join(library))
            .with_context(|| format!("the tree has no {library}"))?;
        guest.file(&format!("lib/x86_64-linux-gnu/{library}"), 0o755, &contents)?;
    }
    let loader = fs::read(libraries.join("ld-linux-x86-64.so.2"))
        .context("the tree has no dynamic loader")?;
    guest.file("lib64/ld-linux-x86-64.so.2", 0o755, &loader)?;
    write(&images.join("guest.img"), &guest.finish()?)?;
    let _ = privileged("rm").arg("-rf").arg(&work).status()?;
    write(&stamp_file, stamp.as_bytes())
}

/// A cached image with a run's own archive behind it.
pub fn image(kernel: Kernel, base: &str, own: Archive) -> Result<Vec<u8>> {
    let path = paths::images(kernel).join(base);
    let mut bytes = fs::read(&path).with_context(|| format!("can't read {}", path.display()))?;
    bytes.extend_from_slice(&own.finish()?);
    Ok(bytes)
}

/// Decompresses the modules and their dependencies: `host/` flat, with the order in `order`; `guest/` as modprobe wants them.
fn unpack_modules(work: &Path, release: &str, host_modules: &[&str]) -> Result<()> {
    let script = r#"
        tree=$1 work=$2 release=$3 host=$4 guest=$5
        files() { chroot "$tree" modprobe -S "$release" --show-depends "$1" | awk '$1=="insmod" {print $2}'; }
        unpack() { case $1 in *.xz) chroot "$tree" xz -dc "$1" ;; *) cat "$tree/$1" ;; esac; }
        mkdir -p "$work/host" "$work/guest/lib/modules/$release"
        for module in $host; do
            for file in $(files "$module"); do
                name=$(basename "${file%.xz}")
                [ -e "$work/host/$name" ] && continue
                unpack "$file" >"$work/host/$name"
                echo "$name" >>"$work/host/order"
            done
        done
        for module in $guest; do
            for file in $(files "$module"); do
                to=$work/guest/lib/modules/$release/kernel/${file#*/kernel/}
                mkdir -p "$(dirname "$to")"
                unpack "$file" >"${to%.xz}"
            done
        done
        cp "$tree/lib/modules/$release/modules.builtin" "$tree/lib/modules/$release/modules.order" "$work/guest/lib/modules/$release/"
        mkdir -p "$tree/mnt/depmod"
        cp -r "$work/guest/lib" "$tree/mnt/depmod/"
        chroot "$tree" depmod -b /mnt/depmod "$release"
        cp "$tree/mnt/depmod/lib/modules/$release/"modules.dep "$work/guest/lib/modules/$release/"
        rm -rf "$tree/mnt/depmod"
        chmod -R a+rX "$work"
    "#;
    run_logged(
        privileged("sh")
            .args(["-euc", script, "sh"])
            .arg(paths::tree())
            .arg(work)
            .args([release, &host_modules.join(" "), &GUEST_MODULES.join(" ")]),
        &paths::bed_cache().join("images.log"),
    )
}

fn write(path: &PathBuf, contents: &[u8]) -> Result<()> {
    if let Err(error) = fs::write(path, contents) {
        bail!("can't write {}: {error}", path.display());
    }
    Ok(())
}
