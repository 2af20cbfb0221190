# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The kernel does look for bugs.
check lockdep_on grep 'debug_locks: *1$' /proc/lockdep_stats
check kasan_on grep -m 1 ' kasan_report$' /proc/kallsyms
