package packaging_test

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// inside runs in the machine that testBoot boots. What it prints is looked at.
const inside = `#!/bin/sh
exec 2>&1
expect() { # WHAT COMMAND...: waits up to 20 s until the command succeeds
	what=$1; shift; i=0
	until "$@" >/dev/null 2>&1; do
		i=$((i + 1))
		[ $i -lt 100 ] || { echo "not ok $what"; journalctl --no-pager -u factsd -u factsd-enforce -u factsverifier -u factstalk | tail -30; return; }
		sleep 0.2
	done
	echo "ok $what"
}
never() { what=$1; shift; if "$@" >/dev/null 2>&1; then echo "not ok $what"; else echo "ok $what"; fi; }
as_run() { setpriv --reuid=factsd --regid=factsd --init-groups "$@"; }

dpkg -i --force-depends /packages/factsd_*.deb >/dev/null
never "nothing runs before it is configured" systemctl -q is-active factsd-enforce factsd
cp /packages/factsd.toml /packages/root.pub /etc/miotfacts/
systemctl -q enable --now factsd-enforce factsd
expect "the enforcer runs" systemctl -q is-active factsd-enforce
expect "the agent runs" systemctl -q is-active factsd
never "the agent says that it is not confined" sh -c 'journalctl -u factsd | grep "not confined"'
expect "it may not ask what the clock is, and the enforcer tells it" sh -c 'journalctl -u factsd | grep -E "msg=measuring.* clock=(synchronised|.not synchronised.)"'
never "the enforcer says that anything is missing" sh -c 'factsd status | grep "^degraded: " | grep -v "manifest\|no earlier state\|keys.cbor"'
expect "the agent may ask the enforcer" as_run factsd status
expect "the agent may read identity and key" as_run cat /var/lib/miotfacts/identity /var/lib/miotfacts/device.key
never "the agent may not write the identity" as_run sh -c 'echo x >> /var/lib/miotfacts/identity'
never "the agent may not read the latch" as_run ls /var/lib/miotfacts/enforce
expect "the latch is the enforcer's" test -s /var/lib/miotfacts/enforce/latch.a
expect "the agent has its state" test -s /var/lib/miotfacts/run/boot
expect "an application may open the socket" test -S /run/miotfacts/app/facts.sock -o -d /run/miotfacts/app
never "strangers may not ask the enforcer" setpriv --reuid=65534 --regid=65534 --clear-groups factsd status
mkdir -p /etc/systemd/system/medical.service.d
printf '[Service]\nExecStart=/bin/sleep 1000\n' > /etc/systemd/system/medical.service
sed 's/^#\(\[\|[A-Z][A-Za-z]*=\)/\1/' /usr/share/doc/factsd/examples/medical-application.conf > /etc/systemd/system/medical.service.d/miotfacts.conf
systemctl daemon-reload
systemctl start --no-block medical
expect "an application is tried again while the latch is not clear" sh -c '[ "$(systemctl show -P NRestarts medical)" -ge 2 ]'
never "it does not start" systemctl -q is-active medical
systemctl stop medical
mkdir -p /etc/systemd/system/factsd-enforce.service.d
cp /usr/share/doc/factsd/examples/quarantine.conf /usr/share/doc/factsd/examples/steps.conf /etc/systemd/system/factsd-enforce.service.d/
systemctl daemon-reload
systemctl restart factsd-enforce
expect "the enforcer runs with its drop-ins" sh -c 'systemctl -q is-active factsd-enforce && factsd status'
pid=$(systemctl show -P MainPID factsd-enforce)
never "it has no network" sh -c "[ \"\$(readlink /proc/$pid/ns/net)\" = \"\$(readlink /proc/1/ns/net)\" ]"
expect "it has a socket of the packet filter" sh -c "tr '\\0' '\\n' < /proc/$pid/environ | grep -qx LISTEN_FDNAMES=netfilter"
expect "that is in the device's network" sh -c "awk '{print \$10}' /proc/net/netlink | grep -qx \"\$(readlink /proc/$pid/fd/3 | tr -dc 0-9)\""
never "no stick is looked at before it is enabled" systemctl -q is-enabled factsd-resume
systemctl -q enable factsd-resume
expect "a stick with its label would bring it" test -L '/etc/systemd/system/dev-disk-by\x2dlabel-MIOTFACTS.device.wants/factsd-resume.service'
# There are no disks in a container: the stick is a file system in memory.
printf '[Mount]\nWhat=tmpfs\nWhere=/run/miotfacts.stick\nType=tmpfs\n' > /etc/systemd/system/run-miotfacts.stick.mount
systemctl daemon-reload
systemctl start run-miotfacts.stick.mount
never "a stick without an order" systemctl start factsd-resume
expect "it says so" sh -c 'journalctl -u factsd-resume | grep "resume.cbor: no such file"'
echo not an order > /run/miotfacts.stick/resume.cbor
never "a stick with anything else" systemctl start factsd-resume
expect "its refusal is said" sh -c 'journalctl -u factsd-resume | grep -c "^.*error: " | grep -qx 2'
systemctl stop run-miotfacts.stick.mount
systemctl -q disable factsd-resume
systemctl kill -s KILL factsd-enforce factsd
expect "both come back" sh -c 'systemctl -q is-active factsd-enforce && systemctl -q is-active factsd && factsd status'
dpkg -i --force-depends /packages/factsd_*.deb >/dev/null
expect "both run after an upgrade" sh -c 'systemctl -q is-active factsd-enforce && systemctl -q is-active factsd && factsd status'
dpkg -r factsd >/dev/null
never "nothing runs after the removal" systemctl -q is-active factsd-enforce factsd
expect "the state stays" test -s /var/lib/miotfacts/enforce/latch.a
dpkg -P factsd >/dev/null
never "no state stays after the purge" test -e /var/lib/miotfacts

dpkg -i --force-depends /packages/factsverifier_*.deb >/dev/null
runuser -u factsverifier -- factsverifier init /var/lib/factsverifier --host localhost >/dev/null
sed -i 's/^manifests = .*/without = true/; /^key_lists/d; /^manufacturer_roots/d' /var/lib/factsverifier/factsverifier.toml
systemctl -q enable --now factsverifier
expect "the verifier runs" systemctl -q is-active factsverifier
expect "an operator may ask it" runuser -u factsverifier -- factsverifier devices --config /var/lib/factsverifier/factsverifier.toml
never "strangers may not" setpriv --reuid=65534 --regid=65534 --clear-groups factsverifier devices --config /var/lib/factsverifier/factsverifier.toml
dpkg -P factsverifier >/dev/null
never "nothing of it stays" test -e /var/lib/factsverifier

dpkg -i --force-depends /packages/factstalk_*.deb >/dev/null
never "nobody is listened to before it is enabled" systemctl -q is-active factstalk
never "nothing enables it" systemctl -q is-enabled factstalk
systemctl -q enable --now factstalk
expect "it keeps a record" test -s /var/lib/private/factstalk/talk.record
expect "it says so" sh -c 'journalctl -u factstalk | grep msg=recording'
never "it says that it is not confined" sh -c 'journalctl -u factstalk | grep "not confined"'
expect "it has no privileges" sh -c 'grep -q "^CapPrm:.0000000000000000$" /proc/$(systemctl show -P MainPID factstalk)/status'
was=$(stat -c %i /var/lib/private/factstalk/talk.record)
systemctl reload factstalk
expect "a reload writes the record" sh -c "[ $was != \$(stat -c %i /var/lib/private/factstalk/talk.record) ]"
never "strangers may not read it" setpriv --reuid=65534 --regid=65534 --clear-groups cat /var/lib/factstalk/talk.record
dpkg -i --force-depends /packages/factstalk_*.deb >/dev/null
expect "it runs after an upgrade" systemctl -q is-active factstalk
dpkg -r factstalk >/dev/null
never "it does not run after the removal" systemctl -q is-active factstalk
expect "the record stays" test -s /var/lib/private/factstalk/talk.record
dpkg -P factstalk >/dev/null
never "no record stays after the purge" test -e /var/lib/private/factstalk
echo done
`

