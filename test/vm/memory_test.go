package main

import (
	"context"
	"fmt"
	"strings"
)

// memory watches what both processes have resident for ten minutes, connected, with
// a report a second. What both take together is the sum of their proportional sizes:
// they run the same program, and its file is in memory once.
func memory(ctx context.Context, b *bench, _ *kit, d *device) {
	b.check(d.v.name, "memory of both processes, a report a second, 10 min", func() (string, error) {
		release, err := d.release(ctx)
		if err != nil {
			return "", err
		}
		if err := d.publish(ctx, edition{sequence: 2, every: "1s", rules: release}); err != nil {
			return "", err
		}
		const settled = 3 // minutes: what only the start needed is given back after the first
		var first, last resident
		for minute := range 11 {
			if minute > 0 {
				if _, err := d.m.run(ctx, "sleep 60"); err != nil {
					return "", err
				}
			}
			if last, err = d.resident(ctx); err != nil {
				return "", err
			}
			b.t.Logf("minute %d: %v", minute, last)
			if minute == settled {
				first = last
			}
		}
		run, both := last[0], last[1]+last[3]
		saw := fmt.Sprintf("%v; after %d minutes %v", last, settled, first)
		if grown := last[0] + last[2] - first[0] - first[2]; grown > 512 {
			return "", fmt.Errorf("grew by %d kB in %d minutes: %s", grown, 10-settled, saw)
		}
		if run > 12<<10 || both > 18<<10 { // the kernel's kB are of 1,024 B
			return "", fmt.Errorf("run at most 12 MiB resident, both at most 18 MiB together (PSS): %s", saw)
		}
		return saw, nil
	})
}

// A resident is the memory of run and enforce in kB: resident, and the share of it
// that is theirs alone or their part of what both map.
type resident [4]int

func (r resident) String() string {
	return fmt.Sprintf("run RSS %d PSS %d kB, enforce RSS %d PSS %d kB, both %d and %d", r[0], r[1], r[2], r[3], r[0]+r[2], r[1]+r[3])
}

func (d *device) resident(ctx context.Context) (resident, error) {
	var r resident
	text, err := d.m.run(ctx, `for u in factsd factsd-enforce; do
		for what in Rss Pss; do grep "^$what:" /proc/$(systemctl show -P MainPID $u)/smaps_rollup | tr -dc 0-9; echo; done; done`)
	if err != nil {
		return r, err
	}
	if n, err := fmt.Sscan(strings.ReplaceAll(text, "\n", " "), &r[0], &r[1], &r[2], &r[3]); err != nil {
		return r, fmt.Errorf("%d of 4 numbers in %q: %w", n, text, err)
	}
	return r, nil
}
