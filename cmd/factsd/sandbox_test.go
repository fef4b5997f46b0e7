package main

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestConfined looks at a filter from inside, in a process of its own: it does
// not go away again.
func TestConfined(t *testing.T) {
	if os.Getenv("FACTSD_CONFINED") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestConfined$", "-test.v")
		cmd.Env = append(os.Environ(), "FACTSD_CONFINED=1")
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: TestConfined") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	if err := exec.Command("/bin/true").Run(); err != nil {
		t.Fatalf("before: %v", err)
	}
	if err := confine(); err != nil {
		t.Fatal(err)
	}
	if err := exec.Command("/bin/true").Run(); !errors.Is(err, unix.EPERM) {
		t.Errorf("a program was started: %v", err)
	}
	if err := unix.Exec("/bin/true", []string{"true"}, nil); !errors.Is(err, unix.EPERM) {
		t.Errorf("the program was replaced: %v", err)
	}
	if err := unix.Mount("none", t.TempDir(), "tmpfs", 0, ""); !errors.Is(err, unix.EPERM) {
		t.Errorf("mounted: %v", err)
	}
	// What it needs still works, in new threads too.
	done := make(chan error)
	go func() { done <- os.WriteFile(t.TempDir()+"/x", []byte("x"), 0o600) }()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
