package failsafe

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/prop"

	"github.com/miotfacts/miotfacts/reference"
)

func reaction(do reference.ReactionKind, target string, signal uint8) reference.Reaction {
	return reference.Reaction{Do: do, Target: target, Signal: signal, Deadline: 1000}
}

// What no manifest may name, by names alone.
func TestForbidden(t *testing.T) {
	dir := t.TempDir()
	ventilator, link := filepath.Join(dir, "ventilatord"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(ventilator, nil, 0o755), os.Symlink(ventilator, link)); err != nil {
		t.Fatal(err)
	}
	h := &hands{
		neverTouch: []string{"sshd.service", "medical.slice/ventilator.service", "/written.slice/with.service", ventilator, "vital.slice"},
		ownCgroup:  "/system.slice/miotfacts.slice/factsd-enforce.service", ownExe: "/usr/bin/factsd",
	}
	for _, tt := range []struct {
		do      reference.ReactionKind
		target  string
		refused bool
	}{
		{reference.Freeze, "medical.slice/pump.service", false},
		{reference.Freeze, "medical.slice/ventilator.service", true},
		{reference.Freeze, "medical.slice/ventilator.service/worker", true},
		{reference.Freeze, "medical.slice", true},
		{reference.Freeze, "medical.slice/ventilator.services", false},
		{reference.Freeze, "written.slice", true},
		{reference.Freeze, "vital.slice", true},
		{reference.Freeze, "vital.slice/x.service", true},
		{reference.Freeze, "other.slice/sshd.service", true},
		{reference.Freeze, "system.slice", true},
		{reference.Freeze, "system.slice/miotfacts.slice", true},
		{reference.Freeze, "system.slice/miotfacts.slice/factsd-enforce.service", true},
		{reference.Freeze, "system.slice/miotfacts.slice/factsd-run.service", false},
		{reference.Freeze, "", true},
		{reference.Freeze, "/", true},
		{reference.Freeze, ".", true},
		{reference.Freeze, "../unified", true},
		{reference.Freeze, "a/../..", true},
		{reference.Freeze, "a//b", true},
		{reference.Signal, "/usr/bin/pump", false},
		{reference.Signal, ventilator, true},
		{reference.Signal, link, true},
		{reference.Signal, "/usr/bin/factsd", true},
		{reference.StopUnit, "pump.service", false},
		{reference.StopUnit, "sshd.service", true},
		{reference.StopUnit, "ventilator.service", true},
		{reference.StopUnit, "medical.slice", true},
		{reference.StopUnit, "factsd-enforce.service", true},
		{reference.StopUnit, "system.slice", true},
		{reference.StopUnit, "init.scope", true}, // not listed: the machine's own
		{reference.StopUnit, "factsd.service", true},
		{reference.Freeze, "system.slice/dbus.service", true},
		{reference.Freeze, "system.slice/pump.service", false},
		{reference.Signal, "/usr/lib/systemd/systemd", true},
		{reference.Tell, "", false},
	} {
		err := h.forbidden(reaction(tt.do, tt.target, 0))
		if errors.Is(err, reference.ErrNeverTouch) != tt.refused {
			t.Errorf("%s %q: %v", tt.do, tt.target, err)
		}
	}
	// The root is the enforcer's own cgroup on machines without systemd.
	if err := (&hands{ownCgroup: "/"}).forbidden(reaction(reference.Freeze, "pump", 0)); err != nil {
		t.Errorf("from the root: %v", err)
	}
}

// A never-touch unit, cgroup or executable somewhere below what a manifest
// names is not frozen, and the manifest is complained of.
func TestNeverTouchWins(t *testing.T) {
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	if sleep, err = filepath.EvalSymlinks(sleep); err != nil {
		t.Fatal(err)
	}
	for name, entry := range map[string]func(cgroup string) string{
		"the cgroup":          func(c string) string { return c },
		"a cgroup below":      func(c string) string { return c + "/ventilator.service" },
		"a unit below":        func(string) string { return "ventilator.service" },
		"an executable in it": func(string) string { return sleep },
	} {
		t.Run(name, func(t *testing.T) {
			cgroup := workload(t)
			below := filepath.Join(cgroupRoot, cgroup, "ventilator.service")
			if err := os.Mkdir(below, 0o755); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.Remove(below) })
			d := newDevice(t, freezeStep(cgroup))
			d.cfg.NeverTouch = []string{entry(cgroup)}
			r := d.start()
			r.mustPause(t)
			s := r.untilPhase(t, PhasePaused)
			if s.Effects[0].Done || frozen(t, cgroup) || !strings.Contains(s.Effects[0].Observed, reference.ErrNeverTouch.Error()) {
				t.Errorf("frozen %v: %+v", frozen(t, cgroup), s.Effects)
			}
			if named := strings.HasPrefix(name, "the cgroup") || strings.HasPrefix(name, "a cgroup"); named != strings.Contains(strings.Join(s.Degraded, "\n"), "names what it must not") {
				t.Errorf("degraded: %q", s.Degraded)
			}
		})
	}
}

