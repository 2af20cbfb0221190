// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `stats` without a stream: what peers use of what they may have.

use crate::show::line;
use dmabuf_client::usage::{PeerUsage, Use};
use dmabuf_client::{Client, Resource, Result};
use std::io::Write;
use std::time::Duration;

/// A table of peers, once or again and again.
pub fn table(client: &mut Client, every: Option<Duration>, out: &mut impl Write) -> Result<()> {
    loop {
        for text in lines(&client.usage()?) {
            line(out, format_args!("{text}"))?;
        }
        let Some(every) = every else { return Ok(()) };
        std::thread::sleep(every);
    }
}

/// The heading and a line for each peer: use/limit, with a star where the limit is that of each session.
pub fn lines(peers: &[PeerUsage]) -> Vec<String> {
    let heading = ["PEER", "KIND", "SESSIONS"].map(str::to_owned).into_iter();
    let heading = heading.chain(Resource::ALL.map(|resource| resource.as_str().to_uppercase()));
    let rows = peers.iter().map(|peer| {
        let first = [
            peer.name.to_string(),
            peer.kind.as_str().to_owned(),
            peer.sessions.to_string(),
        ];
        first
            .into_iter()
            .chain(peer.uses.iter().map(cell))
            .collect()
    });
    aligned(std::iter::once(heading.collect()).chain(rows).collect())
}

fn cell(of: &Use) -> String {
    match of.limit {
        Some(0) => "-".to_owned(),
        Some(limit) => {
            let star = if of.per_session { "*" } else { "" };
            format!("{}/{limit}{star}", of.used)
        }
        None => format!("{}/-", of.used),
    }
}

/// Columns as wide as their widest cell.
pub fn aligned(rows: Vec<Vec<String>>) -> Vec<String> {
    let mut widths: Vec<usize> = Vec::new();
    for row in &rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let text = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(text).collect()
}
