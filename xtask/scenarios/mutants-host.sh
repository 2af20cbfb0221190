# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Every program here lacks one protection; its lines say which: "mutant NAME LINE".
cd "$BED_RUN"
attack="--attack $(command -v host-attack)"
vmm=/run/dmabuf/vmm.sock
daemon=$BED_DAEMON_PID
kill -KILL "$BED_QEMU_PID"

restart() {
	kill "$daemon"
	eventually 20 sh -c "! kill -0 $daemon 2>/dev/null"
	"$1" --config "$BED_CONFIG" >>"$BED_LOG" 2>&1 &
	daemon=$!
	eventually 20 dmabufctl list >/dev/null 2>&1
	dmabufctl alloc --heap pool --size 1M --name sealed/1 --keep >/dev/null
	dmabufctl alloc --heap system --size 128K --name vmm/0 --keep >/dev/null
	dmabufctl alloc --heap system --size 128K --name derived/0 --keep >/dev/null
}
sealed() { kvm-front-end vm --socket $vmm --route sealed --name sealed/1 $attack; }
client() { kvm-front-end client --route sealed --name sealed/1 $attack; }
guest() { kvm-front-end vm --socket $vmm --route vmm --name vmm/0; }
ignored() {
	kvm-front-end vm --socket $vmm --route vmm-ignored --name vmm/0 --ignore-read-only --expect-refused
}
# The file of any other derived alias is read-only, and that alone keeps the kernel from making a mapping writable.
fail_stop() {
	kvm-front-end vm --socket /run/dmabuf/fail-stop.sock --route fail-stop --name derived/0 --ignore-read-only $attack
}

# try MUTANT ATTACK
try() { "$2" 2>&1 | sed "s|^|mutant $1 |"; }

for pair in none:sealed no_future_write_seal:sealed none:client dma_buf_to_clients:client none:ignored \
	no_probe:ignored none:guest always_asks_writable:guest; do
	mutant=${pair%:*}
	step "$mutant"
	case $mutant in
	none) restart vhost-device-dmabuf ;;
	*) restart "mutant-$mutant" ;;
	esac
	try "$mutant" "${pair#*:}"
done
step module_keeps_maywrite
insmod "$BED_MODULES/mutant_maywrite.ko"
restart vhost-device-dmabuf
try module_keeps_maywrite fail_stop
kill "$daemon"
exit 0
