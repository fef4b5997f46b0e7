package failsafe

import (
	"bufio"
	"cmp"
	"context"
	"flag"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miotfacts/miotfacts/appraise"
	"github.com/miotfacts/miotfacts/reference"
)

var faultsDoc = flag.String("faults", "", "inject every fault, and write what was seen to this file")

// A way is what the enforcer does while a system call of it fails.
type way string

const (
	pausing  way = "pause"  // from the request to frozen
	resuming way = "resume" // from the signed resume to thawed
	starting way = "start"  // from the start of a paused device to frozen and ready
)

// A point is one system call of a way. Path has the device's directory as $D,
// the cgroup as $C and the application as $A; what is no file has none.
type point struct {
	way        way
	call, path string
}

// runtimeCalls are the Go runtime's own: where they fail it ends the process,
// which is what a kill does.
func runtimeCalls() []string {
	return strings.Fields(`futex nanosleep clock_nanosleep sched_yield sched_getaffinity tgkill rt_sigreturn rt_sigaction rt_sigprocmask
		sigaltstack madvise mmap munmap mprotect clone clone3 gettid getpid epoll_pwait epoll_create1 restart_syscall exit exit_group
		arch_prctl prctl set_robust_list set_tid_address rseq brk execve prlimit64 pipe2 uname dup3 capget capset getrandom eventfd2 getrlimit setrlimit mincore`)
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
	case "socket":
		return []string{"EMFILE", "ENOMEM"}
	case "connect":
		return []string{"ECONNREFUSED", "EAGAIN"}
	case "close":
		return []string{"EIO"}
	}
	return []string{"EIO"}
}

// A faultBed is what all faults share: a workload, and an application that says ok.
type faultBed struct {
	t      *testing.T
	cgroup string
	app    string
}

func newFaultBed(t *testing.T) *faultBed {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Fatal("strace is needed: apt install strace")
	}
	b := &faultBed{t: t, cgroup: workload(t), app: filepath.Join(t.TempDir(), "app")}
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
			bufio.NewReader(conn).ReadString('\n')
			fmt.Fprint(conn, "ok\n")
			conn.Close()
		}
	}()
	return b
}

// device returns a device that stands at the beginning of a way.
func (b *faultBed) device(w way) (*device, *child, Status) {
	thaw(b.t, b.cgroup)
	d := newDevice(b.t, func(m *reference.Manifest) {
		m.Reaction = []reference.Reaction{{Do: reference.Tell, Deadline: 1000}, {Do: reference.Freeze, Target: b.cgroup, Deadline: 1000}}
	})
	d.cfg.AppSocket = b.app
	c := d.child()
	s := Status{}
	if w != pausing {
		var err error
		if s, err = c.client.Pause(ctx10(b.t), crossing()); err != nil {
			b.t.Fatal(err)
		}
		b.settled(c, true)
	}
	if w == starting {
		c.kill()
		thaw(b.t, b.cgroup) // as after a reboot
		c = nil
	}
	return d, c, s
}

// settled waits until latch and kernel say the same, at most a look of the
// enforcer and a half. It returns the last answer.
func (b *faultBed) settled(c *child, paused bool) (Status, bool) {
	deadline := time.Now().Add(holdEvery + holdEvery/2)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		s, err := c.client.Status(ctx)
		cancel()
		if err == nil && (s.Phase == PhasePaused || s.Phase == PhaseClear) && (s.Latch == appraise.LatchPaused) == frozen(b.t, b.cgroup) {
			return s, true
		}
		if time.Now().After(deadline) {
			return s, false
		}
		<-time.After(5 * time.Millisecond)
	}
}

func (b *faultBed) names(d *device) *strings.Replacer {
	return strings.NewReplacer("$D", d.dir, "$C", filepath.Join(cgroupRoot, b.cgroup), "$A", fmt.Sprintf("/proc/%d", os.Getpid()), "$S", b.app)
}

func (b *faultBed) templates(d *device) *strings.Replacer {
	return strings.NewReplacer(d.dir, "$D", filepath.Join(cgroupRoot, b.cgroup), "$C", fmt.Sprintf("/proc/%d", os.Getpid()), "$A", b.app, "$S")
}

var (
	straceCall = regexp.MustCompile(`^\d+ +([a-z_0-9]+)\((.*)`)
	straceFD   = regexp.MustCompile(`^[A-Z_0-9]+<([^>]*)>`)
	straceName = regexp.MustCompile(`"(/[^"]*)"`)
)

