// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The same tests with each VM's device in a process of its own: the daemon knows the VMs as clients, by their uids,
//! and a relay is started for a VM when its first front-end connects.

use crate::daemon::{Daemon, Directory, program};
use rustix::io::{FdFlags, fcntl_setfd};
use std::cell::Cell;
use std::fs::{File, Permissions, set_permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::sync::Mutex;

/// uid of the first VM of a configuration.
const FIRST_UID: u32 = 61_000;

thread_local! {
    /// Whether daemons that this thread starts have their VMs in other processes.
    static RELAYED: Cell<bool> = const { Cell::new(false) };
}

/// Runs a test with relays. Other uids need root.
pub fn relayed(test: fn()) {
    if !rustix::process::getuid().is_root() {
        return crate::daemon::skip("not root");
    }
    RELAYED.set(true);
    test();
    RELAYED.set(false);
}

pub fn is_relayed() -> bool {
    RELAYED.get()
}

/// Lets processes of other users connect to a daemon's broker, and make sockets beside it.
pub fn open_to_all(daemon: &Daemon) {
    for path in ["broker.sock", ""] {
        set_permissions(daemon.file(path), Permissions::from_mode(0o777)).unwrap();
    }
}

/// A VM that has a process of its own.
#[derive(Debug)]
struct Vm {
    name: String,
    uid: u32,
    window_size: String,
    fixed: bool,
}

/// The VMs of a daemon that are somewhere else.
#[derive(Default)]
pub struct Relays {
    vms: Vec<Vm>,
    running: Mutex<Vec<(String, Daemon)>>,
}

impl Relays {
    /// Makes clients of the VMs of a configuration.
    pub fn of(config: &str) -> (Self, String) {
        let mut vms: Vec<Vm> = Vec::new();
        let mut lines = Vec::new();
        let mut within = false;
        for line in config.lines() {
            if line.starts_with('[') && line != "[[vm.grant]]" {
                within = line == "[[vm]]";
            }
            let value = || line.split('"').nth(1).unwrap_or_default().to_owned();
            let vm = vms.last_mut().filter(|_| within);
            match (line.split(' ').next().unwrap_or_default(), vm) {
                ("[[vm]]", _) => {
                    let uid = FIRST_UID + vms.len() as u32;
                    vms.push(Vm {
                        name: String::new(),
                        uid,
                        window_size: "0".to_owned(),
                        fixed: false,
                    });
                    lines.push(format!("[[client]]\nuid = {uid}"));
                }
                ("[[vm.grant]]", _) => lines.push("[[client.grant]]".to_owned()),
                ("socket-path" | "max-mappings", Some(_)) => {}
                ("window-size", Some(vm)) => vm.window_size = value(),
                ("pools", Some(vm)) => vm.fixed = true,
                ("name", Some(vm)) => {
                    vm.name = value();
                    lines.push(line.to_owned());
                }
                _ => lines.push(line.to_owned()),
            }
        }
        let running = Mutex::default();
        (Self { vms, running }, lines.join("\n"))
    }

    /// Starts the VM's relay, if it isn't running.
    pub fn start(&self, daemon: &Daemon, name: &str) {
        let mut running = self.running.lock().unwrap();
        let started = running.iter().any(|(of, _)| of == name);
        let Some(vm) = self.vms.iter().find(|vm| vm.name == name && !started) else {
            return;
        };
        open_to_all(daemon);
        let directory = Directory::new();
        set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
        let mut command = program();
        command
            .arg("--broker")
            .arg(daemon.file("broker.sock"))
            .arg("--socket-path")
            .arg(daemon.file(&format!("{name}.sock")))
            .args(["--window-size", &vm.window_size])
            .uid(vm.uid)
            .gid(vm.uid);
        let pool = File::open(daemon.file("cam.pool"))
            .ok()
            .filter(|_| vm.fixed);
        if let Some(pool) = &pool {
            fcntl_setfd(pool, FdFlags::empty()).unwrap();
            command.args([
                "--static-window",
                &format!("/proc/self/fd/{}", pool.as_raw_fd()),
            ]);
        }
        let relay = Daemon::start_beside(daemon, command, directory);
        running.push((name.to_owned(), relay));
    }

    /// A VM's relay, for whatever is to be done to it.
    pub fn with<T>(&self, name: &str, what: impl FnOnce(&mut Daemon) -> T) -> T {
        let mut running = self.running.lock().unwrap();
        let relay = running.iter_mut().find(|(of, _)| of == name);
        what(&mut relay.expect("it is running").1)
    }

    /// How many VMs the daemon itself doesn't serve.
    pub fn count(&self) -> usize {
        self.vms.len()
    }

    /// Ends them.
    pub fn end(&self) {
        self.running.lock().unwrap().clear();
    }
}
