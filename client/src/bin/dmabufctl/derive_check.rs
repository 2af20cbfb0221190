// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `derive-check`: the contract of DERIVE, tried on a real buffer. One line per check: `check NAME pass|fail VALUE`.

use crate::show::line;
use dmabuf_client::{Access, Alias, Client, Enforcement, Error, Flags, Result, Status};
use rustix::io::Errno;
use std::io::Write;

pub fn run(client: &mut Client, name: &str, out: &mut impl Write) -> Result<()> {
    let mut checks = Checks { out, failed: 0 };
    let read_only = client.open(name, Access::ReadOnly)?;
    let asked = [
        ("read_only_derives_read_only", 0, None),
        ("read_only_refuses_read_write", 2, Some(Status::EACCES)),
        ("read_only_refuses_write_only", 1, Some(Status::EACCES)),
        ("read_only_refuses_mode_3", 3, Some(Status::EINVAL)),
        (
            "read_only_refuses_other_flags",
            0o4000,
            Some(Status::EINVAL),
        ),
    ];
    for (check, flags, expected) in asked {
        checks.derive(client, check, &read_only, Flags(flags), expected)?;
    }
    checks.mapping(&read_only)?;
    match client.open(name, Access::ReadWrite) {
        Ok(alias) => checks.read_write(client, alias)?,
        Err(Error::Refused {
            status: Status::EACCES,
            ..
        }) => {}
        Err(error) => return Err(error),
    }
    let before = client.info()?.handles;
    client.close(read_only)?;
    let after = client.info()?.handles;
    checks.say(
        "close_gives_the_handle_back",
        after + 1 == before,
        format!("{before} then {after}"),
    )?;
    match checks.failed {
        0 => Ok(()),
        failed => Err(Error::Argument(format!(
            "{failed} checks failed: see the lines above"
        ))),
    }
}

struct Checks<'a, W> {
    out: &'a mut W,
    failed: u32,
}

impl<W: Write> Checks<'_, W> {
    fn say(&mut self, check: &str, pass: bool, value: impl std::fmt::Display) -> Result<()> {
        self.failed += u32::from(!pass);
        let verdict = if pass { "pass" } else { "fail" };
        line(self.out, format_args!("check {check} {verdict} {value}"))
    }

    /// Derives, and compares the outcome with the status that is expected (`None`: it is done).
    fn derive(
        &mut self,
        client: &mut Client,
        check: &str,
        parent: &Alias,
        flags: Flags,
        expected: Option<Status>,
    ) -> Result<()> {
        match client.derive_with(parent, flags, Enforcement::None) {
            Ok(alias) => {
                client.close(alias)?;
                self.say(check, expected.is_none(), "derived")
            }
            Err(Error::Refused { status, .. }) => self.say(check, expected == Some(status), status),
            Err(error) => Err(error),
        }
    }

    /// The kernel's part of read-only.
    fn mapping(&mut self, alias: &Alias) -> Result<()> {
        let (mapped, upgraded) = alias.probe_write()?;
        let refused = |e: Option<Errno>| matches!(e, Some(Errno::ACCESS | Errno::PERM));
        let show = |e: Option<Errno>| match e {
            None => "done".to_owned(),
            Some(Errno::ACCESS) => "EACCES".to_owned(),
            Some(Errno::PERM) => "EPERM".to_owned(),
            Some(other) => other.to_string(),
        };
        self.say("writable_mmap_refused", refused(mapped), show(mapped))?;
        self.say(
            "mprotect_writable_refused",
            refused(upgraded),
            show(upgraded),
        )?;
        self.say(
            "not_importable",
            !alias.is_dma_buf(),
            "a read-only alias is no dma-buf",
        )
    }

    fn read_write(&mut self, client: &mut Client, alias: Alias) -> Result<()> {
        let asked = [
            ("read_write_derives_read_write", 2, None),
            ("read_write_derives_read_only", 0, None),
            ("read_write_refuses_mode_3", 3, Some(Status::EINVAL)),
            ("read_write_refuses_write_only", 1, Some(Status::EINVAL)),
        ];
        for (check, flags, expected) in asked {
            self.derive(client, check, &alias, Flags(flags), expected)?;
        }
        client.close(alias)
    }
}
