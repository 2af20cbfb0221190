# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The daemon killed under its guest, and the device unplugged, again and again.
rounds=50
number=0
device=vhost-user-test-device-pci,virtio-id=37,num_vqs=3,vq_size=1024,config_size=64,id=dmabuf,bus=dmabuf-port
chardev=dmabuf
idle=
monitor() { xtask monitor "$BED_RUN/link.monitor" "$@"; }
plug() {
	number=$((number + 1))
	chardev=plug$number
	monitor "chardev-add socket,id=$chardev,path=/run/dmabuf/cluster.sock" && monitor "device_add $device,chardev=$chardev"
}
unplug() { monitor "device_del dmabuf" --deleted dmabuf && monitor "chardev-remove $chardev"; }
dead() { ! kill -0 "$BED_DAEMON_PID" 2>/dev/null; }
start() {
	vhost-device-dmabuf --config "$BED_CONFIG" >>log/daemons.log 2>&1 &
	BED_DAEMON_PID=$!
	eventually 20 dmabufctl list >/dev/null 2>&1
}
killed() {
	kill -KILL "$BED_DAEMON_PID"
	eventually 20 dead
	unplug && start || return
	# What the last one has without a VM.
	[ $round -lt $((rounds - 1)) ] || { settled && idle=$(usage); }
}
unplugged() { unplug && eventually 20 usage_is "$idle"; }
for how in killed unplugged; do
	round=0
	while [ $round -lt $rounds ]; do
		eventually 240 test -e "$BED_SHARE/$how.$round" && $how || break
		eventually 30 test -e "$BED_SHARE/$how.$round.over" && plug || break
		round=$((round + 1))
	done
	verdict "host_$how" "$round" [ $round = $rounds ]
	[ $round = $rounds ] || exit 1
done
eventually 60 test -e "$BED_SHARE/done"
verdict vm_lives "$BED_QEMU_PID" kill -0 "$BED_QEMU_PID"
unplug
verdict all_released "$(usage); without a VM: $idle" eventually 15 usage_is "$idle"
exit 0
