// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Notices that a VM's kernel has died before its init ran, and keeps the record of it.
//!
//! Under two layers of emulation that happens (see `emulation`); nothing of this project has run in the VM then. Such a VM
//! is started again, for host VM, guest and further guests alike, and each death is written down in one file, from which the
//! report takes it. What happens after init is a failure, never repeated here.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Signal, pidfd_send_signal};
use rustix::time::Timespec;

/// How often a VM is started until its init runs.
pub const STARTS: u32 = 3;
/// How long a kernel may write nothing to its console before its init runs. At `loglevel=6` the longest silence of a boot
/// is a tenth of it; beside other VMs on the same CPU it is longer.
const SILENCE: Duration = Duration::from_secs(120);
/// The record's name in a run's log directory.
const RECORD: &str = "early-deaths.log";

/// What QEMU writes when it stops a VM for good.
const STOPPED: &[&str] = &["KVM internal error", "KVM: entry failed", "kvm run failed"];
/// What a kernel writes when it dies.
const DYING: &[&str] = &[
    "Kernel panic",
    "BUG: ",
    "Oops",
    "general protection fault",
    "double fault",
    "PANIC: ",
];

/// Kills a QEMU that has stopped its VM for good: the VM would stay there, paused, until somebody's time is up. Ends with it.
pub fn end_when_stopped(qemu: BorrowedFd<'_>, log: PathBuf) -> Result<()> {
    let qemu = qemu.try_clone_to_owned()?;
    thread::spawn(move || {
        let every = Timespec {
            tv_sec: BootWatch::EVERY.as_secs().cast_signed(),
            tv_nsec: 0,
        };
        let mut stopped = false;
        while rustix::event::poll(&mut [PollFd::new(&qemu, PollFlags::IN)], Some(&every)) == Ok(0) {
            if stopped {
                let _ = pidfd_send_signal(&qemu, Signal::KILL);
                return;
            }
            // The dump of its registers is written by the next time.
            let said = fs::read(&log).unwrap_or_default();
            stopped = cause_of_death(&text(&said), "").is_some();
        }
    });
    Ok(())
}

/// Looks at QEMU's log and the console of a VM that boots.
pub struct BootWatch {
    qemu_log: PathBuf,
    console: PathBuf,
    silence: Duration,
    size: usize,
    heard: Instant,
}

impl BootWatch {
    /// How often to look.
    pub const EVERY: Duration = Duration::from_secs(1);

    /// Watches a VM that is started now.
    pub fn new(qemu_log: &Path, console: &Path) -> Self {
        Self {
            qemu_log: qemu_log.to_owned(),
            console: console.to_owned(),
            silence: SILENCE,
            size: 0,
            heard: Instant::now(),
        }
    }

