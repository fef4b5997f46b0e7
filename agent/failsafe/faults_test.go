package failsafe

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/miotfacts/miotfacts/agent/quarantine"
	"github.com/miotfacts/miotfacts/appraise"
	"github.com/miotfacts/miotfacts/attest/tpm"
	"github.com/miotfacts/miotfacts/attest/tpm/tpmtest"
	"github.com/miotfacts/miotfacts/reference"
)

var (
	faultsDoc = flag.String("faults", "", "inject every fault, and write what was seen to this file")
	faultWays = flag.String("ways", "", "only these ways, by comma: all that begin so, as quarantine or sysfs/pause")
)

// A way is what the enforcer does while a system call of it fails: the chain of
// its manifest, a slash, and one of these.
type way string

const (
	pausing  = "pause"  // from the request to paused
	resuming = "resume" // from the signed resume to clear
	starting = "start"  // from the start of a paused device to paused and ready
)

func (w way) does(what string) bool {
	return strings.HasSuffix(string(w), "/"+what)
}

// A point is one system call of a way. Path has the device's directory as $D,
// the cgroup as $C, the application as $A, its socket as $S, the program that is
// signalled as $P, the bus as $B and the TPM as $T; what is no file has none.
type point struct {
	way        way
	call, path string
}

// runtimeCalls are the Go runtime's own: where they fail it ends the process,
// which is what a kill does.
func runtimeCalls() []string {
	return strings.Fields(`futex nanosleep clock_nanosleep sched_yield sched_getaffinity tgkill rt_sigreturn rt_sigaction rt_sigprocmask
		sigaltstack madvise mmap munmap mprotect gettid getpid epoll_pwait epoll_create1 restart_syscall exit exit_group
		arch_prctl prctl set_robust_list set_tid_address rseq brk prlimit64 uname capget capset getrandom getrlimit setrlimit mincore`)
}

// errorsOf returns how a system call may fail.
func errorsOf(call string) []string {
	switch call {
	case "write", "pwrite64", "fsync":
		return []string{"EIO", "ENOSPC"}
	case "openat":
		return []string{"EIO", "ENOSPC", "EROFS"}
	case "renameat", "unlinkat", "mkdirat":
		return []string{"EIO", "EROFS"}
	case "read", "pread64", "poll", "getdents64":
		return []string{"EIO", "EINTR"}
	case "accept4":
		return []string{"EMFILE", "ECONNABORTED"}
	case "socket", "pipe2", "eventfd2":
		return []string{"EMFILE", "ENOMEM"}
	case "connect":
		return []string{"ECONNREFUSED", "EAGAIN"}
	case "sendto", "recvfrom":
		return []string{"EAGAIN", "ENOBUFS"}
	case "close":
		return []string{"EIO"}
	case "execve":
		return []string{"ENOEXEC", "EACCES"}
	case "clone", "clone3":
		return []string{"EAGAIN"}
	}
	return []string{"EIO"}
}

// A faultChain is the reaction chain of a device in which system calls fail, and
// how to see from outside whether it is in force.
type faultChain struct {
	name, words string
	ways        []string
	kinds       []reference.ReactionKind
	change      func(b *faultBed, m *reference.Manifest)
	setup       func(b *faultBed)
	holds       func(b *faultBed) bool // it is in force, by another look than the enforcer's
	some        func(b *faultBed) bool // a part of it is; nil where it has none
	reset       func(b *faultBed)      // it is not, as after a reboot
}

