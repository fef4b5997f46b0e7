package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// cuts presses the reset button while the device pauses and while it resumes.
func cuts(ctx context.Context, b *bench, _ *kit, d *device) {
	n := b.cuts
	b.check(d.v.name, "power cut in mid-pause: paused, application not started", func() (string, error) {
		for i := range n {
			if err := d.cutInPause(ctx); err != nil {
				return "", fmt.Errorf("cut %d: %w", i+1, err)
			}
			if _, err := d.resume(ctx); err != nil {
				return "", fmt.Errorf("resume after cut %d: %w", i+1, err)
			}
			b.t.Logf("in mid-pause: %d of %d", i+1, n)
		}
		return fmt.Sprintf("%d of %d", n, n), nil
	})
	b.check(d.v.name, "power cut in mid-resume: paused or integration first", func() (string, error) {
		paused := 0
		for i := range n {
			p, err := d.cutInResume(ctx)
			if err != nil {
				return "", fmt.Errorf("cut %d: %w", i+1, err)
			}
			if p {
				paused++
			}
			b.t.Logf("in mid-resume: %d of %d, %d paused", i+1, n, paused)
		}
		return fmt.Sprintf("%d of %d; %d came up paused, %d in integration", n, n, paused, n-paused), nil
	})
}

// cutInPause crosses the extreme and resets within the first half second after the
// enforcer has latched.
func (d *device) cutInPause(ctx context.Context) error {
	if err := d.flow(ctx, 600); err != nil {
		return err
	}
	after := rand.IntN(500)
	if _, err := d.m.run(ctx, fmt.Sprintf("until factsd status | grep -qx 'latch: paus[a-z]*'; do sleep 0.05; done; sleep 0.%03d", after)); err != nil {
		return err
	}
	if err := d.m.reset(ctx); err != nil {
		return err
	}
	if _, err := d.stillPaused(ctx); err != nil {
		return fmt.Errorf("%d ms after the latch: %w", after, err)
	}
	return nil
}

// cutInResume cuts the power within a second after the resume was sent, and tells
// whether the device came up paused. In the boot after it the agent must begin in
// integration or paused, and a device whose latch is paused must not operate.
func (d *device) cutInResume(ctx context.Context) (bool, error) {
	if _, err := d.cross(ctx); err != nil {
		return false, err
	}
	p := d.Device(d.id).Pause
	if p == nil || p.ID == "" {
		return false, errors.New("the verifier knows of no pause")
	}
	if err := d.Resume(d.id, p.ID); err != nil {
		return false, err
	}
	after := rand.IntN(999)
	if _, err := d.m.run(ctx, fmt.Sprintf("sleep 0.%03d", after)); err != nil {
		return false, err
	}
	seen := d.Device(d.id).Sequence
	if err := d.m.reset(ctx); err != nil {
		return false, err
	}
	const first = `journalctl --no-pager -b -u factsd -o cat | grep -m1 "stage changed"`
	if err := d.m.awaits(ctx, 3*time.Minute, "the agent says its first stage", first); err != nil {
		return false, err
	}
	line, err := d.m.run(ctx, first)
	if err != nil {
		return false, err
	}
	if !strings.Contains(line, "to=integration") && !strings.Contains(line, "to=paused") {
		return false, fmt.Errorf("%d ms after the resume: the first stage of the boot: %s", after, line)
	}
	if !d.Until("", 3*time.Minute, func() bool { return d.Device(d.id).Sequence > seen }) {
		return false, fmt.Errorf("no report after report %d", seen)
	}
	paused := d.m.holds(ctx, "factsd status | grep -qx 'latch: paused'")
	if paused {
		if err := d.stage("paused", 2*time.Minute); err != nil {
			return false, err
		}
		if _, err := d.resume(ctx); err != nil {
			return false, err
		}
	}
	return paused, d.stage("operating", 3*time.Minute)
}
