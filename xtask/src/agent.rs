// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The agent runs on the host side of a bed and carries out a [`Plan`]: daemon, guest, the commands on both sides.
//!
//! It is this same program, started as `xtask agent`: in the flat bed in namespaces of its own, in the nested bed in
//! the host VM. It talks to the bed in [`Frame`]s, and ends everything it has started.

use std::cell::RefCell;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::control::{Frame, Outcome, Source};
use crate::daemon::{self, Daemon};
use crate::guest_vm::{self, GuestEvent, GuestOptions, GuestVm};
use crate::host_command::HostCommand;
use crate::paths;
use crate::plan::{BedKind, GuestTask, Plan, VmConfig};
use crate::pools;
use crate::process::exit_code;

/// How long the guest has to power off, and the daemon to end after SIGTERM.
const END_LIMIT: Duration = Duration::from_secs(10);

/// What the agent waits for.
pub enum Event {
    /// From the guest.
    Guest(GuestEvent),
    /// Output of the host command.
    HostOutput(Source, Vec<u8>),
    /// A stream of the host command has ended.
    HostDrained,
    /// The host command has ended.
    HostEnded(ExitStatus),
    /// The daemon has ended.
    DaemonEnded(ExitStatus),
    /// Input for the guest's shell.
    Input(Vec<u8>),
    /// Nobody listens to the agent any more.
    BedGone,
}

impl From<GuestEvent> for Event {
    fn from(event: GuestEvent) -> Self {
        Self::Guest(event)
    }
}

/// Runs the agent over its standard input and output, or over a port.
pub fn command(control: Option<&Path>) -> Result<i32> {
    let (from, to): (Box<dyn Read + Send>, Box<dyn Write>) = match control {
        None => (Box::new(io::stdin()), Box::new(io::stdout())),
        Some(path) => {
            let port = OpenOptions::new().read(true).write(true).open(path);
            let port = port.with_context(|| format!("can't open {}", path.display()))?;
            (Box::new(port.try_clone()?), Box::new(port))
        }
    };
    let mut to = to;
    Frame::Started.write(&mut to)?;
    let (events, receiver) = mpsc::channel();
    thread::spawn({
        let events = events.clone();
        move || read_control(from, &events)
    });
    let mut agent = Agent {
        to,
        events,
        receiver,
        outcome: Outcome::default(),
        daemon: None,
        guest: None,
        console: None,
        ending: false,
    };
    if let Err(error) = agent.run() {
        agent.outcome.failure.get_or_insert(format!("{error:#}"));
    }
    agent.tear_down();
    let outcome = serde_json::to_vec(&agent.outcome)?;
    Frame::Outcome(outcome).write(&mut agent.to)?;
    Ok(0)
}

/// Gives the host side its directories: /run/bed, and the log directory that outlives the bed.
pub fn prepare_directories() -> Result<()> {
    let run = Path::new(paths::RUN);
    let logs = Path::new(paths::IO).join("log");
    for directory in [
        &run.join("log"),
        &run.join("share"),
        &logs,
        Path::new(paths::DAEMON),
    ] {
        fs::create_dir_all(directory)
            .with_context(|| format!("can't create {}", directory.display()))?;
    }
    rustix::mount::mount_bind(&logs, run.join("log")).context("can't bind the log directory")?;
    std::os::unix::fs::symlink(Path::new(paths::IO).join("files"), run.join("files"))?;
    Ok(())
}

fn read_control(mut from: Box<dyn Read + Send>, events: &Sender<Event>) {
    loop {
        let event = match Frame::read(&mut from) {
            Ok(Some(Frame::Input(bytes))) => Event::Input(bytes),
            Ok(Some(_)) => continue,
            Ok(None) | Err(_) => Event::BedGone,
        };
        let gone = matches!(event, Event::BedGone);
        if events.send(event).is_err() || gone {
            return;
        }
    }
}

struct Agent {
    to: Box<dyn Write>,
    events: Sender<Event>,
    receiver: Receiver<Event>,
    outcome: Outcome,
    daemon: Option<Daemon>,
    guest: Option<GuestVm>,
    console: Option<PathBuf>,
    ending: bool,
}