func faultChains() []faultChain {
	all, without := []string{pausing, resuming, starting}, []string{pausing, resuming}
	isFrozen := func(b *faultBed) bool { return frozen(b.t, b.cgroup) }
	thawed := func(b *faultBed) { thaw(b.t, b.cgroup) }
	says := func(name, text string) func(*faultBed) bool {
		return func(b *faultBed) bool {
			now, err := os.ReadFile(b.d.path(name))
			return err == nil && strings.TrimSpace(string(now)) == text
		}
	}
	put := func(files map[string]string) func(*faultBed) {
		return func(b *faultBed) {
			for name, text := range files {
				b.d.write(name, []byte(text))
			}
		}
	}
	return []faultChain{
		{"freeze", "the application is told and its cgroup frozen", all, []reference.ReactionKind{reference.Tell, reference.Freeze}, nil, nil, isFrozen, nil, thawed},
		{"prepare", "the application says when it is ready, is told to hold, and its cgroup frozen", all, []reference.ReactionKind{reference.Prepare, reference.Freeze}, nil, nil, isFrozen, nil, thawed},
		{"defer", "the application puts the pause off for 20 ms", []string{pausing}, []reference.ReactionKind{reference.Freeze}, func(b *faultBed, m *reference.Manifest) {
			m.Leeway = &reference.Leeway{Defer: &reference.Deferral{Most: 60, Total: 600, User: strconv.Itoa(os.Getuid()), Answer: 1000, NeverIntegrity: true}}
		}, nil, isFrozen, nil, thawed},
		{"tpm", "a cgroup is frozen, and a TPM holds the latch too (swtpm)", all, []reference.ReactionKind{reference.Freeze}, nil, func(b *faultBed) {
			if b.tpm == nil {
				b.tpm = tpmtest.New(b.t)
			}
			nv := &lateNV{addr: b.tpm.Addr}
			if err := errors.Join(nv.DefineLatch(), nv.WriteLatch(tpm.LatchRecord{})); err != nil {
				b.t.Fatal(err)
			}
			b.d.env = append(b.d.env, "FAILSAFE_TPM="+b.tpm.Addr)
		}, isFrozen, nil, thawed},
		{"signal", "a program is stopped by signal", all, []reference.ReactionKind{reference.Signal}, nil, func(b *faultBed) {
			if b.pump != nil {
				b.pump.Process.Kill()
				b.pump.Wait()
			}
			b.pump = startPump(b.t, b.d)
		}, func(b *faultBed) bool {
			is, err := (&hands{proc: "/proc"}).stopped(b.pump.Process.Pid)
			return err == nil && is
		}, nil, func(b *faultBed) { b.pump.Process.Signal(syscall.SIGCONT) }},
		{"unit", "a unit is stopped and masked (simulated systemd on a real bus)", all, []reference.ReactionKind{reference.StopUnit, reference.MaskUnit}, nil, func(b *faultBed) {
			if b.systemd == nil {
				b.systemd = newFakeSystemd(b.t, newBus(b.t))
				b.systemd.add(b.t, "pump.service", "active", nil)
			}
			b.systemd.is("pump.service", "active", "loaded")
			b.d.env = append(b.d.env, "DBUS_SYSTEM_BUS_ADDRESS="+b.systemd.address)
		}, func(b *faultBed) bool {
			active, load := b.systemd.how("pump.service")
			return active == "inactive" && load == "masked"
		}, func(b *faultBed) bool {
			active, load := b.systemd.how("pump.service")
			return active == "inactive" || load == "masked"
		}, func(b *faultBed) { b.systemd.is("pump.service", "active", "loaded") }},
		{"quarantine", "the network is closed (nf_tables of an own network namespace)", all, []reference.ReactionKind{reference.Quarantine}, nil, func(b *faultBed) {
			if b.network == nil {
				b.network = ownNetwork(b.t)
			}
			b.openNetwork()
		}, func(b *faultBed) (closed bool) {
			b.in(func() { closed, _ = (quarantine.Network{}).Closed(context.Background(), verifierPeers()) })
			return closed
		}, func(b *faultBed) (present bool) {
			b.in(func() { present, _ = (quarantine.Network{}).Present(context.Background()) })
			return present
		}, (*faultBed).openNetwork},
		{"gpio", "a line is driven (simulated chip)", all, []reference.ReactionKind{reference.GPIO}, nil, nil,
			says("dev/"+simulatedLine, "out=1"), nil, put(map[string]string{"dev/" + simulatedLine: "in   "})},
		{"beep", "a tone sounds and ends (simulated beeper)", all, []reference.ReactionKind{reference.Beep}, nil, nil,
			func(b *faultBed) bool { return slices.Equal(b.tones(), []uint32{2000, 0}) },
			func(b *faultBed) bool { heard := b.tones(); return len(heard) > 0 && heard[0] != 0 },
			put(map[string]string{"dev/input/event0": ""})},
		{"sysfs", "a file of /sys is written (simulated)", all, []reference.ReactionKind{reference.Sysfs}, nil, nil,
			says("sys/kernel/pump", "0"), nil, put(map[string]string{"sys/kernel/pump": "100"})},
		{"led", "a LED is lit (simulated)", without, []reference.ReactionKind{reference.LED}, nil, nil,
			says("sys/class/leds/red:alarm/brightness", "255"), nil, put(map[string]string{"sys/class/leds/red:alarm/brightness": "0"})},
		{"block-usb", "USB devices are cut off (simulated)", without, []reference.ReactionKind{reference.BlockUSB}, nil, nil, func(b *faultBed) bool {
			return says("sys/bus/usb/devices/usb1/authorized_default", "0")(b) && says("sys/bus/usb/devices/1-1/authorized", "0")(b)
		}, func(b *faultBed) bool {
			return says("sys/bus/usb/devices/usb1/authorized_default", "0")(b) || says("sys/bus/usb/devices/1-1/authorized", "0")(b)
		}, put(map[string]string{"sys/bus/usb/devices/usb1/authorized_default": "1", "sys/bus/usb/devices/1-1/authorized": "1"})},
		{"hook", "a hook runs", all, []reference.ReactionKind{reference.Hook}, nil, nil,
			says("hooked", "pause"), nil, put(map[string]string{"hooked": "resume"})},
	}
}