func TestFreeze(t *testing.T) {
	h := &hands{cgroups: cgroupRoot}
	cgroup := workload(t)
	for range 2 { // both ways twice: it is idempotent
		for _, freeze := range []bool{true, true, false, false} {
			words, err := h.freeze(t.Context(), cgroup, freeze)
			if err != nil || frozen(t, cgroup) != freeze {
				t.Fatalf("freeze %v: %q, %v, frozen %v", freeze, words, err, frozen(t, cgroup))
			}
		}
	}
	if _, err := h.freeze(t.Context(), "no-such-cgroup", true); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no such cgroup: %v", err)
	}
	if words, err := h.freeze(t.Context(), "no-such-cgroup", false); err != nil || !strings.Contains(words, "gone") {
		t.Errorf("thawing no such cgroup: %q, %v", words, err)
	}
	if _, err := (&hands{cgroups: t.TempDir()}).freeze(t.Context(), cgroup, false); err == nil {
		t.Error("thawed where there are no cgroups")
	}

	// A cgroup below a frozen one cannot be thawed: the wait ends with its
	// deadline, and what is observed is said.
	below := filepath.Join(cgroupRoot, cgroup, "below")
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(below) })
	if _, err := h.freeze(t.Context(), cgroup, true); err != nil {
		t.Fatal(err)
	}
	if _, err := h.freeze(t.Context(), cgroup+"/below", true); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := h.freeze(ctx, cgroup+"/below", false); err == nil || !strings.Contains(err.Error(), "frozen 1") {
		t.Errorf("below a frozen cgroup: %v", err)
	}
}

// A pump is a real process of an executable of its own.
func pump(t *testing.T, exe string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(exe, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd
}

func copyOf(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join(t.TempDir(), "pump")
	if err := os.WriteFile(exe, data, 0o755); err != nil {
		t.Fatal(err)
	}
	return exe
}

func TestSignal(t *testing.T) {
	h := &hands{proc: "/proc", cgroups: cgroupRoot, ownExe: "/usr/bin/factsd"}
	exe := copyOf(t, "sleep")
	one, two := pump(t, exe, "1000"), pump(t, exe, "1000")
	other := pump(t, "sleep", "1000")
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(exe, link); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{exe, link} {
		for range 2 {
			if words, err := h.signal(ctx10(t), target, sigStop); err != nil || words != "2 processes stopped" {
				t.Fatalf("%q, %v", words, err)
			}
			if !stoppedNow(t, h, one.Process.Pid) || !stoppedNow(t, h, two.Process.Pid) || stoppedNow(t, h, other.Process.Pid) {
				t.Fatal("not these two are stopped")
			}
		}
		if words, err := h.signal(ctx10(t), target, sigCont); err != nil || words != "2 processes run again" {
			t.Fatalf("%q, %v", words, err)
		}
		if stoppedNow(t, h, one.Process.Pid) || stoppedNow(t, h, two.Process.Pid) {
			t.Fatal("still stopped")
		}
	}
	// An executable that was replaced on the disk still runs.
	if err := os.Remove(exe); err != nil {
		t.Fatal(err)
	}
	if words, err := h.signal(ctx10(t), exe, uint8(syscall.SIGTERM)); err != nil || words != "2 processes ended, none is left" {
		t.Fatalf("%q, %v", words, err)
	}
	if words, err := h.signal(ctx10(t), exe, uint8(syscall.SIGKILL)); err != nil || words != "0 processes ended, none is left" {
		t.Fatalf("nobody left: %q, %v", words, err)
	}
	if err := other.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the other process is gone: %v", err)
	}

	// A process that ignores the signal is seen, and does not hold the chain up.
	shell := copyOf(t, "sh")
	stubborn := exec.Command(shell, "-c", "trap '' TERM; echo ready; read x")
	in, err := stubborn.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := stubborn.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := stubborn.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { stubborn.Process.Kill(); stubborn.Wait() }()
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := h.signal(ctx, shell, uint8(syscall.SIGTERM)); err == nil || !strings.Contains(err.Error(), "1 of 1 processes") {
		t.Errorf("ignored: %v", err)
	}
}

