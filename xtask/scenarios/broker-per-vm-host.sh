# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Two VMs, each with a device process of a user of its own, that has what the broker grants that user. One of them is
# killed: the other VM and the host notice nothing.
daemon=$(readlink "/proc/$BED_DAEMON_PID/exe")
eventually 60 published frame/3
for name in first/x second/x; do
	dmabufctl alloc --heap system --size 1M --fill 5a6b --name $name --keep
done
# Who may connect; who is served, the daemon finds out by the uid.
chmod 666 /run/dmabuf/broker.sock

# user UID: what to put before a command that is to have no other right.
user() { echo "setpriv --reuid $1 --regid $1 --clear-groups --inh-caps=-all --no-new-privs"; }

# device NAME UID: its process in $device. The pool's link is root's, so root opens it.
device() {
	mkdir -p "$BED_RUN/$1"
	chown "$2" "$BED_RUN/$1"
	(exec $(user "$2") "$daemon" --broker /run/dmabuf/broker.sock --socket-path "$BED_RUN/$1/vm.sock" \
		--window-size 16M --static-window /proc/self/fd/7 7</run/dmabuf/camera.pool) >"log/$1-device.log" 2>&1 &
	device=$!
	eventually 30 grep -q ready "log/$1-device.log"
}

# The guest that isn't talked to is parked at other fds.
park() { exec 6>&8 7<&9; }
swap() { exec 4>&8 5<&9 8>&6 9<&7 6>&4 7<&5 4>&- 5<&-; }

# guest NAME: a VM with that device, to be talked to.
guest() {
	rm -f "$BED_SHARE/$1-up"
	xtask guest --socket "$BED_RUN/$1/vm.sock" --link "$BED_RUN/$1.link" \
		--run "touch /share/$1-up; exec guest-check lockstep" >>"log/$1-guest.log" 2>&1 &
	talk_to "$BED_RUN/$1.link" "$1-up"
}

# has_its_own NAME OTHER: what the guest that is talked to may have, and what it may not.
has_its_own() {
	hold frame/0 ro
	frame=$id
	verdict "$1_reads_the_pool" "$answer" same frame/0 "$frame"
	hold "$1/x" rw
	own=$id
	verdict "$1_reads_its_own" "$answer" same "$1/x" "$own"
	for access in ro rw; do
		ask open "$2/x" $access
		verdict "$1_refused_$access" "$answer" [ "${answer%% *}" = err ]
	done
}

step "a user that is no client"
mkdir -p "$BED_RUN/third"
chown 2003 "$BED_RUN/third"
refuse unknown_user_refused $(user 2003) "$daemon" --broker /run/dmabuf/broker.sock --socket-path "$BED_RUN/third/vm.sock"

step "the second VM"
device second 2002
second=$device
verdict second_uid "$(stat -c %u "/proc/$second")" [ "$(stat -c %u "/proc/$second")" = 2002 ]
guest second
has_its_own second first
park
settled
before=$(usage)

step "the first VM"
device first 2001
first=$device
verdict first_uid "$(stat -c %u "/proc/$first")" [ "$(stat -c %u "/proc/$first")" = 2001 ]
guest first
has_its_own first second
ask write "$own" 9 c3
verdict first_writes_its_own "$(dmabufctl read first/x 9 1)" [ "$(dmabufctl read first/x 9 1)" = c3 ]

step "what its process can do with what it holds"
crc=$(dmabufctl crc frame/0)
held=0 written=0
for fd in "/proc/$first/fd"/*; do
	case $($(user 2001) readlink "$fd") in
	/memfd:camera*)
		held=$((held + 1))
		$(user 2001) dd if=/dev/urandom of="$fd" bs=4096 seek=1 count=1 conv=notrunc 2>>"log/first-writes.log" && written=$((written + 1))
		$(user 2001) truncate -s 0 "$fd" 2>>"log/first-writes.log" && written=$((written + 1))
		;;
	esac
done
verdict holds_the_pool "$held fds" [ $held -ge 1 ]
verdict cannot_write_the_pool "$(head -n 1 log/first-writes.log)" [ $written = 0 ]
verdict cannot_reach_the_other "" sh -c "! $(user 2001) ls /proc/$second/fd"
verdict pool_unchanged "$crc" [ "$crc" = "$(dmabufctl crc frame/0)" ]

step "its process is killed"
held=$(usage)
kill -KILL $first
verdict daemon_released "$held before, $before then" eventually 15 usage_is "$before"
swap
hold frame/0 ro
verdict second_goes_on "$answer" same frame/0 "$id"
hold frame/1 ro
verdict second_opens_more "$answer" same frame/1 "$id"
served() { dmabufctl alloc --heap system --size 64K --fill 11 --name extra --keep && dmabufctl crc extra && dmabufctl withdraw extra; }
check host_goes_on served
ask quit

step "the next device on the same socket"
kill -KILL "$(qemu_of "$BED_RUN/first/vm.sock")"
device first 2001
guest first
hold frame/1 ro
verdict next_device_serves "$answer" same frame/1 "$id"
ask quit
exit 0
