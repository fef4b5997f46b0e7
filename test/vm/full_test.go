package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"
)

// full runs what one variant is enough for. The device operates.
func (b *bench) full(ctx context.Context, k *kit, d *device, how string) {
	m := d.m
	b.check(d.v.name, "exposure of the units", func() (string, error) {
		return m.run(ctx, "for u in factsd factsd-enforce; do echo $u $(systemd-analyze security $u | tail -1 | grep -o '[0-9.]* [A-Z]* ' | head -1); done | tr '\\n' ' '")
	})
	b.check(d.v.name, "memory of both processes, connected, 20 s", func() (string, error) {
		return m.run(ctx, `sleep 20; for u in factsd factsd-enforce; do
			p=$(systemctl show -P MainPID $u); echo $u $(grep -E '^(Rss|Pss):' /proc/$p/smaps_rollup | tr -d '\n'); done | tr -s ' \n' ' '`)
	})
	if how == "quick" {
		return
	}
	b.check(d.v.name, "the network gone and back: nothing is lost", func() (string, error) { return d.unplugged(ctx) })
	cuts := 3
	if how == "all" {
		cuts = 20
	}
	b.check(d.v.name, "power cut in mid-pause: paused, application not started", func() (string, error) {
		for n := range cuts {
			if err := d.cutInPause(ctx); err != nil {
				return "", fmt.Errorf("cut %d: %w", n+1, err)
			}
			if _, err := d.resume(ctx); err != nil {
				return "", fmt.Errorf("resume after cut %d: %w", n+1, err)
			}
		}
		return fmt.Sprintf("%d of %d", cuts, cuts), nil
	})
	b.check(d.v.name, "power cut in mid-resume: paused or integration first", func() (string, error) { return d.cutsInResume(ctx, cuts) })
	b.changed(ctx, k, d)
}

// unplugged pulls the network cable for a while: the reports wait in the spool.
func (d *device) unplugged(ctx context.Context) (string, error) {
	before := d.Device(d.id).Sequence
	if err := d.m.cable(false); err != nil {
		return "", err
	}
	if _, err := d.m.run(ctx, "sleep 20"); err != nil {
		return "", err
	}
	if err := d.m.cable(true); err != nil {
		return "", err
	}
	if !d.Until("", 3*time.Minute, func() bool { return d.Device(d.id).Sequence >= before+8 }) {
		return "", fmt.Errorf("the verifier has %d reports, before it had %d", d.Device(d.id).Sequence, before)
	}
	if f := d.Device(d.id).Finding("have not come"); f != "" {
		return "", errors.New(f)
	}
	return fmt.Sprintf("%d reports waited", d.Device(d.id).Sequence-before), nil
}

// cutInPause crosses the extreme and resets within the first half second after the
// enforcer has latched.
func (d *device) cutInPause(ctx context.Context) error {
	before, err := d.starts(ctx)
	if err != nil {
		return err
	}
	if err := d.flow(ctx, 600); err != nil {
		return err
	}
	after := rand.IntN(500)
	if _, err := d.m.run(ctx, fmt.Sprintf("until factsd status | grep -qx 'latch: paus[a-z]*'; do :; done; sleep 0.%03d", after)); err != nil {
		return err
	}
	if err := d.m.reset(ctx); err != nil {
		return err
	}
	if _, err := d.stillPaused(ctx, before); err != nil {
		return fmt.Errorf("%d ms after the latch: %w", after, err)
	}
	return nil
}

// cutsInResume cuts the power within a second after the resume was sent. The first
// that the enforcer says of the next boot is paused or clear, and what the agent
// reports of it begins in no stage but paused or integration.
func (d *device) cutsInResume(ctx context.Context, cuts int) (string, error) {
	paused := 0
	for n := range cuts {
		if _, err := d.cross(ctx); err != nil {
			return "", err
		}
		p := d.Device(d.id).Pause
		if p == nil || p.ID == "" {
			return "", errors.New("the verifier knows of no pause")
		}
		if err := d.Resume(d.id, p.ID); err != nil {
			return "", err
		}
		if _, err := d.m.run(ctx, fmt.Sprintf("sleep 0.%03d", rand.IntN(999))); err != nil {
			return "", err
		}
		seen := d.Device(d.id).Sequence
		if err := d.m.reset(ctx); err != nil {
			return "", err
		}
		if err := d.m.awaits(ctx, 3*time.Minute, "the enforcer answers", "factsd status"); err != nil {
			return "", err
		}
		if !d.Until("", 3*time.Minute, func() bool { return d.Device(d.id).Sequence > seen }) {
			return "", fmt.Errorf("cut %d: no report after it", n+1)
		}
		if d.m.holds(ctx, "factsd status | grep -qx 'latch: paused'") {
			paused++
			if err := d.stage("paused", 2*time.Minute); err != nil {
				return "", err
			}
			if _, err := d.resume(ctx); err != nil {
				return "", err
			}
		} else if err := d.stage("operating", 3*time.Minute); err != nil {
			return "", err
		}
		// Of the reports of a boot the first must not say operating.
		if err := d.boots(); err != nil {
			return "", fmt.Errorf("cut %d: %w", n+1, err)
		}
	}
	return fmt.Sprintf("%d of %d; %d came up paused, %d in integration", cuts, cuts, paused, cuts-paused), nil
}

// boots looks at all reports of the device: one that is the first of a boot says
// integration or paused.
func (d *device) boots() error {
	for _, r := range d.AllReports(d.id) {
		if r.Kind == "boot" && r.Stage != "integration" && r.Stage != "paused" {
			return fmt.Errorf("report %d, the first of its boot, says %s", r.Sequence, r.Stage)
		}
	}
	return nil
}

// changed boots what the manufacturer has not measured.
func (b *bench) changed(ctx context.Context, k *kit, d *device) {
	sound := d.m.hw
	other := d.Path("other-initrd")
	otherKernel := d.Path("other-kernel")
	for _, c := range []struct {
		what   string
		change func(*hardware) error
	}{
		{"another command line: not admitted", func(hw *hardware) error { hw.cmdline += " quiet_changed=1"; return nil }},
		{"another initrd: not admitted", func(hw *hardware) error {
			data, err := initrd(k.boot, "another")
			hw.initrd = other
			return errors.Join(err, os.WriteFile(other, data, 0o644))
		}},
		{"another kernel: not admitted", func(hw *hardware) error {
			hw.kernel = otherKernel
			return sign(ctx, d.Dir, k.kernel, otherKernel)
		}},
	} {
		b.check(d.v.name, c.what, func() (string, error) {
			hw := sound
			if err := c.change(&hw); err != nil {
				return "", err
			}
			if _, err := d.m.run(ctx, "sync"); err != nil {
				return "", err
			}
			d.m.off()
			d.m.hw = hw
			defer func() { d.m.hw = sound }()
			seen := d.Device(d.id).Sequence
			if err := errors.Join(d.m.start(ctx), d.m.up(ctx)); err != nil {
				return "", err
			}
			var words string
			if !d.Until("", 4*time.Minute, func() bool {
				v := d.Device(d.id)
				words = v.Finding("PCR")
				return v.Sequence > seen && v.Stage == "integration" && words != ""
			}) {
				v := d.Device(d.id)
				return "", fmt.Errorf("stage %q, tier %s, findings %v", v.Stage, v.Tier, v.Findings)
			}
			return strings.TrimSpace(words), nil
		})
	}
}
