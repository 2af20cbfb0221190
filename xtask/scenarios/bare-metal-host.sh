# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# A guest without an operating system (guest/payload) beside the bed's own: what it reads, and what it can't write.
eventually 60 published frame/3
dmabufctl alloc --heap system --size 64K --fill 5a --name bare/x --keep

io=${BED_MODULES%/modules}
case $BED in
flat) machine="--accel tcg --qemu $io/bin/qemu-from-tree" ;;
*) machine="--accel kvm" ;;
esac
said=$BED_RUN/bare-metal.out
now_ms() { echo $(($(date +%s%N) / 1000000)); }

# boot COMMANDS [WINDOW...]: boots the payload with these. Its lines are in $said, each behind the milliseconds since
# QEMU's start, and at the end QEMU's status. WINDOW: QEMU's arguments for another static window than the pool's.
boot() {
	start=$(now_ms)
	commands=$1
	shift
	if [ $# = 0 ]; then pool="--pool /run/dmabuf/camera.pool"; else pool=; fi
	{
		timeout 60 "$io/qemu/run-vm.sh" $machine --memory 64M --cpus 1 --socket /run/dmabuf/bare.sock \
			$pool -- -nodefaults -display none -no-reboot -bios qboot.rom -kernel "$io/bin/bare-metal" \
			-append "$commands" -serial stdio -device isa-debug-exit,iobase=0xf4,iosize=4 "$@" \
			2>>"$BED_RUN/log/bare-metal-qemu.log"
		echo "status $?"
	} | while IFS= read -r line; do echo "$(($(now_ms) - start)) $line"; done >"$said"
	sed 's/^/bare-metal: /' "$said"
}
# says TEXT: the payload has printed this line.
says() { grep -q "^[0-9]* $1\$" "$said"; }
done_well() { says 'status 33'; }
crc() { dmabufctl crc "$1" | tail -n 1; }

step "reading"
boot 'info; list; wait frame/0; crc frame/0; crc frame/3; info'
verdict payload_done "$(tail -n 1 "$said")" done_well
verdict recognised "" says 'info bare 0 0'
verdict list "" [ "$(grep -c ' buffer frame/[0-3] 2097152 ro$' "$said")" = 4 ]
verdict no_fences "" says 'waited frame/0 0'
verdict crc_equal "$(crc frame/0)" says "crc frame/0 $(crc frame/0)"
verdict other_crc_equal "$(crc frame/3)" says "crc frame/3 $(crc frame/3)"
verdict crcs_differ "" [ "$(crc frame/0)" != "$(crc frame/3)" ]

step "from QEMU's start until the CRC is printed, three times"
fastest=
for boot in 1 2 3; do
	boot 'crc frame/0'
	time=$(sed -n 's/ crc frame.*//p' "$said")
	if [ -n "$time" ] && { [ -z "$fastest" ] || [ "$time" -lt "$fastest" ]; }; then fastest=$time; fi
done
verdict boots_within_a_second "$fastest ms" [ "${fastest:-1000}" -lt 1000 ]

step "writing to what it may only read"
before=$(crc frame/1)
boot 'refused frame/1; attack frame/1; crc frame/1'
verdict attack_done "$(tail -n 1 "$said")" done_well
verdict write_access_refused "" says 'refused frame/1 EACCES'
verdict guest_sees_no_change "" says 'attacked frame/1 unchanged'
verdict host_bytes_unchanged "$before" [ "$(crc frame/1)" = "$before" ]

step "the same attack on a window that can be written: it has to be seen"
copy=$BED_RUN/copy.pool
cat /run/dmabuf/camera.pool >"$copy"
boot 'attack frame/1' \
	-object "memory-backend-file,id=copy,mem-path=$copy,share=on,size=$(stat -c %s "$copy")" -device ivshmem-plain,memdev=copy
verdict attack_is_real "" says 'attacked frame/1 changed'
refuse copy_changed cmp -s "$copy" /run/dmabuf/camera.pool

step "writing to what it may write"
before=$(crc bare/x)
boot 'fill bare/x c3; info'
after=$(crc bare/x)
verdict dynamic_window "$after" says "filled bare/x $after"
verdict host_sees_write "$before, then $after" [ "$after" != "$before" ]
verdict all_given_back "" says 'info bare 0 0'

step "a buffer of its own"
boot 'make system bare/made'
verdict made_done "$(tail -n 1 "$said")" done_well
verdict made_is_published "$(crc bare/made)" says "made bare/made $(crc bare/made)"

step "events"
boot 'events 2' &
if eventually 30 says listening; then
	dmabufctl alloc --heap system --size 64K --fill 11 --name bare/y --keep
	dmabufctl withdraw bare/y
fi
wait $!
verdict events "$(tail -n 1 "$said")" done_well
verdict event_added "" says 'added bare/y'
verdict event_withdrawn "" says 'withdrawn bare/y'
exit 0
