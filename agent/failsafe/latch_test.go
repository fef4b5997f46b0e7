package failsafe

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/agent/durable"
	"github.com/miotfacts/miotfacts/appraise"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/reference"
)

func sample(p Phase) record {
	r := record{Version: 1, Generation: 7, Phase: p}
	if p != PhaseClear {
		r.PauseID = bytes.Repeat([]byte{9}, 16)
		r.Since, r.Reason, r.Resume = 5, "too warm", reference.ResumePolicy{Signers: 1, Lifetime: 60}
		r.Steps = []step{{Reaction: reference.Reaction{Do: reference.Freeze, Target: "x", Deadline: 5}, Undo: true}}
	}
	return r
}

func TestReconcile(t *testing.T) {
	id := bytes.Repeat([]byte{9}, 16)
	has := func(p Phase) found { return found{rec: sample(p)} }
	missing, damaged := found{err: fs.ErrNotExist}, found{err: durable.ErrDamaged}
	none, clear := nvLatch{}, nvLatch{state: nvClear}
	paused, other, broken := nvLatch{nvPaused, id}, nvLatch{nvPaused, bytes.Repeat([]byte{8}, 16)}, nvLatch{state: nvDamaged}
	for _, tt := range []struct {
		name  string
		a, b  found
		known bool
		nv    nvLatch
		want  Phase
		said  string // "" when nothing may be said
	}{
		{"new device", missing, missing, false, none, PhaseClear, "new device"},
		{"new device, the TPM is clear", missing, missing, false, clear, PhaseClear, "new device"},
		{"both clear", has(PhaseClear), has(PhaseClear), true, none, PhaseClear, ""},
		{"both clear, the TPM too", has(PhaseClear), has(PhaseClear), true, clear, PhaseClear, ""},
		{"both paused", has(PhasePaused), has(PhasePaused), true, none, PhasePaused, ""},
		{"both paused, the TPM is clear", has(PhasePaused), has(PhasePaused), true, clear, PhasePaused, ""},
		{"one pausing", has(PhasePausing), has(PhaseClear), true, none, PhasePausing, ""},
		{"the other pausing", has(PhaseClear), has(PhasePausing), true, none, PhasePausing, ""},
		{"one resuming, one paused", has(PhaseResuming), has(PhasePaused), true, none, PhasePaused, ""},
		{"both resuming", has(PhaseResuming), has(PhaseResuming), true, none, PhaseResuming, ""},
		{"both resuming, the TPM is clear", has(PhaseResuming), has(PhaseResuming), true, clear, PhaseResuming, ""},
		{"both resuming, the TPM is paused", has(PhaseResuming), has(PhaseResuming), true, paused, PhasePausing, "void"},
		{"one clear, one resuming", has(PhaseClear), has(PhaseResuming), true, none, PhaseResuming, ""},
		{"one damaged, one paused", damaged, has(PhasePaused), true, none, PhasePaused, "damaged"},
		{"one damaged, one clear", damaged, has(PhaseClear), true, none, PhaseClear, "damaged"},
		{"one missing, one clear", missing, has(PhaseClear), true, none, PhaseClear, "missing"},
		{"one missing, one paused", has(PhasePaused), missing, true, none, PhasePaused, "missing"},
		{"both damaged", damaged, damaged, true, none, PhasePausing, "state damaged"},
		{"both damaged, the TPM is clear", damaged, damaged, true, clear, PhasePausing, "state damaged"},
		{"one damaged, one missing", damaged, missing, true, none, PhasePausing, "state damaged"},
		{"both missing, not new", missing, missing, true, none, PhasePausing, "state damaged"},
		{"both missing, not new, the TPM is clear", missing, missing, true, clear, PhasePausing, "state damaged"},
		{"both missing, the TPM is paused", missing, missing, false, paused, PhasePausing, "TPM says paused"},
		{"both clear, the TPM is paused", has(PhaseClear), has(PhaseClear), true, other, PhasePausing, "TPM says paused"},
		{"both clear, the TPM is damaged", has(PhaseClear), has(PhaseClear), true, broken, PhasePausing, "TPM cannot be understood"},
		{"new device, the TPM is damaged", missing, missing, false, broken, PhasePausing, "TPM cannot be understood"},
	} {
		got, notes := reconcile([2]found{tt.a, tt.b}, tt.known, tt.nv)
		text := strings.Join(notes, "; ")
		if got.Phase != tt.want || tt.said == "" && text != "" || !strings.Contains(text, tt.said) {
			t.Errorf("%s: %s, said %q; want %s, %q", tt.name, got.Phase, text, tt.want, tt.said)
		}
		if got.Phase != PhaseClear && got.Reason == "" {
			t.Errorf("%s: paused without a reason", tt.name)
		}
		if tt.nv.state == nvPaused && !bytes.Equal(got.PauseID, tt.nv.pauseID) {
			t.Errorf("%s: pause %x, the TPM has %x", tt.name, got.PauseID, tt.nv.pauseID)
		}
	}
}

// Of two equally strict copies the newer one counts.
func TestNewerCopy(t *testing.T) {
	old, recent := sample(PhasePausing), sample(PhasePaused)
	recent.Generation++
	for _, copies := range [][2]found{{{rec: old}, {rec: recent}}, {{rec: recent}, {rec: old}}} {
		if got, _ := reconcile(copies, true, nvLatch{}); got.Phase != PhasePaused {
			t.Errorf("%s", got.Phase)
		}
	}
}

