package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// level says how much is run: MIOTFACTS_VM is "quick", "most" or "all".
func level(t *testing.T) string {
	t.Helper()
	l := os.Getenv("MIOTFACTS_VM")
	switch l {
	case "":
		t.Skip("NOT RUN: the virtual machine takes minutes: make test-vm-quick, make test-vm, make test-vm-all")
	case "quick", "most", "all":
	default:
		t.Fatalf("MIOTFACTS_VM=%q: want quick, most or all", l)
	}
	if os.Geteuid() != 0 {
		t.Skip("NOT RUN: only root can lay a root file system")
	}
	for _, p := range [][2]string{
		{"qemu-system-aarch64", "qemu-system-arm"}, {"qemu-img", "qemu-utils"}, {"swtpm", "swtpm"}, {"swtpm_setup", "swtpm-tools"}, {"mkfs.ext4", "e2fsprogs"},
		{"depmod", "kmod"}, {"zstd", "zstd"}, {"xz", "xz-utils"}, {"mkimage", "u-boot-tools"}, {"mcopy", "mtools"}, {"mkfs.vfat", "dosfstools"}, {"sfdisk", "fdisk"},
		{"aarch64-linux-gnu-objcopy", "binutils-aarch64-linux-gnu"}, {"sbsign", "sbsigntool"},
	} {
		if _, err := exec.LookPath(p[0]); err != nil {
			t.Fatalf("%s is not here: apt install %s, or make deps-vm", p[0], p[1])
		}
	}
	for _, f := range [][2]string{{firmwareEDK2, "qemu-efi-aarch64"}, {firmwareUBoot, "u-boot-qemu"}, {variables, "qemu-efi-aarch64"}} {
		if _, err := os.Stat(f[0]); err != nil {
			t.Fatalf("%s is not here: apt install %s, or make deps-vm", f[0], f[1])
		}
	}
	return l
}

// A result is what one check found in one variant.
type result struct {
	variant, check, saw string
	err                 error
	took                time.Duration
}

// A bench runs checks and keeps what they found.
type bench struct {
	t       *testing.T
	cuts    int // of the power, at each place
	results []result
}

// check runs one check in a variant. What it saw is shown in the table.
func (b *bench) check(v, what string, do func() (string, error)) bool {
	b.t.Helper()
	began := time.Now()
	saw, err := do()
	b.results = append(b.results, result{v, what, saw, err, time.Since(began)})
	if err != nil {
		b.t.Errorf("%s: %s: %v", v, what, err)
	} else {
		b.t.Logf("%s: %s: ok (%.0f s) %s", v, what, time.Since(began).Seconds(), saw)
	}
	return err == nil
}

// table prints variants against checks.
func (b *bench) table() string {
	var columns, rows []string
	for _, r := range b.results {
		if !slices.Contains(columns, r.variant) {
			columns = append(columns, r.variant)
		}
		if !slices.Contains(rows, r.check) {
			rows = append(rows, r.check)
		}
	}
	var out strings.Builder
	fmt.Fprintf(&out, "\n%-52s", "")
	for _, c := range columns {
		fmt.Fprintf(&out, " %-9s", c)
	}
	for _, row := range rows {
		fmt.Fprintf(&out, "\n%-52s", row)
		for _, c := range columns {
			cell := "-"
			if i := slices.IndexFunc(b.results, func(r result) bool { return r.variant == c && r.check == row }); i >= 0 {
				cell = "ok"
				if b.results[i].err != nil {
					cell = "FAILED"
				}
			}
			fmt.Fprintf(&out, " %-9s", cell)
		}
	}
	out.WriteString("\n\n")
	for _, r := range b.results {
		if r.saw != "" {
			fmt.Fprintf(&out, "%s: %s: %s\n", r.variant, r.check, r.saw)
		}
	}
	return out.String()
}

// TestMachine boots each variant and checks what has to hold in it.
func TestMachine(t *testing.T) {
	how := level(t)
	ctx := t.Context()
	k, err := newKit(ctx, "../..", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t}
	defer func() { t.Log(b.table()) }()
	only := os.Getenv("VARIANTS")
	for _, v := range variants() {
		if how == "quick" && v.name != "edk2" || only != "" && !slices.Contains(strings.Fields(only), v.name) {
			continue
		}
		if err := b.variant(ctx, k, v, how); err != nil {
			t.Errorf("%s: %v", v.name, err)
		}
	}
}

