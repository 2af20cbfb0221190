// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask bench`: runs what measures, and puts the numbers beside the floor of the same run.
//!
//! The programs say `bench PLACE/WHAT UNIT VALUE…`, a value per round (`tests/bench`). `PLACE/floor` is the bare wake of a
//! thread by an eventfd in that place; whatever else is measured there, in the same unit, is compared to it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::{self, Write as _};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::Serialize;

use crate::bed::{self, Programs};
use crate::paths;
use crate::plan::{BedKind, Machine};
use crate::process;
use crate::project;
use crate::report::{Check, Report};
use crate::scenario::{self, Line, Scenario};

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Bench {
    /// From the signal of a host fence until a guest, or a host process, runs again: in the nested bed
    Fences,
    /// What a frame costs when it is handed over, and when it is copied: on this machine
    Streams,
}

const FENCES: Scenario = Scenario {
    name: "bench-fences",
    beds: &[BedKind::Nested],
    before: None,
    host: Some(include_str!("../scenarios/bench-fences-host.sh")),
    guest: Some(include_str!("../scenarios/bench-fences-guest.sh")),
    config: Some(include_str!("../scenarios/bench-fences.toml")),
    machine: Machine::USUAL,
    required: &[],
    limit: Duration::from_secs(300),
};

/// What has to be measured, or the run has failed.
const FENCE_ROWS: &[&str] = &[
    "host/floor",
    "host/dma-buf",
    "guest/floor",
    "guest/answer",
    "guest/dma-buf",
    "guest/sync-file",
];

/// Frames that `streams` measures, and how many consumers they have.
const SIZES: [&str; 2] = ["64x64", "4k"];
const CONSUMERS: [u32; 4] = [1, 4, 16, 64];

/// What `streams` has to measure.
fn stream_rows() -> Vec<String> {
    let copies = SIZES.map(|size| ["memcpy", "socket"].map(|what| format!("host/{what}-{size}")));
    let floor = std::iter::once("host/floor".to_owned());
    floor
        .chain(copies.into_iter().flatten())
        .chain(handed_over(&["stream", "cpu", "calls", "consumer-calls"]))
        .collect()
}

/// The rows of these for all sizes and consumers.
fn handed_over(what: &[&str]) -> Vec<String> {
    let mut rows = Vec::new();
    for (what, size) in what.iter().flat_map(|what| SIZES.map(|size| (what, size))) {
        rows.extend(CONSUMERS.map(|consumers| format!("host/{what}-{size}-{consumers}")));
    }
    rows
}

/// Runs it, prints a table, and writes `target/bench/NAME.json`.
pub fn command(bench: Bench) -> Result<i32> {
    match bench {
        Bench::Fences => {
            let (samples, checks, logs) = in_bed(&FENCES)?;
            let mut report = Report::new(BedKind::Nested.name())?;
            report.checks = checks;
            let wanted = FENCE_ROWS.iter().map(|row| (*row).to_owned()).collect();
            let status = tell("fences", report, samples, wanted)?;
            if status != 0 {
                println!("logs: {}", logs.display());
            }
            Ok(status)
        }
        Bench::Streams => {
            let built = project::build()?;
            let program = |name: &str| {
                let found = built.iter().find(|path| path.ends_with(name));
                found.with_context(|| format!("cargo made no {name}"))
            };
            let bench = program("dmabuf-bench")?;
            let daemon = program("vhost-device-dmabuf")?.as_os_str();
            let mut samples = Samples::default();
            let place: &[&OsStr] = &["--place".as_ref(), "host".as_ref()];
            here(bench, "floor", place, &mut samples)?;
            here(bench, "copies", place, &mut samples)?;
            here(
                bench,
                "streams",
                &["--daemon".as_ref(), daemon],
                &mut samples,
            )?;
            let report = Report::of_this_machine();
            tell("streams", report, samples, stream_rows())
        }
    }
}

/// Runs a scenario in the nested bed; its checks and the place of its logs come back, too.
fn in_bed(scenario: &Scenario) -> Result<(Samples, Vec<Check>, PathBuf)> {
    let ready = bed::prepare(&Programs::Build)?;
    let mut samples = Samples::default();
    let findings = scenario::run(&ready, scenario, BedKind::Nested, |line| match line {
        Line::Step(time, text) => println!("[{:6.2} s] {text}", time.as_secs_f32()),
        Line::Detail(text) if samples.take(text) => {}
        Line::Detail(text) => println!("           {text}"),
    })?;
    Ok((samples, findings.checks, findings.logs))
}

