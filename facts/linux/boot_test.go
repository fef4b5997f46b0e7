package linux

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/miotfacts/miotfacts/facts"
)

const (
	bootA = "aaaaaaaa-0000-4000-8000-000000000001"
	bootB = "bbbbbbbb-0000-4000-8000-000000000002"
)

// A machine is a fixture whose boots a test makes up.
type machine struct {
	t     *testing.T
	x     *tree
	state string
}

func newMachine(t *testing.T) *machine {
	m := &machine{t: t, x: newTree(t, nil), state: t.TempDir()}
	return m
}

// boot starts the machine anew without systemd: no agent runs yet.
func (m *machine) boot(id string, uptime int) {
	m.x.remove(".calls")
	m.x.write(map[string]string{
		"proc/sys/kernel/random/boot_id": id + "\n", "proc/1/stat": "1 (init) S" + strings.Repeat(" 0", 18) + " 150 0\n", "proc/2/stat": "2 (kthreadd) S" + strings.Repeat(" 0", 19) + "\n",
	})
	m.at(uptime)
}

// at sets the uptime in s. The machine is busy for half of it.
func (m *machine) at(uptime int) {
	m.x.write(map[string]string{"proc/uptime": fmt.Sprintf("%d.00 0.00\n", uptime), "proc/stat": procStat(uptime*50, uptime*50)})
}

// agent starts an agent, which reads once, and wants facts to be as in want.
func (m *machine) agent(want map[string]string) {
	m.t.Helper()
	root := openRoot(m.t, m.x.dir)
	m.x.list = mustSources(m.t, root, Options{StateDir: m.state})
	m.x.round(time.Second, want)
}

func TestBootRecord(t *testing.T) {
	m := newMachine(t)
	m.boot(bootA, 20)
	first := map[string]string{"boot.count": "ok 1", "boot.kernel": "ok 1500", "boot.total": "ok 20000", "boot.cpu_time": "ok 10000", "boot.firmware": "absent", "boot.energy": "absent", "time.operating_hours": "ok 0"}
	m.agent(first)
	m.at(40000)
	first["time.operating_hours"] = "ok 11"
	m.x.round(time.Second, first) // the same agent, much later
	m.agent(first)                // an agent that starts again

	m.boot(bootB, 30)
	m.agent(map[string]string{"boot.count": "ok 2", "boot.total": "ok 30000", "time.operating_hours": "ok 11"})

	// An agent that first runs long after the boot cannot tell what the boot took.
	m.boot(bootA, 4000)
	m.agent(map[string]string{"boot.count": "ok 3", "boot.kernel": "ok 1500", "boot.total": "absent", "boot.cpu_time": "absent"})
}

// TestFirmwareTime reads the firmware's own table where there is no systemd.
func TestFirmwareTime(t *testing.T) {
	const dir = "sys/firmware/acpi/fpdt/boot/"
	for _, tt := range []struct{ launch, exit, firmware, loader, total string }{
		{"3000000000", "4500000000", "ok 3000", "ok 1500", "ok 24500"},
		{"3000000000", "0", "absent", "absent", "ok 20000"}, // not UEFI
		{"3000000000", "2000000000", "malformed", "malformed", "ok 20000"},
		{"3000000000", "9000000000000000", "malformed", "malformed", "ok 20000"},
		{"soon", "2000000000", "malformed", "malformed", "ok 20000"},
	} {
		m := newMachine(t)
		m.boot(bootA, 20)
		m.x.write(map[string]string{dir + "bootloader_launch_ns": tt.launch + "\n", dir + "exitbootservice_end_ns": tt.exit + "\n"})
		m.agent(map[string]string{"boot.firmware": tt.firmware, "boot.loader": tt.loader, "boot.kernel": "ok 1500", "boot.total": tt.total})
	}
	// In a container the table is the host's.
	m := newMachine(t)
	m.boot(bootA, 20)
	m.x.write(map[string]string{dir + "bootloader_launch_ns": "3\n", dir + "exitbootservice_end_ns": "4\n", "proc/2/stat": "2 (sh) S" + strings.Repeat(" 0", 19) + "\n"})
	m.agent(map[string]string{"boot.firmware": "absent", "boot.loader": "absent", "boot.total": "ok 20000"})
}

