// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest: QEMU, started through `qemu/run-vm.sh`, and the serial ports through which it is told what to do.
//!
//! Used by the agent for the bed's guest, and by `xtask guest`, with which a host command starts further ones.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags};
use rustix::process::Signal;
use rustix::time::Timespec;

use crate::boot_watch;
use crate::control::Source;
use crate::paths;
use crate::plan::{BedKind, GuestTask, Plan, PoolConfig, VmConfig};
use crate::process::{Watched, head, tail};

mod boot;

/// How many streams a guest's output comes from.
const STREAMS: usize = 4;

/// What the kernel writes when something is broken.
const COMPLAINTS: &[&str] = &[
    "BUG:",
    "WARNING: ",
    "INFO: trying to register non-static key",
    "Oops",
    "general protection fault",
    "blocked for more than",
    "Kernel panic",
];

/// What happens in a guest.
#[derive(Debug)]
pub enum GuestEvent {
    /// Output of its command or shell.
    Output(Source, Vec<u8>),
    /// A line on the status port.
    Line(String),
    /// A pump has reached the end of its stream.
    Drained,
    /// QEMU has ended.
    Ended(ExitStatus),
}

/// How to start a guest.
pub struct GuestOptions {
    /// A directory of its own, made here: sockets and console log.
    pub directory: PathBuf,
    /// Where to write the console's log.
    pub console: PathBuf,
    /// QEMU's own messages.
    pub qemu_log: PathBuf,
    /// The VMs of the daemon's configuration whose devices it has.
    pub vms: Vec<VmConfig>,
    /// Put bed.link's socket here.
    pub link: PathBuf,
    /// Its initramfs.
    pub initrd: PathBuf,
}

impl GuestOptions {
    /// Its static pools.
    pub fn pools(&self) -> Vec<PoolConfig> {
        let mut pools: Vec<PoolConfig> = Vec::new();
        for pool in self.vms.iter().flat_map(|vm| &vm.pools) {
            if !pools.contains(pool) {
                pools.push(pool.clone());
            }
        }
        pools
    }
}

/// A running guest.
pub struct GuestVm {
    qemu: Watched,
    status: UnixStream,
    input: UnixStream,
    hvc: UnixStream,
    console: PathBuf,
    qemu_log: PathBuf,
    boot_limit: Duration,
    ended: bool,
    drained: usize,
}

