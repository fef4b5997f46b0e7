package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/verifier"
	"github.com/miotfacts/miotfacts/verifier/store"
)

// day takes the network away for as many reports as a day has with one a minute, made
// at one a second, and pauses the device shortly before the network is back.
func day(ctx context.Context, b *bench, _ *kit, d *device) {
	m, n := d.m, uint64(72*b.cuts) // 1440, all of a day, with 20
	var before uint64
	var lost int
	b.check(d.v.name, "a day's reports without the network: kept, bounded", func() (string, error) {
		e, err := d.golden(ctx, 2)
		if err != nil {
			return "", err
		}
		e.every = "1s"
		if err := d.publish(ctx, e); err != nil {
			return "", err
		}
		if err := d.reported(); err != nil {
			return "", err
		}
		if err := m.cable(false); err != nil {
			return "", err
		}
		// A report of the manifest before, made while the hospital changed over to the
		// present one, is refused: that is this test's doing.
		lost = d.missing()
		before = d.Device(d.id).Sequence
		began := time.Now()
		const size = `p=$(systemctl show -P MainPID factsd); echo $(sed -n 's/^VmRSS:\s*\([0-9]*\) kB/\1/p' /proc/$p/status) $(du -sb /var/lib/miotfacts/spool)`
		look := func() (memory, spool int64, err error) {
			text, err := m.run(ctx, size)
			if err != nil {
				return 0, 0, err
			}
			_, err = fmt.Sscan(text, &memory, &spool)
			return memory, spool, err
		}
		if _, err := m.run(ctx, "sleep 30"); err != nil {
			return "", err
		}
		memory, spool, err := look()
		if err != nil {
			return "", err
		}
		most, fullest := memory, spool
		for time.Since(began) < time.Duration(n)*time.Second {
			if _, err := m.run(ctx, "sleep 20"); err != nil {
				return "", err
			}
			now, bytes, err := look()
			if err != nil {
				return "", err
			}
			most, fullest = max(most, now), max(fullest, bytes)
			b.t.Logf("%.0f s without the network: %d kB of memory, spool of %d B", time.Since(began).Seconds(), now, bytes)
		}
		if most > memory+4096 || fullest > 16<<20 {
			return "", fmt.Errorf("memory %d kB after 30 s, at most %d kB; spool at most %d B: want 4 MiB more at most, and 16 MiB", memory, most, fullest)
		}
		// The application is frozen, and nobody outside knows.
		if err := d.flow(ctx, 600); err != nil {
			return "", err
		}
		if err := m.awaits(ctx, time.Minute, "the kernel says frozen", "grep -qx 'frozen 1' /sys/fs/cgroup/"+d.medical()+"/cgroup.events"); err != nil {
			out, _ := m.run(ctx, "ls -l /run/miotfacts/app /run/medical; cat /run/medical/told; ss -xa | grep -e facts -e infusion")
			return "", fmt.Errorf("%w\n%s", err, out)
		}
		if _, err := m.run(ctx, "sleep 10"); err != nil {
			return "", err
		}
		return fmt.Sprintf("%.0f s; memory of factsd %d kB after 30 s, at most %d kB; spool at most %d kB", time.Since(began).Seconds(), memory, most, fullest>>10), nil
	})
	b.check(d.v.name, "the network is back: the alarm first, all in order", func() (string, error) {
		plugged := time.Now()
		if err := m.cable(true); err != nil {
			return "", err
		}
		var first string
		if !d.Until("", 3*time.Minute, func() bool {
			v := d.Device(d.id)
			first = v.Finding("have not come")
			return v.Stage == "paused"
		}) {
			return "", fmt.Errorf("the verifier does not know of the pause: %+v; refused: %+v", d.Device(d.id), d.Refused())
		}
		known := time.Since(plugged)
		if !d.Until("", 5*time.Minute, func() bool {
			v := d.Device(d.id)
			return v.Sequence >= before+n && d.missing() <= lost
		}) {
			return "", fmt.Errorf("the verifier has report %d, before it had %d: %s", d.Device(d.id).Sequence, before, d.Device(d.id).Finding("have not come"))
		}
		all := time.Since(plugged)
		saw, err := d.order(before)
		if err != nil {
			return "", err
		}
		if _, err := d.resume(ctx); err != nil {
			return "", err
		}
		return fmt.Sprintf("the pause was known after %.1f s (%s), all after %.1f s; %s", known.Seconds(), first, all.Seconds(), saw), nil
	})
}

// missing is how many reports the verifier misses.
func (d *device) missing() int {
	n := 0
	fmt.Sscan(d.Device(d.id).Finding("have not come"), &n)
	return n
}

// order reads in the verifier's store, whose clock has whole seconds, when the reports
// after one came: the alarms before all others, the others by their sequence, and none
// is missing.
func (d *device) order(before uint64) (string, error) {
	id, err := attest.ParseUEID(d.id)
	if err != nil {
		return "", err
	}
	d.dismiss()
	s, err := store.Open(d.Path("verifier/fleet.db"))
	if err != nil {
		return "", err
	}
	records, err := s.Reports(id, 1<<20)
	if err := errors.Join(err, s.Close(), d.hospital()); err != nil {
		return "", err
	}
	slices.Reverse(records) // by sequence now
	records = slices.DeleteFunc(records, func(r verifier.Record) bool { return r.Sequence <= before })
	var routine, alarms []verifier.Record
	for i, r := range records {
		if r.Sequence != before+1+uint64(i) {
			return "", fmt.Errorf("report %d is missing", before+1+uint64(i))
		}
		if r.Kind == attest.KindAlarm {
			alarms = append(alarms, r)
		} else {
			routine = append(routine, r)
		}
	}
	if len(alarms) == 0 || len(routine) == 0 {
		return "", fmt.Errorf("%d alarms and %d other reports", len(alarms), len(routine))
	}
	// What was on its way when the cable was pulled may have come before.
	waited := slices.IndexFunc(routine, func(r verifier.Record) bool { return r.ReceivedAt >= alarms[0].ReceivedAt })
	if waited < 0 || waited > 5 {
		return "", fmt.Errorf("alarm %d came at %d, after %d other reports", alarms[0].Sequence, alarms[0].ReceivedAt, waited)
	}
	for i := waited + 1; i < len(routine); i++ {
		if routine[i].ReceivedAt < routine[i-1].ReceivedAt {
			return "", fmt.Errorf("report %d came before report %d", routine[i].Sequence, routine[i-1].Sequence)
		}
	}
	return fmt.Sprintf("%d reports and %d alarms, the first of them (report %d) %d s before report %d", len(routine), len(alarms),
		alarms[0].Sequence, routine[waited].ReceivedAt-alarms[0].ReceivedAt, routine[waited].Sequence), nil
}
