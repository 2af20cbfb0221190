# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The demo's producer: it starts before the guest, because a memfd pool is sealed by it.
mkfifo "$BED_RUN/producer.in" "$BED_RUN/producer.out"
set -- --heap camera --name front --width 1280 --height 720 --buffers 4 --lockstep
if [ -e /dev/video0 ] && [ "$BED" != flat ]; then
	set -- camera-share --device /dev/video0 --vivid-motion "$@"
else
	set -- test-pattern "$@"
fi
exec "$@" 0<>"$BED_RUN/producer.in" 1<>"$BED_RUN/producer.out"
