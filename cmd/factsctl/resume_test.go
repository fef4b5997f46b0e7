package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/reference"
)

// operator makes a key as an operator does, and a device's trust in it.
func (h *hospital) operator() (path string, trust *reference.Trust) {
	h.Helper()
	path = filepath.Join(h.TempDir(), "operator.key")
	ctl(h, 0, "key", "new", "--out", path)
	key, err := loadPublic(path + ".pub")
	if err != nil {
		h.Fatal(err)
	}
	list, err := reference.SignKeys(&reference.Keys{Version: 1, Owner: reference.Operator, Sequence: 2, Keys: []reference.ListedKey{
		{Key: key, Role: reference.RoleResume, Name: "ward 3", NotBefore: 1, NotAfter: 4_000_000_000},
	}}, h.World.OperatorRoot)
	if err != nil {
		h.Fatal(err)
	}
	trust, err = reference.NewTrust(reference.Root{Key: h.World.OperatorRoot.Public(), Owner: reference.Operator})
	if err == nil {
		_, err = trust.AddKeys(list)
	}
	if err != nil {
		h.Fatal(err)
	}
	return path, trust
}

// opens checks an order as the device does.
func (h *hospital) opens(trust *reference.Trust, order []byte) *reference.Command {
	h.Helper()
	o, err := trust.OpenCommand(order, reference.Resume, h.device.UEID[:], "pump-1", reference.At(time.Now().Unix()))
	if err != nil {
		h.Fatal(err)
	}
	return o.Command()
}

func TestResumeOffline(t *testing.T) {
	h := newHospital(t)
	key, trust := h.operator()
	id, pause, out := h.device.UEID.String(), strings.Repeat("99", 16), filepath.Join(t.TempDir(), "order.cbor")
	for _, tt := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"good", []string{"--device", id, "--pause", pause, "--out", out, "--valid", "4m"}, 0, ""},
		{"no pause", []string{"--device", id, "--out", out}, exitUsage, "give --pause"},
		{"half a pause", []string{"--device", id, "--pause", "99", "--out", out}, exitUsage, "not 32 hexadecimal digits"},
		{"no device", []string{"--device", "pump", "--pause", pause, "--out", out}, exitUsage, "want 32 hexadecimal digits"},
		{"too short", []string{"--device", id, "--pause", pause, "--out", out, "--valid", "1s"}, exitUsage, "give --valid 1m to 168h"},
		{"too long", []string{"--device", id, "--pause", pause, "--out", out, "--valid", "169h"}, exitUsage, "give --valid 1m to 168h"},
		{"nowhere to go", []string{"--device", id, "--pause", pause}, exitUsage, "verifier"},
		{"both ways", []string{"--device", id, "--pause", pause, "--out", out, "--verifier", h.server.URL}, exitUsage, "verifier"},
		{"another's key", []string{"--device", id, "--pause", pause, "--out", out, "--key", out}, exitUsage, "private key"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := ctl(t, tt.code, append([]string{"resume", "--key", key}, tt.args...)...); !strings.Contains(got, tt.want) {
				t.Errorf("no %q in\n%s", tt.want, got)
			}
		})
	}
	order, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	c := h.opens(trust, order)
	if !bytes.Equal(c.Pause, bytes.Repeat([]byte{0x99}, 16)) || c.NotAfter-c.NotBefore != 240 || bytes.Equal(c.Nonce, make([]byte, 16)) {
		t.Errorf("the order says %+v", c)
	}
}

