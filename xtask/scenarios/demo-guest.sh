# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The demo's guest side: it does what the host side asks, over the bed's link.
step "the guest sees:"
guest-check list
exec guest-check lockstep
