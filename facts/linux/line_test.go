package linux

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/miotfacts/miotfacts/facts"
)

func TestFolderEvents(t *testing.T) {
	dir := t.TempDir() + "/"
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	do(os.Mkdir(dir+"pump.service.d", 0o755))
	w := &fileWatch{wants: []wantedFile{{dir, of(topicUnitFiles), within}}}
	l := listen(t, openRoot(t, "/"), false, w.open)
	l.want(topicUnitFiles)
	l.settle()
	do(os.WriteFile(dir+"pump.service", nil, 0o644))
	l.want(topicUnitFiles)
	l.settle()
	do(os.WriteFile(dir+"pump.service.d/x.conf", nil, 0o644))
	l.want(topicUnitFiles)
	// A directory that comes is watched before it is told of.
	do(os.Mkdir(dir+"new.service.d", 0o755))
	l.want(topicUnitFiles)
	l.settle()
	do(os.WriteFile(dir+"new.service.d/x.conf", nil, 0o644))
	l.want(topicUnitFiles)
}

// TestCgroupEvents moves a process into the application's cgroup and out of it.
func TestCgroupEvents(t *testing.T) {
	const unit = "miotfacts-events.service"
	mount := ownCgroup(t, unit)
	w := newFileWatch(Options{Cgroups: mount, Application: unit})
	l := listen(t, openRoot(t, "/"), false, w.open)
	l.want(topicApplication)
	sleep := exec.Command("sleep", "60")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	defer sleep.Wait()
	defer sleep.Process.Kill()
	move := func(to string) {
		t.Helper()
		l.settle()
		if err := os.WriteFile(filepath.Join("/", mount, to, "cgroup.procs"), []byte(fmt.Sprint(sleep.Process.Pid)), 0); err != nil {
			t.Skip("NOT RUN: a process may not be moved between cgroups: ", err)
		}
		l.want(topicApplication)
	}
	move(unit)
	move("/")
	// The unit ends and starts again.
	l.settle()
	if err := os.Remove(filepath.Join("/", mount, unit)); err != nil {
		t.Fatal(err)
	}
	l.want(topicApplication)
	l.settle()
	if err := os.Mkdir(filepath.Join("/", mount, unit), 0o755); err != nil {
		t.Fatal(err)
	}
	l.want(topicApplication)
	move(unit)
	move("/")
}

func TestNewLines(t *testing.T) {
	for name, ok := range map[string]bool{
		"gpiochip0:17": true, "gpiochip12:0:low": true, "gpiochip0": false, "gpiochip0:": false, "gpiochip0:x": false, "gpiochip0:-1": false,
		"gpiochip:1": false, "chip0:1": false, "../gpiochip0:1": false, "gpiochip0/x:1": false, "gpiochip0:1:high": false, "gpiochip0:1:": false, "": false,
	} {
		if _, err := NewLines([]string{name}); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func lineEvent(id uint32) []byte {
	b := make([]byte, gpioEventSize)
	binary.NativeEndian.PutUint32(b[8:], id)
	return b
}

// TestTamperLines has a simulated chip: what the kernel answers is made here, the
// descriptor with the events is a real one.
func TestTamperLines(t *testing.T) {
	lines, err := NewLines([]string{"gpiochip0:17:low"})
	if err != nil {
		t.Fatal(err)
	}
	lines.dev = t.TempDir() + "/"
	var pipe [2]int
	level, fails, held := uint64(0), error(nil), 0
	lines.ioctl = func(fd int, op uint, arg []byte) error {
		ne := binary.NativeEndian
		switch {
		case fails != nil:
			return fails
		case op == gpioRequest && len(arg) == 592:
			held++
			if ne.Uint32(arg) != 17 || ne.Uint64(arg[288:]) != gpioInput|gpioRising|gpioFalling|gpioActiveLow || ne.Uint32(arg[560:]) != 1 {
				t.Errorf("requested %x", arg)
			}
			if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
				return err
			}
			ne.PutUint32(arg[588:], uint32(pipe[0]))
		case op == gpioValues && len(arg) == 16 && fd == pipe[0] && ne.Uint64(arg[8:]) == 1:
			ne.PutUint64(arg, level)
		default:
			t.Errorf("ioctl %x on %d with %x", op, fd, arg)
		}
		return nil
	}
	events := NewEvents(openRoot(t, t.TempDir()), Options{}, quiet)
	src := &source{reader: tamper{lines, events}, out: out{keys: []facts.Key{167, 168}}}
	want := func(active, edges string) {
		t.Helper()
		r := src.Read(nil)
		for i, w := range []string{active, edges} {
			got := r[i].Status.String()
			if r[i].Status == facts.OK {
				got = r[i].Value.String()
			}
			if got != w {
				t.Errorf("fact %d is %s %s, want %s", r[i].Key, got, r[i].Reason, w)
			}
		}
	}
	want("absent", "absent") // there is no chip
	if err := os.WriteFile(lines.dev+"gpiochip0", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fails = unix.EBUSY // somebody else has the line
	want("unreadable", "unreadable")
	fails = nil
	want("{}", "absent")

	l := listen(t, openRoot(t, "/"), false, lines.channels()...)
	src.reader = tamper{lines, l.events}
	l.want(topicTamper)
	l.settle()
	level = 1
	pulse := append(lineEvent(gpioRisingEdge), lineEvent(2)...)
	if _, err := unix.Write(pipe[1], append(pulse, lineEvent(gpioRisingEdge)...)); err != nil {
		t.Fatal(err)
	}
	l.want(topicTamper)
	want("{gpiochip0:17:low}", "2")
	if held != 1 {
		t.Errorf("the line was requested %d times", held)
	}
	unix.Close(pipe[1])
}

func FuzzLineEvents(f *testing.F) {
	f.Add(lineEvent(1))
	f.Add(append(lineEvent(2), lineEvent(1)...)[:60])
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, ok := parseLineEvents(b); n > int64(len(b)/gpioEventSize) || ok != (len(b)%gpioEventSize == 0) {
			t.Fatalf("%d edges in %d bytes, %v", n, len(b), ok)
		}
	})
}
