# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Buffers are revoked while a guest reads them, and their place is taken by others at once.
# fewer: what was revoked is gone, and nothing else has come.
fewer() { usage | { read -r fds _ maps _ _ threads _ && [ $fds -lt "$(echo "$base" | cut -d " " -f 1)" ] && [ "$threads" -le "$(echo "$base" | cut -d " " -f 6)" ]; }; }
fill() {
	dmabufctl alloc --heap system --size 1M --fill c3c3c3c3 --name "rw/after/$1" --keep &&
		dmabufctl alloc --heap system --size 1M --fill c5c5c5c5 --name "rw/later/$1" --keep
}
eventually 240 test -e "$BED_SHARE/reading"
settled
base=$(usage)
start=$(date +%s%N)
check revoke_dynamic dmabufctl revoke rw/x --deadline 1000
dynamic=$((($(date +%s%N) - start) / 1000000))
start=$(date +%s%N)
check revoke_static dmabufctl revoke frame/0 --deadline 500
static=$((($(date +%s%N) - start) / 1000000))
verdict revoke_in_time "dynamic $dynamic ms, static $static ms" [ $dynamic -lt 15000 -a $static -lt 15000 ]
refuse revoked_name_is_gone dmabufctl crc rw/x
check others_come fill 0
check slot_is_used_again dmabufctl alloc --heap camera --size 2M --fill d4d4d4d4 --name frame/after --keep
touch "$BED_SHARE/filled"
eventually 240 test -s "$BED_SHARE/after-crcs"
crcs="$(dmabufctl crc rw/after/0 | tail -n 1) $(dmabufctl crc frame/after | tail -n 1)"
verdict guest_reads_the_others "$crcs" [ "$crcs" = "$(cat "$BED_SHARE/after-crcs")" ]

step "a guest that doesn't let go"
eventually 240 test -e "$BED_SHARE/pinned"
dmabufctl revoke rw/pinned --deadline 400
check others_come_again fill 1
touch "$BED_SHARE/filled-again"
eventually 240 test -e "$BED_SHARE/done"

step "ten with no time"
count=0
for number in 0 1 2 3 4 5 6 7 8 9; do
	dmabufctl alloc --heap system --size 64K --fill e6 --name "rw/many/$number" --keep >/dev/null
	dmabufctl revoke "rw/many/$number" --deadline 0 | grep -q "is revoked$" && count=$((count + 1))
done
verdict revoked_without_time "$count" [ $count = 10 ]
for name in rw/after/0 rw/later/0 rw/after/1 rw/later/1 frame/after; do dmabufctl withdraw $name; done
verdict vm_lives "$BED_QEMU_PID" kill -0 "$BED_QEMU_PID"
verdict all_released "$(usage); before: $base" eventually 15 fewer
exit 0