impl Agent {
    fn run(&mut self) -> Result<()> {
        let io = Path::new(paths::IO);
        let plan = Plan::read(io)?;
        if plan.bed == BedKind::Nested {
            prepare_directories()?;
        }
        let mut options = GuestOptions {
            directory: Path::new(paths::RUN).join("guest"),
            console: Path::new(paths::RUN).join("log/guest-console.log"),
            qemu_log: Path::new(paths::RUN).join("log/guest-qemu.log"),
            vms: Vec::new(),
            link: Path::new(paths::RUN).join("link.sock"),
            initrd: io.join("guest.img"),
        };
        if plan.daemon {
            let config = io.join("config.toml");
            let text =
                fs::read_to_string(&config).context("can't read the daemon's configuration")?;
            options.vms = if plan.machine.all_devices {
                VmConfig::all(&text)?
            } else {
                vec![VmConfig::from_config(&text, None)?]
            };
            self.daemon = Some(daemon::start(&config, &self.events, Event::DaemonEnded)?);
            if plan.host_start.is_none() {
                pools::fill(&options.pools())?;
            }
        }
        if let Some(command) = &plan.host_start {
            self.host(&plan).start_before_guest(command)?;
            pools::wait(&options.pools())?;
        }
        let mut early_input = Vec::new();
        self.console = Some(options.console.clone());
        // Both closures write to it.
        let to = RefCell::new(&mut self.to);
        let tell = |frame: Frame| frame.write(&mut **to.borrow_mut());
        let guest = GuestVm::boot(
            &plan,
            &options,
            (&self.events, &self.receiver),
            |event| match event {
                Event::Guest(GuestEvent::Output(source, bytes)) => {
                    tell(Frame::Output(source, bytes))?;
                    Ok(None)
                }
                Event::Guest(GuestEvent::Line(line)) => {
                    if let Some(note) = line.strip_prefix("note ") {
                        tell(Frame::Note(format!("guest: {note}")))?;
                    }
                    Ok(Some(GuestEvent::Line(line)))
                }
                Event::Guest(event) => Ok(Some(event)),
                Event::DaemonEnded(status) => {
                    bail!("the daemon ended while the guest started ({status})")
                }
                Event::BedGone => bail!("the bed was ended from outside"),
                Event::Input(bytes) => {
                    early_input.push(bytes);
                    Ok(None)
                }
                _ => Ok(None),
            },
            |death| Ok(tell(Frame::Note(death.to_owned()))?),
        )?;
        let guest = self.guest.insert(guest);
        Frame::Up.write(&mut self.to)?;
        guest.order(&plan.guest)?;
        for bytes in early_input {
            guest.input(&plan.guest, &bytes);
        }
        let qemu = guest.pid();
        let host = match &plan.host_run {
            Some(command) => Some(self.host(&plan).start(command, qemu, &self.events)?),
            None => None,
        };
        self.wait(&plan, host.is_some())
    }

