# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The driver under the distribution's own, older kernel, which lets no module add dma-heaps.
is_older() { uname -r | grep '^6\.12\.'; }
check older_kernel is_older
check list guest-check list
said() { dmesg | grep -o 'no dma-heaps: this kernel exports no dma_heap_add()'; }
check says_no_heaps said
check no_heaps [ "$(ls /dev/dma_heap)" = system ]
guest-check negative
guest-check attack frame/0
guest-check lockstep &
touch /share/up
eventually 60 test -e /share/opened
refuse rmmod_while_buffers_open rmmod virtio_dmabuf
device=$(basename "$(ls -d /sys/bus/virtio/drivers/virtio_dmabuf/virtio*)")
unbind() { echo "$device" >/sys/bus/virtio/drivers/virtio_dmabuf/unbind; }
check unbind unbind
touch /share/unbound
wait
cycles=0
while [ $cycles -lt 20 ] && rmmod virtio_dmabuf && insmod /lib/bed/virtio_dmabuf.ko &&
	[ "$(guest-check crc frame/0)" = "$(cat /share/crc)" ]; do
	cycles=$((cycles + 1))
done
if [ $cycles = 20 ]; then echo "check load_cycles pass $cycles"; else echo "check load_cycles fail $cycles"; fi
no_handles() { guest-check info | grep '^handles 0 '; }
check no_handles eventually 10 no_handles
touch /share/done
exit 0
