// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Scenarios: what is tried in a bed, on both sides at the same time.
//!
//! Their commands print one line per check, `check NAME pass|fail [VALUE]`; `step TEXT` tells what happens, and
//! `frame NAME FOURCC WIDTH HEIGHT STRIDE FILE` points to a frame's bytes in the share. Other lines are details.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use dmabuf_client::picture::{Fourcc, layout};
use dmabuf_protocol::wire::Format;

use crate::bed::{self, Happening, Ready, Request};
use crate::control::Source;
use crate::emulation;
use crate::plan::{BedKind, Machine};
use crate::report::Check;
use crate::tree::Kernel;

/// One scenario.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Its name; the checks are called `bed/scenario/check` in the tests.
    pub name: &'static str,
    /// Where it runs.
    pub beds: &'static [BedKind],
    /// The script that starts before the guest, if memfd pools aren't simply to be filled.
    pub before: Option<&'static str>,
    /// The script on the host side.
    pub host: Option<&'static str>,
    /// The script in the guest.
    pub guest: Option<&'static str>,
    /// The daemon's configuration, if not the bed's own; POOL and HEAP in it stand for the bed's kinds, and what follows
    /// `#flat ` or `#nested ` at the start of a line is for such a bed only.
    pub config: Option<&'static str>,
    /// The guest's machine.
    pub machine: Machine,
    /// The checks it has to make: a script that stops early must not pass.
    pub required: &'static [&'static str],
    /// Its time limit.
    pub limit: Duration,
}

impl Scenario {
    /// The same with a kernel that looks for bugs, and takes its time; `None` if it's about another kernel.
    pub fn with_debug_kernel(&self) -> Option<Self> {
        (self.machine.kernel == Kernel::Bed).then(|| Self {
            machine: Machine {
                kernel: Kernel::Debug,
                ..self.machine
            },
            limit: self.limit * DEBUG_FACTOR,
            ..*self
        })
    }
}

/// How much longer everything may take with such a kernel.
const DEBUG_FACTOR: u32 = 4;
/// What a guest with such a kernel starts with: that it does look.
const DEBUG_GUEST: &str = include_str!("../scenarios/debug-kernel-guest.sh");
/// What it ends with: that it still does. A guest that is killed doesn't come to it.
const DEBUG_GUEST_END: &str = include_str!("../scenarios/debug-kernel-end.sh");
/// The checks it has to make.
const DEBUG_REQUIRED: &[&str] = &["lockdep_on", "kasan_on"];

/// All scripts start with this.
const PRELUDE: &str = include_str!("../scenarios/prelude.sh");
/// Those of the host side go on with this.
const HOST: &str = include_str!("../scenarios/host.sh");

/// What a scenario gave.
pub struct Findings {
    /// All checks, those of the bed itself at the end.
    pub checks: Vec<Check>,
    /// The frames it pointed to: name, layout, bytes.
    pub frames: Vec<(String, Format, Vec<u8>)>,
    /// The logs of this run.
    pub logs: PathBuf,
}