    fn host<'a>(&self, plan: &'a Plan) -> HostCommand<'a> {
        HostCommand {
            plan,
            daemon: self.daemon.as_ref().map(|daemon| daemon.process.pid()),
        }
    }

    /// Until both commands have ended, or something forbids it.
    fn wait(&mut self, plan: &Plan, has_host: bool) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(plan.timeout);
        let mut host_done = !has_host;
        let mut host_streams = if has_host { 2 } else { 0 };
        let mut guest_done = plan.guest == GuestTask::Idle;
        // A background process may keep the host command's output open: once the command has ended, its
        // output has this long to end too.
        let mut drain = None;
        loop {
            if host_done
                && guest_done
                && (host_streams == 0 || drain.is_none_or(|until| until <= Instant::now()))
            {
                return Ok(());
            }
            let until = drain
                .filter(|_| guest_done)
                .map_or(deadline, |drain| deadline.min(drain));
            match self
                .receiver
                .recv_timeout(until.saturating_duration_since(Instant::now()))
            {
                Ok(Event::HostEnded(status)) => {
                    self.outcome.host = Some(exit_code(status));
                    host_done = true;
                    drain = Some(Instant::now() + Duration::from_secs(1));
                }
                Ok(Event::HostDrained) => host_streams -= 1,
                Ok(Event::Input(bytes)) => {
                    if let Some(guest) = &mut self.guest {
                        guest.input(&plan.guest, &bytes);
                    }
                }
                Ok(Event::BedGone) => bail!("the bed was ended from outside"),
                Ok(Event::Guest(GuestEvent::Line(line))) if line.starts_with("status ") => {
                    self.outcome.guest = line.trim_start_matches("status ").parse().ok();
                    guest_done = true;
                }
                Ok(Event::Guest(GuestEvent::Ended(status))) => {
                    let Some(guest) = &mut self.guest else {
                        continue;
                    };
                    guest.mark_ended();
                    let words = guest.last_words();
                    if !guest_done {
                        self.outcome.failure = Some(format!(
                            "QEMU ended before the guest's command had ({status}).\n{words}"
                        ));
                    } else if !host_done {
                        Frame::Note(format!("QEMU has ended ({status})")).write(&mut self.to)?;
                    }
                    guest_done = true;
                }
                Ok(event) => self.pass_on(event)?,
                Err(RecvTimeoutError::Timeout) if Instant::now() >= deadline => {
                    self.outcome.timed_out = true;
                    return Ok(());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("all event sources are gone"),
            }
        }
    }

    /// What is treated alike in every phase.
    fn pass_on(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Guest(GuestEvent::Output(source, bytes)) | Event::HostOutput(source, bytes) => {
                Frame::Output(source, bytes).write(&mut self.to)?;
            }
            Event::Guest(GuestEvent::Line(line)) => {
                if let Some(note) = line.strip_prefix("note ") {
                    Frame::Note(format!("guest: {note}")).write(&mut self.to)?;
                }
            }
            Event::Guest(GuestEvent::Drained) => {
                if let Some(guest) = &mut self.guest {
                    guest.mark_drained();
                }
            }
            Event::DaemonEnded(status) => {
                if !self.ending {
                    Frame::Note(format!("the daemon has ended ({status})")).write(&mut self.to)?;
                } else if exit_code(status) != 0 {
                    Frame::Note(format!("the daemon ended with {status} when told to stop"))
                        .write(&mut self.to)?;
                }
                self.daemon = None;
            }
            _ => {}
        }
        Ok(())
    }

    /// Ends guest and daemon in order; what doesn't end in time is killed.
    fn tear_down(&mut self) {
        self.ending = true;
        if let Some(mut guest) = self.guest.take() {
            guest.end();
            let mut killed = false;
            let mut deadline = Instant::now()
                + if self.outcome.timed_out {
                    Duration::ZERO
                } else {
                    END_LIMIT
                };
            while !guest.is_gone() {
                let left = deadline.saturating_duration_since(Instant::now());
                match self.receiver.recv_timeout(left) {
                    Ok(Event::Guest(GuestEvent::Ended(_))) => guest.mark_ended(),
                    Ok(Event::Guest(GuestEvent::Drained)) => guest.mark_drained(),
                    Ok(event) => {
                        let _ = self.pass_on(event);
                    }
                    Err(_) if killed => break,
                    Err(_) => {
                        guest.kill();
                        killed = true;
                        deadline = Instant::now() + END_LIMIT;
                    }
                }
            }
            if killed && !self.outcome.timed_out && self.outcome.failure.is_none() {
                self.outcome.failure = Some(format!(
                    "the guest did not power off.\n{}",
                    guest.last_words()
                ));
            }
        }
        if let Some(console) = &self.console {
            self.outcome.kernel_complaints = guest_vm::kernel_complaints(console);
        }
        if let Some(daemon) = self.daemon.take() {
            daemon.process.signal(Signal::TERM);
            let deadline = Instant::now() + END_LIMIT;
            loop {
                match self
                    .receiver
                    .recv_timeout(deadline.saturating_duration_since(Instant::now()))
                {
                    Ok(event @ Event::DaemonEnded(_)) => {
                        let _ = self.pass_on(event);
                        break;
                    }
                    Ok(event) => {
                        let _ = self.pass_on(event);
                    }
                    Err(_) => {
                        let _ =
                            Frame::Note("the daemon did not end within 10 s of SIGTERM".to_owned())
                                .write(&mut self.to);
                        break;
                    }
                }
            }
        }
        self.keep_share();
    }

    /// The share is a tmpfs: what is in it is copied to where the bed can read it.
    fn keep_share(&self) {
        let from: PathBuf = Path::new(paths::RUN).join("share/.");
        let to = Path::new(paths::IO).join("share");
        let _ = fs::create_dir_all(&to);
        let _ = Command::new("cp")
            .arg("-a")
            .arg(from)
            .arg(to)
            .stderr(Stdio::null())
            .status();
    }
}
