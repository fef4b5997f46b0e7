package verifier_test

import (
	"bytes"
	"crypto/rand"
	"slices"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/referencetest"
	"github.com/miotfacts/miotfacts/verifier"
)

// wantRefused checks that a message is refused for the reason, that the refusal
// is remembered, and that nothing was believed.
func (f *fleet) wantRefused(m verifier.Delivery, reason verifier.Reason) {
	f.Helper()
	before, err := f.store.Devices()
	if err != nil {
		f.Fatal(err)
	}
	reply := f.handle(m)
	switch {
	case reply.Refused == nil:
		f.Fatalf("accepted, want it refused: %s", reason)
	case reply.Refused.Reason != reason:
		f.Fatalf("refused: %s: %s; want %s", reply.Refused.Reason, reply.Refused.Text, reason)
	case reply.Refused.Text == "" || reply.Down != nil:
		f.Fatalf("refused without words or with an answer: %+v", reply)
	}
	after, err := f.store.Devices()
	if err != nil {
		f.Fatal(err)
	}
	if !bytes.Equal(encode(f, before), encode(f, after)) {
		f.Errorf("%s: a refused message changed a device", reason)
	}
	if reason == verifier.ReasonReplay {
		return
	}
	stored, err := f.store.Refused(1)
	if err != nil {
		f.Fatal(err)
	}
	if len(stored) != 1 || stored[0] != *reply.Refused {
		f.Errorf("stored %+v, want %+v", stored, reply.Refused)
	}
	kept := slices.Contains([]verifier.Reason{verifier.ReasonUnknown, verifier.ReasonUnapproved, verifier.ReasonRevoked, verifier.ReasonManifest, verifier.ReasonFull}, reason)
	if reply.Receipt == kept {
		f.Errorf("%s: receipt %v: a device keeps what an operator can still let in, and nothing else", reason, reply.Receipt)
	}
}

// A fault spoils a message in one way. The faults stand in the order in which
// they must be found.
type fault struct {
	reason verifier.Reason
	state  func(d *device)                  // of the enrolment, instead of approved
	report func(d *device, r *attest.Report) // before it is signed
	seal   func(d *device, m *attest.Message)
	send   func(m *verifier.Delivery)
}

func faults() []fault {
	return []fault{
		{reason: verifier.ReasonSize, send: func(m *verifier.Delivery) {
			m.Payload = append(m.Payload, make([]byte, attest.MaxMessageSize)...)
		}},
		{reason: verifier.ReasonDecode, send: func(m *verifier.Delivery) { m.Payload = append(m.Payload, 0) }},
		{reason: verifier.ReasonUnknown, state: func(d *device) {}},
		{reason: verifier.ReasonUnapproved, state: func(d *device) { d.prove() }},
		{reason: verifier.ReasonRevoked, state: func(d *device) {
			d.enrolled()
			if err := d.f.Revoke(d.f.now, d.ueid); err != nil {
				d.f.Fatal(err)
			}
		}},
		{reason: verifier.ReasonTopic, send: func(m *verifier.Delivery) { m.Device = strings.Repeat("0", 32) }},
		{reason: verifier.ReasonKey, report: func(d *device, r *attest.Report) { d.signer = newKey(d.f) }},
		{reason: verifier.ReasonSignature, seal: func(d *device, m *attest.Message) {
			// The first byte of r: any value of it is a number below the group's order or just wrong.
			m.Report[len(m.Report)-64] ^= 0x40
		}},
		{reason: verifier.ReasonProtection, report: func(d *device, r *attest.Report) { r.Body.Protection = attest.ProtectionTPM }},
		{reason: verifier.ReasonFork, report: func(d *device, r *attest.Report) {
			r.Body.Sequence, r.Body.Previous = 2, bytes.Repeat([]byte{7}, 32)
		}},
		{reason: verifier.ReasonNonce, report: func(d *device, r *attest.Report) {
			r.Body.Kind, r.Nonce = attest.KindChallenge, make([]byte, 16)
		}},
		{reason: verifier.ReasonQuote, seal: func(d *device, m *attest.Message) {
			m.Quote = &attest.Quote{Attest: []byte{1}, Signature: []byte{1}, Bank: 11, PCRs: []attest.PCR{}}
		}},
		{reason: verifier.ReasonMeasRes, report: func(d *device, r *attest.Report) {
			r.MeasRes[1].Results = r.MeasRes[1].Results[:2]
		}},
	}
}

