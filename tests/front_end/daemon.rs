// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The program under test: started with a configuration, watched through its log and /proc, ended with the test.

use crate::relays::{Relays, is_relayed};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use std::collections::BTreeSet;
use std::fs::Permissions;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Longest wait for anything that must happen.
pub const LIMIT: Duration = Duration::from_secs(20);
/// Longest life of a daemon: ends whatever a test waits for in vain.
const LIFE: Duration = Duration::from_secs(60);

/// The configuration of most tests. `{dir}` is the daemon's directory.
///
/// * pool `cam`, two slots of 64 KiB, sealed when both are published; heap `plain` of memfds that are never sealed
/// * VM `a` with the pool as static window and a dynamic window of 1 MiB: `cam` and `ro/…` read-only, `rw/…` read-write,
///   `vmm/…` read-only with the VMM's enforcement; 8 handles, 6 mappings
/// * VM `b` without the pool, with a window of 64 KiB: `b/…` read-write
/// * VM `blind` without any window: everything of VM `a`
/// * client `producer`, which may do everything
pub const CONFIG: &str = r#"
[broker]
socket-path = "{dir}/broker.sock"

[[heap]]
name = "plain"
kind = "memfd"

[[pool]]
name = "cam"
kind = "memfd"
slots = 2
slot-size = "64K"
uuid = "5f0c1f6e-93a1-4f0e-8f5a-0d5b2c1a7e10"
link = "{dir}/cam.pool"

[[vm]]
name = "a"
socket-path = "{dir}/a.sock"
window-size = "1M"
pools = ["cam"]
max-handles = 8
max-mappings = 6
[[vm.grant]]
pool = "cam"
access = "read-only"
[[vm.grant]]
buffer = "ro/*"
access = "read-only"
[[vm.grant]]
buffer = "rw/*"
access = "read-write"
[[vm.grant]]
buffer = "vmm/*"
access = "read-only"
enforcement = "vmm"

[[vm]]
name = "b"
socket-path = "{dir}/b.sock"
window-size = "64K"
[[vm.grant]]
buffer = "b/*"
access = "read-write"

[[vm]]
name = "blind"
socket-path = "{dir}/blind.sock"
[[vm.grant]]
buffer = "ro/*"
access = "read-only"
[[vm.grant]]
buffer = "rw/*"
access = "read-write"

[[client]]
name = "producer"
publish = ["*"]
allocate = ["cam", "plain"]
max-handles = 600
[[client.grant]]
pool = "cam"
access = "read-write"
[[client.grant]]
buffer = "*"
access = "read-write"
"#;

/// A directory of its own, removed on drop.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("dmabuf-test-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The program, to be started with other arguments than [`Daemon`] does: the one that was built with these tests, or
/// `$VHOST_DEVICE_DMABUF` where they are run on another machine.
pub fn program() -> Command {
    let built = || env!("CARGO_BIN_EXE_vhost-device-dmabuf").into();
    let path = std::env::var_os("VHOST_DEVICE_DMABUF").unwrap_or_else(built);
    let mut command = Command::new(path);
    command
        .stdin(Stdio::null())
        .env_remove("VHOST_DEVICE_DMABUF_LOG")
        .env_remove("NOTIFY_SOCKET");
    command
}

/// What a daemon holds in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub fds: usize,
    pub threads: usize,
    /// Mappings of memfds: guest memory and buffers.
    pub mappings: usize,
}

#[derive(Default)]
struct Log {
    /// And how many write to it.
    lines: Mutex<(Vec<String>, usize)>,
    changed: Condvar,
    /// Indices of those that a test has waited for.
    found: Mutex<BTreeSet<usize>>,
}

/// A running daemon.
pub struct Daemon {
    process: Child,
    directory: Directory,
    log: Arc<Log>,
    ended: Arc<(Mutex<bool>, Condvar)>,
    killed: bool,
    /// Its VMs that have processes of their own.
    pub relays: Relays,
}