// The state is found behind a name that looks like one.
func stoppedNow(t *testing.T, h *hands, pid int) bool {
	t.Helper()
	is, err := h.stopped(pid)
	if err != nil {
		t.Error(err)
	}
	return is
}

// A process of which the kernel does not tell what it runs, or whether it is
// stopped, is neither passed over nor taken for what it should be.
func TestProcessThatCannotBeTold(t *testing.T) {
	h := &hands{proc: tree(t, map[string]string{"70001/exe": "not a link", "70002/stat/x": "not a file"})}
	if _, err := h.signal(t.Context(), "/opt/pump", sigStop); err == nil || !strings.Contains(err.Error(), "cannot tell what process 70001 runs") {
		t.Errorf("unknown executable: %v", err)
	}
	if is, err := h.stopped(70002); is || err == nil {
		t.Errorf("unknown state: %v, %v", is, err)
	}
	if is, err := h.stopped(70003); is || err != nil {
		t.Errorf("gone: %v, %v", is, err)
	}
	h.cgroups, h.neverTouch = tree(t, map[string]string{"pump/cgroup.procs": "70001\n"}), []string{"/opt/vent"}
	if err := h.forbiddenBelow("pump"); err == nil || errors.Is(err, reference.ErrNeverTouch) {
		t.Errorf("a process that may be one never to be touched: %v", err)
	}
}

func TestStoppedReadsBehindTheName(t *testing.T) {
	dir := t.TempDir()
	h := &hands{proc: dir}
	for pid, stat := range []string{"0 (a) S 1", "1 (a) T 1", "2 (x) T 1) S 1", "3 (x) S 1) T 1", "4 (", ""} {
		p := filepath.Join(dir, fmt.Sprint(pid))
		if err := errors.Join(os.Mkdir(p, 0o755), os.WriteFile(filepath.Join(p, "stat"), []byte(stat), 0o644)); err != nil {
			t.Fatal(err)
		}
		if want := pid == 1 || pid == 3; stoppedNow(t, h, pid) != want {
			t.Errorf("%q: stopped %v, want %v", stat, stoppedNow(t, h, pid), want)
		}
	}
}

func TestTell(t *testing.T) {
	d := newDevice(t, func(m *reference.Manifest) {
		m.Reaction = []reference.Reaction{{Do: reference.Tell, Deadline: 5000}}
	})
	d.cfg.AppSocket = d.path("app")
	l, err := net.Listen("unix", d.cfg.AppSocket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	lines, answers := make(chan string, 8), make(chan string, 8)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			line, _ := bufio.NewReader(conn).ReadString('\n')
			lines <- line
			fmt.Fprint(conn, <-answers)
			conn.Close()
		}
	}()
	r := d.start()
	answers <- "ok\n"
	id := r.mustPause(t).PauseID
	s := r.untilPhase(t, PhasePaused)
	if want := fmt.Sprintf("pause %x 5000\n", id); <-lines != want || !s.Effects[0].Done {
		t.Errorf("want the line %q; %+v", want, s.Effects)
	}
	answers <- "ok\n"
	if _, err := r.client.Resume(ctx10(t), d.resume(id, d.world.Resume, nil)); err != nil {
		t.Fatal(err)
	}
	s = r.untilPhase(t, PhaseClear)
	if want := fmt.Sprintf("resume %x\n", id); <-lines != want || !s.Effects[0].Done {
		t.Errorf("want the line %q; %+v", want, s.Effects)
	}

	h := r.hands
	for answer, words := range map[string]string{
		"no\n": `answered "no"`, "ok": "cannot read the application's answer", "": "cannot read the application's answer",
		strings.Repeat("x", 1000): "cannot read the application's answer",
	} {
		answers <- answer
		if _, err := h.tell(ctx10(t), "pause\n"); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("answer %.10q: %v", answer, err)
		}
		<-lines
	}
	// An application that hangs costs its deadline and no more.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := h.tell(ctx, "pause\n"); err == nil || !strings.Contains(err.Error(), "in time") {
		t.Errorf("no answer: %v", err)
	}
	answers <- ""
	l.Close()
	if _, err := h.tell(ctx10(t), "pause\n"); err == nil {
		t.Error("nobody listens and was told")
	}
	h.appSocket = ""
	if _, err := h.tell(ctx10(t), "pause\n"); err == nil {
		t.Error("told nobody")
	}
}

