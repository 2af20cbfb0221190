# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The guest is suspended while programs have buffers of both windows, one of the heap and a frame, wait for others, and
# allocate: at each of the kernel's levels of a test, as for hibernation, and for real (S3), woken by the host side.
heap=virtio-system
console=/sys/bus/virtio/drivers/virtio_console
touch /share/up
eventually 60 test -e /share/counted
{ read -r frame_crc; read -r plain_crc; } </share/crcs
echo 0 >/sys/module/suspend/parameters/pm_test_delay
check can_sleep grep '\[deep\]' /sys/power/mem_sleep

# ask COMMAND...: what the lockstep meets, in $answer. try WHAT: what the holder of the heap's buffer does, in $met.
ask() {
	echo "$*" >&5
	read -r answer <&6
}
try() {
	echo "$1" >&7
	read -r met <&8
}
wrong() {
	echo "$level $round: $*"
	return 1
}
asked() {
	wanted=$1
	shift
	ask "$@"
	[ "$answer" = "$wanted" ] || wrong "$*: $answer, not $wanted"
}
tried() {
	try "$1"
	[ "$met" = "$2" ] || wrong "the heap's buffer: $1: $met, not $2"
}
opened() {
	ask open "$1" "$2"
	id=${answer#ok } id=${id%% *}
	[ "${answer%% *}" = ok ] || wrong "open $1: $answer"
}
waiting() { grep -q '^blocked' /tmp/waiters && ! grep -q '^ended' /tmp/waiters; }
ended() { grep -q '^ended' /tmp/waiters; }
listed() {
	ask list
	case $answer in ok\ *frame/0:*:ro*) ;; *) wrong "list: $answer" ;; esac
}
both_read() { asked "ok $frame_crc" crc "$frame" && asked "ok $plain_crc" crc "$plain"; }

# Everything that a session can have.
begin() {
	listed && opened frame/0 ro && frame=$id && opened rw/0 rw && plain=$id && both_read || return 1
	asked ok stream live && ask frame && [ "${answer%% *}" = ok ] || { wrong "frame: $answer"; return 1; }
	heap-check hold $heap 1048576 </tmp/try >/tmp/met &
	holder=$!
	exec 7>/tmp/try 8</tmp/met
	read -r met <&8
	[ "$met" = held ] && tried read 0 || { wrong "hold: $met"; return 1; }
	: >/tmp/waiters
	guest-check stream-blocked </tmp/again >/tmp/waiters 2>&1 &
	waiters=$!
	exec 9>/tmp/again
	eventually 20 waiting || { wrong "nobody waits: $(cat /tmp/waiters)"; return 1; }
	dd if=/dev/virtio-dmabuf0 of=/dev/null bs=96 count=1 2>/tmp/reader &
	reader=$!
	eventually 20 grep -q vdmabuf_ "/proc/$reader/stack" || { wrong "the reader does not wait: $(cat /tmp/reader)"; return 1; }
}
# Nothing but its end is left of it; who waited has been told.
over() {
	eventually 20 ended || { wrong "they wait on: $(cat /tmp/waiters)"; return 1; }
	echo >&9
	wait $waiters || { wrong "who waited: $(cat /tmp/waiters)"; return 1; }
	wait $reader
	grep -q 'Stale file handle' /tmp/reader || { wrong "the reader: $(cat /tmp/reader)"; return 1; }
	for id in $frame $plain; do
		asked "err EFAULT" read "$id" 0 && asked "err EIO" crc "$id" && asked ok close "$id" || return 1
	done
	tried read EFAULT && tried sync EIO && tried alloc 0 || return 1
	asked "err EIO" frame_release && asked "err EIO" frame && asked ok stream_close || return 1
	exec 7>&- 8<&- 9>&-
	wait $holder
}
# No device was asked: the session goes on.
same() {
	waiting && [ ! -s /tmp/reader ] && both_read && tried read 0 && tried sync 0 &&
		asked ok frame_release && ask frame && [ "${answer%% *}" = ok ] || wrong "not as before: $answer $met"
}
# The firmware that wakes it does not set up the bridge again: without power management it could neither sleep once more
# nor power off.
bridge=/sys/bus/pci/devices/0000:00:1f.0/config
slept() {
	echo "$level" >/sys/power/pm_test && echo "$1" >/sys/power/state || { wrong "not suspended"; return 1; }
	[ "$level" != none ] || dd if=/tmp/bridge of=$bridge bs=4 seek=16 2>/dev/null
	if [ "$level" = freezer ]; then same; else over && begin; fi
}
# rounds NAME LEVEL COUNT STATE
rounds() {
	level=$2 round=0
	while [ $round -lt "$3" ] && slept "$4"; do round=$((round + 1)); done
	if [ $round = "$3" ]; then echo "check $1 pass $round"; else echo "check $1 fail $round"; fi
	[ $round = "$3" ]
}
all() {
	level=first round=0
	begin && rounds freezer freezer 5 mem && rounds devices devices 15 mem && rounds platform platform 3 mem &&
		rounds processors processors 3 mem && rounds core core 3 mem && rounds hibernation devices 1 disk &&
		rounds sleeps none 3 mem
}

mkfifo /tmp/ask /tmp/answer /tmp/try /tmp/met /tmp/again /tmp/told
guest-check lockstep - </tmp/ask >/tmp/answer &
exec 5>/tmp/ask 6</tmp/answer
read -r answer <&6
while :; do heap-check cycles $heap 65536 100 >/dev/null 2>&1; done &
busy=$!

# The bed's own devices are away meanwhile: neither 9p nor, in this kernel, the console's ports go on after a suspend.
umount /share && rmmod 9p 9pnet_virtio
port=$(basename "$(ls -d $console/virtio*)")
echo "$port" >$console/unbind
dd if=$bridge of=/tmp/bridge bs=4 skip=16 2>/dev/null
tee /tmp/found </tmp/told >/dev/ttyS0 &
log=$!
holder= waiters= reader=
all >/tmp/told 2>&1
kill $busy $holder $waiters $reader 2>/dev/null
# Nobody has its pipe any more.
wait $log
echo "$port" >$console/bind
ports_there() { for name in status out err; do [ -e "/dev/virtio-ports/bed.$name" ] || return 1; done; }
eventually 10 ports_there
exec >/dev/virtio-ports/bed.out 2>/dev/virtio-ports/bed.err
cat /tmp/found
modprobe -a 9pnet_virtio 9p
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 share /share

exec 5>&- 6<&- 7>&- 8<&- 9>&-
heap_works() { heap-check cycles $heap 65536 10 | grep '10 of 10: 0'; }
check heap_works heap_works
no_handles() { guest-check info | grep '^handles 0 '; }
check no_handles eventually 10 no_handles
check no_mappings sh -c 'guest-check info | grep "^mappings 0 "'
touch /share/done
exit 0
