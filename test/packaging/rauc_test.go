package packaging_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// raucScript installs a bundle as a device with two slots does. It has a mount
// namespace and a bus of its own; /var/lib there is the folder $WORK/lib.
const raucScript = `set -eu
mount --make-rprivate /
mkdir -p $WORK/lib/miotfacts
mount --bind $WORK/lib /var/lib
a=$(losetup -f --show $WORK/a.img)
b=$(losetup -f --show $WORK/b.img)
service=
trap 'kill $service 2>/dev/null || :; losetup -d $a; losetup -d $b' EXIT
sed -e "s,/dev/disk/by-partlabel/rootfs-a,$a," -e "s,/dev/disk/by-partlabel/rootfs-b,$b," -e "s,/etc/rauc/keyring.pem,$WORK/cert.pem," system.conf >$WORK/system.conf
export DBUS_STARTER_BUS_TYPE=session
rauc --conf=$WORK/system.conf --mount=$WORK/mnt --override-boot-slot=A service >$WORK/service.log 2>&1 &
service=$!
for i in $(seq 100); do
	if dbus-send --session --print-reply --dest=de.pengutronix.rauc / org.freedesktop.DBus.Peer.Ping >/dev/null 2>&1; then break; fi
	sleep 0.1
done
rauc install $WORK/update.raucb || { cat $WORK/service.log; exit 1; }
mount -o ro $b $WORK/look
cp $WORK/look/etc/miotfacts/manifest.cbor $WORK/in-slot-b
umount $WORK/look
`

// TestRAUC runs the worked example of configs/rauc: a bundle writes the other slot,
// and its hook hands the new manifest to the folder that both slots share.
func TestRAUC(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("NOT RUN: mounting needs root")
	}
	for _, p := range [][2]string{{"rauc", "rauc"}, {"mksquashfs", "squashfs-tools"}, {"mkfs.ext4", "e2fsprogs"}, {"dbus-run-session", "dbus-daemon"}, {"openssl", "openssl"}} {
		program(t, p[0], p[1])
	}
	if out, err := command(nil, "losetup", "-f"); err != nil {
		t.Skipf("NOT RUN: there are no loop devices here: %v %s", err, out)
	}
	work := t.TempDir()
	at := func(name string) string { return filepath.Join(work, name) }
	must(t, nil, "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", at("key.pem"), "-out", at("cert.pem"), "-subj", "/CN=test", "-days", "2")
	for _, dir := range []string{"mnt", "look", "bundle", "new/etc/miotfacts", "lib/miotfacts"} {
		if err := os.MkdirAll(at(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for path, text := range map[string]string{
		"new/etc/miotfacts/manifest.cbor": "the new manifest", "new/etc/miotfacts/manufacturer-keys.cbor": "the new list",
		"lib/miotfacts/manifest.cbor": "the old manifest", "lib/miotfacts/latch": "paused",
	} {
		if err := os.WriteFile(at(path), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, slot := range []string{"a.img", "b.img"} {
		must(t, nil, "truncate", "-s", "8M", at(slot))
		must(t, nil, "mkfs.ext4", "-q", at(slot))
	}
	must(t, nil, "mkfs.ext4", "-q", "-d", at("new"), at("bundle/rootfs.ext4"), "8M")
	for _, name := range []string{"manifest.raucm", "hook.sh"} {
		must(t, nil, "cp", "-p", filepath.Join(root, "configs/rauc", name), at("bundle"))
	}
	must(t, nil, "rauc", "--cert="+at("cert.pem"), "--key="+at("key.pem"), "bundle", at("bundle"), at("update.raucb"))

	conf, err := filepath.Abs(filepath.Join(root, "configs/rauc"))
	if err != nil {
		t.Fatal(err)
	}
	t.Log(must(t, []string{"WORK=" + work}, "unshare", "--mount", "dbus-run-session", "--", "sh", "-c", "cd "+conf+"\n"+raucScript))
	for path, want := range map[string]string{
		"lib/miotfacts/manifest.cbor": "the new manifest", "lib/miotfacts/manufacturer-keys.cbor": "the new list", "in-slot-b": "the new manifest",
		"lib/miotfacts/latch": "paused", // an update is no way out of a pause
	} {
		got, err := os.ReadFile(at(path))
		if err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("%s holds %q, want %q (%v)", path, got, want, err)
		}
	}
}