// application notes in the file of this name what it is told, one after the other.
func application(name string) {
	l, err := net.Listen("unix", name+".sock")
	if err != nil {
		panic(err)
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			panic(err)
		}
		line, _ := bufio.NewReader(conn).ReadString('\n')
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			panic(err)
		}
		fmt.Fprint(f, line)
		f.Close()
		fmt.Fprint(conn, "ok\n")
		conn.Close()
	}
}

// An application that is frozen is not told again: it would read of the pause
// after it has read of the resume, and stay as it is.
func TestFrozenApplicationIsNotTold(t *testing.T) {
	cgroup := workload(t)
	d := newDevice(t, func(m *reference.Manifest) {
		m.Reaction = []reference.Reaction{{Do: reference.Tell, Deadline: 5000}, {Do: reference.Freeze, Target: cgroup, Deadline: 5000}}
	})
	d.cfg.AppSocket = d.path("app.sock")
	app := exec.Command("/proc/self/exe")
	app.Env = append(os.Environ(), "FAILSAFE_APP="+d.path("app"))
	app.Stderr = t.Output()
	f, err := os.Open(filepath.Join(cgroupRoot, cgroup))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	app.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.Fd()), Pdeathsig: syscall.SIGKILL}
	if err := app.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { thaw(t, cgroup); app.Process.Kill(); app.Wait() })
	r := d.start()
	r.until(t, "listening", func(Status) bool { _, err := os.Stat(d.cfg.AppSocket); return err == nil })
	id := r.mustPause(t).PauseID
	r.untilPhase(t, PhasePaused)
	for range 3 {
		r.stop()
		r = d.start()
		if s := r.status(); s.Effects[0].Done || !strings.Contains(s.Effects[0].Observed, "frozen or stopped already") || s.Effects[0].Millis > 1000 {
			t.Errorf("after a restart: %+v", s.Effects)
		}
	}
	if _, err := r.client.Resume(ctx10(t), d.resume(id, d.world.Resume, nil)); err != nil {
		t.Fatal(err)
	}
	r.untilPhase(t, PhaseClear)
	told, err := os.ReadFile(d.path("app"))
	if want := fmt.Sprintf("pause %x 5000\nresume %x\n", id, id); err != nil || string(told) != want {
		t.Errorf("told %q, want %q; %v", told, want, err)
	}
}

// A step that fails does not stop the next.
func TestFailingStepDoesNotStopTheNext(t *testing.T) {
	cgroup := workload(t)
	d := newDevice(t, func(m *reference.Manifest) {
		m.Reaction = []reference.Reaction{
			{Do: reference.Tell, Deadline: 50},
			{Do: reference.Freeze, Target: "no-such-cgroup", Deadline: 50},
			{Do: reference.StopUnit, Target: "pump.service", Deadline: 50},
			{Do: reference.Freeze, Target: cgroup, Deadline: 5000},
		}
	})
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+d.path("no-bus"))
	r := d.start()
	id := r.mustPause(t).PauseID
	s := r.untilPhase(t, PhasePaused)
	for i, e := range s.Effects {
		if want := i == 3; e.Done != want || e.Observed == "" {
			t.Errorf("step %d: %+v", i, e)
		}
	}
	if !frozen(t, cgroup) {
		t.Error("not frozen")
	}
	if _, err := r.client.Resume(ctx10(t), d.resume(id, d.world.Resume, nil)); err != nil {
		t.Fatal(err)
	}
	r.untilPhase(t, PhaseClear)
}

// A simulated systemd on a real bus.
type fakeSystemd struct {
	conn    *dbus.Conn
	address string
	mu      sync.Mutex
	jobs    uint32
	log     []string
	unit    map[string]*prop.Properties
	hang    bool // jobs are never done
	fail    bool // jobs fail
}

func unitPath(name string) dbus.ObjectPath {
	return dbus.ObjectPath("/org/freedesktop/systemd1/unit/" + strings.NewReplacer(".", "_2e", "-", "_2d").Replace(name))
}

func (f *fakeSystemd) add(t *testing.T, name, active string, more map[string][]string) {
	t.Helper()
	load := "loaded"
	if active == "" {
		load, active = "not-found", "inactive"
	}
	props := map[string]*prop.Prop{"LoadState": {Value: load}, "ActiveState": {Value: active}, "Names": {Value: []string{name}}}
	for k, v := range more {
		props[k] = &prop.Prop{Value: v}
	}
	p, err := prop.Export(f.conn, unitPath(name), prop.Map{systemdUnit: props})
	if err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	f.unit[name] = p
	f.mu.Unlock()
}

