# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The signals, and all the clocks. The floors are measured one after the other: host and guest share two processors.
eventually 120 test -e "$BED_SHARE/floor"
step "the wake of a host process"
dmabuf-bench floor --place host || exit 1
step "fences, to the guest and to a host process"
exec dmabuf-bench fences-host
