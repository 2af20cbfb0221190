// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From the start of a guest until it is up.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{GuestEvent, GuestOptions, GuestVm};
use crate::boot_watch::{self, BootWatch};
use crate::paths;
use crate::plan::Plan;
use crate::process::exit_code;

impl GuestVm {
    /// Starts a guest, and waits until init has everything up. A guest whose kernel dies before its init loads the guest
    /// driver is started again: nothing of this project has run in it then, and the daemon has lost one more front-end.
    ///
    /// `take` gets all events, and hands back this guest's; `died` hears of each death.
    pub fn boot<E: From<GuestEvent> + Send + 'static>(
        plan: &Plan,
        options: &GuestOptions,
        (events, receiver): (&Sender<E>, &Receiver<E>),
        mut take: impl FnMut(E) -> Result<Option<GuestEvent>>,
        mut died: impl FnMut(&str) -> Result<()>,
    ) -> Result<Self> {
        let logs = Path::new(paths::RUN).join("log");
        let name = options
            .directory
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        let start = || Self::start(plan, options, events);
        Self::boot_with(start, receiver, &mut take, |guest, number, cause| {
            boot_watch::record(
                &logs,
                &name,
                number,
                cause,
                &[guest.console.clone(), guest.qemu_log.clone()],
            )?;
            died(&format!(
                "the guest's kernel died early ({cause}) and is started again"
            ))
        })
    }

    /// The same, whatever starts it.
    fn boot_with<E>(
        mut start: impl FnMut() -> Result<Self>,
        receiver: &Receiver<E>,
        take: &mut impl FnMut(E) -> Result<Option<GuestEvent>>,
        mut died: impl FnMut(&Self, u32, &str) -> Result<()>,
    ) -> Result<Self> {
        let mut number = 1;
        loop {
            let mut guest = start()?;
            let Some(cause) = guest.wait_up(receiver, take)? else {
                return Ok(guest);
            };
            if number == boot_watch::STARTS {
                bail!(
                    "the guest's kernel died early: {cause}.\n{}",
                    guest.last_words()
                );
            }
            guest.discard(receiver, take)?;
            died(&guest, number, &cause)?;
            number += 1;
        }
    }

    /// Waits until the guest is up, or its kernel has died early: then this says how.
    fn wait_up<E>(
        &mut self,
        events: &Receiver<E>,
        take: &mut impl FnMut(E) -> Result<Option<GuestEvent>>,
    ) -> Result<Option<String>> {
        let mut watch = BootWatch::new(&self.qemu_log, &self.console);
        let deadline = Instant::now() + self.boot_limit;
        let mut early = true;
        let mut seen = None;
        let mut ended = None;
        loop {
            let now = Instant::now();
            if now >= deadline {
                bail!(
                    "the guest was not up after {} s.\n{}",
                    self.boot_limit.as_secs(),
                    self.last_words()
                );
            }
            let Ok(event) = events.recv_timeout(BootWatch::EVERY.min(deadline - now)) else {
                // What init has said may still be on its way: twice in a row there is nothing more to come.
                let dead = watch.look(now);
                if early && dead.is_some() && seen.is_some() {
                    return Ok(dead);
                }
                seen = dead;
                continue;
            };
            seen = None;
            match take(event)? {
                Some(GuestEvent::Line(line)) if line == "init" => early = false,
                Some(GuestEvent::Line(line)) if line == "up" => return Ok(None),
                Some(GuestEvent::Drained) => self.mark_drained(),
                Some(GuestEvent::Ended(status)) => {
                    self.mark_ended();
                    ended = Some(status);
                }
                _ => {}
            }
            if let Some(status) = ended
                && self.is_gone()
            {
                let words = format!("QEMU ended before the guest was up ({status})");
                // A kernel that died has reset its VM, or QEMU has told of it; a status alone is an error of QEMU's own, or
                // the daemon's doing.
                let cause = watch.look(now);
                if early && (exit_code(status) == 0 || cause.is_some()) {
                    return Ok(Some(cause.unwrap_or(words)));
                }
                bail!("{words}.\n{}", self.last_words());
            }
        }
    }

    /// Kills QEMU, and takes all it has sent out of the channel: the next guest's events must not be mixed with it.
    fn discard<E>(
        &mut self,
        events: &Receiver<E>,
        take: &mut impl FnMut(E) -> Result<Option<GuestEvent>>,
    ) -> Result<()> {
        self.kill();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.is_gone() {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = events.recv_timeout(left);
            match take(event.context("QEMU does not end")?)? {
                Some(GuestEvent::Ended(_)) => self.mark_ended(),
                Some(GuestEvent::Drained) => self.mark_drained(),
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::path::PathBuf;
    use std::process::Command;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    use anyhow::Result;

    use super::GuestVm;
    use crate::guest_vm::{GuestEvent, STREAMS};
    use crate::process::Watched;

    /// A directory for the logs of a guest whose QEMU is a shell script; its streams end with it.
    struct Fake {
        logs: PathBuf,
        events: (Sender<GuestEvent>, Receiver<GuestEvent>),
        deaths: Vec<String>,
    }

    impl Fake {
        fn new(name: &str) -> Self {
            let logs = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
            std::fs::create_dir(&logs).unwrap();
            Self {
                logs,
                events: channel(),
                deaths: Vec::new(),
            }
        }

        /// Boots; each start runs the next script, whose standard output are the lines of the status port.
        fn boot(&mut self, scripts: &[&str]) -> Result<GuestVm> {
            let (logs, (events, receiver)) = (&self.logs, &self.events);
            let mut scripts = scripts.iter();
            let start = || {
                let script = scripts.next().expect("one start too many");
                let (status, other) = UnixStream::pair()?;
                let (from, to) = std::io::pipe()?;
                let mut shell = Command::new("sh");
                shell.args(["-c", script]).current_dir(logs).stdout(to);
                let ended = |status| GuestEvent::Ended(status);
                let qemu = Watched::start(&mut shell, events.clone(), ended, |_| Ok(()))?;
                drop(shell);
                let events = events.clone();
                std::thread::spawn(move || {
                    for line in std::io::BufRead::lines(std::io::BufReader::new(from)) {
                        let line = GuestEvent::Line(line.unwrap());
                        events.send(line).unwrap();
                    }
                    for _ in 0..STREAMS {
                        let _ = events.send(GuestEvent::Drained);
                    }
                    drop(other);
                });
                Ok(GuestVm {
                    qemu,
                    input: status.try_clone()?,
                    hvc: status.try_clone()?,
                    status,
                    console: logs.join("console"),
                    qemu_log: logs.join("qemu"),
                    boot_limit: Duration::from_secs(8),
                    ended: false,
                    drained: 0,
                })
            };
            let deaths = &mut self.deaths;
            GuestVm::boot_with(
                start,
                receiver,
                &mut |event| Ok(Some(event)),
                |_, number, cause| {
                    deaths.push(format!("{number}: {cause}"));
                    // Otherwise the next one begins with this one's logs.
                    for log in ["console", "qemu"] {
                        let _ = std::fs::remove_file(logs.join(log));
                    }
                    Ok(())
                },
            )
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.logs);
        }
    }

    const UP: &str = "echo init; echo up; exec sleep 60";
    const STOPPED: &str = "echo 'KVM internal error. Suberror: 1' >qemu; exec sleep 60";
    const PANIC: &str = "echo '[ 1.0] Kernel panic - not syncing: x' >console; exec sleep 60";

    #[test]
    fn whatever_kills_a_kernel_early_it_is_started_again() {
        let mut fake = Fake::new("boot-again");
        let mut guest = fake.boot(&[STOPPED, PANIC, UP]).unwrap();
        assert_eq!(
            fake.deaths,
            [
                "1: KVM internal error. Suberror: 1",
                "2: [ 1.0] Kernel panic - not syncing: x"
            ]
        );
        guest
            .discard(&fake.events.1, &mut |event| Ok(Some(event)))
            .unwrap();
        assert!(
            fake.events.1.try_recv().is_err(),
            "something of a dead guest is left"
        );
    }

    #[test]
    fn a_reset_early_is_a_death_and_a_status_is_a_failure() {
        let mut fake = Fake::new("boot-reset");
        fake.boot(&["echo note; exit 0", UP]).unwrap();
        let mut stopped = Fake::new("boot-stopped");
        let killed = "echo 'KVM internal error. Suberror: 3' >qemu; kill -9 $$";
        stopped.boot(&[killed, UP]).unwrap();
        assert_eq!(stopped.deaths, ["1: KVM internal error. Suberror: 3"]);
        let [death] = fake.deaths.as_slice() else {
            panic!("{:?}", fake.deaths)
        };
        assert!(
            death.starts_with("1: QEMU ended before the guest was up"),
            "{death}"
        );
        let mut fake = Fake::new("boot-error");
        let error = fake
            .boot(&["echo 'no such device' >qemu; exit 1"])
            .err()
            .unwrap();
        assert!(error.to_string().contains("no such device"), "{error}");
        assert!(fake.deaths.is_empty());
    }

    #[test]
    fn what_dies_after_init_is_not_started_again() {
        for script in [
            "echo init; exit 0",
            "echo init; echo BUG: >console; exec sleep 60",
        ] {
            let mut fake = Fake::new("boot-late");
            let error = fake.boot(&[script]).err().unwrap().to_string();
            assert!(
                error.contains("before the guest was up") || error.contains("not up after"),
                "{error}"
            );
            assert!(fake.deaths.is_empty());
        }
    }

    #[test]
    fn three_deaths_are_a_failure_that_shows_the_dump() {
        let mut fake = Fake::new("boot-thrice");
        let error = fake.boot(&[STOPPED, STOPPED, STOPPED]).err().unwrap();
        assert!(
            error
                .to_string()
                .contains("QEMU said:\nKVM internal error. Suberror: 1"),
            "{error}"
        );
        assert_eq!(fake.deaths.len(), 2);
    }
}
