package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// network pulls the machine's network cable.
func network(ctx context.Context, b *bench, _ *kit, d *device) {
	b.check(d.v.name, "the network gone and back: nothing is lost", func() (string, error) { return d.unplugged(ctx) })
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
