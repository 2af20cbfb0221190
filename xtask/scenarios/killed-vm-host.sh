# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# QEMU is killed while its guest has buffers of both windows open and mapped: nothing of it stays in the daemon, and
# the next VM on the same socket is served. Three times, so that what leaks adds up.
socket=/run/dmabuf/cluster.sock
eventually 60 published frame/3
for number in 0 1 2 3; do
	dmabufctl alloc --heap system --size 1M --fill "5${number}6a" --name "rw/$number" --keep
done
link=$BED_RUN/link.sock
alone=
for round in 1 2 3; do
	if [ $round -gt 1 ]; then
		step "the next VM on the same socket"
		rm -f "$BED_SHARE/up"
		link=$BED_RUN/next-$round.sock
		xtask guest --link "$link" --run 'touch /share/up; exec guest-check lockstep' >"log/next-$round.log" 2>&1 &
	fi
	talk_to "$link" up
	verdict "round_${round}_vm_up" "$answer" [ "$answer" = ready ]
	[ $round = 1 ] && settled && connected=$(usage)
	verdict "round_${round}_starts_clean" "$(usage)" eventually 15 usage_is "$connected"
	right=0
	for number in 0 1 2 3; do
		hold "frame/$number" ro && same "frame/$number" "$id" && right=$((right + 1))
		hold "rw/$number" rw && same "rw/$number" "$id" && right=$((right + 1))
	done
	verdict "round_${round}_reads" "$right" [ $right = 8 ]
	held=$(usage)
	step "QEMU is killed; the daemon holds $held"
	kill -KILL "$(qemu_of $socket)"
	eventually 15 no_guest_memory
	if [ -z "$alone" ]; then
		# What is there without a VM: less than with one. The later rounds have to come back to just this.
		eventually 15 grep -q ' mappings released' "$BED_LOG"
		settled
		alone=$(usage)
	fi
	eventually 15 usage_is "$alone"
	after=$(usage)
	verdict "round_${round}_released" "$after; before: $held" [ "$after" = "$alone" -a "${after%% *}" -lt "${connected%% *}" ]
	line=$(grep ' mappings released' "$BED_LOG" | tail -n 1)
	verdict "round_${round}_log" "${line##*: }" eval 'echo "$line" | grep -qE "gone, [1-9][0-9]* handles and [1-9][0-9]* mappings released"'
done
step "one more VM on the same socket"
crc=$(xtask guest --run 'guest-check crc frame/1' 2>log/last.log | tail -n 1)
verdict next_vm_reads "$crc" [ "$crc" = "$(dmabufctl crc frame/1)" ]
verdict daemon_lives "$(usage)" eventually 15 usage_is "$alone"
exit 0