// TestKernelLog has what the kernel's log tells of the phases without systemd.
func TestKernelLog(t *testing.T) {
	record := func(sequence, us int, text string) string { return fmt.Sprintf("6,%d,%d,-;%s\n", sequence, us, text) }
	begin := record(0, 0, "Linux version 6.12")
	for _, tt := range []struct{ name, log, cmdline, kernel, initrd, userspace string }{
		{"no log", "", "quiet", "ok 1500", "absent", "absent"},
		{"no initial RAM file system", begin + record(9, 2_750_900, "Run /sbin/init as init process"), "quiet", "ok 2750", "absent", "ok 17250"},
		{"one", begin + record(9, 2_750_900, "Run /init as init process"), "quiet", "ok 2750", "absent", "absent"},
		{"one with another name", begin + record(9, 2_750_900, "Run /early as init process"), "quiet rdinit=/early", "ok 2750", "absent", "absent"},
		{"the kernel does not say", begin + record(9, 2_750_900, "usb 1-1: new device"), "quiet", "ok 1500", "absent", "absent"},
		{"overwritten", record(900, 2_750_900, "usb 1-1: new device"), "quiet", "absent", "absent", "absent"},
		{"damaged", "what?\n", "quiet", "malformed", "malformed", "malformed"},
	} {
		m := newMachine(t)
		m.boot(bootA, 20)
		m.x.write(map[string]string{"proc/cmdline": tt.cmdline + "\n"})
		if tt.log != "" {
			m.x.write(map[string]string{"dev/kmsg": tt.log})
		}
		t.Log(tt.name)
		m.agent(map[string]string{"boot.kernel": tt.kernel, "boot.initrd": tt.initrd, "boot.userspace": tt.userspace, "boot.total": "ok 20000"})
	}
	// In a container the log is the host's.
	m := newMachine(t)
	m.boot(bootA, 20)
	m.x.write(map[string]string{"dev/kmsg": begin + record(9, 2_750_900, "Run /sbin/init as init process"), "proc/2/stat": "2 (sh) S" + strings.Repeat(" 0", 19) + "\n"})
	m.agent(map[string]string{"boot.kernel": "absent", "boot.userspace": "absent"})
}

// The log of this machine, where it may be read: the kernel made process 1 before it ran it.
func TestKernelLogOfThisMachine(t *testing.T) {
	root := openRoot(t, "/")
	log := root.initStart()
	if log.silent || log.fault.status == facts.Absent {
		t.Skip("NOT RUN: this machine's log does not tell: ", log.fault.reason)
	}
	made := root.processStart()
	if log.fault.is() || !made.is() && log.ms < made.ms || log.program == "" {
		t.Errorf("%+v; process 1 is of %+v", log, made)
	}
	t.Logf("%s ran at %d ms; process 1 is of %d ms", log.program, log.ms, made.ms)
}

func TestBootRecordWithSystemd(t *testing.T) {
	m := newMachine(t)
	stamps := "UserspaceTimestampMonotonic=2000000\nSecurityStartTimestampMonotonic=1\nFirmwareTimestampMonotonic=9000000\nLoaderTimestampMonotonic=1000000\n"
	m.boot(bootA, 10)
	m.x.write(map[string]string{".calls/systemd": stamps + "FinishTimestampMonotonic=0\n"})
	m.agent(map[string]string{"boot.count": "ok 1", "boot.total": "pending", "boot.kernel": "pending", "boot.cpu_time": "pending"})
	m.at(14)
	m.agent(map[string]string{"boot.count": "ok 1", "boot.total": "pending"}) // again, before the boot is complete
	m.x.write(map[string]string{".calls/systemd": stamps + "FinishTimestampMonotonic=15000000\n"})
	m.at(16)
	done := map[string]string{"boot.count": "ok 1", "boot.firmware": "ok 8000", "boot.loader": "ok 1000", "boot.kernel": "ok 2000", "boot.initrd": "absent", "boot.userspace": "ok 13000", "boot.total": "ok 24000", "boot.cpu_time": "ok 8000"}
	m.x.round(time.Second, done)
	m.at(100000)
	m.agent(done)
	m.x.remove(".calls")
	m.agent(done)

	// A boot that never completes is counted.
	m.boot(bootB, 10)
	m.x.write(map[string]string{".calls/systemd": stamps + "FinishTimestampMonotonic=0\n"})
	m.agent(map[string]string{"boot.count": "ok 2", "boot.total": "pending"})
	m.boot(bootA, 10)
	m.agent(map[string]string{"boot.count": "ok 3"})
}

