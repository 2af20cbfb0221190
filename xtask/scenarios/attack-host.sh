# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The host side of the attacks: the judge of the guest's; a VMM, and host processes, on every route.
cd "$BED_RUN"
attack="--attack $(command -v host-attack)"
vmm=/run/dmabuf/vmm.sock

make_buffers() {
	for buffer in "$@"; do
		case $buffer in sealed/*) heap=pool size=1M ;; *) heap=system size=128K ;; esac
		dmabufctl alloc --heap $heap --size $size --name "$buffer" --fill 5a --keep >/dev/null
	done
}
crc() { dmabufctl crc "$1" | tail -n 1; }

step "stock QEMU, a static window on a sealed pool: the guest attacks"
check buffers make_buffers sealed/0 sealed/1 vmm/0 rw/0
before=$(crc sealed/0)
touch "$BED_SHARE/go"
eventually 240 test -s "$BED_SHARE/guest-crc"
after=$(crc sealed/0)
check sealed-static/host_bytes_unchanged test "$before" = "$after"
check sealed-static/guest_reads_the_same test "$after" = "$(cat "$BED_SHARE/guest-crc")"
check sealed-static/vm_goes_on kill -0 "$BED_QEMU_PID"

step "stock QEMU's process, with the link of the pool"
kvm-front-end pool --link /run/dmabuf/pool.link --route sealed-static --name sealed/1 $attack

step "a front-end with KVM that honours read-only: read-write, sealed, and where only the VMM enforces"
kvm-front-end vm --socket $vmm --route read-write --name rw/0 --access rw
kvm-front-end vm --socket $vmm --route sealed --name sealed/1 $attack
kvm-front-end client --route sealed --name sealed/1 $attack
kvm-front-end vm --socket $vmm --route vmm --name vmm/0 $attack
kvm-front-end client --route vmm --name vmm/0 $attack

step "a front-end that maps everything writable: refused"
kvm-front-end vm --socket $vmm --route vmm-ignored --name vmm/0 --ignore-read-only --expect-refused
kvm-front-end vm --socket $vmm --route sealed-ignored --name sealed/1 --ignore-read-only --expect-refused

step "the host module: aliases of any dma-buf"
kill -KILL "$BED_QEMU_PID"
kill "$BED_DAEMON_PID"
eventually 10 sh -c '! kill -0 "$BED_DAEMON_PID" 2>/dev/null'
check module_loads insmod "$BED_MODULES/dmabuf_derive.ko" || exit 0
vhost-device-dmabuf --config "$BED_CONFIG" >>"$BED_LOG" 2>&1 &
daemon=$!
eventually 20 dmabufctl list >/dev/null 2>&1
check buffers_again make_buffers derived/0
kvm-front-end vm --socket $vmm --route derived --name derived/0 $attack
kvm-front-end client --route derived --name derived/0 $attack
kvm-front-end vm --socket $vmm --route derived-ignored --name derived/0 --ignore-read-only --expect-refused

step "the same with fail-stop, on a front-end that maps everything writable"
kvm-front-end vm --socket /run/dmabuf/fail-stop.sock --route fail-stop --name derived/0 --ignore-read-only $attack

step "the same with stock QEMU: a guest's write stops it"
before=$(crc derived/0)
rm -f "$BED_SHARE"/fail-stop-*
# What the guest says after its write must never come.
xtask guest --vm guest --timeout 45 --run '
	host-attack guest derived/0 fail-stop | sed "s/ guest / guest-process /" >/share/fail-stop-attacks
	guest-check crc derived/0 | tail -n 1 >/share/fail-stop-crc
	sync
	host-attack hold derived/0 "insmod /lib/bed/attack_window.ko method=memremap device=0x1065 bar=4 pages=1"
	dmesg | grep attack_window >/share/fail-stop-survived
' 2>&1 | tail -n 4
cat "$BED_SHARE/fail-stop-attacks"
after=$(crc derived/0)
check fail-stop/qemu_guest_reads test "$before" = "$(cat "$BED_SHARE/fail-stop-crc")"
check fail-stop/qemu_guest_write_stops_it sh -c '! cat "$BED_SHARE/fail-stop-survived" 2>/dev/null'
check fail-stop/host_bytes_unchanged test "$before" = "$after"
check module_is_held sh -c '! rmmod dmabuf_derive 2>/dev/null'
dmesg | grep -E 'WARNING|BUG:|Oops|KASAN' && check host_kernel_clean false || check host_kernel_clean true
kill $daemon
exit 0
