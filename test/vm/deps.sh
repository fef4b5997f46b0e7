#!/bin/sh
# Sees to it that the programs of the virtual machine are on this machine. As root it
# installs Debian packages, and says which; else it names them and fails.
set -eu
PATH=$PATH:/usr/sbin:/sbin
missing=

want() {
	package=$1
	shift
	"$@" >/dev/null 2>&1 || missing="$missing $package"
}

want qemu-system-arm command -v qemu-system-aarch64
want qemu-utils command -v qemu-img
want qemu-efi-aarch64 test -e /usr/share/AAVMF/AAVMF_VARS.snakeoil.fd
want u-boot-qemu test -e /usr/lib/u-boot/qemu_arm64/u-boot.bin
want u-boot-tools command -v mkimage
want swtpm command -v swtpm
want swtpm-tools command -v swtpm_setup
want binutils-aarch64-linux-gnu command -v aarch64-linux-gnu-objcopy
want sbsigntool command -v sbsign
want openssl command -v openssl
want mtools command -v mcopy
want dosfstools command -v mkfs.vfat
want fdisk command -v sfdisk
want e2fsprogs command -v mkfs.ext4
want kmod command -v depmod
want systemd command -v systemd-sysusers
want xz-utils command -v xz
want zstd command -v zstd

[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	echo "installing:$missing"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	# shellcheck disable=SC2086
	apt-get install -qq -y --no-install-recommends $missing >/dev/null
else
	echo "not here:$missing" >&2
	echo "as root: apt install$missing" >&2
	exit 1
fi
