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
	answer='err nobody is there'
	eventually 400 test -e "$BED_SHARE/$2" || return 1
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
# settled: waits until the counts have stayed the same for a second (threads end a moment after their work).
settled() {
	seen= steady=0
	for look in 1 2 3 4 5 6 7 8 9 10 11 12; do
		if usage_is "$seen"; then steady=$((steady + 1)); else steady=0; fi
		[ $steady -lt 2 ] || return 0
		seen=$(usage)
		sleep 0.5
	done
	return 1
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

# look NAME: the counters of all consumers of the stream $stream now, and the time.
look() {
	date +%s%3N >"$BED_RUN/look.$1"
	dmabufctl stats "$stream" >>"$BED_RUN/look.$1"
}
# counter NAME PEER FIELD: of the peer's consumer in that look; PEER `produced` without a FIELD is the producer's.
counter() {
	awk -v peer="$2" -v field="${3:-}" '
		$1 == peer || ($2 == "produced" && peer == "produced") {
			for (i = 1; i < NF; i++) if ($i == (field == "" ? peer : field)) value = $(i + 1)
		}
		END { print value + 0 }' "$BED_RUN/look.$1"
}
frames() { echo $(($(counter "$2" produced) - $(counter "$1" produced))); }
# streamed PEER COUNT: the peer has had as many frames.
streamed() {
	look now 2>/dev/null
	[ "$(counter now "$1" delivered)" -ge "$2" ] 2>/dev/null
}
# lost FROM TO PEER: frames that it was too slow for, in a thousand that it could have had.
lost() {
	lost_frames=$(($(counter "$2" "$3" skipped) - $(counter "$1" "$3" skipped)))
	echo $((lost_frames * 1000 / ($(frames "$1" "$2") + 1)))
}
# went NAME FROM TO PEER...: checks of how it went between two looks. What was measured first, for the same peers, is what
# all others are compared with: of what they got of it, they get at most $allowed in a thousand less, VMs $allowed_vm.
# Emulated CPUs are slow, and shared with other beds. In the nested bed they are what VMs wait for at 30 frames a second, so
# that only the process of the host can tell whether frames are lost by the stream.
allowed=50
if [ "$BED" = nested ]; then allowed_vm=500; else allowed_vm=150; fi
went() {
	went_name=$1 went_from=$2 went_to=$3
	shift 3
	ms=$(($(head -n 1 "$BED_RUN/look.$went_to") - $(head -n 1 "$BED_RUN/look.$went_from")))
	produced=$(frames "$went_from" "$went_to")
	rate=$((produced * 10000 / ms))
	[ -n "${first_rate:-}" ] || first_rate=$rate
	verdict "${went_name}_produced" "$((rate / 10)).$((rate % 10)) fps, $produced frames" [ $rate -ge $((first_rate * (1000 - $allowed) / 1000)) ]
	for peer in "$@"; do
		delivered=$(($(counter "$went_to" "$peer" delivered) - $(counter "$went_from" "$peer" delivered)))
		skipped=$(($(counter "$went_to" "$peer" skipped) - $(counter "$went_from" "$peer" skipped)))
		loss=$(lost "$went_from" "$went_to" "$peer")
		eval "[ -n \"\${first_loss_$peer:-}\" ] || first_loss_$peer=$loss"
		if [ "$peer" = host ]; then more=$allowed; else more=$allowed_vm; fi
		eval "bound=\$((1000 - (1000 - first_loss_$peer) * (1000 - $more) / 1000))"
		rate=$((delivered * 10000 / ms))
		verdict "${went_name}_$peer" "$((rate / 10)).$((rate % 10)) fps, $delivered frames, $skipped skipped" [ $delivered -gt 0 -a "$loss" -le $bound ]
	done
}

# adds_up STREAM COUNT: what each of that many consumers was told it missed is what it didn't get, in one look at all of them.
adds_up() {
	dmabufctl stats "$1" | awk -v consumers="$2" '
		/produced/ { for (i = 1; i < NF; i++) if ($i == "produced") produced = $(i + 1) + 0 }
		/joined/ {
			for (i = 1; i < NF; i++) value[$i] = $(i + 1)
			if (produced - value["joined"] != value["delivered"] + value["skipped"] + value["ready"]) { print; exit 1 }
			count++
		}
		END { if (count != consumers) { print "consumers: " count; exit 1 } }'
}

# right PRODUCED SEEN: sequences increase, and each CRC is the producer's. What the producer handed over last, it may not have
# told any more when it was ended.
right() {
	awk '
		NR == FNR { crc[$1] = $3; end = $1; next }
		$1 == end + 1 { next }
		$1 <= last { print "after " last ": " $0; exit 1 }
		crc[$1] "" != $3 "" { print "frame " $0 ", produced: " crc[$1]; exit 1 }
		{ last = $1; count++ }
		END { if (count < 3) exit 1; print count " frames up to " last }' "$1" "$2"
}
# different PRODUCED: the pictures move.
different() { [ "$(awk '{ print $3 }' "$1" | sort -u | wc -l)" -gt 10 ]; }
