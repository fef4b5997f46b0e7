package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/referencetest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"factsd": main, "renew-for-ever": renewForEver})
}

// TestScripts runs the shipped command from outside. Each script finds a signed
// manifest, the key lists, the roots and a configuration in its folder.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Setup: func(e *testscript.Env) error {
			w := referencetest.New(t)
			m := referencetest.Example()
			m.NotBefore, m.NotAfter = time.Now().Unix()-1000, time.Now().Unix()+1_000_000
			expired := m
			expired.NotAfter = time.Now().Unix() - 10
			wrong := m
			wrong.Model = "pump-2"
			files := map[string][]byte{"mkeys.cbor": w.ManufacturerKeys, "okeys.cbor": w.OperatorKeys}
			for name, m := range map[string]reference.Manifest{"manifest.cbor": m, "expired.cbor": expired, "wrong-model.cbor": wrong} {
				data, err := reference.SignManifest(&m, w.Manifest)
				if err != nil {
					return err
				}
				files[name] = data
			}
			stranger, err := reference.SignManifest(&m, w.Label)
			if err != nil {
				return err
			}
			files["unsigned.cbor"], files["damaged.cbor"] = stranger, files["manifest.cbor"][:len(files["manifest.cbor"])-1]
			for name, root := range map[string]*cose.Signer{"mroot.pub": w.ManufacturerRoot, "oroot.pub": w.OperatorRoot} {
				if files[name], err = root.Public().PEM(); err != nil {
					return err
				}
			}
			// Unix sockets have short paths; the script's folder has a long one.
			run, err := os.MkdirTemp("", "factsd-script-")
			if err != nil {
				return err
			}
			e.Defer(func() { os.RemoveAll(run) })
			files["factsd.toml"] = fmt.Appendf(nil, `state = "state"
[device]
vendor = "Example Medical"
model = "pump-1"
[reference]
manifest = "manifest.cbor"
key_lists = ["mkeys.cbor", "okeys.cbor"]
manufacturer_roots = ["mroot.pub"]
operator_roots = ["oroot.pub"]
[key]
file = "device.key"
[clock]
trusted = true
[application]
facts_socket = "%s/app.sock"
[enforcer]
socket = "%s/enforce.sock"
`, run, run)
			for name, data := range files {
				if err := os.WriteFile(filepath.Join(e.WorkDir, name), data, 0o600); err != nil {
					return err
				}
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"waitlog": waitLog,
			"set":     set,
		},
	})
}

// waitlog FILE PATTERN waits until the file has a line that matches.
func waitLog(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: waitlog FILE PATTERN")
	}
	re := regexp.MustCompile(args[1])
	for deadline := time.Now().Add(20 * time.Second); ; <-time.After(20 * time.Millisecond) {
		data, err := os.ReadFile(ts.MkAbs(args[0]))
		if err == nil && re.Match(data) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s never matched %s:\n%s", args[0], args[1], data)
		}
	}
}

// set FILE KEY VALUE replaces the line that sets a key of the configuration; \n
// in the value begins another line.
func set(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: set FILE KEY VALUE")
	}
	path := ts.MkAbs(args[0])
	data, err := os.ReadFile(path)
	ts.Check(err)
	lines, found := strings.Split(string(data), "\n"), false
	for i, l := range lines {
		if name, _, ok := strings.Cut(l, " = "); ok && name == args[1] {
			lines[i], found = args[1]+" = "+strings.ReplaceAll(args[2], `\n`, "\n"), true
		}
	}
	if !found {
		ts.Fatalf("%s has no key %s", args[0], args[1])
	}
	ts.Check(os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o600))
}
