package main

import "context"

// unitChecks looks at the units as systemd runs them.
func unitChecks(ctx context.Context, b *bench, _ *kit, d *device) {
	b.check(d.v.name, "exposure of the units", func() (string, error) {
		return d.m.run(ctx, "for u in factsd factsd-enforce; do echo $u $(systemd-analyze security $u | tail -1 | grep -o '[0-9.]* [A-Z]* ' | head -1); done | tr '\\n' ' '")
	})
	b.check(d.v.name, "memory of both processes, connected, 20 s", func() (string, error) {
		return d.m.run(ctx, `sleep 20; for u in factsd factsd-enforce; do
			p=$(systemctl show -P MainPID $u); echo $u $(grep -E '^(Rss|Pss):' /proc/$p/smaps_rollup | tr -d '\n'); done | tr -s ' \n' ' '`)
	})
}