// A faultBed is what all faults of a chain share: a workload, and an application
// that says what the chain needs.
type faultBed struct {
	t       *testing.T
	chain   faultChain
	cgroup  string
	app     string
	d       *device // the present one
	pump    *exec.Cmd
	tpm     *tpmtest.Emulator
	systemd *fakeSystemd
	network func(func())
}

func newFaultBed(t *testing.T, chain faultChain) *faultBed {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Fatal("strace is needed: apt install strace")
	}
	b := &faultBed{t: t, chain: chain, cgroup: workload(t), app: filepath.Join(t.TempDir(), "app")}
	l, err := net.Listen("unix", b.app)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go answer(conn)
		}
	}()
	return b
}

// answer is the application's end of one connection.
func answer(conn net.Conn) {
	defer conn.Close()
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		switch word, _, _ := strings.Cut(lines.Text(), " "); word {
		case "prepare":
			fmt.Fprint(conn, "ready\n")
		case "pending":
			fmt.Fprint(conn, "defer 20\n")
		default:
			fmt.Fprint(conn, "ok\n")
		}
	}
}

// tones returns what was written to the simulated beeper: Hz, 0 for silence. What
// opens it anew begins anew.
func (b *faultBed) tones() (hz []uint32) {
	events, err := os.ReadFile(b.d.path("dev/input/event0"))
	if err != nil {
		b.t.Fatal(err)
	}
	for e := range slices.Chunk(events, int(2*unsafe.Sizeof(uintptr(0)))+8) { // struct input_event
		hz = append(hz, binary.NativeEndian.Uint32(e[len(e)-4:]))
	}
	return hz
}

// in does f in the network of the chain.
func (b *faultBed) in(f func()) {
	if b.network == nil {
		f()
		return
	}
	b.network(f)
}

func (b *faultBed) openNetwork() {
	var err error
	b.in(func() { err = (quarantine.Network{}).Open(context.Background()) })
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *faultBed) start() (c *child) {
	b.in(func() { c = b.d.child() })
	return c
}

