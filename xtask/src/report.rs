// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Checks and reports: what demo and tests found, for people (a table) and for programs (`report.json`).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use crate::paths;
use crate::tree::{self, Kernel};

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// Its name.
    pub name: String,
    /// True when it is as it should be.
    pub pass: bool,
    /// What was seen: a number, `true`, or text.
    pub value: Value,
}

impl Check {
    /// A check with this value.
    pub fn new(name: impl Into<String>, pass: bool, value: impl Into<Value>) -> Self {
        Self {
            name: name.into(),
            pass,
            value: value.into(),
        }
    }

    /// Reads a line `check NAME pass|fail [VALUE]`, as the programs in the beds write it.
    pub fn from_line(line: &str) -> Option<Self> {
        let rest = line.trim_end().strip_prefix("check ")?;
        let (name, rest) = rest.split_once(' ')?;
        let (verdict, value) = rest.split_once(' ').unwrap_or((rest, ""));
        let pass = match verdict {
            "pass" => true,
            "fail" => false,
            _ => return None,
        };
        let value = match value.trim() {
            "" => Value::Bool(pass),
            text => serde_json::from_str(text)
                .ok()
                .filter(|value| matches!(value, Value::Number(_) | Value::Bool(_)))
                .unwrap_or_else(|| Value::from(text)),
        };
        Some(Self {
            name: name.to_owned(),
            pass,
            value,
        })
    }
}

/// All checks of one run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// In the order in which they were made.
    pub checks: Vec<Check>,
    /// The bed's name.
    pub bed: String,
    /// kernel, qemu, debian, project…
    pub versions: BTreeMap<String, String>,
}

impl Report {
    /// An empty report with the versions of everything a bed is made of.
    pub fn new(bed: &str) -> Result<Self> {
        let mut versions: BTreeMap<String, String> = BTreeMap::new();
        versions.insert("kernel".into(), Kernel::Bed.release()?);
        for (package, version) in tree::versions()? {
            match package.as_str() {
                "qemu-system-x86" => versions.insert("qemu".into(), version),
                "linux-image-amd64" => versions.insert("kernel-package".into(), version),
                _ => None,
            };
        }
        let debian =
            fs::read_to_string(paths::tree().join("etc/debian_version")).unwrap_or_default();
        versions.insert("debian".into(), debian.trim().to_owned());
        versions.insert("project".into(), env!("CARGO_PKG_VERSION").to_owned());
        Ok(Self {
            checks: Vec::new(),
            bed: bed.to_owned(),
            versions,
        })
    }

    /// An empty report of what is tried without a bed.
    pub fn of_this_machine() -> Self {
        let kernel = rustix::system::uname();
        let kernel = kernel.release().to_string_lossy().into_owned();
        let project = env!("CARGO_PKG_VERSION").to_owned();
        Self {
            checks: Vec::new(),
            bed: "none".to_owned(),
            versions: [("kernel".into(), kernel), ("project".into(), project)].into(),
        }
    }

    /// True when there are checks and none failed.
    pub fn passed(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|check| check.pass)
    }

    /// Writes the JSON file.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        fs::write(path, text).with_context(|| format!("can't write {}", path.display()))
    }

    /// A table for people.
    pub fn table(&self) -> String {
        let width = self
            .checks
            .iter()
            .map(|check| check.name.len())
            .max()
            .unwrap_or(0);
        let mut table = String::new();
        for check in &self.checks {
            let verdict = if check.pass { "pass" } else { "FAIL" };
            let value = match &check.value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            // Writing to a String can't fail.
            let _ = writeln!(table, "  {verdict}  {:width$}  {value}", check.name);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::Check;

    #[test]
    fn reads_the_lines_of_check_programs() {
        let check = Check::from_line("check frame_crc_equal pass 30\n").unwrap();
        assert_eq!(check, Check::new("frame_crc_equal", true, 30));
        let check = Check::from_line("check probe fail not refused: no log line").unwrap();
        assert_eq!(
            check,
            Check::new("probe", false, "not refused: no log line")
        );
        assert_eq!(
            Check::from_line("check x pass").unwrap().value,
            Value::Bool(true)
        );
        for other in ["check x", "check x maybe 1", "checked x pass", ""] {
            assert_eq!(Check::from_line(other), None, "{other}");
        }
    }
}
