// Package benchevents measures how long it takes from the cause of an event
// until the agent has compared the fact that it is about with the manifest.
//
// The kernel, the files and the bus are real, systemd on the bus is simulated.
// All of it happens in a network and a mount namespace of its own, which `make
// bench-events` makes. Stalls, of which the kernel tells in its own time, are
// measured apart, and its part and ours of each.
package benchevents

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"github.com/miotfacts/miotfacts/agent"
	"github.com/miotfacts/miotfacts/agent/failsafe"
	"github.com/miotfacts/miotfacts/agent/spool"
	"github.com/miotfacts/miotfacts/appraise"
	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/facts/linux"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/referencetest"
)

const (
	samples = 200
	// Events of one kind come this far apart: faster ones are a storm, which is
	// slowed down on purpose.
	apart = 280 * time.Millisecond
	quiet = 30 * time.Millisecond
	goal  = 50 * time.Millisecond
)

type enforcer struct{}

func (enforcer) Alive(context.Context) (failsafe.Status, error) {
	return failsafe.Status{Latch: appraise.LatchClear}, nil
}
func (enforcer) Pause(context.Context, failsafe.PauseRequest) (failsafe.Status, error) {
	return failsafe.Status{}, errors.New("not in this bench")
}
func (enforcer) Resume(context.Context, []byte) (failsafe.Status, error) {
	return failsafe.Status{}, errors.New("not in this bench")
}

type sink struct{}

func (sink) Append(spool.Class, string, []byte) (spool.ID, error) { return 1, nil }
func (sink) Keep(spool.ID) error                                  { return nil }

func (sink) Stats() spool.Stats { return spool.Stats{} }

// A stage is where the agent's rounds are watched: what a kind of event waits
// for, until a round saw it.
type stage struct {
	mu   sync.Mutex
	last map[facts.Key]facts.Reading
	read map[facts.Key]int
	want func() bool // nil when nothing is waited for
	done chan time.Time

	watched facts.Key // each comparison after a reading of it is told
	readAt  time.Time // when that was, until it is told
	told    chan look
}

// A look is a reading of a fact and the comparison after it.
type look struct{ read, compared time.Time }

type tap struct {
	facts.Source
	on *stage
}

func (t tap) Read(dst []facts.Reading) []facts.Reading {
	from := len(dst)
	dst = t.Source.Read(dst)
	t.on.mu.Lock()
	defer t.on.mu.Unlock()
	for _, r := range dst[from:] {
		r.Value = r.Value.Clone()
		t.on.last[r.Key] = r
		t.on.read[r.Key]++
		if r.Key == t.on.watched {
			t.on.readAt = time.Now()
		}
	}
	return dst
}

// compared is called when a round has compared.
func (s *stage) compared() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.want != nil && s.want() {
		s.want = nil
		s.done <- time.Now()
	}
	if !s.readAt.IsZero() {
		s.told <- look{s.readAt, time.Now()}
		s.readAt = time.Time{}
	}
}

// measure returns the time from do until a round saw want.
func (s *stage) measure(b *testing.B, name string, want func() bool, do func()) time.Duration {
	b.Helper()
	s.mu.Lock()
	s.want = want
	s.mu.Unlock()
	begin := time.Now()
	do()
	select {
	case at := <-s.done:
		return at.Sub(begin)
	case <-time.After(10 * time.Second):
		b.Fatalf("%s: no round saw the event within 10 s", name)
		return 0
	}
}

func (s *stage) has(k facts.Key, member string, there bool) func() bool {
	return func() bool {
		r := s.last[k]
		return r.Status == facts.OK && slices.Contains(r.Value.Set(), member) == there
	}
}

// A kind is one kind of event. cause makes the i-th, and returns what is to be
// seen then.
type kind struct {
	name  string
	n     int
	took  []time.Duration
	cause func(i int) (want func() bool, do func())
}

// systemd simulates what a unit shows on the bus.
type systemd struct {
	mu    sync.Mutex
	state string
}

type unit struct {
	Name, Description, LoadState, ActiveState, SubState, Followed string
	Path                                                          dbus.ObjectPath
	JobID                                                         uint32
	JobType                                                       string
	JobPath                                                       dbus.ObjectPath
}

func (*systemd) Subscribe() *dbus.Error { return nil }
func (*systemd) GetAll(string) (map[string]dbus.Variant, *dbus.Error) {
	return map[string]dbus.Variant{"FinishTimestampMonotonic": dbus.MakeVariant(uint64(1))}, nil
}
func (s *systemd) ListUnitsByPatterns([]string, []string) ([]unit, *dbus.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return []unit{{Name: "pump.service", ActiveState: s.state, Path: "/x", JobPath: "/"}}, nil
}