// device returns a device that stands at the beginning of a way.
func (b *faultBed) device(w way) (*child, Status) {
	b.d = newDevice(b.t, nil)
	b.d.cfg.AppSocket = b.app
	simulate(b.t, b.d)
	if b.chain.setup != nil {
		b.chain.setup(b)
	}
	b.d.manifest(func(m *reference.Manifest) {
		m.Reaction = nil
		for _, do := range b.chain.kinds {
			m.Reaction = append(m.Reaction, b.d.reaction(do, b.cgroup))
		}
		if b.chain.change != nil {
			b.chain.change(b, m)
		}
	})
	b.chain.reset(b)
	c := b.start()
	s := Status{}
	if !w.does(pausing) {
		var err error
		if s, err = c.client.Pause(ctx10(b.t), crossing()); err != nil {
			b.t.Fatal(err)
		}
		if s, same := b.settled(c); !same || s.Latch != appraise.LatchPaused {
			b.t.Fatalf("%s: never paused: %+v", w, s)
		}
	}
	if w.does(starting) {
		c.kill()
		b.chain.reset(b)
		c = nil
	}
	return c, s
}

// settled waits until latch and chain say the same, at most a look of the
// enforcer and a half. It returns the last answer.
func (b *faultBed) settled(c *child) (Status, bool) {
	deadline := time.Now().Add(holdEvery + holdEvery/2)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		s, err := c.client.Status(ctx)
		cancel()
		if err == nil && (s.Phase == PhasePaused && b.chain.holds(b) || s.Phase == PhaseClear && !b.partly()) {
			return s, true
		}
		if time.Now().After(deadline) {
			return s, false
		}
		<-time.After(5 * time.Millisecond)
	}
}

// partly reports whether a part of the chain is in force.
func (b *faultBed) partly() bool {
	if b.chain.some != nil {
		return b.chain.some(b)
	}
	return b.chain.holds(b)
}

// shown are the names of what differs from device to device.
func (b *faultBed) shown() []string {
	names := []string{
		b.d.dir, "$D", filepath.Join(cgroupRoot, b.cgroup), "$C", fmt.Sprintf("/proc/%d/", os.Getpid()), "$A/", b.app, "$S",
	}
	if b.pump != nil {
		names = append(names, fmt.Sprintf("/proc/%d/", b.pump.Process.Pid), "$P/")
	}
	if b.systemd != nil {
		names = append(names, strings.TrimPrefix(strings.Split(b.systemd.address, ",")[0], "unix:path="), "$B")
	}
	if b.tpm != nil {
		names = append(names, strings.TrimPrefix(b.tpm.Addr, "unix:"), "$T")
	}
	return names
}

func (b *faultBed) templates() *strings.Replacer { return strings.NewReplacer(b.shown()...) }

func (b *faultBed) names() *strings.Replacer {
	shown := b.shown()
	slices.Reverse(shown)
	return strings.NewReplacer(shown...)
}

var (
	straceCall  = regexp.MustCompile(`^(\d+) +([a-z_0-9]+)\((.*)`)
	straceFD    = regexp.MustCompile(`^[A-Z_0-9]+<([^>]*)>`)
	straceName  = regexp.MustCompile(`"(/[^"]*)"`)
	someProcess = regexp.MustCompile(`^/proc/\d+`)
)

// points returns the system calls of a way, as strace saw them twice, and how
// often one thread made each of them at most.
func (b *faultBed) points(w way) ([]point, map[point]int) {
	found := map[point]int{}
	for range 2 {
		c, s := b.device(w)
		out := b.d.path("trace")
		if w.does(starting) {
			b.in(func() { c = b.d.childUnder("strace", "-f", "-y", "-qq", "-o", out) })
		} else {
			stop := b.attach(c, "-y", "-o", out)
			b.act(w, c, s)
			b.settled(c)
			defer stop()
		}
		c.kill()
		var data []byte
		for len(data) == 0 {
			data, _ = os.ReadFile(out)
		}
		names := b.templates()
		others := map[string]bool{} // threads that are a program that the enforcer ran
		counts := map[string]int{}
		for line := range strings.Lines(string(data)) {
			m := straceCall.FindStringSubmatch(line)
			if m == nil || others[m[1]] || slices.Contains(runtimeCalls(), m[2]) {
				continue
			}
			path := ""
			if name := straceName.FindStringSubmatch(m[3]); name != nil {
				path = name[1]
			} else if fd := straceFD.FindStringSubmatch(m[3]); fd != nil && strings.HasPrefix(fd[1], "/") {
				path = fd[1]
			}
			path = names.Replace(path)
			if m[2] == "execve" {
				others[m[1]] = strings.HasPrefix(path, "$D/hooks")
				if !others[m[1]] {
					continue // of the test program
				}
			}
			p := point{w, m[2], path}
			counts[m[1]+" "+m[2]+" "+path]++
			n := counts[m[1]+" "+m[2]+" "+path]
			if b.concerns(p) {
				found[p] = max(found[p], n)
			}
		}
	}
	return slices.SortedFunc(maps.Keys(found), func(x, y point) int {
		return cmp.Or(cmp.Compare(x.path, y.path), cmp.Compare(x.call, y.call))
	}), found
}

