# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# A VM is paused for longer than its driver waits for a reply, in the middle of requests: none of them fails.
rounds=8
eventually 60 published frame/3
talk_to "$BED_RUN/link.sock" up
hold frame/0 ro
vm=$(qemu_of /run/dmabuf/cluster.sock)
ask info_us 100
step "a request takes ${said% *} us"
# Half a second of requests, or more.
count=$((500000 / ${said% *} + 1))
round=0
while [ $round -lt $rounds ]; do
	echo "info_us $count" >&8
	sleep 0.2
	kill -STOP "$vm"
	sleep 2
	kill -CONT "$vm"
	read -r answer <&9
	# One of them was under way.
	[ "${answer%% *}" = ok ] && [ "${answer##* }" -gt 1500000 ] || break
	round=$((round + 1))
done
verdict requests_end "$round of $rounds, the last one: $answer" [ $round = $rounds ]
check still_reads same frame/0 "$id"
ask quit
eventually 60 test -e "$BED_SHARE/done"
exit 0
