# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The driver is unbound under open buffers, bound again, loaded and unloaded; the daemon's counts come back.
eventually 60 published frame/3
dmabufctl alloc --heap system --size 1M --fill 5a --name rw/0 --keep
dmabufctl crc frame/0 >"$BED_SHARE/crc"
talk_to "$BED_RUN/link.sock" up
settled
base=$(usage)
hold frame/0 ro
frame=$id
hold rw/0 rw
plain=$id
touch "$BED_SHARE/opened"
eventually 60 test -e "$BED_SHARE/unbound"
for id in $frame $plain; do
	ask read "$id" 0
	verdict "unbound_read_$id" "$answer" [ "$answer" = "err EFAULT" ]
	ask crc "$id"
	verdict "unbound_sync_$id" "$answer" [ "$answer" = "err EIO" ]
	ask close "$id"
	verdict "unbound_close_$id" "$answer" [ "$answer" = ok ]
done
ask open frame/1 ro
verdict unbound_open "$answer" [ "${answer%% *}" = err ]
ask quit
touch "$BED_SHARE/closed"
eventually 200 test -e "$BED_SHARE/done"
verdict all_released "$(usage); before: $base" eventually 15 usage_is "$base"
exit 0
