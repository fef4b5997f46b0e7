package failsafe

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miotfacts/miotfacts/appraise"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/attest/tpm"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/referencetest"
)

// enforceChild runs an enforcer over a device's directory in this process, to
// be killed. It says ready on its standard output.
func enforceChild(dir string) {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	root := func(name string, o reference.Owner) reference.Root {
		data, err := os.ReadFile(filepath.Join(dir, name))
		fail(err)
		key, err := cose.ParsePublicKey(data)
		fail(err)
		return reference.Root{Key: key, Owner: o}
	}
	cfg := Config{
		StateDir: filepath.Join(dir, "state"), Socket: filepath.Join(dir, "s"), AllowUIDs: []uint32{0},
		Device: deviceID, Vendor: "Example Medical", Model: "pump-1", AgentVersion: "0.1.0",
		ManifestPath: filepath.Join(dir, "manifest"), KeyLists: []string{filepath.Join(dir, "keys-m"), filepath.Join(dir, "keys-o")},
		Roots:    []reference.Root{root("root-m", reference.Manufacturer), root("root-o", reference.Operator)},
		Now:      func() reference.Interval { return reference.At(referencetest.Now) },
		Verifier: verifierPeers(), Network: "/proc/self/ns/net", Hooks: filepath.Join(dir, "hooks"), Sysfs: []string{"/sys/kernel/pump"},
		AppSocket: os.Getenv("FAILSAFE_TELL"), CgroupRoot: cgroupRoot, Ready: func() { fmt.Println("ready") },
	}
	if addr := os.Getenv("FAILSAFE_TPM"); addr != "" {
		cfg.NV = &lateNV{addr: addr}
	}
	if os.Getenv("FAILSAFE_NETLINK") == "none" {
		fail(withoutNetlink())
	}
	if path := os.Getenv("FAILSAFE_LOG"); path != "" {
		log, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		fail(err)
		cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
	}
	e, err := New(cfg)
	fail(err)
	if os.Getenv("FAILSAFE_SIMULATED") != "" {
		chip := &fileChip{filepath.Join(dir, "dev")}
		e.hands.sys, e.hands.dev, e.hands.ioctl = filepath.Join(dir, "sys"), chip.dir, chip.ioctl
	}
	fail(e.Run(context.Background()))
}

// lateNV opens the TPM at each use, as the shipped command does after a failure.
type lateNV struct{ addr string }

func (n *lateNV) DefineLatch() error {
	t, err := tpm.Open(n.addr)
	if err != nil {
		return err
	}
	defer t.Close()
	return t.DefineLatch()
}

func (n *lateNV) ReadLatch() (tpm.LatchRecord, error) {
	t, err := tpm.Open(n.addr)
	if err != nil {
		return tpm.LatchRecord{}, err
	}
	defer t.Close()
	return t.ReadLatch()
}

func (n *lateNV) WriteLatch(r tpm.LatchRecord) error {
	t, err := tpm.Open(n.addr)
	if err != nil {
		return err
	}
	defer t.Close()
	return t.WriteLatch(r)
}

// A child is an enforcer in a process of its own, in a cgroup by its descriptor.
type child struct {
	cmd    *exec.Cmd
	client *Client
}

func (d *device) child(cgroup ...int) *child {
	d.t.Helper()
	c, ready := d.begin([]string{"/proc/self/exe"}, cgroup...)
	if !ready {
		d.t.Fatal("the enforcer ended before it was ready")
	}
	return c
}

