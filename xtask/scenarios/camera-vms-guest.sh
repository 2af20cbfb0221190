# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The first VM: it watches, and does what the host asks.
mkdir /tmp/bare
cp /usr/local/bin/* /tmp/bare
static() { for tool in frame-view camera-share test-pattern; do chroot /tmp/bare /$tool --version || return 1; done; }
check static_programs static
touch /share/up
(
	eventually 400 test -e /share/second-up
	exec frame-view live --guest-device /dev/virtio-dmabuf0 --fifo 8 --crc --timeout 120
) >/tmp/seen &
watching=$!
guest-check lockstep
wait $watching
check first_ends_with_the_stream [ $? = 0 ]
cp /tmp/seen /share/seen.first
touch /share/first-ended
exit 0