// TestDamagedState damages the state files: it is told for the whole of the
// boot, and the count goes on from there.
func TestDamagedState(t *testing.T) {
	for name, damage := range map[string]func(b []byte) []byte{
		"empty":    func([]byte) []byte { return nil },
		"cut":      func(b []byte) []byte { return b[:len(b)/2] },
		"flipped":  func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"garbage":  func([]byte) []byte { return []byte("\xff\x00\n") },
		"appended": func(b []byte) []byte { return append(b, "count 1\n"...) },
		"another":  func([]byte) []byte { return encodeState("other", []pair{{"boot_id", bootA}}) },
		"no count": func([]byte) []byte { return encodeState("boot", []pair{{"boot_id", bootA}}) },
		"long":     func([]byte) []byte { return bytes.Repeat([]byte("x"), maxState+1) },
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.boot(bootA, 3600*5)
			m.agent(map[string]string{"boot.count": "ok 1", "time.operating_hours": "ok 5"})
			m.boot(bootB, 20)
			m.agent(map[string]string{"boot.count": "ok 2", "time.operating_hours": "ok 5"})
			for _, f := range []string{"boot", "hours"} {
				p := filepath.Join(m.state, f)
				b, err := os.ReadFile(p)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(p, damage(b), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			m.agent(map[string]string{"boot.count": "malformed", "boot.total": "ok 20000", "time.operating_hours": "malformed"})
			m.agent(map[string]string{"boot.count": "malformed", "time.operating_hours": "malformed"})
			m.boot(bootA, 3600*2)
			m.agent(map[string]string{"boot.count": "ok 2", "time.operating_hours": "ok 2"})
		})
	}
}

// TestStateThatCannotBeKept wants a directory that is gone, or a file that
// cannot be read, to be told, and the file left as it is.
func TestStateThatCannotBeKept(t *testing.T) {
	m := newMachine(t)
	m.boot(bootA, 20)
	m.state = filepath.Join(m.state, "nothing")
	m.agent(map[string]string{"boot.count": "unreadable", "boot.total": "ok 20000", "time.operating_hours": "unreadable"})
	if err := os.MkdirAll(filepath.Join(m.state, "boot"), 0o700); err != nil { // reading a directory fails
		t.Fatal(err)
	}
	m.agent(map[string]string{"boot.count": "unreadable", "boot.cpu_time": "ok 10000", "time.operating_hours": "ok 0"})
	if info, err := os.Stat(filepath.Join(m.state, "boot")); err != nil || !info.IsDir() {
		t.Errorf("what could not be read was replaced: %v, %v", info, err)
	}
	m.x.remove("proc/sys")
	m.agent(map[string]string{"boot.count": "absent", "time.operating_hours": "absent"})
}

func TestOperatingHoursAreWritten(t *testing.T) {
	m := newMachine(t)
	m.boot(bootA, 10)
	m.agent(map[string]string{"time.operating_hours": "ok 0"})
	written := func() string {
		pairs, err := loadState(m.state, "hours")
		if err != nil {
			t.Fatal(err)
		}
		return lookup(pairs, "uptime_ms")
	}
	m.at(10 + 599)
	m.x.round(time.Minute, nil)
	if got := written(); got != "10000" {
		t.Errorf("written after 599 s: %s", got)
	}
	m.at(10 + 600)
	m.x.round(time.Minute, nil)
	if got := written(); got != "610000" {
		t.Errorf("after 600 s %s is written", got)
	}
	left, err := filepath.Glob(filepath.Join(m.state, "*"))
	if err != nil || len(left) != 2 {
		t.Errorf("the state directory holds %v, %v", left, err)
	}
}

