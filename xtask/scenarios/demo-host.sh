# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The demo's host side: it drives the producer and the guest.
step "the daemon shares:"
dmabufctl list
exec xtask first-light