// Every damage of a latch that says paused, to one copy or to both, comes back
// paused from the files as they lie there.
func TestEveryDamageIsPaused(t *testing.T) {
	d := newDevice(t, nil)
	r := d.start()
	id := r.mustPause(t).PauseID
	r.untilPhase(t, PhasePaused)
	r.stop()
	paths := [2]string{filepath.Join(d.cfg.StateDir, copyNames[0]), filepath.Join(d.cfg.StateDir, copyNames[1])}
	good, err := os.ReadFile(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	clear := sample(PhaseClear)
	clear.Generation = 1 << 40
	forged, err := cose.Encode(clear)
	if err != nil {
		t.Fatal(err)
	}
	damages := map[string]func(path string) error{
		"removed":      os.Remove,
		"empty":        func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"zeroed":       func(p string) error { return os.WriteFile(p, make([]byte, len(good)), 0o600) },
		"cut":          func(p string) error { return os.WriteFile(p, good[:len(good)/2], 0o600) },
		"grown":        func(p string) error { return os.WriteFile(p, append(bytes.Clone(good), 0), 0o600) },
		"oversize":     func(p string) error { return os.WriteFile(p, make([]byte, maxRecord+100), 0o600) },
		"one bit":      func(p string) error { b := bytes.Clone(good); b[9] ^= 1; return os.WriteFile(p, b, 0o600) },
		"no checksum":  func(p string) error { return os.WriteFile(p, forged, 0o600) },
		"not a record": func(p string) error { return durable.Write(p, []byte("clear"), 0o600) },
		"unknown phase": func(p string) error {
			bad := sample(PhasePaused)
			bad.Phase = 9
			data, err := cose.Encode(bad)
			return errors.Join(err, durable.Write(p, data, 0o600))
		},
		"clear with a pause": func(p string) error {
			bad := sample(PhasePaused)
			bad.Phase = PhaseClear
			data, err := cose.Encode(bad)
			return errors.Join(err, durable.Write(p, data, 0o600))
		},
		"a directory": func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o700)) },
		"a loop":      func(p string) error { return errors.Join(os.Remove(p), os.Symlink(p, p)) },
	}
	for name, damage := range damages {
		for _, which := range [][]string{paths[:1], paths[1:], paths[:]} {
			for _, p := range paths {
				if err := errors.Join(os.RemoveAll(p), os.WriteFile(p, good, 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			for _, p := range which {
				if err := damage(p); err != nil {
					t.Fatal(err)
				}
			}
			e, err := New(d.cfg)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			s := e.status()
			e.Close()
			if s.Latch != appraise.LatchPaused || len(s.Degraded) == 0 {
				t.Errorf("%s, %d copies: %+v", name, len(which), s)
			}
			if lost := len(which) == 2; lost == (s.PauseID == id) {
				t.Errorf("%s, %d copies: pause %x, was %x", name, len(which), s.PauseID, id)
			}
		}
	}
}

func FuzzLatch(f *testing.F) {
	for _, p := range []Phase{PhaseClear, PhasePausing, PhasePaused, PhaseResuming} {
		data, err := cose.Encode(sample(p))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := decodeRecord(data)
		if err != nil {
			return
		}
		again, err := cose.Encode(r)
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("%x is read as %x, %v", data, again, err)
		}
		got, _ := reconcile([2]found{{rec: r}, {err: fs.ErrNotExist}}, true, nvLatch{})
		if got.Phase == PhaseClear && r.Phase != PhaseClear || got.Phase != PhaseClear && len(got.PauseID) != 16 {
			t.Fatalf("%+v from %+v", got, r)
		}
	})
}

func FuzzRequest(f *testing.F) {
	value := crossing().Reading.Value
	for _, r := range []request{
		{Ask: askAlive}, {Ask: askStatus}, {Ask: askResume, Document: []byte("document")},
		{Ask: askPause, Pause: &wirePause{Rule: 1, Fact: 1000, Value: &value, Lasted: 3000}},
		{Ask: askPause, Pause: &wirePause{Fact: 20, Status: 1, Reason: "gone"}},
	} {
		data, err := cose.Encode(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := decodeRequest(data)
		if err != nil {
			return
		}
		if r.Ask == askPause {
			if p := r.Pause.request(); p.Reading.Key != p.Fact || p.Rule < 0 || p.Lasted < 0 {
				t.Fatalf("%+v", p)
			}
		}
	})
}

func FuzzResponse(f *testing.F) {
	s := Status{Latch: appraise.LatchPaused, Phase: PhasePaused, Reason: "too warm", Effects: []Effect{{Kind: reference.Freeze, Target: "x", Done: true, Observed: "frozen", Millis: 3}}}
	for _, e := range append(refusals(), nil) {
		data, err := encodeResponse(s, e)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := decodeResponse(data); err != nil && err.Error() == "" && !errors.As(err, new(*remoteError)) {
			t.Fatal("an error without words")
		}
	})
}

// A refusal has the same reason on both ends of the socket.
func TestRefusalsCrossTheSocket(t *testing.T) {
	for _, want := range refusals() {
		data, err := encodeResponse(Status{}, want)
		if err != nil {
			t.Fatal(err)
		}
		if _, got := decodeResponse(data); !errors.Is(got, want) || got.Error() != want.Error() {
			t.Errorf("%v came over as %v", want, got)
		}
	}
}
