#!/bin/sh
# Removes what a demo left behind that was killed before it could clean up: its
# processes, its cgroup, its files. A demo that is running loses them as well.
set -eu

for dir in "${TMPDIR:-/tmp}"/miotfacts-demo-*; do
	[ -d "$dir" ] || continue
	for proc in /proc/[0-9]*; do
		# Programs of the demo are in its directory; swtpm has its state there.
		case $(readlink "$proc/exe" || :)\ $(tr '\0' ' ' <"$proc/cmdline" || :) in
		"$dir"/* | */swtpm\ *"$dir"/*)
			echo "ending process ${proc#/proc/}"
			kill -KILL "${proc#/proc/}" || :
			;;
		esac
	done 2>/dev/null
	echo "removing $dir"
	rm -rf "$dir"
done

for group in /sys/fs/cgroup/miotfacts-demo-* /sys/fs/cgroup/unified/miotfacts-demo-*; do
	[ -d "$group" ] || continue
	# The demo's own process is in the name.
	[ ! -d "/proc/${group##*-}" ] || continue
	echo "removing $group"
	echo 1 >"$group/cgroup.kill" 2>/dev/null || :
	echo 0 >"$group/cgroup.freeze"
	tries=50
	until rmdir "$group" 2>/dev/null; do
		tries=$((tries - 1))
		[ $tries -gt 0 ] || { echo "cannot remove $group" >&2; exit 1; }
		sleep 0.1
	done
done