// points returns the system calls of a way, as strace saw them twice.
func (b *faultBed) points(w way) []point {
	found := map[point]bool{}
	for range 2 {
		d, c, s := b.device(w)
		out := d.path("trace")
		if w == starting {
			c = d.childUnder("strace", "-f", "-y", "-qq", "-o", out)
		} else {
			stop := b.attach(c, "-y", "-o", out)
			b.act(w, d, c, s)
			b.settled(c, w == pausing)
			defer stop()
		}
		c.kill()
		var data []byte
		for len(data) == 0 {
			data, _ = os.ReadFile(out)
		}
		names := b.templates(d)
		for line := range strings.Lines(string(data)) {
			m := straceCall.FindStringSubmatch(line)
			if m == nil || slices.Contains(runtimeCalls(), m[1]) {
				continue
			}
			path := ""
			if name := straceName.FindStringSubmatch(m[2]); name != nil {
				path = name[1]
			} else if fd := straceFD.FindStringSubmatch(m[2]); fd != nil && strings.HasPrefix(fd[1], "/") {
				path = fd[1]
			}
			path = names.Replace(path)
			// At the start the runtime and the test program read of their own.
			if w == starting && !strings.HasPrefix(path, "$") || strings.Contains(path, "$D/trace") {
				continue
			}
			found[point{w, m[1], path}] = true
		}
	}
	return slices.SortedFunc(maps.Keys(found), func(x, y point) int {
		return cmp.Or(cmp.Compare(x.path, y.path), cmp.Compare(x.call, y.call))
	})
}

// attach lets strace look at a running enforcer.
func (b *faultBed) attach(c *child, args ...string) (stop func()) {
	trace := exec.Command("strace", append([]string{"-f", "-qq", "-p", fmt.Sprint(c.cmd.Process.Pid)}, args...)...)
	trace.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := trace.Start(); err != nil {
		b.t.Fatal(err)
	}
	untilTraced(b.t, c.cmd.Process.Pid)
	return func() { trace.Wait() }
}

// act does what begins a way, and returns what the enforcer said.
func (b *faultBed) act(w way, d *device, c *child, s Status) (Status, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if w == pausing {
		return c.client.Pause(ctx, crossing())
	}
	return c.client.Resume(ctx, d.resume(s.PauseID, d.world.Resume, nil))
}

