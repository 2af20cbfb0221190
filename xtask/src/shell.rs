// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask bed`: commands on both sides of a bed, or a shell in its guest.

use std::io::{self, IsTerminal, Read};
use std::thread;

use anyhow::Result;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::bed::{self, Happening, Input, Programs, Request};
use crate::plan::GuestTask;
use crate::printer::Printer;

/// The status when the time limit was reached.
pub const TIMED_OUT: i32 = 124;
/// The status when the bed itself failed.
pub const BED_FAILED: i32 = 125;

/// Runs the request and returns the status to end with.
pub fn command(mut request: Request, programs: &Programs) -> Result<i32> {
    let interactive = request.host_run.is_none() && request.guest_run.is_none();
    if interactive {
        request.guest = if io::stdin().is_terminal() {
            GuestTask::Console(window_size())
        } else {
            GuestTask::Shell
        };
        request.timeout = std::time::Duration::from_secs(24 * 3600).max(request.timeout);
    }
    let ready = bed::prepare(programs)?;
    let mut printer = Printer::new(request.host_run.is_some() && request.guest_run.is_some());
    let mut terminal = None;
    let console = matches!(request.guest, GuestTask::Console(_));
    let (outcome, directory) = bed::run(
        &ready,
        &request,
        |input| {
            if interactive {
                thread::spawn(move || relay_input(input));
            } else {
                // The way in has to stay open: its end means that the user is gone.
                std::mem::forget(input);
            }
        },
        |happening| match happening {
            Happening::Output(source, bytes) => printer.print(source, &bytes),
            Happening::Note(text) => eprintln!("bed: {text}\r"),
            Happening::Up if console => {
                eprintln!("bed: the guest is up; its shell ends with `exit`");
                terminal = RawTerminal::enter();
            }
            Happening::Up => {}
        },
    )?;
    drop(terminal);
    printer.finish();
    for line in &outcome.kernel_complaints {
        eprintln!("bed: the guest's kernel complained: {line}");
    }
    if let Some(failure) = &outcome.failure {
        eprintln!(
            "bed: {failure}\nbed: all logs are in {}",
            directory.0.join("log").display()
        );
        return Ok(BED_FAILED);
    }
    if outcome.timed_out {
        eprintln!(
            "bed: the time limit of {} s was reached; logs are in {}",
            request.timeout.as_secs(),
            directory.0.join("log").display()
        );
        return Ok(TIMED_OUT);
    }
    let statuses = [outcome.host, outcome.guest];
    Ok(statuses
        .into_iter()
        .flatten()
        .find(|status| *status != 0)
        .unwrap_or(0))
}

fn relay_input(mut input: Input) {
    let mut buffer = vec![0; 4096];
    loop {
        let size = io::stdin().read(&mut buffer).unwrap_or(0);
        let bytes = buffer.get(..size).unwrap_or_default();
        if input.send(bytes).is_err() {
            return;
        }
        if size == 0 {
            std::mem::forget(input);
            return;
        }
    }
}

fn window_size() -> String {
    match tcgetwinsize(io::stdin()) {
        Ok(size) if size.ws_row > 0 => format!("rows {} cols {}", size.ws_row, size.ws_col),
        _ => "rows 24 cols 80".to_owned(),
    }
}

/// The terminal in raw mode: every key goes to the guest. It is put back when this is dropped.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> Option<Self> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}
