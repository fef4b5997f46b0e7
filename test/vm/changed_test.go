package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// changed boots what the manufacturer has not measured.
func changed(ctx context.Context, b *bench, k *kit, d *device) {
	sound := d.m.hw
	otherLine := func(hw *hardware) error { hw.cmdline += " quiet_changed=1"; return nil }
	b.check(d.v.name, "boot.accept alone, another command line: not admitted", func() (string, error) {
		return d.refused(ctx, sound, otherLine, "deviates", "boot.pcr_digest")
	})
	if !b.check(d.v.name, "references by events: admitted, and affirmed", func() (string, error) {
		d.m.off()
		d.m.hw = sound
		if err := errors.Join(d.m.start(ctx), d.m.up(ctx)); err != nil {
			return "", err
		}
		e, err := d.recorded(ctx, 2, "1", false)
		if err != nil {
			return "", err
		}
		if err := d.publish(ctx, e); err != nil {
			return "", err
		}
		if v := d.Device(d.id); v.Tier != "affirming" {
			return "", fmt.Errorf("tier %s: %v", v.Tier, v.Findings)
		}
		return "", nil
	}) {
		return
	}
	b.check(d.v.name, "another command line: not admitted", func() (string, error) {
		return d.refused(ctx, sound, otherLine, "boot-cmdline", "quiet_changed=1")
	})
	b.check(d.v.name, "another initrd: not admitted", func() (string, error) {
		return d.refused(ctx, sound, func(hw *hardware) error {
			data, err := initrd(k.boot, "another")
			hw.initrd = d.Path("other-initrd")
			return errors.Join(err, os.WriteFile(hw.initrd, data, 0o644))
		}, "boot-initrd", "")
	})
	b.check(d.v.name, "another kernel: not admitted", func() (string, error) {
		return d.refused(ctx, sound, func(hw *hardware) (err error) {
			hw.kernel, hw.initrd, err = k.other(ctx)
			return err
		}, "boot-kernel", "")
	})
	b.check(d.v.name, "an agent that nobody allowed: told by name", func() (string, error) {
		d.m.off()
		d.m.hw = sound
		if err := errors.Join(d.m.start(ctx), d.m.up(ctx)); err != nil {
			return "", err
		}
		return d.otherAgent(ctx)
	})
}

// refused boots changed hardware, and waits until the device keeps itself from
// operating and the verifier names the cause.
func (d *device) refused(ctx context.Context, sound hardware, change func(*hardware) error, code, words string) (string, error) {
	hw := sound
	if err := change(&hw); err != nil {
		return "", err
	}
	if _, err := d.m.run(ctx, "sync"); err != nil {
		return "", err
	}
	d.m.off()
	d.m.hw = hw
	seen := d.Device(d.id).Sequence
	if err := errors.Join(d.m.start(ctx), d.m.up(ctx)); err != nil {
		return "", err
	}
	said := ""
	if !d.Until("", 8*time.Minute, func() bool {
		v := d.Device(d.id)
		for _, f := range v.Findings {
			if f.Code == code && strings.Contains(f.Text, words) {
				said = f.Text
			}
		}
		return v.Sequence > seen+1 && v.Stage == "integration" && v.Tier == "contraindicated" && said != ""
	}) {
		v := d.Device(d.id)
		return "", fmt.Errorf("report %d, before %d: stage %q, tier %s, findings %v", v.Sequence, seen, v.Stage, v.Tier, v.Findings)
	}
	if f := d.Device(d.id).Finding("failed"); f == "" {
		return "", errors.New("the verifier does not say that the comparison of the integration stage failed")
	}
	return said, nil
}

var recordedPCRs = regexp.MustCompile(`(?m)^boot = \{ pcrs = \[([0-9, ]+)\] \}$`)

// recorded makes the present boot a reference by its events, with what the device
// itself can compare: the digest of its PCRs, and the kernel's release. With files,
// what IMA has measured so far is allowed; then no digest stands still.
func (d *device) recorded(ctx context.Context, sequence int, name string, files bool) (edition, error) {
	e := edition{sequence: sequence, every: "2s"}
	for to, script := range map[string]string{
		"bios.bin":   "base64 -w0 /sys/kernel/security/tpm0/binary_bios_measurements",
		"ima.bin":    "base64 -w0 /sys/kernel/security/ima/binary_runtime_measurements",
		"line.txt":   "base64 -w0 /proc/cmdline",
		"values.txt": "for n in $(seq 0 23); do echo $n $(cat /sys/class/tpm/tpm0/pcr-sha256/$n); done | base64 -w0",
	} {
		text, err := d.m.run(ctx, script)
		if err != nil {
			return e, err
		}
		data, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return e, err
		}
		if err := os.WriteFile(d.Path(to), data, 0o600); err != nil {
			return e, err
		}
	}
	args := []string{"boot", "record", "--name", name, "--firmware", d.Path("bios.bin"), "--cmdline", d.Path("line.txt"), "--pcr-values", d.Path("values.txt")}
	if files {
		args = append(args, "--ima="+d.Path("ima.bin"))
	}
	text, err := d.Ctl("factsctl", args...)
	if err != nil {
		return e, err
	}
	e.boot = text
	if e.rules, err = d.release(ctx); err != nil || files {
		return e, err
	}
	list := recordedPCRs.FindStringSubmatch(text)
	if list == nil {
		return e, fmt.Errorf("no PCRs in %s", text)
	}
	var pcrs []int
	for _, field := range strings.Split(list[1], ",") {
		n, err := strconv.Atoi(strings.TrimSpace(field))
		if err != nil {
			return e, err
		}
		pcrs = append(pcrs, n)
	}
	digest, err := d.digest(ctx, pcrs)
	e.rules += fmt.Sprintf("\n[[integration]]\nfact = \"boot.pcr_digest\"\none_of = [\"hex:%s\"]\n", digest)
	return e, err
}

// otherAgent replaces the agent by one that differs in a byte behind its end. The
// device says that it operates: an agent says what it likes. The verifier sees in
// the kernel's list what was run.
func (d *device) otherAgent(ctx context.Context) (string, error) {
	// What is still to start would be as unknown as the agent: the boot goes to its end
	// first, and the recording's own programs run once.
	if err := d.m.awaits(ctx, 5*time.Minute, "systemd is running", "systemctl is-system-running --wait"); err != nil {
		return "", err
	}
	if _, err := d.recorded(ctx, 3, "1", true); err != nil {
		return "", err
	}
	e, err := d.recorded(ctx, 3, "1", true)
	if err != nil {
		return "", err
	}
	if err := d.publish(ctx, e); err != nil {
		return "", err
	}
	named := func() string {
		for _, f := range d.Device(d.id).Findings {
			if f.Code == "file" && strings.Contains(f.Text, "/usr/bin/factsd") {
				return f.Text
			}
		}
		return ""
	}
	if text := named(); text != "" {
		return "", fmt.Errorf("before the change: %s", text)
	}
	if _, err := d.m.run(ctx, "set -e; cp /usr/bin/factsd /usr/bin/factsd.new; printf x >>/usr/bin/factsd.new; mv /usr/bin/factsd.new /usr/bin/factsd; sync; systemctl restart factsd-enforce factsd"); err != nil {
		return "", err
	}
	if !d.Until("", 5*time.Minute, func() bool { return named() != "" && d.Device(d.id).Tier == "contraindicated" }) {
		v := d.Device(d.id)
		return "", fmt.Errorf("stage %q, tier %s, findings %v", v.Stage, v.Tier, v.Findings)
	}
	return named(), nil
}