func (f *fakeSystemd) Subscribe() *dbus.Error { return nil }

func (f *fakeSystemd) LoadUnit(name string) (dbus.ObjectPath, *dbus.Error) {
	return unitPath(name), nil
}

func (f *fakeSystemd) StopUnit(name, mode string) (dbus.ObjectPath, *dbus.Error) {
	return f.job("stop", name, mode, "inactive")
}

func (f *fakeSystemd) StartUnit(name, mode string) (dbus.ObjectPath, *dbus.Error) {
	return f.job("start", name, mode, "active")
}

// A unit file in /etc outranks the mask: a unit that is called so stays.
func (f *fakeSystemd) MaskUnitFiles(units []string, runtime, force bool) ([][]string, *dbus.Error) {
	return nil, f.load("mask", units, runtime && !force, "masked")
}

func (f *fakeSystemd) UnmaskUnitFiles(units []string, runtime bool) ([][]string, *dbus.Error) {
	return nil, f.load("unmask", units, runtime, "loaded")
}

func (f *fakeSystemd) Reload() *dbus.Error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, "reload")
	return nil
}

func (f *fakeSystemd) load(what string, units []string, ok bool, then string) *dbus.Error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, what+" "+units[0])
	if !ok || f.fail {
		return dbus.MakeFailedError(errors.New("no"))
	}
	if !strings.HasPrefix(units[0], "etc") {
		f.unit[units[0]].SetMust(systemdUnit, "LoadState", then)
	}
	return nil
}

func (f *fakeSystemd) job(what, name, mode, then string) (dbus.ObjectPath, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, what+" "+name)
	p := f.unit[name]
	if p == nil || mode != "replace" {
		return "", dbus.MakeFailedError(fmt.Errorf("no unit %s, mode %s", name, mode))
	}
	f.jobs++
	id, path := f.jobs, dbus.ObjectPath(fmt.Sprintf("/org/freedesktop/systemd1/job/%d", f.jobs))
	result := "done"
	if f.fail {
		result = "failed"
	} else if !f.hang {
		p.SetMust(systemdUnit, "ActiveState", then)
	}
	if !f.hang {
		go f.conn.Emit(systemdPath, systemdManager+".JobRemoved", id, path, name, result)
	}
	return path, nil
}

func (f *fakeSystemd) set(fail, hang bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail, f.hang = fail, hang
}

// is makes a unit what it is; how tells it.
func (f *fakeSystemd) is(unit, active, load string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unit[unit].SetMust(systemdUnit, "ActiveState", active)
	f.unit[unit].SetMust(systemdUnit, "LoadState", load)
}

func (f *fakeSystemd) how(unit string) (active, load string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.unit[unit].GetMust(systemdUnit, "ActiveState").(string), f.unit[unit].GetMust(systemdUnit, "LoadState").(string)
}

func (f *fakeSystemd) did() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.log)
}

// startBus starts a private bus and a simulated systemd on it, for this process.
func startBus(t *testing.T) *fakeSystemd {
	t.Helper()
	address := newBus(t)
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
	return newFakeSystemd(t, address)
}

// newBus starts a private bus and returns its address.
func newBus(t *testing.T) string {
	t.Helper()
	daemon, err := exec.LookPath("dbus-daemon")
	if err != nil {
		t.Fatal("dbus-daemon is needed: apt install dbus-daemon")
	}
	dir, err := os.MkdirTemp("", "bus")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	config := filepath.Join(dir, "config")
	text := `<busconfig><type>system</type><listen>unix:path=` + dir + `/bus</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/></policy></busconfig>`
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(daemon, "--config-file="+config, "--nofork", "--print-address")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(address)
}

