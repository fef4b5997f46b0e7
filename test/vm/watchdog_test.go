package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// watchdogs stops the enforcer with SIGSTOP: first systemd has to notice it, then a
// hardware watchdog, Linux's softdog.
func watchdogs(ctx context.Context, b *bench, _ *kit, d *device) {
	m := d.m
	b.check(d.v.name, "the enforcer hangs: started anew, still paused", func() (string, error) {
		if _, err := d.cross(ctx); err != nil {
			return "", err
		}
		before, err := m.run(ctx, "p=$(systemctl show -P MainPID factsd-enforce); kill -STOP $p; echo $p")
		if err != nil {
			return "", err
		}
		if err := m.awaits(ctx, 5*time.Minute, "another enforcer", "p=$(systemctl show -P MainPID factsd-enforce); [ $p != 0 ] && [ $p != "+before+" ]"); err != nil {
			return "", err
		}
		if err := m.awaits(ctx, time.Minute, "it says paused", "factsd status | grep -qx 'latch: paused'"); err != nil {
			return "", err
		}
		if _, err := m.run(ctx, "grep -qx 'frozen 1' /sys/fs/cgroup/"+d.medical()+"/cgroup.events"); err != nil {
			return "", fmt.Errorf("the application thawed: %w", err)
		}
		return m.run(ctx, "journalctl --no-pager -b -o cat -u factsd-enforce | grep -m1 -i 'watchdog timeout'")
	})
	b.check(d.v.name, "the enforcer hangs: softdog resets, still paused", func() (string, error) {
		drop, err := os.ReadFile("../../configs/systemd/watchdog.conf")
		if err != nil {
			return "", err
		}
		packed, err := tarball(map[string][]byte{"etc/systemd/system/factsd-enforce.service.d/watchdog.conf": drop})
		if err != nil {
			return "", err
		}
		out, code, err := m.link.run(ctx, `set -e; tar -x -C /; modprobe softdog soft_margin=20; ls /dev/watchdog
			sed -i 's|^\[enforcer\]$|&\nwatchdog = "/dev/watchdog"|' /etc/miotfacts/factsd.toml; systemctl daemon-reload; systemctl restart factsd-enforce; sync`, packed, 5*time.Minute)
		if err != nil || code != 0 {
			return "", errors.Join(err, fmt.Errorf("exit status %d: %s", code, out))
		}
		// It lives on as long as it is fed.
		if _, err := m.run(ctx, "sleep 40; factsd status | grep -qx 'latch: paused'"); err != nil {
			return "", fmt.Errorf("with the watchdog fed for 40 s: %w", err)
		}
		// An orderly stop must not cost the machine.
		if _, err := m.run(ctx, "systemctl stop factsd-enforce; sleep 40; systemctl start factsd-enforce"); err != nil {
			return "", fmt.Errorf("with the enforcer stopped for 40 s: %w", err)
		}
		// softdog is no part of the image's boot: without it the enforcer would not start.
		if _, err := m.run(ctx, "echo softdog >/etc/modules-load.d/watchdog.conf; rm -f /etc/systemd/system/systemd-modules-load.service; sync"); err != nil {
			return "", err
		}
		began := time.Now()
		if _, err := m.run(ctx, "kill -STOP $(systemctl show -P MainPID factsd-enforce)"); err != nil {
			return "", err
		}
		if err := m.up(ctx); err != nil {
			return "", err
		}
		if _, err := d.stillPaused(ctx); err != nil {
			return "", err
		}
		return fmt.Sprintf("up again %.0f s after the hang", time.Since(began).Seconds()), nil
	})
}