func BenchmarkEvents(b *testing.B) {
	if os.Getenv("BENCH_EVENTS") == "" || os.Getuid() != 0 {
		b.Skip("NOT RUN: it changes addresses, mounts and files, in namespaces that `make bench-events` makes, as root")
	}
	runtime.GOMAXPROCS(1) // as factsd has it
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	run := func(name string, args ...string) {
		b.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			b.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
	}
	// An /etc and a /run of its own; nothing of it is seen outside.
	passwd, err := os.ReadFile("/etc/passwd")
	must(err)
	must(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	for _, d := range []string{"/etc", "/run"} {
		must(unix.Mount("events", d, "tmpfs", 0, "size=1m"))
	}
	must(unix.Mount("sysfs", "/sys", "sysfs", 0, "")) // of this network namespace
	must(os.WriteFile("/etc/passwd", passwd, 0o644))
	must(os.MkdirAll("/run/systemd/system", 0o755))
	must(os.MkdirAll("/etc/systemd/system", 0o755))
	must(os.MkdirAll("/run/dbus", 0o755))
	run("ip", "link", "add", "events0", "type", "bridge")
	run("ip", "link", "set", "events0", "up")
	run("ip", "address", "add", "192.0.2.1/24", "dev", "events0")
	iface, err := net.InterfaceByName("events0")
	must(err)

	conf := "/run/bus.conf"
	must(os.WriteFile(conf, []byte(`<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/><allow user="*"/></policy></busconfig>`), 0o600))
	daemon := exec.Command("dbus-daemon", "--config-file="+conf, "--nofork", "--print-address=1")
	ready, err := daemon.StdoutPipe()
	must(err)
	must(daemon.Start())
	defer func() { daemon.Process.Kill(); daemon.Wait() }()
	if _, err := ready.Read(make([]byte, 512)); err != nil {
		b.Fatal("dbus-daemon does not start: ", err)
	}
	bus, err := dbus.Connect("unix:path=/run/dbus/system_bus_socket")
	must(err)
	defer bus.Close()
	manager := &systemd{state: "active"}
	for _, i := range []string{"org.freedesktop.systemd1.Manager", "org.freedesktop.DBus.Properties"} {
		must(bus.Export(manager, "/org/freedesktop/systemd1", i))
	}
	_, err = bus.RequestName("org.freedesktop.systemd1", dbus.NameFlagDoNotQueue)
	must(err)

	cgroups, moved := cgroup(b)
	dir := b.TempDir()
	app := filepath.Join(dir, "app.sock")
	st, compared := start(b, dir, app, linux.Options{Services: true, Cgroups: cgroups, Application: appUnit})
	handIn, err := net.Dial("unixgram", app)
	must(err)
	defer handIn.Close()
	key := func(name string) facts.Key { return keyOf(b, name) }
	channels := key("events.channels")
	begin := time.Now()
	for open := 0; open < 6; { // dbus inotify mountinfo pressure rtnetlink uevent
		<-compared
		st.mu.Lock()
		open = len(slices.Compact(slices.Clone(st.last[channels].Value.Set())))
		st.mu.Unlock()
		if time.Since(begin) > 20*time.Second {
			b.Fatalf("only %v are open", st.last[channels].Value)
		}
	}

	nl, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	must(err)
	defer unix.Close(nl)
	target := filepath.Join(dir, "mount")
	must(os.Mkdir(target, 0o755))
	again := func(k facts.Key) func() bool { // read once more, whatever it shows
		st.mu.Lock()
		n := st.read[k]
		st.mu.Unlock()
		return func() bool { return st.read[k] > n }
	}
	addresses, route, accounts, mounts, wireless, active := key("network.addresses"), key("network.default_route"), key("integrity.accounts"), key("storage.mounts"), key("network.wireless"), key("service.active")
	files, running := key("service.files"), key("application.running")
	kinds := []*kind{
		{name: "rtnetlink: address", n: samples, cause: func(i int) (func() bool, func()) {
			return st.has(addresses, "events0 198.51.100.7/24", i%2 == 0), func() { send(b, nl, addressMessage(i%2 == 0, iface.Index)) }
		}},
		{name: "rtnetlink: default route", n: samples, cause: func(i int) (func() bool, func()) {
			return st.has(route, "events0 192.0.2.2", i%2 == 0), func() { send(b, nl, routeMessage(i%2 == 0, iface.Index)) }
		}},
		{name: "uevent: device", n: samples, cause: func(int) (func() bool, func()) {
			return again(wireless), func() { must(os.WriteFile("/sys/class/net/lo/uevent", []byte("change"), 0)) }
		}},
		{name: "inotify: /etc/passwd", n: samples, cause: func(i int) (func() bool, func()) {
			must(os.WriteFile("/etc/passwd.new", append(passwd[:len(passwd):len(passwd)], fmt.Sprintf("x%d:x:%d:0::/:/\n", i, 50000+i)...), 0o644))
			st.mu.Lock()
			before := st.last[accounts].Value.Clone()
			st.mu.Unlock()
			return func() bool { return st.last[accounts].Status == facts.OK && !st.last[accounts].Value.Equal(before) }, func() { must(os.Rename("/etc/passwd.new", "/etc/passwd")) }
		}},
		{name: "mountinfo: mount", n: samples, cause: func(i int) (func() bool, func()) {
			return st.has(mounts, target+" tmpfs", i%2 == 0), func() {
				if i%2 == 0 {
					must(unix.Mount("events", target, "tmpfs", 0, "size=4k"))
				} else {
					must(unix.Unmount(target, 0))
				}
			}
		}},
		{name: "dbus: service fails (simulated)", n: samples, cause: func(i int) (func() bool, func()) {
			return st.has(active, "pump.service", i%2 != 0), func() {
				manager.mu.Lock()
				manager.state = []string{"failed", "active"}[i%2]
				manager.mu.Unlock()
				must(bus.Emit("/org/freedesktop/systemd1/unit/pump_2eservice", "org.freedesktop.DBus.Properties.PropertiesChanged", "org.freedesktop.systemd1.Unit", map[string]dbus.Variant{}, []string{}))
			}
		}},
		{name: "inotify: unit file", n: samples, cause: func(i int) (func() bool, func()) {
			st.mu.Lock()
			before := st.last[files].Value.Clone()
			st.mu.Unlock()
			return func() bool { return st.last[files].Status == facts.OK && !st.last[files].Value.Equal(before) }, func() {
				must(os.WriteFile("/etc/systemd/system/pump.service", fmt.Appendf(nil, "# %d\n", i), 0o644))
			}
		}},
		{name: "cgroup.events: populated", n: samples, cause: func(i int) (func() bool, func()) {
			return func() bool {
				r := st.last[running]
				return r.Status == facts.OK && r.Value.Bool() == (i%2 == 0)
			}, func() { moved(i%2 == 0) }
		}},
		{name: "application: datagram", n: samples, cause: func(i int) (func() bool, func()) {
			rounds := 0
			return func() bool { rounds++; return true }, func() {
				_, err := handIn.Write(fmt.Appendf(nil, "app.flow %d\n", 100+i%50))
				must(err)
			}
		}},
	}
	var lost, held int64
	for i := range samples {
		next := time.Now().Add(apart)
		for _, k := range kinds {
			want, do := k.cause(i)
			<-time.After(quiet) // an event by itself: what another one does to it is not measured
			k.took = append(k.took, st.measure(b, k.name, want, do))
		}
		<-time.After(time.Until(next))
	}
	st.mu.Lock()
	lost, held = st.last[key("events.lost")].Value.Int(), st.last[key("events.held")].Value.Int()
	st.mu.Unlock()

	out := &bytes.Buffer{}
	fmt.Fprintf(out, "\n%-38s %8s %12s %12s\n", "from the cause to the comparison", "events", "median ms", "worst ms")
	worst := time.Duration(0)
	for _, k := range kinds {
		print(out, k.name, k.took)
		worst = max(worst, slices.Max(k.took))
	}
	met := "met"
	if worst > goal {
		met = "MISSED"
	}
	fmt.Fprintf(out, "goal %.0f ms: worst %.2f, %s; events lost %d, held back %d\n", ms(goal), ms(worst), met, lost, held)
	fmt.Fprint(os.Stderr, strings.TrimPrefix(out.String(), "\n"))
	b.ReportMetric(ms(worst), "worst-ms")
}

// start starts an agent with its sources and events, until b ends. compared
// receives when a round has compared.
func start(b *testing.B, dir, app string, options linux.Options) (st *stage, compared chan struct{}) {
	b.Helper()
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	root, err := linux.OpenRoot("/")
	must(err)
	b.Cleanup(func() { root.Close() })
	events := linux.NewEvents(root, options, log)
	options.Events = events
	sources, err := linux.Sources(root, options)
	must(err)
	st = &stage{last: map[facts.Key]facts.Reading{}, read: map[facts.Key]int{}, done: make(chan time.Time, 1), told: make(chan look, 1000)}
	for i := range sources {
		sources[i] = tap{sources[i], st}
	}
	world := referencetest.New(b)
	m := referencetest.Example()
	document, err := reference.SignManifest(&m, world.Manifest)
	must(err)
	for name, data := range map[string][]byte{"manifest": document, "mkeys": world.ManufacturerKeys, "okeys": world.OperatorKeys} {
		must(os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
	compared = make(chan struct{}, 1)
	a, err := agent.New(agent.Config{
		StateDir: filepath.Join(dir, "state"), ManifestPath: filepath.Join(dir, "manifest"),
		KeyLists: []string{filepath.Join(dir, "mkeys"), filepath.Join(dir, "okeys")},
		Roots: []reference.Root{
			{Key: world.ManufacturerRoot.Public(), Owner: reference.Manufacturer}, {Key: world.OperatorRoot.Public(), Owner: reference.Operator},
		},
		UEID: attest.NewUEID([16]byte{1}), Vendor: "Example Medical", Model: "pump-1", Version: "0.1.0", BootID: [16]byte{5},
		Signer: referencetest.Signer(b), Protection: attest.ProtectionFile, Sources: sources, Events: events, AppSocket: app,
		Now: func() reference.Interval { return reference.At(referencetest.Now) }, Uptime: linux.Uptime,
		Enforcer: enforcer{}, Spool: sink{}, Log: log,
		Alive: func() {
			st.compared()
			select {
			case compared <- struct{}{}:
			default:
			}
		},
	})
	must(err)
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan struct{})
	go func() { a.Run(ctx); close(ended) }()
	b.Cleanup(func() { cancel(); <-ended })
	return st, compared
}

func keyOf(b *testing.B, name string) facts.Key {
	b.Helper()
	vocabulary, err := facts.NewVocabulary(nil)
	if err != nil {
		b.Fatal(err)
	}
	d, ok := vocabulary.ByName(name)
	if !ok {
		b.Fatal("no fact ", name)
	}
	return d.Key
}

// print sorts what events took, and prints a line of it.
func print(w io.Writer, name string, took []time.Duration) {
	slices.Sort(took)
	fmt.Fprintf(w, "%-38s %8d %12.2f %12.2f\n", name, len(took), ms(took[len(took)/2]), ms(took[len(took)-1]))
}

// appUnit is the cgroup of the application.
const appUnit = "miotfacts-bench.service"

// cgroup makes the application's cgroup and returns where cgroup v2 is mounted,
// below the root, and how a process moves into it and out of it.
func cgroup(b *testing.B) (mount string, move func(in bool)) {
	b.Helper()
	mount = "run/cgroup2"
	if err := errors.Join(os.MkdirAll("/"+mount, 0o755), unix.Mount("cgroup2", "/"+mount, "cgroup2", 0, "")); err != nil {
		b.Fatal(err)
	}
	dir := filepath.Join("/", mount, appUnit)
	if err := os.Mkdir(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	sleep := exec.Command("sleep", "infinity")
	if err := sleep.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		sleep.Process.Kill()
		sleep.Wait()
		os.Remove(dir)
	})
	return mount, func(in bool) {
		to := dir
		if !in {
			to = filepath.Dir(dir)
		}
		if err := os.WriteFile(filepath.Join(to, "cgroup.procs"), fmt.Append(nil, sleep.Process.Pid), 0); err != nil {
			b.Fatal(err)
		}
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func send(b *testing.B, fd int, m []byte) {
	b.Helper()
	if _, err := unix.Write(fd, m); err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 4096)
	n, err := unix.Read(fd, buf)
	if err != nil || n < 20 || binary.NativeEndian.Uint32(buf[16:]) != 0 {
		b.Fatalf("rtnetlink: %x %v", buf[:max(n, 0)], err)
	}
}

// request makes a message of rtnetlink(7) with attributes.
func request(add bool, kinds [2]uint16, body []byte, attributes ...[]byte) []byte {
	kind, flags := kinds[1], uint16(unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	if add {
		kind, flags = kinds[0], flags|unix.NLM_F_CREATE
	}
	m := append(make([]byte, 16), body...)
	for _, a := range attributes {
		m = append(m, a...)
	}
	ne := binary.NativeEndian
	ne.PutUint32(m, uint32(len(m)))
	ne.PutUint16(m[4:], kind)
	ne.PutUint16(m[6:], flags)
	return m
}

func attribute(kind uint16, value [4]byte) []byte {
	a := binary.NativeEndian.AppendUint16(nil, 8)
	return append(binary.NativeEndian.AppendUint16(a, kind), value[:]...)
}

func addressMessage(add bool, index int) []byte {
	body := binary.NativeEndian.AppendUint32([]byte{unix.AF_INET, 24, 0, 0}, uint32(index))
	return request(add, [2]uint16{unix.RTM_NEWADDR, unix.RTM_DELADDR}, body, attribute(unix.IFA_LOCAL, [4]byte{198, 51, 100, 7}))
}

func routeMessage(add bool, index int) []byte {
	var oif [4]byte
	binary.NativeEndian.PutUint32(oif[:], uint32(index))
	body := []byte{unix.AF_INET, 0, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST, 0, 0, 0, 0}
	return request(add, [2]uint16{unix.RTM_NEWROUTE, unix.RTM_DELROUTE}, body, attribute(unix.RTA_GATEWAY, [4]byte{192, 0, 2, 2}), attribute(unix.RTA_OIF, oif))
}
