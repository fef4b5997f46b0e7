package packaging_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
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

// cutter stands for a program of the hook, of the same name: before, in the middle of
// or after the call number $CUT it kills the hook.
const cutter = `#!/bin/sh
n=$(($(cat "$COUNT") + 1))
echo $n >"$COUNT"
name=${0##*/}
[ $n = "$CUT" ] || exec /bin/$name "$@"
case $WHEN in
middle) [ $name != cp ] || head -c 20 "$1" >"$2" ;;
after) /bin/$name "$@" ;;
esac
kill -KILL $PPID
`

// testRAUCHookCut kills the hook of the worked example before, in and after each of
// its steps. What both slots share is then of the old system or of the new one, each
// file whole, never a manifest without the key list that came with it, and factsd
// takes it; the hook once more ends with the new.
func testRAUCHookCut(t *testing.T, dist string) {
	if os.Geteuid() != 0 {
		t.Skip("NOT RUN: mounting needs root")
	}
	tree, work := unpacked(t, dist), t.TempDir()
	at := func(name string) string { return filepath.Join(work, name) }
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(at(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at(name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	load := func(name string) []byte {
		t.Helper()
		data, err := os.ReadFile(at(name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	seed(t, tree+"/bin/factsctl", work, "[[reaction]]\ndo = \"tell\"\nwithin = \"500ms\"\n")
	// The next edition of both, as they lie in the new slot.
	for _, name := range []string{"manufacturer.toml", "m.toml"} {
		text := string(load(name))
		if !strings.Contains(text, "sequence = 1") {
			t.Fatalf("%s has no sequence", name)
		}
		write(name, strings.Replace(text, "sequence = 1", "sequence = 2", 1))
	}
	if err := os.MkdirAll(at("slot/etc/miotfacts"), 0o755); err != nil {
		t.Fatal(err)
	}
	must(t, nil, tree+"/bin/factsctl", "keys", "sign", at("manufacturer.toml"), "--root", at("root.key"), "--out", at("slot/etc/miotfacts/manufacturer-keys.cbor"))
	must(t, nil, tree+"/bin/factsctl", "manifest", "sign", at("m.toml"), "--key", at("release.key"), "--out", at("slot/etc/miotfacts/manifest.cbor"))
	write("factsd.toml", strings.NewReplacer("/etc/miotfacts/manifest.cbor", at("lib/miotfacts/manifest.cbor"), "/etc/miotfacts/manufacturer-keys.cbor", at("lib/miotfacts/manufacturer-keys.cbor"),
		"/etc/miotfacts", at("overlay/etc/miotfacts"), "/var/lib/miotfacts", at("state"), "'factsd'", "'root'", `"factsd"`, `"root"`).Replace(string(load("overlay/etc/miotfacts/factsd.toml"))))
	must(t, nil, tree+"/bin/factsd", "provision", "-config", at("factsd.toml"))
	for _, name := range []string{"cp", "sync", "mv"} {
		write("bin/"+name, cutter)
	}
	hook := func(cut int, when string) error {
		write("count", "0")
		_, err := command([]string{"RAUC_SLOT_MOUNT_POINT=" + at("slot"), "COUNT=" + at("count"), fmt.Sprint("CUT=", cut), "WHEN=" + when, "PATH=" + at("bin") + ":" + os.Getenv("PATH")},
			"unshare", "--mount", "sh", "-c", `mount --make-rprivate / && mount --bind "$0" /var/lib && exec sh "$1" slot-post-install`, at("lib"), filepath.Join(root, "configs/rauc/hook.sh"))
		return err
	}
	names := []string{"manufacturer-keys.cbor", "manifest.cbor"}
	cuts, olds := 0, 0
	for cut := 1; ; cut++ {
		whole := false
		for _, when := range []string{"before", "middle", "after"} {
			for _, name := range names {
				write("lib/miotfacts/"+name, string(load("overlay/etc/miotfacts/"+name)))
			}
			write("lib/miotfacts/latch", "paused")
			err := hook(cut, when)
			steps, cerr := strconv.Atoi(strings.TrimSpace(string(load("count"))))
			if cerr != nil {
				t.Fatal(cerr)
			}
			if whole = steps < cut; whole {
				if err != nil {
					t.Fatalf("the hook, not cut: %v", err)
				}
				break
			}
			cuts++
			var isNew [2]bool
			for i, name := range names {
				got := load("lib/miotfacts/" + name)
				isNew[i] = bytes.Equal(got, load("slot/etc/miotfacts/"+name))
				if !isNew[i] && !bytes.Equal(got, load("overlay/etc/miotfacts/"+name)) {
					t.Errorf("cut %s step %d: %s is neither the old nor the new one", when, cut, name)
				}
			}
			if isNew[1] && !isNew[0] {
				t.Errorf("cut %s step %d: the new manifest lies beside the old key list", when, cut)
			}
			if !isNew[1] {
				olds++
			}
			if out, err := command(nil, tree+"/bin/factsd", "dry-run", "-config", at("factsd.toml")); err != nil {
				t.Errorf("cut %s step %d: factsd does not take it: %v\n%s", when, cut, err, out)
			}
			if err := hook(0, ""); err != nil {
				t.Errorf("cut %s step %d: the hook once more: %v", when, cut, err)
			}
			for _, name := range names {
				if !bytes.Equal(load("lib/miotfacts/"+name), load("slot/etc/miotfacts/"+name)) {
					t.Errorf("cut %s step %d: after the hook once more %s is not the new one", when, cut, name)
				}
			}
			if string(load("lib/miotfacts/latch")) != "paused" {
				t.Error("the latch was touched")
			}
		}
		if whole {
			break
		}
	}
	if cuts < 15 || olds == 0 || olds == cuts {
		t.Errorf("%d cuts, after %d of them with the old manifest", cuts, olds)
	}
	t.Logf("%d cuts, after %d of them with the old manifest, after the others with the new", cuts, olds)
}
