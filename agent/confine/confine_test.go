package confine_test

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/agent/confine"
	"golang.org/x/sys/unix"
)

// TestConfined looks at a filter from inside, in a process of its own: it does
// not go away again.
func TestConfined(t *testing.T) {
	if os.Getenv("MIOTFACTS_CONFINED") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestConfined$", "-test.v")
		cmd.Env = append(os.Environ(), "MIOTFACTS_CONFINED=1")
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: TestConfined") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	if err := exec.Command("/bin/true").Run(); err != nil {
		t.Fatalf("before: %v", err)
	}
	pipe, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := confine.Confine(confine.Network()...); err != nil {
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
	if _, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, 0, 0); errno != unix.EPERM {
		t.Errorf("a ring for calls was made: %v", errno)
	}
	for _, domain := range []int{unix.AF_INET, unix.AF_UNIX, unix.AF_NETLINK} {
		if _, err := unix.Socket(domain, unix.SOCK_DGRAM, 0); !errors.Is(err, unix.EPERM) {
			t.Errorf("a socket of domain %d was made: %v", domain, err)
		}
	}
	if _, err := unix.Write(pipe[0], []byte("x")); err != nil {
		t.Errorf("a socket that was there: %v", err)
	}
	// What it needs still works, in new threads too.
	done := make(chan error)
	go func() { done <- os.WriteFile(t.TempDir()+"/x", []byte("x"), 0o600) }()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
