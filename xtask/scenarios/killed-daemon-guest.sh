# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# After the daemon was killed: the driver goes away as it should.
touch /share/up
guest-check lockstep
refuse list_fails guest-check list
device=$(basename "$(ls -d /sys/bus/virtio/drivers/virtio_dmabuf/virtio*)")
unbind() { echo "$device" >/sys/bus/virtio/drivers/virtio_dmabuf/unbind; }
check unbind unbind
refuse node_gone ls /dev/virtio-dmabuf0
check rmmod rmmod virtio_dmabuf
touch /share/unloaded
exit 0