    /// How the VM has died, if it has.
    pub fn look(&mut self, now: Instant) -> Option<String> {
        let console = fs::read(&self.console).unwrap_or_default();
        let qemu_log = fs::read(&self.qemu_log).unwrap_or_default();
        if console.len() != self.size {
            self.size = console.len();
            self.heard = now;
        }
        cause_of_death(&text(&qemu_log), &text(&console)).or_else(|| {
            (now.saturating_duration_since(self.heard) >= self.silence)
                .then(|| format!("the console was silent for {} s", self.silence.as_secs()))
        })
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The line that tells of the end, of QEMU or the kernel.
fn cause_of_death(qemu_log: &str, console: &str) -> Option<String> {
    let find = |text: &str, signs: &[&str]| {
        text.lines()
            .find(|line| signs.iter().any(|sign| line.contains(sign)))
            .map(|line| line.trim().to_owned())
    };
    find(qemu_log, STOPPED).or_else(|| find(console, DYING))
}

/// Writes down in a log directory that a VM has died, and keeps its logs under other names: the next start overwrites them.
pub fn record(logs: &Path, vm: &str, start: u32, cause: &str, files: &[PathBuf]) -> Result<()> {
    let path = logs.join(RECORD);
    let mut record = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("can't open {}", path.display()))?;
    record.write_all(format!("{vm}, start {start}: {cause}\n").as_bytes())?;
    for file in files {
        let mut kept = file.as_os_str().to_owned();
        kept.push(format!(".{start}"));
        // A VM that wrote nothing has none.
        let _ = fs::rename(file, kept);
    }
    Ok(())
}

/// All early deaths of a run, one line each.
pub fn recorded(logs: &Path) -> Vec<String> {
    let record = fs::read(logs.join(RECORD)).unwrap_or_default();
    text(&record).lines().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd as _;
    use std::path::PathBuf;
    use std::process::Command;
    use std::sync::mpsc::channel;
    use std::time::{Duration, Instant};

    use rustix::process::Signal;

    use super::{BootWatch, SILENCE, cause_of_death, end_when_stopped, record, recorded};
    use crate::process::{Watched, exit_code};

    /// As QEMU writes it; the console had no more than this.
    const DUMP: &str = "KVM internal error. Suberror: 1\nemulation failure\nRAX=0000000000000000 RBX=1\nCode=?? ?? <??> ??\n";
    const BOOTING: &str = "Probing EDD (edd=off to disable)... ok\n\
        [    1.529895] mtrr: your CPUs had inconsistent fixed MTRR settings\n\
        [    4.386629] ACPI: IRQ 4 override to edge(!), high(!)\n\
        insmod: can't insert '/modules/kvm-intel.ko': Operation not supported\n\
        bed: insmod kvm-intel.ko failed\n";

    /// An empty directory, removed at the end of the test.
    struct Logs(PathBuf);

    impl Logs {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("{test}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Logs {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_kernel_that_boots_is_left_alone() {
        assert_eq!(cause_of_death("", BOOTING), None);
        let warning = "qemu-system-x86_64: warning: host doesn't support requested feature: KVM\n";
        assert_eq!(cause_of_death(warning, ""), None);
    }

    #[test]
    fn the_line_that_tells_of_the_end_is_found() {
        for (qemu, console, cause) in [
            (DUMP, "", "KVM internal error. Suberror: 1"),
            (
                "error: kvm run failed Bad address\n",
                "",
                "error: kvm run failed Bad address",
            ),
            (
                "KVM: entry failed, hardware error 0xffffffff\n",
                "",
                "KVM: entry failed, hardware error 0xffffffff",
            ),
            (
                "",
                "[    2.1] Oops: Oops: 0000 [#1] SMP NOPTI\r\n",
                "[    2.1] Oops: Oops: 0000 [#1] SMP NOPTI",
            ),
            (
                "",
                "a\n[ 1.0] BUG: unable to handle page fault for address: 0\n[ 1.1] Kernel panic - not syncing\n",
                "[ 1.0] BUG: unable to handle page fault for address: 0",
            ),
            (
                "",
                "[ 201.6] Kernel panic - not syncing: corrupted stack end\n",
                "[ 201.6] Kernel panic - not syncing: corrupted stack end",
            ),
        ] {
            let console = format!("{BOOTING}{console}");
            assert_eq!(cause_of_death(qemu, &console).as_deref(), Some(cause));
        }
    }

    #[test]
    fn a_qemu_that_has_stopped_its_vm_is_ended() {
        let logs = Logs::new("stopped");
        let log = logs.0.join("qemu");
        let start = || {
            let mut sleep = Command::new("sleep");
            let (events, ended) = channel();
            let qemu =
                Watched::start(sleep.arg("60"), events, |status| status, |_| Ok(())).unwrap();
            end_when_stopped(qemu.as_fd(), log.clone()).unwrap();
            (qemu, ended)
        };
        fs::write(&log, "warning: Code=90\n").unwrap();
        let (_going_on, ended) = start();
        assert!(ended.recv_timeout(3 * BootWatch::EVERY).is_err());
        fs::write(&log, DUMP).unwrap();
        let (_stopped, also_ended) = start();
        for ended in [ended, also_ended] {
            let status = ended.recv_timeout(Duration::from_secs(30)).unwrap();
            assert_eq!(exit_code(status), 128 + Signal::KILL.as_raw());
        }
    }

    #[test]
    fn silence_counts_from_the_last_word() {
        let logs = Logs::new("silence");
        let console = logs.0.join("console");
        let start = Instant::now();
        let mut watch = BootWatch::new(&logs.0.join("qemu"), &console);
        let second = Duration::from_secs(1);
        let late = start + SILENCE - 20 * second;
        assert_eq!(watch.look(late), None);
        fs::write(&console, BOOTING).unwrap();
        assert_eq!(watch.look(late), None);
        assert_eq!(watch.look(late + SILENCE - second), None);
        let silent = watch.look(late + SILENCE);
        assert_eq!(
            silent.as_deref(),
            Some(format!("the console was silent for {} s", SILENCE.as_secs()).as_str()),
            "{SILENCE:?}"
        );
        fs::write(&console, format!("{BOOTING}and on\n")).unwrap();
        assert_eq!(watch.look(late + SILENCE), None, "it has spoken again");
        fs::write(logs.0.join("qemu"), DUMP).unwrap();
        let dead = watch.look(late + SILENCE);
        assert_eq!(dead.as_deref(), Some("KVM internal error. Suberror: 1"));
    }

    #[test]
    fn deaths_add_up_and_keep_their_logs() {
        let logs = Logs::new("deaths");
        let console = logs.0.join("console.log");
        let absent = logs.0.join("qemu.log");
        assert!(recorded(&logs.0).is_empty());
        for start in [1, 2] {
            fs::write(&console, format!("death {start}")).unwrap();
            record(
                &logs.0,
                "guest",
                start,
                "silent",
                &[console.clone(), absent.clone()],
            )
            .unwrap();
        }
        assert_eq!(
            recorded(&logs.0),
            ["guest, start 1: silent", "guest, start 2: silent"]
        );
        let kept = fs::read_to_string(logs.0.join("console.log.2")).unwrap();
        assert_eq!(kept, "death 2");
        assert!(!console.exists());
    }
}