// variant runs the checks of one variant.
func (b *bench) variant(ctx context.Context, k *kit, v variant, how string) error {
	d, err := newDevice(ctx, k, v)
	if err != nil {
		return err
	}
	defer d.close()
	m := d.m
	if !b.check(v.name, "boots", func() (string, error) {
		if err := m.start(ctx); err != nil {
			return "", err
		}
		if err := m.up(ctx); err != nil {
			return "", err
		}
		if v.busybox {
			return fmt.Sprintf("%.0f s", time.Since(m.began).Seconds()), nil
		}
		if err := m.awaits(ctx, 5*time.Minute, "systemd is running", "systemctl is-system-running --wait"); err != nil {
			failed, _ := m.run(ctx, "systemctl --failed --no-legend")
			return "", fmt.Errorf("%w\n%s", err, failed)
		}
		return m.run(ctx, "systemd-analyze time | head -1")
	}) {
		return nil
	}
	if !v.noTPM {
		b.check(v.name, "the firmware's log replays to the PCRs", func() (string, error) { return d.replays(ctx) })
	}
	if d.expected != nil {
		b.check(v.name, "its boot is as predicted from the image", func() (string, error) { return d.asPredicted(ctx) })
	}
	if err := d.sign(ctx, 1); err != nil {
		return err
	}
	d.expected = nil // later boots are of other images
	if err := d.hospital(); err != nil {
		return err
	}
	if !b.check(v.name, "enrols over MQTT and TLS, is admitted, operates", func() (string, error) {
		if err := d.provision(ctx); err != nil {
			return "", err
		}
		if err := d.admit(); err != nil {
			log, _ := m.run(ctx, "journalctl --no-pager -n 40 -u factsd -u factsd-enforce || cat /var/log/factsd 2>/dev/null")
			return "", fmt.Errorf("%w\n%s", err, log)
		}
		want := "TPM"
		if v.noTPM {
			want = "key file, no TPM"
		}
		if have := d.Device(d.id).Protection; have != want {
			return "", fmt.Errorf("the key is protected by %q, want %q", have, want)
		}
		return "", nil
	}) {
		return nil
	}
	if !v.noTPM {
		b.check(v.name, "its boot is quoted and accepted", func() (string, error) {
			for _, r := range d.Reports(d.id) {
				if r.Quoted {
					for _, f := range r.Findings {
						if strings.Contains(f.Code, "boot") {
							return "", fmt.Errorf("%s: %s", f.Code, f.Text)
						}
					}
					return "", nil
				}
			}
			return "", errors.New("no report has a quote")
		})
	}
	b.check(v.name, "a crossing freezes the application", func() (string, error) { return d.cross(ctx) })
	if v.name == "edk2" || v.busybox {
		b.check(v.name, "reset while paused: paused, application not started", func() (string, error) { return d.resetPaused(ctx) })
	}
	b.check(v.name, "a signed resume ends the pause", func() (string, error) { return d.resume(ctx) })
	if v.memory != "" {
		b.check(v.name, "stays within its memory", func() (string, error) {
			return m.run(ctx, `cd /sys/fs/cgroup/miotfacts.slice && grep -qx "oom_kill 0" memory.events && echo peak $(cat memory.peak) of $(cat memory.max) B`)
		})
	}
	if v.armv7 {
		b.check(v.name, "the agent is a program for 32 bits", func() (string, error) {
			return m.run(ctx, `[ "$(head -c 5 /proc/$(systemctl show -P MainPID factsd)/exe | tail -c 1 | od -An -tu1 | tr -d ' ')" = 1 ]`)
		})
	}
	if v.name == "edk2" {
		return b.full(ctx, k, d, how)
	}
	return nil
}

// why adds to an error what the machine says of itself.
func (d *device) why(ctx context.Context, err error) error {
	if err == nil || d.v.busybox {
		return err
	}
	out, _, lost := d.m.link.run(ctx, "date; factsd status; systemctl --no-pager --failed; systemctl show -P ActiveState,SubState,NRestarts medical; head -v /run/medical/flow /run/medical/beats; cat /sys/fs/cgroup/system.slice/medical.service/cgroup.events; journalctl --no-pager -b -n 60 -o short-monotonic", nil, time.Minute)
	return errors.Join(err, lost, errors.New(out))
}

