// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A C program, and the header as C++, against the real daemon.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const HERE: &str = env!("CARGO_MANIFEST_DIR");

struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where cargo puts the libraries and programs of this build.
fn products() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().parent().unwrap().to_owned()
}

fn has(compiler: &str) -> bool {
    Command::new(compiler).arg("--version").output().is_ok()
}

fn scratch(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

/// Builds the library and the daemon: `cargo test` makes neither.
fn build() {
    let release = products().ends_with("release");
    let profile: &[&str] = if release { &["--release"] } else { &[] };
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--package", "vhost-device-dmabuf"]);
    build.args(["--package", "dmabuf-share", "--target-dir"]);
    build.arg(products().parent().unwrap()).args(profile);
    assert!(build.status().unwrap().success());
}

fn start(directory: &Path) -> Daemon {
    let path = directory.display();
    let config = directory.join("config.toml");
    let text = format!(
        "[broker]\nsocket-path = \"{path}/broker.sock\"\n\
         [[pool]]\nname = \"frames\"\nkind = \"memfd\"\nslots = 2\nslot-size = \"64K\"\n\
         link = \"{path}/frames.pool\"\n\
         [[client]]\nname = \"tester\"\npublish = [\"t/*\"]\nallocate = [\"frames\"]\n\
         [[client.grant]]\npool = \"frames\"\naccess = \"read-only\"\n\
         [[client.grant]]\nstream = \"t/*\"\naccess = \"read-only\"\n"
    );
    std::fs::write(&config, text).unwrap();
    let notify = directory.join("notify.sock");
    let ready = UnixDatagram::bind(&notify).unwrap();
    ready
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let process = Command::new(products().join("vhost-device-dmabuf"))
        .arg("--config")
        .arg(&config)
        .env("NOTIFY_SOCKET", &notify)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let daemon = Daemon(process);
    ready.recv(&mut [0; 64]).unwrap();
    daemon
}

#[test]
fn a_c_program_produces_and_consumes() {
    if !has("cc") {
        return println!("SKIP a_c_program_produces_and_consumes: there is no C compiler as cc");
    }
    let directory = scratch("c-program");
    build();
    let library = products();
    let program = directory.join("stream");
    let compiled = Command::new("cc")
        .args(["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror"])
        .arg(format!("-I{HERE}/include"))
        .arg(format!("{HERE}/tests/stream.c"))
        .arg("-o")
        .arg(&program)
        .arg("-L")
        .arg(&library)
        .arg("-ldmabuf_share")
        .arg(format!("-Wl,-rpath,{}", library.display()))
        .output()
        .unwrap();
    assert!(
        compiled.status.success(),
        "{}",
        String::from_utf8_lossy(&compiled.stderr)
    );
    let _daemon = start(&directory);
    let run = Command::new(&program)
        .arg(directory.join("broker.sock"))
        .output()
        .unwrap();
    assert!(
        run.status.success(),
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
    assert_eq!(run.stdout, b"100 frames\n");
}

#[test]
fn the_header_is_cpp_too() {
    if !has("c++") {
        return println!("SKIP the_header_is_cpp_too: there is no C++ compiler as c++");
    }
    let checked = Command::new("c++")
        .args([
            "-std=c++11",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-fsyntax-only",
            "-x",
            "c++",
        ])
        .arg(format!("{HERE}/include/dmabuf_share.h"))
        .output()
        .unwrap();
    assert!(
        checked.status.success(),
        "{}",
        String::from_utf8_lossy(&checked.stderr)
    );
}
