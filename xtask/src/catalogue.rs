// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! All scenarios that `cargo xtask test` runs. Their scripts are in `xtask/scenarios`.

use std::time::Duration;

use crate::demo::DEMO;
use crate::fences;
use crate::plan::BedKind;
use crate::scenario::Scenario;

const BOTH: &[BedKind] = &[BedKind::Flat, BedKind::Nested];
const FRAMES: Option<&str> = Some(include_str!("../scenarios/frames-before.sh"));
const LOCKSTEP: Option<&str> = Some(include_str!("../scenarios/lockstep-guest.sh"));

/// In the order in which they run.
pub const ALL: &[Scenario] = &[
    SMOKE,
    DEMO,
    KILLED_VM,
    KILLED_PRODUCER,
    KILLED_DAEMON,
    DRIVER_LIFECYCLE,
    TWO_VMS,
    HEAPS,
    STREAMS,
    BARE_METAL,
    fences::SCENARIO,
    GUEST_HEAP,
    HOT_PLUG,
];

const SMOKE: Scenario = Scenario {
    name: "smoke",
    beds: BOTH,
    before: None,
    host: Some(include_str!("../scenarios/smoke-host.sh")),
    guest: Some(include_str!("../scenarios/smoke-guest.sh")),
    config: None,
    required: &[
        "daemon_runs",
        "broker_socket",
        "broker_answers",
        "guest_answers",
        "driver_loaded",
        "device_node",
        "list",
        "host_answers",
    ],
    limit: Duration::from_secs(120),
};

const KILLED_VM: Scenario = Scenario {
    name: "killed-vm",
    beds: BOTH,
    before: FRAMES,
    host: Some(include_str!("../scenarios/killed-vm-host.sh")),
    guest: LOCKSTEP,
    config: None,
    required: &[
        "round_1_reads",
        "round_1_released",
        "round_1_log",
        "round_2_starts_clean",
        "round_2_reads",
        "round_2_released",
        "round_2_log",
        "round_3_starts_clean",
        "round_3_reads",
        "round_3_released",
        "round_3_log",
        "next_vm_reads",
        "daemon_lives",
    ],
    limit: Duration::from_secs(600),
};

const KILLED_PRODUCER: Scenario = Scenario {
    name: "killed-producer",
    beds: BOTH,
    before: Some(include_str!("../scenarios/killed-producer-before.sh")),
    host: Some(include_str!("../scenarios/killed-producer-host.sh")),
    guest: LOCKSTEP,
    config: None,
    required: &[
        "frame_read",
        "frame_name_gone",
        "frame_outlives_producer",
        "frame_not_opened_again",
        "buffer_read",
        "buffer_name_gone",
        "next_producer_read",
        "buffer_outlives_producer",
        "all_released",
    ],
    limit: Duration::from_secs(180),
};

const KILLED_DAEMON: Scenario = Scenario {
    name: "killed-daemon",
    beds: BOTH,
    before: FRAMES,
    host: Some(include_str!("../scenarios/killed-daemon-host.sh")),
    guest: Some(include_str!("../scenarios/killed-daemon-guest.sh")),
    config: None,
    required: &[
        "request_ends",
        "next_request_ends",
        "static_window_reads",
        "dynamic_window_no_hang",
        "close_static",
        "close_dynamic",
        "vm_lives",
        "list_fails",
        "unbind",
        "node_gone",
        "rmmod",
    ],
    limit: Duration::from_secs(240),
};

const DRIVER_LIFECYCLE: Scenario = Scenario {
    name: "driver-lifecycle",
    beds: BOTH,
    before: FRAMES,
    host: Some(include_str!("../scenarios/driver-lifecycle-host.sh")),
    guest: Some(include_str!("../scenarios/driver-lifecycle-guest.sh")),
    config: None,
    required: &[
        "rmmod_while_node_open",
        "rmmod_while_buffers_open",
        "unbind",
        "unbound_open",
        "bind",
        "reads_after_bind",
        "load_cycles",
        "no_handles",
        "all_released",
    ],
    limit: Duration::from_secs(300),
};

