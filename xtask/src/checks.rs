// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask test`: everything that has to hold, from formatting to real VMs.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::attack;
use crate::bed::{self, Programs, Ready};
use crate::cameras;
use crate::catalogue;
use crate::derive;
use crate::fences;
use crate::kernel_source;
use crate::lanes::{self, Job, Told};
use crate::lock::CacheLock;
use crate::module_checks;
use crate::modules;
use crate::packages;
use crate::paths;
use crate::plan::BedKind;
use crate::process::{head, tail};
use crate::project::{self, PAYLOAD, cargo};
use crate::report::Check;
use crate::revoke;
use crate::scenario::{self, Line, Scenario};
use crate::tally::Tally;
use crate::tree::{self, Kernel};

/// Runs all checks, or only those of steps whose name contains one of `only`; with `debug_kernel`, beds only, whose guests
/// run it.
///
/// # Errors
/// If one of `only` is in no step's name, among others. The other steps have run then.
pub fn command(only: &[String], debug_kernel: bool) -> Result<i32> {
    let mut tally = Tally::default();
    let unmet = RefCell::new(only.iter().collect::<Vec<_>>());
    let wanted = |step: &str| {
        unmet.borrow_mut().retain(|only| !step.contains(*only));
        only.is_empty() || only.iter().any(|only| step.contains(only))
    };
    packages::install_missing()?;
    if !debug_kernel {
        outside_of_beds(&mut tally, wanted)?;
    }
    beds(&mut tally, wanted, debug_kernel)?;
    for line in tally.details() {
        println!("{line}");
    }
    println!("{}", tally.summary());
    let unmet = unmet.into_inner();
    let these = if debug_kernel { "bed" } else { "step" };
    ensure!(
        unmet.is_empty(),
        "no {these}'s name contains {unmet:?}: `cargo xtask test --help` has some, xtask/src/catalogue.rs all beds"
    );
    Ok(i32::from(tally.failures() > 0))
}

fn outside_of_beds(tally: &mut Tally, wanted: impl Fn(&str) -> bool) -> Result<()> {
    for (step, arguments, environment) in [
        ("fmt", &["fmt", "--all", "--check"][..], None),
        (
            "clippy",
            &[
                "clippy",
                "--quiet",
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ],
            None,
        ),
        (
            "clippy bare-metal",
            &[&["clippy"], PAYLOAD, &["--", "-D", "warnings"]].concat(),
            None,
        ),
        (
            "doc",
            &[
                "doc",
                "--quiet",
                "--workspace",
                "--no-deps",
                "--document-private-items",
            ],
            Some(("RUSTDOCFLAGS", "-D warnings")),
        ),
    ] {
        if wanted(step) {
            let start = announce(&format!("cargo {}", arguments.join(" ")));
            let status = cargo()
                .args(arguments)
                .envs(environment)
                .stdin(Stdio::null())
                .status()?;
            tally.count(format!("cargo {step}"), status.success());
            done(start);
        }
    }
    if wanted("rust") {
        rust_tests(tally)?;
    }
    if wanted("modules") {
        module_builds(tally)?;
        module_checks(tally)?;
    }
    Ok(())
}

fn announce(what: &str) -> Instant {
    println!("==> {what}");
    Instant::now()
}

fn done(start: Instant) {
    println!("    {:.1} s", start.elapsed().as_secs_f32());
}