/// Runs the measuring program on this machine.
fn here(program: &Path, what: &str, arguments: &[&OsStr], samples: &mut Samples) -> Result<()> {
    let output = process::output_of(Command::new(program).arg(what).args(arguments))?;
    for line in output.lines() {
        if !samples.take(line) {
            println!("           {line}");
        }
    }
    Ok(())
}

/// Prints the table, and writes it beside the checks. The status to end with.
fn tell(name: &str, mut report: Report, samples: Samples, wanted: Vec<String>) -> Result<i32> {
    report.checks.extend(wanted.iter().map(|row| {
        let measured = samples.0.contains_key(row);
        Check::new(format!("measured {row}"), measured, measured)
    }));
    let rows = samples.rows();
    let ratios = ratios(&rows);
    println!("\n{}", table(&rows));
    for ratio in &ratios {
        println!("  {ratio}");
    }
    let directory = paths::workspace().join("target/bench");
    fs::create_dir_all(&directory)?;
    let path = directory.join(format!("{name}.json"));
    let passed = report.passed();
    let mut text = serde_json::to_string_pretty(&Numbers {
        rows,
        ratios,
        report: &report,
    })?;
    text.push('\n');
    fs::write(&path, text).with_context(|| format!("can't write {}", path.display()))?;
    if !passed {
        println!("{}", report.table());
    }
    println!("report: {}", path.display());
    Ok(i32::from(!passed))
}

/// The report's file.
#[derive(Serialize)]
struct Numbers<'a> {
    rows: Vec<Row>,
    /// Hand-overs beside copies.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ratios: Vec<Ratio>,
    #[serde(flatten)]
    report: &'a Report,
}

/// What was measured, by name: the unit, and the values.
#[derive(Default)]
struct Samples(BTreeMap<String, (String, Vec<f64>)>);

impl Samples {
    /// Takes a `bench` line; false for any other one, and for one that is not understood.
    fn take(&mut self, line: &str) -> bool {
        let mut words = line.split_whitespace();
        let (Some("bench"), Some(name), Some(unit)) = (words.next(), words.next(), words.next())
        else {
            return false;
        };
        let values: Option<Vec<f64>> = words
            .map(|word| word.parse().ok().filter(|value: &f64| value.is_finite()))
            .collect();
        let Some(values) = values.filter(|values| !values.is_empty()) else {
            return false;
        };
        let (_, all) = self
            .0
            .entry(name.to_owned())
            .or_insert_with(|| (unit.to_owned(), Vec::new()));
        all.extend(values);
        true
    }

    fn rows(mut self) -> Vec<Row> {
        for (_, values) in self.0.values_mut() {
            values.sort_by(f64::total_cmp);
        }
        let all = self.0.iter();
        all.map(|(name, (unit, values))| {
            let place = name.split('/').next().unwrap_or_default();
            let floor = self.0.get(&format!("{place}/floor"));
            let floor = floor.filter(|(floors, _)| floors == unit);
            let ratio = |percent| {
                floor.map(|(_, floor)| percentile(values, percent) / percentile(floor, percent))
            };
            Row {
                name: name.clone(),
                unit: unit.clone(),
                count: values.len(),
                least: percentile(values, 0),
                p50: percentile(values, 50),
                p99: percentile(values, 99),
                most: percentile(values, 100),
                p50_to_floor: ratio(50),
                p99_to_floor: ratio(99),
            }
        })
        .collect()
    }
}

/// The value that this many of a hundred don't exceed (the nearest one that was measured).
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

/// One line of the table.
#[derive(Debug, PartialEq, Serialize)]
struct Row {
    name: String,
    unit: String,
    count: usize,
    least: f64,
    p50: f64,
    p99: f64,
    most: f64,
    /// Its p50 by the p50 of its place's floor.
    p50_to_floor: Option<f64>,
    /// The same of the p99.
    p99_to_floor: Option<f64>,
}

