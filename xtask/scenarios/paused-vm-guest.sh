# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The guest does what the host side asks, and loses its patience soon.
echo 2500 >/sys/module/virtio_dmabuf/parameters/request_timeout_ms
guest-check lockstep &
touch /share/up
wait
refuse gave_up sh -c 'dmesg | grep "no reply to request"'
touch /share/done
exit 0
