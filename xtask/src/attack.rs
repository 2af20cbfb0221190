// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask attack`: who can write to what they may only read, on every route.
//!
//! The programs in the bed say `attack ROUTE ATTACKER NAME blocked|landed|n/a VALUE`; the bytes that the producer sees
//! are the judge. Here is what has to come out: [`LANDS`] is the honest part, as the documentation has it; everything
//! else has to be blocked, and on `sealed` and `derived` there is nothing in that list.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use anyhow::Result;

use crate::bed::{self, Programs, Ready};
use crate::modules;
use crate::paths;
use crate::plan::{BedKind, Machine};
use crate::report::{Check, Report};
use crate::scenario::{self, Line, Scenario};

/// What it runs.
pub const ATTACK: Scenario = Scenario {
    name: "attack",
    beds: &[BedKind::Nested],
    before: None,
    host: Some(include_str!("../scenarios/attack-host.sh")),
    guest: Some(include_str!("../scenarios/attack-guest.sh")),
    config: Some(include_str!("../scenarios/attack.toml")),
    machine: Machine::USUAL,
    required: &[
        "buffers",
        "guest_ready",
        "guest_goes_on",
        "sealed-static/host_bytes_unchanged",
        "sealed-static/guest_reads_the_same",
        "sealed-static/vm_goes_on",
        "sealed/vcpu_goes_on",
        "sealed/daemon_lives",
        "vmm/vcpu_goes_on",
        "vmm/daemon_lives",
        "vmm-ignored/refused",
        "sealed-ignored/refused",
        "module_loads",
        "derived/vcpu_goes_on",
        "derived/daemon_lives",
        "derived-ignored/refused",
        "fail-stop/vcpu_goes_on",
        "fail-stop/daemon_lives",
        "fail-stop/qemu_guest_reads",
        "fail-stop/qemu_guest_write_stops_it",
        "fail-stop/host_bytes_unchanged",
        "module_is_held",
        "host_kernel_clean",
    ],
    limit: Duration::from_secs(420),
};

/// The routes, in the order of the table's columns.
///
/// `sealed-static` is a sealed pool as stock QEMU maps it; `fail-stop` a derived alias for a VMM that maps everything
/// writable, whose guest is stopped by its first write; `ioctl` needs a kernel that nobody has released.
const ROUTES: &[&str] = &[
    "sealed-static",
    "sealed",
    "derived",
    "fail-stop",
    "vmm",
    "ioctl",
];

/// At least so many attacks that were really made, by route and attacker, or something was left out.
const FEWEST: &[(&str, &str, usize)] = &[
    ("sealed-static", "guest", 60),
    ("sealed-static", "vmm", 40),
    ("sealed", "guest", 5),
    ("sealed", "vmm", 45),
    ("sealed", "client", 40),
    ("derived", "guest", 5),
    ("derived", "vmm", 45),
    ("derived", "client", 40),
    ("fail-stop", "guest", 5),
    ("fail-stop", "guest-process", 40),
    ("fail-stop", "vmm", 45),
    ("vmm", "guest", 5),
    ("vmm", "vmm", 45),
];

/// What lands, by route and attacker: where the VMM alone enforces, its own process has the dma-buf itself.
const LANDS: &[(&str, &str, &[&str])] = &[(
    "vmm",
    "vmm",
    &[
        "mmap_shared_write",
        "mmap_write_only",
        "mmap_shared_validate",
        "mprotect_write",
        "mprotect_one_page",
        "mprotect_from_none",
        "remap_file_pages",
        "f_setfl",
        "prime_import_vgem",
        "prime_export_vgem",
        "v4l2_capture",
    ],
)];

/// How an attack ended.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cell {
    outcome: String,
    value: String,
}

/// All cells: attacker and attack, then route.
#[derive(Default)]
pub struct Cells(BTreeMap<(String, String), BTreeMap<String, Cell>>);

