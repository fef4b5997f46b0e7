package packaging_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestProvisionedImage lays what factsctl provision writes over an empty root,
// and lets two devices start from it for the first time: each gets an identity of
// its own, and the image had none.
func TestProvisionedImage(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("NOT RUN: chroot needs root")
	}
	dir := t.TempDir()
	build := exec.Command("go", "build", "-trimpath", "-o", dir+"/", "./cmd/factsctl", "./cmd/factsd")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	ctl := func(args ...string) string { t.Helper(); return must(t, nil, at("factsctl"), args...) }
	makeKeys(t, at("factsctl"), dir)
	ctl("manifest", "new", "--out", at("m.toml"))
	ctl("manifest", "sign", at("m.toml"), "--key", at("release.key"), "--out", at("m.signed"))
	ctl("provision", "--out", at("overlay"), "--manifest", at("m.signed"), "--root", at("root.key.pub"), "--keys", at("keys.signed"),
		"--operator-root", at("hospital.key.pub"), "--operator-keys", at("hospital.signed"), "--key-file", "/var/lib/miotfacts/device.key")

	ids := map[string]bool{}
	for _, device := range []string{"one", "two"} {
		fs := at(device)
		must(t, nil, "cp", "-r", at("overlay"), fs)
		for path, text := range map[string]string{"etc/passwd": "root:x:0:0::/:/bin/sh\nfactsd:x:990:990::/:/bin/false\n", "etc/group": "root:x:0:\nfactsd:x:990:\n"} {
			if err := os.WriteFile(filepath.Join(fs, path), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		must(t, nil, "cp", at("factsd"), fs)
		if err := os.MkdirAll(filepath.Join(fs, "var/lib"), 0o755); err != nil {
			t.Fatal(err)
		}
		first := ""
		for range 2 { // the second time it changes nothing
			cmd := exec.Command("/factsd", "provision", "-config", "/etc/miotfacts/factsd.toml")
			cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: fs}
			cmd.Dir = "/"
			var errs bytes.Buffer
			cmd.Stderr = &errs
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v\n%s", err, errs.String())
			}
			id := strings.TrimSpace(string(out))
			if first == "" {
				first = id
			}
			if id == "" || id != first {
				t.Errorf("device %s was %q and is %q", device, first, id)
			}
		}
		ids[first] = true
		key, err := os.ReadFile(filepath.Join(fs, "var/lib/miotfacts/device.key"))
		if err != nil || !bytes.Contains(key, []byte("PRIVATE KEY")) {
			t.Errorf("device %s has no key: %v", device, err)
		}
	}
	if len(ids) != 2 {
		t.Errorf("two devices of one image have %d identities", len(ids))
	}
}

// makeKeys makes what a manufacturer and an operator have: root.key with
// keys.signed, hospital.key with hospital.signed, release.key and resume.key.
func makeKeys(t *testing.T, factsctl, dir string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, key := range []string{"root", "hospital", "release", "resume"} {
		must(t, nil, factsctl, "key", "new", "--out", at(key)+".key")
	}
	now := time.Now().UTC()
	for _, l := range []struct{ owner, role, key, root, list string }{
		{"manufacturer", "manifest", "release", "root", "keys"}, {"operator", "resume", "resume", "hospital", "hospital"},
	} {
		text := fmt.Sprintf("version = 1\nowner = %q\nsequence = 1\n[[key]]\nfile = %q\nrole = %q\nname = \"test\"\nvalid = { from = %s, until = %s }\n",
			l.owner, at(l.key)+".key.pub", l.role, now.AddDate(0, 0, -1).Format(time.DateOnly), now.AddDate(1, 0, 0).Format(time.DateOnly))
		if err := os.WriteFile(at(l.owner+".toml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		must(t, nil, factsctl, "keys", "sign", at(l.owner+".toml"), "--root", at(l.root)+".key", "--out", at(l.list)+".signed")
	}
}
