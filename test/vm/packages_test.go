package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Paths of the packages in the machine, and what is after the first.
const (
	present     = "/opt/packages/factsd.deb"
	coming      = "/opt/packages/factsd-next.deb"
	nextVersion = "0.2.0"
)

// packages installs, upgrades, rolls back, removes and purges the Debian package in
// the machine. Its dpkg knows no other package, so dependencies are left out.
func packages(ctx context.Context, b *bench, _ *kit, d *device) {
	m := d.m
	dpkg := func(args string) string { return "dpkg --force-depends --force-confold " + args + " </dev/null 2>&1" }
	runs := func(version string) error {
		said, err := m.run(ctx, "factsd version; systemctl is-active factsd factsd-enforce | sort -u")
		if err == nil && (!strings.Contains(said, version) || !strings.HasSuffix(said, "active") || strings.Contains(said, "inactive")) {
			err = fmt.Errorf("want version %s, active: %s", version, said)
		}
		return err
	}
	old, err := m.run(ctx, "factsd version")
	if err != nil {
		b.t.Errorf("packages: %v", err)
		return
	}
	if fields := strings.Fields(old); len(fields) > 0 {
		old = fields[len(fields)-1]
	}
	if !b.check(d.v.name, "deb: installed, nothing starts before it is enabled", func() (string, error) {
		// What was unpacked into the image goes, configuration is the operator's.
		if _, err := m.run(ctx, `set -e; systemctl -q disable --now factsd factsd-enforce; cp -a /etc/miotfacts /root/kept
			dpkg-deb -c `+present+` | grep -v '/$' | sed 's/.* \.//' | while read -r f; do rm -f "$f"; done
			rm -rf /etc/miotfacts; systemctl daemon-reload; ! [ -e /usr/bin/factsd ]`); err != nil {
			return "", err
		}
		if _, err := m.run(ctx, dpkg("-i "+present)); err != nil {
			return "", err
		}
		if m.holds(ctx, "systemctl -q is-active factsd-enforce || systemctl -q is-active factsd || systemctl -q is-enabled factsd") {
			return "", errors.New("it runs, or would at the next boot")
		}
		seen := d.Device(d.id).Sequence
		if _, err := m.run(ctx, "set -e; cp -a /root/kept/. /etc/miotfacts/; systemctl -q enable --now factsd-enforce factsd; systemctl restart medical"); err != nil {
			return "", err
		}
		return "", errors.Join(d.goesOn(seen), runs(old))
	}) {
		return
	}
	b.check(d.v.name, "deb: upgraded while paused: paused, frozen, resumed", func() (string, error) {
		if _, err := d.cross(ctx); err != nil {
			return "", err
		}
		if _, err := m.run(ctx, dpkg("-i "+coming)); err != nil {
			return "", err
		}
		if err := m.awaits(ctx, time.Minute, "it says paused", "factsd status | grep -qx 'latch: paused'"); err != nil {
			return "", err
		}
		if _, err := m.run(ctx, "grep -qx 'frozen 1' /sys/fs/cgroup/"+d.medical()+"/cgroup.events"); err != nil {
			return "", fmt.Errorf("the application thawed: %w", err)
		}
		if err := runs(nextVersion); err != nil {
			return "", err
		}
		return d.resume(ctx)
	})
	b.check(d.v.name, "deb: rolled back, with its state", func() (string, error) {
		seen := d.Device(d.id).Sequence
		if _, err := m.run(ctx, dpkg("-i "+present)); err != nil {
			return "", err
		}
		return "", errors.Join(d.goesOn(seen), runs(old))
	})
	b.check(d.v.name, "power cut in mid-update: whole, operating, state kept", func() (string, error) { return d.cutUpdates(ctx, b, dpkg, old) })
	b.check(d.v.name, "deb: removed, then purged", func() (string, error) {
		if _, err := m.run(ctx, dpkg("-r factsd")+"; [ -e /var/lib/miotfacts/enforce ] && [ -e /etc/miotfacts/factsd.toml ] && ! [ -e /usr/bin/factsd ] && ! systemctl -q is-active factsd-enforce"); err != nil {
			return "", err
		}
		_, err := m.run(ctx, dpkg("-P factsd")+"; ! [ -e /var/lib/miotfacts ] && ! [ -e /etc/miotfacts/factsd.toml ] && ! [ -e /lib/systemd/system/factsd.service ]")
		return "", err
	})
}

