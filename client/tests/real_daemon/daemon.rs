// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A daemon in a directory of its own, ended with the test.

use dmabuf_client::Client;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Longest wait for anything in these tests.
pub const LIMIT: Duration = Duration::from_secs(30);
const POLL_LIMIT: Timespec = Timespec {
    tv_sec: 30,
    tv_nsec: 0,
};

pub struct Daemon {
    process: Child,
    directory: PathBuf,
}

impl Daemon {
    /// Starts a daemon and waits until it says that it is ready.
    ///
    /// It has the memfd pool `frames` with 2 slots of 64 KiB. This user may allocate from it, publish `t/…`, open the
    /// pool's buffers and `t/…` read-only, consume the streams `t/…` (but hold frames of `t/hasty` for a second only) and
    /// `t/rw/…` read-write, and hold 200 handles and as many buffers of its own.
    pub fn start() -> Self {
        Self::start_with("", "")
    }

    /// As [`Self::start`], and with the udmabuf pool `camera` (2 slots of 64 KiB) and the dma-heap `system`.
    pub fn start_with_heaps() -> Self {
        Self::start_with(HEAPS, HEAP_GRANTS)
    }

    fn start_with(heaps: &str, grants: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!(
            "dmabuf-client-test-{}-{number}",
            std::process::id()
        ));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir(&directory).unwrap();
        let config = directory.join("config.toml");
        std::fs::write(&config, config_text(&directory, heaps, grants)).unwrap();
        let notify = directory.join("notify.sock");
        let ready = UnixDatagram::bind(&notify).unwrap();
        ready.set_read_timeout(Some(LIMIT)).unwrap();
        let process = Command::new(daemon_binary())
            .arg("--config")
            .arg(&config)
            .env("NOTIFY_SOCKET", &notify)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        // Before anything can panic, so that the process is ended in any case.
        let daemon = Self { process, directory };
        let mut message = [0; 256];
        let length = ready
            .recv(&mut message)
            .expect("the daemon never said that it is ready");
        assert!(String::from_utf8_lossy(&message[..length]).contains("READY=1"));
        daemon
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.join("broker.sock")
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub fn connect(&self) -> Client {
        Client::connect(&self.socket()).unwrap()
    }

    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// One of this crate's tools, with its socket set.
    pub fn tool(&self, path: &str) -> Command {
        let mut command = Command::new(path);
        command
            .arg("--socket")
            .arg(self.socket())
            .stdin(Stdio::null());
        command
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

const HEAPS: &str = r#"
[[pool]]
name = "camera"
kind = "udmabuf"
slots = 2
slot-size = "64K"

[[heap]]
name = "system"
kind = "dma-heap"
"#;

const HEAP_GRANTS: &str = r#"
[[client.grant]]
pool = "camera"
access = "read-only"
"#;

fn config_text(directory: &Path, heaps: &str, grants: &str) -> String {
    let allocate = if heaps.is_empty() {
        r#""frames""#
    } else {
        r#""frames", "camera", "system""#
    };
    let (directory, uid) = (directory.display(), rustix::process::getuid().as_raw());
    format!(
        r#"
[broker]
socket-path = "{directory}/broker.sock"

[[pool]]
name = "frames"
kind = "memfd"
slots = 2
slot-size = "64K"
link = "{directory}/frames.pool"
{heaps}
[[client]]
name = "tester"
uid = {uid}
publish = ["t/*", "hidden"]
allocate = [{allocate}]
max-handles = 200

[[client.grant]]
pool = "frames"
access = "read-only"

[[client.grant]]
buffer = "t/*"
access = "read-only"

[[client.grant]]
stream = "t/hasty"
access = "read-only"
max-hold-ms = 1000

[[client.grant]]
stream = "t/*"
access = "read-only"
max-hold-ms = 60000

[[client.grant]]
buffer = "t/rw/*"
access = "read-write"
{grants}"#
    )
}

/// The daemon of the same build as these tests.
fn daemon_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("VHOST_DEVICE_DMABUF") {
            return path.into();
        }
        let profile = Path::new(env!("CARGO_BIN_EXE_dmabufctl")).parent().unwrap();
        let mut build = Command::new(env!("CARGO"));
        build.args([
            "build",
            "--quiet",
            "--package",
            "vhost-device-dmabuf",
            "--bin",
            "vhost-device-dmabuf",
        ]);
        build.arg("--target-dir").arg(profile.parent().unwrap());
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(
            build.status().unwrap().success(),
            "the daemon doesn't build"
        );
        profile.join("vhost-device-dmabuf")
    })
}

/// Waits until the daemon has something to say.
pub fn wait_for_input(client: &Client) {
    let fd = client.as_fd();
    assert_eq!(
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&POLL_LIMIT)),
        Ok(1)
    );
}