impl Cells {
    /// Takes an `attack` line; false for any other one.
    pub fn take(&mut self, line: &str) -> bool {
        let Some(rest) = line.strip_prefix("attack ") else {
            return false;
        };
        let mut words = rest.splitn(5, ' ');
        let (Some(route), Some(attacker), Some(name), Some(outcome)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return false;
        };
        let cell = Cell {
            outcome: outcome.to_owned(),
            value: words.next().unwrap_or_default().to_owned(),
        };
        let routes = self
            .0
            .entry((attacker.to_owned(), name.to_owned()))
            .or_default();
        // An attack that is made in two ways lands when either does.
        if routes
            .get(route)
            .is_none_or(|before| before.outcome != "landed")
        {
            routes.insert(route.to_owned(), cell);
        }
        true
    }

    /// Gives every attack a cell for every route.
    fn complete(&mut self) {
        // "open": the attacker did not even get an fd.
        let mut refused = BTreeSet::new();
        self.0.retain(|(attacker, name), cells| {
            if name == "open" {
                refused.extend(cells.keys().map(|route| (attacker.clone(), route.clone())));
            }
            name != "open"
        });
        for ((attacker, _), cells) in &mut self.0 {
            for route in ROUTES {
                let why = match *route {
                    "ioctl" => "this kernel has no DMA_BUF_IOCTL_DERIVE",
                    route if refused.contains(&(attacker.clone(), route.to_owned())) => {
                        "such an alias is not given to a host process"
                    }
                    _ => "this attacker has no such means on this route",
                };
                cells.entry((*route).to_owned()).or_insert_with(|| Cell {
                    outcome: "n/a".to_owned(),
                    value: why.to_owned(),
                });
            }
        }
    }

    /// One check per cell: was the outcome the expected one?
    pub fn cell_checks(&self) -> Vec<Check> {
        let mut checks = Vec::new();
        for ((attacker, name), cells) in &self.0 {
            for (route, cell) in cells {
                let expected = if lands(route, attacker, name) {
                    "landed"
                } else {
                    "blocked"
                };
                let pass = cell.outcome == expected || cell.outcome == "n/a";
                let value = format!("{}: {}", cell.outcome, cell.value);
                let value = if pass {
                    value
                } else {
                    format!("{value} (expected: {expected})")
                };
                checks.push(Check::new(
                    format!("{route}/{attacker}/{name}"),
                    pass,
                    value,
                ));
            }
        }
        checks
    }

    /// Those, and one per route.
    fn checks(&self) -> Vec<Check> {
        let mut checks = self.cell_checks();
        for (route, attacker, fewest) in FEWEST {
            let count = |outcome: &str| {
                self.0
                    .iter()
                    .filter(|((by, _), _)| by == attacker)
                    .filter(|(_, cells)| {
                        cells
                            .get(*route)
                            .is_some_and(|cell| cell.outcome == outcome)
                    })
                    .count()
            };
            let (blocked, landed, not) = (count("blocked"), count("landed"), count("n/a"));
            let value = format!("{blocked} blocked, {landed} landed, {not} not applicable");
            let honest = landed == 0 || *route == "vmm";
            checks.push(Check::new(
                format!("{route}/{attacker}"),
                blocked + landed >= *fewest && honest,
                value,
            ));
        }
        let probe = ("vmm".to_owned(), "kernel_derive_ioctl".to_owned());
        let probe = self.0.get(&probe).and_then(|cells| cells.get("vmm"));
        let missing = probe.is_some_and(|cell| cell.value == "ENOTTY");
        checks.push(Check::new(
            "ioctl/not_in_this_kernel",
            missing,
            probe.map_or("not tried", |cell| &cell.value),
        ));
        checks
    }

    /// The table for people.
    fn table(&self) -> String {
        let width = self
            .0
            .keys()
            .map(|(attacker, name)| attacker.len() + name.len() + 1)
            .max()
            .unwrap_or(0);
        let mut table = format!("  {:width$}", "");
        for route in ROUTES {
            table += &format!("  {route:13}");
        }
        for ((attacker, name), cells) in &self.0 {
            table += &format!("\n  {:width$}", format!("{attacker}/{name}"));
            for route in ROUTES {
                let outcome = cells.get(*route).map_or("-", |cell| cell.outcome.as_str());
                table += &format!("  {outcome:13}");
            }
        }
        table.push('\n');
        table
    }
}

