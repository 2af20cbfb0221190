# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# After the daemon was killed: the driver goes away as it should.
guest-check stream-blocked </dev/null >/tmp/blocked 2>&1 &
eventually 60 grep -q '^blocked' /tmp/blocked
touch /share/up
guest-check lockstep
# Those who wait for a frame have noticed, too.
check all_wake eventually 30 grep -q '^ended' /tmp/blocked
grep '^check ' /tmp/blocked
refuse list_fails guest-check list
device=$(basename "$(ls -d /sys/bus/virtio/drivers/virtio_dmabuf/virtio*)")
unbind() { echo "$device" >/sys/bus/virtio/drivers/virtio_dmabuf/unbind; }
check unbind unbind
refuse node_gone ls /dev/virtio-dmabuf0
check rmmod rmmod virtio_dmabuf
touch /share/unloaded
exit 0