impl GuestVm {
    /// Starts QEMU. Everything that happens then arrives at `events`.
    fn start<E: From<GuestEvent> + Send + 'static>(
        plan: &Plan,
        options: &GuestOptions,
        events: &Sender<E>,
    ) -> Result<Self> {
        let io = Path::new(paths::IO);
        fs::create_dir_all(&options.directory)?;
        let listen = |name: &str| -> Result<UnixListener> {
            let path = options.directory.join(name);
            let _ = fs::remove_file(&path);
            UnixListener::bind(&path).with_context(|| format!("can't listen on {}", path.display()))
        };
        let ports = ["status", "in", "out", "err"];
        let listeners = ports
            .iter()
            .map(|name| listen(name))
            .collect::<Result<Vec<_>>>()?;
        let hvc = listen("console")?;
        let _ = fs::remove_file(&options.link);

        let mut command = Command::new(io.join("qemu/run-vm.sh"));
        // The host VM of the nested bed has one CPU.
        let (accel, cpus) = match plan.bed {
            BedKind::Flat => ("tcg", "2"),
            BedKind::Nested => ("kvm", "1"),
            BedKind::Native => ("kvm", "2"),
        };
        command.args([
            "--accel",
            accel,
            "--memory",
            "640M",
            "--cpus",
            cpus,
            "--hotplug",
        ]);
        if plan.bed == BedKind::Nested {
            command.args(["--mem-path", "/dev/shm"]);
        }
        if plan.tree.is_some() {
            command.arg("--qemu").arg(io.join("bin/qemu-from-tree"));
        }
        for vm in &options.vms {
            command.arg("--socket").arg(&vm.socket);
        }
        for pool in options.pools() {
            command.arg("--pool").arg(&pool.link);
        }
        // Each access to a device is dear under two layers of emulation, and SeaBIOS makes many.
        // The clock that the kernel would compare the TSC with stands still from waking until the bridge is set up.
        let (firmware, clock) = if plan.machine.sleeps {
            ("bios-256k.bin", " tsc=reliable")
        } else {
            ("qboot.rom", "")
        };
        let client = |id: &str| format!("socket,id={id},path={}/{id}", options.directory.display());
        command
            .args([
                "--",
                "-display",
                "none",
                "-monitor",
                "none",
                "-no-reboot",
                "-nodefaults",
                "-bios",
                firmware,
                // Devices are reached through ports, not through memory: KVM has to emulate each access to memory, and
                // under QEMU's SVM it has stopped a VM at one (KVM internal error, suberror 3: it takes an event for
                // being delivered that isn't). What is left of them is the dmabuf device.
                "-machine",
                "hpet=off",
                "-global",
                "virtio-serial-pci.disable-legacy=off",
                "-global",
                "virtio-serial-pci.disable-modern=on",
                "-global",
                "virtio-9p-pci.disable-legacy=off",
                "-global",
                "virtio-9p-pci.disable-modern=on",
            ])
            .arg("-kernel")
            .arg(io.join("guest-vmlinuz"))
            .arg("-initrd")
            .arg(&options.initrd)
            .args([
                "-append",
                &format!(
                    // What a CPU leaks is not what is tested, and emulated it is slow to keep.
                    "console=ttyS0 panic=-1 loglevel=6 mitigations=off BED={}{clock}",
                    plan.bed.name()
                ),
            ])
            .args(["-serial", &format!("file:{}", options.console.display())])
            .args(["-device", "virtio-serial-pci,max_ports=8"])
            .args([
                "-chardev",
                &client("console"),
                "-device",
                "virtconsole,chardev=console",
            ])
            .args([
                "-chardev",
                &format!(
                    "socket,id=link,path={},server=on,wait=off",
                    options.link.display()
                ),
            ])
            .args(["-device", "virtserialport,chardev=link,name=bed.link"])
            .args([
                "-chardev",
                &format!(
                    "socket,id=monitor,path={},server=on,wait=off",
                    options.link.with_extension("monitor").display()
                ),
                "-object",
                "monitor-qmp,id=qmp,chardev=monitor",
            ])
            .arg("-virtfs")
            .arg(format!(
                "local,path={}/share,mount_tag=share,security_model=none",
                paths::RUN
            ));
        for port in ports {
            command.args(["-chardev", &client(port)]).args([
                "-device",
                &format!("virtserialport,chardev={port},name=bed.{port}"),
            ]);
        }
        let log = File::create(&options.qemu_log)?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let qemu = Watched::start(
            &mut command,
            events.clone(),
            |status| GuestEvent::Ended(status).into(),
            |_| Ok(()),
        )?;
        boot_watch::end_when_stopped(qemu.as_fd(), options.qemu_log.clone())?;

        // QEMU connects to all of them before the first instruction runs.
        let accept = |listener: &UnixListener| accept(listener, &qemu, &options.qemu_log);
        let mut streams = listeners
            .iter()
            .map(accept)
            .collect::<Result<Vec<_>>>()?
            .into_iter();
        let hvc = accept(&hvc)?;
        let (Some(status), Some(input), Some(out), Some(err)) = (
            streams.next(),
            streams.next(),
            streams.next(),
            streams.next(),
        ) else {
            bail!("the guest's ports are not connected");
        };
        let console_output = hvc.try_clone()?;
        pump(console_output, Source::GuestOut, events.clone());
        pump(out, Source::GuestOut, events.clone());
        pump(err, Source::GuestErr, events.clone());
        let lines = BufReader::new(status.try_clone()?);
        let to = events.clone();
        thread::spawn(move || {
            for line in lines.lines() {
                let Ok(line) = line else { break };
                if to.send(GuestEvent::Line(line).into()).is_err() {
                    return;
                }
            }
            let _ = to.send(GuestEvent::Drained.into());
        });
        Ok(Self {
            qemu,
            status,
            input,
            hvc,
            console: options.console.clone(),
            qemu_log: options.qemu_log.clone(),
            boot_limit: Duration::from_secs(plan.boot_limit),
            ended: false,
            drained: 0,
        })
    }

    /// Tells the guest what to do.
    pub fn order(&mut self, task: &GuestTask) -> Result<()> {
        let order = match task {
            GuestTask::Idle => return Ok(()),
            GuestTask::Run => "run\n".to_owned(),
            GuestTask::Shell => "shell\n".to_owned(),
            GuestTask::Console(stty) => format!("console {stty}\n"),
        };
        self.status
            .write_all(order.as_bytes())
            .context("the guest takes no orders")
    }

    /// Input for the guest's shell; empty at its end.
    pub fn input(&mut self, task: &GuestTask, bytes: &[u8]) {
        if !bytes.is_empty() {
            let stream = if matches!(task, GuestTask::Console(_)) {
                &mut self.hvc
            } else {
                &mut self.input
            };
            // A guest that is gone is noticed by its end, not here.
            let _ = stream.write_all(bytes);
        } else if *task == GuestTask::Shell {
            // Only this direction: at a hang-up of both, QEMU drops what it has not read yet.
            let _ = self.input.shutdown(Shutdown::Write);
        }
    }

    /// QEMU's process id.
    pub fn pid(&self) -> i32 {
        self.qemu.pid()
    }

    /// Tells the guest to power off.
    pub fn end(&mut self) {
        let _ = self.status.write_all(b"end\n");
    }

    /// Remembers that QEMU has ended.
    pub fn mark_ended(&mut self) {
        self.ended = true;
    }

    /// Remembers that one of its streams has ended.
    pub fn mark_drained(&mut self) {
        self.drained += 1;
    }

    /// True when QEMU has ended, and everything it has sent was taken.
    pub fn is_gone(&self) -> bool {
        self.ended && self.drained >= STREAMS
    }

    /// Ends QEMU at once.
    pub fn kill(&self) {
        self.qemu.signal(Signal::KILL);
    }

    /// QEMU's log and the end of the guest's console, for error messages.
    pub fn last_words(&self) -> String {
        last_words(&self.qemu_log, &self.console)
    }
}

