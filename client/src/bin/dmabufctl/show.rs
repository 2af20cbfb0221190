// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Buffers and peers on stdout: for people as lines, for programs as JSON.

use dmabuf_client::client::Info;
use dmabuf_client::picture::Fourcc;
use dmabuf_client::{Access, BufferInfo, Error, Result};
use serde_json::{Value, json};
use std::fmt::Arguments;
use std::io::Write;

/// Writes one line at once, so that a reader of a pipe sees it now.
pub fn line(out: &mut impl Write, text: Arguments<'_>) -> Result<()> {
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(Error::file("stdout"))
}

/// One line per buffer under a heading.
pub fn table(out: &mut impl Write, buffers: &[BufferInfo]) -> Result<()> {
    let width = buffers
        .iter()
        .map(|buffer| name(buffer).len())
        .max()
        .unwrap_or(0)
        .max(4);
    line(
        out,
        format_args!(
            "{:width$}  {:>10}  ACCESS      ENFORCEMENT  HEAP      FORMAT",
            "NAME", "SIZE"
        ),
    )?;
    for buffer in buffers {
        line(
            out,
            format_args!(
                "{:width$}  {:>10}  {:10}  {:11}  {:8}  {}",
                name(buffer),
                buffer.size,
                access(buffer.access),
                buffer.enforcement.as_str(),
                buffer.heap.as_str(),
                format(buffer),
            ),
        )?;
    }
    Ok(())
}

/// All buffers as a JSON array.
pub fn list_json(out: &mut impl Write, buffers: &[BufferInfo]) -> Result<()> {
    let all: Vec<Value> = buffers.iter().map(buffer_json).collect();
    line(out, format_args!("{:#}", Value::from(all)))
}

/// One buffer.
pub fn buffer(out: &mut impl Write, buffer: &BufferInfo, json: bool) -> Result<()> {
    if json {
        return line(out, format_args!("{:#}", buffer_json(buffer)));
    }
    line(out, format_args!("name:          {}", name(buffer)))?;
    line(out, format_args!("number:        {}", buffer.id.0))?;
    line(out, format_args!("size:          {}", buffer.size))?;
    line(
        out,
        format_args!("access:        {}", access(buffer.access)),
    )?;
    line(
        out,
        format_args!("enforcement:   {}", buffer.enforcement.as_str()),
    )?;
    line(out, format_args!("heap:          {}", buffer.heap.as_str()))?;
    line(
        out,
        format_args!(
            "static window: {}",
            if buffer.static_window { "yes" } else { "no" }
        ),
    )?;
    line(out, format_args!("format:        {}", format(buffer)))
}

/// What the daemon says of this process.
pub fn peer(out: &mut impl Write, info: &Info, json: bool) -> Result<()> {
    if json {
        let value = json!({
            "version": info.version,
            "peer": info.peer.as_str(),
            "handles": info.handles,
            "max_handles": info.max_handles,
        });
        return line(out, format_args!("{value:#}"));
    }
    line(out, format_args!("protocol version: {}", info.version))?;
    line(out, format_args!("this client is:   {}", info.peer))?;
    line(
        out,
        format_args!("handles:          {} of {}", info.handles, info.max_handles),
    )
}

fn name(buffer: &BufferInfo) -> &str {
    buffer.name.as_ref().map_or("-", |name| name.as_str())
}

const fn access(access: Access) -> &'static str {
    match access {
        Access::ReadOnly => "read-only",
        Access::ReadWrite => "read-write",
    }
}

fn format(buffer: &BufferInfo) -> String {
    match &buffer.format {
        None => "-".to_owned(),
        Some(format) => format!(
            "{} {}x{}",
            Fourcc(format.fourcc.get()),
            format.width,
            format.height
        ),
    }
}

fn buffer_json(buffer: &BufferInfo) -> Value {
    let format = buffer.format.as_ref().map(|format| {
        let planes: Vec<Value> = format
            .offset
            .iter()
            .zip(&format.stride)
            .zip(0..format.num_planes.get())
            .map(|((offset, stride), _)| json!({"offset": offset.get(), "stride": stride.get()}))
            .collect();
        json!({
            "fourcc": Fourcc(format.fourcc.get()).to_string(),
            "width": format.width.get(),
            "height": format.height.get(),
            "modifier": format.modifier.get(),
            "planes": planes,
        })
    });
    json!({
        "name": name(buffer),
        "number": buffer.id.0,
        "size": buffer.size,
        "access": access(buffer.access),
        "enforcement": buffer.enforcement.as_str(),
        "heap": buffer.heap.as_str(),
        "static_window": buffer.static_window,
        "format": format,
    })
}
