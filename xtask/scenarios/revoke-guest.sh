# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Reads buffers while the host takes them away; first as it should be, then with a device that doesn't let go and a kernel
# that looks at the window by itself.
there() { guest-check open "$1" "$2" >/dev/null 2>&1; }
eventually 60 there frame/0 ro
guest-check revoked rw/x a1a1a1a1 frame/0 b2b2b2b2 /share/reading /share/filled >/tmp/revoked 2>&1 &
reader=$!
eventually 240 test -e /share/filled
# In the same place, were it free.
echo "$(guest-check crc rw/after/0) $(guest-check crc frame/after)" >/tmp/crcs
wait $reader
grep '^check ' /tmp/revoked || cat /tmp/revoked
no_handles() { guest-check info | grep '^handles 0 '; }
check given_back eventually 10 no_handles
cp /tmp/crcs /share/after-crcs

modprobe vivid n_devs=1
node() { for name in /sys/class/video4linux/video*/name; do grep -q -- "$1\$" "$name" && basename "$(dirname "$name")"; done; }
mkfifo /tmp/end /tmp/keep
heap-check pin "/dev/$(node vid-cap)" rw/pinned </tmp/end >/tmp/pin 2>&1 &
exec 6>/tmp/end
check device_has_it eventually 20 grep -q pinned /tmp/pin
# peek FIRST-BYTE PAGES: $found is the first byte of the pinned buffer's, then the counts of words: its, 0, ffffffff, others.
peek() {
	insmod /lib/bed/attack_window.ko method=peek device=0x1065 bar=4 first=$1 pages=$2 want=$((0xa7a7a7a7)) 2>/dev/null
	set -- $(dmesg | sed -n 's/.*attack_window: peeked: //p' | tail -n 1) 0 0 0 0 0
	found=$1 its=$2 zeroes=$3 ones=$4 others=$5
	counts="$its of the buffer, $zeroes zero, $ones all ones, $others others"
}
peek 0 2048
at=$found
if [ "$its" = 256 ]; then echo "check peek_sees_it pass $counts"; else echo "check peek_sees_it fail $counts"; fi
touch /share/pinned
eventually 60 test -e /share/filled-again
for name in rw/after/1 rw/later/1; do guest-check keep $name rw </tmp/keep >>/tmp/kept & done
exec 7>/tmp/keep
kept() { [ "$(wc -l </tmp/kept)" = 2 ]; }
check others_mapped eventually 20 kept
peek $at 256
if [ "$its" = 0 ] && [ "$others" = 0 ]; then echo "check range_kept pass $counts"; else echo "check range_kept fail $counts"; fi
exec 6>&- 7>&-
wait
check all_given_back eventually 10 no_handles
check no_mappings sh -c 'guest-check info | grep "^mappings 0 "'
touch /share/done
exit 0
