package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// cost boots from one kept moment, in turn with the agent and without it. The times
// are the machine's own, of one that is emulated beside whatever else runs here.
func cost(ctx context.Context, b *bench, _ *kit, d *device) {
	n := max(1, b.cuts/2)
	var with, without, report []float64
	b.check(d.v.name, "cost of boot: to multi-user.target", func() (string, error) {
		moment, err := d.keep(ctx, "cost")
		if err != nil {
			return "", err
		}
		for i := range n {
			for _, agent := range []bool{true, false} {
				if err := d.back(ctx, moment); err != nil {
					return "", err
				}
				took, first, err := d.timed(ctx, agent)
				if err != nil {
					return "", fmt.Errorf("boot %d, agent %t: %w", i+1, agent, err)
				}
				if agent {
					with, report = append(with, took), append(report, first)
				} else {
					without = append(without, took)
				}
				b.t.Logf("boot %d of %d, agent %t: %.2f s, first report %.2f s after its broker was reached", i+1, n, agent, took, first)
			}
		}
		a, o := middle(with), middle(without)
		saw := fmt.Sprintf("%d each: median %.2f s with the agent (%.2f to %.2f), %.2f s without (%.2f to %.2f): %+.0f ms, %+.1f %%", n,
			a, slices.Min(with), slices.Max(with), o, slices.Min(without), slices.Max(without), 1000*(a-o), 100*(a-o)/o)
		if more := a - o; more > max(0.1, o/100) {
			return "", fmt.Errorf("at most 100 ms or 1 %% more: %s", saw)
		}
		return saw, nil
	})
	if len(report) == 0 {
		return
	}
	b.check(d.v.name, "first report after the network is there", func() (string, error) {
		saw := fmt.Sprintf("median %.2f s after the connection (%.2f to %.2f), %d boots", middle(report), slices.Min(report), slices.Max(report), len(report))
		if middle(report) > 1 {
			return "", fmt.Errorf("at most 1 s: %s", saw)
		}
		return saw, nil
	})
}

func middle(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	return (x[(len(x)-1)/2] + x[len(x)/2]) / 2
}

// timed boots anew and returns the seconds from the kernel's start to
// multi-user.target, and those from the connection to the broker to the first report
// that the verifier has. The medical application starts in both cases; without the
// agent it does not wait for it.
func (d *device) timed(ctx context.Context, agent bool) (took, first float64, err error) {
	m := d.m
	script := "sync"
	if !agent {
		script = "set -e; systemctl -q disable --now factsd factsd-enforce; systemctl -q mask factsd factsd-enforce; rm -r /etc/systemd/system/medical.service.d; sync"
	}
	if _, err := m.run(ctx, script); err != nil {
		return 0, 0, err
	}
	seen := d.Device(d.id).Sequence
	// Asked for without the agent as well: it costs the machine a little time.
	ctx, enough := context.WithCancel(ctx)
	defer enough()
	arrival := make(chan time.Time, 1)
	go func() {
		until(ctx, 5*time.Minute, func() bool { return d.Device(d.id).Sequence > seen })
		arrival <- time.Now()
	}()
	if err := m.reset(ctx); err != nil {
		return 0, 0, err
	}
	if err := m.awaits(ctx, 3*time.Minute, "systemd is running", "systemctl is-system-running --wait"); err != nil {
		return 0, 0, err
	}
	text, err := m.run(ctx, "systemctl show -P ActiveEnterTimestampMonotonic multi-user.target")
	if err != nil {
		return 0, 0, err
	}
	if _, err := fmt.Sscan(text, &took); err != nil || took == 0 {
		return 0, 0, errors.Join(err, fmt.Errorf("time of multi-user.target: %q", text))
	}
	took /= 1e6
	if !agent {
		return took, 0, nil
	}
	came := <-arrival
	if d.Device(d.id).Sequence <= seen {
		return 0, 0, fmt.Errorf("no report after report %d", seen)
	}
	// The machine's uptime now, against the clock here.
	asked := time.Now()
	text, err = m.run(ctx, `cut -d' ' -f1 /proc/uptime; journalctl --no-pager -b -u factsd -o short-monotonic | sed -n '/connected to the broker/{s/^\[ *\([0-9.]*\)\].*/\1/p;q}'`)
	if err != nil {
		return 0, 0, err
	}
	var up, connected float64
	if _, err := fmt.Sscan(text, &up, &connected); err != nil {
		return 0, 0, fmt.Errorf("uptime and time of the connection: %q: %w", text, err)
	}
	return took, up - asked.Sub(came).Seconds() - connected, nil
}
