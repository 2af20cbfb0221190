# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# One camera, two VMs and a process of the host at once; then one VM is paused, and the other one killed and started again.
if [ "$BED" = nested ]; then seconds=60 shorter=15; else seconds=15 shorter=8; fi
size=86400
stream=live

# second NAME: the second VM; what it sees goes into seen.NAME, in blocks, because each write is an exit of the VM.
second() {
	rm -f "$BED_SHARE/second-up"
	xtask guest --vm second --timeout 600 --link "$BED_RUN/$1.sock" --run '
		frame-view live --guest-device /dev/virtio-dmabuf0 --fifo 8 --crc --timeout 120 | awk "{ print }" &
		touch /share/second-up
		guest-check lockstep
		wait' >"$BED_RUN/seen.$1" 2>"log/$1.log" &
	second_vm=$!
}
# cant_write NAME SOCKET UP MARK: the guest has a slot open and mapped, and sees what the host writes behind the picture, but
# can't write itself.
cant_write() {
	talk_to "$2" "$3" && hold live/3 ro
	verdict "$1_opens" "$answer" [ "${answer%% *}" = ok ]
	[ "${answer%% *}" = ok ] || exit 1
	if [ "$BED" = nested ]; then
		dmabufctl write live/3 90000 "$4" && ask read "$id" 90000
		verdict "$1_sees_at_once" "$said" [ "$said" = "$4" ]
		ask write "$id" 90000 77
		verdict "$1_cant_write" "$answer" [ "${answer%% *}" = err -a "$(dmabufctl read live/3 90000 1)" = "$4" ]
	else
		ask write "$id" 90000 77
		verdict "$1_cant_write" "$answer" [ "${answer%% *}" = err ]
	fi
	ask open live/3 rw
	verdict "$1_refused_rw" "$answer" [ "${answer%% *}" = err ]
	ask quit
	hang_up
}
# Each of them as soon as it is there: a guest doesn't wait long for its host. They watch when the second one is up: to boot
# beside those who watch takes minutes in the nested bed.
cant_write first "$BED_RUN/link.sock" up c1
second second
cant_write second "$BED_RUN/second.sock" second-up c2
frame-view live --fifo 8 --crc --timeout 120 >"$BED_RUN/seen.host" 2>log/view.host.log &
host_view=$!
all_watch() { streamed host 10 && streamed first 10 && streamed second 10; }
check all_watch eventually 240 all_watch

# io: bytes that the daemon has read and written.
io() { awk '/^[rw]char/ { bytes += $2 } END { print bytes }' "/proc/$BED_DAEMON_PID/io"; }
step "all of them for $seconds s"
bytes=$(io)
look begin
sleep "$seconds"
look end
bytes=$((($(io) - bytes) / ($(frames begin end) + 1)))
verdict daemon_bytes_per_frame "$bytes by read and write, a frame has $size" [ $bytes -lt $((size / 20)) ]
mapped=$(grep -c "memfd:camera\|/dmabuf:" "/proc/$BED_DAEMON_PID/maps")
verdict daemon_maps_no_frames "$mapped mappings" [ "$mapped" = 0 ]
went together begin end host first second

step "the first VM is paused"
paused=$(qemu_of /run/dmabuf/first.sock)
kill -STOP "$paused"
look begin
sleep $shorter
look end
went stopped begin end host second
had=$(counter end first delivered)
kill -CONT "$paused"
check stopped_first_goes_on eventually 60 streamed first $((had + 10))

step "the second VM is killed"
kill -KILL "$(qemu_of /run/dmabuf/second.sock)"
wait $second_vm
look begin
sleep $shorter
look end
went killed begin end host first

step "the second VM comes again"
look begin
second second_again
talk_to "$BED_RUN/second_again.sock" second-up && ask quit && hang_up
check second_comes_again eventually 400 streamed second 30
look end
# To boot a VM costs CPU time, which has nothing to do with frames: this is only told.
usual=$allowed usual_vm=$allowed_vm allowed=1000 allowed_vm=1000
went booting begin end host first
allowed=$usual allowed_vm=$usual_vm
look begin
sleep $shorter
look end
went again begin end host first second
check counters_add_up adds_up $stream 3
dmabufctl stats $stream

step "the producer ends"
kill "$(cat "$BED_RUN/producer.pid")"
wait $host_view
ended=$?
verdict host_ends_with_the_stream "status $ended" [ $ended = 0 ]
wait $second_vm
ended=$?
verdict second_ends_with_the_stream "status $ended" [ $ended = 0 ]
eventually 60 test -e "$BED_SHARE/first-ended"
cp "$BED_SHARE/seen.first" "$BED_RUN/seen.first"
# Its last line may have been cut.
sed -i '$d' "$BED_RUN/seen.second"
for name in host first second second_again; do check "${name}_right" right "$BED_RUN/produced" "$BED_RUN/seen.$name"; done
check pictures_differ different "$BED_RUN/produced"
exit 0
