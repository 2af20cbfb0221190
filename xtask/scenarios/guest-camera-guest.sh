# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The VM with the camera: its own vivid captures into buffers of the host, and they are a stream there.
modprobe vivid n_devs=1
node() { for name in /sys/class/video4linux/video*/name; do grep -q -- "$1\$" "$name" && basename "$(dirname "$name")"; done; }
eventually 300 test -e /share/counted
set -- camera-share --guest-device /dev/virtio-dmabuf0 --device "/dev/$(node vid-cap)" --heap frames --buffers 8 --name guest/cam \
	--width 320 --height 180 --fps 15 --vivid-motion --stream
"$@" --crc >/tmp/produced &
camera=$!
eventually 300 test -e /share/pause
# The buffers that vivid has are filled, and nothing is written any more.
kill -STOP $camera
sleep 2
touch /share/paused
eventually 120 test -e /share/go-on
kill -CONT $camera
eventually 120 test -e /share/end
kill $camera
wait $camera
cp /tmp/produced /share/produced
no_handles() { guest-check info | grep '^handles 0 '; }
check no_handles eventually 10 no_handles
# With all slots of the pool under the names that were left: the next one takes their place.
check camera_again "$@" --frames 10
touch /share/done
exit 0
