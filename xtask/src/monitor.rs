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

/// Runs a command as it is typed at the monitor's prompt, prints what it says, and waits until a device is gone if that
/// is asked for. A command that says something has failed.
pub fn command(socket: &Path, text: &str, deleted: Option<&str>) -> Result<i32> {
    let mut monitor = Monitor::connect(socket)?;
    let said = monitor.execute("human-monitor-command", json!({ "command-line": text }))?;
    let said = said.as_str().unwrap_or_default().trim();
    if !said.is_empty() {
        println!("{said}");
        return Ok(1);
    }
    if let Some(device) = deleted {
        // There is an event for the device behind the transport, too: it has no id, and comes first.
        monitor.wait_for(|event| {
            is(event, "DEVICE_DELETED")
                && event.pointer("/data/device").and_then(Value::as_str) == Some(device)
        })?;
    }
    Ok(0)
}

/// Wakes a guest whenever it sleeps, until QEMU has ended. Says when it begins to watch.
pub fn awake(socket: &Path) -> Result<i32> {
    let mut monitor = Monitor::connect(socket)?;
    // A guest is awake for as long as it likes.
    monitor.to.set_read_timeout(None)?;
    println!("watching");
    while monitor.wait_for(|event| is(event, "SUSPEND")).is_ok() {
        monitor.execute("system_wakeup", json!({}))?;
    }
    Ok(0)
}

fn is(message: &Value, event: &str) -> bool {
    message.get("event").and_then(Value::as_str) == Some(event)
}

struct Monitor {
    to: UnixStream,
    from: Lines<BufReader<UnixStream>>,
    events: Vec<Value>,
}

impl Monitor {
    fn connect(socket: &Path) -> Result<Self> {
        let to = UnixStream::connect(socket)
            .with_context(|| format!("no monitor at {}", socket.display()))?;
        Self::negotiate(to)
    }

    fn negotiate(to: UnixStream) -> Result<Self> {
        to.set_read_timeout(Some(LIMIT))?;
        let mut monitor = Self {
            from: BufReader::new(to.try_clone()?).lines(),
            to,
            events: Vec::new(),
        };
        // What happens at this moment can overtake the greeting: QEMU has taken the connection for its predecessor's.
        while monitor.message()?.get("QMP").is_none() {}
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
            if message.get("event").is_some() {
                self.events.push(message);
            } else if let Some(answer) = message.get_mut("return") {
                return Ok(answer.take());
            } else {
                bail!("{command}: {message}");
            }
        }
    }

    /// Waits for an event, unless it has come already. Those before it are forgotten.
    fn wait_for(&mut self, wanted: impl Fn(&Value) -> bool) -> Result<()> {
        if let Some(kept) = self.events.iter().position(&wanted) {
            self.events.drain(..=kept);
            return Ok(());
        }
        self.events.clear();
        while !wanted(&self.message()?) {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREETING: &str = r#"{"QMP": {"version": {}, "capabilities": []}}"#;
    const TRANSPORT: &str = r#"{"event": "DEVICE_DELETED", "data": {"path": "/machine/peripheral/dmabuf/virtio-backend"}}"#;
    const DEVICE: &str = r#"{"event": "DEVICE_DELETED", "data": {"device": "dmabuf", "path": "/machine/peripheral/dmabuf"}}"#;
    const ANSWER: &str = r#"{"return": {}}"#;

    /// A monitor that says these lines, whatever it is told.
    fn monitor(lines: &[&str]) -> (Result<Monitor>, UnixStream) {
        let (ours, mut qemu) = UnixStream::pair().unwrap();
        for line in lines {
            writeln!(qemu, "{line}").unwrap();
        }
        qemu.shutdown(std::net::Shutdown::Write).unwrap();
        (Monitor::negotiate(ours), qemu)
    }

    fn is_device(event: &Value) -> bool {
        event.pointer("/data/device") == Some(&json!("dmabuf"))
    }

    #[test]
    fn an_event_before_the_greeting_is_not_the_greeting() {
        let (monitor, _qemu) = monitor(&[DEVICE, GREETING, ANSWER]);
        // It is nobody's: it was for whoever was here before.
        assert!(monitor.unwrap().wait_for(is_device).is_err());
    }

    #[test]
    fn the_event_of_the_device_is_waited_for() {
        let (monitor, _qemu) = monitor(&[GREETING, ANSWER, TRANSPORT, DEVICE, TRANSPORT]);
        let mut monitor = monitor.unwrap();
        monitor.wait_for(is_device).unwrap();
        assert_eq!(
            monitor.message().unwrap(),
            serde_json::from_str::<Value>(TRANSPORT).unwrap()
        );
    }

    #[test]
    fn an_event_before_an_answer_is_kept() {
        let (monitor, _qemu) = monitor(&[GREETING, ANSWER, TRANSPORT, DEVICE, ANSWER]);
        let mut monitor = monitor.unwrap();
        monitor.execute("system_wakeup", json!({})).unwrap();
        monitor.wait_for(is_device).unwrap();
        assert!(monitor.wait_for(is_device).is_err());
    }

    #[test]
    fn a_refusal_is_an_error() {
        let (monitor, _qemu) = monitor(&[
            GREETING,
            r#"{"error": {"class": "GenericError", "desc": "no"}}"#,
        ]);
        assert!(monitor.is_err());
    }
}
