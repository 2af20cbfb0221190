# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# lockdep ends with the first thing it finds, which is a complaint on the console then.
check lockdep_on grep 'debug_locks: *1$' /proc/lockdep_stats
check kasan_on grep -m 1 ' kasan_report$' /proc/kallsyms
