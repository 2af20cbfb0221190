# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# What the scripts of scenarios have at hand, in the guest's busybox shell as on the host side.
set -u

step() { echo "step $*"; }

# check NAME COMMAND...: passes when the command succeeds; the value is the last line it printed.
check() {
	check_name=$1
	shift
	if check_output=$("$@" 2>&1); then check_verdict=pass; else check_verdict=fail; fi
	echo "check $check_name $check_verdict $(printf '%s\n' "$check_output" | tail -n 1)"
	[ $check_verdict = pass ]
}

# refuse NAME COMMAND...: passes when the command fails.
refuse() {
	check_name=$1
	shift
	if check_output=$("$@" 2>&1); then check_verdict=fail; else check_verdict=pass; fi
	echo "check $check_name $check_verdict $(printf '%s\n' "$check_output" | tail -n 1)"
	[ $check_verdict = pass ]
}

# eventually SECONDS COMMAND...: tries until the command succeeds, for things that have no event to wait for.
eventually() {
	tries=$(($1 * 10))
	shift
	until "$@"; do
		tries=$((tries - 1))
		[ $tries -gt 0 ] || return 1
		sleep 0.1
	done
}
