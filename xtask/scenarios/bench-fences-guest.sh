# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The guest wakes up, and answers.
step "the wake of a guest process"
dmabuf-bench floor --place guest || exit 1
touch /share/floor
published() { guest-check list 2>/dev/null | grep -q rw/bench-buffer; }
eventually 120 published
exec dmabuf-bench fences-guest
