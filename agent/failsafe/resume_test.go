package failsafe

import (
	"bytes"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/agent/durable"
	"github.com/miotfacts/miotfacts/appraise"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/referencetest"
)

// Resumes that must not count. After each the device is paused as before.
func TestResumesRefused(t *testing.T) {
	d := newDevice(t, nil)
	r := d.start()
	id := r.mustPause(t).PauseID
	w := d.world
	signed := func(key *cose.Signer, change func(*reference.Command)) []byte { return d.resume(id, key, change) }
	with := func(change func(*reference.Command)) []byte { return signed(w.Resume, change) }
	good := with(nil)
	damaged := func(i int) []byte {
		b := bytes.Clone(good)
		b[i] ^= 1
		return b
	}
	type c = *reference.Command
	for _, tt := range []struct {
		name     string
		document []byte
		want     error  // nil: not one of those that a caller asks for
		words    string // of the reason
	}{
		{"forged by an unknown key", signed(referencetest.Signer(t), nil), reference.ErrUnknownKey, ""},
		{"the manufacturer's manifest key", signed(w.Manifest, nil), reference.ErrRole, "has role manifest, not resume"},
		{"the manufacturer's label key", signed(w.Label, nil), reference.ErrRole, "has role label, not resume"},
		{"the operator's command key", signed(w.Command, nil), reference.ErrRole, "has role command, not resume"},
		{"the operator's result key", signed(w.Result, nil), reference.ErrRole, "has role result, not resume"},
		{"the operator's root", signed(w.OperatorRoot, nil), reference.ErrRole, "signs key lists only"},
		{"the manufacturer's root", signed(w.ManufacturerRoot, nil), reference.ErrRole, "signs key lists only"},
		{"signature changed", damaged(len(good) - 1), cose.ErrSignature, ""},
		{"payload changed", damaged(len(good) - 80), nil, "signature is not valid"},
		{"header changed", damaged(5), nil, "cannot parse signed document: protected header"},
		{"cut at the end", good[:len(good)-1], nil, "unexpected EOF"},
		{"cut in the middle", good[:len(good)/2], nil, "unexpected EOF"},
		{"only its first byte", good[:1], nil, "cannot parse signed document: cannot decode"},
		{"trailing byte", append(bytes.Clone(good), 0), nil, "1 bytes of extraneous data"},
		{"twice in one", append(bytes.Clone(good), good...), nil, "bytes of extraneous data"},
		{"not a document", []byte("resume please"), nil, "it is no COSE_Sign1"},
		{"too long", make([]byte, reference.MaxCommandSize+1), nil, "1025 bytes, the limit is 1024"},
		{"a manifest", must(os.ReadFile(d.path("manifest"))), nil, "document is of another type"},
		{"a key list", w.OperatorKeys, cose.ErrType, "document is of another type"},
		{"another device", with(func(c c) { c.Device = []byte("\x01abcdefghijklmnoq") }), reference.ErrDevice, ""},
		{"another pause", with(func(c c) { c.Pause = bytes.Repeat([]byte{7}, 16) }), ErrPause, ""},
		{"stale", with(func(c c) { c.NotBefore -= 600; c.NotAfter = d.now.Load() - 1 }), reference.ErrExpired, ""},
		{"from the future", with(func(c c) { c.NotBefore = d.now.Load() + 1 }), reference.ErrNotYet, ""},
		{"valid for too long", with(func(c c) { c.NotAfter = c.NotBefore + 3601 }), ErrLifetime, "3601 s, the limit is 3600 s"},
		{"a challenge", signed(w.Command, func(c c) { c.Kind, c.Pause = reference.Challenge, nil }), reference.ErrRole, "has role command, not resume"},
		{"a challenge by the resume key", with(func(c c) { c.Kind, c.Pause = reference.Challenge, nil }), reference.ErrContent, "it is a challenge"},
	} {
		_, err := r.client.Resume(ctx10(t), tt.document)
		if err == nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.words) {
			t.Errorf("%s: %v, want %v %q", tt.name, err, tt.want, tt.words)
		}
		if s := r.status(); s.Latch != appraise.LatchPaused || s.PauseID != id {
			t.Fatalf("%s: %+v", tt.name, s)
		}
	}
	if _, err := r.client.Resume(ctx10(t), good); err != nil {
		t.Fatal(err)
	}
	r.untilPhase(t, PhaseClear)
	if _, err := r.client.Resume(ctx10(t), with(nil)); !errors.Is(err, ErrNotPaused) {
		t.Errorf("nothing is paused: %v", err)
	}
	// The next pause does not take what was meant for this one.
	r.mustPause(t)
	if _, err := r.client.Resume(ctx10(t), good); !errors.Is(err, ErrReplayed) {
		t.Errorf("used for the pause before: %v", err)
	}
	if _, err := r.client.Resume(ctx10(t), with(nil)); !errors.Is(err, ErrPause) {
		t.Errorf("unused, for the pause before: %v", err)
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func TestTwoPersons(t *testing.T) {
	d := newDevice(t, func(m *reference.Manifest) { m.Resume.Signers = 2 })
	r := d.start()
	id := r.mustPause(t).PauseID
	first, second := d.resume(id, d.world.Resume, nil), d.resume(id, d.world.Resume2, nil)
	again := d.resume(id, d.world.Resume, nil)
	for i, document := range [][]byte{first, first, again} {
		if _, err := r.client.Resume(ctx10(t), document); !errors.Is(err, ErrSigners) {
			t.Fatalf("document %d of one person: %v", i, err)
		}
	}
	// The first signature has run out when the second one comes.
	short := d.resume(id, d.world.Resume2, func(c *reference.Command) { c.NotBefore += 590; c.NotAfter += 1200 })
	d.now.Add(601)
	if _, err := r.client.Resume(ctx10(t), short); !errors.Is(err, ErrSigners) {
		t.Fatalf("with a stale first signature: %v", err)
	}
	d.now.Add(-601)
	// A restart forgets signatures that waited, and nothing else.
	r.stop()
	r = d.start()
	if _, err := r.client.Resume(ctx10(t), second); !errors.Is(err, ErrSigners) {
		t.Fatalf("after a restart: %v", err)
	}
	if _, err := r.client.Resume(ctx10(t), first); err != nil {
		t.Fatal(err)
	}
	r.untilPhase(t, PhaseClear)
	for _, document := range [][]byte{first, second} {
		if _, err := r.client.Resume(ctx10(t), document); !errors.Is(err, ErrReplayed) {
			t.Errorf("again: %v", err)
		}
	}
}

// A key list that revokes a key counts for the next resume.
func TestRevokedOperator(t *testing.T) {
	d := newDevice(t, nil)
	r := d.start()
	id := r.mustPause(t).PauseID
	w := d.world
	list := func(sequence uint64, revoked int64) []byte {
		l := reference.Keys{Version: 1, Owner: reference.Operator, Sequence: sequence, Keys: []reference.ListedKey{
			{Key: w.Resume.Public(), Role: reference.RoleResume, Name: "lost", NotBefore: 1, NotAfter: 4_000_000_000, RevokedFrom: revoked},
			{Key: w.Resume2.Public(), Role: reference.RoleResume, Name: "found", NotBefore: 1, NotAfter: 4_000_000_000},
		}}
		return must(reference.SignKeys(&l, w.OperatorRoot))
	}
	d.write("keys-o", list(2, referencetest.Now-1))
	if _, err := r.client.Resume(ctx10(t), d.resume(id, w.Resume, nil)); !errors.Is(err, reference.ErrRevoked) {
		t.Errorf("revoked: %v", err)
	}
	// Neither the older list nor none at all brings it back, nor a restart.
	for _, list := range [][]byte{w.OperatorKeys, nil, []byte("garbage")} {
		d.write("keys-o", list)
		r.stop()
		r = d.start()
		if _, err := r.client.Resume(ctx10(t), d.resume(id, w.Resume, nil)); !errors.Is(err, reference.ErrRevoked) {
			t.Errorf("revoked, with another list: %v", err)
		}
	}
	if _, err := r.client.Resume(ctx10(t), d.resume(id, w.Resume2, nil)); err != nil {
		t.Error(err)
	}
	r.untilPhase(t, PhaseClear)
}

// Power fails while a resume is carried out: it was accepted once and is
// finished, and counts no second time.
func TestResumeIsFinishedAfterRestart(t *testing.T) {
	d := newDevice(t, nil)
	r := d.start()
	id := r.mustPause(t).PauseID
	r.untilPhase(t, PhasePaused)
	r.stop()
	e, err := New(d.cfg) // does not run: nothing is undone
	if err != nil {
		t.Fatal(err)
	}
	document := d.resume(id, d.world.Resume, nil)
	if err := e.acceptResume(document); err != nil {
		t.Fatal(err)
	}
	if s := e.status(); s.Phase != PhaseResuming || s.Latch != appraise.LatchPaused {
		t.Fatalf("%+v", s)
	}
	if err := e.acceptResume(document); !errors.Is(err, ErrReplayed) {
		t.Errorf("again while it resumes: %v", err)
	}
	e.Close()
	r = d.start()
	if s := r.status(); s.Latch != appraise.LatchClear {
		t.Errorf("after the restart: %+v", s)
	}
	if _, err := r.client.Resume(ctx10(t), document); !errors.Is(err, ErrReplayed) {
		t.Errorf("again: %v", err)
	}
}

// A crossing while a resume is carried out begins a new pause, and what the
// resume has not undone yet is undone by the next one.
func TestPauseDuringResume(t *testing.T) {
	d := newDevice(t, nil)
	e, err := New(d.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	stopped := step{Reaction: reference.Reaction{Do: reference.StopUnit, Target: "pump.service", Deadline: 10}, Undo: true}
	e.rec = record{Version: 1, Phase: PhaseResuming, PauseID: newPauseID(), Steps: []step{stopped}}
	old := e.rec.PauseID
	if err := e.acceptPause(crossing()); err != nil {
		t.Fatal(err)
	}
	if e.rec.Phase != PhasePausing || bytes.Equal(e.rec.PauseID, old) || len(e.rec.Steps) != 2 || !reflect.DeepEqual(e.rec.Steps[0], stopped) {
		t.Errorf("%+v", e.rec)
	}
}

// Damaged nonces must not let a resume count twice: the pause gets a new id.
func TestNoncesLost(t *testing.T) {
	d := newDevice(t, nil)
	r := d.start()
	id := r.mustPause(t).PauseID
	r.stop()
	if err := os.WriteFile(r.file(fileUsed), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	r = d.start()
	s := r.status()
	if s.Latch != appraise.LatchPaused || s.PauseID == id || !strings.Contains(strings.Join(s.Degraded, "\n"), "nonces") {
		t.Errorf("%+v", s)
	}
	if _, err := r.client.Resume(ctx10(t), d.resume(id, d.world.Resume, nil)); !errors.Is(err, ErrPause) {
		t.Errorf("for the old id: %v", err)
	}
}

func TestUsedNoncesAreBounded(t *testing.T) {
	d := newDevice(t, nil)
	now := reference.At(d.now.Load())
	trust := d.world.Trust(t)
	order := func(change func(*reference.Command)) *reference.Order {
		o, err := trust.OpenCommand(d.resume([16]byte{1}, d.world.Resume, change), reference.Resume, deviceID, "pump-1", now)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	var u used
	oldest := order(func(c *reference.Command) { c.NotAfter = now.Latest + 1 })
	u = u.with([]*reference.Order{oldest}, now)
	last := order(nil)
	for range maxUsed {
		last = order(nil)
		u = u.with([]*reference.Order{last}, now)
	}
	if len(u.Nonces) != maxUsed || u.has(oldest.Command().Nonce) || !u.has(last.Command().Nonce) {
		t.Errorf("%d nonces, oldest %v, last %v", len(u.Nonces), u.has(oldest.Command().Nonce), u.has(last.Command().Nonce))
	}
	if err := writeState(d.path("used"), u); err != nil {
		t.Fatal(err)
	}
	if _, err := durable.Read(d.path("used"), maxUsedSize); err != nil {
		t.Errorf("a full list does not fit: %v", err)
	}
	if later := u.with(nil, reference.At(now.Latest+601)); len(later.Nonces) != 0 {
		t.Errorf("%d nonces are kept beyond their time", len(later.Nonces))
	}
}

// A device without a clock knows only that it is not before a time.
func TestResumeWithoutClock(t *testing.T) {
	d := newDevice(t, nil)
	d.cfg.Now = func() reference.Interval { return reference.Interval{Earliest: referencetest.Now - 1000} }
	r := d.start()
	id := r.mustPause(t).PauseID
	stale := d.resume(id, d.world.Resume, func(c *reference.Command) { c.NotBefore, c.NotAfter = referencetest.Now-2000, referencetest.Now-1001 })
	if _, err := r.client.Resume(ctx10(t), stale); !errors.Is(err, reference.ErrExpired) {
		t.Errorf("certainly stale: %v", err)
	}
	if _, err := r.client.Resume(ctx10(t), d.resume(id, d.world.Resume, nil)); err != nil {
		t.Error(err)
	}
}