// inject lets one point fail and returns what was seen, and whether that may not be.
func (b *faultBed) inject(p point, how string) (seen string, bad bool) {
	d, c, s := b.device(p.way)
	args := []string{"-e", "inject=" + p.call + ":" + how, "-e", "trace=" + p.call, "-o", os.DevNull}
	if p.path != "" {
		args = append(args, "-P", b.names(d).Replace(p.path))
	}
	var words []string
	say := func(format string, a ...any) { words = append(words, fmt.Sprintf(format, a...)) }
	wrong := func(format string, a ...any) { say("WRONG: "+format, a...); bad = true }
	confirmed := false
	if p.way == starting {
		c = d.childUnder(append([]string{"strace", "-f", "-qq"}, args...)...)
	} else {
		stop := b.attach(c, args...)
		defer stop()
		said, err := b.act(p.way, d, c, s)
		confirmed = err == nil
		switch {
		case err != nil:
			say("not confirmed")
		case p.way == pausing && said.Latch != appraise.LatchPaused:
			wrong("confirmed and %s", said.Latch)
		default:
			say("confirmed")
		}
	}
	if c != nil && c.alive() {
		now, same := b.settled(c, p.way == pausing)
		switch isFrozen := frozen(b.t, b.cgroup); {
		case !c.alive():
			say("the process ended")
		case now.Phase == 0:
			say("frozen %v, and it cannot be asked", isFrozen)
		case p.way == starting && now.Latch != appraise.LatchPaused:
			wrong("it came up %s", now.Latch)
		case same && isFrozen:
			say("frozen")
		case same:
			say("not frozen")
		case isFrozen && now.Latch == appraise.LatchClear && !strings.Contains(fmt.Sprint(now.Degraded), "is not undone yet"):
			wrong("frozen, and the enforcer says %s", now.Latch)
		case len(now.Degraded) == 0 && !slices.ContainsFunc(now.Effects, func(e Effect) bool { return !e.Done }) && now.Phase != PhasePausing && now.Phase != PhaseResuming && now.Phase != 0:
			wrong("%s and frozen %v, and nothing is said", now.Phase, isFrozen)
		default:
			say("frozen %v, and said", isFrozen)
		}
	} else {
		say("the process ended")
	}
	if c != nil {
		c.kill()
	}
	// The supervisor starts it again, and the fault is gone.
	c = d.child()
	defer c.kill()
	after, same := b.settled(c, true)
	say("then %s", after.Latch)
	switch {
	case !same:
		wrong("%s, and frozen %v", after.Phase, frozen(b.t, b.cgroup))
	case p.way == starting && after.Latch != appraise.LatchPaused:
		wrong("the pause is lost")
	case p.way == pausing && confirmed && after.Latch != appraise.LatchPaused:
		wrong("a confirmed pause is lost")
	case p.way == resuming && confirmed && after.Latch != appraise.LatchClear:
		wrong("an accepted resume is lost")
	case after.Latch == appraise.LatchUnknown:
		wrong("%s", after.Reason)
	}
	return strings.Join(words, ", "), bad
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

// TestFaults lets system calls of the enforcer fail, once and for good, and
// kills it at each of them, while it pauses, resumes and starts: all of them
// with -faults, else those that write the latch or reach the kernel. After each
// the device is paused or was never asked to be, and what is not as it should be
// is said.
func TestFaults(t *testing.T) {
	var todo []faultRow
	b := newFaultBed(t)
	for _, w := range []way{pausing, resuming, starting} {
		for _, p := range b.points(w) {
			hows := []string{"signal=KILL:when=1"}
			for _, e := range errorsOf(p.call) {
				hows = append(hows, "error="+e+":when=1")
				if e != "EINTR" { // for good it is tried again for good
					hows = append(hows, "error="+e)
				}
			}
			if *faultsDoc == "" {
				quick := strings.Contains(p.path, "/latch.a") || strings.HasSuffix(p.path, "/used.new") || strings.HasSuffix(p.path, "cgroup.freeze")
				if !quick || p.call != "write" && p.call != "fsync" && p.call != "renameat" && p.call != "pwrite64" {
					continue
				}
				hows = hows[:2]
			}
			for _, how := range hows {
				todo = append(todo, faultRow{p, how, ""})
			}
		}
	}
	// Most of the time goes by waiting, so four devices are at it.
	rows := make([]faultRow, len(todo))
	next := new(atomic.Int64)
	t.Run("beds", func(t *testing.T) {
		for range 4 {
			t.Run("bed", func(t *testing.T) {
				t.Parallel()
				b := newFaultBed(t)
				for i := next.Add(1) - 1; int(i) < len(todo); i = next.Add(1) - 1 {
					r := todo[i]
					var bad bool
					if r.seen, bad = b.inject(r.point, r.how); bad {
						t.Errorf("%s: %s %s, %s: %s", r.way, r.call, r.path, r.how, r.seen)
					}
					rows[i] = r
				}
			})
		}
	})
	if *faultsDoc != "" {
		writeFaults(t, rows)
	}
	if len(rows) < 20 {
		t.Errorf("only %d faults", len(rows))
	}
	t.Logf("%d faults", len(rows))
}

type faultRow struct {
	point
	how, seen string
}

// writeFaults writes the table of what was seen.
func writeFaults(t *testing.T, rows []faultRow) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, `# Faults

What the enforcer did when its system calls failed. Generated by `+"`make test-faults`"+` on %s,
Linux %s, %s; %d faults by strace (-e inject), each in a fresh device.

Three ways: *pause*, from the request of the measuring process until the application is told and its cgroup is
frozen; *resume*, from the signed document until it is thawed and told; *start*, from the start of the enforcer of a
paused device until it is ready. The points are the system calls that strace saw on each way, by call and file.
Each fails at first use and works from then on (once in each thread), fails for good until the process is killed, and kills the
process. Then the enforcer is started again without a fault. The test fails when a confirmed pause or an accepted
resume is lost, when the device is frozen and clear, or when what is not as it should be is not said.

Not injected: the calls that the Go runtime makes for itself (memory, threads, signals, timers, epoll), where a
failure ends the process as the kill does; and at the start the calls that read the program itself. A full disk, a
read-only disk and a TPM that hangs or dies are real in other tests: TestFullDisk, TestReadOnlyDisk, TestNV.

`+"`$D` is the device's directory, `$C` the cgroup, `$A` the application's process, `$S` its socket; `-` is no file.\n",
		time.Now().UTC().Format(time.DateOnly), unix.ByteSliceToString(uts.Release[:]), unix.ByteSliceToString(uts.Machine[:]), len(rows))
	last := way("")
	for _, r := range rows {
		if r.way != last {
			last = r.way
			fmt.Fprintf(&b, "\n## %s\n\n| file | system call | fault | seen |\n|---|---|---|---|\n", r.way)
		}
		how := strings.NewReplacer("signal=KILL:when=1", "killed", "error=", "", ":when=1", ", once").Replace(r.how)
		if !strings.Contains(how, "once") && how != "killed" {
			how += ", for good"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", cmp.Or(r.path, "-"), r.call, how, r.seen)
	}
	if err := os.WriteFile(*faultsDoc, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// A disk that hangs does not hold up a pause, and what has begun is paused when
// the enforcer is killed before the disk has it.
func TestSlowDisk(t *testing.T) {
	b := newFaultBed(t)
	for _, kill := range []bool{true, false} {
		d, c, _ := b.device(pausing)
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
		s, same := b.settled(c, true)
		if s.Latch != appraise.LatchPaused || !same {
			t.Errorf("killed %v: %+v", kill, s)
		}
		if _, err := os.Stat(d.cfg.Socket + ".latch"); err == nil {
			t.Errorf("killed %v: the intent is still there", kill)
		}
		if _, err := b.act(resuming, d, c, s); err != nil {
			t.Error(err)
		}
		if s, same := b.settled(c, false); s.Latch != appraise.LatchClear || !same {
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
