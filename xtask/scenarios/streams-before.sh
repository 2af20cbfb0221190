# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The producer: vivid in the nested bed, a drawn pattern in the flat one. It says what it has queued.
if [ "$BED" = nested ]; then
	camera-share --device /dev/video0 --heap camera --name live --vivid-motion --stream --crc >"$BED_RUN/produced" &
else
	test-pattern --heap camera --name live --fps 30 --stream --crc >"$BED_RUN/produced" &
fi
echo $! >"$BED_RUN/producer.pid"
wait
