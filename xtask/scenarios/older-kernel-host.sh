# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# A guest with the older kernel: what it reads, what it can't write, what it gives back.
eventually 60 published frame/3
dmabufctl alloc --heap system --size 1M --fill 5a --name rw/0 --keep
dmabufctl crc frame/0 | tail -n 1 >"$BED_SHARE/crc"
talk_to "$BED_RUN/link.sock" up
settled
base=$(usage)
hold frame/0 ro
frame=$id
check reads_the_pool same frame/0 "$frame"
hold rw/0 rw
plain=$id
check reads_and_writes same rw/0 "$plain"
ask write "$plain" 4096 a7
check host_sees_write same rw/0 "$plain"
touch "$BED_SHARE/opened"
eventually 60 test -e "$BED_SHARE/unbound"
for id in $frame $plain; do
	ask read "$id" 0
	verdict "unbound_read_$id" "$answer" [ "$answer" = "err EFAULT" ]
	ask close "$id"
done
ask quit
eventually 100 test -e "$BED_SHARE/done"
verdict all_released "$(usage); before: $base" eventually 15 usage_is "$base"
exit 0
