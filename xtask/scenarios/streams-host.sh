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

check counters_add_up adds_up live 3
dmabufctl stats live

step "the producer ends"
kill "$(cat "$BED_RUN/producer.pid")"
wait $first
ended=$?
verdict ends_with_the_stream "status $ended" [ $ended = 0 ]
check stream_is_gone eventually 30 sh -c '! dmabufctl streams | grep -q "^live "'

for name in first second third fourth; do check "${name}_right" right "$BED_RUN/produced" "$BED_RUN/seen.$name"; done
check pictures_differ different "$BED_RUN/produced"
exit 0
