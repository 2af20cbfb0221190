# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Fences of the host on buffers that a guest has, and of the guest on buffers of the host. The producer has 64 buffers:
# 0 to 31 are slots of a pool (udmabuf), 32 to 63 are of a dma-heap; the guest has them by the same numbers.
socket=/run/dmabuf/cluster.sock

# source_on IN OUT NAME: starts a fence-source that is told by `tell` or `tell_other`.
mkfifo "$BED_RUN/producer.in" "$BED_RUN/producer.out" "$BED_RUN/other.in" "$BED_RUN/other.out"
fence-source <"$BED_RUN/producer.in" >"$BED_RUN/producer.out" &
producer=$!
exec 6<>"$BED_RUN/producer.in" 7<>"$BED_RUN/producer.out"
fence-source <"$BED_RUN/other.in" >"$BED_RUN/other.out" &
exec 4<>"$BED_RUN/other.in" 5<>"$BED_RUN/other.out"
tell() {
	echo "$*" >&6
	read -r told <&7
	heard "$@"
}
tell_other() {
	echo "$*" >&4
	read -r told <&5
	heard "$@"
}
heard() {
	case $told in
	ok*) told=${told#ok } ;;
	*) echo "fence-source: $*: $told"; return 1 ;;
	esac
}

# says NAME COMMAND... = PATTERN: what the guest answers to the command.
says() {
	says_name=$1 says_command=
	shift
	while [ "$1" != = ]; do
		says_command="$says_command $1"
		shift
	done
	ask $says_command
	case $answer in
	$2) echo "check $says_name pass $answer" ;;
	*) echo "check $says_name fail $answer, wanted: $2" ;;
	esac
}
# within VALUE LEAST MOST
within() { [ "$1" -ge "$2" ] && [ "$1" -le "$3" ]; }

insmod "$BED_MODULES/error_fence.ko"
for number in $(seq 0 31); do tell alloc camera 65536 "frame/$number" || exit 1; done
for number in $(seq 0 31); do tell alloc system 65536 "rw/$number" || exit 1; done
talk_to "$BED_RUN/link.sock" up
for number in $(seq 0 31); do hold "frame/$number" ro; done
for number in $(seq 0 31); do hold "rw/$number" rw; done
verdict buffers_open "$id" [ "$id" = 63 ]

