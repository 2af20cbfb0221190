// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The host module `dmabuf_derive` alone: the checks of `tests/host`, and its mutants, in the nested bed's host VM.
//!
//! `cargo xtask test` makes the checks; `cargo xtask derive --mutants` shows that each protection is missed by one.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::bed::{Programs, Ready, Request};
use crate::lock::CacheLock;
use crate::modules::{self, Built};
use crate::packages;
use crate::paths;
use crate::plan::{BedKind, Machine};
use crate::scenario::Scenario;
use crate::shell;
use crate::tree;

/// The contract and the attacks.
pub const SCENARIO: Scenario = Scenario {
    name: "derive",
    beds: &[BedKind::Nested],
    before: None,
    host: Some(include_str!("../scenarios/derive-host.sh")),
    guest: None,
    config: None,
    // Threads that race.
    machine: Machine {
        host_cpus: 2,
        ..Machine::USUAL
    },
    required: &[
        "device/no_fds_left",
        "device/unload_refused",
        "system/derive_wronly_from_ro",
        "system/mode_3",
        "system/outlives_owner",
        "system/heap_rdonly_derive_rw",
        "udmabuf/outlives_owner",
        "camera/outlives_owner",
        "system/fence/write_fence_holds",
        "udmabuf/fence/read_fence_ends",
        "careless/access/map",
        "careless/sync_race/no_write_sync",
        "system/attack/kvm_ram",
        "system/lenient-attack/kvm_ram",
        "udmabuf/attack/kvm_ram",
        "camera/lenient-attack/remap_file_pages",
        "exporter/attack/io_uring_fixed",
        "control/remap_file_pages",
        "control/kvm_ram",
        "host_kernel_clean",
        "module_unloads",
        "nothing_is_left",
    ],
    limit: Duration::from_secs(400),
};

/// Adds what only this needs: the program, and the exporter it tries the module with.
pub fn prepare(ready: &mut Ready) -> Result<()> {
    built()?.into_iter().try_for_each(|built| ready.add(built))
}

fn built() -> Result<[Built; 2]> {
    Ok([
        modules::build_program("tests/host")?,
        modules::build_module("tests/host/test_exporter")?,
    ])
}

fn products(built: Built) -> Result<Vec<PathBuf>> {
    let Some(products) = built.products else {
        bail!("{} does not build:\n{}", built.name, built.log);
    };
    Ok(products)
}

/// `cargo xtask derive --mutants`
pub fn mutants() -> Result<i32> {
    let files = paths::workspace().join("target/derive-mutants");
    let _ = fs::remove_dir_all(&files);
    fs::create_dir_all(files.join("mutants"))?;
    {
        packages::install_missing()?;
        let _lock = CacheLock::take()?;
        tree::ensure()?;
        for product in built()?.into_iter().map(products) {
            for file in product? {
                copy_into(&file, files.clone())?;
            }
        }
        println!("building the mutants");
        for module in products(modules::build_derive_mutants()?)? {
            copy_into(&module, files.join("mutants"))?;
        }
    }
    let script = paths::workspace().join("tests/host/derive-mutants.sh");
    copy_into(&script, files.clone())?;
    let mut request = Request::new(BedKind::Nested);
    request.machine = SCENARIO.machine;
    request.daemon = false;
    request.host_files = Some(files);
    request.host_run = Some(
        "insmod /files/test_exporter.ko && exec sh /files/derive-mutants.sh run /files/mutants"
            .to_owned(),
    );
    request.timeout = Duration::from_secs(1800);
    shell::command(request, &Programs::None)
}

fn copy_into(file: &std::path::Path, directory: PathBuf) -> Result<()> {
    let name = file.file_name().context("a file without a name")?;
    fs::copy(file, directory.join(name))
        .with_context(|| format!("can't copy {}", file.display()))?;
    Ok(())
}
