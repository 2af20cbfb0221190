// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The demo's main job, driven from the host side of a bed: a camera's frames, read by the guest, which can't change
//! them.
//!
//! It holds both ends: the producer (`camera-share` or `test-pattern`, in lockstep over two fifos) and the guest
//! (`guest-check lockstep`, over the bed's link). Every claim is one check, and compares what both sides see.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::link::{LIMIT, Link};
use crate::process::output_of;

/// Frames that are compared.
const FRAMES: usize = 40;
/// The picture that the producer was asked for; see `before` in the scenario.
const WIDTH: u32 = 1280;
const HEIGHT: u32 = 720;
/// The tag of page 0; page n has this plus n.
const TAG: u64 = 0x7a61_6368_0000_0000;

/// Runs it; the checks go to standard output.
pub fn command() -> Result<i32> {
    let run = PathBuf::from(std::env::var_os("BED_RUN").context("only inside of a bed")?);
    let share = PathBuf::from(std::env::var_os("BED_SHARE").context("only inside of a bed")?);
    let mut demo = Demo {
        producer: Producer {
            link: Link::fifos(&run)?,
            standing: None,
        },
        guest: Guest(Link::socket(&run.join("link.sock"))?),
        share,
    };
    demo.frames()?;
    demo.standing_frame()?;
    demo.owner_leaves()?;
    demo.probe()?;
    demo.dynamic()?;
    demo.guest.ask("quit")?;
    Ok(0)
}

struct Demo {
    producer: Producer,
    guest: Guest,
    share: PathBuf,
}

impl Demo {
    /// Each frame, while it is live: the guest's CRC of its own read-only mapping against the host's.
    fn frames(&mut self) -> Result<()> {
        step("the camera captures into shared buffers; the guest reads each frame where it is");
        let mut ids = std::collections::HashMap::new();
        let mut different = HashSet::new();
        let mut equal = 0;
        let start = Instant::now();
        for count in 1..=FRAMES {
            let frame = self.producer.frame()?;
            let id = match ids.get(&frame.name) {
                Some(id) => *id,
                None => {
                    let id = self.guest.open(&frame.name, "ro")?;
                    ids.insert(frame.name.clone(), id);
                    id
                }
            };
            let seen = self.guest.ask(&format!("crc {id} {}", frame.bytes))?;
            equal += usize::from(seen == frame.crc);
            different.insert(frame.crc.clone());
            if count < FRAMES {
                self.producer.tell("next")?;
            } else {
                self.producer.standing = Some((frame, id));
            }
        }
        let rate = FRAMES as f32 / start.elapsed().as_secs_f32();
        check(
            "frame_crc_equal",
            equal == FRAMES && different.len() >= FRAMES / 2,
            &format!(
                "{equal} of {FRAMES} frames, {} different pictures, {} buffers, {rate:.0} frames/s with both CRCs",
                different.len(),
                ids.len()
            ),
        );
        Ok(())
    }