impl Daemon {
    /// Starts a daemon with a configuration file and waits until it is ready.
    pub fn start(config: &str) -> Self {
        let directory = Directory::new();
        let path = directory.join("config.toml");
        let text = config.replace("{dir}", directory.path().to_str().unwrap());
        let (relays, text) = if is_relayed() {
            Relays::of(&text)
        } else {
            (Relays::default(), text)
        };
        std::fs::write(&path, text).unwrap();
        let mut command = program();
        command.arg("--config").arg(path);
        let mut daemon = Self::start_with(command, directory);
        daemon.relays = relays;
        daemon
    }

    /// Starts a daemon by this command and waits until it is ready.
    pub fn start_with(command: Command, directory: Directory) -> Self {
        Self::start_logging(command, directory, Arc::default())
    }

    /// The same, with the log of another one.
    pub fn start_beside(other: &Self, command: Command, directory: Directory) -> Self {
        Self::start_logging(command, directory, Arc::clone(&other.log))
    }

    fn start_logging(mut command: Command, directory: Directory, log: Arc<Log>) -> Self {
        let notify = directory.join("notify.sock");
        let ready = UnixDatagram::bind(&notify).unwrap();
        ready.set_read_timeout(Some(LIMIT)).unwrap();
        // Whoever the program runs as.
        std::fs::set_permissions(&notify, Permissions::from_mode(0o777)).unwrap();
        let mut process = command
            .env("NOTIFY_SOCKET", &notify)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (output, writer) = (process.stderr.take().unwrap(), Arc::clone(&log));
        log.lines.lock().unwrap().1 += 1;
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                writer.lines.lock().unwrap().0.push(line);
                writer.changed.notify_all();
            }
            writer.lines.lock().unwrap().1 -= 1;
            writer.changed.notify_all();
        });
        let daemon = Self {
            process,
            directory,
            log,
            ended: Arc::default(),
            killed: false,
            relays: Relays::default(),
        };
        daemon.limit_life();
        let mut message = [0; 64];
        let len = ready.recv(&mut message);
        assert!(len.is_ok(), "the daemon is not ready: {:?}", daemon.log());
        assert!(message.starts_with(b"READY=1"));
        daemon
    }

    fn limit_life(&self) {
        let (ended, pid) = (Arc::clone(&self.ended), self.pid());
        std::thread::spawn(move || {
            let (lock, changed) = &*ended;
            let guard = lock.lock().unwrap();
            let guard = changed
                .wait_timeout_while(guard, LIFE, |ended| !*ended)
                .unwrap();
            if !*guard.0 {
                let _ = kill_process(pid, Signal::KILL);
            }
        });
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
        // One thread stops after the other: the last one is told to the parent.
        if signal == Signal::STOP {
            waitpid(Some(self.pid()), WaitOptions::UNTRACED).unwrap();
        }
    }

    /// Kills it.
    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        self.killed = true;
    }

    /// A file in the daemon's directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A process file.
    pub fn proc(&self, name: &str) -> PathBuf {
        format!("/proc/{}/{name}", self.process.id()).into()
    }

    /// Everything it has logged so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lines.lock().unwrap().0.clone()
    }

    /// Waits for a log line that contains all of `parts`, and that no earlier call has found.
    pub fn logged(&self, parts: &[&str]) -> String {
        let mut found = self.log.found.lock().unwrap();
        let next = |lines: &[String]| {
            let fits = |(index, line): &(usize, &String)| {
                !found.contains(index) && parts.iter().all(|part| line.contains(part))
            };
            let line = lines.iter().enumerate().find(fits);
            line.map(|(index, line)| (index, line.clone()))
        };
        let lines = self.log.lines.lock().unwrap();
        let waiting =
            |(lines, writers): &mut (Vec<String>, usize)| next(lines).is_none() && *writers > 0;
        let (lines, _) = self
            .log
            .changed
            .wait_timeout_while(lines, LIMIT, waiting)
            .unwrap();
        let line = next(&lines.0);
        drop(lines);
        let Some((index, line)) = line else {
            panic!("no log line with {parts:?} in {:#?}", self.log());
        };
        found.insert(index);
        line
    }

    /// How often it has logged a line that contains `part`.
    pub fn count_logged(&self, part: &str) -> usize {
        self.log().iter().filter(|line| line.contains(part)).count()
    }

    /// What it holds now.
    pub fn usage(&self) -> Usage {
        let entries = |name| std::fs::read_dir(self.proc(name)).unwrap().count();
        let maps = std::fs::read_to_string(self.proc("maps")).unwrap();
        Usage {
            fds: entries("fd"),
            threads: entries("task"),
            mappings: maps.lines().filter(|line| line.contains("/memfd:")).count(),
        }
    }

    /// What it holds when no peer is connected. Waits until every VM is waiting for a front-end.
    pub fn idle(&self, vms: usize) -> Usage {
        let mut usage = self.usage();
        self.until("every VM is served", || {
            let tasks = std::fs::read_dir(self.proc("task")).unwrap();
            let names = tasks
                .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
            // The last thread that the daemon starts for a VM before it waits.
            let serving = names.filter(|name| name.trim() == "vring_worker").count();
            // The socket by which it has told that it is ready may be open for another moment.
            std::thread::sleep(Duration::from_millis(10));
            let before = std::mem::replace(&mut usage, self.usage());
            let vms = vms - self.relays.count().min(vms);
            serving == vms && usage == before
        });
        usage
    }

    /// Waits until it holds no more than `before`.
    pub fn returns_to(&self, before: Usage) {
        let end = Instant::now() + LIMIT;
        let mut now = self.usage();
        while now.fds > before.fds || now.threads > before.threads || now.mappings > before.mappings
        {
            if Instant::now() > end {
                let fds = std::fs::read_dir(self.proc("fd")).unwrap();
                let fds: Vec<_> = fds
                    .filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok())
                    .collect();
                panic!("leaked: {before:?} before, {now:?} now; {fds:#?}");
            }
            std::thread::sleep(Duration::from_millis(2));
            now = self.usage();
        }
    }

    /// Polls for a condition, as processes have no event for it.
    pub fn until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let end = Instant::now() + LIMIT;
        while !condition() {
            assert!(
                Instant::now() < end,
                "never: {what}; log: {:#?}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sends SIGTERM and waits for the end.
    pub fn end(&mut self) -> ExitStatus {
        let _ = kill_process(self.pid(), Signal::TERM);
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            if Instant::now() > end {
                let _ = self.process.kill();
                let _ = self.process.wait();
                panic!("the daemon does not end on SIGTERM; log: {:#?}", self.log());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn check_end(&mut self) {
        let alive = self.process.try_wait().unwrap().is_none();
        assert!(alive, "the daemon is dead; log: {:#?}", self.log());
        let status = self.end();
        assert!(status.success(), "{status}; log: {:#?}", self.log());
        let log = self.log();
        let panicked = log.iter().any(|line| line.contains("panicked"));
        assert!(!panicked, "a thread has panicked; log: {log:#?}");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.relays.end();
        if std::thread::panicking() {
            let _ = self.process.kill();
            let _ = self.process.wait();
            eprintln!("the daemon's log: {:#?}", self.log());
        } else if !self.killed
            && self
                .process
                .try_wait()
                .ok()
                .flatten()
                .is_none_or(|status| !status.success())
        {
            self.check_end();
        }
        *self.ended.0.lock().unwrap() = true;
        self.ended.1.notify_all();
    }
}

/// Whether this machine has `path`; if not, the caller's test is skipped, and says so past the test harness.
pub fn require(path: &str) -> bool {
    let there = Path::new(path).exists();
    if !there {
        skip(&format!("no {path}"));
    }
    there
}

/// Says that the test of this thread is skipped.
pub fn skip(why: &str) {
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    let line = format!("\nSKIP {test}: {why}\n");
    let _ = std::io::stdout().lock().write_all(line.as_bytes());
}
