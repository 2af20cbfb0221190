// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Building the project's own programs for the beds.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::paths;

/// Builds daemon and client programs (release, the beds are slow machines) and returns the executables.
pub fn build() -> Result<Vec<PathBuf>> {
    let arguments = [
        "build",
        "--release",
        "--quiet",
        "--workspace",
        "--exclude",
        "xtask",
        "--bins",
    ];
    executables(&arguments, &[])
}

/// Builds the test programs with tests that need heaps, for the host VM.
pub fn build_tests() -> Result<Vec<PathBuf>> {
    let arguments = [
        "test",
        "--no-run",
        "--quiet",
        "--package",
        "dmabuf-client",
        "--package",
        "vhost-device-dmabuf",
        "--test",
        "real_daemon",
        "--test",
        "front_end",
    ];
    let built = executables(&arguments, &[])?;
    let is_test = |path: &PathBuf| path.parent().is_some_and(|place| place.ends_with("deps"));
    Ok(built.into_iter().filter(is_test).collect())
}

/// Builds the examples for guests, each for a guest without libraries.
pub fn build_examples() -> Result<Vec<PathBuf>> {
    let mut built = Vec::new();
    for name in ["frame_crc", "heap_fill"] {
        let example = ["rustc", "--quiet", "--release", "--example", name];
        let rustc = ["-C", "target-feature=+crt-static", "-C", "strip=symbols"];
        let found = executables(&example, &rustc)?;
        built.extend(found);
    }
    Ok(built)
}

/// Builds the tools for guests that have no libraries of ours, static. They get a directory of their own, so that nothing
/// else is built again.
pub fn build_static() -> Result<Vec<PathBuf>> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let flags = format!("target.{target}.rustflags=['-C', 'target-feature=+crt-static']");
    let arguments = [
        "build",
        "--release",
        "--quiet",
        "--target",
        &target,
        "--config",
        &flags,
        "--package",
        "dmabuf-client",
        "--bin",
        "camera-share",
        "--bin",
        "test-pattern",
        "--bin",
        "frame-view",
    ];
    executables(&arguments, &[])
}

/// What cargo has to be told to build, or look at, the guest without an operating system: see its `Cargo.toml`.
pub const PAYLOAD: &[&str] = &[
    "--quiet",
    "--package",
    "dmabuf-payload",
    "--features",
    "bare-metal",
    "--profile",
    "bare-metal",
];

/// Builds that guest.
pub fn build_payload() -> Result<Vec<PathBuf>> {
    executables(&[&["build"], PAYLOAD].concat(), &[])
}

/// The executables that cargo makes of these arguments, and those for rustc.
fn executables(arguments: &[&str], rustc: &[&str]) -> Result<Vec<PathBuf>> {
    #[derive(Deserialize)]
    struct Message {
        reason: String,
        #[serde(default)]
        executable: Option<PathBuf>,
    }
    let output = cargo()
        .args(arguments)
        .arg("--message-format=json-render-diagnostics")
        .args((!rustc.is_empty()).then_some("--"))
        .args(rustc)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("can't run cargo")?;
    if !output.status.success() {
        bail!("the project does not build");
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text
        .lines()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok())
        .filter(|message| message.reason == "compiler-artifact")
        .filter_map(|message| message.executable)
        .collect())
}

/// Cargo, in the workspace.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::workspace());
    command
}
