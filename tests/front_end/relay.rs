// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VM whose device is a process of its own: what other tests ask of the daemon's own device, asked of this one.
//!
//! Left out is what no broker has: aliases that only the VMM keeps read-only, a limit of mappings.

use crate::relays::relayed;

macro_rules! relayed {
    ($($module:ident: $($test:ident)*;)*) => {$(
        mod $module {
            $(#[test] fn $test() { super::relayed(crate::$module::$test); })*
        }
    )*};
}

relayed! {
    requests:
        malformed_requests_on_a_virtqueue
        meaningless_values
        too_little_room_for_a_reply
        a_request_without_any_writable_part
        a_list_fills_the_room_it_gets
        requests_and_replies_in_pieces
        the_fence_queue_takes_nothing_else
        replies_come_with_event_index_negotiated;
    access:
        handles_go_stale_and_never_come_back
        a_handle_is_worth_nothing_to_another_peer;
    alloc: the_feature_bit_says_who_may_allocate
        a_guest_allocates_writes_and_shares
        what_a_guest_has_opened_of_its_own_is_revoked_too
        refusals_have_their_own_status;
    static_window: map_tells_where_the_bytes_are
        map_refuses_what_is_wrong
        a_pool_appears_with_its_last_slot
        a_vm_without_the_pool_has_no_window_for_it;
    dynamic_window: both_sides_write_to_the_same_memory
        a_full_window_has_room_again_after_unmap
        a_vm_without_a_window
        a_front_end_that_refuses_everything
        a_front_end_without_a_back_end_channel
        what_the_front_end_does_not_unmap_is_never_used_again;
    deadlines: a_late_answer_is_undone_and_the_others_do_not_wait
        a_late_unmap_frees_its_range_late
        a_silent_probe_has_not_passed
        a_front_end_without_acknowledgements
        a_front_end_that_dies_while_it_maps
        a_front_end_that_goes_but_holds_the_channel_open;
    events: each_peer_hears_of_what_it_may_open
        a_reset_starts_the_sequence_again
        buffers_that_are_too_small_go_back_and_the_event_waits
        a_gap_tells_that_events_were_lost
        events_go_on_with_event_index_negotiated
        a_paused_vm_hears_later
        buffers_go_with_their_producer_unless_kept;
    fences: memory_without_a_dma_buf_on_a_virtqueue
        the_producer_hears_of_releases
        too_many_brackets
        a_guest_waits_for_the_hosts_fence_and_nothing_else_does
        a_hold_is_the_hosts_fence;
    lifecycle: a_hundred_front_ends_leave_nothing
        a_second_front_end_waits_for_the_first_to_go
        a_reset_makes_everything_stale
        a_reset_while_the_front_end_maps
        a_pause_keeps_everything
        a_pause_while_the_front_end_maps
        a_queue_that_is_disabled_and_enabled
        kicks_that_are_taken_back
        kicks_that_never_end;
    streams: a_frame_goes_to_a_vm_and_to_a_process_and_comes_back
        a_slot_of_a_pool_goes_with_the_pool_only
        nobody_who_sleeps_holds_up_the_others;
    revoke: the_mapping_goes_at_the_deadline_and_its_range_stays
        two_vms_and_one_lets_go_first
        a_paused_vm_sees_zeroes_and_loses_it_when_it_goes_on
        a_vm_that_dies_or_says_nothing_stops_nobody
        a_hundred_revocations_leave_nothing;
    memory: memory_that_vanishes_under_a_request
        memory_is_hot_plugged_and_unplugged
        memory_tables_that_make_no_sense_end_the_connection
        queues_where_no_memory_is
        memory_that_is_truncated_stops_its_own_vm_only;
    rings: a_chain_that_never_ends
        descriptors_that_are_not_there
        descriptors_outside_memory
        indirect_tables_that_lie
        readable_after_writable
        an_index_that_jumps
        the_other_queues_lie
        rings_that_end_outside_memory
        descriptors_and_rings_in_the_window
        random_rings;
}
