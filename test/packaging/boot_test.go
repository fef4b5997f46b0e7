package packaging_test

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// inside is what is done to the packages in a machine. What it prints is looked at.
const inside = `as_run() { setpriv --reuid=factsd --regid=factsd --init-groups "$@"; }

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
# What the unit forbids costs no fact: as its user, with and without all that.
dpkg -i --force-depends /packages/factsctl_*.deb >/dev/null
facts() { sed -e 's,^ExecStart=.*,ExecStart=/usr/bin/factsctl facts now,' -e 's/^Type=.*/Type=oneshot/' -e '/^Restart/d' -e '/^WatchdogSec=/d' -e '/Directory/d' -e "s,^User=,StandardOutput=truncate:/packages/$1.out\n&," "$2" > "/etc/systemd/system/$1.service"; systemctl daemon-reload
	systemctl start "$1"; sed -n 's/^\([a-z_.]*\) .* *\(absent\|unreadable\|malformed\|late\): .*/\1 \2/p' "/packages/$1.out" | sort > "/packages/$1"; head -3 "/packages/$1.out"; }
printf '[Service]\nType=oneshot\nUser=factsd\nGroup=factsd\nExecStart=\n' > /packages/plain.unit
facts inside-facts /lib/systemd/system/factsd.service
facts plain-facts /packages/plain.unit
expect "there are facts without a value in a container" test -s /packages/plain-facts
diff /packages/plain-facts /packages/inside-facts > /packages/facts-diff
cat /packages/facts-diff
expect "the unit costs no fact but the clock, which the enforcer tells" sh -c '[ "$(grep "^[<>]" /packages/facts-diff)" = "> time.synchronised unreadable" ]'
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

conf=/etc/miotfacts/factsd.toml
frozen() { grep -qx "frozen $1" /sys/fs/cgroup/system.slice/medical.service/cgroup.events; }
rm -r /etc/systemd/system/medical.service.d
systemctl daemon-reload
dpkg -i --force-depends /packages/factsd_*.deb >/dev/null
cp /packages/miotfacts/* /etc/miotfacts/
systemctl -q enable --now factsd-enforce factsd medical
expect "with what an image has, nothing is paused" latch clear
systemctl stop factsd
expect "a silent agent is a pause" latch paused
expect "which froze the application" frozen 1
p=$(pause)
echo "# the operator's" >> $conf
dpkg -i --force-depends --force-confold /packages/next/*.deb >/dev/null </dev/null
expect "the next version is there" sh -c "dpkg-query -W -f '\${Version}' factsd | grep '^1:'"
expect "still paused after an upgrade" latch paused
expect "by the same pause" [ "$(pause)" = "$p" ]
expect "and frozen" frozen 1
expect "the configuration stays the operator's" grep -qx "# the operator's" $conf
expect "the package's own lies beside it" grep -qx "# of the next version" $conf.dpkg-dist
systemctl start factsd
expect "the agent runs" systemctl -q is-active factsd
never "an agent that is back ends no pause" frozen 0
dpkg -i --force-depends --force-confold /packages/factsd_*.deb >/dev/null 2>&1 </dev/null
expect "rolled back" sh -c "dpkg-query -W -f '\${Version}' factsd | grep -v :"
expect "both run" sh -c 'systemctl -q is-active factsd-enforce && systemctl -q is-active factsd'
expect "still paused after a roll-back" latch paused
expect "by the same pause" [ "$(pause)" = "$p" ]
expect "the configuration stays the operator's" grep -qx "# the operator's" $conf
/packages/factsctl resume --device "$(factsd provision -config $conf)" --pause "$p" --key /packages/resume.key --out /packages/order
factsd resume /packages/order >/dev/null || echo "not ok the order is taken"
expect "resumed" latch clear
expect "and thawed" frozen 0
systemctl stop medical
dpkg -r factsd >/dev/null
expect "after the removal configuration and state stay" sh -c "grep -qx '# the operator.s' $conf && test -s /var/lib/miotfacts/enforce/latch.a"
dpkg -P factsd >/dev/null
never "after the purge neither does" sh -c "test -e $conf || test -e $conf.dpkg-dist || test -e /var/lib/miotfacts"

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
`

