// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Revocation under a guest that reads, in the nested bed: only its host VM has memory that can be taken from a static
//! window, and real page tables between host and guest.

use std::time::Duration;

use anyhow::Result;

use crate::attack;
use crate::bed::Ready;
use crate::modules;
use crate::plan::{BedKind, Machine};
use crate::scenario::Scenario;

/// Everything that has to hold of it.
pub const SCENARIO: Scenario = Scenario {
    name: "revoke",
    beds: &[BedKind::Nested],
    before: Some(include_str!("../scenarios/revoke-before.sh")),
    host: Some(include_str!("../scenarios/revoke-host.sh")),
    guest: Some(include_str!("../scenarios/revoke-guest.sh")),
    config: Some(include_str!("../scenarios/revoke.toml")),
    machine: Machine::USUAL,
    required: &[
        "revoke_dynamic",
        "revoke_static",
        "revoke_in_time",
        "revoked_name_is_gone",
        "others_come",
        "slot_is_used_again",
        "read_right",
        "dynamic_never_another",
        "dynamic_sigbus",
        "dynamic_no_mmap",
        "dynamic_no_sync",
        "static_never_another",
        "static_sigbus",
        "static_no_mmap",
        "static_no_sync",
        "given_back",
        "guest_reads_the_others",
        "device_has_it",
        "peek_sees_it",
        "others_mapped",
        "range_kept",
        "all_given_back",
        "no_mappings",
        "revoked_without_time",
        "vm_lives",
        "all_released",
    ],
    limit: Duration::from_secs(400),
};

/// Adds what only this needs: the guest's kernel that looks at the window by itself.
pub fn prepare(ready: &mut Ready) -> Result<()> {
    ready.add(modules::build_module(attack::GUEST_MODULE)?)
}
