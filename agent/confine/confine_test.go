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

// A forbiddenThing is tried by a process that has given it up.
type forbiddenThing struct {
	name string
	try  func() error
}

func forbiddenThings(dir string) []forbiddenThing {
	return []forbiddenThing{
		{"mount", func() error { return unix.Mount("none", dir, "tmpfs", 0, "") }},
		{"unmount", func() error { return unix.Unmount("/proc", unix.MNT_DETACH) }},
		{"chroot", func() error { return unix.Chroot(dir) }},
		{"new namespace", func() error { return unix.Unshare(unix.CLONE_NEWUTS) }},
		{"reboot", func() error { return unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF) }},
		{"set the clock", func() error { return unix.Settimeofday(&unix.Timeval{}) }},
		{"name the machine", func() error { return unix.Sethostname([]byte("other")) }},
		{"load a module", func() error { return unix.FinitModule(-1, "", 0) }},
		{"trace a process", func() error { return unix.PtraceAttach(os.Getppid()) }},
		{"read a process", func() error {
			_, err := unix.ProcessVMReadv(os.Getppid(), []unix.Iovec{{}}, []unix.RemoteIovec{{}}, 0)
			return err
		}},
	}
}

// confined runs a test once more in a process of its own, where what it does not
// go away again, and reports whether this is that process.
func confined(t *testing.T) bool {
	if os.Getenv("MIOTFACTS_CONFINED") == t.Name() {
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "MIOTFACTS_CONFINED="+t.Name())
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil && strings.Contains(string(out), "--- SKIP: "+t.Name()):
		t.Skipf("%s", out)
	case err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()):
		t.Fatalf("%v\n%s", err, out)
	}
	return false
}

// TestConfined looks at the filter of a program that faces the network from inside.
func TestConfined(t *testing.T) {
	if !confined(t) {
		return
	}
	if err := exec.Command("/bin/true").Run(); err != nil {
		t.Fatalf("before: %v", err)
	}
	pipe, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := confine.Confine(append(confine.Network(), confine.Programs()...)...); err != nil {
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
	refused(t)
}

// TestConfinedWithPrograms does so with the enforcer's, which may run hooks.
func TestConfinedWithPrograms(t *testing.T) {
	if !confined(t) {
		return
	}
	if err := confine.Confine(); err != nil {
		t.Fatal(err)
	}
	if err := exec.Command("/bin/true").Run(); err != nil {
		t.Errorf("a hook would not run: %v", err)
	}
	if os.Geteuid() == 0 {
		if out, err := exec.Command("mount", "-t", "tmpfs", "none", t.TempDir()).CombinedOutput(); err == nil {
			t.Errorf("a hook mounted: %s", out)
		}
	}
	refused(t)
}

func refused(t *testing.T) {
	for _, f := range forbiddenThings(t.TempDir()) {
		if err := f.try(); !errors.Is(err, unix.EPERM) {
			t.Errorf("%s: %v", f.name, err)
		}
	}
	// What it needs still works, in new threads too.
	done := make(chan error)
	go func() { done <- os.WriteFile(t.TempDir()+"/x", []byte("x"), 0o600) }()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
