# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# A guest's camera, which a process of the host and another VM watch, read-only.
stream=guest/cam
seconds=30
settled
base=$(usage)
xtask guest --vm second --timeout 550 --link "$BED_RUN/second.sock" --run '
	touch /share/second-booted
	until [ -e /share/streaming ]; do sleep 0.2; done
	frame-view guest/cam --guest-device /dev/virtio-dmabuf0 --fifo 4 --crc --timeout 120 >/tmp/seen &
	watching=$!
	touch /share/second-up
	guest-check lockstep
	kill $watching
	cp /tmp/seen /share/seen.second
	guest-check attack guest/cam/3 >/share/attack
	touch /share/attacked' >log/second.out 2>log/second.log &
second_vm=$!
eventually 240 test -e "$BED_SHARE/second-booted"
# From here on the camera runs.
touch "$BED_SHARE/counted"
there() { dmabufctl streams | grep -q "^$stream "; }
check stream_is_there eventually 120 there
touch "$BED_SHARE/streaming"
frame-view $stream --fifo 4 --crc --timeout 120 >"$BED_RUN/seen.host" 2>log/view.host.log &
host_view=$!
# As soon as it is there: a guest doesn't wait long for its host.
talk_to "$BED_RUN/second.sock" second-up || exit 1
both_watch() { streamed host 10 && streamed second 10; }
# Without the VM of the camera there is nothing to wait for.
check both_watch eventually 240 both_watch || exit 1

step "both of them for $seconds s"
look begin
sleep $seconds
look end
went together begin end host second
check counters_add_up adds_up $stream 2
dmabufctl stats $stream

step "the camera pauses, and the second VM tries to write"
touch "$BED_SHARE/pause"
eventually 60 test -e "$BED_SHARE/paused"
hold $stream/3 ro
verdict second_opens_ro "$answer" same $stream/3 "$id"
ask open $stream/3 rw
verdict second_refused_rw "$answer" [ "$answer" = "err EACCES" ]
ask write "$id" 4096 77
verdict second_cant_write "$answer" [ "${answer%% *}" = err ]
before=$(dmabufctl crc $stream/3)
# It stops watching: the attacks take the device from its driver, too.
ask quit
hang_up
check attack_ends eventually 120 test -e "$BED_SHARE/attacked"
failed=$(grep -c '^check [^ ]* fail' "$BED_SHARE/attack")
blocked=$(grep -c '^check [^ ]* pass' "$BED_SHARE/attack")
verdict attacks_blocked "$blocked attacks blocked, $failed landed" [ "$failed" = 0 -a "$blocked" -gt 20 ]
verdict attacked_bytes_unchanged "$before" [ "$(dmabufctl crc $stream/3)" = "$before" ]
wait $second_vm
look end
touch "$BED_SHARE/go-on"
check goes_on eventually 60 streamed host $(($(counter end host delivered) + 20))

step "the camera ends"
touch "$BED_SHARE/end"
wait $host_view
ended=$?
verdict host_ends_with_the_stream "status $ended" [ $ended = 0 ]
eventually 60 test -e "$BED_SHARE/done"
# The last line may have been cut.
sed '$d' "$BED_SHARE/seen.second" >"$BED_RUN/seen.second"
for name in host second; do check "${name}_right" right "$BED_SHARE/produced" "$BED_RUN/seen.$name"; done
check pictures_differ different "$BED_SHARE/produced"
verdict all_released "$(usage); before: $base" eventually 15 usage_is "$base"
exit 0