// goesOn waits for reports that follow the ones before, of a device that operates.
func (d *device) goesOn(seen uint64) error {
	if !d.Until("", 5*time.Minute, func() bool { v := d.Device(d.id); return v.Sequence > seen && v.Stage == "operating" }) {
		v := d.Device(d.id)
		return fmt.Errorf("report %d, before %d: stage %q, findings %v", v.Sequence, seen, v.Stage, v.Findings)
	}
	for _, f := range d.Device(d.id).Findings {
		if f.Code == "chain" || f.Code == "boot-history" {
			return fmt.Errorf("the state was lost: %s", f.Text)
		}
	}
	return nil
}

// cutUpdates presses the reset button at moments spread over an update of the
// package, and over the way back. Each cut begins at a moment that was kept. The
// agent must be one or the other, whole, and go on where it was, and the update must
// be possible once more.
func (d *device) cutUpdates(ctx context.Context, b *bench, dpkg func(string) string, old string) (string, error) {
	m, n := d.m, b.cuts
	before, err := d.keep(ctx, "old")
	if err != nil {
		return "", err
	}
	if err := d.reported(); err != nil {
		return "", err
	}
	seen := d.Device(d.id).Sequence
	text, err := m.run(ctx, "a=$(cut -d' ' -f1 /proc/uptime); { "+dpkg("-i "+coming)+"; } >/dev/null; b=$(cut -d' ' -f1 /proc/uptime); sync; echo $a $b")
	if err != nil {
		return "", err
	}
	var from, to float64
	if _, err := fmt.Sscan(text, &from, &to); err != nil {
		return "", fmt.Errorf("times %q: %w", text, err)
	}
	if err := d.goesOn(seen); err != nil {
		return "", err
	}
	after, err := d.keep(ctx, "new")
	if err != nil {
		return "", err
	}
	found := map[string]int{}
	for i := range n {
		base, next, way := before, coming, "update"
		if i%2 == 1 {
			base, next, way = after, present, "way back"
		}
		at := (to - from) * float64(i+1) / float64(n+1)
		when := fmt.Sprintf("%.2f s after the begin of the %s", at, way)
		if err := d.back(ctx, base); err != nil {
			return "", fmt.Errorf("before cut %d: %w", i+1, err)
		}
		seen := d.Device(d.id).Sequence
		if _, err := m.run(ctx, fmt.Sprintf("({ %s; } >/dev/null &) ; sleep %.2f", dpkg("-i "+next), at)); err != nil {
			return "", err
		}
		if err := m.reset(ctx); err != nil {
			return "", fmt.Errorf("%s: %w", when, err)
		}
		if err := d.goesOn(seen); err != nil {
			return "", fmt.Errorf("%s: %w", when, err)
		}
		version, err := m.run(ctx, "factsd version")
		if err != nil || !strings.HasSuffix(version, old) && !strings.HasSuffix(version, nextVersion) {
			return "", fmt.Errorf("%s: version %q, %w", when, version, err)
		}
		fields := strings.Fields(version)
		found[fields[len(fields)-1]+" after a cut in the "+way]++
		b.t.Logf("in mid-update: %d of %d, %s: %s", i+1, n, when, version)
		if out, err := m.run(ctx, dpkg("-i "+next)+" && ! dpkg --audit | grep . && sync"); err != nil {
			return "", fmt.Errorf("%s, once more: %w\n%s", when, err, out)
		}
	}
	return fmt.Sprintf("%d of %d, over %.1f s; found: %v", n, n, to-from, found), nil
}
