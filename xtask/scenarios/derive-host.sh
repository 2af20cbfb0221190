# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The host module alone: what its contract says, and attacks on its aliases, for every exporter there is.
dmesg -C
check module_loads insmod "$BED_MODULES/dmabuf_derive.ko" || exit 0
check exporter_loads insmod "$BED_MODULES/test_exporter.ko" || exit 0
derive-check all
complaints=$(dmesg | grep -E 'BUG|WARNING|Oops|refcount_t|general protection|lockdep|hung task' || true)
check host_kernel_clean sh -c 'echo "${1:-clean}"; [ -z "$1" ]' sh "$complaints"
check module_unloads rmmod dmabuf_derive
check nothing_is_left rmmod test_exporter
