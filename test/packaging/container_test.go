package packaging_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// prelude is what the scripts have in common that run in a machine.
const prelude = `#!/bin/sh
exec 2>&1
expect() { # WHAT COMMAND...: waits up to 20 s until the command succeeds
	what=$1; shift; i=0
	until "$@" >/dev/null 2>&1; do
		i=$((i + 1))
		[ $i -lt 100 ] || { echo "not ok $what"; why; return; }
		sleep 0.2
	done
	echo "ok $what"
}
never() { what=$1; shift; if "$@" >/dev/null 2>&1; then echo "not ok $what"; else echo "ok $what"; fi; }
latch() { [ "$(factsd status | head -n 1)" = "latch: $1" ]; }
pause() { factsd status | sed -n 's/^pause: //p'; }
why() { if [ -d /run/systemd/system ]; then journalctl --no-pager -u 'fact*' | tail -30; fi; }
`

// insideUnit runs a script once systemd is up, and then ends the machine.
const insideUnit = `[Unit]
After=dbus.socket
[Service]
Type=oneshot
ExecStart=/out/inside
StandardOutput=append:/out/log
ExecStopPost=/usr/bin/systemctl --no-block poweroff
`

// A machine is a root that a container starts from. Nothing of it stays.
type machine struct {
	t    *testing.T
	root string
	out  string // /out there: the script and what it prints
	work string // a folder in memory for what a test needs besides
}

// newMachine has an empty root.
func newMachine(t *testing.T) *machine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("NOT RUN: a container needs root")
	}
	program(t, "systemd-nspawn", "systemd-container")
	m := &machine{t: t, work: t.TempDir()}
	m.mount("tmpfs", m.work, "tmpfs", "mode=0755")
	m.root, m.out = filepath.Join(m.work, "machine"), filepath.Join(m.work, "out")
	for _, d := range []string{"machine", "out", "upper", "work"} {
		m.folder(m.work, d)
	}
	return m
}

// newCopy has this machine's own root, over an overlay in memory.
func newCopy(t *testing.T) *machine {
	t.Helper()
	m := newMachine(t)
	if _, err := os.Stat("/lib/systemd/systemd"); err != nil {
		t.Skip("NOT RUN: no systemd here to boot")
	}
	m.mount("overlay", m.root, "overlay", "lowerdir=/,upperdir="+m.work+"/upper,workdir="+m.work+"/work")
	if err := os.Remove(filepath.Join(m.root, "etc/machine-id")); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	m.write("etc/machine-id", "", 0o444)
	m.folder(m.root, "out")
	m.write("etc/systemd/system/inside.service", insideUnit, 0o644)
	return m
}

func (m *machine) mount(what, where, kind, data string) {
	m.t.Helper()
	if err := syscall.Mount(what, where, kind, 0, data); err != nil {
		m.t.Skipf("NOT RUN: cannot mount %s here: %v", kind, err)
	}
	m.t.Cleanup(func() {
		if err := syscall.Unmount(where, syscall.MNT_DETACH); err != nil {
			m.t.Errorf("cannot unmount %s: %v", where, err)
		}
	})
}

func (m *machine) folder(below, path string) {
	m.t.Helper()
	if err := os.MkdirAll(filepath.Join(below, path), 0o755); err != nil {
		m.t.Fatal(err)
	}
}

// write writes a file of the machine.
func (m *machine) write(path, text string, mode os.FileMode) {
	m.t.Helper()
	m.folder(m.root, filepath.Dir(path))
	if err := os.WriteFile(filepath.Join(m.root, path), []byte(text), mode); err != nil {
		m.t.Fatal(err)
	}
}

// take copies files of this machine into a folder of that one.
func (m *machine) take(folder string, files ...string) {
	m.t.Helper()
	m.folder(m.root, folder)
	must(m.t, nil, "cp", append(append([]string{"-a"}, files...), filepath.Join(m.root, folder))...)
}

// underSystemd boots systemd, and of this machine's own services only those that
// every service needs. run runs a program as the first process.
func (m *machine) underSystemd(script string, nspawn ...string) string {
	m.t.Helper()
	return m.start(script, nspawn, "--boot", "systemd.unit=inside.service")
}

func (m *machine) run(script string, nspawn []string, first ...string) string {
	m.t.Helper()
	return m.start(script, nspawn, first...)
}

// start starts the container and returns what the script printed, which has to say
// that all of it went as it has to. It has a cgroup v2 of its own, whatever this
// machine has mounted.
func (m *machine) start(script string, nspawn []string, first ...string) string {
	m.t.Helper()
	if err := os.WriteFile(filepath.Join(m.out, "inside"), []byte(prelude+script+"echo done\n"), 0o755); err != nil {
		m.t.Fatal(err)
	}
	log := filepath.Join(m.out, "log")
	if err := os.RemoveAll(log); err != nil {
		m.t.Fatal(err)
	}
	args := slices.Concat([]string{"-m", "sh", "-c", `mount -t tmpfs tmpfs /run && umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup || exit 77
exec timeout 240 systemd-nspawn -q --register=no --keep-unit --private-network --timezone=off --system-call-filter="adjtimex clock_adjtime landlock_create_ruleset landlock_add_rule landlock_restrict_self" --console=read-only "$@"`, "sh", "-D", m.root, "--bind=" + m.out + ":/out"}, nspawn, first)
	console, err := command(nil, "unshare", args...)
	data, rerr := os.ReadFile(log)
	if rerr != nil && (strings.Contains(console, "Welcome to") || first[0] != "--boot") {
		m.t.Fatalf("it booted, and nothing ran in it: %v\n%s", err, console)
	}
	if rerr != nil {
		m.t.Skipf("NOT RUN: the container did not boot here: %v\n%s", err, console)
	}
	m.t.Logf("\n%s", data)
	if strings.Contains(string(data), "not ok") || !strings.Contains(string(data), "\ndone\n") {
		m.t.Errorf("not all went as it has to\n%s", console)
	}
	return string(data)
}

// seed is what factsctl provision makes for devices without a TPM, whose manifest
// has them pause when the measuring process is silent for 2 s.
func seed(t *testing.T, factsctl, dir string, steps ...string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(dir, name) }
	makeKeys(t, factsctl, dir)
	text := must(t, nil, factsctl, "manifest", "new")
	head, _, ok := strings.Cut(text, "# The steps of a pause")
	if !ok {
		t.Fatal("the template of a manifest has another form")
	}
	for old, new := range map[string]string{`enforce = "alarm"`: `enforce = "pause"`, `silence = { after = "30s", then = "alarm" }`: `silence = { after = "2s", then = "pause" }`} {
		if !strings.Contains(head, old) {
			t.Fatalf("the template of a manifest does not have %s", old)
		}
		head = strings.Replace(head, old, new, 1)
	}
	if err := os.WriteFile(at("m.toml"), []byte(head+strings.Join(steps, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, nil, factsctl, "manifest", "sign", at("m.toml"), "--key", at("release.key"), "--out", at("pump-1.manifest"))
	must(t, nil, factsctl, "provision", "--out", at("overlay"), "--manifest", at("pump-1.manifest"), "--root", at("root.key.pub"), "--keys", at("keys.signed"),
		"--operator-root", at("hospital.key.pub"), "--operator-keys", at("hospital.signed"), "--key-file", "/var/lib/miotfacts/device.key")
}

func step(do, target string) string {
	return fmt.Sprintf("[[reaction]]\ndo = %q\ntarget = %q\nwithin = \"2s\"\n", do, target)
}
