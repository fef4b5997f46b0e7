package packaging_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// both kills both processes and expects them back, then stops the agent so that it
// falls silent: a pause. Debian's busybox has no pgrep.
const both = `of() { # COMMAND: the process ID
	for p in /proc/[0-9]*; do
		[ "$(tr '\0' ' ' 2>/dev/null <$p/cmdline)" = "/usr/bin/factsd $1 -config /etc/miotfacts/factsd.toml " ] && echo "${p#/proc/}" && return
	done
	return 1
}
expect "nothing is paused" latch clear
expect "the agent runs" of run
owner() { [ "$(stat -c %U "/proc/$(of run)")" = factsd ]; }
expect "as its own user" owner
a=$(of enforce) b=$(of run)
kill -KILL "$a" "$b"
others() { c=$(of enforce) && d=$(of run) && [ "$a" != "$c" ] && [ "$b" != "$d" ] && latch clear; }
expect "both come back" others
kill -STOP "$(of run)"
expect "a silent agent is a pause" latch paused
echo "pause $(pause)"
`

// testBusybox boots a squashfs with nothing in it but busybox, the static binary
// and what factsctl provision made, by the lines of configs/busybox/inittab; after a
// pause it boots once more from the same image and state.
func testBusybox(t *testing.T, dist string) {
	m := newMachine(t)
	busybox := program(t, "busybox", "busybox-static")
	mksquashfs := program(t, "mksquashfs", "squashfs-tools")
	if out, err := command(nil, "losetup", "-f"); err != nil {
		t.Skipf("NOT RUN: there are no loop devices here: %v %s", err, out)
	}
	tree := unpacked(t, dist)
	seed(t, tree+"/bin/factsctl", m.work, "[[reaction]]\ndo = \"tell\"\nwithin = \"500ms\"\n")
	image := &machine{t: t, root: filepath.Join(m.work, "image")}
	image.take("bin", busybox)
	image.take("usr/bin", tree+"/bin/factsd")
	image.take("etc", filepath.Join(m.work, "overlay/etc/miotfacts"))
	for _, applet := range strings.Fields(must(t, nil, busybox, "--list")) {
		if applet != "busybox" {
			if err := os.Symlink("/bin/busybox", filepath.Join(image.root, "bin", applet)); err != nil {
				t.Fatal(err)
			}
		}
	}
	image.write("etc/passwd", "root:x:0:0::/:/bin/sh\nfactsd:x:990:990::/:/bin/false\n", 0o644)
	image.write("etc/group", "root:x:0:\nfactsd:x:990:\n", 0o644)
	image.write("etc/inittab", read(t, "configs/busybox/inittab")+"::once:/bin/sh -c \"/bin/sh /out/inside >/out/log; /bin/poweroff -f\"\n", 0o644)
	for _, d := range []string{"dev", "proc", "sys", "run", "tmp", "out", "var/lib/miotfacts"} {
		image.folder(image.root, d)
	}
	must(t, nil, mksquashfs, image.root, m.work+"/image.squashfs", "-quiet", "-no-progress", "-comp", "gzip", "-Xcompression-level", "1")
	if out, err := command(nil, "mount", "-o", "loop,ro", m.work+"/image.squashfs", m.root); err != nil {
		t.Skipf("NOT RUN: cannot mount a squashfs here: %v %s", err, out)
	}
	t.Cleanup(func() { must(t, nil, "umount", m.root) })
	m.folder(m.work, "state")
	nspawn := []string{"--read-only", "--bind=" + m.work + "/state:/var/lib/miotfacts"}
	first := m.run("never \"the root can be written\" touch /etc/x\n"+both, nspawn, "/bin/init")
	again := m.run(`expect "the enforcer answers" factsd status
latch paused && echo "ok paused from the beginning" || echo "not ok paused from the beginning"
echo "pause $(pause)"
`, nspawn, "/bin/init")
	samePause(t, first, again)
}

// testOpenRC runs the scripts of configs/openrc by OpenRC itself, from Debian's
// packages openrc, librc1 and libeinfo1 unpacked into the folder OPENRC=: a machine
// with systemd should not have them installed.
func testOpenRC(t *testing.T, dist string) {
	openrc := os.Getenv("OPENRC")
	if openrc == "" {
		t.Skip("NOT RUN: OPENRC= names no folder with Debian's openrc, librc1 and libeinfo1 unpacked (dpkg -x)")
	}
	m := newCopy(t)
	tree := unpacked(t, dist)
	seed(t, tree+"/bin/factsctl", m.work, "[[reaction]]\ndo = \"tell\"\nwithin = \"500ms\"\n")
	// /lib and /sbin are links in the machine.
	must(t, nil, "cp", "-a", openrc+"/etc", openrc+"/usr", m.root)
	must(t, nil, "cp", "-a", openrc+"/lib", openrc+"/sbin", m.root+"/usr")
	m.take("usr/bin", tree+"/bin/factsd")
	m.take("etc", filepath.Join(m.work, "overlay/etc/miotfacts"))
	must(t, nil, program(t, "systemd-sysusers", "systemd"), "--root="+m.root, filepath.Join(tree, "configs/sysusers/miotfacts.conf"))
	must(t, nil, "find", m.root+"/etc/init.d", "-type", "f", "!", "-name", "rc*", "-delete") // this machine's own
	m.take("configs/openrc", tree+"/configs/openrc/factsd", tree+"/configs/openrc/factsd-enforce")
	// Debian's services are not made for OpenRC; nothing is there to be mounted.
	m.write("etc/init.d/localmount", "#!/sbin/openrc-run\nstart() { :; }\n", 0o755)
	m.write("start", `#!/bin/sh
mkdir -p /run/openrc
touch /run/openrc/softlevel
sh /out/inside >/out/log 2>&1
rc-service factsd-enforce stop
`, 0o755)
	commands := installCommands(t)["OpenRC"]
	m.run(strings.Join(commands, "\n")+`
openrc default
expect "the enforcer is started" rc-service factsd-enforce status
expect "the agent is started" rc-service factsd status
`+both+`rc-service factsd stop
rc-service factsd-enforce restart
expect "paused after a new start of the enforcer" latch paused
`, nil, "/bin/sh", "/start")
}
