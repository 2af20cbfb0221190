// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Builds what is written in C, with the tree's compiler: the kernel modules under `kernel/`, against the tree's
//! headers, and the guest's test programs under `tests/guest/`.
//!
//! The sources are copied to `target/bed/modules` and built there; the checkout stays clean.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::paths;
use crate::process::privileged;
use crate::tree::{self, Kernel};

/// One directory, and what came of building it.
pub struct Built {
    /// The directory's name.
    pub name: String,
    /// The compiler's output, warnings and errors.
    pub log: String,
    /// The modules or programs that were made; `None` when the build failed.
    pub products: Option<Vec<PathBuf>>,
}

/// Builds every module directory for a kernel. A directory that fails is reported, the others are still built.
pub fn build_all(kernel: Kernel) -> Result<Vec<Built>> {
    let names = module_directories(&paths::workspace().join("kernel"));
    if names.is_empty() {
        return Ok(Vec::new());
    }
    copy_sources("kernel", kernel)?;
    names
        .into_iter()
        .map(|name| build_in(&format!("kernel/{name}"), kernel))
        .collect()
}

/// Builds one copied module directory.
fn build_in(name: &str, kernel: Kernel) -> Result<Built> {
    let arguments = [
        "-s",
        "-C",
        &headers(kernel)?,
        &format!("M=/mnt/modules/{name}"),
        "KCFLAGS=-Wall -Werror",
        "modules",
    ];
    let (success, log) = make(kernel, &arguments)?;
    let products = if success {
        Some(files(&paths::modules(kernel).join(name), |path, _| {
            path.extension().is_some_and(|end| end == "ko")
        })?)
    } else {
        None
    };
    Ok(Built {
        name: name.to_owned(),
        log,
        products,
    })
}

/// Builds one module directory again beside the others' results, with other settings; returns what was printed.
pub fn check(name: &str, kernel: Kernel, settings: &[&str]) -> Result<(bool, String)> {
    let headers = headers(kernel)?;
    let sources = format!("M={}", copy_to("checked", name, kernel)?);
    let arguments = ["make", "-s", "-C", &headers, &sources, "modules"];
    in_tree(kernel, &[&arguments, settings].concat())
}

/// Runs a bash script in the tree on a fresh copy of a directory, its first argument.
pub fn script_on_copy(script: &str, name: &str, arguments: &[&str]) -> Result<(bool, String)> {
    let copy = copy_to("packaged", name, Kernel::Bed)?;
    in_tree(
        Kernel::Bed,
        &[&["bash", "-euc", script, "bash", &copy], arguments].concat(),
    )
}

/// Where the tree has a kernel's headers.
fn headers(kernel: Kernel) -> Result<String> {
    Ok(format!("/usr/src/linux-headers-{}", kernel.release()?))
}

/// Builds the test programs of one more directory.
pub fn build_program(name: &str) -> Result<Built> {
    for source in ["kernel", "tests/guest", "tests/host", name] {
        copy_sources(source, Kernel::Bed)?;
    }
    let directory = format!("/mnt/modules/{name}");
    let (success, log) = make(Kernel::Bed, &["-s", "-C", &directory])?;
    let products = if success {
        Some(executables(&paths::modules(Kernel::Bed).join(name))?)
    } else {
        None
    };
    Ok(Built {
        name: name.to_owned(),
        log,
        products,
    })
}

/// Builds the kernel module of one more directory.
pub fn build_module(name: &str) -> Result<Built> {
    copy_sources(name, Kernel::Bed)?;
    build_in(name, Kernel::Bed)
}

/// Builds `dmabuf_derive` without one protection each; the modules are named by what they lack.
pub fn build_derive_mutants() -> Result<Built> {
    let name = "tests/host";
    copy_sources("kernel", Kernel::Bed)?;
    copy_sources(name, Kernel::Bed)?;
    let headers = format!("KDIR={}", headers(Kernel::Bed)?);
    let directory = format!("/mnt/modules/{name}");
    let (success, log) = make(Kernel::Bed, &["-s", "-C", &directory, &headers, "mutants"])?;
    let products = if success {
        Some(files(
            &paths::modules(Kernel::Bed).join(name).join("mutants"),
            |path, _| path.extension().is_some_and(|end| end == "ko"),
        )?)
    } else {
        None
    };
    Ok(Built {
        name: format!("{name}/mutants"),
        log,
        products,
    })
}

/// Builds the guest's test programs; `None` when there are none yet.
pub fn build_guest_programs() -> Result<Option<Built>> {
    let name = "tests/guest";
    let there = paths::workspace().join(name).join("Makefile").exists();
    there.then(|| build_program(name)).transpose()
}

