package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// inside is what is done in a container with its own systemd, to a service that
// runs there: recorded in sound runs, stopped, and killed.
const inside = `#!/bin/sh
exec >/out/log 2>&1
record() { /out/factsctl record --out "/out/$1" --append --for "$2" --period "$PERIOD"; }
until [ "$(systemctl is-active pump)" = active ]; do sleep 0.1; done
sleep 2
for i in $(seq "$RUNS"); do record service-golden.jsonl "$LENGTH" || exit 1; done
for i in $(seq "$REPEATS"); do
	for how in stop "kill -s KILL"; do
		name=stopped; [ "$how" = stop ] || name=killed
		record "a-service-of-systemd-is-$name.jsonl" "$SICK" & recording=$!
		sleep "$AFTER"
		systemctl $how pump
		wait $recording || exit 1
		systemctl reset-failed pump
		systemctl start pump
		sleep 1
	done
done
touch /out/done
`

// booting boots that container from this machine's root, over an overlay in memory,
// in mounts of its own.
const booting = `set -e
mount -t tmpfs -o mode=0755 tmpfs "$WORK"
mkdir "$WORK/machine" "$WORK/upper" "$WORK/work"
mount -t overlay -o "lowerdir=/,upperdir=$WORK/upper,workdir=$WORK/work" overlay "$WORK/machine"
root=$WORK/machine
rm -f "$root/etc/machine-id"; : > "$root/etc/machine-id"
mkdir -p "$root/out"
printf '[Service]\nExecStart=/bin/sleep 1000000\n' > "$root/etc/systemd/system/pump.service"
printf '[Unit]\nAfter=dbus.socket\nRequires=dbus.socket\nWants=pump.service\n[Service]\nType=oneshot\nExecStart=/out/inside\nEnvironment=RUNS=%s REPEATS=%s LENGTH=%s PERIOD=%s SICK=%s AFTER=%s\nExecStopPost=/usr/bin/systemctl --no-block poweroff\n' "$RUNS" "$REPEATS" "$LENGTH" "$PERIOD" "$SICK" "$AFTER" > "$root/etc/systemd/system/inside.service"
mount -t tmpfs tmpfs /run
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
exec systemd-nspawn -q --register=no --keep-unit --private-network --timezone=off --console=read-only -D "$root" --bind="$OUT:/out" --boot systemd.unit=inside.service
`

// services does it, or says why it was not.
func (b *bench) services() error {
	fmt.Fprintf(b.out, "\na service of a real systemd, in a container: %d sound runs, and stopped and killed %d times each\n", b.sound, b.repeats)
	if os.Getuid() != 0 {
		fmt.Fprintln(b.out, "NOT RUN: a container needs root")
		return nil
	}
	for program, pkg := range map[string]string{"systemd-nspawn": "systemd-container", "unshare": "util-linux", "/lib/systemd/systemd": "systemd"} {
		if _, err := exec.LookPath(program); err != nil {
			fmt.Fprintf(b.out, "NOT RUN: %s is missing: install the package %s\n", program, pkg)
			return nil
		}
	}
	work, err := os.MkdirTemp(b.dir, "container-")
	if err != nil {
		return err
	}
	if err := errors.Join(copyFile(b.factsctl, filepath.Join(b.dir, "factsctl")), os.WriteFile(filepath.Join(b.dir, "inside"), []byte(inside), 0o755)); err != nil {
		return err
	}
	cmd := exec.Command("unshare", "-m", "sh", "-c", booting)
	seconds := func(d time.Duration) string { return fmt.Sprint(d.Seconds()) }
	cmd.Env = append(os.Environ(), "WORK="+work, "OUT="+b.dir, fmt.Sprint("RUNS=", b.sound), fmt.Sprint("REPEATS=", b.repeats),
		"LENGTH="+b.length.String(), "PERIOD="+b.period.String(), "SICK="+b.sick.String(), "AFTER="+seconds(b.after))
	console, err := cmd.CombinedOutput()
	if _, serr := os.Stat(filepath.Join(b.dir, "done")); serr != nil {
		log, lerr := os.ReadFile(filepath.Join(b.dir, "log"))
		if lerr != nil {
			fmt.Fprintf(b.out, "NOT RUN: the container did not boot here: %v\n%s\n", err, console)
			return nil
		}
		return fmt.Errorf("in the container: %s", log)
	}
	if _, err := b.ctl("manifest", "draft", "service-golden.jsonl", "--vendor", "bench", "--model", "a container", "--out", "service.toml"); err != nil {
		return err
	}
	names, err := filepath.Glob(filepath.Join(b.dir, "a-service-of-systemd-is-*.jsonl"))
	if err != nil || len(names) != 2 {
		return fmt.Errorf("the container left %s, %w", strings.Join(names, ", "), err)
	}
	for _, name := range names {
		if err := b.detections("service.toml", filepath.Base(name), "service-golden.jsonl", b.after-startup); err != nil {
			return err
		}
	}
	return nil
}