fn lands(route: &str, attacker: &str, name: &str) -> bool {
    LANDS
        .iter()
        .any(|(r, a, names)| (*r, *a) == (route, attacker) && names.contains(&name))
}

/// The hostile kernel of a guest.
pub const GUEST_MODULE: &str = "tests/guest/attack_module";

/// Adds the programs and the guest's module that only this needs.
pub fn prepare(ready: &mut Ready) -> Result<()> {
    ready.add(modules::build_program("tests/host/attack")?)?;
    ready.add(modules::build_module(GUEST_MODULE)?)
}

/// Runs all attacks; the checks, those of single cells and of routes.
pub fn run(ready: &Ready, mut tell: impl FnMut(&str)) -> Result<(Vec<Check>, String)> {
    let mut cells = Cells::default();
    let findings = scenario::run(ready, &ATTACK, BedKind::Nested, |line| match line {
        Line::Detail(text) if cells.take(text) => {}
        Line::Detail(text) => tell(text),
        Line::Step(time, text) => tell(&format!("[{:6.2} s] {text}", time.as_secs_f32())),
    })?;
    cells.complete();
    let mut checks = findings.checks;
    checks.extend(cells.checks());
    if checks.iter().any(|check| !check.pass) {
        tell(&format!("logs: {}", findings.logs.display()));
    }
    Ok((checks, cells.table()))
}

/// `cargo xtask attack`
pub fn command() -> Result<i32> {
    let mut ready = bed::prepare(&Programs::Build)?;
    prepare(&mut ready)?;
    let output = paths::workspace().join("target/attack");
    fs::create_dir_all(&output)?;
    let mut report = Report::new(BedKind::Nested.name())?;
    let (checks, table) = run(&ready, |text| println!("{text}"))?;
    report.checks = checks;
    let path = output.join("report.json");
    report.write(&path)?;
    println!("\n{table}");
    for check in &report.checks {
        let summary = check.name.matches('/').count() < 2;
        if summary || !check.pass {
            let verdict = if check.pass { "pass" } else { "FAIL" };
            println!("  {verdict}  {}: {}", check.name, check.value);
        }
    }
    println!("report: {}", path.display());
    Ok(i32::from(!report.passed()))
}

#[cfg(test)]
mod tests {
    use super::{Cells, LANDS, ROUTES};

    #[test]
    fn every_attack_has_a_cell_for_every_route() {
        let mut cells = Cells::default();
        assert!(cells.take("attack sealed vmm pwrite blocked EPERM"));
        assert!(cells.take("attack vmm vmm mmap_shared_write landed done"));
        assert!(!cells.take("check x pass"));
        cells.complete();
        assert!(cells.0.values().all(|routes| routes.len() == ROUTES.len()));
        let checks = cells.checks();
        let find = |name: &str| checks.iter().find(|check| check.name == name).unwrap();
        assert!(find("sealed/vmm/pwrite").pass);
        assert!(find("vmm/vmm/mmap_shared_write").pass);
        assert!(!find("sealed/vmm").pass, "too few");
    }

    #[test]
    fn a_write_that_lands_fails() {
        let mut cells = Cells::default();
        assert!(cells.take("attack sealed vmm mmap_shared_write landed done"));
        assert!(cells.take("attack vmm vmm mmap_shared_write blocked EACCES"));
        cells.complete();
        let failed = cells.cell_checks();
        let failed = failed.iter().filter(|check| !check.pass).count();
        assert_eq!(failed, 2, "both cells");
    }

    #[test]
    fn nothing_is_expected_to_land_where_the_kernel_enforces() {
        assert!(LANDS.iter().all(|(route, ..)| *route == "vmm"));
    }
}
