package confine_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
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
func confined(t *testing.T) bool { return confinedIn(t, func() string { return os.Args[0] }) }

// confinedIn does so with another build of this test.
func confinedIn(t *testing.T, program func() string) bool {
	if os.Getenv("MIOTFACTS_CONFINED") == t.Name() {
		return true
	}
	cmd := exec.Command(program(), "-test.run=^"+t.Name()+"$", "-test.v")
	// What it makes there is removed by who may.
	cmd.Env = append(os.Environ(), "MIOTFACTS_CONFINED="+t.Name(), "TMPDIR="+t.TempDir())
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

// TestLandlock looks from inside at what a process in a domain still reaches.
func TestLandlock(t *testing.T) {
	// Without cgo, as what ships: the race detector's threads are not Go's.
	build := func() string {
		path := filepath.Join(t.TempDir(), "confine.test")
		cmd := exec.Command("go", "test", "-c", "-o", path, ".")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return path
	}
	if !confinedIn(t, build) {
		return
	}
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		t.Fatal(err)
	}
	own, other := filepath.Join(dir, "own"), filepath.Join(dir, "other")
	if err := errors.Join(os.Mkdir(own, 0o755), os.Mkdir(other, 0o755), os.WriteFile(other+"/file", []byte("x"), 0o644), os.WriteFile(dir+"/device", nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	port := func() uint16 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return uint16(l.Addr().(*net.TCPAddr).Port)
	}
	broker, stranger := port(), port()
	open, err := os.OpenFile(other+"/open", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	version, err := confine.Landlock(confine.Reach{Write: []string{own, dir + "/device", dir + "/absent"}, Ports: []uint16{broker}})
	switch {
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EOPNOTSUPP):
		t.Skipf("NOT RUN: %v", err)
	case err != nil:
		t.Fatal(err)
	}
	t.Logf("Landlock %d of this kernel", version)
	dial := func(port uint16) error {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			conn.Close()
		}
		return err
	}
	for _, tt := range []struct {
		name string
		ok   bool
		do   func() error
	}{
		{"read another's file", true, func() error { _, err := os.ReadFile(other + "/file"); return err }},
		{"list another's folder", true, func() error { _, err := os.ReadDir(other); return err }},
		{"read a process", true, func() error { _, err := os.ReadFile("/proc/self/stat"); return err }},
		{"read another process", true, func() error { _, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", os.Getppid())); return err }},
		{"write a file of its own", true, func() error { return os.WriteFile(own+"/x", []byte("x"), 0o600) }},
		{"replace it", true, func() error { return errors.Join(os.WriteFile(own+"/y", nil, 0o600), os.Rename(own+"/y", own+"/x")) }},
		{"remove it", true, func() error { return os.Remove(own + "/x") }},
		{"make a socket of its own", true, func() error {
			l, err := net.Listen("unix", own+"/s")
			if err == nil {
				l.Close()
			}
			return err
		}},
		{"write to its device", true, func() error { return os.WriteFile(dir+"/device", []byte("x"), 0) }},
		{"write what it had open", true, func() error { _, err := open.WriteString("x"); return err }},
		{"connect to its broker", true, func() error { return dial(broker) }},
		{"write another's file", false, func() error { return os.WriteFile(other+"/file", nil, 0) }},
		{"make a file", false, func() error { return os.WriteFile(other+"/new", nil, 0o600) }},
		{"remove a file", false, func() error { return os.Remove(other + "/file") }},
		{"move a file", false, func() error { return errors.Join(os.WriteFile(own+"/z", nil, 0o600), os.Rename(own+"/z", other+"/z")) }},
		{"make a link", false, func() error { return os.Symlink("x", other+"/link") }},
		{"start a program", false, func() error { return exec.Command("/bin/true").Run() }},
		{"connect elsewhere", version < 4, func() error { return dial(stranger) }},
	} {
		// In a new thread, which goes with its goroutine.
		done := make(chan error)
		go func() { runtime.LockOSThread(); done <- tt.do() }()
		if err := <-done; (err == nil) != tt.ok || err != nil && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EXDEV) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
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
