# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The bed itself: the daemon serves, and what the bed promises is there.
check daemon_runs kill -0 "$BED_DAEMON_PID"
check broker_socket test -S /run/dmabuf/broker.sock
check broker_answers dmabufctl list
if [ "$BED" = nested ]; then
	check heaps_and_camera ls /dev/dma_heap/system /dev/udmabuf /dev/kvm /dev/dri/renderD128 /dev/video0
fi
check guest_answers eventually 30 test -e "$BED_SHARE/from-guest"
echo hello >"$BED_SHARE/from-host"
exit 0
