// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `xtask monitor` and `xtask awake`, for host commands in a bed: the monitor of a guest's QEMU.

use std::io::{BufRead, BufReader, Lines, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// How long QEMU, or the guest that has to agree to it, may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Runs a command as it is typed at the monitor's prompt, prints what it says, and waits for an event if that is
/// asked for. A command that says something has failed.
pub fn command(socket: &Path, text: &str, event: Option<&str>) -> Result<i32> {
    let mut monitor = Monitor::connect(socket)?;
    let said = monitor.execute("human-monitor-command", json!({ "command-line": text }))?;
    let said = said.as_str().unwrap_or_default().trim();
    if !said.is_empty() {
        println!("{said}");
        return Ok(1);
    }
    if let Some(event) = event {
        monitor.wait_for(event)?;
    }
    Ok(0)
}

/// Wakes a guest whenever it sleeps, until QEMU has ended. Says when it begins to watch.
pub fn awake(socket: &Path) -> Result<i32> {
    let mut monitor = Monitor::connect(socket)?;
    // A guest is awake for as long as it likes.
    monitor.to.set_read_timeout(None)?;
    println!("watching");
    while monitor.wait_for("SUSPEND").is_ok() {
        monitor.execute("system_wakeup", json!({}))?;
    }
    Ok(0)
}

struct Monitor {
    to: UnixStream,
    from: Lines<BufReader<UnixStream>>,
    events: Vec<String>,
}

impl Monitor {
    fn connect(socket: &Path) -> Result<Self> {
        let to = UnixStream::connect(socket)
            .with_context(|| format!("no monitor at {}", socket.display()))?;
        to.set_read_timeout(Some(LIMIT))?;
        let mut monitor = Self {
            from: BufReader::new(to.try_clone()?).lines(),
            to,
            events: Vec::new(),
        };
        monitor.message()?;
        monitor.execute("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    fn message(&mut self) -> Result<Value> {
        let line = self.from.next().context("the monitor is gone")?;
        let line = line.context("the monitor does not answer")?;
        serde_json::from_str(&line).context("the monitor's answer")
    }

    /// The answer to a command. Events that come before it are kept.
    fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.to, "{request}")?;
        loop {
            let mut message = self.message()?;
            if let Some(event) = message.get("event").and_then(Value::as_str) {
                self.events.push(event.to_owned());
            } else if let Some(answer) = message.get_mut("return") {
                return Ok(answer.take());
            } else {
                bail!("{command}: {message}");
            }
        }
    }

    fn wait_for(&mut self, event: &str) -> Result<()> {
        if let Some(kept) = self.events.iter().position(|seen| seen == event) {
            self.events.remove(kept);
            return Ok(());
        }
        loop {
            if self.message()?.get("event").and_then(Value::as_str) == Some(event) {
                return Ok(());
            }
        }
    }
}
