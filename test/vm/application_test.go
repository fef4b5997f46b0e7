package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/miotfacts/miotfacts/test/lab"
)

// application is a medical application that asks for time before a pause, and that
// puts one off, for longer than the manifest gives it.
func application(ctx context.Context, b *bench, _ *kit, d *device) {
	const given = 4 // seconds
	ready := func() error {
		e, err := d.golden(ctx, 2)
		if err != nil {
			return err
		}
		e.chain = prepareStep(given) + d.freezeStep()
		return d.publish(ctx, e)
	}
	if !b.check(d.v.name, "a manifest that gives the application time", func() (string, error) { return "", ready() }) {
		return
	}
	b.check(d.v.name, "the application asks for time, then holds", func() (string, error) {
		return d.prepares(ctx, 1500, func(e lab.Effect) error {
			if !e.Done || !strings.Contains(e.Observed, "asked for 1500 ms") || e.Millis < 1125 || e.Millis > given*1000 {
				return errors.New("want ready after 1125 ms at the earliest, within the step's time")
			}
			return nil
		})
	})
	b.check(d.v.name, "it asks for a minute: frozen at the signed end", func() (string, error) {
		return d.prepares(ctx, 60_000, func(e lab.Effect) error {
			if e.Done || !strings.Contains(e.Observed, "asked for 60000 ms") || e.Millis < given*1000-1000 || e.Millis > given*1000+500 {
				return fmt.Errorf("want not ready, and %d s at most", given)
			}
			return nil
		})
	})
	b.check(d.v.name, "it puts a pause off: told, and paused at the signed end", func() (string, error) { return d.putsOff(ctx) })
}

// prepares crosses the extreme with an application that asks for so many ms, and
// shows what the verifier says of it.
func (d *device) prepares(ctx context.Context, asks int, right func(lab.Effect) error) (string, error) {
	if _, err := d.m.run(ctx, fmt.Sprintf("echo %d >/run/medical/prepare", asks)); err != nil {
		return "", err
	}
	if _, err := d.cross(ctx); err != nil {
		return "", err
	}
	var found *lab.Effect
	if !d.Until("", time.Minute, func() bool {
		p := d.Device(d.id).Pause
		if p == nil {
			return false
		}
		for _, e := range p.Effects {
			if e.Kind == "prepare" {
				found = &e
			}
		}
		return found != nil && slices.ContainsFunc(p.Effects, func(e lab.Effect) bool { return e.Kind == "freeze" && e.Done })
	}) {
		return "", fmt.Errorf("no report of prepare and freeze: %+v", d.Device(d.id).Pause)
	}
	if err := right(*found); err != nil {
		return "", fmt.Errorf("%w: %+v", err, *found)
	}
	_, err := d.resume(ctx)
	return fmt.Sprintf("%s (%d ms)", found.Observed, found.Millis), err
}

// putsOff crosses the extreme with an application that wants to put the pause off for
// an hour. It runs on for the signed time, while the verifier says so, and no longer.
func (d *device) putsOff(ctx context.Context) (string, error) {
	const most = 15 // seconds
	e, err := d.golden(ctx, 3)
	if err != nil {
		return "", err
	}
	e.head = fmt.Sprintf(`defer = { most = "%ds", total = "1min", user = "root", answer = "1s" }`, most)
	if err := d.publish(ctx, e); err != nil {
		return "", err
	}
	if _, err := d.m.run(ctx, "echo 3600000 >/run/medical/defer"); err != nil {
		return "", err
	}
	if err := d.flow(ctx, 600); err != nil {
		return "", err
	}
	if err := d.m.awaits(ctx, time.Minute, "the pause is put off", "factsd status | grep -q '^deferred: .* more$'"); err != nil {
		return "", err
	}
	if d.m.holds(ctx, "grep -qx 'frozen 1' /sys/fs/cgroup/"+d.medical()+"/cgroup.events") {
		return "", errors.New("frozen while it is put off")
	}
	if !d.Until("", most*time.Second, func() bool {
		v := d.Device(d.id)
		return v.Stage == "paused" && v.Pause != nil && v.Pause.Deferral != nil && v.Pause.Deferral.Why == ""
	}) {
		return "", fmt.Errorf("the verifier does not say that the pause is put off: %+v", d.Device(d.id).Pause)
	}
	if err := d.m.awaits(ctx, time.Minute, "the kernel says frozen", "grep -qx 'frozen 1' /sys/fs/cgroup/"+d.medical()+"/cgroup.events"); err != nil {
		return "", err
	}
	var lasted int64
	var why string
	if !d.Until("", time.Minute, func() bool {
		if p := d.Device(d.id).Pause; p != nil && p.Deferral != nil {
			lasted, why = p.Deferral.Lasted, p.Deferral.Why
		}
		return why != ""
	}) {
		return "", fmt.Errorf("the verifier does not say that it is over: %+v", d.Device(d.id).Pause)
	}
	if lasted < most*1000-500 || lasted > most*1000+1000 {
		return "", fmt.Errorf("put off for %d ms (%s), signed are %d s", lasted, why, most)
	}
	_, err = d.resume(ctx)
	return fmt.Sprintf("%d ms of %d s: %s", lasted, most, why), err
}
