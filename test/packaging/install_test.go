package packaging_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// installCommands are the commands of docs/install.md by the heading above them, in
// order: indented lines, without the remark behind.
func installCommands(t *testing.T) map[string][]string {
	t.Helper()
	commands := map[string][]string{}
	heading, line := "", ""
	for text := range strings.Lines(read(t, "docs/install.md")) {
		text = strings.TrimRight(text, "\n")
		if after, ok := strings.CutPrefix(text, "#"); ok {
			heading = strings.TrimLeft(after, "# ")
			continue
		}
		if after, ok := strings.CutPrefix(text, "    "); ok {
			line += strings.TrimSpace(after)
			if before, ok := strings.CutSuffix(line, `\`); ok {
				line = before
				continue
			}
			commands[heading] = append(commands[heading], regexp.MustCompile(`\s+# .*`).ReplaceAllString(line, ""))
			line = ""
		}
	}
	return commands
}

// testInstall runs every command of docs/install.md that can be run here: most of
// them in a machine of its own, in their order, for the architecture of this one.
// What another test or nobody runs is named.
func testInstall(t *testing.T, dist string) {
	commands := installCommands(t)
	tree := unpacked(t, dist)
	m := newCopy(t)
	seed(t, tree+"/bin/factsctl", m.work, step("freeze", "system.slice/medical.service"))

	// take returns the commands of a heading, and what is left is run by nobody.
	take := func(heading string) []string {
		c := commands[heading]
		if len(c) == 0 {
			t.Errorf("docs/install.md has no commands below %q", heading)
		}
		delete(commands, heading)
		return c
	}
	if openRC := take("OpenRC"); os.Getenv("OPENRC") == "" {
		t.Logf("NOT RUN without OPENRC=: %q", openRC) // testOpenRC runs them
	}
	if buildroot := take("Buildroot"); len(buildroot) != 1 || buildroot[0] != "make BR2_EXTERNAL=/path/to/miotfacts/"+external+" miotfacts_qemu_aarch64_defconfig" {
		t.Errorf("TestBuildrootReads runs something else than %q", buildroot)
	} else if os.Getenv("BUILDROOT") == "" {
		t.Logf("NOT RUN without BUILDROOT=: %q", buildroot)
	}
	t.Logf("NOT RUN, it is a test of its own: %q", take("Made twice, the same"))

	image := take("An image for many devices")
	must(t, nil, "openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-keyout", m.work+"/ca.key", "-out", m.work+"/ca.pem", "-subj", "/CN=broker")
	for _, c := range image {
		must(t, []string{"PATH=" + tree + "/bin:" + os.Getenv("PATH")}, "env", "--chdir="+m.work, "sh", "-c", c)
	}
	if _, err := os.Stat(filepath.Join(m.work, "rootfs-overlay/etc/miotfacts/broker-ca.pem")); err != nil {
		t.Error(err)
	}

	debian, archive := take("Debian 12: packages"), take("Any Linux with systemd: archive")
	// distribute made what these make, for one port.
	made := must(t, nil, "make", "-n", "-C", root, "dist")
	for i, c := range []string{debian[0], archive[0]} {
		if want := []string{"make deb", "make dist"}[i]; c != want {
			t.Errorf("the first command is %q, not %q", c, want)
		}
	}
	if deb := must(t, nil, "make", "-n", "-C", root, "deb"); strings.Replace(made, "-out bin/dist", "-out bin/deb -kinds deb", 1) != deb {
		t.Errorf("make deb runs %q, make dist %q", deb, made)
	}
	m.folder(m.root, "home/bin")
	must(t, nil, "cp", "-a", dist, m.root+"/home/bin/dist")
	m.take("home/bin/deb", only(t, dist+"/factsd_*.deb"), only(t, dist+"/factsverifier_*.deb"))
	m.take("home", filepath.Join(m.work, "overlay/etc/miotfacts"))
	// There is no network, and nothing to be recommended.
	m.write("etc/apt/apt.conf.d/99-test", "APT::Install-Recommends \"false\";\nAPT::Get::Assume-Yes \"true\";\nAPT::Sandbox::User \"root\";\n", 0o644)
	m.write("etc/systemd/system/medical.service", "[Service]\nExecStart=/bin/sleep 1000\n", 0o644)

	var script strings.Builder
	fmt.Fprint(&script, "sudo() { \"$@\"; }\nexport LC_ALL=C\ncd /home || exit\n")
	run := func(list []string) {
		for _, c := range list {
			c = strings.NewReplacer("arm64", "amd64", "/NAME.", "/medical.").Replace(c)
			fmt.Fprintf(&script, "said=/run/said; if { %s\n} >$said 2>&1; then echo 'ok $ %s'; else echo 'not ok $ %s'; cat $said; fi\n", c, c, c)
		}
	}
	say := func(text string) { fmt.Fprintln(&script, text) }
	active := `expect "both run" sh -c 'systemctl -q is-active factsd-enforce && systemctl -q is-active factsd && factsd status'`
	run(debian[1:2])
	say("cp miotfacts/* /etc/miotfacts/")
	run(debian[2:])
	say(active + "\ndpkg -P factsd >/dev/null")
	run(archive[1:])
	say("cp /home/miotfacts/* /etc/miotfacts/")
	run(debian[2:3])
	say(active)
	run(take("The record of whom the device talks to"))
	run([]string{"systemctl enable --now factstalk"}) // in the text
	run(take("The medical application"))
	run(take("A hardware watchdog"))
	say(`systemctl daemon-reload
expect "the application comes after the enforcer" sh -c "systemctl show -P After medical | grep factsd-enforce.service"
expect "systemd leaves an enforcer that hangs to the hardware" sh -c "systemctl cat factsd-enforce | grep -x WatchdogSec=0"
systemctl stop factsd factsd-enforce`)
	run(take("busybox, without systemd"))
	say(`rm -rf /run/miotfacts
expect "the init script starts both" /etc/init.d/S60factsd start
expect "the enforcer answers" factsd status
expect "the agent measures" test -s /var/lib/miotfacts/run/chain.a -o -s /var/lib/miotfacts/run/boot
expect "the init script stops both" /etc/init.d/S60factsd stop
cd /home`)
	verifier := take("Verifier")
	run(verifier[:2])
	say(`sed -i 's/^manifests = .*/without = true/; /^key_lists/d; /^manufacturer_roots/d' /var/lib/factsverifier/factsverifier.toml`)
	run(verifier[2:3])
	say(`expect "the verifier listens" test -S /var/lib/factsverifier/admin.sock -o -S /run/factsverifier/admin.sock`)
	run(verifier[3:])
	m.underSystemd(script.String())

	for heading, list := range commands {
		t.Errorf("no test runs %q of docs/install.md, below %q", list, heading)
	}
}
