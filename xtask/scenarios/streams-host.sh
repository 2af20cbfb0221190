# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# One camera, three processes: what each of them gets, and what the others notice when one is stopped or killed.
seconds=${STREAM_SECONDS:-10}

there() { dmabufctl streams | grep -q '^live '; }
check stream_is_there eventually 60 there

# view NAME: a consumer that writes what it has seen.
view() {
	frame-view live --fifo 2 --crc --timeout 60 >"$BED_RUN/seen.$1" 2>"$BED_RUN/view.$1.log" &
	view=$!
}
lines() { wc -l <"$BED_RUN/seen.$1"; }
seen() { [ "$(lines "$1")" -ge "$2" ]; }
view first
first=$view
view second
second=$view
view third
third=$view
step "three consumers for $seconds s"
for name in first second third; do check "${name}_begins" eventually 60 seen $name 3; done
start=$(lines first)
sleep "$seconds"
rate=$((($(lines first) - start) / seconds))
echo "check frames_per_second pass $rate"

step "one is stopped, one is killed and comes again"
kill -STOP $second
kill -KILL $third
before=$(lines first)
verdict others_go_on "$before frames before" eventually 30 seen first $((before + 20))
kill -CONT $second
stopped=$(lines second)
check stopped_one_goes_on eventually 30 seen second $((stopped + 3))
view fourth
check next_one_gets_frames eventually 30 seen fourth 3

# What each consumer was told it missed is what it didn't get, in one look at all of them.
adds_up() {
	dmabufctl stats live | awk '
		/produced/ { for (i = 1; i < NF; i++) if ($i == "produced") produced = $(i + 1) + 0 }
		/joined/ {
			for (i = 1; i < NF; i++) value[$i] = $(i + 1)
			if (produced - value["joined"] != value["delivered"] + value["skipped"] + value["ready"]) { print; exit 1 }
			count++
		}
		END { if (count != 3) { print "consumers: " count; exit 1 } }'
}
check counters_add_up adds_up
dmabufctl stats live

step "the producer ends"
kill "$(cat "$BED_RUN/producer.pid")"
wait $first
ended=$?
verdict ends_with_the_stream "status $ended" [ $ended = 0 ]
check stream_is_gone eventually 30 sh -c '! dmabufctl streams | grep -q "^live "'

# right NAME: sequences increase, and each CRC is the producer's.
right() {
	awk -v name="$1" '
		NR == FNR { crc[$1] = $3; next }
		$1 <= last { print "after " last ": " $0; exit 1 }
		crc[$1] != $3 { print "frame " $0 ", produced: " crc[$1]; exit 1 }
		{ last = $1; count++ }
		END { if (count < 3) exit 1; print count " frames up to " last }' "$BED_RUN/produced" "$BED_RUN/seen.$1"
}
for name in first second third fourth; do check "${name}_right" right $name; done
different() { [ "$(awk '{ print $3 }' "$BED_RUN/produced" | sort -u | wc -l)" -gt 10 ]; }
check pictures_differ different
exit 0
