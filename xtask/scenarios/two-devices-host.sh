# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Two devices in one guest: buffers of the one are used while the other one goes away.
eventually 60 test -e "$BED_SHARE/up"
settled
base=$(usage)
touch "$BED_SHARE/counted"
# round NAME OWN STATIC...: buffers of one device, while the other one goes; both may have the common window.
round() {
	name=$1 own=$2
	shift 2
	talk_to "$BED_RUN/link.sock" "$name.up"
	held=
	for buffer; do
		hold "$buffer" ro
		verdict "${name}_reads_$buffer" "$answer" same "$buffer" "$id"
		held="$held $buffer:$id"
	done
	hold "$own" rw
	plain=$id
	check "${name}_own" same "$own" "$plain"
	touch "$BED_SHARE/$name.held"
	eventually 60 test -e "$BED_SHARE/$name.unbound"
	for buffer in $held; do
		check "${name}_still_reads_${buffer%:*}" same "${buffer%:*}" "${buffer#*:}"
	done
	ask write "$plain" 4096 "$(printf %x $((160 + plain)))"
	check "${name}_still_writes" same "$own" "$plain"
	touch "$BED_SHARE/$name.seen"
	eventually 60 test -e "$BED_SHARE/$name.bound"
	ask quit
	hang_up
}
round second_stays rw/second common/0 common/1
round first_stays rw/first front/0 common/0
eventually 60 test -e "$BED_SHARE/done"
verdict all_released "$(usage); before: $base" eventually 15 usage_is "$base"
exit 0
