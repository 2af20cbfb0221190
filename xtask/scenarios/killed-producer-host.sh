# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# A producer is killed while the guest has its buffer: the alias outlives it, the name is free for the next one.
eventually 60 published live/frame
talk_to "$BED_RUN/link.sock" up
step "the producer of a pool's frame is killed"
hold live/frame ro
frame=$id
verdict frame_read "$(dmabufctl crc live/frame)" same live/frame "$frame"
before=$said
kill -KILL "$(cat "$BED_RUN/producer.pid")"
verdict frame_name_gone "$(now)" eventually 15 withdrawn live/frame
ask crc "$frame"
verdict frame_outlives_producer "$answer; before: $before" [ "$said" = "$before" ]
ask open live/frame ro
verdict frame_not_opened_again "$answer" [ "${answer%% *}" = err ]
ask close "$frame"
settled
base=$(usage)

step "the producer of a read-write buffer is killed, and another one takes its name"
produce() {
	dmabufctl alloc --heap system --size 1M --fill "$1" --name rw/live >/dev/null 0<>"$BED_RUN/producer.in" &
	producer=$!
	eventually 15 published rw/live
}
produce 0a0b
hold rw/live rw
old=$id
verdict buffer_read "$(dmabufctl crc rw/live)" same rw/live "$old"
before=$said
kill -KILL $producer
verdict buffer_name_gone "$(now)" eventually 15 withdrawn rw/live
produce 77
hold rw/live rw
new=$id
verdict next_producer_read "$(dmabufctl crc rw/live)" same rw/live "$new"
ask crc "$old"
verdict buffer_outlives_producer "$answer; before: $before" [ "$said" = "$before" ]
kill -KILL $producer
eventually 15 withdrawn rw/live
ask close "$old"
ask close "$new"
verdict all_released "$(usage); before: $base" eventually 15 usage_is "$base"
ask quit
exit 0
