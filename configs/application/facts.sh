#!/bin/sh
# Hands facts in to factsd, as facts.c does: facts.sh SOCKET NAME NUMBER [NAME NUMBER]...
# All of it is one datagram. Needs socat.
set -eu
[ $# -ge 3 ] || { echo "usage: facts.sh SOCKET NAME NUMBER [NAME NUMBER]..." >&2; exit 2; }
socket=$1
shift
printf '%s %s\n' "$@" | socat -u - "UNIX-SENDTO:$socket"
