// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Fences and sync across the VM boundary, in the nested bed: only its host VM has sources of fences.

use std::time::Duration;

use anyhow::Result;

use crate::bed::Ready;
use crate::modules;
use crate::plan::{BedKind, Machine};
use crate::scenario::Scenario;

/// Everything that has to hold of them.
pub const SCENARIO: Scenario = Scenario {
    name: "fences",
    beds: &[BedKind::Nested],
    before: None,
    host: Some(include_str!("../scenarios/fences-host.sh")),
    guest: Some(include_str!("../scenarios/fences-guest.sh")),
    config: Some(include_str!("../scenarios/fences.toml")),
    machine: Machine::USUAL,
    required: &[
        "buffers_open",
        "udmabuf/poll_before",
        "udmabuf/poll_after",
        "udmabuf/exported_after",
        "udmabuf/exported_error_EIO",
        "udmabuf/timeout_in_time",
        "udmabuf/cancelled",
        "udmabuf/sync_ends",
        "dma-heap/poll_before",
        "dma-heap/poll_after",
        "dma-heap/exported_after",
        "dma-heap/exported_error_EIO",
        "dma-heap/timeout_in_time",
        "dma-heap/cancelled",
        "dma-heap/sync_ends",
        "stream/frame",
        "stream/frame_before",
        "stream/frame_after",
        "writer_goes_on",
        "merged_both",
        "invalid",
        "import_waits",
        "import_goes_on",
        "queue_never_blocks",
        "queue_sync_ends",
        "storm_ends",
        "release_ends",
        "release_told",
        "hold_deadline",
        "race",
        "killed_producer",
        "killed_vm_releases",
        "killed_vm_log",
        "next_vm_starts_clean",
        "unbound_wait",
        "unbound_sync",
        "killed_daemon",
    ],
    limit: Duration::from_secs(400),
};

/// Adds what only this needs: the producer with fences, and a source of fences that fail.
pub fn prepare(ready: &mut Ready) -> Result<()> {
    ready.add(modules::build_program("tests/host/fence_source")?)?;
    ready.add(modules::build_module("tests/host/error_fence")?)
}