// concerns reports whether a point is the enforcer's and not yet one of the first
// chain's: all chains open, read and write the same state.
func (b *faultBed) concerns(p point) bool {
	switch {
	case strings.HasPrefix(p.path, "$D/trace"), strings.HasPrefix(p.path, "$D/dev/line17.is"), p.call == "openat" && p.path == "$D/dev/line17": // the test's own
		return false
	case someProcess.MatchString(p.path): // others on this machine
		return false
	case p.call == "clone" || p.call == "clone3" || p.call == "pipe2" || p.call == "eventfd2": // threads of the runtime, but for a hook
		return b.chain.name == "hook" && !p.way.does(starting) || p.call == "eventfd2" && !p.way.does(starting)
	case p.way.does(starting) && !strings.HasPrefix(p.path, "$"):
		// At the start the runtime and the test program read of their own.
		return slices.Contains([]string{"sendto", "recvfrom", "bind", "setsockopt", "socket", "pidfd_open", "pidfd_send_signal", "connect"}, p.call) && b.chain.name != "freeze"
	case b.chain.name == "freeze":
		return true
	}
	for _, known := range []string{"$D/state", "$D/s", "$D/manifest", "$D/keys", "$D/root", "$A", "$C", "$S", "/etc", "/sys/fs/cgroup", "/usr"} {
		if strings.HasPrefix(p.path, known) && !strings.HasPrefix(p.path, "$D/sys") && p.path != "$D/s.deferred" && p.path != "$D/s.deferred.new" {
			return false
		}
	}
	return true
}

// attach lets strace look at a running enforcer.
func (b *faultBed) attach(c *child, args ...string) (stop func()) {
	// What a hook's own program does is not the enforcer's: -b lets go of it.
	trace := exec.Command("strace", append([]string{"-f", "-qq", "-b", "execve", "-p", fmt.Sprint(c.cmd.Process.Pid)}, args...)...)
	trace.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := trace.Start(); err != nil {
		b.t.Fatal(err)
	}
	untilTraced(b.t, c.cmd.Process.Pid)
	return func() { trace.Wait() }
}

// act does what begins a way, and returns what the enforcer said.
func (b *faultBed) act(w way, c *child, s Status) (Status, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if w.does(pausing) {
		return c.client.Pause(ctx, crossing())
	}
	return c.client.Resume(ctx, b.d.resume(s.PauseID, b.d.world.Resume, nil))
}