    /// One frame that the producer keeps standing: pictures, attacks, and whether the pages are the same.
    fn standing_frame(&mut self) -> Result<()> {
        let (frame, id) = self.producer.standing.clone().context("no frame")?;
        step("the same frame, as captured and as the guest sees it");
        let host_file = self.share.join("frame-host.nv12");
        self.producer
            .expect(&format!("dump {}", host_file.display()), "dumped")?;
        self.guest.ask(&format!(
            "dump {id} /share/frame-guest.nv12 {}",
            frame.bytes
        ))?;
        for side in ["host", "guest"] {
            println!("frame {side} NV12 {WIDTH} {HEIGHT} {WIDTH} frame-{side}.nv12");
        }
        let before = fs::read(&host_file)?;
        let same = before == fs::read(self.share.join("frame-guest.nv12"))?;
        check(
            "frame_bytes_equal",
            same,
            &format!("{} bytes", before.len()),
        );

        step(
            "the guest tries to change it: mmap, mprotect, /proc, DMA, and root through the PCI resource file",
        );
        let attacks = self.guest.ask(&format!("attack {id}"))?;
        println!("{}", attacks.replace(' ', "\n  "));
        let mut words = attacks.split(' ');
        let passed: u32 = words.next().unwrap_or("0").parse()?;
        let failed: u32 = words.next().unwrap_or("1").parse()?;
        let tried: Vec<&str> = words.filter_map(|word| word.split('=').next()).collect();
        let required = ["mmap_shared_write", "mprotect", "pci_resource"];
        let complete = required
            .iter()
            .all(|name| tried.iter().any(|t| t.starts_with(name)));
        let after_file = self.share.join("frame-after.nv12");
        self.producer
            .expect(&format!("dump {}", after_file.display()), "dumped")?;
        let unchanged = before == fs::read(&after_file)?;
        let alive = self.guest.ask("info").is_ok();
        check(
            "guest_write_blocked",
            failed == 0 && passed > 0 && complete && unchanged && alive,
            &format!(
                "{passed} attacks blocked, {failed} landed; host bytes {}; the VM {}",
                if unchanged { "unchanged" } else { "CHANGED" },
                if alive { "runs" } else { "is gone" }
            ),
        );

        step(
            "the producer marks every page of the frame; the guest looks, with no request in between",
        );
        self.producer.expect(&format!("tag {TAG:x}"), "tagged")?;
        let tags = self.guest.ask(&format!("tags {id} {}", frame.bytes))?;
        let numbers: Vec<&str> = tags.split(' ').collect();
        let [first, pages, wrong] = numbers[..] else {
            bail!("the guest answered {tags:?}")
        };
        let wrong: u64 = if first == format!("{TAG:x}") {
            wrong.parse()?
        } else {
            pages.parse()?
        };
        let copied = wrong * 4096;
        check(
            "bytes_copied",
            copied == 0 && pages.parse::<u64>()? > 300,
            &copied.to_string(),
        );
        Ok(())
    }

    /// The producer ends; what the guest has open stays as it is.
    fn owner_leaves(&mut self) -> Result<()> {
        let (frame, id) = self.producer.standing.clone().context("no frame")?;
        step("the producer ends; the guest still has its frame");
        let crc = self.producer.ask("crc")?;
        let crc = crc
            .strip_prefix("crc ")
            .context("no CRC from the producer")?
            .to_owned();
        self.producer.tell("quit")?;
        let listed = gone(&frame.name)?;
        let seen = self.guest.ask(&format!("crc {id} {}", frame.bytes))?;
        let closed = self.guest.ask(&format!("close {id}")).is_ok();
        let again = self.guest.0.ask(&format!("open {} ro", frame.name))?;
        check(
            "alias_outlives_owner",
            !listed && seen == crc && closed && again.starts_with("err"),
            &format!("CRC {seen}, host's last {crc}; the name is gone: {again}"),
        );
        Ok(())
    }

    /// A read-only alias that only the VMM could enforce, on a VMM that doesn't.
    fn probe(&mut self) -> Result<()> {
        step(
            "a buffer that only the VMM could keep read-only, on a VMM that maps everything writable",
        );
        alloc("vmm/probe")?;
        let answer = self.guest.0.ask("open vmm/probe ro")?;
        let info = self.guest.ask("info")?;
        let log = fs::read_to_string(std::env::var_os("BED_LOG").context("no BED_LOG")?)?;
        let line = log
            .lines()
            .find(|line| line.contains("failed the sealed probe"));
        println!("{}", line.unwrap_or("no line in the log"));
        check(
            "probe",
            answer == "err EACCES" && info.ends_with(" 2") && line.is_some(),
            &format!(
                "open: {answer}; log line: {}",
                if line.is_some() { "yes" } else { "none" }
            ),
        );
        alloc("kernel/plain")?;
        let answer = self.guest.0.ask("open kernel/plain ro")?;
        check("default_is_kernel", answer == "err EACCES", &answer);
        Ok(())
    }