/// Runs a scenario; `tell` hears its steps, with the time since the start, and its other lines.
pub fn run(
    ready: &Ready,
    scenario: &Scenario,
    bed: BedKind,
    mut tell: impl FnMut(Line<'_>),
) -> Result<Findings> {
    let mut faults = Vec::new();
    loop {
        let mut findings = once(ready, scenario, bed, &mut tell)?;
        match emulation::fault(bed, &findings) {
            Some(fault) if faults.len() + 1 < emulation::RUNS => {
                tell(Line::Detail(&emulation::told(fault, &findings.logs)));
                faults.push(fault);
            }
            _ => {
                emulation::repeated(&mut findings, &faults);
                return Ok(findings);
            }
        }
    }
}

fn once(
    ready: &Ready,
    scenario: &Scenario,
    bed: BedKind,
    tell: &mut impl FnMut(Line<'_>),
) -> Result<Findings> {
    let on_host = |text: &str| format!("{PRELUDE}\n{HOST}\n{text}");
    let debug = scenario.machine.kernel == Kernel::Debug && scenario.guest.is_some();
    let more_required = if debug { DEBUG_REQUIRED } else { &[] };
    // A shell of its own: scripts exit.
    let in_guest = |text: &str| match debug {
        true => format!("{PRELUDE}\n{DEBUG_GUEST}\n(\n{text}\n)\n{DEBUG_GUEST_END}"),
        false => format!("{PRELUDE}\n{text}"),
    };
    let mut request = Request::new(bed);
    request.host_start = scenario.before.map(on_host);
    request.host_run = scenario.host.map(on_host);
    request.guest_run = scenario.guest.map(in_guest);
    request.config_text = scenario.config.map(|text| of_bed(text, bed));
    request.machine = scenario.machine;
    request.timeout = scenario.limit;
    if scenario.machine.kernel == Kernel::Debug {
        request.boot_limit *= DEBUG_FACTOR;
    }
    let start = Instant::now();
    let mut checks = Vec::new();
    let mut frames = Vec::new();
    let mut lines = Lines::default();
    let mut forgotten = None;
    let (outcome, directory) = bed::run(
        ready,
        &request,
        |input| forgotten = Some(input),
        |happening| match happening {
            Happening::Note(text) => tell(Line::Detail(&text)),
            Happening::Up => tell(Line::Step(start.elapsed(), "daemon and guest are up")),
            Happening::Output(source, bytes) => lines.take(source, &bytes, |line| {
                if let Some(check) = Check::from_line(line) {
                    checks.push(check);
                } else if let Some(step) = line.strip_prefix("step ") {
                    tell(Line::Step(start.elapsed(), step));
                } else if let Some(frame) = line.strip_prefix("frame ") {
                    frames.push(frame.to_owned());
                } else {
                    tell(Line::Detail(line));
                }
            }),
        },
    )?;
    drop(forgotten);
    let run = directory.0;
    if let Some(failure) = &outcome.failure {
        checks.push(Check::new("bed_works", false, failure.as_str()));
    }
    if outcome.timed_out {
        checks.push(Check::new("in_time", false, scenario.limit.as_secs()));
    }
    for (name, wanted, status) in [
        ("host_status", scenario.host, outcome.host),
        ("guest_status", scenario.guest, outcome.guest),
    ] {
        if wanted.is_some() && status != Some(0) {
            checks.push(Check::new(name, false, status));
        }
    }
    for name in scenario.required.iter().chain(more_required) {
        if !checks.iter().any(|check: &Check| check.name == *name) {
            checks.push(Check::new(*name, false, "not made"));
        }
    }
    let complaints = outcome.kernel_complaints.join("; ");
    checks.push(match complaints.as_str() {
        "" => Check::new("guest_kernel_clean", true, true),
        text => Check::new("guest_kernel_clean", false, text),
    });
    if !outcome.early_deaths.is_empty() {
        let deaths = outcome.early_deaths.join("; ");
        checks.push(Check::new("started_again", true, deaths));
    }
    let frames = frames
        .iter()
        .map(|line| read_frame(line, &run))
        .collect::<Result<_>>()?;
    Ok(Findings {
        checks,
        frames,
        logs: run.join("log"),
    })
}

/// A scenario's configuration with the kinds of pools and heaps that the bed has.
fn of_bed(text: &str, bed: BedKind) -> String {
    let (pool, heap, own) = match bed {
        BedKind::Flat => ("memfd", "memfd", "#flat "),
        BedKind::Nested | BedKind::Native => ("udmabuf", "dma-heap", "#nested "),
    };
    let lines = text
        .lines()
        .map(|line| line.strip_prefix(own).unwrap_or(line));
    lines
        .flat_map(|line| [line, "\n"])
        .collect::<String>()
        .replace("\"POOL\"", &format!("\"{pool}\""))
        .replace("\"HEAP\"", &format!("\"{heap}\""))
}

/// A line of a running scenario.
pub enum Line<'a> {
    /// A step, and when it was made.
    Step(Duration, &'a str),
    /// Anything else.
    Detail(&'a str),
}

fn read_frame(line: &str, run: &std::path::Path) -> Result<(String, Format, Vec<u8>)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let &[name, fourcc, width, height, stride, file] = words.as_slice() else {
        anyhow::bail!("a frame line is NAME FOURCC WIDTH HEIGHT STRIDE FILE, not {line:?}");
    };
    let path = run.join("share").join(file);
    let bytes =
        fs::read(&path).with_context(|| format!("the frame {} is missing", path.display()))?;
    // It is V4L2 that names it.
    let fourcc = fourcc.parse::<Fourcc>()?.v4l2_to_drm();
    let fourcc = fourcc.with_context(|| format!("an unknown format: {line:?}"))?;
    let format = layout(fourcc, width.parse()?, height.parse()?, stride.parse()?);
    let format = format.with_context(|| format!("a frame that can't be: {line:?}"))?;
    Ok((name.to_owned(), format, bytes))
}

/// Puts lines together again, per stream.
#[derive(Default)]
struct Lines {
    pending: [Vec<u8>; 4],
}

impl Lines {
    fn take(&mut self, source: Source, bytes: &[u8], mut line: impl FnMut(&str)) {
        let [host_out, host_err, guest_out, guest_err] = &mut self.pending;
        let pending = match source {
            Source::HostOut => host_out,
            Source::HostErr => host_err,
            Source::GuestOut => guest_out,
            Source::GuestErr => guest_err,
        };
        pending.extend_from_slice(bytes);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let whole: Vec<u8> = pending.drain(..=end).collect();
            line(String::from_utf8_lossy(&whole).trim_end());
        }
    }
}
