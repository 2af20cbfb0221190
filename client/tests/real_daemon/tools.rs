// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `dmabufctl` and `test-pattern` as a user runs them.

use crate::daemon::Daemon;
use dmabuf_client::{Access, EventKind, Status};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

const DMABUFCTL: &str = env!("CARGO_BIN_EXE_dmabufctl");
const TEST_PATTERN: &str = env!("CARGO_BIN_EXE_test-pattern");

/// Runs `dmabufctl` to its end; its output.
#[track_caller]
fn ctl(daemon: &Daemon, arguments: &[&str]) -> String {
    let output = daemon.tool(DMABUFCTL).args(arguments).output().unwrap();
    let (out, err) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    assert!(output.status.success(), "{arguments:?}: {out}{err}");
    out
}

/// Runs `dmabufctl`, which must fail; its complaint.
#[track_caller]
fn ctl_fails(daemon: &Daemon, arguments: &[&str]) -> String {
    let output = daemon.tool(DMABUFCTL).args(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// A tool that stays, to talk with by lines.
struct Partner {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Partner {
    fn start(command: &mut Command) -> Self {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = process.stdin.take();
        let output = BufReader::new(process.stdout.take().unwrap());
        Self {
            process,
            input,
            output,
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn say(&mut self, line: &str) {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
    }

    fn end(mut self) {
        drop(self.input.take());
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Partner {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn an_imported_file_is_read_back() {
    let daemon = Daemon::start();
    let file = daemon.file("in");
    let bytes: Vec<u8> = (0..5000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(&file, &bytes).unwrap();
    let path = file.to_str().unwrap();
    ctl(
        &daemon,
        &["import", "--name", "t/file", "--file", path, "--keep"],
    );
    assert!(
        ctl(&daemon, &["list"])
            .lines()
            .any(|l| l.starts_with("t/file ") && l.contains("read-only"))
    );
    let list = ctl(&daemon, &["list", "--json"]);
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list[0]["name"], "t/file");
    assert_eq!(list[0]["size"], 20480);
    assert_eq!(list[0]["heap"], "imported");
    assert_eq!(list[0]["enforcement"], "sealed");
    assert!(ctl(&daemon, &["info", "t/file"]).contains("enforcement:   sealed"));
    assert!(ctl(&daemon, &["info"]).contains("tester"));
    let crc = ctl(&daemon, &["crc", "t/file", "--size", "20000"]);
    assert_eq!(crc.trim(), format!("{:08x}", crc32fast::hash(&bytes)));
    assert_eq!(
        ctl(&daemon, &["read", "t/file", "4", "8"]).trim(),
        "0100000002000000"
    );
    let out = daemon.file("out");
    ctl(
        &daemon,
        &["dump", "t/file", out.to_str().unwrap(), "--size", "20000"],
    );
    assert!(std::fs::read(&out).unwrap() == bytes);
    let checks = ctl(&daemon, &["derive-check", "t/file"]);
    assert!(
        checks.lines().count() >= 9 && checks.lines().all(|l| l.contains(" pass ")),
        "{checks}"
    );
    assert!(ctl_fails(&daemon, &["write", "t/file", "0", "ff"]).contains("EACCES"));
    assert!(ctl_fails(&daemon, &["crc", "t/file", "--size", "1M"]).contains("not inside"));
    ctl(&daemon, &["withdraw", "t/file"]);
    assert!(ctl_fails(&daemon, &["crc", "t/file"]).contains("ENOENT"));
    assert!(ctl_fails(&daemon, &["info", "t/file"]).contains("ENOENT"));
}

#[test]
fn a_buffer_is_held_until_stdin_ends() {
    let daemon = Daemon::start();
    let mut watch = Partner::start(daemon.tool(DMABUFCTL).args(["events", "--count", "4"]));
    assert_eq!(watch.line(), "watching as tester");
    let hold = |name: &str, fill: &str| {
        let arguments = [
            "alloc", "--heap", "frames", "--size", "64K", "--name", name, "--fill", fill,
        ];
        let mut holder = Partner::start(daemon.tool(DMABUFCTL).args(arguments));
        assert!(
            holder
                .line()
                .starts_with(&format!("{name} is published, 65536 bytes"))
        );
        holder
    };
    let (first, second) = (hold("t/a", "a5"), hold("t/b", "0123"));
    assert_eq!(
        ctl(&daemon, &["read", "t/a", "65532", "4"]).trim(),
        "a5a5a5a5"
    );
    assert_eq!(ctl(&daemon, &["read", "t/b", "0", "4"]).trim(), "01230123");
    let added: Vec<_> = (0..2).map(|_| watch.line()).collect();
    // One after the other: the daemon notices that two have left in any order.
    first.end();
    let mut gone = vec![watch.line()];
    second.end();
    gone.push(watch.line());
    assert!(
        added[0].starts_with("added t/a ") && added[1].starts_with("added t/b "),
        "{added:?}"
    );
    assert!(
        gone[0].starts_with("withdrawn t/a ") && gone[1].starts_with("withdrawn t/b "),
        "{gone:?}"
    );
    watch.end();
    assert!(ctl_fails(&daemon, &["read", "t/a", "0", "4"]).contains("ENOENT"));
}

#[test]
fn a_buffer_is_taken_back() {
    let daemon = Daemon::start();
    let mut client = daemon.connect();
    let memory = memory();
    client.import("t/rw/x", memory.as_fd(), None, true).unwrap();
    let alias = client.open("t/rw/x", Access::ReadWrite).unwrap();
    let mut mapping = alias.map_mut().unwrap();
    mapping.write(0, b"secret").unwrap();
    let said = ctl(&daemon, &["revoke", "t/rw/x", "--deadline", "50"]);
    assert_eq!(
        said.trim(),
        "t/rw/x is revoked; others may still see its memory, as zeroes"
    );
    let mut bytes = [1; 6];
    alias.map().unwrap().read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 6]);
    assert!(ctl_fails(&daemon, &["read", "t/rw/x", "0", "4"]).contains("ENOENT"));
    let derived = client.derive(&alias, Access::ReadOnly).unwrap_err();
    assert_eq!(derived.status(), Some(Status::ESTALE));
    let kinds: Vec<_> = std::iter::from_fn(|| client.next_event().unwrap())
        .map(|event| event.kind)
        .collect();
    let told = |kind: &EventKind| matches!(kind, EventKind::Revoked { .. });
    assert!(kinds.iter().any(told), "{kinds:?}");
    assert!(
        kinds.contains(&EventKind::Free { shared: true }),
        "{kinds:?}"
    );
    client.close(alias).unwrap();
    assert!(ctl_fails(&daemon, &["revoke", "t/rw/x"]).contains("ENOENT"));
    ctl(
        &daemon,
        &[
            "alloc", "--heap", "frames", "--size", "4K", "--name", "t/a", "--keep",
        ],
    );
    ctl(
        &daemon,
        &[
            "alloc", "--heap", "frames", "--size", "4K", "--name", "t/b", "--keep",
        ],
    );
    assert!(ctl_fails(&daemon, &["revoke", "t/a"]).contains("sealed against writing"));
}

/// Memory that can be written as long as it lives.
fn memory() -> std::os::fd::OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = memfd_create("revoked", flags).unwrap();
    rustix::fs::ftruncate(&fd, 8192).unwrap();
    fcntl_add_seals(&fd, SealFlags::SHRINK).unwrap();
    fd
}

#[test]
fn an_inherited_fd_is_imported_and_written_by_others() {
    let daemon = Daemon::start();
    let memfd = memfd_create("inherited", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    let memfd = File::from(memfd);
    memfd.set_len(8192).unwrap();
    fn import(daemon: &Daemon, name: &str, memfd: &File) -> Output {
        let mut import = daemon.tool(DMABUFCTL);
        import.args(["import", "--fd", "0", "--keep", "--name", name]);
        import.stdin(memfd.try_clone().unwrap()).output().unwrap()
    }
    let refused = import(&daemon, "t/rw/0", &memfd);
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("F_SEAL_SHRINK"),
        "{refused:?}"
    );
    fcntl_add_seals(&memfd, SealFlags::SHRINK).unwrap();
    assert!(import(&daemon, "t/rw/0", &memfd).status.success());
    ctl(&daemon, &["write", "t/rw/0", "4098", "c0ffee"]);
    let mut bytes = [0; 5];
    memfd.read_exact_at(&mut bytes, 4097).unwrap();
    assert_eq!(bytes, [0, 0xc0, 0xff, 0xee, 0]);
    assert_eq!(
        ctl(&daemon, &["read", "t/rw/0", "4097", "5"]).trim(),
        "00c0ffee00"
    );
    assert!(import(&daemon, "t/ro", &memfd).status.success());
    let nothing_enforces_it = ctl_fails(&daemon, &["read", "t/ro", "0", "1"]);
    assert!(
        nothing_enforces_it.contains("EACCES"),
        "{nothing_enforces_it}"
    );
    assert!(ctl_fails(&daemon, &["import", "--name", "t/x", "--fd", "99"]).contains("fd 99"));
}

#[test]
fn consumers_see_the_frames_of_the_test_pattern() {
    let daemon = Daemon::start();
    let arguments = [
        "--heap",
        "frames",
        "--name",
        "t",
        "--buffers",
        "2",
        "--width",
        "160",
        "--height",
        "120",
    ];
    let mut pattern = Partner::start(daemon.tool(TEST_PATTERN).args(arguments).args([
        "--lockstep",
        "--frames",
        "30",
    ]));
    let mut crcs = Vec::new();
    for number in 0..30 {
        let line = pattern.line();
        let fields: Vec<&str> = line.split(' ').collect();
        let [_, name, sequence, _, bytes, crc] = fields[..] else {
            panic!("{line:?}")
        };
        assert_eq!((sequence, bytes), (number.to_string().as_str(), "28800"));
        assert_eq!(
            ctl(&daemon, &["crc", name, "--size", bytes]).trim(),
            crc,
            "{line}"
        );
        if number == 7 {
            pattern.say("tag 1122334455667788");
            assert_eq!(pattern.line(), "tagged");
            assert_eq!(
                ctl(&daemon, &["read", name, "4096", "8"]).trim(),
                "8977665544332211"
            );
        }
        crcs.push(crc.to_owned());
        pattern.say("next");
    }
    crcs.sort();
    crcs.dedup();
    assert_eq!(crcs.len(), 30, "every frame is another picture");
    let list = ctl(&daemon, &["list"]);
    assert!(
        list.is_empty() || !list.contains("NV12") || list.contains("NV12 160x120"),
        "{list}"
    );
    pattern.end();
}

#[test]
fn tools_end_with_the_daemon() {
    let mut daemon = Daemon::start();
    let arguments = [
        "--heap",
        "frames",
        "--name",
        "t",
        "--buffers",
        "2",
        "--width",
        "160",
        "--height",
        "120",
    ];
    let mut pattern = daemon
        .tool(TEST_PATTERN)
        .args(arguments)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(pattern.stderr.take().unwrap());
    let mut line = String::new();
    log.read_line(&mut line).unwrap();
    assert!(
        line.contains("sharing NV12 160×120 as t/0 to t/1"),
        "{line}"
    );
    daemon.kill();
    assert_eq!(pattern.wait().unwrap().code(), Some(1));
    line.clear();
    log.read_line(&mut line).unwrap();
    assert!(line.contains("the daemon closed the connection"), "{line}");
}

#[test]
fn waiting_and_releasing_on_the_command_line() {
    let daemon = Daemon::start();
    let file = daemon.file("file");
    std::fs::write(&file, [7; 4096]).unwrap();
    let file = file.to_str().unwrap();
    let import = ["import", "--file", file, "--name", "t/x", "--keep"];
    ctl(&daemon, &import);
    let ready = "ready: not a dma-buf, it has no fences\n";
    assert_eq!(ctl(&daemon, &["wait", "t/x"]), ready);
    let wait = ["wait", "t/x", "--for", "read", "--timeout", "0.5"];
    assert_eq!(ctl(&daemon, &wait), ready);
    let complaint = ctl_fails(&daemon, &["wait", "t/x", "--for", "write"]);
    assert!(complaint.contains("No grant allows it"), "{complaint}");
    assert_eq!(ctl(&daemon, &["release", "t/x", "--value", "7"]), "");
    let complaint = ctl_fails(&daemon, &["wait", "t/rw/none"]);
    assert!(complaint.contains("no buffer of that name"), "{complaint}");
    let wrong = daemon
        .tool(DMABUFCTL)
        .args(["wait", "t/x", "--timeout", "0"])
        .output()
        .unwrap();
    assert_eq!(wrong.status.code(), Some(2));
}
