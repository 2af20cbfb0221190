# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The daemon is killed under a running guest: requests end with an error, in time; nothing hangs.
eventually 60 published frame/3
dmabufctl alloc --heap system --size 1M --fill 5a --name rw/0 --keep
crc=$(dmabufctl crc frame/0)
talk_to "$BED_RUN/link.sock" up
hold frame/0 ro
frame=$id
hold rw/0 rw
plain=$id
step "the daemon is killed"
kill -KILL "$BED_DAEMON_PID"
start=$(now)
ask open frame/1 ro
verdict request_ends "$answer after $(($(now) - start)) s" eval '[ "$answer" = "err EIO" -o "$answer" = "err ETIMEDOUT" -o "$answer" = "err ENODEV" ]'
ask open frame/2 ro
verdict next_request_ends "$answer" eval '[ "$answer" = "err EIO" -o "$answer" = "err ETIMEDOUT" -o "$answer" = "err ENODEV" ]'
ask crc "$frame"
verdict static_window_reads "$answer" [ "$answer" = "ok $crc" ]
ask read "$plain" 0
verdict dynamic_window_no_hang "$answer" [ "${answer#err GONE}" = "$answer" ]
ask close "$frame"
verdict close_static "$answer" [ "$answer" = ok ]
ask close "$plain"
verdict close_dynamic "$answer" [ "$answer" = ok ]
ask quit
eventually 90 test -e "$BED_SHARE/unloaded"
verdict vm_lives "$BED_QEMU_PID" kill -0 "$BED_QEMU_PID"
exit 0
