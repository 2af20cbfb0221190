// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where things are: the workspace, what is cached under `target/`, and the directories of a running bed.

use std::path::{Path, PathBuf};

use crate::tree::Kernel;

/// The run directory as the agent sees it: bound there in the flat bed, a 9p share in the host VM.
pub const IO: &str = "/run/bed-io";
/// `$BED_RUN`: the bed's private directory on the host side (a tmpfs).
pub const RUN: &str = "/run/bed";
/// Where the configurations of the daemon put its sockets and links.
pub const DAEMON: &str = "/run/dmabuf";

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Everything the beds cache.
pub fn bed_cache() -> PathBuf {
    workspace().join("target/bed")
}

/// The Debian tree.
pub fn tree() -> PathBuf {
    bed_cache().join("tree")
}

/// A kernel and its base initramfs images, made from the tree.
pub fn images(kernel: Kernel) -> PathBuf {
    bed_cache().join(match kernel {
        Kernel::Bed => "images",
        Kernel::Older => "older-images",
        Kernel::Debug => "debug-images",
    })
}

/// Copies of what is written in C, built for this kernel.
pub fn modules(kernel: Kernel) -> PathBuf {
    bed_cache().join(match kernel {
        Kernel::Bed => "modules",
        Kernel::Older => "older-modules",
        Kernel::Debug => "debug-modules",
    })
}