// replays compares the replay of the firmware's log with the TPM's registers.
func (d *device) replays(ctx context.Context) (string, error) {
	text, err := d.m.run(ctx, "[ -e /sys/kernel/security/tpm0 ] || mount -t securityfs s /sys/kernel/security; base64 -w0 /sys/kernel/security/tpm0/binary_bios_measurements 2>/dev/null || /bin/busybox base64 /sys/kernel/security/tpm0/binary_bios_measurements")
	if err != nil {
		return "", err
	}
	log, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(text, "\n", ""))
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(d.Path("bios.bin"), log, 0o600); err != nil {
		return "", err
	}
	out, err := d.Ctl("factsctl", "evidence", "replay", d.Path("bios.bin"), "--json")
	if err != nil {
		return "", err
	}
	var replay struct {
		Events int                          `json:"events"`
		PCRs   map[string]map[string]string `json:"pcrs"`
	}
	if err := json.Unmarshal([]byte(out), &replay); err != nil {
		return "", err
	}
	var bank map[string]string
	for name, pcrs := range replay.PCRs {
		if strings.Contains(strings.ToLower(strings.ReplaceAll(name, "-", "")), "sha256") {
			bank = pcrs
		}
	}
	if len(bank) == 0 {
		return "", fmt.Errorf("no SHA-256 bank in %s", out)
	}
	for n, want := range bank {
		have, err := d.m.run(ctx, "cat /sys/class/tpm/tpm0/pcr-sha256/"+n)
		if err != nil {
			return "", err
		}
		if !strings.EqualFold(have, want) {
			return "", fmt.Errorf("PCR %s is %s, the log leads to %s", n, have, want)
		}
	}
	return fmt.Sprintf("%d events, %d PCRs", replay.Events, len(bank)), nil
}

// cross lets the simulated infusion run away and waits until it is frozen.
func (d *device) cross(ctx context.Context) (string, error) {
	if err := d.flow(ctx, 600); err != nil {
		return "", err
	}
	if err := d.m.awaits(ctx, time.Minute, "the kernel says frozen", "grep -qx 'frozen 1' /sys/fs/cgroup/"+d.medical()+"/cgroup.events"); err != nil {
		return "", err
	}
	if err := d.stage("paused", time.Minute); err != nil {
		return "", err
	}
	return d.m.run(ctx, "factsd status | grep '^step: freeze'")
}

// resetPaused presses the button of a paused device.
func (d *device) resetPaused(ctx context.Context) (string, error) {
	if err := d.m.reset(ctx); err != nil {
		return "", err
	}
	return d.stillPaused(ctx)
}

// stillPaused looks whether a machine that booted is paused, and whether its
// medical application kept away. The application writes down in which boot it
// starts: what a reset loses of that is of the boot before.
func (d *device) stillPaused(ctx context.Context) (string, error) {
	if err := d.m.awaits(ctx, 10*time.Minute, "the enforcer says paused", "factsd status | grep -qx 'latch: paused'"); err != nil {
		return "", err
	}
	if d.v.busybox {
		// It starts after the enforcer, and the chain takes hold of it.
		if err := d.m.awaits(ctx, time.Minute, "the application is frozen again", "grep -qx 'frozen 1' /sys/fs/cgroup/medical/cgroup.events"); err != nil {
			return "", err
		}
		_, err := d.m.run(ctx, `grep -qx "latch: paused $(cat /proc/sys/kernel/random/boot_id)" /var/lib/medical-started`)
		return "it started after the latch, and was frozen", err
	}
	if err := d.m.awaits(ctx, 10*time.Minute, "the application was tried and held back", `[ "$(systemctl show -P NRestarts medical)" -ge 1 ]`); err != nil {
		return "", err
	}
	if d.m.holds(ctx, `grep -qx "$(cat /proc/sys/kernel/random/boot_id)" /var/lib/medical-started`) {
		return "", errors.New("the application has started in this boot")
	}
	return "", d.stage("paused", 2*time.Minute)
}

// resume ends the pause by the operator's signature.
func (d *device) resume(ctx context.Context) (string, error) {
	if err := d.flow(ctx, 120); err != nil && d.v.busybox {
		return "", err
	}
	// A command to a device that is not connected, as after a reset, is lost: the
	// operator sees that it is still paused, and gives another.
	var err error
	given := 0
	for ; given == 0 || err != nil && given < 8; given++ {
		now := d.Device(d.id)
		if now.Stage == "paused" {
			if now.Pause == nil {
				return "", errors.New("the verifier knows of no pause")
			}
			if now.Pause.ID != "" { // else its enforcer has not been asked yet
				if err := d.Resume(d.id, now.Pause.ID); err != nil {
					return "", err
				}
			}
		}
		err = d.stage("operating", 20*time.Second)
	}
	if err != nil {
		return "", err
	}
	script := "systemctl -q is-active medical && ! grep -qx 'frozen 1' /sys/fs/cgroup/" + d.medical() + "/cgroup.events"
	if d.v.busybox {
		script = "! grep -qx 'frozen 1' /sys/fs/cgroup/medical/cgroup.events && [ -s /run/medical/beats ]"
	}
	return "", d.m.awaits(ctx, time.Minute, "the application runs", script)
}
