// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The files: hex digits, and comments from `#` to the end of the line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

/// All vectors by name.
pub fn all() -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(directory()).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let name = name.strip_suffix(".hex").expect("nothing but .hex files");
        (
            name.to_owned(),
            bytes(&std::fs::read_to_string(&path).unwrap()),
        )
    });
    files.collect()
}

/// One vector.
pub fn vector(name: &str) -> Vec<u8> {
    let path = directory().join(format!("{name}.hex"));
    bytes(
        &std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display())),
    )
}

/// Bytes of text in the form of the files.
pub fn bytes(text: &str) -> Vec<u8> {
    let digits = text
        .lines()
        .flat_map(|line| line.split('#').next().unwrap().split_whitespace());
    digits
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect()
}

/// Text that shows where two vectors differ.
pub fn hex(bytes: &[u8]) -> String {
    let lines = bytes.chunks(16).map(|line| {
        line.iter()
            .map(|byte| format!("{byte:02x} "))
            .collect::<String>()
    });
    lines
        .map(|line| line.trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}
