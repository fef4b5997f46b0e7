package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// hmp runs a command of QEMU's monitor for people, which alone has snapshots with
// the state of the TPM in them. What it prints is an error.
func (m *machine) hmp(command string) error {
	data, err := m.qmp.execute("human-monitor-command", map[string]any{"command-line": command})
	if err != nil {
		return err
	}
	var said string
	if err := json.Unmarshal(data, &said); err != nil {
		return err
	}
	if said != "" {
		return fmt.Errorf("cannot %s: %s", command, said)
	}
	return nil
}

// A moment is a machine and its hospital as they were together: memory, disk, TPM,
// and what the verifier knew.
type moment struct {
	name   string
	hw     hardware
	boot   string
	stage  string // as the verifier had it
	accept []string
}

// keep takes the moment down, so that one boot serves many trials.
func (d *device) keep(ctx context.Context, name string) (*moment, error) {
	stage := d.Device(d.id).Stage
	// Stopped in between, both are at the same report.
	d.dismiss()
	dir := d.Path("kept-" + name)
	err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700), d.m.hmp("savevm "+name),
		program(ctx, nil, "cp", "-a", d.Path("verifier"), d.Path("manifest.cbor"), dir))
	if err != nil {
		return nil, err
	}
	return &moment{name: name, hw: d.m.hw, boot: d.m.boot, stage: stage, accept: slices.Clone(d.accept)}, d.hospital()
}

// back goes back to a moment. The machine's clock is set: it has slept.
func (d *device) back(ctx context.Context, to *moment) error {
	d.dismiss()
	if d.m.qemu == nil || d.m.hw != to.hw {
		d.m.off()
		d.m.hw = to.hw
		if err := d.m.start(ctx); err != nil {
			return err
		}
	}
	dir := d.Path("kept-" + to.name)
	err := errors.Join(d.m.hmp("loadvm "+to.name), os.RemoveAll(d.Path("verifier")), program(ctx, nil, "cp", "-a", dir+"/verifier", dir+"/manifest.cbor", d.Dir))
	if err != nil {
		return err
	}
	d.m.boot, d.accept = to.boot, slices.Clone(to.accept)
	d.m.link.forget()
	if err := d.hospital(); err != nil {
		return err
	}
	if _, err := d.m.run(ctx, fmt.Sprintf("date -u -s @%d", time.Now().Unix())); err != nil {
		return err
	}
	seen := d.Device(d.id).Sequence
	if !d.Until("", 2*time.Minute, func() bool { return d.Device(d.id).Sequence > seen }) {
		return errors.New("no report after going back to the moment that was kept")
	}
	return d.stage(to.stage, time.Minute)
}
