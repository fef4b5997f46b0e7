package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/attest/image/imagetest"
	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"factsctl": func() { os.Exit(run()) }})
}

func TestScripts(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Fatalf("%v (Debian package openssl)", err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			top, err := filepath.Abs("../..")
			if err != nil {
				return err
			}
			env.Setenv("EXAMPLES", filepath.Join(top, "configs", "examples"))
			env.Setenv("VECTORS", filepath.Join(top, "testdata", "vectors"))
			env.Setenv("DEVICES", filepath.Join(top, "testdata", "devices"))
			env.Setenv("TALK", filepath.Join(top, "testdata", "talk"))
			return vectorRoot(filepath.Join(env.WorkDir, "vector-root.pub"))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "fill": fill, "flip": flip, "replace": replace, "json": validJSON, "uki": uki,
		},
	})
}

// vectorRoot writes the root of the vectors in testdata/vectors.
func vectorRoot(path string) error {
	seed := sha256.Sum256([]byte("miotfacts test vector manufacturer root"))
	k, err := cose.NewPublicKey(ed25519.NewKeyFromSeed(seed[:]).Public())
	if err != nil {
		return err
	}
	text, err := k.PEM()
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o644)
}

// exits N PROGRAM ARG...: the program ends with exit code N; where N is not 0,
// with an error line.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM [ARG...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
	if stderr := ts.ReadFile("stderr"); want != 0 && !strings.Contains("\n"+stderr, "\nerror: ") {
		ts.Fatalf("no error line in %q", stderr)
	}
}

// fill FILE N: writes N zero bytes.
func fill(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), make([]byte, n), 0o644))
}

// uki OUT VERSION CMDLINE: makes a unified kernel image, and its kernel.efi.
func uki(ts *testscript.TestScript, _ bool, args []string) {
	kernel := imagetest.Kernel("kernel")
	ts.Check(os.WriteFile(ts.MkAbs("kernel.efi"), kernel, 0o644))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), imagetest.UKI(args[1], imagetest.Section{Name: ".linux", Data: kernel},
		imagetest.Section{Name: ".cmdline", Data: []byte(args[2])}, imagetest.Section{Name: ".initrd", Data: []byte("initial RAM disk")}), 0o644))
}

// flip IN OUT: changes one bit in the middle.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	data := []byte(ts.ReadFile(args[0]))
	data[len(data)/2] ^= 1
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), data, 0o644))
}

// replace IN OUT OLD NEW: replaces the one place where OLD stands.
func replace(ts *testscript.TestScript, _ bool, args []string) {
	text := ts.ReadFile(args[0])
	if n := strings.Count(text, args[2]); n != 1 {
		ts.Fatalf("%q stands in %s %d times", args[2], args[0], n)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(strings.Replace(text, args[2], args[3], 1)), 0o644))
}

// json: the last standard output is one JSON document.
func validJSON(ts *testscript.TestScript, _ bool, _ []string) {
	var v any
	dec := json.NewDecoder(strings.NewReader(ts.ReadFile("stdout")))
	ts.Check(dec.Decode(&v))
	if dec.More() {
		ts.Fatalf("more than one JSON document")
	}
}
