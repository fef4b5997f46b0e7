package interop

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/attest/eventlog"
	"github.com/miotfacts/miotfacts/attest/image"
	"github.com/miotfacts/miotfacts/attest/image/imagetest"
)

// TestPredictAsSystemd has systemd-measure compute PCR 11 of the same sections, at
// each phase.
func TestPredictAsSystemd(t *testing.T) {
	const tool = "/usr/lib/systemd/systemd-measure"
	if _, err := os.Stat(tool); err != nil {
		t.Fatalf("%v (Debian package systemd, in newer releases systemd-ukify)", err)
	}
	dir := t.TempDir()
	all := []imagetest.Section{
		{Name: ".linux", Data: imagetest.Kernel("kernel")}, {Name: ".osrel", Data: []byte("ID=pump\n")}, {Name: ".cmdline", Data: []byte("quiet ro")},
		{Name: ".initrd", Data: bytes.Repeat([]byte("initrd "), 1000)}, {Name: ".splash", Data: []byte("BM")}, {Name: ".dtb", Data: []byte("tree")}, {Name: ".pcrpkey", Data: []byte("key")},
	}
	for n := range all {
		part := all[:n+1]
		args := []string{"calculate", "--bank=sha256"}
		for _, s := range part {
			file := filepath.Join(dir, s.Name[1:])
			if err := os.WriteFile(file, s.Data, 0o600); err != nil {
				t.Fatal(err)
			}
			args = append(args, "--"+s.Name[1:]+"="+file)
		}
		out, err := exec.Command(tool, args...).Output()
		if err != nil {
			t.Fatalf("systemd-measure: %v", err)
		}
		var want []string
		for _, m := range regexp.MustCompile(`11:sha256=([0-9a-f]{64})`).FindAllStringSubmatch(string(out), -1) {
			want = append(want, m[1])
		}
		// In another order: the stub has its own.
		shuffled := slices.Clone(part)
		slices.Reverse(shuffled)
		boot, err := image.UKI(imagetest.UKI("252.39-1~deb12u2", shuffled...))
		if err != nil {
			t.Fatal(err)
		}
		value := make([]byte, sha256.Size)
		var got []string
		for _, e := range boot.Events {
			if e.PCR != 11 {
				continue
			}
			sum := sha256.Sum256(slices.Concat(value, e.Digest(eventlog.SHA256)))
			if value = sum[:]; e.Kind != "" {
				got = append(got, hex.EncodeToString(value))
			}
		}
		if len(want) != len(image.Phases()) || !slices.Equal(got, want) {
			t.Errorf("up to %s: %v, systemd-measure %v", part[n].Name, got, want)
		}
	}
}

// TestAuthenticodeAsOsslsigncode has osslsigncode sign images and say what it signed.
func TestAuthenticodeAsOsslsigncode(t *testing.T) {
	if _, err := exec.LookPath("osslsigncode"); err != nil {
		t.Fatalf("%v (Debian package osslsigncode)", err)
	}
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	run := func(name string, args ...string) string {
		t.Helper()
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		return string(out)
	}
	run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", at("key"), "-out", at("cert"), "-subj", "/CN=test", "-days", "30")
	for name, data := range map[string][]byte{
		"kernel": imagetest.Kernel("kernel"),
		"uki":    imagetest.UKI("252", imagetest.Section{Name: ".linux", Data: imagetest.Kernel("kernel")}, imagetest.Section{Name: ".initrd", Data: bytes.Repeat([]byte("x"), 100_001)}),
	} {
		if err := os.WriteFile(at(name), data, 0o600); err != nil {
			t.Fatal(err)
		}
		run("osslsigncode", "sign", "-h", "sha256", "-certs", at("cert"), "-key", at("key"), "-in", at(name), "-out", at(name+".signed"))
		out := run("osslsigncode", "verify", "-CAfile", at("cert"), "-in", at(name+".signed"))
		m := regexp.MustCompile(`Calculated message digest\s*: ([0-9A-F]{64})`).FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("%s: osslsigncode says no digest:\n%s", name, out)
		}
		signed, err := os.ReadFile(at(name + ".signed"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range [][]byte{data, signed} {
			digest, err := image.Authenticode(file)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.ToUpper(hex.EncodeToString(digest)); got != m[1] {
				t.Errorf("%s, %d bytes: %s, osslsigncode %s", name, len(file), got, m[1])
			}
		}
	}
}