func TestResumeOnline(t *testing.T) {
	const reason = "fail-safe: app.flow is 620 ml/h"
	for _, tt := range []struct {
		name   string
		answer func(h *hospital) // of the device, to the order
		args   []string
		code   int
		want   string
	}{
		{"accepted", (*hospital).resume, nil, 0, "the pause is over; the device says: integration: not admitted to operation"},
		{"the pause is named", (*hospital).resume, []string{"--pause", strings.Repeat("99", 16)}, 0, "the pause is over"},
		{"refused", func(h *hospital) {
			// The report after the one that says it does not say it again.
			for _, notes := range [][]string{{"resume refused: key was revoked"}, nil} {
				r := h.device.Report(attest.KindFinding)
				r.Body.Stage, r.Body.Notes = reference.StagePaused, notes
				r.Body.Pause = &attest.Pause{ID: bytes.Repeat([]byte{0x99}, 16), Reason: reason}
				h.send(r)
			}
		}, nil, exitRefused, "error: the device says: resume refused: key was revoked"},
		{"paused again", func(h *hospital) {
			r := h.device.Report(attest.KindAlarm)
			r.Body.Stage = reference.StagePaused
			r.Body.Pause = &attest.Pause{ID: bytes.Repeat([]byte{0x77}, 16), Reason: "still too fast"}
			h.send(r)
		}, nil, exitRefused, "the device has paused again: still too fast"},
		{"silent", func(*hospital) {}, []string{"--wait", "300ms"}, exitIO, "error: no answer within 300ms"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHospital(t)
			key, trust := h.operator()
			h.pause(reason)
			p := start(t, nil, append([]string{"resume", "--verifier", h.server.URL, "--device", h.device.UEID.String(), "--key", key, "--yes"}, tt.args...)...)
			select {
			case order := <-h.orders:
				if c := h.opens(trust, order); !bytes.Equal(c.Pause, bytes.Repeat([]byte{0x99}, 16)) {
					t.Errorf("the order is for pause %x", c.Pause)
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("no order came: %s", p.err.String())
			}
			tt.answer(h)
			p.ends(t, tt.code)
			got := p.out.String() + p.err.String()
			for _, want := range []string{tt.want, "paused by fail-safe", "app.flow is 620 ml/h", "freeze medical.slice: frozen 1", "key file, no TPM"} {
				if !strings.Contains(got, want) {
					t.Errorf("no %q in\n%s", want, got)
				}
			}
		})
	}
}

func TestResumeNotNow(t *testing.T) {
	h := newHospital(t)
	key, _ := h.operator()
	resume := func(code int, want string, args ...string) {
		t.Helper()
		got := ctl(t, code, append([]string{"resume", "--verifier", h.server.URL, "--device", h.device.UEID.String(), "--key", key}, args...)...)
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	resume(exitRefused, "is not paused: operating", "--yes")
	h.pause("fail-safe: app.flow is 620 ml/h")
	resume(exitUsage, "give --yes when the cause is dealt with")
	resume(exitRefused, "is in another pause", "--yes", "--pause", strings.Repeat("77", 16))
	resume(exitIO, "check the path", "--yes", "--key", key+"x")
	r := h.device.Report(attest.KindAlarm)
	r.Body.Stage, r.Body.Pause = reference.StagePaused, &attest.Pause{Reason: "asked for"}
	h.send(r)
	resume(exitRefused, "is not confirmed yet: asked for", "--yes")
	if len(h.orders) != 0 {
		t.Error("an order was sent")
	}
}

func TestResumeAsks(t *testing.T) {
	for answer, code := range map[string]int{"yes\n": 0, "y\n": exitRefused, "\n": exitRefused, "no\n": exitRefused} {
		h := newHospital(t)
		key, _ := h.operator()
		h.pause("fail-safe: app.flow is 620 ml/h")
		x := newTerminal(t, 80, 24)
		p := start(t, x.tty, "resume", "--verifier", h.server.URL, "--device", h.device.UEID.String(), "--key", key)
		p.err.wait(t, "Is the cause dealt with?")
		if _, err := x.master.WriteString(answer); err != nil {
			t.Fatal(err)
		}
		if code == 0 {
			<-h.orders
			h.resume()
		}
		p.ends(t, code)
		if len(h.orders) != 0 {
			t.Errorf("answered %q, and an order was sent", answer)
		}
	}
}

// TestOrderIsForItsPurpose holds that what resume signs is no other document.
func TestOrderIsForItsPurpose(t *testing.T) {
	h := newHospital(t)
	key, trust := h.operator()
	out := filepath.Join(t.TempDir(), "order.cbor")
	ctl(t, 0, "resume", "--device", h.device.UEID.String(), "--pause", strings.Repeat("99", 16), "--key", key, "--out", out)
	order, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	now := reference.At(time.Now().Unix())
	stranger := h.NewDevice().UEID
	if _, err := trust.OpenCommand(order, reference.Resume, stranger[:], "pump-1", now); err == nil {
		t.Error("another device takes it")
	}
	if _, err := trust.OpenCommand(order, reference.Challenge, h.device.UEID[:], "pump-1", now); err == nil {
		t.Error("it passes for a challenge")
	}
	if _, err := trust.OpenCommand(order, reference.Resume, h.device.UEID[:], "pump-1", reference.At(time.Now().Add(time.Hour).Unix())); err == nil {
		t.Error("it counts after its time")
	}
	if u, err := cose.Parse(order, reference.MaxCommandSize); err != nil || u.Type() != cose.Command {
		t.Errorf("it is of type %v, %v", u.Type(), err)
	}
}
