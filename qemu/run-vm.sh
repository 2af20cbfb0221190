#!/bin/bash
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#
# Starts a VM beside a running vhost-device-dmabuf. It needs QEMU 11.1 or newer.
#
#   qemu/run-vm.sh --socket /run/dmabuf/vm.sock --pool /run/dmabuf/camera.pool -- \
#       -drive file=my.qcow2,if=virtio -nographic
#
# What a VM needs, and all that this script adds to your own arguments:
#   - its memory shared, as a memfd unless --mem-path is given, so that the daemon can reach the virtqueues;
#   - one vhost-user device with the virtio id 37 (dmabuf): three queues, 64 bytes of config space.
#     vq_size is how many requests, and so waits for fences, the guest can have open at once. With
#     --hotplug it is on a root port of its own, where it can be unplugged (device_del dmabuf): QEMU's
#     root bus has no such slots, and a guest that configures no bridges needs the root bus;
#   - for each static pool one ivshmem-plain device over a read-only memory backend. LINK is the
#     pool's `link` in the daemon's configuration; the daemon has to be up before this script runs.
set -euo pipefail

usage() {
	cat <<-'EOF'
	usage: run-vm.sh [--socket SOCKET] [--pool LINK]... [options] [-- QEMU-ARGUMENT...]
	  --socket SOCKET   the VM's vhost-user socket (`socket-path` of its [[vm]]); without it the VM has no dmabuf device,
                    and with several of them several devices
	  --pool LINK       map this static pool read-only (repeat for more pools)
	  --hotplug         put the dmabuf device where it can be unplugged
	  --accel kvm|tcg   how to run the CPUs (default: kvm if /dev/kvm can be opened, else tcg)
	  --memory SIZE     the VM's memory (default 1G)
	  --mem-path DIR    keep it in a file under DIR instead of a memfd, for huge pages: a tmpfs mounted with huge=always
	  --cpus N          the number of CPUs (default 2)
	  --qemu BIN        the QEMU to run (default qemu-system-x86_64)
	EOF
}
die() { echo "run-vm.sh: $*" >&2; exit 2; }

sockets=() hotplug='' pools=() accel='' memory=1G mem_path='' cpus=2 qemu=qemu-system-x86_64
while (($#)); do
	case $1 in
	-h | --help) usage; exit 0 ;;
	--) shift; break ;;
	--hotplug) hotplug=yes; shift ;;
	--socket | --pool | --accel | --memory | --mem-path | --cpus | --qemu)
		(($# >= 2)) || die "$1 needs a value"
		case $1 in
		--socket) sockets+=("$2") ;;
		--pool) pools+=("$2") ;;
		--accel) accel=$2 ;;
		--memory) memory=$2 ;;
		--mem-path) mem_path=$2 ;;
		--cpus) cpus=$2 ;;
		--qemu) qemu=$2 ;;
		esac
		shift 2
		;;
	*) usage >&2; die "unknown argument $1 (QEMU's own arguments go after --)" ;;
	esac
done

if [[ -z $accel ]]; then
	accel=tcg
	if (: <>/dev/kvm) 2>/dev/null; then accel=kvm; fi
fi
case $accel in
kvm) cpu=host ;;
tcg) cpu=max,la57=off accel=tcg,thread=multi ;;
*) die "--accel $accel: expected kvm or tcg" ;;
esac

# A memfd is mapped wherever there is room; for huge pages, the address has to be a multiple of their size.
ram="memory-backend-memfd,id=ram,size=$memory,share=on"
if [[ -n $mem_path ]]; then ram="memory-backend-file,id=ram,size=$memory,share=on,mem-path=$mem_path,align=2M"; fi
arguments=(
	-machine "q35,memory-backend=ram" -accel "$accel" -cpu "$cpu" -smp "$cpus" -m "$memory"
	-object "$ram"
)
number=
for socket in "${sockets[@]}"; do
	[[ -S $socket ]] || die "$socket is no socket: start vhost-device-dmabuf first, and give the socket-path of this VM"
	bus=
	if [[ -n $hotplug ]]; then
		bus=",bus=dmabuf-port$number"
		arguments+=(-device "pcie-root-port,id=dmabuf-port$number,chassis=$((37 + number))")
	fi
	arguments+=(
		-chardev "socket,id=dmabuf$number,path=$socket"
		-device "vhost-user-test-device-pci,virtio-id=37,num_vqs=3,vq_size=1024,config_size=64,chardev=dmabuf$number,id=dmabuf$number$bus"
	)
	number=$((number + 1))
done
number=0
for pool in "${pools[@]}"; do
	size=$(stat -L -c %s -- "$pool") ||
		die "$pool can't be read: start vhost-device-dmabuf first, and give the link of a pool"
	((size > 0 && (size & (size - 1)) == 0)) ||
		die "$pool has $size bytes: a PCI BAR, and so a pool, must be a power of two"
	arguments+=(
		-object "memory-backend-file,id=pool$number,mem-path=$pool,share=on,readonly=on,size=$size"
		-device "ivshmem-plain,memdev=pool$number"
	)
	number=$((number + 1))
done

exec "$qemu" "${arguments[@]}" "$@"
