// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask demo`: the main scenario, step by step, with a table, a report and two pictures at its end.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use dmabuf_client::still;

use crate::bed::{self, Programs, Ready, Request};
use crate::paths;
use crate::plan::{BedKind, Machine};
use crate::report::Report;
use crate::scenario::{self, Line, Scenario};

/// What it runs.
pub const DEMO: Scenario = Scenario {
    name: "demo",
    beds: &[BedKind::Flat, BedKind::Nested, BedKind::Native],
    before: Some(include_str!("../scenarios/demo-before.sh")),
    host: Some(include_str!("../scenarios/demo-host.sh")),
    guest: Some(include_str!("../scenarios/demo-guest.sh")),
    config: None,
    machine: Machine::USUAL,
    required: &[
        "frame_crc_equal",
        "frame_bytes_equal",
        "guest_write_blocked",
        "bytes_copied",
        "alias_outlives_owner",
        "probe",
        "default_is_kernel",
        "dynamic_rw",
    ],
    limit: Duration::from_secs(240),
};

/// Runs the demo in this bed, or in the best one this machine has.
pub fn command(bed: Option<BedKind>) -> Result<i32> {
    let ready = bed::prepare(&Programs::Build)?;
    let bed = match bed {
        Some(bed) => bed,
        None if native_works(&ready) => BedKind::Native,
        None => BedKind::Nested,
    };
    let output = paths::workspace().join("target/demo");
    fs::create_dir_all(&output)?;
    let start = Instant::now();
    println!("demo in the {} bed", bed.name());
    let findings = scenario::run(&ready, &DEMO, bed, |line| match line {
        Line::Step(time, text) => println!("[{:6.2} s] {text}", time.as_secs_f32()),
        Line::Detail(text) => println!("           {text}"),
    })?;
    let mut report = Report::new(bed.name())?;
    report.checks = findings.checks;
    for (name, format, bytes) in &findings.frames {
        let path = output.join(format!("frame-{name}.png"));
        still::write_png(&path, format, bytes)?;
        println!("           {}", path.display());
    }
    let path = output.join("report.json");
    report.write(&path)?;
    println!("\n{}", report.table());
    println!(
        "{:.1} s; report: {}",
        start.elapsed().as_secs_f32(),
        path.display()
    );
    if report.passed() {
        return Ok(0);
    }
    println!("logs: {}", findings.logs.display());
    Ok(1)
}

/// True when this machine has all that the demo needs: heaps, a camera, and a KVM that boots a stock kernel (there are
/// paravirtual ones that can't: the only way to know is to try).
fn native_works(ready: &Ready) -> bool {
    let nodes = [
        "/dev/kvm",
        "/dev/dma_heap/system",
        "/dev/udmabuf",
        "/dev/video0",
    ];
    if !nodes.iter().all(|node| Path::new(node).exists()) {
        return false;
    }
    println!("trying this machine's KVM");
    let mut request = Request::new(BedKind::Native);
    request.daemon = false;
    request.guest_run = Some("true".to_owned());
    request.timeout = Duration::from_secs(10);
    request.boot_limit = Duration::from_secs(10);
    let mut input = None;
    let tried = bed::run(ready, &request, |way| input = Some(way), |_| {});
    tried.is_ok_and(|(outcome, _)| outcome.guest == Some(0) && outcome.failure.is_none())
}