const TWO_VMS: Scenario = Scenario {
    name: "two-vms",
    beds: BOTH,
    before: FRAMES,
    host: Some(include_str!("../scenarios/two-vms-host.sh")),
    guest: LOCKSTEP,
    config: Some(include_str!("../scenarios/two-vms.toml")),
    required: &[
        "first_reads_its_own",
        "first_reads_the_pool",
        "first_refused_ro",
        "first_refused_rw",
        "paused_host_served",
        "paused_host_in_time",
        "paused_second_vm_served",
        "second_reads_the_pool",
        "second_reads_its_own",
        "second_writes_its_own",
        "second_refused",
        "still_paused",
        "first_goes_on",
        "first_opens_more",
    ],
    limit: Duration::from_secs(300),
};

const HEAPS: Scenario = Scenario {
    name: "heaps",
    beds: &[BedKind::Nested],
    before: FRAMES,
    host: Some(include_str!("../scenarios/heaps-host.sh")),
    guest: LOCKSTEP,
    config: Some(include_str!("../scenarios/heaps.toml")),
    required: &[
        "huge_pages_used",
        "huge_pool_read",
        "huge_pool_write_blocked",
        "heap_tests",
        "device_tests",
        "device_tests_skip_nothing",
    ],
    limit: Duration::from_secs(300),
};

const STREAMS: Scenario = Scenario {
    name: "streams",
    beds: BOTH,
    before: Some(include_str!("../scenarios/streams-before.sh")),
    host: Some(include_str!("../scenarios/streams-host.sh")),
    guest: None,
    config: None,
    required: &[
        "stream_is_there",
        "frames_per_second",
        "others_go_on",
        "stopped_one_goes_on",
        "next_one_gets_frames",
        "counters_add_up",
        "ends_with_the_stream",
        "stream_is_gone",
        "first_right",
        "second_right",
        "third_right",
        "fourth_right",
        "pictures_differ",
    ],
    limit: Duration::from_secs(300),
};

const BARE_METAL: Scenario = Scenario {
    name: "bare-metal",
    beds: &[BedKind::Flat],
    before: FRAMES,
    host: Some(include_str!("../scenarios/bare-metal-host.sh")),
    guest: None,
    config: Some(include_str!("../scenarios/bare-metal.toml")),
    required: &[
        "payload_done",
        "recognised",
        "list",
        "no_fences",
        "crc_equal",
        "other_crc_equal",
        "crcs_differ",
        "boots_within_a_second",
        "attack_done",
        "write_access_refused",
        "guest_sees_no_change",
        "host_bytes_unchanged",
        "attack_is_real",
        "copy_changed",
        "dynamic_window",
        "host_sees_write",
        "all_given_back",
        "made_done",
        "made_is_published",
        "events",
        "event_added",
        "event_withdrawn",
    ],
    limit: Duration::from_secs(240),
};

const GUEST_HEAP: Scenario = Scenario {
    name: "guest-heap",
    beds: BOTH,
    before: FRAMES,
    host: Some(include_str!("../scenarios/guest-heap-host.sh")),
    guest: Some(include_str!("../scenarios/guest-heap-guest.sh")),
    config: None,
    required: &[
        "heap_node",
        "selftests",
        "selftests_all",
        "quota",
        "quota_comes_back",
        "alloc_cycles",
        "capture",
        "output",
        "guest_camera_seen",
        "guest_camera_moves",
        "guest_format",
        "no_handles",
        "no_mappings",
        "names_gone",
        "without_a_device",
        "names_stay",
        "alloc_after_reload",
        "one_name",
        "all_released",
    ],
    limit: Duration::from_secs(300),
};

const HOT_PLUG: Scenario = Scenario {
    name: "hot-plug",
    beds: &[BedKind::Flat],
    before: None,
    host: Some(include_str!("../scenarios/hot-plug-host.sh")),
    guest: Some(include_str!("../scenarios/hot-plug-guest.sh")),
    config: Some(include_str!("../scenarios/hot-plug.toml")),
    required: &[
        "load_cycles",
        "killed",
        "unplugged",
        "host_killed",
        "host_unplugged",
        "works_after",
        "one_name",
        "no_handles",
        "vm_lives",
        "all_released",
    ],
    limit: Duration::from_secs(600),
};
