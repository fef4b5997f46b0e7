package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
)

// slots updates the system from A to B with the references of both in one manifest,
// goes back to A, and boots a mixture of both.
func slots(ctx context.Context, b *bench, k *kit, d *device) {
	m := d.m
	slotA := m.hw
	slotB := slotA
	slotB.cmdline += " slot=B"
	slotB.initrd = d.Path("initrd-B")
	boot := func(hw hardware) error {
		if _, err := m.run(ctx, "sync"); err != nil {
			return err
		}
		m.off()
		m.hw = hw
		return errors.Join(m.start(ctx), m.up(ctx))
	}
	if !b.check(d.v.name, "update A to B: both references, both operate", func() (string, error) {
		data, err := initrd(k.boot, "B")
		if err := errors.Join(err, os.WriteFile(slotB.initrd, data, 0o644)); err != nil {
			return "", err
		}
		refA, err := d.recorded(ctx, 2, "A", false)
		if err != nil {
			return "", err
		}
		if err := boot(slotB); err != nil {
			return "", err
		}
		refB, err := d.recorded(ctx, 2, "B", false)
		if err != nil {
			return "", err
		}
		both, err := merged(refA, refB)
		if err != nil {
			return "", err
		}
		if err := d.publish(ctx, both); err != nil {
			return "", fmt.Errorf("in B: %w", err)
		}
		for _, hw := range []hardware{slotA, slotB} {
			seen := d.Device(d.id).Sequence
			if err := boot(hw); err != nil {
				return "", err
			}
			if err := d.goesOn(seen); err != nil {
				return "", fmt.Errorf("with %q: %w", hw.cmdline, err)
			}
			if v := d.Device(d.id); v.Finding("PCR") != "" {
				return "", fmt.Errorf("with %q: %s", hw.cmdline, v.Finding("PCR"))
			}
		}
		return "", nil
	}) {
		return
	}
	b.check(d.v.name, "the command line of B with the initrd of A: not admitted", func() (string, error) {
		return d.refused(ctx, slotA, func(hw *hardware) error { hw.cmdline = slotB.cmdline; return nil }, "deviates", "boot.pcr_digest")
	})
}

// merged puts the system's version of b beside that of a, and the digests of both
// into the device's own rule.
func merged(a, b edition) (edition, error) {
	const version = "[[boot_group.version]]"
	from := strings.LastIndex(b.boot, version)
	_, digest, ok := strings.Cut(b.rules, `one_of = ["`)
	digest, _, ok2 := strings.Cut(digest, `"]`)
	if from < 0 || !ok || !ok2 {
		return a, fmt.Errorf("no version and digest in %s\n%s", b.boot, b.rules)
	}
	a.boot += "\n" + b.boot[from:]
	a.rules = strings.Replace(a.rules, `one_of = ["`, `one_of = ["`+digest+`", "`, 1)
	return a, nil
}
