package failsafe

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miotfacts/miotfacts/appraise"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/attest/tpm"
	"github.com/miotfacts/miotfacts/attest/tpm/tpmtest"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/referencetest"
)

const cgroupRoot = "/sys/fs/cgroup/unified"

var deviceID = []byte("\x01abcdefghijklmnop")

func TestMain(m *testing.M) {
	switch {
	case os.Getenv("FAILSAFE_ENFORCE") != "":
		enforceChild(os.Getenv("FAILSAFE_ENFORCE"))
	case os.Getenv("FAILSAFE_APP") != "":
		application(os.Getenv("FAILSAFE_APP"))
	case os.Getenv("FAILSAFE_ASK") != "":
		s, err := Dial(os.Getenv("FAILSAFE_ASK")).Status(context.Background())
		fmt.Println(s.Latch, err)
	default:
		os.Exit(m.Run())
	}
}

// A device is a state directory, a world of keys, and a manifest for it.
type device struct {
	t     testing.TB
	world *referencetest.World
	dir   string
	cfg   Config
	now   *atomic.Int64
	sys   string   // instead of /sys; "" for the real one
	env   []string // of an enforcer in a process of its own
}

// newDevice returns a device whose manifest pauses by reactions.
func newDevice(t testing.TB, change func(*reference.Manifest)) *device {
	t.Helper()
	dir, err := os.MkdirTemp("", "failsafe") // paths of sockets are limited to 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := &device{t: t, world: referencetest.New(t), dir: dir, now: new(atomic.Int64)}
	d.now.Store(referencetest.Now)
	d.cfg = Config{
		StateDir: d.path("state"), Socket: d.path("s"), AllowUIDs: []uint32{0},
		Device: deviceID, Vendor: "Example Medical", Model: "pump-1", AgentVersion: "0.1.0",
		ManifestPath: d.path("manifest"), KeyLists: []string{d.path("keys-m"), d.path("keys-o")},
		Roots: []reference.Root{
			{Key: d.world.ManufacturerRoot.Public(), Owner: reference.Manufacturer},
			{Key: d.world.OperatorRoot.Public(), Owner: reference.Operator},
		},
		Now:        func() reference.Interval { return reference.At(d.now.Load()) },
		CgroupRoot: cgroupRoot,
	}
	if testing.Verbose() {
		d.cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	d.write("keys-m", d.world.ManufacturerKeys)
	d.write("keys-o", d.world.OperatorKeys)
	d.manifest(change)
	return d
}

func (d *device) path(name string) string { return filepath.Join(d.dir, name) }

func (d *device) write(name string, data []byte) {
	d.t.Helper()
	if err := os.WriteFile(d.path(name), data, 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// manifest puts a new manifest in place: the example without a reaction that
// needs anything on this machine, as changed.
func (d *device) manifest(change func(*reference.Manifest)) {
	d.t.Helper()
	m := referencetest.Example()
	m.Reaction = []reference.Reaction{{Do: reference.Signal, Target: "/nonexistent/pump", Signal: 19, Deadline: 1000}}
	if change != nil {
		change(&m)
	}
	data, err := reference.SignManifest(&m, d.world.Manifest)
	if err != nil {
		d.t.Fatal(err)
	}
	d.write("manifest", data)
}

// A running enforcer.
type running struct {
	*Enforcer
	client *Client
	stop   func()
}

// start runs an enforcer over the device's directory until the test ends.
func (d *device) start() *running {
	d.t.Helper()
	ready := make(chan struct{})
	cfg := d.cfg
	cfg.Ready = func() { close(ready) }
	e, err := New(cfg)
	if err != nil {
		d.t.Fatal(err)
	}
	if d.sys != "" {
		e.hands.sys = d.sys
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	r := &running{Enforcer: e, client: Dial(cfg.Socket)}
	r.stop = func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			d.t.Errorf("enforcer ended with %v", err)
		}
		ended <- context.Canceled
		r.client.Close()
	}
	d.t.Cleanup(r.stop)
	select {
	case <-ready:
	case err := <-ended:
		d.t.Fatalf("enforcer ended with %v", err)
	}
	return r
}

// until waits for a status.
func (r *running) until(t testing.TB, what string, ok func(Status) bool) Status {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		s := r.status()
		if ok(s) {
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("never %s: %+v", what, s)
		}
		<-time.After(time.Millisecond)
	}
}

func (r *running) untilPhase(t testing.TB, p Phase) Status {
	t.Helper()
	return r.until(t, p.String(), func(s Status) bool { return s.Phase == p })
}

// crossing is what the measuring process asks with for the example manifest.
func crossing() PauseRequest {
	return PauseRequest{Rule: 0, Fact: 1000, Reading: facts.Reading{Key: 1000, Value: facts.IntValue(612)}, Lasted: 3100}
}

func ctx10(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func (r *running) mustPause(t *testing.T) Status {
	t.Helper()
	s, err := r.client.Pause(ctx10(t), crossing())
	if err != nil || s.Latch != appraise.LatchPaused {
		t.Fatalf("pause: %+v, %v", s, err)
	}
	return s
}

// resume returns a signed resume of the pause id, as changed, by key.
func (d *device) resume(id [16]byte, key *cose.Signer, change func(*reference.Command)) []byte {
	d.t.Helper()
	c := reference.Command{
		Version: 1, Kind: reference.Resume, Device: deviceID, Pause: id[:], Nonce: make([]byte, 16),
		NotBefore: d.now.Load() - 10, NotAfter: d.now.Load() + 600,
	}
	rand.Read(c.Nonce)
	if change != nil {
		change(&c)
	}
	data, err := reference.SignCommand(&c, key)
	if err != nil {
		d.t.Fatal(err)
	}
	return data
}

// workload starts real processes in a new cgroup and returns its path below the
// root.
func workload(t testing.TB) string {
	t.Helper()
	if !(&hands{cgroups: cgroupRoot}).isCgroup2() {
		t.Fatalf("no cgroup v2 at %s: mount -t cgroup2 none %s", cgroupRoot, cgroupRoot)
	}
	dir, err := os.MkdirTemp(cgroupRoot, "miotfacts-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Thaw first: the removal waits for the processes to be gone.
		os.WriteFile(filepath.Join(dir, "cgroup.freeze"), []byte("0"), 0)
		os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
		for deadline := time.Now().Add(10 * time.Second); ; {
			if err := os.Remove(dir); err == nil {
				return
			} else if time.Now().After(deadline) {
				t.Errorf("cannot remove cgroup: %v", err)
				return
			}
			<-time.After(time.Millisecond)
		}
	})
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range 2 {
		cmd := exec.Command("sleep", "1000")
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.Fd()), Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); go cmd.Wait() })
	}
	return filepath.Base(dir)
}

