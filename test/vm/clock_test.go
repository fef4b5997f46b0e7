package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// clock boots a machine that believes it is 1970.
func clock(ctx context.Context, b *bench, _ *kit, d *device) {
	m := d.m
	b.check(d.v.name, "the clock at 1970: operates, reports, goes on when it is set", func() (string, error) {
		// systemd does not believe a clock before its own birth, so it is set once more.
		if _, err := m.run(ctx, `set -e; mkdir -p /etc/systemd/system/factsd-enforce.service.d
			printf '[Service]\nExecStartPre=+/bin/date -u -s @3600\n' >/etc/systemd/system/factsd-enforce.service.d/1970.conf; sync`); err != nil {
			return "", err
		}
		seen := d.Device(d.id).Sequence
		if err := m.reset(ctx); err != nil {
			return "", err
		}
		if err := m.awaits(ctx, 8*time.Minute, "the agent operates in 1970", `[ "$(date +%Y)" = 1970 ] && journalctl --no-pager -b -u factsd -o cat | grep -q "stage changed.*to=operating"`); err != nil {
			return "", err
		}
		// The broker's certificate, made by factsverifier, is valid from 1970 on.
		if err := d.goesOn(seen + 3); err != nil {
			return "", err
		}
		came := d.Device(d.id).Sequence
		if _, err := m.run(ctx, `[ "$(date +%Y)" = 1970 ]`); err != nil {
			return "", err
		}
		if _, err := m.run(ctx, fmt.Sprintf("date -u -s @%d", time.Now().Unix())); err != nil {
			return "", err
		}
		if err := d.goesOn(came + 3); err != nil {
			return "", err
		}
		if f := d.Device(d.id).Finding("have not come"); f != "" {
			return "", errors.New(f)
		}
		return fmt.Sprintf("%d reports came in 1970", came-seen), nil
	})
}