// begin starts an enforcer in a process of its own and waits until it says that
// it is ready, or ends.
func (d *device) begin(argv []string, cgroup ...int) (c *child, ready bool) {
	d.t.Helper()
	for name, root := range map[string]*cose.Signer{"root-m": d.world.ManufacturerRoot, "root-o": d.world.OperatorRoot} {
		pem, err := root.Public().PEM()
		if err != nil {
			d.t.Fatal(err)
		}
		d.write(name, pem)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(append(os.Environ(), "FAILSAFE_ENFORCE="+d.dir, "FAILSAFE_TELL="+d.cfg.AppSocket), d.env...)
	cmd.Stderr = d.t.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	for _, fd := range cgroup {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, fd
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	c = &child{cmd: cmd, client: Dial(d.cfg.Socket)}
	d.t.Cleanup(c.kill)
	hangs := time.AfterFunc(20*time.Second, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer hangs.Stop()
	line, _ := bufio.NewReader(out).ReadString('\n')
	if line != "ready\n" {
		c.kill()
	}
	return c, line == "ready\n"
}

// kill kills the enforcer, and what it runs under.
func (c *child) kill() {
	if c.cmd.ProcessState != nil {
		return // its number may be another's by now
	}
	syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL)
	c.cmd.Wait()
	c.client.Close()
}

// killWhile kills the child after a part of the time that f usually takes, and
// returns what f came to.
func (c *child) killWhile(usual time.Duration, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	<-time.After(time.Duration(rand.Int64N(int64(usual) + 1)))
	c.kill()
	return <-done
}

// The enforcer is killed at 50 random points: 25 times while it pauses and 25
// times while it resumes.
func TestKilledAtRandom(t *testing.T) {
	cgroup := workload(t)
	d := newDevice(t, freezeStep(cgroup))
	ctx := context.Background()

	pause := func(c *child) (s Status, err error) { return c.client.Pause(ctx, crossing()) }
	resume := func(c *child, document []byte) error { _, err := c.client.Resume(ctx, document); return err }
	settled := func(c *child) Status {
		for {
			s, err := c.client.Status(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if s.Phase == PhaseClear || s.Phase == PhasePaused {
				return s
			}
		}
	}

	// How long both usually take, until everything has settled.
	c := d.child()
	begin := time.Now()
	s, err := pause(c)
	if err != nil {
		t.Fatal(err)
	}
	settled(c)
	usual := time.Since(begin)
	if err := resume(c, d.resume(s.PauseID, d.world.Resume, nil)); err != nil {
		t.Fatal(err)
	}
	settled(c)

	confirmed, unlatched, latched, accepted, finished, held := 0, 0, 0, 0, 0, 0
	for range 25 {
		var said Status
		err := c.killWhile(usual, func() (err error) { said, err = pause(c); return err })
		c = d.child()
		s := settled(c)
		if err == nil {
			confirmed++
		}
		switch {
		case s.Latch == appraise.LatchPaused:
			latched++
			if !frozen(t, cgroup) {
				t.Fatalf("paused and not frozen: %+v", s)
			}
			if err == nil && s.PauseID != said.PauseID {
				t.Fatalf("it came back with another pause: %x, %x", s.PauseID, said.PauseID)
			}
		case err == nil:
			t.Fatalf("a confirmed pause was lost: %+v", s)
		default:
			unlatched++
			if frozen(t, cgroup) {
				t.Fatal("frozen before it was latched")
			}
			if s, err = pause(c); err != nil {
				t.Fatal(err)
			}
			s = settled(c)
		}

		document := d.resume(s.PauseID, d.world.Resume, nil)
		err = c.killWhile(usual, func() error { return resume(c, document) })
		c = d.child()
		s = settled(c)
		if err == nil {
			accepted++
		}
		switch {
		case s.Latch == appraise.LatchClear:
			finished++
			if frozen(t, cgroup) {
				t.Fatal("resumed and still frozen")
			}
		case err == nil:
			t.Fatalf("an accepted resume was not finished: %+v", s)
		default:
			held++
			if !frozen(t, cgroup) {
				t.Fatalf("paused and not frozen: %+v", s)
			}
			// The document counts if its nonce was not recorded; else a new one is needed.
			if err := resume(c, document); errors.Is(err, ErrReplayed) {
				err = resume(c, d.resume(s.PauseID, d.world.Resume, nil))
				if err != nil {
					t.Fatal(err)
				}
			} else if err != nil {
				t.Fatal(err)
			}
			settled(c)
		}
		if err := resume(c, document); err == nil {
			t.Fatal("a resume counted twice")
		}
	}
	t.Logf("25 kills in a pause (usually %v): %d confirmed, %d came back paused, %d were never latched", usual, confirmed, latched, unlatched)
	t.Logf("25 kills in a resume: %d accepted, %d finished after the restart, %d came back paused", accepted, finished, held)
}

// untilTraced waits until every thread of a process has a tracer.
func untilTraced(t *testing.T, pid int) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		traced := true
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
		if err != nil || len(tasks) == 0 {
			t.Fatalf("no threads of %d: %v", pid, err)
		}
		for _, task := range tasks {
			data, err := os.ReadFile(task)
			if err == nil && strings.Contains(string(data), "TracerPid:\t0\n") {
				traced = false
			}
		}
		if traced {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("strace never attached")
		}
		<-time.After(time.Millisecond)
	}
}

// small returns a device whose state lies on a file system of its own, of this
// many bytes.
func small(t *testing.T, bytes int) *device {
	t.Helper()
	d := newDevice(t, nil)
	if err := os.Mkdir(d.cfg.StateDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("none", d.cfg.StateDir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(d.cfg.StateDir, 0) })
	return d
}

func TestFullDisk(t *testing.T) {
	d := small(t, 256<<10)
	r := d.start()
	f, err := os.Create(filepath.Join(d.cfg.StateDir, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	s := r.mustPause(t)
	r.stop()
	r = d.start()
	if after := r.status(); after.Latch != appraise.LatchPaused {
		t.Fatalf("on a full disk the pause was lost: %+v, before %+v", after, s)
	}
	// A resume whose nonce cannot be recorded does not count.
	for err = nil; err == nil; {
		_, err = f.Write(make([]byte, 4096))
	}
	id := r.status().PauseID
	document := d.resume(id, d.world.Resume, nil)
	if _, err := r.client.Resume(ctx10(t), document); err == nil {
		t.Error("a resume was accepted that could not be recorded")
	}
	if s := r.status(); s.Latch != appraise.LatchPaused {
		t.Errorf("%+v", s)
	}
	if err := f.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if _, err := r.client.Resume(ctx10(t), document); err != nil {
		t.Errorf("with room again: %v", err)
	}
	r.untilPhase(t, PhaseClear)
}

func TestReadOnlyDisk(t *testing.T) {
	d := small(t, 1<<20)
	remount := func(flags uintptr) {
		t.Helper()
		if err := syscall.Mount("none", d.cfg.StateDir, "", syscall.MS_REMOUNT|flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	healed := func(s Status) bool { return !strings.Contains(strings.Join(s.Degraded, "\n"), "read-only") }
	r := d.start()
	r.stop()
	remount(syscall.MS_RDONLY)
	r = d.start()
	if s := r.status(); s.Latch != appraise.LatchClear || healed(s) {
		t.Errorf("started on a read-only disk: %+v", s)
	}
	remount(0)
	r.until(t, "written while clear", healed)

	remount(syscall.MS_RDONLY)
	s := r.mustPause(t)
	if healed(s) {
		t.Errorf("a pause that could not be written is not said: %q", s.Degraded)
	}
	if s = r.untilPhase(t, PhasePaused); !s.Effects[0].Done {
		t.Errorf("%+v", s)
	}
	if _, err := r.client.Resume(ctx10(t), d.resume(s.PauseID, d.world.Resume, nil)); err == nil {
		t.Error("a resume was accepted that could not be recorded")
	}
	remount(0)
	r.until(t, "written while paused", healed)
	r.stop()
	r = d.start()
	if after := r.status(); after.Latch != appraise.LatchPaused || after.PauseID != s.PauseID {
		t.Errorf("after a restart: %+v", after)
	}
}