func freezeStep(cgroup string) func(*reference.Manifest) {
	return func(m *reference.Manifest) {
		m.Reaction = []reference.Reaction{{Do: reference.Freeze, Target: cgroup, Deadline: 5000}}
	}
}

// frozen tells what the kernel says.
func frozen(t testing.TB, cgroup string) bool {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(cgroupRoot, cgroup, "cgroup.events"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(data), "frozen 1")
}

func TestPauseHoldResume(t *testing.T) {
	cgroup := workload(t)
	d := newDevice(t, freezeStep(cgroup))
	r := d.start()
	s, err := r.client.Alive(ctx10(t))
	if err != nil || s.Latch != appraise.LatchClear || s.Sequence != 3 {
		t.Fatalf("at first: %+v, %v", s, err)
	}
	begin := time.Now()
	id := r.mustPause(t).PauseID
	confirmed := time.Since(begin)
	s = r.untilPhase(t, PhasePaused)
	if !frozen(t, cgroup) || len(s.Effects) != 1 || !s.Effects[0].Done || s.Effects[0].Observed != "frozen" {
		t.Fatalf("frozen %v, %+v", frozen(t, cgroup), s.Effects)
	}
	t.Logf("latched and confirmed after %v, paused after %v, freezing took %d ms", confirmed, time.Since(begin), s.Effects[0].Millis)
	if want := "app.flow is 612 ml/h"; !strings.Contains(s.Reason, want) || s.Since != referencetest.Now || s.Uptime == 0 {
		t.Errorf("reason %q, want %q in it; since %d, uptime %d", s.Reason, want, s.Since, s.Uptime)
	}
	if again := r.mustPause(t); again.PauseID != id {
		t.Errorf("a second request began another pause: %x, %x", again.PauseID, id)
	}

	// A restart comes back paused, and freezes again what was thawed meanwhile.
	r.stop()
	thaw(t, cgroup)
	r = d.start()
	if s = r.status(); s.Phase != PhasePaused || s.PauseID != id || !frozen(t, cgroup) {
		t.Fatalf("after the restart: frozen %v, %+v", frozen(t, cgroup), s)
	}
	// Somebody thaws it while the enforcer looks on.
	thaw(t, cgroup)
	r.until(t, "frozen again", func(Status) bool { return frozen(t, cgroup) })

	document := d.resume(id, d.world.Resume, nil)
	if _, err := r.client.Resume(ctx10(t), document); err != nil {
		t.Fatal(err)
	}
	s = r.untilPhase(t, PhaseClear)
	if frozen(t, cgroup) || s.Latch != appraise.LatchClear || len(s.Effects) != 1 || s.Effects[0].Observed != "thawed" {
		t.Fatalf("after the resume: frozen %v, %+v", frozen(t, cgroup), s)
	}
	if _, err := r.client.Resume(ctx10(t), document); !errors.Is(err, ErrReplayed) {
		t.Errorf("second presentation: %v", err)
	}
	r.stop()
	r = d.start()
	if s := r.status(); s.Latch != appraise.LatchClear || len(s.Degraded) != 0 {
		t.Errorf("after everything: %+v", s)
	}
	if _, err := r.client.Resume(ctx10(t), document); !errors.Is(err, ErrReplayed) {
		t.Errorf("presentation after a restart: %v", err)
	}
	if next := r.mustPause(t); next.PauseID == id {
		t.Error("two pauses have one id")
	}
}