const insideUnit = `[Unit]
After=dbus.socket
[Service]
Type=oneshot
ExecStart=/packages/inside
StandardOutput=file:/packages/log
ExecStopPost=/usr/bin/systemctl --no-block poweroff
`

// testBoot boots this machine's own root in a container, over an overlay in
// memory that is thrown away, with systemd as its first process. There the
// package is installed and its units run as they are. Of this machine's own
// services only those start that every service needs.
func testBoot(t *testing.T, dist string) {
	if os.Geteuid() != 0 {
		t.Skip("NOT RUN: a container needs root")
	}
	program(t, "systemd-nspawn", "systemd-container")
	if _, err := os.Stat("/lib/systemd/systemd"); err != nil {
		t.Skip("NOT RUN: no systemd here to boot")
	}
	top := t.TempDir()
	mount := func(what, where, kind, data string) {
		if err := syscall.Mount(what, where, kind, 0, data); err != nil {
			t.Skipf("NOT RUN: cannot mount %s here: %v", kind, err)
		}
		t.Cleanup(func() {
			if err := syscall.Unmount(where, syscall.MNT_DETACH); err != nil {
				t.Errorf("cannot unmount %s: %v", where, err)
			}
		})
	}
	mount("tmpfs", top, "tmpfs", "mode=0755")
	machine := filepath.Join(top, "machine")
	for _, d := range []string{"upper", "work", "machine"} {
		if err := os.Mkdir(filepath.Join(top, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mount("overlay", machine, "overlay", "lowerdir=/,upperdir="+top+"/upper,workdir="+top+"/work")
	packages := filepath.Join(machine, "packages")
	units := filepath.Join(machine, "etc/systemd/system")
	for _, d := range []string{packages, units} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"factsd", "factsverifier", "factstalk"} {
		deb, err := filepath.Glob(filepath.Join(dist, name+"_*_amd64.deb"))
		if err != nil || len(deb) != 1 {
			t.Fatalf("packages: %q, %v", deb, err)
		}
		data, err := os.ReadFile(deb[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(packages, filepath.Base(deb[0])), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	config := strings.NewReplacer(
		`tpm = "/dev/tpmrm0"`, "", `# file = "/var/lib`, `file = "/var/lib`, `"/etc/miotfacts/manufacturer-root.pub"`, `"/etc/miotfacts/root.pub"`,
		`operator_roots = ["/etc/miotfacts/operator-root.pub"]`, "operator_roots = []", `url = "tls://verifier.hospital.example:8883"`, `url = ""`,
	).Replace(read(t, "configs/factsd.toml"))
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	rootKey := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	for path, text := range map[string]string{
		packages + "/factsd.toml": config, packages + "/root.pub": string(rootKey), packages + "/inside": inside, units + "/inside.service": insideUnit,
	} {
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(machine, "etc/machine-id")); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(machine, "etc/machine-id"), nil, 0o444); err != nil {
		t.Fatal(err)
	}
	// A cgroup v2 of its own, whatever this machine has mounted.
	console, err := command(nil, "unshare", "-m", "sh", "-c", `mount -t tmpfs tmpfs /run && umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup || exit 77
exec timeout 120 systemd-nspawn -q -D "$0" --register=no --keep-unit --private-network --system-call-filter="adjtimex clock_adjtime landlock_create_ruleset landlock_add_rule landlock_restrict_self" --console=read-only --boot systemd.unit=inside.service`, machine)
	log, rerr := os.ReadFile(packages + "/log")
	if rerr != nil && strings.Contains(console, "Welcome to") {
		t.Fatalf("it booted, and nothing ran in it: %v\n%s", err, console)
	}
	if rerr != nil {
		t.Skipf("NOT RUN: the container did not boot here: %v\n%s", err, console)
	}
	t.Logf("\n%s", log)
	if strings.Contains(string(log), "not ok") || !strings.HasSuffix(string(log), "done\n") {
		t.Error("not all went as it has to")
	}
}
