package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/referencetest"
	"github.com/miotfacts/miotfacts/verifier"
	"github.com/miotfacts/miotfacts/verifier/verifiertest"
	"github.com/miotfacts/miotfacts/verifier/web"
	"golang.org/x/sys/unix"
)

// A hospital is a verifier with its web interface, and one device that the test
// speaks for.
type hospital struct {
	*verifiertest.Fleet
	device *verifiertest.Device
	server *httptest.Server
	orders chan []byte // that were sent to the device
}

func newHospital(t *testing.T) *hospital {
	changes := web.NewChanges()
	h := &hospital{
		Fleet:  verifiertest.New(t, func(c *verifier.Config) { c.Changed = changes.Tell }),
		orders: make(chan []byte, 8),
	}
	h.device = h.NewDevice().Enrolled()
	h.device.Accepted(h.device.Message(attest.KindBoot))
	h.server = httptest.NewUnstartedServer(web.New(web.Backend{Fleet: h.Verifier, History: h.Store, Commands: h, Labels: h.Verifier, Changes: changes}, web.Options{
		Now: func() time.Time { return time.Unix(referencetest.Now+60, 0) },
	}))
	h.server.Config.RegisterOnShutdown(changes.Close)
	h.server.Start()
	t.Cleanup(func() {
		if err := h.server.Config.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		h.server.Close()
	})
	return h
}

// Submit is the way to the device.
func (h *hospital) Submit(id attest.UEID, document []byte) error {
	if _, err := h.Verifier.Command(id, document); err != nil {
		return err
	}
	h.orders <- document
	return nil
}

// pause lets the device report a pause.
func (h *hospital) pause(reason string) {
	h.Helper()
	h.device.Set(verifiertest.AppFlow, facts.IntValue(620))
	r := h.device.Report(attest.KindAlarm)
	r.Body.Stage = reference.StagePaused
	r.Body.Pause = &attest.Pause{ID: bytes.Repeat([]byte{0x99}, 16), Since: referencetest.Now, Reason: reason, Effects: []attest.Effect{
		{Kind: reference.Freeze, Target: "medical.slice", Done: true, Observed: "frozen 1", Millis: 3},
	}}
	h.send(r)
}

// resume lets the device report that the pause is over.
func (h *hospital) resume() {
	h.Helper()
	h.device.Set(verifiertest.AppFlow, facts.IntValue(120))
	r := h.device.Report(attest.KindStage)
	r.Body.Stage = reference.StageIntegration
	h.send(r)
}

func (h *hospital) send(r *attest.Report) {
	h.Helper()
	h.device.Accepted(verifiertest.Encode(h, h.device.Seal(r)))
}

// A buffer is an output that a test reads while it is written.
type buffer struct {
	mu   sync.Mutex
	data bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.data.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.data.String()
}

// wait waits until the output has text.
func (b *buffer) wait(t testing.TB, text string) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for !strings.Contains(b.String(), text) {
		select {
		case <-deadline:
			t.Fatalf("never came: %q in\n%s", text, b.String())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// A process is a command that runs.
type process struct {
	out, err buffer
	cancel   context.CancelFunc
	code     chan int
}

// start starts a command; tty is its terminal, nil for none.
func start(t testing.TB, tty *os.File, args ...string) *process {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	p := &process{cancel: cancel, code: make(chan int, 1)}
	c := newRootCommand()
	c.SetArgs(args)
	c.SetIn(strings.NewReader(""))
	c.SetOut(&p.out)
	c.SetErr(&p.err)
	if tty != nil {
		c.SetIn(tty)
		c.SetOut(tty)
	}
	go func() { p.code <- report(&p.err, c.ExecuteContext(ctx)) }()
	t.Cleanup(func() {
		cancel()
		p.code <- <-p.code
	})
	return p
}

// ends waits for the exit code.
func (p *process) ends(t testing.TB, code int) {
	t.Helper()
	got := <-p.code
	p.code <- got
	if got != code {
		t.Fatalf("exit code %d, want %d\n%s%s", got, code, p.out.String(), p.err.String())
	}
}

// ctl runs a command to its end and returns both outputs.
func ctl(t testing.TB, code int, args ...string) string {
	t.Helper()
	p := start(t, nil, args...)
	p.ends(t, code)
	return p.out.String() + p.err.String()
}

// A terminal is a pseudo terminal: what a command shows on it, and who types.
type terminal struct {
	buffer
	tty    *os.File // the command's side
	master *os.File
}

func newTerminal(t testing.TB, width, height uint16) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: height, Col: width}); err != nil {
		t.Fatal(err)
	}
	x := &terminal{tty: tty, master: master}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var p [4096]byte
		for {
			n, err := master.Read(p[:])
			_, _ = x.Write(p[:n]) // a buffer takes all
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		if err := errors.Join(tty.Close(), master.Close()); err != nil {
			t.Error(err)
		}
		<-done
	})
	return x
}