func TestPhases(t *testing.T) {
	ok := func(ms int64) phase { return phase{ms: ms} }
	none := phase{ms: -1}
	for _, tt := range []struct {
		name string
		in   stamps
		want [6]phase // -1: absent, -2: pending, -3: malformed
	}{
		{"all", stamps{firmware: 9000, loader: 2000, initrd: 3000, userspace: 5000, finish: 11000, security: 1}, [6]phase{ok(7), ok(2), ok(3), ok(2), ok(6), ok(20)}},
		{"no firmware", stamps{userspace: 5000, finish: 11000, security: 1}, [6]phase{none, none, ok(5), none, ok(6), ok(11)}},
		{"loader only", stamps{loader: 2000, userspace: 5000, finish: 11000, security: 1}, [6]phase{none, ok(2), ok(5), none, ok(6), ok(13)}},
		{"not finished", stamps{userspace: 5000, security: 1}, [6]phase{ok(-2), ok(-2), ok(-2), ok(-2), ok(-2), ok(-2)}},
		{"container", stamps{userspace: 5000, finish: 11000}, [6]phase{none, none, none, none, ok(6), ok(6)}},
		{"container without stamps", stamps{finish: 11000}, [6]phase{none, none, none, none, none, none}},
		{"soft reboot", stamps{firmware: 9000, userspace: 8000, finish: 11000, security: 1, softReboot: 7000}, [6]phase{none, none, none, none, ok(3), ok(4)}},
		{"finish before user space", stamps{userspace: 5000, finish: 4000, security: 1}, [6]phase{none, none, ok(5), none, ok(-3), ok(4)}},
		{"loader before firmware", stamps{firmware: 1, loader: 2000, userspace: 5000, finish: 6000, security: 1}, [6]phase{ok(-3), ok(2), ok(5), none, ok(1), ok(8)}},
	} {
		got := tt.in.phases()
		for i := range got {
			switch got[i].status {
			case facts.Absent:
				got[i] = none
			case facts.Pending:
				got[i] = ok(-2)
			case facts.Malformed:
				got[i] = ok(-3)
			}
		}
		if got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestStateRoundTrip(t *testing.T) {
	in := []pair{{"a", "1"}, {"b", "text with spaces"}, {"c", ""}}
	got, err := decodeState("x", encodeState("x", in))
	if err != nil || !reflect.DeepEqual(got, in) {
		t.Errorf("%v, %v", got, err)
	}
	got, err = decodeState("x", encodeState("x", []pair{{"a", "1\ncount 9\n"}}))
	if err != nil || len(got) != 1 {
		t.Errorf("a value with a line feed came back as %v, %v", got, err)
	}
}

// A fakeSystemd answers like systemd's manager, over a real bus.
type fakeSystemd struct {
	conn  *dbus.Conn // its own to the bus
	mu    sync.Mutex
	props map[string]dbus.Variant
	units []unit
	asked []string
}

func (m *fakeSystemd) GetAll(iface string) (map[string]dbus.Variant, *dbus.Error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.props, nil
}

func (m *fakeSystemd) set(props map[string]dbus.Variant) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.props = props
}

// Subscribe is asked for by who listens to signals.
func (m *fakeSystemd) Subscribe() *dbus.Error { return nil }

func (m *fakeSystemd) ListUnitsByPatterns(states, patterns []string) ([]unit, *dbus.Error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked = append(slices.Clone(states), patterns...)
	return m.units, nil
}

// startBus runs a message bus on which m is systemd, and returns its address.
func startBus(t *testing.T, m *fakeSystemd) string {
	t.Helper()
	tool, err := exec.LookPath("dbus-daemon")
	if err != nil {
		t.Fatal("dbus-daemon is missing: install the package dbus-daemon")
	}
	conf := filepath.Join(t.TempDir(), "bus.conf")
	if err := os.WriteFile(conf, []byte(`<busconfig><type>session</type><listen>unix:dir=`+t.TempDir()+`</listen>
<policy context="default"><allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/></policy></busconfig>`), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(tool, "--config-file="+conf, "--nofork", "--print-address=1")
	var stderr bytes.Buffer // it complains about limits that it may not raise
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	address, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		cmd.Wait()
		t.Fatalf("dbus-daemon does not start: %v\n%s", err, &stderr)
	}
	address = strings.TrimSpace(address)
	if m == nil {
		return address
	}
	c, err := dbus.Connect(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	m.conn = c
	for _, iface := range []string{manager, "org.freedesktop.DBus.Properties"} {
		if err := c.Export(m, busPath, iface); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := c.RequestName(busName, dbus.NameFlagDoNotQueue); err != nil || r != dbus.RequestNameReplyPrimaryOwner {
		t.Fatalf("the name was not given: %v, %v", r, err)
	}
	return address
}

func TestSystemdOverBus(t *testing.T) {
	m := &fakeSystemd{
		props: map[string]dbus.Variant{
			"Version": dbus.MakeVariant("252"), "UserspaceTimestampMonotonic": dbus.MakeVariant(uint64(2_000_000)),
			"FinishTimestampMonotonic": dbus.MakeVariant(uint64(9_000_000)), "SecurityStartTimestampMonotonic": dbus.MakeVariant(uint64(1)),
		},
		units: []unit{
			{Name: "ssh.service", LoadState: "loaded", ActiveState: "active", SubState: "running", Path: "/a", JobPath: "/"},
			{Name: "broken.service", LoadState: "loaded", ActiveState: "failed", SubState: "failed", Path: "/b", JobPath: "/"},
		},
	}
	root := openRoot(t, "/")
	root.bus = startBus(t, m)
	s, f := root.bootStamps()
	if f.is() || s.userspace != 2_000_000 || s.finish != 9_000_000 || s.firmware != 0 {
		t.Errorf("stamps %+v, fault %+v", s, f)
	}
	active, failed, f := root.activeAndFailed()
	if f.is() || !slices.Equal(active, []string{"ssh.service"}) || !slices.Equal(failed, []string{"broken.service"}) {
		t.Errorf("active %v, failed %v, fault %+v", active, failed, f)
	}
	m.mu.Lock()
	asked := m.asked
	m.mu.Unlock()
	if want := []string{"active", "failed", "*.service"}; !slices.Equal(asked, want) {
		t.Errorf("asked for %q, want %q", asked, want)
	}

	m.set(map[string]dbus.Variant{"FinishTimestampMonotonic": dbus.MakeVariant("soon")})
	if _, f := root.bootStamps(); f.status != facts.Malformed {
		t.Errorf("a stamp of another type: %+v", f)
	}
	m.set(map[string]dbus.Variant{})
	if _, f := root.bootStamps(); f.status != facts.Malformed {
		t.Errorf("no stamp: %+v", f)
	}

	root.bus = startBus(t, nil)
	if _, f := root.bootStamps(); f.status != facts.Unreadable || !strings.HasPrefix(f.reason, "D-Bus: ") {
		t.Errorf("a bus without systemd: %+v", f)
	}
	root.bus = "unix:path=" + filepath.Join(t.TempDir(), "nothing")
	if _, _, f := root.activeAndFailed(); f.status != facts.Unreadable {
		t.Errorf("no bus: %+v", f)
	}
}

// TestServicesKeepsAnAnswer wants an answer that came after the deadline to
// serve the next round, instead of asking for ever.
func TestServicesKeepsAnAnswer(t *testing.T) {
	x := newTree(t, map[string]string{".calls/systemd": "FinishTimestampMonotonic=1\n", ".calls/systemd-units": "a.service active\n"})
	x.round(0, map[string]string{"service.active": "ok {a.service}", "service.failed": "ok {}"})
	x.write(map[string]string{".calls/systemd-units": "a.service failed\n"})
	x.round(time.Second, map[string]string{"service.active": "ok {a.service}"})
	x.round(facts.SlowPeriod, map[string]string{"service.active": "ok {}", "service.failed": "ok {a.service}"})
}

func TestPCRDigest(t *testing.T) {
	calls := 0
	digest := bytes.Repeat([]byte{7}, 32)
	var fail error
	read := func(opt Options) facts.Reading {
		return readAll(t, mustSources(t, openRoot(t, t.TempDir()), opt), 2)["boot.pcr_digest"]
	}
	ask := func() ([]byte, error) { calls++; return digest, fail }
	if r := read(Options{}); r.Status != facts.Absent {
		t.Errorf("without a TPM: %+v", r)
	}
	if r := read(Options{PCRDigest: ask}); r.Status != facts.OK || !bytes.Equal(r.Value.Bytes(), digest) || calls != 1 {
		t.Errorf("%+v after %d calls", r, calls)
	}
	digest = digest[:20]
	if r := read(Options{PCRDigest: ask}); r.Status != facts.Malformed {
		t.Errorf("20 bytes: %+v", r)
	}
	fail = os.ErrDeadlineExceeded
	if r := read(Options{PCRDigest: ask}); r.Status != facts.Unreadable {
		t.Errorf("a TPM that fails: %+v", r)
	}
}