for kind in udmabuf:0 dma-heap:32; do
	buffer=${kind#*:} kind=${kind%:*}
	step "a host fence on a buffer of $kind"
	tell attach "$buffer" w
	fence=$told
	ask fence "$buffer" r 5000
	file=$said
	says "$kind/poll_before" poll "$buffer" r 200 = 'ok busy *'
	ask export "$buffer" r
	exported=$said
	says "$kind/exported_before" status "$exported" = 'ok pending'
	says "$kind/query_before" query "$buffer" r = 'ok 1 pending'
	tell signal "$fence"
	says "$kind/poll_after" poll "$buffer" r 5000 = 'ok ready *'
	says "$kind/exported_after" wait "$exported" 5000 = 'ok signalled *'
	says "$kind/sync_file_after" wait "$file" 5000 = 'ok signalled *'

	for error in 5:EIO 62:ETIME 133:EHWPOISON; do
		tell error_attach "$buffer" w
		fence=$told
		ask fence "$buffer" r 5000
		file=$said
		ask export "$buffer" r
		exported=$said
		# An answer on the same queue: the wait before it has its snapshot.
		says "$kind/query_${error#*:}" query "$buffer" r = 'ok 1 pending'
		tell signal "$fence" "${error%:*}"
		says "$kind/error_${error#*:}" wait "$file" 5000 = "ok ${error#*:} *"
		says "$kind/exported_error_${error#*:}" wait "$exported" 5000 = "ok ${error#*:} *"
	done

	tell attach "$buffer" w
	fence=$told
	ask fence "$buffer" r 700
	says "$kind/timeout" wait "$said" 5000 = 'ok ETIMEDOUT *'
	took=${said#* }
	verdict "$kind/timeout_in_time" "$took ms" within "$took" 600 2500
	ask fence "$buffer" r 5000
	file=$said
	says "$kind/cancel" cancel "$file" = ok
	says "$kind/cancelled" status "$file" = 'ok ECANCELED'
	says "$kind/cancel_again" cancel "$file" = 'err ENOENT'
	ask block "$buffer"
	says "$kind/sync_waits" poll "$buffer" r 300 = 'ok *'
	says "$kind/sync_blocked" blocked = 'ok yes'
	tell signal "$fence"
	says "$kind/sync_ends" unblock 5000 = ok
done

step "a frame that comes with its fence"
tell stream fenced 0
says stream/opened stream fenced = ok
tell attach 0 w
fence=$told
tell queue
says stream/frame frame = 'ok 1 1'
says stream/frame_before frame_wait 300 = 'ok busy'
tell signal "$fence"
says stream/frame_after frame_wait 5000 = 'ok ready'
says stream/frame_release frame_release = ok
says stream/closed stream_close = ok

step "readers, writers, merged sync_files"
tell attach 33 r
fence=$told
ask fence 33 r 5000
says reader_passes_reader wait "$said" 5000 = 'ok signalled *'
ask fence 33 w 5000
file=$said
says reader_holds_writer poll 33 w 200 = 'ok busy *'
says reader_still_readable poll 33 r 0 = 'ok ready *'
tell signal "$fence"
says writer_goes_on poll 33 w 5000 = 'ok ready *'
tell attach 1 w
first=$told
tell attach 34 w
second=$told
ask fence 1 r 5000
one=$said
ask fence 34 r 5000
ask merge "$one" "$said"
file=$said
says merged_before query 34 r = 'ok 1 pending'
tell signal "$first"
says merged_first wait "$file" 200 = 'ok pending *'
tell signal "$second"
says merged_both wait "$file" 5000 = 'ok signalled *'
says invalid invalid 0 = 'ok 10 0'

step "an importer in the guest"
says import_idle import 35 = ok
tell attach 35 w
fence=$told
ask fence 35 r 5000
says import_waits import 35 = 'err EBUSY'
tell signal "$fence"
says import_ready poll 35 r 5000 = 'ok ready *'
says import_goes_on import 35 = ok

step "the queue while a fence is held"
ask info_us 20
ask info_us 40
idle=${said% *} idle_most=${said#* }
tell attach 2 w
fence=$told
ask fence 2 r 8000
file=$said
ask block 2
ask info_us 40
first=${said% *}
sleep 3
ask info_us 40
held=${said% *} held_most=${said#* }
says queue_fence_held status "$file" = 'ok pending'
says queue_sync_held blocked = 'ok yes'
tell signal "$fence"
says queue_sync_ends unblock 5000 = ok
ask info_us 40
after=${said% *}
# The machine's load comes and goes: the better of two, beside the worse of two.
[ "$after" -gt "$idle" ] && idle=$after
[ "$first" -lt "$held" ] && held=$first
verdict queue_never_blocks "a request takes $held us (at most $held_most), idle $idle us (at most $idle_most)" [ $((held - idle)) -lt 5000 -a "$held_most" -lt 1000000 ]

step "1000 waits on 64 buffers"
tell attach_all
verdict storm_fences "$told" [ "$told" = 64 ]
says storm_submitted storm 1000 8000 = ok
says storm_full full 0 = 'ok [1-9]* EAGAIN'
tell signal_all
verdict storm_signalled "$told" [ "$told" = 64 ]
says storm_ends storm_end 8000 = 'ok 1000 0'

step "holds, and a cancel that races the signal"
says hold hold 36 w 5000 = 'ok 5000'
tell poll 36 r 300
verdict hold_holds "$told" [ "${told% *}" = busy ]
says release release 36 77 = ok
tell poll 36 r 3000
verdict release_ends "$told" [ "${told% *}" = ready ]
tell released 3000
verdict release_told "$told" [ "$told" = 77 ]
says hold_short hold 36 w 800 = 'ok 800'
tell poll 36 r 5000
verdict hold_deadline "$told" [ "${told% *}" = ready ]
says race race 36 300 = 'ok [1-9]* [1-9]* 0'

step "the VM is paused for longer than the wait may take"
vm=$(qemu_of $socket)
tell attach 38 w
fence=$told
ask fence 38 r 4000
file=$said
says paused_before status "$file" = 'ok pending'
kill -STOP "$vm"
tell signal "$fence"
sleep 7
kill -CONT "$vm"
says paused_wait wait "$file" 5000 = 'ok signalled *'

step "the producer is killed"
tell_other open rw/5
tell_other attach 0 w
fence=$told
ask fence 37 r 8000
file=$said
says producer_lives status "$file" = 'ok pending'
kill -KILL $producer
says killed_producer wait "$file" 4000 = 'ok EOWNERDEAD *'
tell_other signal "$fence"

step "the VM is killed, with a bracket, a wait and a hold"
for number in 0 1 2; do tell_other alloc system 65536 "rw/last-$number"; done
for id in $(seq 0 63); do ask close "$id"; done
settled
connected=$(usage)
hold rw/last-0 rw
bracket=$id
hold rw/last-1 rw
wait=$id
hold rw/last-2 rw
held=$id
ask sync "$bracket" start rw
tell_other attach 2 w
fence=$told
ask fence "$wait" r 8000
# Nobody has this one any more when its buffer is closed: it is cancelled.
hold rw/last-1 rw
ask fence "$id" r 8000
ask drop "$said"
ask close "$id"
says killed_vm_hold hold "$held" w 8000 = 'ok 8000'
tell_other poll 3 r 300
verdict killed_vm_held "$told" [ "${told% *}" = busy ]
kill -KILL "$(qemu_of $socket)"
tell_other poll 3 r 3000
verdict killed_vm_releases "$told" [ "${told% *}" = ready ]
eventually 15 no_guest_memory
eventually 15 grep -q ' mappings released' "$BED_LOG"
line=$(grep ' mappings released' "$BED_LOG" | tail -n 1)
verdict killed_vm_log "${line##*: }" eval 'echo "$line" | grep -q "1 brackets, 1 waits, 1 holds ended"'
tell_other signal "$fence"

step "the driver is unbound under a wait, in the next VM"
rm -f "$BED_SHARE/up"
xtask guest --link "$BED_RUN/next.sock" --run '
	touch /share/up
	guest-check lockstep
	cd /sys/bus/virtio/drivers/virtio_dmabuf
	for device in ../../devices/virtio*; do echo "${device##*/}" >bind; done 2>/dev/null
	until [ -e /share/free ]; do sleep 0.1; done
	touch /share/again
	exec guest-check lockstep' >log/next.log 2>&1 8>&- 9>&- &
talk_to "$BED_RUN/next.sock" up
verdict next_vm_starts_clean "$(usage); before: $connected" eventually 15 usage_is "$connected"
hold rw/last-1 rw
tell_other attach 2 w
ask fence "$id" r 8000
file=$said
ask block "$id"
says unbind unbind = ok
says unbound_wait wait "$file" 3000 = 'ok EIO *'
says unbound_sync unblock 3000 = 'err EIO'
ask quit
hang_up
touch "$BED_SHARE/free"

step "the daemon is killed under a wait"
talk_to "$BED_RUN/next.sock" again
hold rw/last-2 rw
tell_other attach 3 w
ask fence "$id" r 1000
file=$said
kill -KILL "$BED_DAEMON_PID"
says killed_daemon wait "$file" 5000 = 'ok ETIMEDOUT *'
ask quit
exit 0
