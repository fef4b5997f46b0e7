package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/miotfacts/miotfacts/attest/tpm/tpmtest"
)

const provisionConfig = `state = "STATE"
[device]
vendor = "Example Medical"
model = "pump-1"
[reference]
manifest = "manifest.cbor"
manufacturer_roots = ["mroot.pub"]
[key]
file = "STATE/device.key"
[application]
users = [12, "root"]
[enforcer]
users = ["nobody"]
`

// As a unit's ExecStartPre provision runs as root, often with a strict umask.
// The measuring process has to read what it makes, and may write none of it.
func TestProvisionSharesWithRun(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file to another group")
	}
	dir := t.TempDir()
	state, path := filepath.Join(dir, "state"), filepath.Join(dir, "factsd.toml")
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(provisionConfig, "STATE", state)), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := readConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.applicationUIDs) != 2 || c.applicationUIDs[0] != 12 || c.applicationUIDs[1] != 0 {
		t.Errorf("application.users are %d, want 12 and 0", c.applicationUIDs)
	}
	defer syscall.Umask(syscall.Umask(0o077))
	var first string
	for round := range 2 { // the second mends what an older version left behind
		var out, stderr strings.Builder
		if code := mainCode([]string{"provision", "-config", path}, &out, &stderr); code != exitOK {
			t.Fatalf("exit code %d: %s", code, stderr.String())
		}
		if round == 0 {
			first = out.String()
		} else if out.String() != first {
			t.Errorf("provisioned as %s, then as %s", first, out.String())
		}
		nobody := uint32(65534)
		for _, f := range []struct {
			name string
			mode os.FileMode
			gid  uint32
		}{{".", 0o755, 0}, {"identity", 0o644, 0}, {"device.key", 0o640, nobody}} {
			info, err := os.Stat(filepath.Join(state, f.name))
			if err != nil {
				t.Fatal(err)
			}
			owner := info.Sys().(*syscall.Stat_t)
			if info.Mode().Perm() != f.mode || owner.Uid != 0 || owner.Gid != f.gid {
				t.Errorf("round %d: %s has mode %o, owner %d:%d; want %o, 0:%d", round, f.name, info.Mode().Perm(), owner.Uid, owner.Gid, f.mode, f.gid)
			}
		}
		for _, f := range []string{"identity", "device.key"} {
			if err := os.Chmod(filepath.Join(state, f), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestUsers(t *testing.T) {
	for _, c := range []struct {
		users []any
		want  string // of the error
	}{
		{[]any{int64(0), "root", int64(4294967294)}, ""},
		{[]any{"no-such-user-here"}, `no user "no-such-user-here"`},
		{[]any{int64(-1)}, "-1 is neither"},
		{[]any{int64(4294967295)}, "4294967295 is neither"},
		{[]any{1.5}, "1.5 is neither"},
	} {
		got, err := uids(c.users)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %d, %v; want error %q", c.users, got, err, c.want)
		}
	}
}

// Somebody took ownership of the TPM: with the passwords of its hierarchies it is
// the same device as before.
func TestProvisionOwnedTPM(t *testing.T) {
	e := tpmtest.New(t)
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	password := file("password", "of the hospital\n")
	text := strings.ReplaceAll(strings.ReplaceAll(provisionConfig, "STATE", filepath.Join(dir, "state")), "file = \""+filepath.Join(dir, "state")+"/device.key\"", "tpm = \""+e.Addr+"\"\nKEYS")
	text = strings.ReplaceAll(text, "[enforcer]", "[enforcer]\nnv = true")
	try := func(keys string) (out, stderr strings.Builder, code int) {
		code = mainCode([]string{"provision", "-config", file("factsd.toml", strings.ReplaceAll(text, "KEYS", keys))}, &out, &stderr)
		return
	}
	before, stderr, code := try("")
	if code != exitOK {
		t.Fatalf("exit code %d: %s", code, stderr.String())
	}
	for _, h := range []tpm2.TPMHandle{tpm2.TPMRHOwner, tpm2.TPMRHEndorsement} {
		if _, err := (tpm2.HierarchyChangeAuth{AuthHandle: h, NewAuth: tpm2.TPM2BAuth{Buffer: []byte("of the hospital")}}).Execute(e); err != nil {
			t.Fatal(err)
		}
	}
	if _, stderr, code := try(""); code != exitNeeds || !strings.Contains(stderr.String(), "owned with a password") {
		t.Errorf("without the password: exit code %d: %s", code, stderr.String())
	}
	if _, stderr, code := try(`endorsement_password_file = "none"`); code != exitNeeds || !strings.Contains(stderr.String(), "cannot read a password of the TPM") {
		t.Errorf("without the file: exit code %d: %s", code, stderr.String())
	}
	after, stderr, code := try(`endorsement_password_file = "` + password + `"` + "\n" + `owner_password_file = "` + password + `"`)
	if code != exitOK || after.String() != before.String() || strings.Contains(stderr.String(), "no latch") {
		t.Errorf("with the passwords: exit code %d, %s, want %s: %s", code, after.String(), before.String(), stderr.String())
	}
}
