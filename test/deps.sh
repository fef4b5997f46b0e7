#!/bin/sh
# Sees to it that the programs which the tests use are on this machine. As root
# it installs Debian packages, and says which; else it names them and fails.
set -eu
PATH=$PATH:/usr/sbin:/sbin
missing=

# want PACKAGE TRIAL...: the package is missing if the trial fails.
want() {
	package=$1
	shift
	"$@" >/dev/null 2>&1 || missing="$missing $package"
}

want git command -v git
want gcc command -v gcc # the race detector links with it
want libc6-dev test -e /usr/include/stdio.h
want openssl command -v openssl
want swtpm command -v swtpm
want swtpm-tools command -v swtpm_setup
want tpm2-tools command -v tpm2_checkquote
want mosquitto command -v mosquitto
want python3-cbor2 /usr/bin/python3 -c 'import cbor2'
want python3-icalendar /usr/bin/python3 -c 'import icalendar'
want dbus-daemon command -v dbus-daemon
want nftables command -v nft # another reader of the packet filter
want socat command -v socat
want bzip2 command -v bzip2
want xz-utils command -v xz
want xxd command -v xxd
want osslsigncode command -v osslsigncode
want systemd test -x /usr/lib/systemd/systemd-measure # in newer releases systemd-ukify
want iproute2 command -v ip
want util-linux command -v nsenter # and unshare
want strace command -v strace
want chromium command -v chromium
want systemd command -v systemd-analyze           # reads the units
want systemd-container command -v systemd-nspawn # boots them
want zbar-tools command -v zbarimg
want poppler-utils command -v pdftoppm
want tcpdump command -v tcpdump
want rauc command -v rauc
want squashfs-tools command -v mksquashfs
want busybox-static command -v busybox # boots as a container's init
want mmdb-bin command -v mmdblookup
want shellcheck command -v shellcheck
want lintian command -v lintian

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
else
	echo "not here:$missing" >&2
	echo "as root: apt install$missing" >&2
	exit 1
fi
