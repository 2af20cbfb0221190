# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# What scripts on the host side have at hand besides: the guest, the daemon and its counts.

# verdict NAME VALUE COMMAND...: passes when the command succeeds, and shows the value.
verdict() {
	verdict_name=$1 verdict_value=$2
	shift 2
	if "$@"; then echo "check $verdict_name pass $verdict_value"; else echo "check $verdict_name fail $verdict_value"; fi
}

# talk_to SOCKET UP: waits for the file UP in the share, and connects to the lockstep of that guest; then `ask` talks to it.
talk_to() {
	eventually 240 test -e "$BED_SHARE/$2" || return 1
	rm -f "$BED_RUN/ask" "$BED_RUN/answer"
	mkfifo "$BED_RUN/ask" "$BED_RUN/answer"
	# Without the earlier link's pipe, so that this one ends when the script talks to another guest.
	xtask link "$1" <"$BED_RUN/ask" >"$BED_RUN/answer" 8>&- 9>&- &
	link_process=$!
	exec 8<>"$BED_RUN/ask" 9<>"$BED_RUN/answer"
	read -r answer <&9
	[ "$answer" = ready ]
}

# hang_up: ends that, and returns when the guest's port is free again.
hang_up() {
	exec 8>&- 9>&-
	wait $link_process
}

# ask COMMAND...: the guest's answer is in $answer, and what follows `ok` in $said.
ask() {
	echo "$*" >&8
	read -r answer <&9
	said=${answer#ok}
	said=${said# }
	[ "${answer%% *}" = ok ]
}

# hold NAME ro|rw: the guest opens the buffer, and $id is its number there.
hold() {
	ask open "$1" "$2" || return 1
	id=${said%% *}
}

# same NAME ID: guest and host read the same bytes.
same() { ask crc "$2" && [ "$said" = "$(dmabufctl crc "$1" | tail -n 1)" ]; }

published() { dmabufctl list | grep -q "^$1 "; }
withdrawn() { ! published "$1"; }

# usage: what the daemon holds in the kernel.
usage() {
	echo "$(ls "/proc/$BED_DAEMON_PID/fd" | wc -l) fds, $(grep -c ' [r-][w-][x-]s ' "/proc/$BED_DAEMON_PID/maps") shared mappings, $(ls "/proc/$BED_DAEMON_PID/task" | wc -l) threads"
}
usage_is() { [ "$(usage)" = "$1" ]; }
# settled: waits until the counts stay the same, for 5 s at most (threads end a moment after their work).
settled() {
	for look in 1 2 3 4 5 6 7 8 9 10; do
		seen=$(usage)
		sleep 0.5
		usage_is "$seen" && return
	done
}
no_guest_memory() { ! grep -q memory-backend "/proc/$BED_DAEMON_PID/maps"; }

# qemu_of SOCKET: the process of the VM on this socket of the daemon.
qemu_of() {
	for process in /proc/[0-9]*; do
		case $(tr '\0' ' ' <"$process/cmdline" 2>/dev/null) in
		*qemu-system*"id=dmabuf,path=$1 "*)
			echo "${process#/proc/}"
			return
			;;
		esac
	done
	return 1
}

now() { date +%s; }