func thaw(t testing.TB, cgroup string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(cgroupRoot, cgroup, "cgroup.freeze"), []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
}

func TestPauseRequests(t *testing.T) {
	tests := []struct {
		name     string
		manifest func(*reference.Manifest)
		request  func(*PauseRequest)
		want     error
	}{
		{"a crossed rule", nil, nil, nil},
		{"another edition, the same rule", nil, func(p *PauseRequest) { p.Manifest[0] = 1 }, nil},
		{"an absent fact", nil, func(p *PauseRequest) { p.Reading = facts.Reading{Key: 1000, Status: facts.Absent, Reason: "gone"} }, nil},
		{"no such rule", nil, func(p *PauseRequest) { p.Rule = 1 }, ErrRule},
		{"index that no manifest has", nil, func(p *PauseRequest) { p.Rule = 256 }, ErrRule},
		{"negative index", nil, func(p *PauseRequest) { p.Rule = -1 }, ErrRule},
		{"another fact", nil, func(p *PauseRequest) { p.Fact = 20 }, ErrRule},
		{"a reading of another kind", nil, func(p *PauseRequest) { p.Reading.Value = facts.TextValue("x") }, ErrRule},
		{"enforce is alarm", func(m *reference.Manifest) { m.Enforce = reference.Alarm }, nil, ErrRule},
		{"enforce is observe", func(m *reference.Manifest) { m.Enforce = reference.Observe }, nil, ErrRule},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := newDevice(t, tt.manifest)
			r := d.start()
			p := crossing()
			if tt.request != nil {
				tt.request(&p)
			}
			s, err := r.client.Pause(ctx10(t), p)
			if !errors.Is(err, tt.want) || tt.want == nil && err != nil {
				t.Fatalf("%v, want %v", err, tt.want)
			}
			if want := tt.want == nil; (r.status().Latch == appraise.LatchPaused) != want || want && s.Latch != appraise.LatchPaused {
				t.Errorf("%+v", s)
			}
		})
	}
}

