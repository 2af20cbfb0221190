// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Prints what commands in a bed say; with a prefix per line when both sides talk.

use std::io::{self, Write};

use crate::control::Source;

/// Writes output with a prefix per line, or as it is.
pub struct Printer {
    prefixed: bool,
    pending: [Vec<u8>; 4],
}

impl Printer {
    /// With prefixes when both sides talk.
    pub fn new(prefixed: bool) -> Self {
        Self {
            prefixed,
            pending: Default::default(),
        }
    }

    /// Prints a piece of output.
    pub fn print(&mut self, source: Source, bytes: &[u8]) {
        let (pending, prefix, error) = self.slot(source);
        if !prefix.is_empty() {
            pending.extend_from_slice(bytes);
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                emit(prefix, &line, error);
            }
        } else {
            emit("", bytes, error);
        }
    }

    /// Prints lines that were not ended.
    pub fn finish(&mut self) {
        for source in [
            Source::HostOut,
            Source::HostErr,
            Source::GuestOut,
            Source::GuestErr,
        ] {
            let (pending, prefix, error) = self.slot(source);
            if !pending.is_empty() {
                let mut line = std::mem::take(pending);
                line.push(b'\n');
                emit(prefix, &line, error);
            }
        }
    }

    fn slot(&mut self, source: Source) -> (&mut Vec<u8>, &'static str, bool) {
        let [host_out, host_err, guest_out, guest_err] = &mut self.pending;
        let (pending, prefix, error) = match source {
            Source::HostOut => (host_out, "host| ", false),
            Source::HostErr => (host_err, "host| ", true),
            Source::GuestOut => (guest_out, "guest| ", false),
            Source::GuestErr => (guest_err, "guest| ", true),
        };
        (pending, if self.prefixed { prefix } else { "" }, error)
    }
}

/// A reader that has gone away is no reason to end a bed in disorder.
fn emit(prefix: &str, bytes: &[u8], error: bool) {
    let mut to: Box<dyn Write> = if error {
        Box::new(io::stderr())
    } else {
        Box::new(io::stdout())
    };
    let _ = to
        .write_all(prefix.as_bytes())
        .and_then(|()| to.write_all(bytes))
        .and_then(|()| to.flush());
}
