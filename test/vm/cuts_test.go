package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// cuts presses the reset button while the device pauses and while it resumes. Each
// cut begins at a moment that was kept, with the disk of that moment; what the
// machine writes until the cut stays, and the boot after it is a real one.
func cuts(ctx context.Context, b *bench, _ *kit, d *device) {
	n := b.cuts
	var operating, paused *moment
	var pausing, resuming time.Duration
	if !b.check(d.v.name, "a pause in which the application takes a second", func() (_ string, err error) {
		operating, paused, pausing, resuming, err = d.uncut(ctx)
		return fmt.Sprintf("frozen %d ms after the latch, told of the resume %d ms after the order", pausing.Milliseconds(), resuming.Milliseconds()), err
	}) {
		return
	}
	b.check(d.v.name, "power cut in mid-pause: paused, application not started", func() (string, error) {
		done := 0
		for i := range n {
			if err := d.back(ctx, operating); err != nil {
				return "", fmt.Errorf("before cut %d: %w", i+1, err)
			}
			under, err := d.cutInPause(ctx, spread(i, n, pausing))
			if err != nil {
				return "", fmt.Errorf("cut %d: %w", i+1, err)
			}
			if under {
				done++
			}
			b.t.Logf("in mid-pause: %d of %d, %d with the chain under way", i+1, n, done)
		}
		if _, err := d.resume(ctx); err != nil {
			return "", fmt.Errorf("resume after the last cut: %w", err)
		}
		return fmt.Sprintf("%d of %d; the chain was under way in %d, just done in %d", n, n, done, n-done), nil
	})
	b.check(d.v.name, "power cut in mid-resume: paused or integration first", func() (string, error) {
		held := 0
		for i := range n {
			if err := d.back(ctx, paused); err != nil {
				return "", fmt.Errorf("before cut %d: %w", i+1, err)
			}
			p, err := d.cutInResume(ctx, spread(i, n, 2*resuming))
			if err != nil {
				return "", fmt.Errorf("cut %d: %w", i+1, err)
			}
			if p {
				held++
			}
			b.t.Logf("in mid-resume: %d of %d, %d paused", i+1, n, held)
		}
		return fmt.Sprintf("%d of %d; %d came up paused, %d in integration", n, n, held, n-held), nil
	})
}

// spread is a random moment in part i of n of a time.
func spread(i, n int, of time.Duration) time.Duration {
	part := of / time.Duration(n)
	return time.Duration(i)*part + rand.N(part+1)
}

// uncut gives the device a chain in which the application takes its time, keeps the
// moments before a pause and in it, and measures how long pause and resume take when
// nothing comes in between.
func (d *device) uncut(ctx context.Context) (operating, paused *moment, pausing, resuming time.Duration, err error) {
	e, err := d.golden(ctx, 2)
	if err != nil {
		return
	}
	e.chain = prepareStep(3) + d.freezeStep()
	if err = d.publish(ctx, e); err != nil {
		return
	}
	if _, err = d.m.run(ctx, "echo 1000 >/run/medical/prepare"); err != nil {
		return
	}
	if operating, err = d.keep(ctx, "operating"); err != nil {
		return
	}
	if err = d.reported(); err != nil {
		return
	}
	if pausing, err = d.chain(ctx); err != nil {
		return
	}
	if _, err = d.cross(ctx); err != nil {
		return
	}
	if paused, err = d.keep(ctx, "paused"); err != nil {
		return
	}
	if err = d.reported(); err != nil {
		return
	}
	began := time.Now()
	if err = d.Resume(d.id, d.Device(d.id).Pause.ID); err != nil {
		return
	}
	_, err = d.m.run(ctx, `until read -r word </run/medical/told && [ "$word" = resume ]; do :; done`)
	resuming = time.Since(began)
	return
}

// reported waits until a connected device has sent another report.
func (d *device) reported() error {
	seen := d.Device(d.id).Sequence
	if !d.Until("", 2*time.Minute, func() bool { return d.Device(d.id).Sequence > seen }) {
		return errors.New("the device does not report any more")
	}
	return nil
}

// latched crosses the extreme and waits until the first copy of the latch is written.
// These scripts start no program where time counts: one takes 100 ms and more here.
const latched = `touch /run/before; echo 600 >/run/medical/flow.new; mv /run/medical/flow.new /run/medical/flow
	until [ /var/lib/miotfacts/enforce/latch.a -nt /run/before ]; do :; done
	frozen() { while read -r word is; do [ "$word" = frozen ] && echo "$is"; done </sys/fs/cgroup/system.slice/medical.service/cgroup.events; }
`

// chain crosses the extreme and measures the time from the latch to frozen.
func (d *device) chain(ctx context.Context) (time.Duration, error) {
	out, err := d.m.run(ctx, latched+`read -r from rest </proc/uptime; until [ "$(frozen)" = 1 ]; do :; done; read -r to rest </proc/uptime; echo $from $to`)
	if err != nil {
		return 0, err
	}
	var from, to float64
	if _, err := fmt.Sscan(out, &from, &to); err != nil {
		return 0, fmt.Errorf("times %q: %w", out, err)
	}
	return time.Duration((to - from) * float64(time.Second)), nil
}

// cutInPause crosses the extreme and resets so long after the latch was written. It
// tells whether the chain was under way then.
func (d *device) cutInPause(ctx context.Context, after time.Duration) (bool, error) {
	frozen, err := d.m.run(ctx, latched+fmt.Sprintf("sleep %.3f; frozen", after.Seconds()))
	if err != nil {
		return false, err
	}
	if err := d.m.reset(ctx); err != nil {
		return false, err
	}
	if _, err := d.stillPaused(ctx); err != nil {
		return false, fmt.Errorf("%d ms after the latch, frozen %s: %w", after.Milliseconds(), frozen, err)
	}
	return frozen == "0", nil
}

// cutInResume cuts the power so long after the resume was sent, and tells whether the
// device came up paused. In the boot after it the agent must begin in integration or
// paused, and a device whose latch is paused must not operate.
func (d *device) cutInResume(ctx context.Context, after time.Duration) (bool, error) {
	p := d.Device(d.id).Pause
	if p == nil || p.ID == "" {
		return false, errors.New("the verifier knows of no pause")
	}
	sent := time.Now()
	if err := d.Resume(d.id, p.ID); err != nil {
		return false, err
	}
	until(ctx, after-time.Since(sent), func() bool { return false })
	seen := d.Device(d.id).Sequence
	if err := d.m.reset(ctx); err != nil {
		return false, err
	}
	const first = `journalctl --no-pager -b -u factsd -o cat | grep -m1 "stage changed"`
	if err := d.m.awaits(ctx, 10*time.Minute, "the agent says its first stage", first); err != nil {
		return false, err
	}
	line, err := d.m.run(ctx, first)
	if err != nil {
		return false, err
	}
	if !strings.Contains(line, "to=integration") && !strings.Contains(line, "to=paused") {
		return false, fmt.Errorf("%d ms after the resume: the first stage of the boot: %s", after.Milliseconds(), line)
	}
	if !d.Until("", 3*time.Minute, func() bool { return d.Device(d.id).Sequence > seen }) {
		return false, fmt.Errorf("no report after report %d", seen)
	}
	if !d.m.holds(ctx, "factsd status | grep -qx 'latch: paused'") {
		return false, d.stage("operating", 3*time.Minute)
	}
	return true, d.stage("paused", 2*time.Minute)
}