// A pause is never undone by a client, whatever it sends.
func TestBadMessages(t *testing.T) {
	d := newDevice(t, nil)
	r := d.start()
	alive, err := cose.Encode(request{Ask: askAlive})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		data []byte
		ok   bool
	}{
		{"a good one", alive, true},
		{"garbage", []byte("pause please"), false},
		{"cut", alive[:len(alive)-1], false},
		{"trailing byte", append(alive[:len(alive):len(alive)], 0), false},
		{"unknown kind", []byte("\xa1\x01\x05"), false},
		{"unknown field", []byte("\xa2\x01\x01\x09\x01"), false},
		{"pause without content", []byte("\xa1\x01\x03"), false},
		{"resume without document", []byte("\xa1\x01\x04"), false},
		{"oversize", make([]byte, maxRequest+1), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: d.cfg.Socket, Net: "unixpacket"})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Write(tt.data); err != nil {
				t.Fatal(err)
			}
			answer, err := readPacket(conn, make([]byte, maxResponse+1))
			if tt.ok {
				if s, err := decodeResponse(answer); err != nil || s.Latch != appraise.LatchClear {
					t.Errorf("%+v, %v", s, err)
				}
			} else if err == nil {
				t.Errorf("was answered: %x", answer)
			}
		})
	}
	if s, err := r.client.Status(ctx10(t)); err != nil || s.Latch != appraise.LatchClear {
		t.Errorf("afterwards: %+v, %v", s, err)
	}
}

