#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# /init of the guest: brings up what a test needs, then does as it is told on the port bed.status:
#   guest -> bed:  note TEXT | init (what comes now is this project's doing) | up | status N
#   bed -> guest:  run (the command in /etc/bed/run) | shell (a script on bed.in) | console (on hvc0) | end
/bin/busybox mkdir -p /bin /sbin /usr/bin /usr/sbin /proc /sys /dev /run /tmp /root /share /files
/bin/busybox --install -s
export PATH=/files:/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin HOME=/root TERM=linux
export BED BED_SHARE=/share
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /dev/virtio-ports
mount -t devpts devpts /dev/pts; mount -t tmpfs shm /dev/shm; mount -t tmpfs run /run; mount -t tmpfs tmp /tmp
mount -t debugfs debug /sys/kernel/debug
# The bed takes a console that is silent for long for a dead kernel.
echo "bed: init runs" >/dev/ttyS0
hostname guest
ip link set lo up 2>/dev/null

# The ports come up one message at a time after the console driver has bound, and a busybox shell has no
# event to wait for: look again until the last one has its name, for 10 s at most.
find_ports() {
	for port in /sys/class/virtio-ports/*; do
		name=$(cat "$port/name" 2>/dev/null)
		[ -n "$name" ] && ln -sf "../${port##*/}" "/dev/virtio-ports/$name"
	done
	for name in status link in out err; do [ -e "/dev/virtio-ports/bed.$name" ] || return 1; done
}
tries=0
until find_ports; do
	tries=$((tries + 1))
	if [ $tries -gt 500 ]; then echo "bed: the virtio-serial ports did not come up" >/dev/ttyS0; poweroff -f; fi
	usleep 20000
done
exec 3<>/dev/virtio-ports/bed.status

say() { echo "$*" >&3; }
modprobe -a 9pnet_virtio 9p || say "note modprobe 9p failed"
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 share /share || say "note mounting /share failed"
say init
if [ "$BED" = nested ] && [ -e /lib/bed/exit_before_notify.ko ]; then
	error=$(insmod /lib/bed/exit_before_notify.ko 2>&1) || say "note insmod exit_before_notify.ko failed: $error"
fi
if [ ! -e /lib/bed/virtio_dmabuf.ko ]; then
	say "note the guest driver is not built: no virtio_dmabuf.ko, going on without it"
elif ! error=$(insmod /lib/bed/virtio_dmabuf_heaps.ko 2>&1 && insmod /lib/bed/virtio_dmabuf.ko 2>&1); then
	say "note insmod virtio_dmabuf.ko failed: $error"
fi
say up

while read -r order <&3; do
	case $order in
	run) sh -c "$(cat /etc/bed/run)" </dev/null >/dev/virtio-ports/bed.out 2>/dev/virtio-ports/bed.err 3>&- ;;
	shell) sh </dev/virtio-ports/bed.in >/dev/virtio-ports/bed.out 2>/dev/virtio-ports/bed.err 3>&- ;;
	console\ *)
		stty -F /dev/hvc0 ${order#console } 2>/dev/null
		PS1='guest# ' setsid -c sh </dev/hvc0 >/dev/hvc0 2>&1 3>&- ;;
	end) break ;;
	*) say "note unknown order $order"; continue ;;
	esac
	status=$?
	# What ran can have taken the console's driver away for a while: then there are other ports of the same names.
	say "status $status" 2>/dev/null || { exec 3<>/dev/virtio-ports/bed.status && say "status $status"; }
done
poweroff -f
