// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask attack --mutants`: every protection is needed, because without it an attack lands.
//!
//! Copies of the sources are changed in one place each, built under `target/mutants`, and attacked in one bed. The
//! product itself has no switch for this.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::attack::{self, Cells};
use crate::bed::{self, Programs, Ready};
use crate::modules;
use crate::paths;
use crate::plan::{BedKind, Machine};
use crate::project::cargo;
use crate::report::Check;
use crate::scenario::{self, Line, Scenario};

/// A protection, and what is left of the source without it.
struct Mutant {
    name: &'static str,
    file: &'static str,
    from: &'static str,
    to: &'static str,
}

const DAEMON: &[Mutant] = &[
    Mutant {
        name: "no_future_write_seal",
        file: "src/sys/memfd.rs",
        from: "    .union(SealFlags::FUTURE_WRITE)\n    .union(SealFlags::SEAL);",
        to: "    .union(SealFlags::SEAL);",
    },
    Mutant {
        name: "no_probe",
        file: "src/vhost/window.rs",
        from: "self.probe = Probe::Ignores;",
        to: "self.probe = Probe::Honours;",
    },
    Mutant {
        name: "dma_buf_to_clients",
        file: "src/buffer/mod.rs",
        from: "return slot.source(read_only)",
        to: "return slot.source(false)",
    },
    Mutant {
        name: "always_asks_writable",
        file: "src/vhost/window.rs",
        from: "let writable = map.alias.access() == Access::ReadWrite;",
        to: "let writable = map.alias.access() >= Access::ReadOnly;",
    },
];

const MODULE: Mutant = Mutant {
    name: "module_keeps_maywrite",
    file: "alias.c",
    from: "VM_WRITE | VM_MAYWRITE | VM_SHARED",
    to: "VM_WRITE | VM_SHARED",
};

const SCENARIO: Scenario = Scenario {
    name: "mutants",
    beds: &[BedKind::Nested],
    before: None,
    host: Some(include_str!("../scenarios/mutants-host.sh")),
    guest: None,
    config: Some(include_str!("../scenarios/attack.toml")),
    machine: Machine::USUAL,
    required: &[],
    limit: Duration::from_secs(420),
};

/// Builds the mutants, attacks them, prints what has caught each.
pub fn command() -> Result<i32> {
    let mut ready = bed::prepare(&Programs::Build)?;
    attack::prepare(&mut ready)?;
    build_daemons(&mut ready)?;
    build_module(&mut ready)?;
    let mut said: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let findings = scenario::run(&ready, &SCENARIO, BedKind::Nested, |line| match line {
        Line::Detail(text) => {
            match text
                .strip_prefix("mutant ")
                .and_then(|rest| rest.split_once(' '))
            {
                Some((name, line)) => {
                    said.entry(name.to_owned())
                        .or_default()
                        .push(line.to_owned());
                }
                None => println!("{text}"),
            }
        }
        Line::Step(time, text) => println!("[{:6.2} s] {text}", time.as_secs_f32()),
    })?;
    let mut status = 0;
    for name in DAEMON
        .iter()
        .chain([&MODULE])
        .map(|mutant| mutant.name)
        .chain(["none"])
    {
        let lines = said.remove(name).unwrap_or_default();
        let caught = failures(&lines);
        let verdict = match (name, caught.as_slice()) {
            _ if lines.is_empty() => "NOT TRIED".to_owned(),
            ("none", []) => "nothing fails, as it should be".to_owned(),
            ("none", caught) => format!("FAILS by {}", caught.join(", ")),
            (_, []) => "SURVIVED".to_owned(),
            (_, [first, rest @ ..]) => format!("caught by {first} and {} others", rest.len()),
        };
        let good = !lines.is_empty() && (name == "none") == caught.is_empty();
        if !good {
            status = 1;
            lines.iter().for_each(|line| println!("    {line}"));
        }
        println!("mutant {name:24} {verdict}");
    }
    if status != 0 {
        println!("logs: {}", findings.logs.display());
    }
    Ok(status)
}

/// The checks that a program's output fails.
fn failures(lines: &[String]) -> Vec<String> {
    let mut cells = Cells::default();
    let mut failed = Vec::new();
    for line in lines {
        // What stops the program is a failure too: the suite misses the checks that come after.
        if let Some(error) = line.strip_prefix("kvm-front-end: ") {
            failed.push(format!("an end before its checks ({error})"));
        } else if !cells.take(line)
            && let Some(check) = Check::from_line(line)
            && !check.pass
        {
            failed.push(check.name);
        }
    }
    let unexpected = cells.cell_checks().into_iter().filter(|check| !check.pass);
    failed.extend(unexpected.map(|check| check.name));
    failed
}

fn directory() -> PathBuf {
    paths::workspace().join("target/mutants")
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp")
        .args(["-r", "-u", "--preserve=timestamps", "-T"])
        .args([from, to])
        .status()?;
    if !status.success() {
        bail!("can't copy {} to {}", from.display(), to.display());
    }
    Ok(())
}

/// Changes a copied file, and returns what it was.
fn mutate(mutant: &Mutant, path: &Path) -> Result<String> {
    let text =
        fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
    if !text.contains(mutant.from) {
        bail!(
            "mutant {}: {} has no {:?} any more: adapt the list of mutants",
            mutant.name,
            mutant.file,
            mutant.from
        );
    }
    fs::write(path, text.replace(mutant.from, mutant.to))?;
    Ok(text)
}

fn build_daemons(ready: &mut Ready) -> Result<()> {
    let source = directory().join("source");
    fs::create_dir_all(&source)?;
    let workspace = paths::workspace();
    // All that Cargo.toml names, as cargo reads every member.
    for part in [
        "Cargo.toml",
        "Cargo.lock",
        "src",
        "protocol",
        "client",
        "guest",
        "tests",
        "xtask",
    ] {
        copy(&workspace.join(part), &source.join(part))?;
    }
    for mutant in DAEMON {
        println!("building mutant {}", mutant.name);
        let file = source.join(mutant.file);
        let before = mutate(mutant, &file)?;
        let status = cargo()
            .current_dir(&source)
            .args(["build", "--quiet", "--bin", "vhost-device-dmabuf"])
            .arg("--target-dir")
            .arg(directory().join("build"))
            .stdin(Stdio::null())
            .status();
        fs::write(&file, before)?;
        if !status?.success() {
            bail!("mutant {} does not build", mutant.name);
        }
        let program = directory().join(format!("mutant-{}", mutant.name));
        fs::copy(
            directory().join("build/debug/vhost-device-dmabuf"),
            &program,
        )?;
        ready.programs.push(program);
    }
    Ok(())
}

fn build_module(ready: &mut Ready) -> Result<()> {
    let source = directory().join("dmabuf_derive");
    fs::create_dir_all(&source)?;
    copy(&paths::workspace().join("kernel/dmabuf_derive"), &source)?;
    let file = source.join(MODULE.file);
    let before = mutate(&MODULE, &file)?;
    let built = modules::build_module("target/mutants/dmabuf_derive");
    fs::write(&file, before)?;
    let built = built?;
    let module = built.products.unwrap_or_default().into_iter().next();
    let module =
        module.with_context(|| format!("the mutant module does not build:\n{}", built.log))?;
    let named = directory().join("mutant_maywrite.ko");
    fs::copy(module, &named)?;
    ready.modules.push(named);
    Ok(())
}
