# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Heaps that only the host VM has: a pool of huge pages as a static window, and the tests with real dma-bufs.
eventually 60 published frame/3
free=$(sed -n 's/HugePages_Free: *//p' /proc/meminfo)
total=$(sed -n 's/HugePages_Total: *//p' /proc/meminfo)
verdict huge_pages_used "$((total - free))" [ $((total - free)) -ge 4 ]
talk_to "$BED_RUN/link.sock" up
right=0
for number in 0 1 2 3; do
	hold "frame/$number" ro && same "frame/$number" "$id" && right=$((right + 1))
done
verdict huge_pool_read "$right" [ $right = 4 ]
before=$(dmabufctl crc "frame/$number")
ask attack "$id"
failed=$(echo "$said" | cut -d ' ' -f 2)
verdict huge_pool_write_blocked "$(echo "$said" | cut -d ' ' -f 1) attacks blocked, $failed landed" [ "$failed" = 0 -a "$(dmabufctl crc "frame/$number")" = "$before" ]
ask quit

step "the tests that need heaps"
VHOST_DEVICE_DMABUF=$(command -v vhost-device-dmabuf)
export VHOST_DEVICE_DMABUF
if real_daemon --ignored --test-threads 1 >log/heap-tests.log 2>&1; then status=0; else status=1; fi
verdict heap_tests "$(grep "^test result" log/heap-tests.log)" [ $status = 0 ]
if front_end --test-threads 1 devices:: fences:: fenced_frames:: >log/device-tests.log 2>&1; then status=0; else status=1; fi
verdict device_tests "$(grep "^test result" log/device-tests.log)" [ $status = 0 ]
verdict device_tests_skip_nothing "$(grep SKIP log/device-tests.log)" [ -z "$(grep SKIP log/device-tests.log)" ]
sed -n 's/^test \(.*\) \.\.\. ok$/check \1 pass/p; s/^test \(.*\) \.\.\. FAILED$/check \1 fail see the log/p' log/heap-tests.log log/device-tests.log
exit 0
