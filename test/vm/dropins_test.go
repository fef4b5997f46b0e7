package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// firewall is what the hospital's own people filter, as Debian's nftables.service
// loads it: it throws out everything that was there.
const firewall = `flush ruleset
table inet hospital {
	chain input {
		type filter hook input priority filter; policy accept;
		tcp dport 9 drop
	}
}
`

// dropins boots the enforcer with quarantine.conf and steps.conf, and with a chain
// that needs them. That the kernel's read-ahead stands for a register is of no
// consequence: what counts is that systemd lets the enforcer write there.
func dropins(ctx context.Context, b *bench, _ *kit, d *device) {
	m := d.m
	b.check(d.v.name, "quarantine.conf and steps.conf: closed, held, opened again", func() (string, error) {
		file, err := m.run(ctx, "readlink -f /sys/class/block/vda/queue/read_ahead_kb || ls /sys/class/block")
		if err != nil {
			return "", err
		}
		before, err := m.run(ctx, "cat "+file)
		if err != nil {
			return "", err
		}
		_, broker, _ := strings.Cut(d.Broker, ":")
		files := map[string][]byte{"etc/nftables.conf": []byte(firewall)}
		for _, name := range []string{"quarantine", "steps"} {
			text, err := os.ReadFile("../../configs/systemd/" + name + ".conf")
			if err != nil {
				return "", err
			}
			files["etc/systemd/system/factsd-enforce.service.d/"+name+".conf"] = text
		}
		packed, err := tarball(files)
		if err != nil {
			return "", err
		}
		out, code, err := m.link.run(ctx, fmt.Sprintf(`set -e; tar -x -C /
			sed -i 's|^\[enforcer\]$|&\nverifier = ["10.0.2.2:%s"]\nsysfs = ["%s"]|' /etc/miotfacts/factsd.toml; systemctl daemon-reload; systemctl -q enable --now nftables`, broker, file), packed, time.Minute)
		if err != nil || code != 0 {
			return "", errors.Join(err, fmt.Errorf("exit status %d: %s", code, out))
		}
		e, err := d.golden(ctx, 2)
		if err != nil {
			return "", err
		}
		e.chain = tellStep + d.freezeStep() + fmt.Sprintf(`[[reaction]]
do = "quarantine"
peers = ["10.0.2.2:%s"]
within = "5s"

[[reaction]]
do = "sysfs"
target = %q
value = "64"
within = "2s"

`, broker, file)
		if err := d.publish(ctx, e); err != nil {
			return "", err
		}
		// The verifier's page is on the same machine, at a port that is no peer's.
		page := d.Web[strings.LastIndex(d.Web, ":")+1:]
		reaches := func(port string) bool { return m.holds(ctx, "timeout 5 bash -c 'exec 3<>/dev/tcp/10.0.2.2/"+port+"'") }
		if !reaches(page) || !reaches(broker) {
			return "", errors.New("before the pause the machine does not reach the verifier's page and broker")
		}
		rules, err := m.run(ctx, "nft list ruleset")
		if err != nil {
			return "", err
		}
		if _, err := d.cross(ctx); err != nil {
			return "", err
		}
		closed := func(when string) error {
			if err := m.awaits(ctx, time.Minute, "all four steps have their effect", "[ $(factsd status | grep -c '^step: ') = 4 ] && grep -qx 64 "+file); err != nil {
				return fmt.Errorf("%s: %w", when, err)
			}
			switch {
			case reaches(page):
				return fmt.Errorf("%s: it reaches the verifier's page", when)
			case !reaches(broker):
				return fmt.Errorf("%s: it does not reach the broker", when)
			}
			theirs, err := m.run(ctx, "nft list table inet hospital")
			if err == nil && theirs != rules {
				err = fmt.Errorf("%s: the hospital's table was\n%s\nand is\n%s", when, rules, theirs)
			}
			return errors.Join(err, d.reported())
		}
		if err := closed("paused"); err != nil {
			return "", err
		}
		said, err := m.run(ctx, "factsd status | grep -E '^step: (quarantine|sysfs)' | tr '\\n' ' '")
		if err != nil {
			return "", err
		}
		if _, err := m.run(ctx, "systemctl reload nftables"); err != nil {
			return "", err
		}
		if err := m.awaits(ctx, time.Minute, "the firewall's reload has not opened the network for long", "! timeout 5 bash -c 'exec 3<>/dev/tcp/10.0.2.2/"+page+"'"); err != nil {
			return "", err
		}
		if err := closed("after the firewall's reload"); err != nil {
			return "", err
		}
		if _, err := d.resetPaused(ctx); err != nil {
			return "", err
		}
		if err := closed("after a reset"); err != nil {
			return "", err
		}
		if _, err := d.resume(ctx); err != nil {
			return "", err
		}
		if !reaches(page) {
			return "", errors.New("after the resume it does not reach the verifier's page")
		}
		after, err := m.run(ctx, "nft list ruleset")
		if err != nil {
			return "", err
		}
		if after != rules {
			return "", fmt.Errorf("the rules before the pause were\n%s\nand are after it\n%s", rules, after)
		}
		_, err = m.run(ctx, "grep -qx "+before+" "+file)
		return said + " rules as before", err
	})
}
