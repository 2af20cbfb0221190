# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Streams across the VM boundary: a camera of the host in the guest, a camera of the guest on the host.
there() { dmabufctl streams | grep -q "^$1 "; }
not_there() { ! there "$1"; }
check stream_is_there eventually 60 there live
eventually 60 test -e "$BED_SHARE/up"
settled
base=$(usage)
touch "$BED_SHARE/counted"

# right PRODUCED SEEN LEAST: sequences increase, each CRC is the producer's, and there are enough.
right() {
	awk -v least="$3" '
		NR == FNR { crc[$1] = $3; next }
		$1 == "end" { next }
		$1 <= last { print "after " last ": " $0; exit 1 }
		crc[$1] != $3 { print "frame " $0 ", produced: " crc[$1]; exit 1 }
		{ last = $1; count++ }
		END { print count + 0 " frames up to " last; exit count < least }' "$1" "$2"
}
eventually 200 test -e "$BED_SHARE/consumed"
for name in fifo latest second; do check "guest_${name}_right" right "$BED_RUN/produced" "$BED_SHARE/seen.$name" 15; done
different() { [ "$(awk '{ print $3 }' "$BED_SHARE/seen.fifo" | sort -u | wc -l)" -gt 10 ]; }
check pictures_differ different

touch "$BED_SHARE/ready"
check guest_stream_is_there eventually 200 there guest/film
# Nobody can have a memfd of a heap read-only.
if [ "$BED" = nested ]; then
	frame-view guest/film --fifo 2 --crc --count 30 --timeout 60 >"$BED_RUN/film" 2>"$BED_RUN/film.log"
else
	refuse read_only_refused frame-view guest/film --crc --count 1
fi
eventually 200 test -e "$BED_SHARE/made.done"
if [ "$BED" = nested ]; then check guest_frames_right right "$BED_SHARE/made" "$BED_RUN/film" 30; fi
# What is in each buffer now, by its name.
contents() {
	for index in 0 1 2; do
		crc=$(awk -v index_="$index" '$2 == index_ { crc = $3 } END { print crc }' "$BED_SHARE/made")
		seen=$(dmabufctl crc "guest/film/$index" | tail -n 1)
		[ "$crc" = "$seen" ] || { echo "buffer $index: $seen, made: $crc"; return 1; }
	done
	echo "3 buffers, the last one $crc"
}
check guest_contents_right contents
touch "$BED_SHARE/film.seen"
eventually 60 test -e "$BED_SHARE/film.end"
check guest_stream_is_gone eventually 10 not_there guest/film

eventually 200 test -e "$BED_SHARE/rebound"
check again_right right "$BED_RUN/produced" "$BED_SHARE/seen.again" 5
check quiet_is_gone not_there guest/quiet
verdict all_released "$(usage); before: $base" eventually 15 usage_is "$base"
touch "$BED_SHARE/compared"
eventually 60 test -e "$BED_SHARE/reading"
kill -KILL "$(cat "$BED_RUN/producer.pid")"
check live_is_gone eventually 10 not_there live
eventually 120 test -e "$BED_SHARE/done"
check last_right right "$BED_RUN/produced" "$BED_SHARE/seen.last" 1
exit 0
