// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `info NAME`, `crc`, `read`, `dump`, `write`, `wait`, `release`, `events`: buffers of others.

use crate::show::line;
use dmabuf_client::{
    Access, Alias, BufferInfo, Client, Error, Event, EventKind, FenceUsage, Mapping, Name, Result,
    Status,
};
use rustix::event::{PollFd, PollFlags, poll};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

/// Longest wait for the fences of a buffer.
const FENCE_LIMIT: Duration = Duration::from_secs(5);

/// The entry of LIST with this name.
pub fn find(client: &mut Client, name: &str) -> Result<BufferInfo> {
    let all = client.list()?;
    let found = all
        .into_iter()
        .find(|buffer| buffer.name.is_some_and(|n| n.as_str() == name));
    found.ok_or(Error::Refused {
        request: dmabuf_protocol::OpCode::List,
        status: Status::ENOENT,
    })
}

/// Looks at the bytes.
fn look<T>(client: &mut Client, name: &str, look: impl FnOnce(&Mapping) -> Result<T>) -> Result<T> {
    let alias = open_to_read(client, name)?;
    let mapping = alias.map()?;
    let _access = alias.begin_cpu_access(Access::ReadOnly, FENCE_LIMIT)?;
    look(&mapping)
}

/// Opens read-only. Where only read-write access is granted (nothing makes the buffer read-only for a host process),
/// opens it so.
fn open_to_read(client: &mut Client, name: &str) -> Result<Alias> {
    match client.open(name, Access::ReadOnly) {
        Err(refused) if refused.status() == Some(Status::EACCES) => {
            client.open(name, Access::ReadWrite).map_err(|_| refused)
        }
        other => other,
    }
}

/// Waits until a buffer can be read or written.
pub fn wait(
    client: &mut Client,
    name: &str,
    usage: FenceUsage,
    limit: Duration,
    out: &mut impl Write,
) -> Result<()> {
    let alias = match usage {
        FenceUsage::Read => open_to_read(client, name)?,
        FenceUsage::Write => client.open(name, Access::ReadWrite)?,
    };
    let wait = client.fence_wait(&alias, usage, limit)?;
    let waited = client.finish_wait(&wait)?;
    if waited.no_dma_buf {
        return line(out, format_args!("ready: not a dma-buf, it has no fences"));
    }
    line(out, format_args!("ready: {} fences", waited.fences))
}

/// Tells the producer of a buffer that this process is done with it.
pub fn release(client: &mut Client, name: &str, value: u64) -> Result<()> {
    let alias = open_to_read(client, name)?;
    client.release(&alias, value)
}

fn length(mapping: &Mapping, size: Option<u64>) -> usize {
    size.map_or(mapping.len(), |size| {
        usize::try_from(size).unwrap_or(usize::MAX)
    })
}

pub fn crc(client: &mut Client, name: &str, size: Option<u64>, out: &mut impl Write) -> Result<()> {
    let crc = look(client, name, |mapping| {
        mapping.crc32(0, length(mapping, size))
    })?;
    line(out, format_args!("{crc:08x}"))
}

pub fn read(
    client: &mut Client,
    name: &str,
    offset: u64,
    size: u64,
    out: &mut impl Write,
) -> Result<()> {
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    let mut bytes = Vec::new();
    look(client, name, |mapping| {
        mapping.copy_to(offset, length(mapping, Some(size)), &mut bytes, "memory")
    })?;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    line(out, format_args!("{hex}"))
}

pub fn dump(client: &mut Client, name: &str, path: &Path, size: Option<u64>) -> Result<()> {
    look(client, name, |mapping| {
        let mut file = File::create(path).map_err(Error::file(path))?;
        mapping.copy_to(0, length(mapping, size), &mut file, &path.to_string_lossy())
    })
}

pub fn write(client: &mut Client, name: &str, offset: u64, bytes: &[u8]) -> Result<()> {
    let alias = client.open(name, Access::ReadWrite)?;
    let mut mapping = alias.map_mut()?;
    let _access = alias.begin_cpu_access(Access::ReadWrite, FENCE_LIMIT)?;
    mapping.write(usize::try_from(offset).unwrap_or(usize::MAX), bytes)
}

/// Waits for an event.
pub fn next_event(client: &mut Client) -> Result<Event> {
    loop {
        if let Some(event) = client.next_event()? {
            return Ok(event);
        }
        match poll(&mut [PollFd::new(&client.as_fd(), PollFlags::IN)], None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(source) => {
                return Err(Error::System {
                    what: "waiting for events",
                    source,
                });
            }
        }
    }
}

/// One line per event. It ends with the daemon, so there is no time limit.
pub fn events(client: &mut Client, count: Option<u64>, out: &mut impl Write) -> Result<()> {
    // Whoever reads this line knows that no later event is missed.
    let info = client.info()?;
    line(out, format_args!("watching as {}", info.peer))?;
    let mut seen = 0;
    while count.is_none_or(|count| seen < count) {
        let event = next_event(client)?;
        if event.lost > 0 {
            line(out, format_args!("lost {}", event.lost))?;
        }
        let name = event.name.as_ref().map_or("-", Name::as_str);
        let id = event.buffer.0;
        match event.kind {
            EventKind::Added => line(out, format_args!("added {name} {id}"))?,
            EventKind::StreamAdded => line(out, format_args!("stream-added {name} {id}"))?,
            EventKind::Stream => {}
            EventKind::Withdrawn => line(out, format_args!("withdrawn {name} {id}"))?,
            EventKind::Released { value } => {
                line(out, format_args!("released {name} {id} {value}"))?;
            }
            EventKind::Revoked { within } => {
                line(
                    out,
                    format_args!("revoked {name} {id} {}", within.as_millis()),
                )?;
            }
            EventKind::Free { shared } => {
                let seen = if shared { " shared" } else { "" };
                line(out, format_args!("free {name} {id}{seen}"))?;
            }
        }
        seen += 1;
    }
    Ok(())
}
