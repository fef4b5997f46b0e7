// Package packaging_test holds what is handed out: units, Debian packages, the
// Yocto layer, the Buildroot tree, the archives. What can be run without a
// machine of its own runs here; what needs a checkout or a program that is large
// to install says NOT RUN, and with what it would run.
//
// It changes nothing of the machine it runs on: packages are installed into
// folders, and into an overlay that is booted and thrown away.
package packaging_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const root = "../.." // of the repository, seen from here

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// program returns where a program is; without it the test says that it is not
// run, and what to install.
func program(t *testing.T, name, debian string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("NOT RUN: no %s here (Debian package %s)", name, debian)
	}
	return path
}

// command runs a program and returns all that it says.
func command(env []string, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func must(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	out, err := command(env, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}
