package linux

import (
	"os"
	"path/filepath"
	"testing"
	"time"
	"unicode/utf16"
)

// efiText is a text as efivarfs shows it.
func efiText(s string) string {
	b := []byte{6, 0, 0, 0}
	for _, u := range utf16.Encode([]rune(s + "\x00")) {
		b = append(b, byte(u), byte(u>>8))
	}
	return string(b)
}

// TestLoaderTimes wants the boot loader's own times first, then those of the
// firmware, then those of U-Boot, and a damaged one never passed over.
func TestLoaderTimes(t *testing.T) {
	const (
		begin, end = efivars + "LoaderTimeInitUSec" + loaderVendor, efivars + "LoaderTimeExecUSec" + loaderVendor
		fpdt       = "sys/firmware/acpi/fpdt/boot/"
		stages     = "proc/device-tree/bootstage/"
		stat       = " 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 150 0 0\n"
	)
	base := map[string]string{"proc/1/stat": "1 (init) S" + stat, "proc/2/stat": "2 (kthreadd) S" + stat, "proc/uptime": "9.00 9.00\n"}
	uboot := map[string]string{stages + "0/mark": "\x00\x01\x86\xa0", stages + "1/mark": "\x00\x1e\x84\x80", stages + "2/accum": "\x00\x00\x00\x01"}
	table := map[string]string{fpdt + "bootloader_launch_ns": "3000000000\n", fpdt + "exitbootservice_end_ns": "3500000000\n"}
	for _, tt := range []struct {
		name  string
		files []map[string]string
		want  map[string]string
	}{
		{"none", nil, map[string]string{"boot.firmware": "absent", "boot.loader": "absent"}},
		{"U-Boot", []map[string]string{uboot}, map[string]string{"boot.firmware": "absent", "boot.loader": "ok 2000"}},
		{"U-Boot, damaged", []map[string]string{uboot, {stages + "1/mark": "\x00"}}, map[string]string{"boot.loader": "malformed"}},
		{"firmware", []map[string]string{uboot, table}, map[string]string{"boot.firmware": "ok 3000", "boot.loader": "ok 500"}},
		{"loader", []map[string]string{uboot, table, {begin: efiText("1500000"), end: efiText("1750000")}}, map[string]string{"boot.firmware": "ok 1500", "boot.loader": "ok 250"}},
		{"loader, one time", []map[string]string{table, {begin: efiText("1500000")}}, map[string]string{"boot.firmware": "ok 1500", "boot.loader": "absent"}},
		{"loader, backwards", []map[string]string{{begin: efiText("1500000"), end: efiText("1")}}, map[string]string{"boot.firmware": "malformed", "boot.loader": "malformed"}},
		{"loader, damaged", []map[string]string{table, {begin: "x"}}, map[string]string{"boot.firmware": "malformed", "boot.loader": "malformed"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := newTree(t, base)
			for _, f := range tt.files {
				x.write(f)
			}
			x.round(0, tt.want)
		})
	}
}

// TestUBoot takes what U-Boot tells of a FIT image, and nothing of whether it
// verified it.
func TestUBoot(t *testing.T) {
	x := newTree(t, map[string]string{chosen + "u-boot,version": "2024.04\x00"})
	x.round(0, map[string]string{"boot.loader_version": `ok "2024.04"`, "boot.fit": "absent", "boot.loader_verified": "absent", "boot.secure": "absent"})
	x.write(map[string]string{chosen + "u-boot,bootconf": "conf-1\x00"})
	x.round(0, map[string]string{"boot.fit": `ok "conf-1"`, "boot.loader_verified": "absent"})
	x.write(map[string]string{chosen + "u-boot,bootconf": "conf-1"})
	x.round(0, map[string]string{"boot.fit": "malformed"})
}

func TestUnitFiles(t *testing.T) {
	const dir = "etc/systemd/system/"
	x := newTree(t, nil)
	x.round(0, map[string]string{"service.files": "absent"})
	digest := func() string {
		t.Helper()
		r := readAll(t, x.list, 1)["service.files"]
		if len(r.Value.Bytes()) != 32 {
			t.Fatalf("%s %v %s", r.Status, r.Value, r.Reason)
		}
		return r.Value.String()
	}
	seen := map[string]string{}
	change := func(what string) {
		t.Helper()
		d := digest()
		if was, ok := seen[d]; ok {
			t.Errorf("after %s the digest is as after %s", what, was)
		}
		if again := digest(); again != d {
			t.Errorf("after %s the digest is another without a change", what)
		}
		seen[d] = what
	}
	x.write(map[string]string{dir + "pump.service": "[Service]\nExecStart=/usr/bin/pumpd\n"})
	change("a unit")
	x.write(map[string]string{dir + "pump.service.d/x.conf": ""})
	change("a drop-in")
	if err := os.MkdirAll(filepath.Join(x.dir, dir, "multi-user.target.wants"), 0o755); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(x.dir, dir, "multi-user.target.wants/pump.service")
	if err := os.Symlink("/etc/systemd/system/pump.service", link); err != nil {
		t.Fatal(err)
	}
	change("enabling")
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/null", link); err != nil {
		t.Fatal(err)
	}
	change("another link")
	// Another content of the same length: its time tells.
	x.write(map[string]string{dir + "pump.service": "[Service]\nExecStart=/usr/bin/pumpe\n"})
	if err := os.Chtimes(filepath.Join(x.dir, dir, "pump.service"), time.Time{}, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	change("an edit")
	x.write(map[string]string{"etc/inittab": "::respawn:/x\n"})
	change("inittab")
	x.remove(dir)
	change("a removal")
}

func TestOpenRC(t *testing.T) {
	x := newTree(t, map[string]string{"run/openrc/started/sshd": "", "run/openrc/started/pump": ""})
	x.round(0, map[string]string{"service.active": "ok {pump, sshd}", "service.failed": "ok {}"})
	x.write(map[string]string{"run/openrc/failed/ntpd": ""})
	x.round(time.Minute, map[string]string{"service.failed": "ok {ntpd}"})
	x.write(map[string]string{".calls/systemd": "FinishTimestampMonotonic=1\n", ".calls/systemd-units": "a.service active\n"})
	x.round(time.Minute, map[string]string{"service.active": "ok {a.service}"})
}