// inject lets one point fail and returns what was seen, and whether that may not be.
func (b *faultBed) inject(p point, how string) (seen string, bad bool) {
	c, s := b.device(p.way)
	args := []string{"-e", "inject=" + p.call + ":" + how, "-e", "trace=" + p.call, "-o", os.DevNull}
	if p.path != "" {
		args = append(args, "-P", b.names().Replace(p.path))
	}
	var words []string
	say := func(format string, a ...any) { words = append(words, fmt.Sprintf(format, a...)) }
	wrong := func(format string, a ...any) { say("WRONG: "+format, a...); bad = true }
	confirmed := false
	if p.way.does(starting) {
		b.in(func() { c = b.d.childUnder(append([]string{"strace", "-f", "-qq"}, args...)...) })
	} else {
		stop := b.attach(c, args...)
		defer stop()
		said, err := b.act(p.way, c, s)
		confirmed = err == nil
		switch {
		case err != nil:
			say("not confirmed")
		case p.way.does(pausing) && said.Latch != appraise.LatchPaused:
			wrong("confirmed and %s", said.Latch)
		default:
			say("confirmed")
		}
	}
	if c != nil && c.alive() {
		now, same := b.settled(c)
		switch held := b.chain.holds(b); {
		case !c.alive():
			say("the process ended")
		case now.Phase == 0:
			say("%s, and it cannot be asked", inForce(held))
		case p.way.does(starting) && now.Latch != appraise.LatchPaused:
			wrong("it came up %s", now.Latch)
		case same:
			say("%s", inForce(held))
		case held && now.Latch == appraise.LatchClear && !strings.Contains(fmt.Sprint(now.Degraded), "is not undone yet"):
			wrong("in force, and the enforcer says %s", now.Latch)
		case len(now.Degraded) == 0 && !slices.ContainsFunc(now.Effects, func(e Effect) bool { return !e.Done }) && now.Phase != PhasePausing && now.Phase != PhaseResuming:
			wrong("%s and %s, and nothing is said", now.Phase, inForce(held))
		default:
			say("%s, and said", inForce(held))
		}
	} else {
		say("the process ended")
	}
	if c != nil {
		c.kill()
	}
	// The supervisor starts it again, and the fault is gone.
	c = b.start()
	defer c.kill()
	after, same := b.settled(c)
	say("then %s", after.Latch)
	switch {
	case !same:
		wrong("%s, and %s: %+v, %q", after.Phase, inForce(b.chain.holds(b)), after.Effects, after.Degraded)
	case p.way.does(starting) && after.Latch != appraise.LatchPaused:
		wrong("the pause is lost")
	case p.way.does(pausing) && confirmed && after.Latch != appraise.LatchPaused:
		wrong("a confirmed pause is lost")
	case p.way.does(resuming) && confirmed && after.Latch != appraise.LatchClear && b.tpm != nil && strings.Contains(fmt.Sprint(after.Degraded), "the latch in the TPM says paused"):
		say("as the TPM says, and said: the resume is void")
	case p.way.does(resuming) && confirmed && after.Latch != appraise.LatchClear:
		wrong("an accepted resume is lost")
	case after.Latch == appraise.LatchUnknown:
		wrong("%s", after.Reason)
	}
	return strings.Join(words, ", "), bad
}

func inForce(held bool) string {
	if held {
		return "in force"
	}
	return "not in force"
}

// childUnder starts the enforcer under a program. It returns nil when it ended
// before it was ready.
func (d *device) childUnder(argv ...string) *child {
	d.t.Helper()
	self, err := os.Executable()
	if err != nil {
		d.t.Fatal(err)
	}
	c, ready := d.begin(append(argv, self))
	if !ready {
		return nil
	}
	return c
}

func (c *child) alive() bool {
	return unix.Waitid(unix.P_PID, c.cmd.Process.Pid, &unix.Siginfo{}, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil) == nil &&
		syscall.Kill(c.cmd.Process.Pid, 0) == nil && !c.zombie()
}

func (c *child) zombie() bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.cmd.Process.Pid))
	return err != nil || strings.Contains(string(data), ") Z ")
}

// faultsOf returns how a point fails.
func faultsOf(p point, times int) []string {
	hows := []string{"signal=KILL:when=1"}
	for _, e := range errorsOf(p.call) {
		hows = append(hows, "error="+e+":when=1")
		if e != "EINTR" { // for good it is tried again for good
			hows = append(hows, "error="+e)
		}
	}
	// What is no file of its own stands for several things, one after the other.
	if p.path == "" || p.call == "ioctl" {
		for n := range min(times, 4) {
			if n > 0 {
				hows = append(hows, fmt.Sprintf("signal=KILL:when=%d", n+1), fmt.Sprintf("error=%s:when=%d", errorsOf(p.call)[0], n+1))
			}
		}
	}
	return hows
}

