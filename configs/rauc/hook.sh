#!/bin/sh
# RAUC runs this after it has written the new slot, which is mounted. The key list
# and the signed manifest that came with the new system go to the folder that both
# slots share: the manifest names the boot of either slot, so a device that falls
# back is still known. factsd takes them up within a minute, and refuses documents
# with a lower sequence.
set -eu
[ "$1" = slot-post-install ] || exit 0
from=$RAUC_SLOT_MOUNT_POINT/etc/miotfacts
to=/var/lib/miotfacts
for name in manufacturer-keys.cbor manifest.cbor; do
	cp "$from/$name" "$to/$name.new"
	sync "$to/$name.new"
	mv "$to/$name.new" "$to/$name"
done
sync "$to"