// testBoot installs the packages in a machine of its own, and runs their units as
// they are.
func testBoot(t *testing.T, dist string) {
	m := newCopy(t)
	for _, name := range []string{"factsd", "factsctl", "factsverifier", "factstalk"} {
		deb := only(t, filepath.Join(dist, name+"_*_amd64.deb"))
		m.take("packages", deb)
		if name == "factsd" {
			m.take("packages/next", newer(t, deb))
		}
	}
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	m.write("packages/root.pub", string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), 0o644)
	// The configuration as it comes, for a device without TPM and network.
	m.write("packages/factsd.toml", strings.NewReplacer(
		`tpm = "/dev/tpmrm0"`, "", `# file = "/var/lib`, `file = "/var/lib`, `"/etc/miotfacts/manufacturer-root.pub"`, `"/etc/miotfacts/root.pub"`,
		`operator_roots = ["/etc/miotfacts/operator-root.pub"]`, "operator_roots = []", `url = "tls://verifier.hospital.example:8883"`, `url = ""`,
	).Replace(read(t, "configs/factsd.toml")), 0o644)
	factsctl := unpacked(t, dist) + "/bin/factsctl"
	seed(t, factsctl, m.work, step("freeze", "system.slice/medical.service"))
	m.take("packages", filepath.Join(m.work, "overlay/etc/miotfacts"), factsctl, filepath.Join(m.work, "resume.key"))
	m.underSystemd(inside)
}

// testReadOnly boots an image that is read-only but for the folder for state, with
// the units as they are, pauses it, and boots it anew as after a factory reset: of
// all that was written, only that folder is left.
func testReadOnly(t *testing.T, dist string) {
	m := newCopy(t)
	tree := unpacked(t, dist)
	seed(t, tree+"/bin/factsctl", m.work, step("freeze", "system.slice/medical.service"))
	m.take("usr/bin", tree+"/bin/factsd")
	m.take("etc", filepath.Join(m.work, "overlay/etc/miotfacts"))
	m.take("etc/systemd/system", tree+"/configs/systemd/factsd.service", tree+"/configs/systemd/factsd-enforce.service")
	m.take("etc/sysusers.d", tree+"/configs/sysusers/miotfacts.conf")
	m.take("etc/tmpfiles.d", tree+"/configs/tmpfiles/miotfacts.conf")
	m.write("etc/systemd/system/medical.service", "[Service]\nExecStart=/bin/sleep 1000\n[Install]\nWantedBy=multi-user.target\n", 0o644)
	m.take("etc/systemd/system/medical.service.d", tree+"/configs/systemd/medical-application.conf")
	must(t, nil, program(t, "systemd-sysusers", "systemd"), "--root="+m.root, "miotfacts.conf")
	m.folder(m.root, "var/lib/miotfacts")
	m.folder(m.work, "state")
	nspawn := []string{"--read-only", "--bind=" + m.work + "/state:/var/lib/miotfacts", "--tmpfs=/var/tmp", "--tmpfs=/var/log"}
	start := "never \"the root can be written\" touch /etc/x /usr/x /var/lib/x\n"
	first := m.underSystemd(start+`systemctl start factsd-enforce factsd medical
expect "both run" sh -c 'systemctl -q is-active factsd-enforce && systemctl -q is-active factsd'
expect "nothing is paused" latch clear
systemctl stop factsd
expect "a silent agent is a pause" latch paused
echo "pause $(pause)"
`, nspawn...)
	again := m.underSystemd(start+`systemctl start medical
expect "the enforcer came up before the application" systemctl -q is-active factsd-enforce
expect "paused" latch paused
expect "with the application frozen" grep -qx "frozen 1" /sys/fs/cgroup/system.slice/medical.service/cgroup.events
echo "pause $(pause)"
`, nspawn...)
	samePause(t, first, again)
}

// samePause checks that both runs of a machine were in one pause.
func samePause(t *testing.T, first, again string) {
	t.Helper()
	of := func(log string) string {
		if m := regexp.MustCompile(`(?m)^pause ([0-9a-f]{8,})$`).FindStringSubmatch(log); m != nil {
			return m[1]
		}
		return ""
	}
	if of(first) == "" || of(first) != of(again) {
		t.Errorf("the pause was %q and is %q", of(first), of(again))
	}
}