/// The p50 of a hand-over by the p50 of a copy of the same frame.
#[derive(Debug, PartialEq, Serialize)]
struct Ratio {
    name: String,
    to_memcpy: f64,
    to_socket: f64,
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            to_memcpy,
            to_socket,
        } = self;
        write!(
            f,
            "{name:20} takes {to_memcpy:>9.3} times a memcpy of the frame, {to_socket:>7.3} times a copy through a socket"
        )
    }
}

fn ratios(rows: &[Row]) -> Vec<Ratio> {
    let p50 = |name: &str| rows.iter().find(|row| row.name == name).map(|row| row.p50);
    let ratio = |name: String| {
        let size = name.split('-').nth(1)?;
        let copy = |what| p50(&format!("host/{what}-{size}"));
        let own = p50(&name)?;
        Some(Ratio {
            to_memcpy: own / copy("memcpy")?,
            to_socket: own / copy("socket")?,
            name,
        })
    };
    let all = handed_over(&["stream"]).into_iter();
    all.filter_map(ratio).collect()
}

fn table(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    let mut table = format!(
        "  {:width$}  {:>6}  {:>9}  {:>9}       {:>9}  {:>9}\n",
        "", "rounds", "p50", "p99", "p50/floor", "p99/floor"
    );
    let ratio = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
    for row in rows {
        // Writing to a String can't fail.
        let _ = writeln!(
            table,
            "  {:width$}  {:>6}  {:>9.1}  {:>9.1}  {:<3}  {:>9}  {:>9}",
            row.name,
            row.count,
            row.p50,
            row.p99,
            row.unit,
            ratio(row.p50_to_floor),
            ratio(row.p99_to_floor)
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use super::{Ratio, Samples, percentile, ratios, stream_rows, table};

    #[test]
    fn hand_overs_are_compared_to_copies_of_the_same_frame() {
        let mut samples = Samples::default();
        for line in [
            "bench host/stream-4k-16 us 50",
            "bench host/stream-64x64-1 us 30",
            "bench host/memcpy-4k us 1000",
            "bench host/socket-4k us 5000",
            "bench host/memcpy-64x64 us 1",
        ] {
            assert!(samples.take(line), "{line}");
        }
        let expected = Ratio {
            name: "host/stream-4k-16".to_owned(),
            to_memcpy: 0.05,
            to_socket: 0.01,
        };
        assert_eq!(ratios(&samples.rows()), [expected]);
        assert!(stream_rows().contains(&"host/consumer-calls-4k-64".to_owned()));
        assert_eq!(stream_rows().len(), 1 + 4 + 4 * 8);
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&hundred, 0), 1.0);
        assert_eq!(percentile(&hundred, 50), 50.0);
        assert_eq!(percentile(&hundred, 99), 99.0);
        assert_eq!(percentile(&hundred, 100), 100.0);
        assert_eq!(percentile(&[7.0], 50), 7.0);
    }

    #[test]
    fn rows_are_compared_to_the_floor_of_their_place() {
        let mut samples = Samples::default();
        for line in [
            "bench host/floor us 10 30 20",
            "bench guest/floor us 100",
            "bench guest/x us 250",
            "bench host/x us 40",
            "bench host/x us 60 80",
            "bench host/frames frames 5",
        ] {
            assert!(samples.take(line), "{line}");
        }
        for line in [
            "bench host/x us",
            "bench host/x us 1 NaN",
            "bench",
            "other 1 2 3",
        ] {
            assert!(!samples.take(line), "{line}");
        }
        let rows = samples.rows();
        let ratio = |name: &str| {
            let row = rows.iter().find(|row| row.name == name).unwrap();
            (row.count, row.p50, row.p50_to_floor, row.p99_to_floor)
        };
        assert_eq!(ratio("host/floor"), (3, 20.0, Some(1.0), Some(1.0)));
        assert_eq!(ratio("host/x"), (3, 60.0, Some(3.0), Some(80.0 / 30.0)));
        assert_eq!(ratio("guest/x"), (1, 250.0, Some(2.5), Some(2.5)));
        assert_eq!(ratio("host/frames"), (1, 5.0, None, None));
        let table = table(&rows);
        assert!(table.contains("60.0") && table.contains("3.00"), "{table}");
    }
}
