// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Cameras across VM boundaries: one of the host that two VMs and a process watch at once, and one of a guest that the
//! host and another VM watch. The guests' ends of the streams are the tools, static.

use std::time::Duration;

use anyhow::Result;

use crate::bed::Ready;
use crate::plan::{BedKind, Machine};
use crate::project;
use crate::scenario::Scenario;

/// One camera, two VMs and a process of the host.
pub const CAMERA_VMS: Scenario = Scenario {
    name: "camera-vms",
    beds: &[BedKind::Flat, BedKind::Nested],
    before: Some(include_str!("../scenarios/camera-vms-before.sh")),
    host: Some(include_str!("../scenarios/camera-vms-host.sh")),
    guest: Some(include_str!("../scenarios/camera-vms-guest.sh")),
    config: Some(include_str!("../scenarios/camera-vms.toml")),
    machine: Machine::USUAL,
    required: &[
        "static_programs",
        "all_watch",
        "first_cant_write",
        "second_cant_write",
        "daemon_bytes_per_frame",
        "daemon_maps_no_frames",
        "together_produced",
        "together_host",
        "together_first",
        "together_second",
        "stopped_produced",
        "stopped_host",
        "stopped_second",
        "stopped_first_goes_on",
        "killed_produced",
        "killed_host",
        "killed_first",
        "second_comes_again",
        "counters_add_up",
        "host_right",
        "first_right",
        "second_right",
        "second_again_right",
        "pictures_differ",
    ],
    limit: Duration::from_secs(1200),
};

/// A guest's camera, the host and another VM.
pub const GUEST_CAMERA: Scenario = Scenario {
    name: "guest-camera",
    beds: &[BedKind::Nested],
    before: None,
    host: Some(include_str!("../scenarios/guest-camera-host.sh")),
    guest: Some(include_str!("../scenarios/guest-camera-guest.sh")),
    config: Some(include_str!("../scenarios/guest-camera.toml")),
    machine: Machine::USUAL,
    required: &[
        "stream_is_there",
        "both_watch",
        "together_produced",
        "together_host",
        "together_second",
        "second_opens_ro",
        "second_refused_rw",
        "second_cant_write",
        "attacks_blocked",
        "attacked_bytes_unchanged",
        "goes_on",
        "counters_add_up",
        "host_right",
        "second_right",
        "pictures_differ",
        "camera_again",
        "all_released",
    ],
    limit: Duration::from_secs(600),
};

/// Adds the static tools.
pub fn prepare(ready: &mut Ready) -> Result<()> {
    ready.static_programs = project::build_static()?;
    Ok(())
}
