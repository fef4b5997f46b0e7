package packaging_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// exposure is the highest score of `systemd-analyze security` that a unit may
// have, of 10. Offline, by systemd 252.
var exposure = map[string]float64{"factsd.service": 1.5, "factsd-enforce.service": 2.5, "factsd-resume.service": 0.5, "factsverifier.service": 1.2, "factstalk.service": 1.5}

// systemd itself reads the units, in a root where what they name is there.
func TestUnitsVerify(t *testing.T) {
	analyze := program(t, "systemd-analyze", "systemd")
	dir := t.TempDir()
	units := filepath.Join(dir, "units")
	if err := os.Mkdir(units, 0o755); err != nil {
		t.Fatal(err)
	}
	names := []string{"run-miotfacts.stick.mount", "factsd-netfilter.socket"}
	for unit := range exposure {
		names = append(names, unit)
	}
	for _, unit := range names {
		text := read(t, "configs/systemd/"+unit)
		for _, program := range []string{"factsd", "factsverifier", "factstalk"} {
			text = strings.ReplaceAll(text, "/usr/bin/"+program, "/bin/true") // what is there to be executed
		}
		if err := os.WriteFile(filepath.Join(units, unit), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	verify := func() (string, error) {
		return command([]string{"SYSTEMD_UNIT_PATH=" + units + ":", "SYSTEMD_LOG_LEVEL=notice"}, analyze, "verify", "--man=no", "--recursive-errors=no",
			filepath.Join(units, "factsd.service"), filepath.Join(units, "factsd-enforce.service"), filepath.Join(units, "factsverifier.service"), filepath.Join(units, "factstalk.service"), filepath.Join(units, "factsd-resume.service"), filepath.Join(units, "factsd-netfilter.socket"))
	}
	out, err := verify()
	if err != nil || strings.Contains(out, units) {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	// It has to be able to fail.
	bad := filepath.Join(units, "factsd.service")
	text, err := os.ReadFile(bad)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bad, []byte(strings.Replace(string(text), "Restart=always", "Restart=alway", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := verify(); err == nil && !strings.Contains(out, "alway") {
		t.Errorf("a wrong unit passes: %s", out)
	}
}

func TestUnitsAreConfined(t *testing.T) {
	analyze := program(t, "systemd-analyze", "systemd")
	overall := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`)
	for unit, limit := range exposure {
		out := must(t, nil, analyze, "security", "--offline=true", "--no-pager", filepath.Join(root, "configs/systemd", unit))
		m := overall.FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("%s: no score in\n%s", unit, out)
		}
		score, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %.1f of 10", unit, score)
		if score > limit {
			t.Errorf("%s: exposure %.1f is above %.1f", unit, score, limit)
		}
	}
}

// The enforcer with the drop-ins that some steps need. A later line of a drop-in
// adds to or replaces an earlier one, so their text behind the unit's is the same.
func TestDropInsAreConfined(t *testing.T) {
	analyze := program(t, "systemd-analyze", "systemd")
	overall := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`)
	unit := filepath.Join(t.TempDir(), "factsd-enforce.service")
	text := read(t, "configs/systemd/factsd-enforce.service") + read(t, "configs/systemd/quarantine.conf") + read(t, "configs/systemd/steps.conf") + read(t, "configs/systemd/watchdog.conf")
	if err := os.WriteFile(unit, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	m := overall.FindStringSubmatch(must(t, nil, analyze, "security", "--offline=true", "--no-pager", unit))
	if m == nil {
		t.Fatal("no score")
	}
	score, err := strconv.ParseFloat(m[1], 64)
	if err != nil || score > 2.8 {
		t.Errorf("exposure %s is above 2.8, %v", m[1], err)
	}
	t.Logf("factsd-enforce.service with drop-ins: %.1f of 10", score)
}

// systemd reads each drop-in where its first lines say that it is put: below the
// unit, whose program is there.
func TestDropInsVerify(t *testing.T) {
	analyze := program(t, "systemd-analyze", "systemd")
	dropIns, err := filepath.Glob(filepath.Join(root, "configs/systemd/*.conf"))
	if err != nil || len(dropIns) == 0 {
		t.Fatalf("no drop-ins: %v", err)
	}
	verify := func(t *testing.T, text, of string) (string, error) {
		t.Helper()
		dir := t.TempDir()
		unit := "[Service]\nExecStart=/bin/true\n" // the medical application's
		if of != "medical.service" {
			unit = strings.ReplaceAll(read(t, "configs/systemd/"+of), "/usr/bin/factsd", "/bin/true")
		}
		if err := os.Mkdir(filepath.Join(dir, of+".d"), 0o755); err != nil {
			t.Fatal(err)
		}
		for path, content := range map[string]string{of: unit, of + ".d/miotfacts.conf": text} {
			if err := os.WriteFile(filepath.Join(dir, path), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return command([]string{"SYSTEMD_UNIT_PATH=" + dir + ":", "SYSTEMD_LOG_LEVEL=notice"}, analyze, "verify", "--man=no", "--recursive-errors=no", filepath.Join(dir, of))
	}
	for _, path := range dropIns {
		name := filepath.Base(path)
		text := read(t, "configs/systemd/"+name)
		place := regexp.MustCompile(`/etc/systemd/system/(\S+)\.d/`).FindStringSubmatch(text)
		if place == nil {
			t.Fatalf("%s does not say where it is put", name)
		}
		units := []string{strings.Replace(place[1], "NAME", "medical", 1)}
		if name == "32-bit.conf" {
			units = append(units, "factsd-enforce.service")
		}
		for _, unit := range units {
			t.Run(name+" of "+unit, func(t *testing.T) {
				if strings.Contains(text, "OpenFile=") && systemdVersion(t, analyze) < 253 {
					t.Skip("NOT RUN: systemd before 253 does not know OpenFile=")
				}
				if out, err := verify(t, text, unit); err != nil || strings.Contains(out, ".conf") {
					t.Errorf("systemd-analyze verify: %v\n%s", err, out)
				}
				// It has to be able to fail.
				if out, err := verify(t, text+"\n[Service]\nRestart=alway\n", unit); err == nil && !strings.Contains(out, "alway") {
					t.Errorf("a wrong drop-in passes: %s", out)
				}
			})
		}
	}
}

// systemdVersion is the number that the program says of itself.
func systemdVersion(t *testing.T, program string) int {
	t.Helper()
	out, err := command(nil, program, "--version")
	fields := strings.Fields(out)
	if err != nil || len(fields) < 2 {
		t.Fatalf("%s --version: %v\n%s", program, err, out)
	}
	n, err := strconv.Atoi(regexp.MustCompile(`^\d+`).FindString(fields[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// What both processes of the device need, and what a stricter line would break.
func TestUnitsSayWhatTheyMust(t *testing.T) {
	lines := func(unit string) map[string]bool {
		set := map[string]bool{}
		for line := range strings.Lines(read(t, "configs/systemd/"+unit)) {
			set[strings.TrimSpace(line)] = true
		}
		return set
	}
	for unit, want := range map[string][]string{
		"factsd-enforce.service": {"Type=notify", "PrivateNetwork=yes", "RestrictAddressFamilies=AF_UNIX", "Restart=always", "StartLimitIntervalSec=0",
			"StateDirectory=miotfacts", "RuntimeDirectory=miotfacts", "Before=factsd.service multi-user.target shutdown.target",
			"SystemCallFilter=@chown adjtimex clock_adjtime clock_adjtime64", "SystemCallFilter=sched_setattr sched_getattr", "SystemCallFilter=seccomp", "LimitRTPRIO=99", "LimitMEMLOCK=infinity"},
		"factsd.service": {"Type=notify", "User=factsd", "CapabilityBoundingSet=", "NoNewPrivileges=yes", "Restart=always", "StartLimitIntervalSec=0",
			"WatchdogSec=30", "StateDirectory=miotfacts/run miotfacts/spool", "After=factsd-enforce.service network.target",
			// What the clock is the enforcer says: it must fail, and not end the process.
			"ProtectClock=yes", "SystemCallErrorNumber=EPERM", "IPAddressDeny=any",
			"SystemCallFilter=seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self"},
		"factsd-resume.service": {"User=factsd", "CapabilityBoundingSet=", "PrivateNetwork=yes", "Requires=run-miotfacts.stick.mount", `WantedBy=dev-disk-by\x2dlabel-MIOTFACTS.device`},
		"factsverifier.service": {"Type=notify", "User=factsverifier", "CapabilityBoundingSet="},
		// It sees who runs what, and has one right, which it gives up.
		"factstalk.service": {"DynamicUser=yes", "AmbientCapabilities=CAP_NET_RAW", "CapabilityBoundingSet=CAP_NET_RAW", "RestrictAddressFamilies=AF_PACKET AF_NETLINK",
			"IPAddressDeny=any", "SystemCallFilter=capset seccomp", "StateDirectoryMode=0700"},
	} {
		have := lines(unit)
		for _, w := range want {
			if !have[w] {
				t.Errorf("%s does not say %s", unit, w)
			}
		}
		// It makes adjtimex fail, and the clock would never count as synchronised.
		if unit == "factsd-enforce.service" && have["ProtectClock=yes"] {
			t.Errorf("%s says ProtectClock=yes", unit)
		}
	}
}

func TestScriptsParse(t *testing.T) {
	scripts := []string{"configs/busybox/factsd.init", "configs/openrc/factsd", "configs/openrc/factsd-enforce", "configs/openrc/factstalk"}
	for _, pattern := range []string{"postinst", "prerm", "postrm"} {
		found, err := filepath.Glob(filepath.Join(root, "configs/debian/*", pattern))
		if err != nil || len(found) == 0 {
			t.Fatalf("no %s: %v", pattern, err)
		}
		for _, f := range found {
			rel, err := filepath.Rel(root, f)
			if err != nil {
				t.Fatal(err)
			}
			scripts = append(scripts, rel)
		}
	}
	for _, s := range scripts {
		must(t, nil, "sh", "-n", filepath.Join(root, s))
	}
	t.Run("shellcheck", func(t *testing.T) {
		check := program(t, "shellcheck", "shellcheck")
		for _, s := range scripts {
			args := []string{"-s", "sh"}
			if strings.Contains(s, "openrc") {
				args = append(args, "-e", "SC2034") // openrc-run reads the variables
			}
			if out, err := command(nil, check, append(args, filepath.Join(root, s))...); err != nil {
				t.Errorf("%s: %v\n%s", s, err, out)
			}
		}
	})
}