func newFakeSystemd(t *testing.T, address string) *fakeSystemd {
	t.Helper()
	conn, err := dbus.Connect(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	f := &fakeSystemd{conn: conn, address: address, unit: map[string]*prop.Properties{}}
	methods := map[string]any{"MaskUnitFiles": f.MaskUnitFiles, "UnmaskUnitFiles": f.UnmaskUnitFiles, "Reload": f.Reload, "Subscribe": f.Subscribe, "LoadUnit": f.LoadUnit, "StopUnit": f.StopUnit, "StartUnit": f.StartUnit}
	if err := conn.ExportMethodTable(methods, systemdPath, systemdManager); err != nil {
		t.Fatal(err)
	}
	if reply, err := conn.RequestName(systemdName, dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		t.Fatalf("%v, %v", reply, err)
	}
	return f
}

func TestStopUnitOnSimulatedSystemd(t *testing.T) {
	f := startBus(t)
	f.add(t, "pump.service", "active", nil)
	f.add(t, "idle.service", "inactive", nil)
	f.add(t, "ghost.service", "", nil)
	f.add(t, "needed.service", "active", map[string][]string{"RequiredBy": {"between.service"}})
	f.add(t, "between.service", "active", map[string][]string{"BoundBy": {"ventilator.service"}})
	f.add(t, "ventilator.service", "active", nil)
	f.add(t, "alias.service", "active", map[string][]string{"Names": {"alias.service", "ventilator.service"}})
	var steps []reference.Reaction
	for _, u := range []string{"pump.service", "idle.service", "ghost.service", "needed.service", "alias.service", "ventilator.service"} {
		steps = append(steps, reference.Reaction{Do: reference.StopUnit, Target: u, Deadline: 5000})
	}
	d := newDevice(t, func(m *reference.Manifest) { m.Reaction = steps })
	d.cfg.NeverTouch = []string{"ventilator.service"}
	r := d.start()
	id := r.mustPause(t).PauseID
	s := r.untilPhase(t, PhasePaused)
	for i, want := range []struct {
		done  bool
		words string
	}{
		{true, "unit is inactive"}, {true, "unit is inactive"}, {false, "systemd has no unit ghost.service"},
		{false, "as ventilator.service would stop with it"}, {false, "never to be touched"}, {false, "never to be touched"},
	} {
		if e := s.Effects[i]; e.Done != want.done || !strings.Contains(e.Observed, want.words) {
			t.Errorf("%s: %+v, want %q", e.Target, e, want.words)
		}
	}
	if did := f.did(); !slices.Equal(did, []string{"stop pump.service"}) {
		t.Errorf("systemd was asked to %q", did)
	}
	// A restart in mid-pause must not forget what ran before the pause.
	r.stop()
	r = d.start()
	if _, err := r.client.Resume(ctx10(t), d.resume(id, d.world.Resume, nil)); err != nil {
		t.Fatal(err)
	}
	s = r.untilPhase(t, PhaseClear)
	if did := f.did(); !slices.Equal(did, []string{"stop pump.service", "start pump.service"}) {
		t.Errorf("systemd was asked to %q", did)
	}
	if len(s.Effects) != 1 || s.Effects[0].Observed != "unit is active" {
		t.Errorf("%+v", s.Effects)
	}
}

func TestUnitThatDoesNotStopOnSimulatedSystemd(t *testing.T) {
	f := startBus(t)
	f.add(t, "pump.service", "active", nil)
	h := &hands{}
	f.set(true, false)
	if _, err := h.stopUnit(ctx10(t), "pump.service", func(...string) error { return nil }); err == nil || !strings.Contains(err.Error(), `unit is active: StopUnit ended with "failed"`) {
		t.Errorf("failed job: %v", err)
	}
	f.set(false, true)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := h.stopUnit(ctx, "pump.service", func(...string) error { return nil }); err == nil || !strings.Contains(err.Error(), "unit is active: StopUnit was not done in time") {
		t.Errorf("hanging job: %v", err)
	}
	f.conn.ReleaseName(systemdName)
	if _, err := h.stopUnit(ctx10(t), "pump.service", func(...string) error { return nil }); err == nil {
		t.Error("stopped without a systemd")
	}
}

// The enforcer refuses to freeze the cgroup it runs in, and those around it.
func TestOwnCgroup(t *testing.T) {
	cgroup := workload(t)
	d := newDevice(t, freezeStep(cgroup))
	own := filepath.Join(cgroupRoot, cgroup, "enforcer")
	if err := os.Mkdir(own, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(own)
	f, err := os.Open(own)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c := d.child(int(f.Fd()))
	defer c.kill()
	if _, err := c.client.Pause(ctx10(t), crossing()); err != nil {
		t.Fatal(err)
	}
	for {
		s, err := c.client.Status(ctx10(t))
		if err != nil {
			t.Fatal(err)
		}
		if s.Phase != PhasePaused {
			continue
		}
		if s.Effects[0].Done || frozen(t, cgroup) || !strings.Contains(s.Effects[0].Observed, "the enforcer itself is in it") {
			t.Errorf("%+v", s.Effects)
		}
		break
	}
}