/// Lines of a guest's console that tell of a kernel bug.
pub fn kernel_complaints(console: &Path) -> Vec<String> {
    let console = fs::read(console).unwrap_or_default();
    String::from_utf8_lossy(&console)
        .lines()
        .filter(|line| COMPLAINTS.iter().any(|words| line.contains(words)))
        .map(|line| line.trim().to_owned())
        .collect()
}

/// What QEMU said first, a register dump's cause among it, and the end of the console.
fn last_words(qemu_log: &Path, console: &Path) -> String {
    format!(
        "--- QEMU said:\n{}\n--- the guest's console:\n{}",
        head(qemu_log, 15),
        tail(console, 25)
    )
}

/// Accepts QEMU's connection, or says why QEMU didn't make one.
fn accept(listener: &UnixListener, qemu: &Watched, qemu_log: &Path) -> Result<UnixStream> {
    let limit = Timespec {
        tv_sec: 20,
        tv_nsec: 0,
    };
    let mut poll = [
        PollFd::new(listener, PollFlags::IN),
        PollFd::new(qemu, PollFlags::IN),
    ];
    rustix::event::poll(&mut poll, Some(&limit))?;
    let [connection, _] = poll;
    if !connection.revents().contains(PollFlags::IN) {
        bail!("QEMU did not start. It said:\n{}", tail(qemu_log, 15));
    }
    Ok(listener.accept()?.0)
}

fn pump<E: From<GuestEvent> + Send + 'static>(
    mut from: UnixStream,
    source: Source,
    events: Sender<E>,
) {
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let event = match from.read(&mut buffer) {
                Ok(0) | Err(_) => GuestEvent::Drained,
                Ok(size) => {
                    GuestEvent::Output(source, buffer.get(..size).unwrap_or_default().to_vec())
                }
            };
            let end = matches!(event, GuestEvent::Drained);
            if events.send(event.into()).is_err() || end {
                return;
            }
        }
    });
}
