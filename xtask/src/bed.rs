// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A test bed from the outside: prepares the run directory, starts the agent where it belongs, relays, cleans up.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::boot_watch::{self, BootWatch};
use crate::control::{Frame, Outcome, Source};
use crate::debug_kernel;
use crate::initramfs;
use crate::lock::CacheLock;
use crate::modules;
use crate::packages;
use crate::paths;
use crate::plan::{BedKind, GuestTask, Machine};
use crate::process::{privileged, tail};
use crate::project;
use crate::run_directory::{RunDirectory, fill};
use crate::test_packages;
use crate::tree::{self, Kernel};

/// From the start until the agent runs, which in the nested bed is the boot of the host VM.
const AGENT_LIMIT: Duration = Duration::from_secs(180);
/// From then until daemon and guest are up, besides the guest's boot.
const UP_LIMIT: Duration = Duration::from_secs(120);
/// For powering off in order, after the commands' time limit.
const DOWN_LIMIT: Duration = Duration::from_secs(60);

/// What a bed is asked to do.
#[derive(Clone, Debug)]
pub struct Request {
    /// Which bed.
    pub bed: BedKind,
    /// Files for the host side.
    pub host_files: Option<PathBuf>,
    /// Files for the guest.
    pub guest_files: Option<PathBuf>,
    /// A command on the host side that starts before the guest and goes on beside it.
    pub host_start: Option<String>,
    /// The command on the host side.
    pub host_run: Option<String>,
    /// The command in the guest.
    pub guest_run: Option<String>,
    /// What the guest does, if it isn't `guest_run`.
    pub guest: GuestTask,
    /// The daemon's configuration instead of the bed's own.
    pub config: Option<PathBuf>,
    /// The same as text.
    pub config_text: Option<String>,
    /// The guest's machine.
    pub machine: Machine,
    /// Start the daemon.
    pub daemon: bool,
    /// The time limit of the commands.
    pub timeout: Duration,
    /// The time limit of the guest's boot. Two layers of emulation are slow on a busy machine.
    pub boot_limit: Duration,
}

impl Request {
    /// A bed with nothing to do.
    pub fn new(bed: BedKind) -> Self {
        Self {
            bed,
            host_files: None,
            guest_files: None,
            host_start: None,
            host_run: None,
            guest_run: None,
            guest: GuestTask::Idle,
            config: None,
            config_text: None,
            machine: Machine::USUAL,
            daemon: true,
            timeout: Duration::from_secs(300),
            boot_limit: Duration::from_secs(400),
        }
    }
}

/// What a run tells while it goes on.
pub enum Happening {
    /// Output of a command.
    Output(Source, Vec<u8>),
    /// Something the user should know.
    Note(String),
    /// Daemon and guest are up; the commands start now.
    Up,
}

/// Everything the beds need, built once: the tree, images, the project's programs and modules.
pub struct Ready {
    /// Daemon and client programs.
    pub programs: Vec<PathBuf>,
    /// Kernel modules.
    pub modules: Vec<PathBuf>,
    /// The same for guests with other kernels: see [`prepare_kernel`].
    pub other_modules: HashMap<Kernel, Vec<PathBuf>>,
    /// The guest's test programs.
    pub guest_programs: Vec<PathBuf>,
    /// Static programs, which the guest finds before the others.
    pub static_programs: Vec<PathBuf>,
    /// Programs that only scenarios run, from the host side: tests, as `cargo test` builds them, and the payload.
    pub host_tests: Vec<PathBuf>,
}

impl Ready {
    /// Kernel modules for guests.
    pub fn modules_for(&self, kernel: Kernel) -> &[PathBuf] {
        self.other_modules.get(&kernel).unwrap_or(&self.modules)
    }

    /// Adds programs and modules that not every run needs.
    pub fn add(&mut self, built: modules::Built) -> Result<()> {
        let Some(products) = built.products else {
            bail!("{} does not build:\n{}", built.name, built.log);
        };
        for product in products {
            if product.extension().is_some() {
                self.modules.push(product);
            } else {
                self.programs.push(product);
            }
        }
        Ok(())
    }
}

/// Where the project's programs come from.
pub enum Programs {
    /// There are none in the bed.
    None,
    /// They are built now.
    Build,
    /// They are all the executables of a directory.
    From(PathBuf),
}