// TestFaults lets system calls of the enforcer fail, once and for good, and
// kills it at each of them, while it pauses, resumes and starts: all of them and
// all chains with -faults, else of one chain those that write the latch or reach
// the kernel. After each the device is paused or was never asked to be, and what
// is not as it should be is said.
func TestFaults(t *testing.T) {
	n := 0
	for _, chain := range faultChains() {
		if *faultsDoc == "" && chain.name != "freeze" {
			continue
		}
		for _, does := range chain.ways {
			w := way(chain.name + "/" + does)
			if wanted := strings.Split(*faultWays, ","); !slices.ContainsFunc(wanted, func(begin string) bool { return strings.HasPrefix(string(w), begin) }) {
				continue
			}
			rows, ok := faultsOn(t, chain, w)
			if n += len(rows); *faultsDoc != "" && ok {
				writeFaults(t, chain, w, rows)
			}
		}
	}
	if n < 20 {
		t.Errorf("only %d faults", n)
	}
	t.Logf("%d faults", n)
}

// faultsOn lets all points of a way fail.
func faultsOn(t *testing.T, chain faultChain, w way) (rows []faultRow, ok bool) {
	ok = t.Run(strings.ReplaceAll(string(w), "/", " "), func(t *testing.T) {
		points, times := newFaultBed(t, chain).points(w)
		for _, p := range points {
			hows := faultsOf(p, times[p])
			if *faultsDoc == "" {
				quick := strings.Contains(p.path, "/latch.a") || strings.HasSuffix(p.path, "/used.new") || strings.HasSuffix(p.path, "cgroup.freeze")
				if !quick || p.call != "write" && p.call != "fsync" && p.call != "renameat" && p.call != "pwrite64" {
					continue
				}
				hows = hows[:2]
			}
			for _, how := range hows {
				rows = append(rows, faultRow{p, how, ""})
			}
		}
		// Most of the time goes by waiting, so several devices are at it.
		next := new(atomic.Int64)
		t.Run("beds", func(t *testing.T) {
			for range 4 {
				t.Run("bed", func(t *testing.T) {
					t.Parallel()
					b := newFaultBed(t, chain)
					for i := next.Add(1) - 1; int(i) < len(rows); i = next.Add(1) - 1 {
						r := &rows[i]
						var bad bool
						if r.seen, bad = b.inject(r.point, r.how); bad {
							t.Errorf("%s: %s %s, %s: %s", r.way, r.call, r.path, r.how, r.seen)
						}
					}
				})
			}
		})
	})
	return rows, ok
}

type faultRow struct {
	point
	how, seen string
}

// writeFaults puts the table of a way into the document, or in place of the one
// that is there.
func writeFaults(t *testing.T, chain faultChain, w way, rows []faultRow) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n%s: %s.\n%d faults on %s, Linux %s, %s.\n\n| file | system call | fault | seen |\n|---|---|---|---|\n",
		w, strings.TrimPrefix(string(w), chain.name+"/"), chain.words, len(rows), time.Now().UTC().Format(time.DateOnly), unix.ByteSliceToString(uts.Release[:]), unix.ByteSliceToString(uts.Machine[:]))
	for i := 0; i < len(rows); {
		// Faults of one call with one outcome share a row.
		r, hows := rows[i], []string(nil)
		for ; i < len(rows) && rows[i].point == r.point && rows[i].seen == r.seen; i++ {
			hows = append(hows, faultWords(rows[i].how))
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", cmp.Or(r.path, "-"), r.call, strings.Join(hows, "; "), r.seen)
	}
	sections := map[string]string{string(w): b.String()}
	order := []string{}
	for _, c := range faultChains() {
		for _, does := range c.ways {
			order = append(order, c.name+"/"+does)
		}
	}
	old, err := os.ReadFile(*faultsDoc)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for i, s := range strings.Split(string(old), "\n## ") {
		name, _, _ := strings.Cut(s, "\n")
		if i > 0 && slices.Contains(order, name) && name != string(w) {
			sections[name] = strings.TrimRight(s, "\n") + "\n"
		}
	}
	out := faultsHead
	for _, name := range order {
		if s := sections[name]; s != "" {
			out += "\n## " + s
		}
	}
	if err := os.WriteFile(*faultsDoc, []byte(out), 0o644); err != nil {
		t.Fatal(err)
	}
}

