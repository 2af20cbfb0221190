# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The producer: vivid in the nested bed, a drawn pattern in the flat one. It says what it has queued.
set -- --heap camera --buffers 12 --name live --width 320 --height 180 --fps 30 --stream --crc
if [ "$BED" = nested ]; then
	set -- camera-share --device /dev/video0 --vivid-motion "$@"
else
	set -- test-pattern "$@"
fi
"$@" >"$BED_RUN/produced" &
echo $! >"$BED_RUN/producer.pid"
wait
