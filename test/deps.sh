#!/bin/sh
# deps.sh test|demo sees to it that the programs which the tests or the demo use
# are on this machine. It installs Debian packages only as root, and says which.
# Without root, "test" fails and names the packages; "demo" goes on without.
set -eu
PATH=$PATH:/usr/sbin:/sbin
missing=

# want PACKAGE TRIAL...: the package is missing if the trial fails.
want() {
	package=$1
	shift
	"$@" >/dev/null 2>&1 || missing="$missing $package"
}

want swtpm command -v swtpm
want swtpm-tools command -v swtpm_setup
case ${1:-} in
demo) ;;
test)
	want git command -v git
	want gcc command -v gcc # the race detector links with it
	want libc6-dev test -e /usr/include/stdio.h
	want openssl command -v openssl
	want tpm2-tools command -v tpm2_checkquote
	want mosquitto command -v mosquitto
	want python3-cbor2 python3 -c 'import cbor2'
	want dbus-daemon command -v dbus-daemon
	want socat command -v socat
	want strace command -v strace
	want chromium command -v chromium
	;;
*)
	echo "usage: deps.sh test|demo" >&2
	exit 2
	;;
esac

[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	echo "installing:$missing"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	# shellcheck disable=SC2086
	apt-get install -qq -y --no-install-recommends $missing >/dev/null
	# Debian starts a broker with the package. The tests start their own.
	case $missing in *mosquitto*)
		if [ -d /run/systemd/system ]; then
			systemctl disable -q --now mosquitto
			echo "stopped and disabled the service that came with mosquitto"
		fi
		;;
	esac
elif [ "$1" = demo ]; then
	echo "not here:$missing; the demo goes on without (apt install$missing)"
else
	echo "not here:$missing" >&2
	echo "as root: apt install$missing" >&2
	exit 1
fi