/// Builds what the beds need, as far as it isn't there.
pub fn prepare(programs: &Programs) -> Result<Ready> {
    let programs = match programs {
        Programs::None => Vec::new(),
        Programs::Build => project::build()?,
        Programs::From(directory) => modules::executables(directory)?,
    };
    let _lock = CacheLock::take()?;
    packages::install_missing()?;
    tree::ensure()?;
    initramfs::ensure(Kernel::Bed)?;
    Ok(Ready {
        programs,
        modules: modules::for_bed(Kernel::Bed)?,
        other_modules: HashMap::new(),
        guest_programs: modules::guest_programs()?,
        static_programs: Vec::new(),
        host_tests: Vec::new(),
    })
}

/// Adds what guests with another kernel need.
pub fn prepare_kernel(ready: &mut Ready, kernel: Kernel) -> Result<()> {
    let _lock = CacheLock::take()?;
    match kernel {
        Kernel::Bed => return Ok(()),
        Kernel::Older => test_packages::ensure()?,
        Kernel::Debug => debug_kernel::ensure()?,
    }
    initramfs::ensure(kernel)?;
    let modules = modules::for_bed(kernel)?;
    ready.other_modules.insert(kernel, modules);
    Ok(())
}

/// Runs a bed. `input` is handed the way to the guest's shell; `happening` hears what happens.
pub fn run(
    ready: &Ready,
    request: &Request,
    input: impl FnOnce(Input),
    mut happening: impl FnMut(Happening),
) -> Result<(Outcome, RunDirectory)> {
    let directory = RunDirectory::create()?;
    fill(&directory.0, ready, request)?;
    let mut starts = 0;
    let (mut bed, mut frames) =
        start_answering(&directory.0, request, &mut starts, &mut happening)?;
    let mut input = Some(input);
    let mut deadline = Instant::now() + request.boot_limit + UP_LIMIT;
    loop {
        match frames.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Frame::Output(source, bytes)) => happening(Happening::Output(source, bytes)),
            Ok(Frame::Note(text)) => happening(Happening::Note(text)),
            Ok(Frame::Up) => {
                deadline = Instant::now() + request.timeout + DOWN_LIMIT;
                if let Some(input) = input.take() {
                    input(Input(bed.0.stdin.take().context("no stdin")?));
                }
                happening(Happening::Up);
            }
            Ok(Frame::Outcome(json)) => {
                bed.wait(DOWN_LIMIT);
                let mut outcome: Outcome =
                    serde_json::from_slice(&json).context("the agent's outcome")?;
                outcome.early_deaths = boot_watch::recorded(&directory.0.join("log"));
                return Ok((outcome, directory));
            }
            Ok(Frame::Started | Frame::Input(_)) => {}
            Err(RecvTimeoutError::Disconnected)
                if input.is_some() && may_start_again(request, starts) =>
            {
                drop(bed);
                start_again(&directory.0, starts, "it ended", &mut happening)?;
                (bed, frames) =
                    start_answering(&directory.0, request, &mut starts, &mut happening)?;
                deadline = Instant::now() + request.boot_limit + UP_LIMIT;
            }
            Err(error) => {
                drop(bed);
                let what = match error {
                    RecvTimeoutError::Timeout => "the bed did not answer in time",
                    RecvTimeoutError::Disconnected => "the bed ended unexpectedly",
                };
                let outcome = Outcome {
                    failure: Some(format!("{what}.\n{}", last_words(&directory.0))),
                    early_deaths: boot_watch::recorded(&directory.0.join("log")),
                    ..Outcome::default()
                };
                return Ok((outcome, directory));
            }
        }
    }
}

/// A host VM that dies before its guest is up is started again: nothing was tried in it yet.
fn may_start_again(request: &Request, starts: u32) -> bool {
    request.bed == BedKind::Nested && starts < boot_watch::STARTS
}

fn start_again(
    directory: &Path,
    starts: u32,
    cause: &str,
    happening: &mut impl FnMut(Happening),
) -> Result<()> {
    let logs = directory.join("log");
    let files = [logs.join("host-console.log"), logs.join("bed.log")];
    boot_watch::record(&logs, "host VM", starts, cause, &files)?;
    happening(Happening::Note(format!(
        "the host VM died early ({cause}) and is started again"
    )));
    Ok(())
}

