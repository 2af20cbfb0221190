// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest that is suspended, in the flat bed: its host never sleeps, and two layers of emulation would add nothing.

use std::time::Duration;

use crate::plan::{BedKind, Machine};
use crate::scenario::Scenario;

/// Everything that has to hold of it.
pub const SCENARIO: Scenario = Scenario {
    name: "suspend",
    beds: &[BedKind::Flat],
    before: Some(include_str!("../scenarios/suspend-before.sh")),
    host: Some(include_str!("../scenarios/suspend-host.sh")),
    guest: Some(include_str!("../scenarios/suspend-guest.sh")),
    config: Some(include_str!("../scenarios/suspend.toml")),
    machine: Machine {
        sleeps: true,
        ..Machine::USUAL
    },
    required: &[
        "can_sleep",
        "freezer",
        "devices",
        "platform",
        "processors",
        "core",
        "hibernation",
        "sleeps",
        "heap_works",
        "no_handles",
        "no_mappings",
        "vm_lives",
        "no_consumers",
        "no_streams_of_it",
        "producer_goes_on",
        "all_released",
    ],
    limit: Duration::from_secs(300),
};