// spoil returns a message with these faults.
func spoil(d *device, faults ...fault) verifier.Delivery {
	d.f.Helper()
	state := func(d *device) { d.enrolled() }
	for _, f := range faults {
		if f.state != nil {
			state = f.state
			break
		}
	}
	state(d)
	// Two reports are there already, so that a third can fork them.
	if known, err := d.f.Device(d.f.now, d.ueid); err == nil && known.Enrolled == verifier.Approved {
		d.accepted(d.message(attest.KindBoot))
		d.accepted(d.message(attest.KindRoutine))
	}
	r := d.report(attest.KindRoutine)
	for _, f := range faults {
		if f.report != nil {
			f.report(d, r)
		}
	}
	msg := d.seal(r)
	for _, f := range faults {
		if f.seal != nil {
			f.seal(d, msg)
		}
	}
	m := d.delivery(encode(d.f, msg))
	for _, f := range faults {
		if f.send != nil {
			f.send(&m)
		}
	}
	return m
}

func TestEachFaultIsRefused(t *testing.T) {
	for _, fault := range faults() {
		t.Run(string(fault.reason), func(t *testing.T) {
			f := newFleet(t)
			f.wantRefused(spoil(f.device(), fault), fault.reason)
		})
	}
	t.Run("none", func(t *testing.T) {
		f := newFleet(t)
		d := f.device()
		if reply := f.handle(spoil(d)); reply.Refused != nil || !reply.Receipt {
			t.Errorf("a sound message: %+v %+v", reply, reply.Refused)
		}
	})
}

// A message with all faults from one on is refused for the first of them.
func TestFaultsAreFoundInOrder(t *testing.T) {
	all := faults()
	for i, fault := range all {
		t.Run(string(fault.reason), func(t *testing.T) {
			f := newFleet(t)
			f.wantRefused(spoil(f.device(), all[i:]...), fault.reason)
		})
	}
}

func TestTopicOfAnotherConnection(t *testing.T) {
	f := newFleet(t)
	d, other := f.device().enrolled(), f.device().enrolled()
	m := d.delivery(d.message(attest.KindBoot))
	m.Client = other.ueid.String()
	f.wantRefused(m, verifier.ReasonTopic)
	m.Client = "" // a broker that does not say
	if reply := f.handle(m); reply.Refused != nil {
		t.Errorf("refused: %+v", reply.Refused)
	}
	m.Kind = "gossip"
	f.wantRefused(m, verifier.ReasonTopic)
}

func TestSequenceBeyondEveryReader(t *testing.T) {
	f := newFleet(t)
	d := f.device().enrolled()
	r := d.report(attest.KindRoutine)
	r.Body.Sequence, r.Body.Previous = 1<<53, make([]byte, 32)
	f.wantRefused(d.delivery(encode(t, d.seal(r))), verifier.ReasonDecode)
}

func TestReplayGetsItsReceiptAndNoBelief(t *testing.T) {
	f := newFleet(t)
	d := f.device().enrolled()
	m := d.message(attest.KindBoot)
	d.accepted(m)
	before := len(f.events)
	f.wantRefused(d.delivery(m), verifier.ReasonReplay)
	if reply := f.handle(d.delivery(m)); !reply.Receipt {
		t.Error("a duplicate got no receipt: the device would send it for ever")
	}
	if stored, err := f.store.Refused(10); err != nil || len(stored) != 0 || len(f.events) != before {
		t.Errorf("a duplicate is noise: %v %v, %d events", stored, err, len(f.events)-before)
	}
}

func TestReplayIntoANewChain(t *testing.T) {
	f := newFleet(t)
	d := f.device().enrolled()
	m := d.message(attest.KindBoot)
	d.accepted(m)
	if err := f.Revoke(f.now, d.ueid); err != nil {
		t.Fatal(err)
	}
	d.approve()
	f.wantRefused(d.delivery(m), verifier.ReasonReplay)
	// The device lost its state and begins anew; that is what the approval was for.
	d.sequence, d.digest = 0, nil
	if r := d.accepted(d.message(attest.KindBoot)); r.Chain != 2 || r.Sequence != 1 {
		t.Errorf("chain %d, sequence %d", r.Chain, r.Sequence)
	}
}

func TestForks(t *testing.T) {
	f := newFleet(t)
	d := f.device().enrolled()
	d.accepted(d.message(attest.KindBoot))
	second := d.report(attest.KindRoutine)
	d.accepted(encode(t, d.seal(second)))
	sequence, digest := d.sequence, d.digest

	second.Uptime++ // the same place, another content
	f.wantRefused(d.delivery(encode(t, d.seal(second))), verifier.ReasonFork)

	d.sequence, d.digest = sequence, bytes.Repeat([]byte{1}, 32) // the next place, another predecessor
	f.wantRefused(d.delivery(d.message(attest.KindRoutine)), verifier.ReasonFork)

	// The place before one that is known, which that one does not follow.
	d.sequence, d.digest = sequence+1, digest
	late := d.report(attest.KindRoutine) // sequence+2, its predecessor is unknown here
	d.accepted(encode(t, d.seal(late)))
	d.sequence, d.digest = sequence, digest
	f.wantRefused(d.delivery(d.message(attest.KindRoutine)), verifier.ReasonFork)
}

