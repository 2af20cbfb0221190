// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `alloc`, `import` and `revoke`: buffers that this process brings into being, holds when asked to, and takes back.

use crate::consume::next_event;
use crate::show::line;
use crate::{AllocArguments, ImportArguments};
use dmabuf_client::memory::{inherited, sealed_copy};
use dmabuf_client::{Access, Allocation, Client, Error, EventKind, MappingMut, Result};
use rustix::event::{PollFd, PollFlags, poll};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

/// Longest wait for the fences of a buffer.
const FENCE_LIMIT: Duration = Duration::from_secs(5);

pub fn alloc(client: &mut Client, arguments: &AllocArguments, out: &mut impl Write) -> Result<()> {
    let size = match (arguments.size, &arguments.file) {
        (Some(size), _) => size,
        (None, Some(path)) => path.metadata().map_err(Error::file(path))?.len(),
        (None, None) => return Err(Error::Argument("give --size or --file".to_owned())),
    };
    let allocation = client.alloc(&arguments.heap, size)?;
    // Mapped before it is published: later, a slot of a memfd pool can't be mapped writable.
    let mut mapping = allocation.map_mut()?;
    {
        let _access = allocation.begin_cpu_access(Access::ReadWrite, FENCE_LIMIT)?;
        fill(&mut mapping, arguments)?;
    }
    client.publish(&allocation, &arguments.name, None, arguments.keep)?;
    finish(
        client,
        &arguments.name,
        arguments.keep,
        Some(&allocation),
        out,
    )
}

fn fill(mapping: &mut MappingMut, arguments: &AllocArguments) -> Result<()> {
    if let Some(pattern) = &arguments.fill {
        mapping.fill(&pattern.0)?;
    }
    arguments
        .file
        .as_deref()
        .map_or(Ok(()), |path| copy_in(mapping, path))
}

fn copy_in(mapping: &mut MappingMut, path: &Path) -> Result<()> {
    let mut file = File::open(path).map_err(Error::file(path))?;
    let mut chunk = vec![0; 64 * 1024];
    let mut at = 0;
    loop {
        let count = file.read(&mut chunk).map_err(Error::file(path))?;
        if count == 0 {
            return Ok(());
        }
        mapping.write(at, chunk.get(..count).unwrap_or_default())?;
        at += count;
    }
}

pub fn import(
    client: &mut Client,
    arguments: &ImportArguments,
    out: &mut impl Write,
) -> Result<()> {
    let memory = match (arguments.fd, &arguments.file) {
        (Some(number), _) => inherited(number)?,
        (None, Some(path)) => sealed_copy(path)?,
        (None, None) => return Err(Error::Argument("give --fd or --file".to_owned())),
    };
    client.import(&arguments.name, memory.as_fd(), None, arguments.keep)?;
    finish(client, &arguments.name, arguments.keep, None, out)
}

/// Takes a buffer away from everybody, and waits until that is done: a few seconds after the deadline at most.
pub fn revoke(
    client: &mut Client,
    name: &str,
    deadline: Duration,
    out: &mut impl Write,
) -> Result<()> {
    client.revoke(name, deadline)?;
    loop {
        let event = next_event(client)?;
        if let EventKind::Free { shared } = event.kind
            && event.name.is_some_and(|it| it.as_str() == name)
        {
            let seen = if shared {
                "; others may still see its memory, as zeroes"
            } else {
                ""
            };
            return line(out, format_args!("{name} is revoked{seen}"));
        }
    }
}

/// Says that the buffer is there, and stays with it unless the daemon keeps it.
fn finish(
    client: &mut Client,
    name: &str,
    keep: bool,
    allocation: Option<&Allocation>,
    out: &mut impl Write,
) -> Result<()> {
    let size = allocation.map_or(String::new(), |a| format!(", {} bytes", a.info().size));
    if keep {
        return line(
            out,
            format_args!("{name} is published{size}, and stays until it is withdrawn"),
        );
    }
    line(
        out,
        format_args!("{name} is published{size}, until stdin ends or this process does (Ctrl-C)"),
    )?;
    hold(client)
}

/// Waits for the end of stdin. Ends too when the daemon does.
fn hold(client: &mut Client) -> Result<()> {
    let stdin = std::io::stdin();
    let mut dropped = [0; 4096];
    loop {
        let (input, socket) = {
            let mut fds = [
                PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(client.as_fd(), PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(source) => {
                    return Err(Error::System {
                        what: "waiting for the end of stdin",
                        source,
                    });
                }
            }
            let [input, socket] = fds;
            (!input.revents().is_empty(), !socket.revents().is_empty())
        };
        if socket {
            while client.next_event()?.is_some() {}
        }
        if input && rustix::io::read(&stdin, &mut dropped).unwrap_or(0) == 0 {
            return Ok(());
        }
    }
}
