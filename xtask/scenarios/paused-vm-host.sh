# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# A VM is paused for longer than its driver waits for a reply, in the middle of requests: none of them fails. The daemon is
# stopped, too, and goes on a moment later than the VM, so that the reply comes when the time is long over.
rounds=4
eventually 60 published frame/3
talk_to "$BED_RUN/link.sock" up
hold frame/0 ro
vm=$(qemu_of /run/dmabuf/cluster.sock)
round=0 pauses=0
while [ $round -lt $rounds ] && [ $pauses -lt 20 ]; do
	echo "info_us 10000" >&8
	sleep 0.1
	kill -STOP "$BED_DAEMON_PID"
	kill -STOP "$vm"
	sleep 4
	kill -CONT "$vm"
	sleep 0.2
	kill -CONT "$BED_DAEMON_PID"
	read -r answer <&9
	pauses=$((pauses + 1))
	[ "${answer%% *}" = ok ] || break
	# A pause before the first of them, or after the last one, says nothing.
	[ "${answer##* }" -lt 3500000 ] || round=$((round + 1))
done
verdict requests_end "$round of $rounds in $pauses pauses, the last one: $answer" [ $round = $rounds ]
check still_reads same frame/0 "$id"
ask quit
eventually 60 test -e "$BED_SHARE/done"
exit 0