func TestNonces(t *testing.T) {
	f := newFleet(t)
	d := f.device().enrolled()
	answer := func(nonce []byte) []byte {
		r := d.report(attest.KindChallenge)
		r.Nonce = nonce
		return encode(t, d.seal(r))
	}
	nonce := d.challenge()
	other := make([]byte, 16)
	rand.Read(other)
	f.wantRefused(d.delivery(answer(other)), verifier.ReasonNonce)

	d.sequence, d.digest = 0, nil
	d.accepted(answer(nonce))
	f.wantRefused(d.delivery(answer(nonce)), verifier.ReasonNonce) // once

	nonce = d.challenge()
	f.now += 301
	f.wantRefused(d.delivery(answer(nonce)), verifier.ReasonNonce) // in time
}

func TestManifests(t *testing.T) {
	f := newFleet(t)
	d := f.device().enrolled()
	unknown := referencetest.Example()
	unknown.Sequence++
	d.ref = f.world.Open(t, unknown)
	m := d.message(attest.KindBoot)
	f.wantRefused(d.delivery(m), verifier.ReasonManifest)

	// Once an operator has added it, what the device kept is accepted.
	cfg := verifier.Config{References: []*reference.Reference{f.ref, d.ref}, Result: f.world.Result}
	var err error
	if f.Verifier, err = verifier.New(cfg, f.store); err != nil {
		t.Fatal(err)
	}
	d.accepted(m)

	digest := d.digest
	r := d.report(attest.KindRoutine)
	r.Body.Manifest.Sequence++
	f.wantRefused(d.delivery(encode(t, d.seal(r))), verifier.ReasonManifest)

	foreign := referencetest.Example()
	foreign.Model = "pump-2"
	d.ref = f.world.Open(t, foreign)
	cfg.References = append(cfg.References, d.ref)
	if f.Verifier, err = verifier.New(cfg, f.store); err != nil {
		t.Fatal(err)
	}
	d.sequence, d.digest = 1, digest
	f.wantRefused(d.delivery(d.message(attest.KindRoutine)), verifier.ReasonManifest)
}

func TestMeasRes(t *testing.T) {
	for name, change := range map[string]func(r *attest.Report){
		"stage left out":    func(r *attest.Report) { r.MeasRes = r.MeasRes[1:] },
		"rule left out":     func(r *attest.Report) { r.MeasRes[1].Results = r.MeasRes[1].Results[1:] },
		"rule out of range": func(r *attest.Report) { r.MeasRes[0].Results[0].Rule = []byte{9} },
		"rule too many": func(r *attest.Report) {
			r.MeasRes[2].Results = append(r.MeasRes[2].Results, attest.Individual{Rule: []byte{1}, Verdict: 1})
		},
		"none": func(r *attest.Report) { r.MeasRes = []attest.System{} },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t)
			d := f.device().enrolled()
			r := d.report(attest.KindBoot)
			change(r)
			f.wantRefused(d.delivery(encode(t, d.seal(r))), verifier.ReasonMeasRes)
		})
	}
}

func TestPolicyThatChecksNothing(t *testing.T) {
	f := newFleet(t)
	sound := verifier.Config{References: []*reference.Reference{f.ref}, Result: f.world.Result}
	other := referencetest.Example()
	other.ReportEvery = 30
	for name, change := range map[string]func(c *verifier.Config){
		"no manifest":         func(c *verifier.Config) { c.References = nil },
		"no result key":       func(c *verifier.Config) { c.Result = nil },
		"no endorsement root": func(c *verifier.Config) { c.RequireEKCert = true },
		"two of one sequence": func(c *verifier.Config) { c.References = append(c.References, f.world.Open(t, other)) },
	} {
		cfg := sound
		change(&cfg)
		if _, err := verifier.New(cfg, f.store); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := verifier.New(sound, nil); err == nil {
		t.Error("no store: accepted")
	}
	for _, cfg := range []verifier.Config{sound, {NoReferences: true, Result: f.world.Result}} {
		if _, err := verifier.New(cfg, f.store); err != nil {
			t.Error(err)
		}
	}
}
