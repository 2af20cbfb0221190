# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Two VMs with different rights; and while one of them is paused, the other and the host processes are served.
eventually 60 published frame/3
for name in first/x second/x; do
	dmabufctl alloc --heap system --size 1M --fill 5a6b --name $name --keep
done
talk_to "$BED_RUN/link.sock" up
hold first/x rw
own=$id
verdict first_reads_its_own "$answer" same first/x "$own"
hold frame/0 ro
frame=$id
verdict first_reads_the_pool "$answer" same frame/0 "$frame"
for access in ro rw; do
	ask open second/x $access
	verdict "first_refused_$access" "$answer" [ "${answer%% *}" = err ]
done

step "the first VM is paused"
paused=$(qemu_of /run/dmabuf/cluster.sock)
kill -STOP "$paused"
start=$(now)
served() { dmabufctl alloc --heap system --size 64K --fill 11 --name extra --keep && dmabufctl crc extra && dmabufctl withdraw extra; }
check paused_host_served served
verdict paused_host_in_time "$(($(now) - start))" [ $(($(now) - start)) -lt 20 ]
xtask guest --vm second --run '
	guest-check crc frame/0 >/share/second-frame
	guest-check crc second/x >/share/second-own
	guest-check write second/x 9 c3 && touch /share/second-wrote
	for access in ro rw; do guest-check open first/x $access && touch /share/second-opened; done
	exit 0' 2>&1
verdict paused_second_vm_served "$?" test -e "$BED_SHARE/second-frame"
crc=$(cat "$BED_SHARE/second-frame")
verdict second_reads_the_pool "$crc" [ "$crc" = "$(dmabufctl crc frame/0)" ]
crc=$(cat "$BED_SHARE/second-own")
verdict second_reads_its_own "$crc" [ "$crc" = "$(dmabufctl crc first/x)" ]
verdict second_writes_its_own "$(dmabufctl read second/x 9 1)" [ -e "$BED_SHARE/second-wrote" -a "$(dmabufctl read second/x 9 1)" = c3 ]
verdict second_refused "" [ ! -e "$BED_SHARE/second-opened" ]
state=$(sed 's/.*) //; s/ .*//' "/proc/$paused/stat")
verdict still_paused "$state" [ "$state" = T ]

step "the first VM goes on"
kill -CONT "$paused"
verdict first_goes_on "$answer" same first/x "$own"
hold frame/1 ro
verdict first_opens_more "$answer" same frame/1 "$id"
ask quit
exit 0