    /// A read-write buffer in the dynamic window: both sides write, both see it.
    fn dynamic(&mut self) -> Result<()> {
        step("a read-write buffer in the dynamic window");
        alloc("rw/scratch")?;
        let id = self.guest.open("rw/scratch", "rw")?;
        let last = (1 << 20) - 1;
        self.guest.ask(&format!("write {id} 5 a7"))?;
        self.guest.ask(&format!("write {id} {last} 3c"))?;
        let host_file = self.share.join("scratch");
        dmabufctl(&["dump", "rw/scratch", &host_file.display().to_string()])?;
        let bytes = fs::read(&host_file)?;
        let host_sees = bytes.get(5) == Some(&0xa7) && bytes.get(last) == Some(&0x3c);
        dmabufctl(&["write", "rw/scratch", "4096", "5e"])?;
        let guest_sees = self.guest.ask(&format!("read {id} 4096"))? == "5e";
        self.guest.ask(&format!("close {id}"))?;
        check(
            "dynamic_rw",
            host_sees && guest_sees,
            &format!(
                "host sees the guest's bytes: {host_sees}; guest sees the host's: {guest_sees}"
            ),
        );
        let info = self.guest.ask("info")?;
        println!("handles, mappings, probe in the end: {info}");
        Ok(())
    }
}

fn step(text: &str) {
    println!("step {text}");
}

fn check(name: &str, pass: bool, value: &str) {
    println!(
        "check {name} {} {value}",
        if pass { "pass" } else { "fail" }
    );
}

fn dmabufctl(arguments: &[&str]) -> Result<String> {
    output_of(Command::new("dmabufctl").args(arguments))
}

fn alloc(name: &str) -> Result<()> {
    dmabufctl(&[
        "alloc", "--heap", "system", "--size", "1M", "--name", name, "--keep",
    ])
    .map(drop)
}

/// Whether `name` is still listed once the daemon has noticed that its producer is gone.
fn gone(name: &str) -> Result<bool> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let listed = dmabufctl(&["list"])?
            .lines()
            .any(|line| line.starts_with(name));
        if !listed || Instant::now() > deadline {
            return Ok(listed);
        }
        thread::yield_now();
    }
}

/// One frame's line.
#[derive(Clone)]
struct Frame {
    name: String,
    bytes: u64,
    crc: String,
}

struct Producer {
    link: Link,
    standing: Option<(Frame, u32)>,
}

impl Producer {
    fn frame(&mut self) -> Result<Frame> {
        let line = self.link.line()?;
        let words: Vec<&str> = line.split(' ').collect();
        let ["frame", name, _, _, bytes, crc] = words[..] else {
            bail!("expected a frame of the producer, got {line:?}");
        };
        Ok(Frame {
            name: name.to_owned(),
            bytes: bytes.parse()?,
            crc: crc.to_owned(),
        })
    }

    fn tell(&mut self, line: &str) -> Result<()> {
        self.link.send(line)
    }

    fn ask(&mut self, line: &str) -> Result<String> {
        self.link.ask(line)
    }

    fn expect(&mut self, line: &str, answer: &str) -> Result<()> {
        let got = self.link.ask(line)?;
        if got == answer {
            Ok(())
        } else {
            bail!("the producer answered {line:?} by {got:?}")
        }
    }
}

struct Guest(Link);

impl Guest {
    /// The answer behind `ok`.
    fn ask(&mut self, line: &str) -> Result<String> {
        let answer = self.0.ask(line)?;
        match answer.strip_prefix("ok") {
            Some(rest) => Ok(rest.trim().to_owned()),
            None => bail!("the guest answered {line:?} by {answer:?}"),
        }
    }

    fn open(&mut self, name: &str, access: &str) -> Result<u32> {
        let answer = self.ask(&format!("open {name} {access}"))?;
        Ok(answer.split(' ').next().unwrap_or_default().parse()?)
    }
}
