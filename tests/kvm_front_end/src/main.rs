// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A minimal VMM for the tests: a vhost-user front-end with a KVM guest of a few instructions.
//!
//! It maps what the daemon asks for, as crosvm does: read-only mappings are `PROT_READ`, in a `KVM_MEM_READONLY` slot.
//! Or, with `--ignore-read-only`, as QEMU 11.1 does: everything writable. Then the guest writes to the window, and with
//! `--attack` the VMM itself turns on the fd that it was sent.
//!
//! * [`guest`]: the guest, and its ways to write
//! * [`window`]: what the daemon has mapped into it
//! * [`device`]: the connection, and the requests of a driver
//! * [`witness`]: the producer's view of the buffer, which tells whether a write landed
//!
//! Output: `check NAME pass|fail VALUE`, and `attack ROUTE ATTACKER NAME blocked|landed|n/a VALUE`.

mod device;
mod guest;
mod sys;
mod window;
mod witness;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use device::Device;
use dmabuf_client::{Access, Client};
use guest::{Guest, STORES, WINDOW};
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use window::Window;
use witness::Witness;

/// A VMM, a host process or whoever else holds read-only memory of the daemon, and tries to write to it.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    who: Who,
}

#[derive(Subcommand)]
enum Who {
    /// Be a VMM with a dynamic window
    Vm {
        /// The VM's vhost-user socket
        #[arg(long)]
        socket: PathBuf,
        /// The access to ask for
        #[arg(long, value_enum, default_value = "ro")]
        access: Wanted,
        /// Map everything writable, as QEMU 11.1 does
        #[arg(long)]
        ignore_read_only: bool,
        /// The daemon has to refuse the mapping
        #[arg(long)]
        expect_refused: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Be a VMM with a static window: it gets a pool's memory by its link
    Pool {
        /// The pool's link
        #[arg(long)]
        link: PathBuf,
        #[command(flatten)]
        common: Common,
    },
    /// Be a host process that opened the buffer read-only
    Client {
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Args)]
struct Common {
    /// The broker's socket: for the producer's view of the buffer
    #[arg(long, default_value = dmabuf_client::DEFAULT_SOCKET)]
    broker: PathBuf,
    /// The buffer
    #[arg(long)]
    name: String,
    /// The route's name in the output
    #[arg(long)]
    route: String,
    /// The program that attacks with the fd: FD OFFSET SIZE WITNESS-FD WITNESS-OFFSET ROUTE ATTACKER
    #[arg(long, value_name = "PROGRAM")]
    attack: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Wanted {
    Ro,
    Rw,
}

fn main() -> ExitCode {
    match run(&Arguments::parse().who) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kvm-front-end: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(who: &Who) -> Result<()> {
    match who {
        Who::Vm {
            socket,
            access,
            ignore_read_only,
            expect_refused,
            common,
        } => vm(socket, *access, *ignore_read_only, *expect_refused, common),
        Who::Pool { link, common } => pool(link, common),
        Who::Client { common } => client(common),
    }
}

fn check(name: &str, pass: bool, value: impl std::fmt::Display) {
    let verdict = if pass { "pass" } else { "fail" };
    println!("check {name} {verdict} {value}");
}

fn vm(
    socket: &Path,
    access: Wanted,
    ignore_read_only: bool,
    expect_refused: bool,
    common: &Common,
) -> Result<()> {
    let route = &common.route;
    let mut guest = Guest::new()?;
    let window = Window::new(guest.vm.clone(), ignore_read_only);
    let mut device = Device::connect(socket, &guest, &window)?;
    let access = match access {
        Wanted::Ro => 0,
        Wanted::Rw => 2,
    };
    let open = device.open(&common.name, access)?;
    let mapped = match &open {
        Ok(open) => device.map(open, access)?,
        Err(status) => Err(*status),
    };
    if expect_refused {
        let value = match &mapped {
            Ok(reply) => format!("mapped, enforcement {}", reply.enforcement.get()),
            Err(status) => format!("{status}"),
        };
        check(&format!("{route}/refused"), mapped.is_err(), value);
        return Ok(());
    }
    let mapped = match mapped {
        Ok(mapped) => mapped,
        Err(status) => bail!("{}: {status}", common.name),
    };
    println!(
        "{route}: {} is mapped, enforcement {}",
        common.name,
        mapped.enforcement.get()
    );
    let offset = mapped.window_offset.get();
    let mut witness = Witness::open(&common.broker, &common.name)?;
    let goes_on = stores(&mut guest, &mut witness, route, offset, access == 2, "cpu_")?;
    if access == 2 {
        return Ok(());
    }
    check(
        &format!("{route}/vcpu_goes_on"),
        goes_on != ignore_read_only,
        if goes_on {
            "after every write"
        } else {
            "not after a write"
        },
    );
    if let Some(program) = &common.attack {
        // The program has the fd from here on; the mapping and the guest stay as they are.
        window.with(offset, |mapped| {
            witness.attack(
                program,
                &mapped.file,
                mapped.fd_offset,
                mapped.length,
                route,
                "vmm",
            )
        })?;
        // What a hostile VMM can do with KVM: say that the slot is writable.
        window.make_slot_writable(offset)?;
        stores(
            &mut guest,
            &mut witness,
            route,
            offset,
            false,
            "writable_slot_",
        )?;
        virtio_dma(&mut device, &window, &mut witness, route, offset)?;
    }
    Ok(())
}

/// Every way to write, by the guest; whether the vCPU went on each time.
fn stores(
    guest: &mut Guest,
    witness: &mut Witness,
    route: &str,
    offset: u64,
    may_write: bool,
    prefix: &str,
) -> Result<bool> {
    let mut goes_on = true;
    let attacker = if prefix == "cpu_" { "guest" } else { "vmm" };
    for (name, store) in STORES {
        witness.prepare()?;
        let ran = guest.run(WINDOW + offset, store)?;
        let landed = witness.changed()?;
        goes_on &= ran.done;
        let name = name.replacen("cpu_", prefix, 1);
        if may_write {
            check(&format!("{route}/{name}"), landed && ran.done, &ran);
        } else {
            witness.tell(route, attacker, &name, landed, &ran);
        }
    }
    Ok(goes_on)
}

/// A reply buffer in the window, first as the guest alone could do it, then with a VMM that calls the window memory.
fn virtio_dma(
    device: &mut Device,
    window: &Window,
    witness: &mut Witness,
    route: &str,
    offset: u64,
) -> Result<()> {
    witness.prepare()?;
    let outcome = match window.with(offset, |mapped| {
        device.list_as_memory(
            WINDOW + offset,
            &mapped.file,
            mapped.fd_offset,
            mapped.length,
        )
    }) {
        Ok(()) => match device.reply_into(WINDOW + offset) {
            Ok(Some(written)) => format!("the chain came back with {written} bytes"),
            Ok(None) => "the chain did not come back".to_owned(),
            Err(error) => format!("{error:#}"),
        },
        Err(error) => format!("SET_MEM_TABLE: {error:#}"),
    };
    let landed = witness.changed()?;
    witness.tell(route, "vmm", "virtio_dma_listed_window", landed, outcome);
    let alive = Client::connect(&witness.broker).and_then(|mut client| client.info());
    check(
        &format!("{route}/daemon_lives"),
        alive.is_ok(),
        alive.map_or_else(|error| error.to_string(), |_| "it answers".to_owned()),
    );
    Ok(())
}

fn attack_with(
    common: &Common,
    file: &impl std::os::fd::AsFd,
    offset: u64,
    length: u64,
    attacker: &str,
) -> Result<()> {
    let mut witness = Witness::open(&common.broker, &common.name)?;
    let program = common.attack.as_deref().context("--attack is missing")?;
    witness.attack(program, file, offset, length, &common.route, attacker)
}

fn pool(link: &Path, common: &Common) -> Result<()> {
    let mut client = Client::connect(&common.broker)?;
    let alias = client.open(&common.name, Access::ReadOnly)?;
    // The strongest fd that a VMM can have by the link.
    let file = OpenOptions::new().read(true).write(true).open(link);
    let file = match file {
        Ok(file) => file,
        Err(_) => File::open(link).with_context(|| format!("can't open {}", link.display()))?,
    };
    attack_with(common, &file, alias.fd_offset(), alias.info().size, "vmm")
}

fn client(common: &Common) -> Result<()> {
    let mut client = Client::connect(&common.broker)?;
    let alias = match client.open(&common.name, Access::ReadOnly) {
        Ok(alias) => alias,
        Err(error) => {
            println!("attack {} client open n/a {error}", common.route);
            return Ok(());
        }
    };
    attack_with(
        common,
        &alias,
        alias.fd_offset(),
        alias.info().size,
        "client",
    )
}
