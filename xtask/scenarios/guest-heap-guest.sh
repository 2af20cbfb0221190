# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The host's heap as a dma-heap of the guest: the kernel's own test of heaps, its contract, a camera of the guest.
heap=virtio-system
quota=$((48 << 20))
modprobe vgem
modprobe vivid n_devs=1
check heap_node test -c /dev/dma_heap/$heap
touch /share/up
eventually 60 test -e /share/counted

dmabuf-heap >/tmp/tap 2>&1
ended=$?
# Only what is said of our heap: the test does all that there are.
awk -v heap="$heap" '
	/Testing heap:/ { ours = $4 == heap; found = found || ours }
	ours && /^(not )?ok / {
		verdict = $1 == "ok" ? "pass" : "fail"
		print "check selftest_" ++count " " verdict " " $0
		passed += $1 == "ok"
	}
	END { print "check selftests " (count && passed == count ? "pass " : "fail ") passed + 0 " of " count + 0 }
' /tmp/tap
grep '^not ok' /tmp/tap
check selftests_all [ $ended = 0 ]
tail -n 1 /tmp/tap

# prints TEXT COMMAND...
prints() {
	text=$1
	shift
	"$@" >/tmp/printed 2>&1
	cat /tmp/printed
	[ "$(cat /tmp/printed)" = "$text" ]
}
for program in frame-crc frame_crc; do
	check "example_$program" prints "2097152 bytes, crc $(cat /share/crc)" $program frame/0
done
for program in heap-fill heap_fill; do
	check "example_$program" prints 'first byte 5a, last byte 5a' $program $heap 65536 5a
done
# at_most FAULTS COMMAND...: reading a whole buffer takes no more, where a huge page can be mapped.
at_most() {
	limit=$1
	shift
	faults=$("$@")
	echo "$faults"
	[ "${faults%% *}" -le "$limit" ]
}
check faults_2M_static at_most 1 guest-check faults frame/0
check faults_3M_heap at_most 5 heap-check faults $heap 3145728

heap-check contract $heap $quota
step "allocating 1000 times"
heap-check cycles $heap 65536 1000
step "done"

# vivid has one node for each direction.
node() { for name in /sys/class/video4linux/video*/name; do grep -q -- "$1\$" "$name" && basename "$(dirname "$name")"; done; }
mkfifo /tmp/end
heap-check capture $heap "/dev/$(node vid-cap)" "/dev/$(node vid-out)" guest/ </tmp/end >/tmp/capture &
exec 6>/tmp/end
eventually 60 grep -q '^picture guest/2 ' /tmp/capture
cp /tmp/capture /share/capture
grep '^check ' /tmp/capture
touch /share/captured
eventually 60 test -e /share/compared
exec 6>&-
wait
if [ "$BED" = flat ]; then
	# It takes dma-bufs from another V4L2 device only: heap-expbuf gives it our heap's instead.
	LD_PRELOAD=/usr/bin/heap-expbuf EXPBUF_HEAP=$heap v4l2-compliance -d "/dev/$(node vid-cap)" \
		-e "/dev/$(node vid-out)" -s 10 >/tmp/compliance 2>&1
	cp /tmp/compliance /share/
	grep 'DMABUF\|^Total\|fail' /tmp/compliance
	compliant() {
		grep -q 'test DMABUF (select): OK' /tmp/compliance && ! grep 'test DMABUF.*: FAIL' /tmp/compliance &&
			grep -c '^heap-expbuf' /tmp/compliance
	}
	check v4l2_compliance compliant
fi
no_handles() { guest-check info | grep '^handles 0 '; }
check no_handles eventually 10 no_handles
check no_mappings sh -c 'guest-check info | grep "^mappings 0 "'
rmmod virtio_dmabuf
gone() { heap-check cycles $heap 4096 1 | grep "0 of 1\|1 of 1: ENODEV"; }
check without_a_device gone
refuse names_stay rmmod virtio_dmabuf_heaps
insmod /lib/bed/virtio_dmabuf.ko
heap-check cycles $heap 65536 1 | sed 's/alloc_cycles/alloc_after_reload/'
check one_name [ "$(ls /dev/dma_heap)" = "$(printf 'system\n%s' $heap)" ]
touch /share/done
exit 0
