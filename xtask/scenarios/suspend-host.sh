# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# What the host sees of a guest that sleeps: its counts come back, and its stream goes on.
there() { dmabufctl streams | grep -q '^live '; }
eventually 60 published frame/3
eventually 60 there
dmabufctl alloc --heap system --size 3M --fill 5a --name rw/0 --keep
for name in frame/0 rw/0; do dmabufctl crc $name | tail -n 1; done >"$BED_SHARE/crcs"
eventually 60 test -e "$BED_SHARE/up"
xtask awake "$BED_RUN/link.monitor" >"$BED_RUN/awake" &
waker=$!
watching() { grep -q watching "$BED_RUN/awake"; }
eventually 10 watching
settled
base=$(usage)
touch "$BED_SHARE/counted"
eventually 240 test -e "$BED_SHARE/done"
kill $waker
verdict vm_lives "$BED_QEMU_PID" kill -0 "$BED_QEMU_PID"
nobody() { ! dmabufctl stats live | grep joined; }
check no_consumers eventually 10 nobody
quiet_gone() { ! dmabufctl streams | grep guest/; }
check no_streams_of_it eventually 10 quiet_gone
stream=live
look before
more() { look now && [ "$(frames before now)" -gt 3 ]; }
verdict producer_goes_on "$(counter before produced) frames before" eventually 10 more
verdict all_released "$(usage); before: $base" eventually 15 usage_is "$base"
exit 0
