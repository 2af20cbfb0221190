// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask test`: everything that has to hold, from formatting to real VMs.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::attack;
use crate::bed::{self, Programs};
use crate::cameras;
use crate::catalogue;
use crate::derive;
use crate::fences;
use crate::kernel_source;
use crate::lock::CacheLock;
use crate::module_checks;
use crate::modules;
use crate::packages;
use crate::paths;
use crate::plan::BedKind;
use crate::process::{head, tail};
use crate::project::{self, PAYLOAD, cargo};
use crate::revoke;
use crate::scenario::{self, Line, Scenario};
use crate::tally::Tally;
use crate::tree::{self, Kernel};

/// Runs all checks, or only those whose step's name contains `only`.
pub fn command(only: Option<&str>) -> Result<i32> {
    let mut tally = Tally::default();
    let wanted = |step: &str| only.is_none_or(|only| step.contains(only));
    packages::install_missing()?;
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
        rust_tests(&mut tally)?;
    }
    if wanted("modules") {
        module_builds(&mut tally)?;
        module_checks(&mut tally)?;
    }
    beds(&mut tally, wanted, only.is_some())?;
    if wanted("attack") {
        attacks(&mut tally)?;
    }
    if wanted("bed nested/derive") {
        host_module(&mut tally);
    }
    for line in tally.details() {
        println!("{line}");
    }
    println!("{}", tally.summary());
    Ok(i32::from(tally.failures() > 0))
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

fn attacks(tally: &mut Tally) -> Result<()> {
    let start = announce("bed nested/attack: who can write to what they may only read");
    let mut ready = bed::prepare(&Programs::Build)?;
    attack::prepare(&mut ready)?;
    let (checks, table) = attack::run(&ready, |text| println!("    {text}"))?;
    println!("{table}");
    for check in checks {
        if !check.pass {
            println!("    FAIL {}: {}", check.name, check.value);
        }
        tally.count(format!("nested/attack/{}", check.name), check.pass);
    }
    done(start);
    Ok(())
}

/// Its checks are many: those that pass are only counted.
fn host_module(tally: &mut Tally) {
    let start =
        announce("bed nested/derive: the host module's contract, and attacks on its aliases");
    let ran = bed::prepare(&Programs::Build).and_then(|mut ready| {
        derive::prepare(&mut ready)?;
        scenario::run(&ready, &derive::SCENARIO, BedKind::Nested, |line| {
            if let Line::Detail(text) = line {
                println!("    {text}");
            }
        })
    });
    match ran {
        Ok(findings) => {
            for check in &findings.checks {
                if !check.pass {
                    println!("    FAIL {}: {}", check.name, check.value);
                }
                tally.count(format!("nested/derive/{}", check.name), check.pass);
            }
            if findings.checks.iter().any(|check| !check.pass) {
                println!("    logs: {}", findings.logs.display());
            }
        }
        Err(error) => {
            println!("    FAIL {error:#}");
            tally.count("nested/derive/bed_works", false);
        }
    }
    done(start);
}

fn beds(tally: &mut Tally, wanted: impl Fn(&str) -> bool, by_name: bool) -> Result<()> {
    let mut runs: Vec<_> = catalogue::ALL
        .iter()
        .flat_map(|scenario| scenario.beds.iter().map(move |bed| (scenario, *bed)))
        .filter(|(_, bed)| *bed != BedKind::Native)
        .map(|(scenario, bed)| {
            (
                format!("bed {}/{}", bed.name(), scenario.name),
                scenario,
                bed,
            )
        })
        .filter(|(name, ..)| wanted(name))
        .collect();
    if !by_name {
        runs.retain(|(name, ..)| {
            let heavy = catalogue::BY_NAME.contains(&name.as_str());
            if heavy {
                tally.skip(
                    name,
                    "two busy VMs under two layers of emulation: by --only",
                );
            }
            !heavy
        });
    }
    if runs.is_empty() {
        return Ok(());
    }
    let older = runs
        .iter()
        .any(|(_, scenario, _)| scenario.machine.kernel == Kernel::Older);
    let prepared = bed::prepare(&Programs::Build).and_then(|mut ready| {
        ready.host_tests = project::build_tests()?;
        ready.host_tests.extend(project::build_payload()?);
        let runs = |wanted: &Scenario| runs.iter().any(|(_, it, _)| it.name == wanted.name);
        if runs(&fences::SCENARIO) {
            fences::prepare(&mut ready)?;
        }
        if runs(&revoke::SCENARIO) {
            revoke::prepare(&mut ready)?;
        }
        if runs(&cameras::CAMERA_VMS) || runs(&cameras::GUEST_CAMERA) {
            cameras::prepare(&mut ready)?;
        }
        if older {
            bed::prepare_older(&mut ready)?;
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
    });
    let ready = match prepared {
        Ok(ready) => ready,
        Err(error) => {
            println!("{error:#}");
            tally.count("prepare the beds", false);
            return Ok(());
        }
    };
    for (name, scenario, bed) in runs {
        let start = announce(&name);
        let ran = scenario::run(&ready, scenario, bed, |line| match line {
            Line::Detail(text) => println!("    {text}"),
            Line::Step(time, text) => println!("    [{:6.1} s] {text}", time.as_secs_f32()),
        });
        let findings = match ran {
            Ok(findings) => findings,
            Err(error) => {
                println!("    FAIL {error:#}");
                tally.count(format!("{name}/bed_works"), false);
                done(start);
                continue;
            }
        };
        for check in &findings.checks {
            let verdict = if check.pass { "pass" } else { "FAIL" };
            println!("    {verdict} {}: {}", check.name, check.value);
            tally.count(format!("{name}/{}", check.name), check.pass);
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
                    println!("    --- {log}:\n{text}");
                }
            }
            println!("    logs: {}", findings.logs.display());
        }
        done(start);
    }
    Ok(())
}
