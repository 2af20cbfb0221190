# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# lockdep turns itself off when it has found something, or has run out of room: what came after that was not looked at.
status=$?
check lockdep_still_on grep 'debug_locks: *1$' /proc/lockdep_stats
exit $status
