package linux

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"github.com/miotfacts/miotfacts/facts"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// A listener is an Events that runs, and what it told.
type listener struct {
	t      *testing.T
	events *Events
	told   chan facts.Key
	thread int // that watches the kernel
}

// listen watches on the channels given, in a network namespace of its own where
// wanted, until the test ends. It returns once all of them are open.
func listen(t *testing.T, root *Root, alone bool, channels ...func() (*channel, error)) *listener {
	t.Helper()
	l := &listener{t: t, events: NewEvents(root, Options{}, quiet), told: make(chan facts.Key, 10000)}
	l.events.kernel, l.events.systemd = channels, func() bool { return root.bus != systemBus }
	ctx, cancel := context.WithCancel(t.Context())
	started, ended := make(chan error, 1), make(chan struct{})
	var watch func()
	watch = func() {
		if alone {
			// The thread ends with the goroutine, and with it the namespace. The
			// first thread cannot end, and /proc/net is its namespace.
			runtime.LockOSThread()
			if unix.Gettid() == unix.Getpid() {
				defer runtime.UnlockOSThread()
				again := make(chan struct{})
				go func() { defer close(again); watch() }()
				<-again
				return
			}
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				started <- err
				return
			}
		}
		l.thread = unix.Gettid()
		started <- nil
		l.events.Watch(ctx, func(k facts.Key) { l.told <- k })
	}
	go func() { defer close(ended); watch() }()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	if err := <-started; err != nil {
		t.Skip("NOT RUN: a network namespace needs root")
	}
	return l
}

// want waits until the fact of a topic was told.
func (l *listener) want(topic topic) {
	l.t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case k := <-l.told:
			if k == l.events.paced[topic].key {
				return
			}
		case <-timeout:
			l.t.Fatalf("%s was not told", topicFacts[topic])
		}
	}
}

// settle forgets what was told until now.
func (l *listener) settle() {
	for len(l.told) > 0 {
		<-l.told
	}
}

