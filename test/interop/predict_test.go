package interop

import (
	"bytes"
	"crypto/sha256"
	"debug/pe"
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
		if got := phases(boot); len(want) != len(image.Phases()) || !slices.Equal(got, want) {
			t.Errorf("up to %s: %v, systemd-measure %v", part[n].Name, got, want)
		}
	}
}

// TestPredictAsUkify has ukify make images with the stub of its own release, and
// systemd-measure of that release compute PCR 11 of the sections that are in them.
// Debian has both from 13 on. To try another release than the installed one:
//
//	UKIFY=... STUB=.../linuxx64.efi.stub SYSTEMD_MEASURE=... go test ./test/interop -run Ukify -v
func TestPredictAsUkify(t *testing.T) {
	tool := func(variable, installed string) string {
		t.Helper()
		if path := os.Getenv(variable); path != "" {
			return path
		}
		path, err := exec.LookPath(installed)
		if err != nil {
			stubs, _ := filepath.Glob(installed) // the pattern is a good one
			if len(stubs) == 0 {
				t.Skipf("NOT RUN: no %s (Debian 13: systemd-ukify, systemd-boot-efi)", installed)
			}
			path = stubs[0]
		}
		return path
	}
	ukify, stub, measure := tool("UKIFY", "ukify"), tool("STUB", "/usr/lib/systemd/boot/efi/linux*.efi.stub"), tool("SYSTEMD_MEASURE", "/usr/lib/systemd/systemd-measure")
	arch, ok := map[string]string{"linuxx64.efi.stub": "x64", "linuxaa64.efi.stub": "aa64"}[filepath.Base(stub)]
	if !ok {
		t.Skipf("NOT RUN: images for %s", filepath.Base(stub))
	}
	dir := t.TempDir()
	file := func(name string, data []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	least := []string{
		"build", "--stub=" + stub, "--efi-arch=" + arch, "--linux=" + file("kernel", imagetest.Kernel("kernel")), "--uname=6.12.0-pump",
		"--os-release=@" + file("release", []byte("ID=pump\nVERSION_ID=1.3.0\n")), "--initrd=" + file("ramdisk", bytes.Repeat([]byte("initrd "), 1000)),
		"--cmdline=@" + file("arguments", []byte("quiet ro")),
	}
	for name, more := range map[string][]string{
		"least": nil,
		"all": {"--splash=" + file("picture", []byte("BM")), "--microcode=" + file("microcode", []byte("microcode")),
			"--pcrpkey=" + file("public", []byte("-----BEGIN PUBLIC KEY-----\n")), "--devicetree=" + file("tree", []byte("tree"))},
	} {
		path := filepath.Join(dir, name+".efi")
		if out, err := exec.Command(ukify, slices.Concat(least, more, []string{"--output=" + path})...).CombinedOutput(); err != nil {
			t.Fatalf("ukify: %v\n%s", err, out)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		made, err := pe.NewFile(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		args := []string{"calculate", "--bank=sha256"}
		for _, s := range made.Sections {
			if !slices.Contains([]string{".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat", ".pcrpkey", ".hwids"}, s.Name) {
				continue
			}
			content, err := s.Data()
			if err != nil {
				t.Fatal(err)
			}
			args = append(args, "--"+s.Name[1:]+"="+file(name+s.Name, content[:s.VirtualSize]))
		}
		out, err := exec.Command(measure, args...).Output()
		if err != nil {
			t.Fatalf("systemd-measure %q: %v", args, err)
		}
		var want []string
		for _, m := range regexp.MustCompile(`11:sha256=([0-9a-f]{64})`).FindAllStringSubmatch(string(out), -1) {
			want = append(want, m[1])
		}
		boot, err := image.UKI(data)
		if err != nil {
			t.Fatal(err)
		}
		if got := phases(boot); len(want) != len(image.Phases()) || !slices.Equal(got, want) {
			t.Errorf("%s: %v, systemd-measure %v", name, got, want)
		}
		t.Logf("%s: %d sections, PCR 11 alike at %d phases", name, len(made.Sections), len(want))
	}
}

// phases returns PCR 11 after each phase of a predicted boot.
func phases(boot *image.Boot) []string {
	value := make([]byte, sha256.Size)
	var out []string
	for _, e := range boot.Events {
		if e.PCR != 11 {
			continue
		}
		sum := sha256.Sum256(slices.Concat(value, e.Digest(eventlog.SHA256)))
		if value = sum[:]; e.Kind != "" {
			out = append(out, hex.EncodeToString(value))
		}
	}
	return out
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
