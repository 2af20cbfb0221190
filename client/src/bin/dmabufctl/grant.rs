// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `grant-check`: what this user may do with a buffer or a stream, found out by doing it. What it may do with one that
//! isn't there is told by the daemon's own `--check --peer NAME --what NAME`.

use crate::show::line;
use dmabuf_client::stream::{ConsumeMode, Consumer};
use dmabuf_client::{Access, Alias, Client, Error, Result};
use std::fmt::Display;
use std::io::Write;

/// A line for each access.
pub fn buffer(client: &mut Client, name: &str, out: &mut impl Write) -> Result<()> {
    for (what, access) in [
        ("read-only", Access::ReadOnly),
        ("read-write", Access::ReadWrite),
    ] {
        let opened = client.open(name, access);
        if let Some(alias) = verdict(what, opened, enforced, out)? {
            client.close(alias)?;
        }
    }
    Ok(())
}

/// Lines for consuming it, and for its buffers.
pub fn stream(client: Client, name: &str, out: &mut impl Write) -> Result<()> {
    let opened = Consumer::open(client, name, ConsumeMode::Latest);
    let terms = |consumer: &Consumer| format!("at most {} frames at once", consumer.max_held());
    let Some(mut consumer) = verdict("consume", opened, terms, out)? else {
        return Ok(());
    };
    if consumer.buffers() > 0 {
        let first = consumer.buffer(0);
        verdict("buffers", first, enforced, out)?;
    }
    Ok(())
}

fn enforced(alias: &Alias) -> String {
    match alias.info().access {
        Access::ReadOnly => format!("enforcement {}", alias.info().enforcement.as_str()),
        Access::ReadWrite => String::new(),
    }
}

/// Says whether something could be done, and on what terms or why not. An error that is no refusal comes back.
fn verdict<T, D: Display>(
    what: &str,
    result: Result<T>,
    terms: impl FnOnce(&T) -> D,
    out: &mut impl Write,
) -> Result<Option<T>> {
    match result {
        Ok(done) => {
            let terms = terms(&done).to_string();
            line(
                out,
                format_args!("{}", format!("{what:10}  yes  {terms}").trim_end()),
            )?;
            Ok(Some(done))
        }
        Err(refused @ Error::Refused { .. }) => {
            line(out, format_args!("{what:10}  no   {refused}"))?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