func TestPeers(t *testing.T) {
	d := newDevice(t, nil)
	d.cfg.AllowUIDs = []uint32{65534}
	if err := os.Chmod(d.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r := d.start()
	if s, err := r.client.Status(ctx10(t)); err == nil {
		t.Errorf("root is not on the list and got %+v", s)
	}
	info, err := os.Stat(d.cfg.Socket)
	if err != nil || info.Mode().Perm() != 0o660 || info.Sys().(*syscall.Stat_t).Gid != 65534 {
		t.Errorf("socket: %v %+v, %v", info.Mode(), info.Sys(), err)
	}
	// The test binary may lie where nobody may read it.
	data, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	exe := d.path("ask")
	if err := os.WriteFile(exe, data, 0o755); err != nil {
		t.Fatal(err)
	}
	for uid, want := range map[uint32]string{65534: "clear <nil>", 65533: "permission denied"} {
		cmd := exec.Command(exe)
		cmd.Env = []string{"FAILSAFE_ASK=" + d.cfg.Socket}
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("user %d: %s, %v; want %q", uid, out, err, want)
		}
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	d := newDevice(t, nil)
	r := d.start()
	clients := make([]*Client, maxConns+1)
	refused := 0
	for i := range clients {
		clients[i] = Dial(d.cfg.Socket)
		defer clients[i].Close()
		if _, err := clients[i].Status(ctx10(t)); err != nil {
			refused++
		}
	}
	if refused != 1 {
		t.Errorf("%d of %d connections were refused, want 1", refused, len(clients))
	}
	clients[0].Close()
	r.until(t, "free again", func(Status) bool {
		r.connMu.Lock()
		defer r.connMu.Unlock()
		return r.conns[0] == maxConns-1
	})
	if _, err := clients[maxConns].Status(ctx10(t)); err != nil {
		t.Errorf("after one has left: %v", err)
	}
}

// Who asks and hangs up has done nothing wrong: an application may ask every second.
func TestHangingUpIsNoWarning(t *testing.T) {
	d := newDevice(t, nil)
	var log bytes.Buffer
	d.cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	r := d.start()
	if _, err := r.client.Status(ctx10(t)); err != nil {
		t.Fatal(err)
	}
	r.client.Close()
	for gone := false; !gone; runtime.Gosched() {
		r.connMu.Lock()
		gone = r.conns[0] == 0
		r.connMu.Unlock()
	}
	r.stop()
	if strings.Contains(log.String(), "connection closed") {
		t.Error(log.String())
	}
}

func TestRate(t *testing.T) {
	var b bucket
	now := time.Unix(1000, 0)
	var waited time.Duration
	for i := range maxRate {
		if w := b.wait(now); w != 0 {
			t.Fatalf("request %d had to wait %v", i, w)
		}
	}
	for range 2 * maxRate {
		waited = b.wait(now)
	}
	if waited != 2*time.Second {
		t.Errorf("the request after %d waits %v, want 2s", 3*maxRate-1, waited)
	}
	if w := b.wait(now.Add(time.Hour)); w != 0 {
		t.Errorf("an hour later it waits %v", w)
	}
}

// The client finds an enforcer that was restarted.
func TestClientReconnects(t *testing.T) {
	d := newDevice(t, nil)
	r := d.start()
	c := Dial(d.cfg.Socket)
	defer c.Close()
	if _, err := c.Alive(ctx10(t)); err != nil {
		t.Fatal(err)
	}
	r.stop()
	if _, err := c.Alive(ctx10(t)); err == nil {
		t.Error("nobody listens and somebody answered")
	}
	r = d.start()
	if s, err := c.Alive(ctx10(t)); err != nil || s.Latch != appraise.LatchClear {
		t.Errorf("%+v, %v", s, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := c.Alive(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := c.Alive(ctx10(t)); err != nil {
		t.Errorf("after a cancelled one: %v", err)
	}
	// A restart between two requests is not seen by the caller.
	r.stop()
	d.start()
	if _, err := c.Alive(ctx10(t)); err != nil {
		t.Errorf("after a restart: %v", err)
	}
}

func TestOneEnforcerAtATime(t *testing.T) {
	d := newDevice(t, nil)
	d.start()
	if e, err := New(d.cfg); err == nil {
		e.Close()
		t.Error("a second enforcer took the state directory")
	}
}

func TestSilence(t *testing.T) {
	for _, then := range []reference.Enforce{reference.Observe, reference.Alarm, reference.Pause} {
		t.Run(then.String(), func(t *testing.T) {
			d := newDevice(t, func(m *reference.Manifest) { m.Silence = &reference.Silence{After: 30000, Then: then} })
			synctest.Test(t, func(t *testing.T) {
				e, err := New(d.cfg)
				if err != nil {
					t.Fatal(err)
				}
				defer e.Close()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				go e.work(ctx)
				go e.watch(ctx)
				check := func(when string, pause, said bool) {
					t.Helper()
					synctest.Wait()
					s := e.status()
					if (s.Latch == appraise.LatchPaused) != pause || strings.Contains(strings.Join(s.Degraded, "\n"), "silent") != said {
						t.Errorf("%s: %+v", when, s)
					}
				}
				time.Sleep(59 * time.Second)
				check("no sign of life yet, within the grace", false, false)
				e.lives()
				time.Sleep(29 * time.Second)
				check("29 s after it", false, false)
				e.lives()
				time.Sleep(29 * time.Second)
				check("29 s after the second", false, false)
				time.Sleep(2 * time.Second)
				check("31 s after the second", then == reference.Pause, true)
				if then == reference.Pause && !strings.Contains(e.status().Reason, "measuring process silent for 30.0 s") {
					t.Errorf("reason %q", e.status().Reason)
				}
				e.lives()
				check("life came back", then == reference.Pause, false)
				time.Sleep(31 * time.Second)
				check("and went again", then == reference.Pause, true)
				if then != reference.Pause {
					return
				}
				if err := e.acceptResume(d.resume(e.status().PauseID, d.world.Resume, nil)); err != nil {
					t.Fatal(err)
				}
				time.Sleep(29 * time.Second)
				check("resumed in silence", false, true)
				time.Sleep(2 * time.Second)
				check("which counts anew", true, true)
			})
		})
	}
	t.Run("after the first sign of life no grace is left", func(t *testing.T) {
		d := newDevice(t, func(m *reference.Manifest) { m.Silence = &reference.Silence{After: 1000, Then: reference.Pause} })
		synctest.Test(t, func(t *testing.T) {
			e, err := New(d.cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer e.Close()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go e.watch(ctx)
			time.Sleep(time.Second)
			e.lives()
			time.Sleep(999 * time.Millisecond)
			if s := e.status(); s.Latch != appraise.LatchClear {
				t.Errorf("999 ms after it: %+v", s)
			}
			time.Sleep(2 * time.Millisecond)
			synctest.Wait()
			if s := e.status(); s.Latch != appraise.LatchPaused {
				t.Errorf("1001 ms after it: %+v", s)
			}
		})
	})
	t.Run("never any life", func(t *testing.T) {
		d := newDevice(t, func(m *reference.Manifest) { m.Silence = &reference.Silence{After: 1000, Then: reference.Pause} })
		synctest.Test(t, func(t *testing.T) {
			e, err := New(d.cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer e.Close()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go e.watch(ctx)
			time.Sleep(startGrace - time.Second)
			if s := e.status(); s.Latch != appraise.LatchClear {
				t.Errorf("before the grace is over: %+v", s)
			}
			time.Sleep(2 * time.Second)
			synctest.Wait()
			if s := e.status(); s.Latch != appraise.LatchPaused {
				t.Errorf("after the grace: %+v", s)
			}
		})
	})
}

// The sign of life ends when the work does, with a step that does not come back.
func TestAlive(t *testing.T) {
	d := newDevice(t, nil)
	for _, hang := range []string{"not at all", "in a step"} {
		t.Run(hang, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var signs atomic.Int64
				cfg := d.cfg
				cfg.Alive = func() { signs.Add(1) }
				e, err := New(cfg)
				if err != nil {
					t.Fatal(err)
				}
				defer e.Close()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				go e.live(ctx)
				again := make(chan struct{})
				defer close(again)
				switch hang {
				case "not at all":
					go e.work(ctx)
				case "in a step":
					go e.do(ctx, reference.Reaction{Deadline: 1000}, func(context.Context) (string, error) { <-again; return "", nil })
				}
				time.Sleep(stuckAfter + 10*time.Second)
				before := signs.Load()
				time.Sleep(time.Minute)
				if more := signs.Load() - before; (more >= 59) != (hang == "not at all") || more > 61 {
					t.Errorf("%d signs of life in a minute, %d before it", more, before)
				}
			})
		})
	}
}

// A real TPM holds the latch where the files are lost.
func TestNV(t *testing.T) {
	emulator := tpmtest.New(t)
	open := func() *tpm.TPM {
		dev, err := tpm.Open(emulator.Addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { dev.Close() })
		return dev
	}
	d := newDevice(t, func(m *reference.Manifest) {
		m.Reaction = []reference.Reaction{{Do: reference.Tell, Deadline: 5000}}
	})
	dev := open()
	d.cfg.NV = dev
	// The application is the first to be told of a resume, and not before the
	// TPM is clear.
	var hangs atomic.Bool
	d.cfg.AppSocket = d.path("app")
	l, err := net.Listen("unix", d.cfg.AppSocket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			line, _ := bufio.NewReader(conn).ReadString('\n')
			if strings.HasPrefix(line, "resume") && hangs.Load() {
				t.Errorf("%q, and the TPM still says paused", line)
			}
			fmt.Fprintln(conn, "ok")
			conn.Close()
		}
	}()
	r := d.start()
	if s := r.status(); s.Latch != appraise.LatchClear {
		t.Fatalf("at first: %+v", s)
	}
	id := r.mustPause(t).PauseID
	says := func(paused bool) func(Status) bool {
		return func(Status) bool {
			rec, err := dev.ReadLatch()
			return err == nil && rec.Paused == paused && rec.PauseID == id && rec.Floor == 3
		}
	}
	r.until(t, "paused in the TPM", says(true))
	r.stop()

	// The file system is lost: the TPM still knows.
	if err := os.RemoveAll(d.cfg.StateDir); err != nil {
		t.Fatal(err)
	}
	r = d.start()
	if s := r.status(); s.Latch != appraise.LatchPaused || s.PauseID != id {
		t.Fatalf("with the state lost: %+v", s)
	}
	r.untilPhase(t, PhasePaused)
	hangs.Store(true)
	emulator.Stop()
	if _, err := r.client.Resume(ctx10(t), d.resume(id, d.world.Resume, nil)); err != nil {
		t.Fatal(err)
	}
	r.until(t, "writing the TPM", func(Status) bool {
		free := r.nvMu.TryLock()
		if free {
			r.nvMu.Unlock()
		}
		return !free
	})
	<-time.After(50 * time.Millisecond) // in which an application would be told
	hangs.Store(false)
	emulator.Continue()
	r.untilPhase(t, PhaseClear)
	r.until(t, "clear in the TPM", says(false))
	r.stop()

	// An older manifest is a rollback, also when the floor in the file is lost.
	if err := os.RemoveAll(d.cfg.StateDir); err != nil {
		t.Fatal(err)
	}
	d.manifest(func(m *reference.Manifest) { m.Sequence = 2 })
	r = d.start()
	if s := r.status(); s.Latch != appraise.LatchUnknown || !strings.Contains(s.Reason, reference.ErrRollback.Error()) {
		t.Errorf("an older manifest: %+v", s)
	}
	d.manifest(nil)
	r.stop()

	// A TPM that hangs does not hold up a pause, and one that is gone is said.
	r = d.start()
	emulator.Stop()
	s := r.mustPause(t)
	r.untilPhase(t, PhasePaused)
	emulator.Kill()
	r.until(t, "degraded", func(s Status) bool {
		return strings.Contains(strings.Join(s.Degraded, "\n"), "the files alone hold the latch")
	})
	if _, err := r.client.Resume(ctx10(t), d.resume(s.PauseID, d.world.Resume, nil)); err != nil {
		t.Fatal(err)
	}
	r.untilPhase(t, PhaseClear)
}

// BenchmarkPauseToFrozen measures from a request on the socket until another
// look at the kernel's word finds real processes frozen, with the latch written
// in between, beside a bare write to cgroup.freeze.
func BenchmarkPauseToFrozen(b *testing.B) {
	cgroup := workload(b)
	d := newDevice(b, freezeStep(cgroup))
	r := d.start()
	events, err := os.Open(filepath.Join(cgroupRoot, cgroup, "cgroup.events"))
	if err != nil {
		b.Fatal(err)
	}
	defer events.Close()
	untilFrozen := func() {
		for !frozen(b, cgroup) {
			if err := waitChange(b.Context(), events, time.Millisecond); err != nil {
				b.Fatal(err)
			}
		}
	}
	var toFrozen, toConfirmed, bare []time.Duration
	for b.Loop() {
		begin := time.Now()
		confirmed := make(chan time.Duration)
		go func() {
			if _, err := r.client.Pause(ctx10(b), crossing()); err != nil {
				b.Error(err)
			}
			confirmed <- time.Since(begin)
		}()
		untilFrozen()
		toFrozen = append(toFrozen, time.Since(begin))
		toConfirmed = append(toConfirmed, <-confirmed)
		s := r.untilPhase(b, PhasePaused)
		if err := r.acceptResume(d.resume(s.PauseID, d.world.Resume, nil)); err != nil {
			b.Fatal(err)
		}
		r.untilPhase(b, PhaseClear)

		begin = time.Now()
		if err := os.WriteFile(filepath.Join(cgroupRoot, cgroup, "cgroup.freeze"), []byte("1"), 0); err != nil {
			b.Fatal(err)
		}
		untilFrozen()
		bare = append(bare, time.Since(begin))
		thaw(b, cgroup)
		r.connMu.Lock()
		*r.rates[0] = bucket{}
		r.connMu.Unlock()
	}
	for name, all := range map[string][]time.Duration{"frozen": toFrozen, "confirmed": toConfirmed, "bare": bare} {
		slices.Sort(all)
		b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, name+"-median-ms")
		b.ReportMetric(float64(all[len(all)-1].Microseconds())/1000, name+"-worst-ms")
	}
}