/// Copies a source directory to where it is built.
fn copy_sources(name: &str, kernel: Kernel) -> Result<()> {
    copy_to("", name, kernel).map(drop)
}

/// Copies a source directory to below `place`; returns where the tree has that. cp -u keeps what is up to date, so
/// that make does too.
fn copy_to(place: &str, name: &str, kernel: Kernel) -> Result<String> {
    let source = paths::workspace().join(name);
    let copy = paths::modules(kernel).join(place).join(name);
    fs::create_dir_all(&copy)?;
    let status = privileged("cp")
        .args(["-r", "-u", "--preserve=timestamps,mode", "-T"])
        .arg(&source)
        .arg(&copy)
        .status()?;
    if !status.success() {
        bail!("can't copy {} to {}", source.display(), copy.display());
    }
    Ok(format!("/mnt/modules/{place}/{name}"))
}

/// Runs make in the tree, with the copied sources at /mnt/modules.
fn make(kernel: Kernel, arguments: &[&str]) -> Result<(bool, String)> {
    in_tree(kernel, &[&["make"], arguments].concat())
}

/// Runs a command in the tree, with the copied sources at /mnt/modules; returns what it printed.
fn in_tree(kernel: Kernel, arguments: &[&str]) -> Result<(bool, String)> {
    let script = r#"
        exec 2>&1
        tree=$1 copy=$2
        shift 2
        mount --bind "$copy" "$tree/mnt/modules"
        mount -t proc proc "$tree/proc"
        mount --rbind /dev "$tree/dev"
        exec chroot "$tree" env LC_ALL=C PATH=/usr/bin:/bin:/usr/sbin:/sbin "$@"
    "#;
    let output = privileged("unshare")
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
        .arg(paths::modules(kernel))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context("can't run unshare")?;
    let log = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    Ok((output.status.success(), log))
}

/// The programs in a directory: executable files whose names have no extension.
pub fn executables(directory: &Path) -> Result<Vec<PathBuf>> {
    files(directory, |path, mode| {
        path.extension().is_none() && mode & 0o100 != 0
    })
}

/// The files of a directory that are wanted, by path and mode.
fn files(directory: &Path, wanted: impl Fn(&Path, u32) -> bool) -> Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = fs::read_dir(directory)?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let meta = entry.metadata().ok()?;
            (meta.is_file() && wanted(&entry.path(), meta.permissions().mode()))
                .then(|| entry.path())
        })
        .collect();
    found.sort();
    Ok(found)
}

fn module_directories(source: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(source) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .filter_map(Result::ok)
        .filter(|entry| {
            ["Kbuild", "Makefile"]
                .iter()
                .any(|file| entry.path().join(file).exists())
        })
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// `cargo xtask modules`: builds everything, prints what the compiler said and where the results are.
pub fn command() -> Result<i32> {
    tree::ensure()?;
    let mut status = 0;
    let mut built = build_all(Kernel::Bed)?;
    built.extend(build_guest_programs()?);
    if built.is_empty() {
        println!("nothing to build: no directory under kernel/ has a Kbuild or Makefile");
    }
    for directory in built {
        print!("{}", directory.log);
        match directory.products {
            Some(modules) => modules
                .iter()
                .for_each(|path| println!("{}", path.display())),
            None => {
                println!("{} does not build", directory.name);
                status = 1;
            }
        }
    }
    Ok(status)
}

/// What guests of an emulated host need; it says why.
const EMULATION_MODULE: &str = "tests/guest/exit_module";

/// The modules that a bed gets, for a kernel.
pub fn for_bed(kernel: Kernel) -> Result<Vec<PathBuf>> {
    let mut built = build_all(kernel)?;
    if kernel == Kernel::Bed {
        built.push(build_module(EMULATION_MODULE)?);
    }
    Ok(built.into_iter().flat_map(products).collect())
}

/// The guest's programs that a bed gets.
pub fn guest_programs() -> Result<Vec<PathBuf>> {
    Ok(build_guest_programs()?.map(products).unwrap_or_default())
}

/// A bed goes on without what does not build.
fn products(built: Built) -> Vec<PathBuf> {
    built.products.unwrap_or_else(|| {
        eprintln!(
            "{}\nbed: {} does not build, going on without it",
            built.log, built.name
        );
        Vec::new()
    })
}

/// The release build's strip, so that images stay small; the plain file when there is no strip.
pub fn copy_stripped(from: &Path, to: &Path) -> Result<()> {
    let stripped = Command::new("strip")
        .arg("-o")
        .arg(to)
        .arg(from)
        .stderr(Stdio::null())
        .status();
    if !stripped.is_ok_and(|status| status.success()) {
        fs::copy(from, to).with_context(|| format!("can't copy {}", from.display()))?;
    }
    Ok(())
}
