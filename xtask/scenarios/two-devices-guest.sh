# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# One guest with two devices: whose is what, and each goes away while the other one is used.
driver=/sys/bus/virtio/drivers/virtio_dmabuf
both='system virtio-system virtio1-system'
heaps() { echo $(ls /dev/dma_heap); }
name_is() { DMABUF_DEVICE=$1 guest-check info | grep "^name $2\$"; }
touch /share/up
eventually 60 test -e /share/counted
# In the order in which QEMU has them.
check node_of_first name_is /dev/virtio-dmabuf0 first
check node_of_second name_is /dev/virtio-dmabuf1 second
check windows sh -c 'guest-check info | grep "^windows "'
refuse second_may_not env DMABUF_DEVICE=/dev/virtio-dmabuf1 guest-check crc front/0
refuse second_may_not_write env DMABUF_DEVICE=/dev/virtio-dmabuf1 guest-check crc rw/first
check heap_names [ "$(heaps)" = "$both" ]
works() { heap-check cycles $1 65536 5 | grep '5 of 5: 0'; }
gone() { heap-check cycles $1 65536 5 | grep '1 of 5: ENODEV'; }
check first_heap works virtio-system
check second_heap works virtio1-system

no_handles() { DMABUF_DEVICE=$1 guest-check info | grep '^handles 0 '; }
mkfifo /tmp/ask /tmp/answer
# say WHAT: what the holder of a buffer from a heap meets, in $met.
say() {
	echo "$1" >&5
	read -r met <&6
}
# round NAME KEPT-NODE GONE-NODE GONE-NAME KEPT-HEAP GONE-HEAP: the host side holds buffers of the one, while the
# other one goes. Afterwards $node is the node of that.
round() {
	device=$(basename "$(readlink -f "/sys/class/virtio_dmabuf/${3#/dev/}/device")")
	eventually 10 no_handles "$2"
	DMABUF_DEVICE=$2 guest-check lockstep &
	lockstep=$!
	heap-check hold "$6" 65536 </tmp/ask >/tmp/answer &
	holder=$!
	exec 5>/tmp/ask 6</tmp/answer
	read -r met <&6
	touch "/share/$1.up"
	eventually 60 test -e "/share/$1.held"
	echo "$device" >$driver/unbind
	refuse "$1_node_gone" test -e "$3"
	check "$1_node_stays" test -e "$2"
	say read
	check "$1_revoked" [ "$met" = EFAULT ]
	check "$1_heap_gone" gone "$6"
	check "$1_heap_stays" works "$5"
	touch "/share/$1.unbound"
	exec 5>&- 6<&-
	wait $holder
	eventually 60 test -e "/share/$1.seen"
	# QEMU 11.1 crashes here if what was mapped at the unbind has been unmapped meanwhile: the other one keeps it.
	echo "$device" >$driver/bind
	touch "/share/$1.bound"
	wait $lockstep
	# What was closed a moment ago may still have its number.
	node=/dev/$(ls "/sys/bus/virtio/devices/$device/virtio_dmabuf")
	check "$1_back" name_is "$node" "$4"
	check "$1_heap_back" works "$6"
	check "$1_heap_names" [ "$(heaps)" = "$both" ]
}
round second_stays /dev/virtio-dmabuf1 /dev/virtio-dmabuf0 first virtio1-system virtio-system
first=$node
round first_stays "$first" /dev/virtio-dmabuf1 second virtio-system virtio1-system
second=$node
check first_no_handles eventually 10 no_handles "$first"
check second_no_handles eventually 10 no_handles "$second"
touch /share/done
exit 0