fn rust_tests(tally: &mut Tally) -> Result<()> {
    let start = announce("cargo test --workspace");
    let mut child = cargo()
        .args(["test", "--workspace", "--no-fail-fast", "--color", "never"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("can't run cargo test")?;
    let before = tally.failures();
    let output = child.stdout.take().context("cargo test has no output")?;
    for line in BufReader::new(output).lines() {
        let line = line?;
        tally.take_test_line(&line);
        if !line.is_empty() && !line.ends_with("... ok") {
            println!("{line}");
        }
    }
    // What doesn't build, or dies, has no line of its own.
    if !child.wait()?.success() && tally.failures() == before {
        tally.count("cargo test: does not build, or a test program died", false);
    }
    done(start);
    Ok(())
}

fn module_builds(tally: &mut Tally) -> Result<()> {
    let start = announce("kernel modules and guest programs, -Wall -Werror");
    let _lock = CacheLock::take()?;
    tree::ensure()?;
    let built = modules::build_all(Kernel::Bed)?
        .into_iter()
        .chain(modules::build_guest_programs()?);
    for directory in built {
        print!("{}", directory.log);
        tally.count(
            format!("build {}", directory.name),
            directory
                .products
                .is_some_and(|products| !products.is_empty()),
        );
    }
    done(start);
    Ok(())
}

fn module_checks(tally: &mut Tally) -> Result<()> {
    let start = announce("kernel modules: W=1, sparse, checkpatch, DKMS");
    let _lock = CacheLock::take()?;
    module_checks::check_all(tally)?;
    done(start);
    Ok(())
}

fn attacks(ready: &Ready, told: &mut Told) {
    let ran = attack::run(ready, |text| told.line(text));
    let (checks, table) = match ran {
        Ok(ran) => ran,
        Err(error) => {
            told.line(format!("FAIL {error:#}"));
            return told.count("nested/attack/bed_works", false);
        }
    };
    told.line(table);
    many(&checks, "nested/attack", told);
}

fn host_module(ready: &Ready, told: &mut Told) {
    let ran = scenario::run(ready, &derive::SCENARIO, BedKind::Nested, |line| {
        if let Line::Detail(text) = line {
            told.line(text);
        }
    });
    match ran {
        Ok(findings) => {
            many(&findings.checks, "nested/derive", told);
            if findings.checks.iter().any(|check| !check.pass) {
                told.line(format!("logs: {}", findings.logs.display()));
            }
        }
        Err(error) => {
            told.line(format!("FAIL {error:#}"));
            told.count("nested/derive/bed_works", false);
        }
    }
}

/// Checks of which there are many: those that pass are only counted.
fn many(checks: &[Check], of: &str, told: &mut Told) {
    for check in checks {
        if !check.pass {
            told.line(format!("FAIL {}: {}", check.name, check.value));
        }
        told.count(format!("{of}/{}", check.name), check.pass);
    }
}

fn in_a_bed(name: &str, ready: &Ready, scenario: &Scenario, bed: BedKind, told: &mut Told) {
    let ran = scenario::run(ready, scenario, bed, |line| match line {
        Line::Detail(text) => told.line(text),
        Line::Step(time, text) => told.line(format!("[{:6.1} s] {text}", time.as_secs_f32())),
    });
    let findings = match ran {
        Ok(findings) => findings,
        Err(error) => {
            told.line(format!("FAIL {error:#}"));
            return told.count(format!("{name}/bed_works"), false);
        }
    };
    for check in &findings.checks {
        let verdict = if check.pass { "pass" } else { "FAIL" };
        told.line(format!("{verdict} {}: {}", check.name, check.value));
        told.count(format!("{name}/{}", check.name), check.pass);
    }
    if findings.checks.iter().any(|check| !check.pass) {
        for log in [
            "host-console.log",
            "daemon.log",
            "guest-console.log",
            "guest-qemu.log",
            "bed.log",
        ] {
            // QEMU's register dump has its cause at the head.
            let part = if log == "guest-qemu.log" { head } else { tail };
            let text = part(&findings.logs.join(log), 12);
            if !text.is_empty() {
                told.line(format!("--- {log}:\n{text}"));
            }
        }
        told.line(format!("logs: {}", findings.logs.display()));
    }
}

/// What the scenarios need, of which the wanted ones are told by `runs`.
fn prepare_beds(kernels: HashSet<Kernel>, runs: impl Fn(&Scenario) -> bool) -> Result<Ready> {
    let mut ready = bed::prepare(&Programs::Build)?;
    ready.host_tests = project::build_tests()?;
    ready.host_tests.extend(project::build_payload()?);
    if runs(&fences::SCENARIO) {
        fences::prepare(&mut ready)?;
    }
    if runs(&revoke::SCENARIO) {
        revoke::prepare(&mut ready)?;
    }
    if runs(&cameras::CAMERA_VMS) || runs(&cameras::GUEST_CAMERA) {
        cameras::prepare(&mut ready)?;
    }
    for kernel in kernels {
        bed::prepare_kernel(&mut ready, kernel)?;
    }
    ready.guest_programs.extend(project::build_examples()?);
    let _lock = CacheLock::take()?;
    ready.guest_programs.push(kernel_source::heap_test()?);
    let compliance = paths::tree().join("usr/bin/v4l2-compliance");
    ready.guest_programs.push(compliance);
    let examples = modules::build_program("examples/c")?;
    let Some(examples) = examples.products else {
        bail!("the examples do not build:\n{}", examples.log);
    };
    ready.guest_programs.extend(examples);
    Ok(ready)
}

/// The same for one that isn't in the catalogue.
fn prepare_other(prepare: impl Fn(&mut Ready) -> Result<()>) -> Result<Ready> {
    let mut ready = bed::prepare(&Programs::Build)?;
    prepare(&mut ready)?;
    Ok(ready)
}

fn beds(tally: &mut Tally, wanted: impl Fn(&str) -> bool, debug_kernel: bool) -> Result<()> {
    let runs: Vec<_> = catalogue::ALL
        .iter()
        .flat_map(|scenario| scenario.beds.iter().map(move |bed| (scenario, *bed)))
        .filter(|(_, bed)| *bed != BedKind::Native)
        .filter_map(|(scenario, bed)| {
            let name = format!("bed {}/{}", bed.name(), scenario.name);
            let scenario = if debug_kernel {
                scenario.with_debug_kernel()?
            } else {
                *scenario
            };
            Some((name, scenario, bed))
        })
        .filter(|(name, ..)| wanted(name))
        .collect();
    let wanted = |step| !debug_kernel && wanted(step);
    let attack = "bed nested/attack: who can write to what they may only read";
    let host = "bed nested/derive: the host module's contract, and attacks on its aliases";
    if runs.is_empty() && !wanted(attack) && !wanted(host) {
        return Ok(());
    }
    let start = announce("prepare the beds");
    let prepared = || {
        let kernels: HashSet<_> = runs.iter().map(|(_, it, _)| it.machine.kernel).collect();
        let named = |wanted: &Scenario| runs.iter().any(|(_, it, _)| it.name == wanted.name);
        let ready = (!runs.is_empty())
            .then(|| prepare_beds(kernels, named))
            .transpose()?;
        let attack = wanted(attack)
            .then(|| prepare_other(attack::prepare))
            .transpose()?;
        let host = wanted(host)
            .then(|| prepare_other(derive::prepare))
            .transpose()?;
        anyhow::Ok((ready, attack, host))
    };
    let (ready, attack_ready, host_ready) = match prepared() {
        Ok(ready) => ready,
        Err(error) => {
            println!("{error:#}");
            tally.count("prepare the beds", false);
            return Ok(());
        }
    };
    done(start);
    let mut jobs = Vec::new();
    if let Some(ready) = &attack_ready {
        jobs.push(Job {
            name: attack.to_owned(),
            run: Box::new(|told| attacks(ready, told)),
        });
    }
    if let Some(ready) = &host_ready {
        jobs.push(Job {
            name: host.to_owned(),
            run: Box::new(|told| host_module(ready, told)),
        });
    }
    if let Some(ready) = &ready {
        jobs.extend(runs.into_iter().map(|(name, scenario, bed)| Job {
            name: name.clone(),
            run: Box::new(move |told| in_a_bed(&name, ready, &scenario, bed, told)),
        }));
    }
    lanes::run(jobs, tally);
    Ok(())
}