// run runs a command in the network namespace of the listener.
func (l *listener) run(stdin string, args ...string) {
	l.t.Helper()
	cmd := exec.Command("nsenter", append([]string{fmt.Sprintf("--net=/proc/%d/task/%d/ns/net", os.Getpid(), l.thread)}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		l.t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

func needsIP(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("ip"); err != nil {
		t.Fatal("ip is missing: install the package iproute2")
	}
	if os.Getuid() != 0 {
		t.Skip("NOT RUN: a network namespace needs root")
	}
}

func TestNetworkEvents(t *testing.T) {
	needsIP(t)
	l := listen(t, openRoot(t, "/"), true, openRouteEvents, openUevents)
	l.want(topicUSB) // both are open, the second as well
	l.settle()
	l.run("", "ip", "link", "add", "events0", "type", "bridge")
	l.want(topicWireless) // of the link; a uevent tells it too
	l.run("", "ip", "address", "add", "192.0.2.1/24", "dev", "events0")
	l.want(topicAddresses)
	l.run("", "ip", "link", "set", "events0", "up")
	l.run("", "ip", "route", "add", "198.51.100.0/24", "via", "192.0.2.2")
	l.want(topicRoutes)
	if n := l.events.lost.Load(); n != 0 {
		t.Errorf("%d losses", n)
	}
}

// TestLostNetworkEvents lets the queue overflow: the kernel tells, and all that
// could have been in it is read anew. The socket goes on.
func TestLostNetworkEvents(t *testing.T) {
	needsIP(t)
	ready := make(chan struct{})
	first := true
	l := listen(t, openRoot(t, "/"), true, func() (*channel, error) {
		c, err := openRouteEvents()
		if err != nil {
			return nil, err
		}
		unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4096)
		take := c.take
		c.take = func(fd int, buf []byte) (hits, bool, error) {
			if first {
				<-ready // while the queue fills
				first = false
			}
			return take(fd, buf)
		}
		return c, err
	})
	l.want(topicRoutes)
	l.settle()
	var batch strings.Builder
	batch.WriteString("link add events0 type bridge\n")
	for i := range 250 {
		fmt.Fprintf(&batch, "address add 192.0.2.%d/32 dev events0\n", i)
	}
	l.run(batch.String(), "ip", "-batch", "-")
	close(ready)
	l.want(topicRoutes) // no route was among them
	if n := l.events.lost.Load(); n == 0 {
		t.Error("the loss was not counted")
	}
	l.settle()
	l.run("", "ip", "link", "delete", "events0")
	l.want(topicAddresses)
}

func TestFileEvents(t *testing.T) {
	dir := t.TempDir()
	passwd, resolv, target := filepath.Join(dir, "etc/passwd"), filepath.Join(dir, "etc/resolv.conf"), filepath.Join(dir, "run/resolv.conf")
	for _, d := range []string{"etc", "run", "other"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	do(os.WriteFile(passwd, nil, 0o644))
	do(os.WriteFile(target, nil, 0o644))
	do(os.Symlink("../run/resolv.conf", resolv))
	w := &fileWatch{wants: []wantedFile{{path: passwd, topics: of(topicAccounts)}, {path: resolv, topics: of(topicResolv)}}}
	l := listen(t, openRoot(t, "/"), false, w.open)
	l.want(topicAccounts)
	l.want(topicResolv)

	do(os.WriteFile(passwd, []byte("x"), 0o644))
	l.want(topicAccounts)
	l.settle()
	do(os.WriteFile(passwd+".new", []byte("y"), 0o644)) // another name is no event
	do(os.Rename(passwd+".new", passwd))
	l.want(topicAccounts)
	do(os.WriteFile(target, []byte("z"), 0o644))
	l.want(topicResolv)
	// The link leads elsewhere, and what it leads to is watched from then on.
	elsewhere := filepath.Join(dir, "other/resolv.conf")
	do(os.WriteFile(elsewhere, nil, 0o644))
	do(os.Symlink(elsewhere, resolv+".new"))
	do(os.Rename(resolv+".new", resolv))
	l.want(topicResolv)
	// The watch of the new place is there before the event is told.
	do(os.WriteFile(elsewhere, []byte("z"), 0o644))
	l.want(topicResolv)
	if n := l.events.lost.Load(); n != 0 {
		t.Errorf("%d losses", n)
	}
}

// TestLostFileEvents overflows the kernel's queue of 16384 events.
func TestLostFileEvents(t *testing.T) {
	limit, f := openRoot(t, "/").readInt("proc/sys/fs/inotify/max_queued_events")
	if f.is() || limit > 100_000 {
		t.Skipf("NOT RUN: the queue holds %d events %s", limit, f.reason)
	}
	dir := t.TempDir()
	w := &fileWatch{wants: []wantedFile{{path: dir + "/passwd", topics: of(topicAccounts)}, {path: dir + "/x/y", topics: of(topicResolv)}}}
	c, err := w.open()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(c.fd)
	for i := range limit {
		name := fmt.Sprintf("%s/%d", dir, i%2) // equal events that follow each other are one
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, 16<<10)
	for range 2 * limit {
		_, lost, err := c.take(c.fd, buf)
		if err != nil {
			t.Fatal(err)
		}
		if lost {
			return
		}
	}
	t.Error("the overflow was not seen")
}

func TestMountEvents(t *testing.T) {
	l := listen(t, openRoot(t, "/"), false, openMountEvents)
	l.want(topicMounts)
	dir := t.TempDir()
	if err := unix.Mount("events", dir, "tmpfs", 0, "size=4k"); err != nil {
		t.Skip("NOT RUN: mounting needs root: ", err)
	}
	defer unix.Unmount(dir, 0)
	l.want(topicMounts)
}

func TestPressureEvents(t *testing.T) {
	if _, err := os.Stat("/proc/pressure/cpu"); err != nil {
		t.Skip("NOT RUN: this kernel has no pressure stall information")
	}
	l := listen(t, openRoot(t, "/"), false, (&pressureEvents{resource: "cpu", topic: topicCPUPressure, passed: -1}).open)
	l.want(topicCPUPressure)
	// More threads than processors want to run.
	var stop atomic.Bool
	var wait sync.WaitGroup
	defer wait.Wait()
	defer stop.Store(true)
	for range 2 * runtime.NumCPU() {
		cmd := exec.Command("sh", "-c", "while :; do :; done")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer cmd.Wait()
		defer cmd.Process.Kill()
	}
	l.want(topicCPUPressure)
}

// What the service manager opened is used, once; afterwards the agent's own.
func TestPassedPressure(t *testing.T) {
	if os.Getenv("LISTEN_FDNAMES") == "other:pressure-cpu" { // in the process below
		fd := passed("pressure-cpu")
		if fd != 4 || passed("other") != 3 || passed("pressure-memory") != -1 {
			t.Fatalf("passed: %d, %d and %d", fd, passed("other"), passed("pressure-memory"))
		}
		p := &pressureEvents{resource: "cpu", topic: topicCPUPressure, passed: fd}
		if c, err := p.open(); err != nil || c.fd != fd {
			t.Fatalf("not the file that was passed: %+v, %v", c, err)
		}
		if c, err := p.open(); err != nil || c.fd == fd {
			t.Errorf("opened anew: %+v, %v", c, err)
		}
		// One that has a trigger is as good; one of another kind is of no use.
		p.passed = fd
		if c, err := p.open(); err != nil || c.fd != fd {
			t.Errorf("one that has a trigger: %+v, %v", c, err)
		}
		p.passed = 3
		if c, err := p.open(); err == nil {
			t.Errorf("one of another kind: %+v", c)
		}
		if c, err := p.open(); err != nil || setTrigger(c.fd) != unix.EBUSY {
			t.Errorf("after one of another kind: %+v, %v", c, err)
		}
		t.Setenv("LISTEN_PID", "1")
		if fd := passed("pressure-cpu"); fd != -1 {
			t.Errorf("took descriptor %d", fd)
		}
		return
	}
	pressure, err := os.OpenFile("/proc/pressure/cpu", os.O_RDWR, 0)
	if err != nil {
		t.Skip("NOT RUN: this kernel has no pressure stall information for us: ", err)
	}
	defer pressure.Close()
	cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ exec "$0" -test.run '^TestPassedPressure$'`, os.Args[0])
	cmd.Env = append(os.Environ(), "LISTEN_FDS=2", "LISTEN_FDNAMES=other:pressure-cpu")
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	cmd.ExtraFiles = []*os.File{null, pressure}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func TestBusEvents(t *testing.T) {
	m := &fakeSystemd{}
	root := openRoot(t, "/")
	root.bus = startBus(t, m)
	server := m.conn
	l := listen(t, root, false)
	l.want(topicServices)
	before := l.events.ofServices()
	emit := func(path dbus.ObjectPath, name string, values ...any) {
		t.Helper()
		if err := server.Emit(path, name, values...); err != nil {
			t.Fatal(err)
		}
	}
	changed := map[string]dbus.Variant{"ActiveState": dbus.MakeVariant("failed")}
	emit(busPath+"/unit/dev_2dsda_2edevice", "org.freedesktop.DBus.Properties.PropertiesChanged", "org.freedesktop.systemd1.Unit", changed, []string{})
	emit(busPath, manager+".UnitRemoved", "x.mount", dbus.ObjectPath(busPath+"/unit/x_2emount"))
	emit(busPath+"/unit/pump_2eservice", "org.freedesktop.DBus.Properties.PropertiesChanged", "org.freedesktop.systemd1.Unit", changed, []string{})
	l.want(topicServices)
	emit(busPath, manager+".UnitRemoved", "pump.service", dbus.ObjectPath(busPath+"/unit/pump_2eservice"))
	l.want(topicServices)
	emit(busPath, manager+".UnitFilesChanged")
	l.want(topicServices)
	if n := l.events.ofServices() - before; n != 3 {
		t.Errorf("%d events about services, want 3: what is not about one is none", n)
	}

	// A storm: the bus is left, and the services are asked for anew.
	for range maxSignals + 10 {
		emit(busPath, manager+".UnitFilesChanged")
	}
	for l.events.lost.Load() == 0 {
		l.want(topicServices)
	}
	l.settle()
	l.want(topicServices) // it listens again
}

// TestPacer wants each event told at once, a storm of them so often and no more,
// and the last of them never left out.
func TestPacer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []time.Time
		var held atomic.Int64
		p := &pacer{key: 1, held: &held, tell: func(facts.Key) { told = append(told, time.Now()) }}
		start := time.Now()
		for range 1000 {
			p.hit(time.Now())
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		p.mu.Lock()
		n, last := len(told), told[len(told)-1].Sub(start)
		p.mu.Unlock()
		if n > eventBurst+12 || n < eventBurst+8 {
			t.Errorf("a storm of 1 s was told %d times", n)
		}
		if last < 999*time.Millisecond || last > 999*time.Millisecond+eventEvery {
			t.Errorf("last told after %v", last)
		}
		if held.Load() < 900 {
			t.Errorf("%d were held", held.Load())
		}
		p.hit(time.Now())
		p.mu.Lock()
		if len(told) != n+1 || !told[n].Equal(time.Now()) {
			t.Error("an event after the storm waited")
		}
		p.mu.Unlock()
		p.stop()
		p.hit(time.Now())
		if len(told) != n+1 {
			t.Error("told after the end")
		}
	})
}

// TestEventsOfAFixture wants a fixture to have none.
func TestEventsOfAFixture(t *testing.T) {
	e := NewEvents(openRoot(t, t.TempDir()), Options{}, quiet)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := e.Watch(ctx, func(k facts.Key) { t.Errorf("fact %d", k) }); err != context.Canceled {
		t.Error(err)
	}
}

func message(kind uint16, body int) []byte {
	b := make([]byte, diagHeader+body)
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], kind)
	return b
}

func localRoute() []byte {
	m := message(unix.RTM_NEWROUTE, unix.SizeofRtMsg)
	m[diagHeader+4] = unix.RT_TABLE_LOCAL
	return m
}

func TestParseEvents(t *testing.T) {
	for _, tt := range []struct {
		in   []byte
		want hits
		lost bool
	}{
		{nil, 0, false},
		{message(unix.RTM_NEWADDR, 8), of(topicAddresses), false},
		{append(message(unix.RTM_DELROUTE, 4), message(unix.RTM_NEWADDR, 0)...), of(topicAddresses, topicRoutes), false},
		{append(message(unix.RTM_NEWROUTE, 4), unix.RT_TABLE_LOCAL, 0, 0, 0, 0, 0, 0, 0), of(topicRoutes), true},
		{localRoute(), 0, false},
		{message(unix.NLMSG_OVERRUN, 4), 0, true},
		{message(unix.RTM_NEWLINK, 8)[:12], 0, true},
		{append(message(unix.RTM_NEWLINK, 0), 1, 2, 3), of(topicAddresses, topicRoutes, topicWireless), true},
	} {
		if h, lost := parseRouteEvents(tt.in); h != tt.want || lost != tt.lost {
			t.Errorf("%x: %b %v, want %b %v", tt.in, h, lost, tt.want, tt.lost)
		}
	}
	for in, want := range map[string]hits{
		"add@/devices/1-1\x00ACTION=add\x00DEVPATH=/devices/1-1\x00SUBSYSTEM=usb\x00SEQNUM=7\x00": of(topicUSB),
		"add@/module/evil\x00SUBSYSTEM=module\x00":                                                of(topicModules),
		"change@/x\x00SUBSYSTEM=usbmon\x00":                                                       0,
		"SUBSYSTEM":                                                                               0,
	} {
		if h := parseUevent([]byte(in)); h != want {
			t.Errorf("%q: %b, want %b", in, h, want)
		}
	}
}

func FuzzRouteEvents(f *testing.F) {
	f.Add(message(unix.RTM_NEWADDR, 8))
	f.Add(append(message(unix.RTM_DELROUTE, 5), message(unix.RTM_NEWADDR, 0)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, lost := parseRouteEvents(b); h&^of(topicAddresses, topicRoutes, topicWireless) != 0 || len(b) > 0 && len(b) < diagHeader && !lost {
			t.Fatalf("%x: %b %v", b, h, lost)
		}
	})
}

func FuzzUevent(f *testing.F) {
	f.Add([]byte("add@/devices/1-1\x00ACTION=add\x00SUBSYSTEM=usb\x00"))
	f.Add([]byte("libudev\x00\xfe\xed"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if parseUevent(b) != 0 && !bytes.Contains(b, []byte("SUBSYSTEM=")) {
			t.Fatalf("%q tells of something", b)
		}
	})
}

func FuzzInotify(f *testing.F) {
	e := make([]byte, unix.SizeofInotifyEvent+16)
	binary.NativeEndian.PutUint32(e[12:], 16)
	copy(e[unix.SizeofInotifyEvent:], "passwd")
	f.Add(e)
	f.Add(e[:20])
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		if ok := parseInotify(b, func(int32, uint32, string) { n++ }); ok && n > len(b)/unix.SizeofInotifyEvent {
			t.Fatalf("%d events in %d bytes", n, len(b))
		}
	})
}
