# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The guest's side: who holds the buffers is driven by the host side; the driver is moved here.
driver=/sys/bus/virtio/drivers/virtio_dmabuf
exec 5<>/dev/virtio-dmabuf0
refuse rmmod_while_node_open rmmod virtio_dmabuf
exec 5>&-
guest-check lockstep &
touch /share/up
eventually 60 test -e /share/opened
refuse rmmod_while_buffers_open rmmod virtio_dmabuf
device=$(basename "$(ls -d $driver/virtio*)")
move() { echo "$device" >"$driver/$1"; }
check unbind move unbind
touch /share/unbound
eventually 60 test -e /share/closed
wait
check bind move bind
reads() { [ "$(guest-check crc frame/0)" = "$(cat /share/crc)" ]; }
check reads_after_bind reads
cycles=0
while [ $cycles -lt 20 ] && rmmod virtio_dmabuf && insmod /lib/bed/virtio_dmabuf.ko && reads; do
	cycles=$((cycles + 1))
done
if [ $cycles = 20 ]; then echo "check load_cycles pass $cycles"; else echo "check load_cycles fail $cycles"; fi
no_handles() { guest-check info | grep '^handles 0 '; }
check no_handles eventually 10 no_handles
touch /share/done
exit 0
