# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The guest has a device, a driver on it, and a way to the host side.
check driver_loaded grep -q '^virtio_dmabuf ' /proc/modules
check device_node ls /dev/virtio-dmabuf0
check list guest-check list
echo hello >/share/from-guest
check host_answers eventually 30 test -e /share/from-host
exit 0