/// Starts the bed, and waits until its agent runs.
fn start_answering(
    directory: &Path,
    request: &Request,
    starts: &mut u32,
    happening: &mut impl FnMut(Happening),
) -> Result<(Bed, Receiver<Frame>)> {
    let logs = directory.join("log");
    loop {
        *starts += 1;
        let mut bed = start(directory)?;
        let (sender, frames) = mpsc::channel();
        let mut from = bed.0.stdout.take().context("no stdout")?;
        thread::spawn(move || {
            while let Ok(Some(frame)) = Frame::read(&mut from) {
                if sender.send(frame).is_err() {
                    break;
                }
            }
        });
        let nested = request.bed == BedKind::Nested;
        let watch =
            nested.then(|| BootWatch::new(&logs.join("bed.log"), &logs.join("host-console.log")));
        let Some(cause) = wait_for_agent(&frames, watch) else {
            return Ok((bed, frames));
        };
        drop(bed);
        if !may_start_again(request, *starts) {
            let words = last_words(directory);
            bail!("the bed did not start (attempt {starts}): {cause}.\n{words}");
        }
        start_again(directory, *starts, &cause, happening)?;
    }
}

/// Waits for the agent's first frame; what hindered it comes back.
fn wait_for_agent(frames: &Receiver<Frame>, mut watch: Option<BootWatch>) -> Option<String> {
    let deadline = Instant::now() + AGENT_LIMIT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let first = frames.recv_timeout(BootWatch::EVERY.min(left));
        let death = watch.as_mut().and_then(|watch| watch.look(Instant::now()));
        match first {
            Ok(_) => return None,
            Err(RecvTimeoutError::Disconnected) => {
                return Some(death.unwrap_or_else(|| "it ended".to_owned()));
            }
            Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                return Some(format!("no agent after {} s", AGENT_LIMIT.as_secs()));
            }
            Err(RecvTimeoutError::Timeout) if death.is_some() => return death,
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// The way to the guest's shell.
pub struct Input(ChildStdin);

impl Input {
    /// Sends input; nothing means its end.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        Frame::Input(bytes.to_vec()).write(&mut self.0)
    }
}

/// The first process of the bed's namespaces; ends with this value.
struct Bed(Child);

impl Bed {
    fn wait(&mut self, limit: Duration) {
        let poll = rustix::process::pidfd_open(
            rustix::process::Pid::from_child(&self.0),
            rustix::process::PidfdFlags::empty(),
        );
        if let Ok(pidfd) = poll {
            let mut poll = [rustix::event::PollFd::new(
                &pidfd,
                rustix::event::PollFlags::IN,
            )];
            let limit = rustix::time::Timespec::try_from(limit).ok();
            let _ = rustix::event::poll(&mut poll, limit.as_ref());
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // Under sudo the process belongs to root.
        if let Ok(None) = self.0.try_wait()
            && privileged("kill")
                .args(["-KILL", &self.0.id().to_string()])
                .stderr(Stdio::null())
                .status()
                .is_ok()
        {
            let _ = self.0.wait();
        }
    }
}

fn start(directory: &Path) -> Result<Bed> {
    let log = File::create(directory.join("log/bed.log"))?;
    // setpriv: the kernel ends unshare with this thread's process; unshare ends the namespaces.
    let child = privileged("setpriv")
        .args([
            "--pdeathsig",
            "KILL",
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child=KILL",
            "--mount-proc",
        ])
        .args(["--propagation", "private"])
        .arg(directory.join("bin/xtask"))
        .arg("enter")
        .arg("--directory")
        .arg(directory)
        .arg("--tree")
        .arg(paths::tree())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("can't start the bed (root, or sudo, is needed)")?;
    Ok(Bed(child))
}

/// The ends of all logs of a bed that told nothing more.
fn last_words(directory: &Path) -> String {
    [
        "bed.log",
        "host-console.log",
        "daemon.log",
        "guest-console.log",
    ]
    .iter()
    .map(|name| (name, tail(&directory.join("log").join(name), 15)))
    .filter(|(_, text)| !text.is_empty())
    .map(|(name, text)| format!("--- {name}:\n{text}\n"))
    .collect()
}
