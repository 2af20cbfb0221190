# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The driver loaded and unloaded; then the daemon killed, and the device unplugged, each while a program has a buffer
# mapped and another one is in the middle of a request.
heap=virtio-system
rounds=50
works() { heap-check cycles $heap 4096 1 >/dev/null 2>&1; }
loads=0
while [ $loads -lt 200 ] && rmmod virtio_dmabuf && insmod /lib/bed/virtio_dmabuf.ko && works; do
	loads=$((loads + 1))
done
step "the driver was loaded $loads times"
if [ $loads = 200 ]; then echo "check load_cycles pass $loads"; else echo "check load_cycles fail $loads"; fi
# A daemon that is gone shall be noticed soon.
echo 500 >/sys/module/virtio_dmabuf/parameters/request_timeout_ms

mkfifo /tmp/ask /tmp/answer
# The PCI device: it goes when the driver has let go of it.
slot=$(readlink -f /sys/bus/virtio/drivers/virtio_dmabuf/virtio*/..)
unplugged() { [ ! -e "$slot" ]; }
holder= busy=
trap 'kill $holder $busy 2>/dev/null' EXIT
# say WHAT WANTED: what the holder meets.
say() {
	echo "$1" >&5
	read -r met <&6 || met=nothing
	[ "$met" = "$2" ] || { echo "$how $round: $1: $met, not $2"; return 1; }
}
one() {
	eventually 20 works || { echo "$how $round: the heap does not work"; return 1; }
	heap-check hold $heap 1048576 </tmp/ask >/tmp/answer &
	holder=$!
	exec 5>/tmp/ask 6</tmp/answer
	read -r met <&6
	heap-check cycles $heap 65536 1000000 >/dev/null 2>&1 &
	busy=$!
	touch "/share/$how.$round"
	eventually 30 unplugged || { echo "$how $round: not unplugged"; return 1; }
	say read EFAULT && say sync EIO && say alloc ENODEV
	right=$?
	exec 5>&- 6<&-
	wait $busy $holder
	holder= busy=
	touch "/share/$how.$round.over"
	return $right
}
for how in killed unplugged; do
	round=0
	while [ $round -lt $rounds ] && one; do round=$((round + 1)); done
	if [ $round = $rounds ]; then echo "check $how pass $round"; else echo "check $how fail $round"; exit 1; fi
done
check works_after eventually 20 works
check one_name [ "$(ls /dev/dma_heap)" = "$(printf 'system\n%s' $heap)" ]
no_handles() { guest-check info | grep '^handles 0 '; }
check no_handles eventually 10 no_handles
touch /share/done
exit 0
