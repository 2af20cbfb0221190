# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# What a guest allocates here: counted, seen by its name, and gone with its guest's driver.
eventually 60 test -e "$BED_SHARE/up"
settled
base=$(usage)
dmabufctl crc frame/0 | tail -n 1 >"$BED_SHARE/crc"
touch "$BED_SHARE/counted"
eventually 700 test -e "$BED_SHARE/captured"
right=0
for number in 0 1 2; do
	crc=$(dmabufctl crc "guest/$number" | tail -n 1)
	if grep -q "^picture guest/$number $crc\$" "$BED_SHARE/capture"; then right=$((right + 1)); fi
done
verdict guest_camera_seen "$right of 3, the last one $crc" [ $right = 3 ]
differ() { [ "$(dmabufctl crc guest/0)" != "$(dmabufctl crc guest/2)" ]; }
check guest_camera_moves differ
check guest_format sh -c 'dmabufctl list | grep "^guest/0 .*640x360"'
touch "$BED_SHARE/compared"
eventually 60 test -e "$BED_SHARE/done"
# The names go with the session, which is over when the driver starts the next one.
check names_gone eventually 10 withdrawn guest/0
verdict all_released "$(usage); before: $base" eventually 15 usage_is "$base"
exit 0
