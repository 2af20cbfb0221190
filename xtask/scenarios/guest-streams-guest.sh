# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The guest's side of streams: it consumes the host's, produces its own, and loses its device while it waits.
driver=/sys/bus/virtio/drivers/virtio_dmabuf
heap=virtio-system
# Two layers of emulation are slow.
if [ "$BED" = nested ]; then count=20 rounds=200; else count=60 rounds=2000; fi

touch /share/up
eventually 60 test -e /share/counted
lists() { guest-check stream-list | grep "^stream live .* consumers 0 format NV12 1280x720"; }
check list lists
check consume_fifo eval "guest-check stream-consume live 2 $count >/share/seen.fifo"
check consume_latest eval "guest-check stream-consume live latest $count >/share/seen.latest"
guest-check stream-consume live 2 0 >/share/seen.first 2>/dev/null &
first=$!
check two_at_once eval "guest-check stream-consume live 4 $count >/share/seen.second"
exact() { guest-check stream-stats live >/tmp/stats && grep -q ' exact$' /tmp/stats && ! grep -q WRONG /tmp/stats; }
check counters_exact exact
kill -KILL $first
gone() { guest-check stream-stats live | grep ' consumers 0$'; }
check killed_consumer_is_gone eventually 10 gone
touch /share/consumed

step "what must fail"
guest-check stream-negative live $heap $rounds
step "events"
guest-check events guest/event 100

step "a camera of the guest"
eventually 60 test -e /share/ready
guest-check stream-produce guest/film virtio-film 3 150 20 >/share/made &
film=$!
eventually 60 grep -q queued /share/made
touch /share/made.done
eventually 120 test -e /share/film.seen
kill -TERM $film
wait $film
verdict=$?
check producer_ends [ $verdict = 0 ]
touch /share/film.end

# away NAME COMMAND...: readers, pollers, and who reclaims, wait while the command ends the session.
away() {
	away_name=$1
	shift
	mkfifo "/tmp/again.$away_name"
	guest-check stream-blocked <"/tmp/again.$away_name" >"/tmp/blocked.$away_name" 2>&1 &
	away_process=$!
	exec 6>"/tmp/again.$away_name"
	eventually 60 grep -q '^blocked' "/tmp/blocked.$away_name"
	# In this shell nothing else has anything of the driver open.
	refuse "${away_name}_rmmod_refused" rmmod virtio_dmabuf
	check "${away_name}_done" "$@"
	check "${away_name}_all_wake" eventually 10 grep -q '^ended' "/tmp/blocked.$away_name"
}
# back NAME: the device is there again, and the files of before are of no use any more.
back() {
	echo >&6
	exec 6>&-
	wait $away_process
	grep '^check ' "/tmp/blocked.$1" | sed "s/^check /check $1_/"
}
device=$(basename "$(ls -d $driver/virtio*)")
pci=$(dirname "$(readlink -f "$driver/$device")")

step "the driver is unbound under those who wait"
move() { echo "$device" >"$driver/$1"; }
away unbind move unbind
check bind move bind
back unbind

# Linux 6.12 doesn't tell the driver.
step "the device is reset under those who wait"
reset() { echo 1 >"$pci/reset"; }
away reset reset
back reset

check consume_after_that eval 'guest-check stream-consume live 2 5 >/share/seen.again'
no_handles() { guest-check info | grep '^handles 0 '; }
check no_handles eventually 10 no_handles
check no_mappings sh -c 'guest-check info | grep "^mappings 0 "'
touch /share/rebound
eventually 60 test -e /share/compared

step "the host's producer is killed"
guest-check stream-consume live 2 0 >/share/seen.last &
last=$!
eventually 60 test -s /share/seen.last
touch /share/reading
wait $last
ended=$?
check end_of_stream [ $ended = 0 -a "$(tail -n 1 /share/seen.last)" = end ]

check rmmod rmmod virtio_dmabuf
touch /share/done
exit 0
