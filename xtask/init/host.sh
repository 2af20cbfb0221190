#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# /init of the host VM: the Debian tree (read-only, 9p) under an overlay becomes the root, the run
# directory (9p) appears at /run/bed-io, and the agent in it does the rest.
/bin/busybox mkdir -p /bin /proc /sys /dev /lower /over /new
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
echo "bed: init runs"
echo madvise >/sys/kernel/mm/transparent_hugepage/enabled
for module in $(cat /modules/order); do
	options=
	[ "$module" = vivid.ko ] && options=n_devs=1
	insmod "/modules/$module" $options || echo "bed: insmod $module failed"
done
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro tree /lower
mount -t tmpfs over /over; mkdir /over/upper /over/work
mount -t overlay -o lowerdir=/lower,upperdir=/over/upper,workdir=/over/work root /new
mkdir -p /dev/pts /dev/shm /dev/virtio-ports
mount -t devpts devpts /dev/pts
# The guests' memory, in huge pages: each page that they touch for the first time is an exit, and so is each that they touch
# again after a MAP or UNMAP (KVM forgets all of them when a memory slot goes). Exits are dear here.
mount -t tmpfs -o size=100%,huge=always shm /dev/shm
for directory in proc sys dev; do mount --move /$directory /new/$directory; done
mount -t debugfs debug /new/sys/kernel/debug
mount -t tmpfs run /new/run; mount -t tmpfs tmp /new/tmp
mkdir -p /new/run/bed-io
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 run /new/run/bed-io

# The control port gets its name a moment after its driver has bound; there is no event to wait for here.
tries=0
until [ -e /new/dev/virtio-ports/bed.control ]; do
	for port in /new/sys/class/virtio-ports/*; do
		name=$(cat "$port/name" 2>/dev/null)
		[ -n "$name" ] && ln -sf "../${port##*/}" "/new/dev/virtio-ports/$name"
	done
	tries=$((tries + 1))
	if [ $tries -gt 500 ]; then echo "bed: the control port did not come up"; poweroff -f; fi
	usleep 20000
done
ln -s /run/bed-io/files /new/files
hostname host
ip link set lo up 2>/dev/null
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=linux
chroot /new /run/bed-io/bin/xtask agent --control /dev/virtio-ports/bed.control || echo "bed: the agent failed: $?"
poweroff -f