// faultWords says in words what strace was told to do.
func faultWords(how string) string {
	how = strings.NewReplacer("signal=KILL", "killed", "error=", "").Replace(how)
	fault, when, once := strings.Cut(how, ":when=")
	switch {
	case !once:
		return fault + " for good"
	case fault == "killed" && when == "1":
		return fault
	case when == "1":
		return fault + " once"
	}
	return fault + " at use " + when
}

const faultsHead = `# Faults

What the enforcer did when its system calls failed. ` + "`make test-faults`" + ` writes it, by strace (-e inject), each fault in a
fresh device, in some 20 minutes on two processors; ` + "`make test-faults WAYS=quarantine,sysfs/pause`" + ` only those tables.

Each chain of reactions goes three ways: *pause*, from the request of the measuring process until the chain is in force;
*resume*, from the signed document until it is undone; *start*, from the start of the enforcer of a paused device, where
the chain is not in force, until it is ready. The points are the system calls that strace saw on each way, by call and
file. Each fails at first use and works from then on (once in each thread), fails for good until the process is killed,
and kills the process; calls on what is no file also at their second to fourth use. Then the enforcer is started again
without a fault. The test fails when a confirmed pause or an accepted resume is lost, when the chain is in force on a
device that is clear, or when what is not as it should be is not said. One thing is no loss: where the TPM could not be
cleared in a resume, a restart comes back paused, as the TPM says, and says that the resume is void.

The chain *freeze* has all points; those after it only what it has not: opening, reading and writing the same state.
Not injected: the calls that the Go runtime makes for itself (memory, threads, signals, timers, epoll), where a
failure ends the process as the kill does; and at the start the calls that read the program itself. A full disk, a
read-only disk and a TPM that is missing, full, worn, cleared, hangs or dies are real in other tests: TestDegraded,
TestFullDisk, TestReadOnlyDisk, TestNV.

` + "`$D` is the device's directory, `$C` the cgroup, `$A` the application's process, `$S` its socket, `$P` the process that is\nsignalled, `$B` the bus, `$T` the TPM's socket; `-` is no file." + `
`

// A disk that hangs does not hold up a pause, and what has begun is paused when
// the enforcer is killed before the disk has it.
func TestSlowDisk(t *testing.T) {
	b := newFaultBed(t, faultChains()[0])
	for _, kill := range []bool{true, false} {
		c, _ := b.device("freeze/pause")
		d := b.d
		stop := b.attach(c, "-e", "trace=fsync", "-e", "inject=fsync:delay_enter=500000", "-o", os.DevNull)
		confirmed := make(chan error, 1)
		go func() {
			_, err := c.client.Pause(ctx10(t), crossing())
			confirmed <- err
		}()
		for !frozen(t, b.cgroup) {
			select {
			case err := <-confirmed:
				t.Fatalf("confirmed and not frozen: %v", err)
			case <-time.After(time.Millisecond):
			}
		}
		select {
		case err := <-confirmed:
			t.Errorf("confirmed before the disk has it: %v", err)
		default:
		}
		if !kill {
			if err := <-confirmed; err != nil {
				t.Error(err)
			}
		}
		c.kill()
		stop()
		if kill {
			if err := <-confirmed; err == nil {
				t.Error("confirmed by a process that was killed")
			}
		}
		c = d.child()
		s, same := b.settled(c)
		if s.Latch != appraise.LatchPaused || !same {
			t.Errorf("killed %v: %+v", kill, s)
		}
		if _, err := os.Stat(d.cfg.Socket + ".latch"); err == nil {
			t.Errorf("killed %v: the intent is still there", kill)
		}
		if _, err := b.act("freeze/resume", c, s); err != nil {
			t.Error(err)
		}
		if s, same := b.settled(c); s.Latch != appraise.LatchClear || !same {
			t.Errorf("resumed: %+v", s)
		}
		c.kill()
	}
}

// An intent that cannot be read is a pause.
func TestIntentIsDamaged(t *testing.T) {
	d := newDevice(t, nil)
	d.start().stop()
	d.write("s.latch", []byte("clear"))
	if s := d.start().status(); s.Latch != appraise.LatchPaused || !strings.Contains(s.Reason, "intent cannot be read") {
		t.Errorf("%+v", s)
	}
}
