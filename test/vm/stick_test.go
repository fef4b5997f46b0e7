package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// stick plugs a stick with a signed order into a paused device without a network: a
// disk that appears in a running machine, with a partition and VFAT on it. It sits in a
// PCI Express port, because Debian's cloud kernel has no USB.
func stick(ctx context.Context, b *bench, _ *kit, d *device) {
	m := d.m
	image := d.Path("stick.img")
	if !b.check(d.v.name, "a machine with a free port operates", func() (string, error) {
		if _, err := m.run(ctx, "sync"); err != nil {
			return "", err
		}
		m.off()
		m.hw.port = true
		if err := errors.Join(m.start(ctx), m.up(ctx)); err != nil {
			return "", err
		}
		// To the firmware it is another machine.
		e, err := d.golden(ctx, 2)
		if err != nil {
			return "", err
		}
		if err := d.publish(ctx, e); err != nil {
			return "", err
		}
		return m.run(ctx, "systemctl -q enable factsd-resume.service && sync")
	}) {
		return
	}
	if !b.check(d.v.name, "a stick with a resume, no network: taken, resumed", func() (string, error) {
		if _, err := d.cross(ctx); err != nil {
			return "", err
		}
		p := d.Device(d.id).Pause
		if p == nil || p.ID == "" {
			return "", errors.New("the verifier knows of no pause")
		}
		order := d.Path("stick.cbor")
		if _, err := d.Ctl("factsctl", "resume", "--device", d.id, "--pause", p.ID, "--key", d.Path("resume.key"), "--out", order); err != nil {
			return "", err
		}
		if err := mkstick(ctx, image, order); err != nil {
			return "", err
		}
		if err := m.cable(false); err != nil {
			return "", err
		}
		if err := d.flow(ctx, 120); err != nil {
			return "", err
		}
		began := time.Now()
		if err := m.plug(image); err != nil {
			return "", err
		}
		if err := m.awaits(ctx, time.Minute, "the latch is clear and the application runs", "factsd status | grep -qx 'latch: clear' && grep -qx 'frozen 0' /sys/fs/cgroup/"+d.medical()+"/cgroup.events"); err != nil {
			return "", err
		}
		took := time.Since(began)
		if err := m.awaits(ctx, time.Minute, "the stick is let go of", "! mountpoint -q /run/miotfacts.stick"); err != nil {
			return "", err
		}
		said, err := m.run(ctx, "journalctl --no-pager -b -o cat -u factsd-resume | grep -v systemd | head -3 | tr '\n' ' '")
		if err != nil {
			return "", err
		}
		if err := errors.Join(m.pull(ctx), m.cable(true)); err != nil {
			return "", err
		}
		return fmt.Sprintf("%.1f s after it was plugged in: %s", took.Seconds(), said), d.stage("operating", 2*time.Minute)
	}) {
		return
	}
	b.check(d.v.name, "the same stick at the next pause: refused, paused", func() (string, error) {
		if _, err := d.cross(ctx); err != nil {
			return "", err
		}
		if err := m.plug(image); err != nil {
			return "", err
		}
		const result = "systemctl show -P Result factsd-resume"
		if err := m.awaits(ctx, time.Minute, "the order is refused", `[ "$(`+result+`)" = exit-code ]`); err != nil {
			return "", err
		}
		if _, err := m.run(ctx, "factsd status | grep -qx 'latch: paused' && grep -qx 'frozen 1' /sys/fs/cgroup/"+d.medical()+"/cgroup.events"); err != nil {
			return "", err
		}
		said, err := m.run(ctx, "journalctl --no-pager -b -o cat -u factsd-resume | grep error: | tail -1")
		if err != nil {
			return "", err
		}
		if err := m.pull(ctx); err != nil {
			return "", err
		}
		_, err = d.resume(ctx)
		return strings.TrimSpace(said), err
	})
}

// mkstick makes the image of a stick: one partition, VFAT, labelled as the unit wants it.
func mkstick(ctx context.Context, image, order string) error {
	const start, size = 1 << 20, 4 << 20
	f, err := os.Create(image)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(start+size), f.Close()); err != nil {
		return err
	}
	if err := program(ctx, strings.NewReader(fmt.Sprintf("label: dos\nstart=%d, type=c\n", start/512)), "sfdisk", "-q", image); err != nil {
		return err
	}
	if err := program(ctx, nil, "mkfs.vfat", "-n", "MIOTFACTS", "--offset", fmt.Sprint(start/512), image, fmt.Sprint(size/1024)); err != nil {
		return err
	}
	return program(ctx, nil, "mcopy", "-i", fmt.Sprintf("%s@@%d", image, start), order, "::resume.cbor")
}
