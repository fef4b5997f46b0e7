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
	"github.com/miotfacts/miotfacts/verifier/verifiertest"
)

// wantRefused checks that a message is refused for the reason, that the refusal
// is remembered, and that nothing was believed.
func wantRefused(f *verifiertest.Fleet, m verifier.Delivery, reason verifier.Reason) {
	f.Helper()
	before, err := f.Store.Devices()
	if err != nil {
		f.Fatal(err)
	}
	reply := f.Take(m)
	switch {
	case reply.Refused == nil:
		f.Fatalf("accepted, want it refused: %s", reason)
	case reply.Refused.Reason != reason:
		f.Fatalf("refused: %s: %s; want %s", reply.Refused.Reason, reply.Refused.Text, reason)
	case reply.Refused.Text == "" || reply.Down != nil:
		f.Fatalf("refused without words or with an answer: %+v", reply)
	}
	after, err := f.Store.Devices()
	if err != nil {
		f.Fatal(err)
	}
	if !bytes.Equal(verifiertest.Encode(f, before), verifiertest.Encode(f, after)) {
		f.Errorf("%s: a refused message changed a device", reason)
	}
	stored, err := f.Store.Refused(1)
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
	state  func(d *verifiertest.Device)                   // of the enrolment, instead of approved
	report func(d *verifiertest.Device, r *attest.Report) // before it is signed
	seal   func(d *verifiertest.Device, m *attest.Message)
	send   func(m *verifier.Delivery)
}

func faults() []fault {
	return []fault{
		{reason: verifier.ReasonSize, send: func(m *verifier.Delivery) {
			m.Payload = append(m.Payload, make([]byte, attest.MaxMessageSize)...)
		}},
		{reason: verifier.ReasonDecode, send: func(m *verifier.Delivery) { m.Payload = append(m.Payload, 0) }},
		{reason: verifier.ReasonUnknown, state: func(d *verifiertest.Device) {}},
		{reason: verifier.ReasonUnapproved, state: func(d *verifiertest.Device) { d.Prove() }},
		{reason: verifier.ReasonRevoked, state: func(d *verifiertest.Device) {
			d.Enrolled()
			if err := d.Fleet.Revoke(d.Fleet.Now, d.UEID); err != nil {
				d.Fleet.Fatal(err)
			}
		}},
		{reason: verifier.ReasonTopic, send: func(m *verifier.Delivery) { m.Device = strings.Repeat("0", 32) }},
		{reason: verifier.ReasonKey, report: func(d *verifiertest.Device, r *attest.Report) { d.Signer = verifiertest.NewKey(d.Fleet) }},
		{reason: verifier.ReasonSignature, seal: func(d *verifiertest.Device, m *attest.Message) {
			// The first byte of r: any value of it is a number below the group's order or just wrong.
			m.Report[len(m.Report)-64] ^= 0x40
		}},
		{reason: verifier.ReasonProtection, report: func(d *verifiertest.Device, r *attest.Report) { r.Body.Protection = attest.ProtectionTPM }},
		{reason: verifier.ReasonFork, report: func(d *verifiertest.Device, r *attest.Report) {
			r.Body.Sequence, r.Body.Previous = 2, bytes.Repeat([]byte{7}, 32)
		}},
		{reason: verifier.ReasonNonce, report: func(d *verifiertest.Device, r *attest.Report) {
			r.Body.Kind, r.Nonce = attest.KindChallenge, make([]byte, 16)
		}},
		{reason: verifier.ReasonEpoch, report: func(d *verifiertest.Device, r *attest.Report) {
			if r.Nonce == nil {
				r.Nonce = make([]byte, 16)
			}
		}},
		{reason: verifier.ReasonQuote, seal: func(d *verifiertest.Device, m *attest.Message) {
			m.Quote = &attest.Quote{Attest: []byte{1}, Signature: []byte{1}, Bank: 11, PCRs: []attest.PCR{}}
		}},
		{reason: verifier.ReasonManifest, report: func(d *verifiertest.Device, r *attest.Report) {
			r.Body.Manifest.Digest = bytes.Repeat([]byte{1}, 32)
		}},
		{reason: verifier.ReasonMeasRes, report: func(d *verifiertest.Device, r *attest.Report) {
			r.MeasRes[1].Results = r.MeasRes[1].Results[:2]
		}},
	}
}

// spoil returns a message with these faults.
func spoil(d *verifiertest.Device, faults ...fault) verifier.Delivery {
	d.Fleet.Helper()
	state := func(d *verifiertest.Device) { d.Enrolled() }
	for _, f := range faults {
		if f.state != nil {
			state = f.state
			break
		}
	}
	state(d)
	// Two reports are there already, so that a third can fork them.
	if known, err := d.Fleet.Device(d.Fleet.Now, d.UEID); err == nil && known.Enrolled == verifier.Approved {
		d.Accepted(d.Message(attest.KindBoot))
		d.Accepted(d.Message(attest.KindRoutine))
	}
	r := d.Report(attest.KindRoutine)
	for _, f := range faults {
		if f.report != nil {
			f.report(d, r)
		}
	}
	msg := d.Seal(r)
	for _, f := range faults {
		if f.seal != nil {
			f.seal(d, msg)
		}
	}
	m := d.Delivery(verifiertest.Encode(d.Fleet, msg))
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
			f := verifiertest.New(t)
			wantRefused(f, spoil(f.NewDevice(), fault), fault.reason)
		})
	}
	t.Run("none", func(t *testing.T) {
		f := verifiertest.New(t)
		d := f.NewDevice()
		if reply := f.Take(spoil(d)); reply.Refused != nil || !reply.Receipt {
			t.Errorf("a sound message: %+v %+v", reply, reply.Refused)
		}
	})
}

// A message with all faults from one on is refused for the first of them.
func TestFaultsAreFoundInOrder(t *testing.T) {
	all := faults()
	for i, found := range all {
		t.Run(string(found.reason), func(t *testing.T) {
			f := verifiertest.New(t)
			rest := slices.DeleteFunc(slices.Clone(all[i:]), func(x fault) bool {
				// What a quote has to cover stands in the manifest.
				return found.reason == verifier.ReasonQuote && x.reason == verifier.ReasonManifest
			})
			wantRefused(f, spoil(f.NewDevice(), rest...), found.reason)
		})
	}
}

func TestTopicOfAnotherConnection(t *testing.T) {
	f := verifiertest.New(t)
	d, other := f.NewDevice().Enrolled(), f.NewDevice().Enrolled()
	m := d.Delivery(d.Message(attest.KindBoot))
	m.Client = other.UEID.String()
	wantRefused(f, m, verifier.ReasonTopic)
	m.Client = "" // a broker that does not say
	if reply := f.Take(m); reply.Refused != nil {
		t.Errorf("refused: %+v", reply.Refused)
	}
	m.Kind = "gossip"
	wantRefused(f, m, verifier.ReasonTopic)
}

func TestSequenceBeyondEveryReader(t *testing.T) {
	f := verifiertest.New(t)
	d := f.NewDevice().Enrolled()
	r := d.Report(attest.KindRoutine)
	r.Body.Sequence, r.Body.Previous = 1<<53, make([]byte, 32)
	wantRefused(f, d.Delivery(verifiertest.Encode(t, d.Seal(r))), verifier.ReasonDecode)
}

func TestReplayGetsItsReceiptAndNoBelief(t *testing.T) {
	f := verifiertest.New(t)
	d := f.NewDevice().Enrolled()
	m := d.Message(attest.KindBoot)
	d.Accepted(m)
	wantRefused(f, d.Delivery(m), verifier.ReasonReplay)
	if reply := f.Take(d.Delivery(m)); !reply.Receipt {
		t.Error("a duplicate got no receipt: the device would send it for ever")
	}
	if stored, err := f.Store.Refused(10); err != nil || len(stored) != 2 {
		t.Errorf("a duplicate is told apart from an attack by people, so they must see it: %v %v", stored, err)
	}
}

func TestReplayIntoANewChain(t *testing.T) {
	f := verifiertest.New(t)
	d := f.NewDevice().Enrolled()
	m := d.Message(attest.KindBoot)
	d.Accepted(m)
	if err := f.Revoke(f.Now, d.UEID); err != nil {
		t.Fatal(err)
	}
	d.Approve()
	wantRefused(f, d.Delivery(m), verifier.ReasonReplay)
	// The device lost its state and begins anew; that is what the approval was for.
	d.Sequence, d.Digest = 0, nil
	if r := d.Accepted(d.Message(attest.KindBoot)); r.Chain != 2 || r.Sequence != 1 {
		t.Errorf("chain %d, sequence %d", r.Chain, r.Sequence)
	}
}

func TestForks(t *testing.T) {
	f := verifiertest.New(t)
	d := f.NewDevice().Enrolled()
	d.Accepted(d.Message(attest.KindBoot))
	second := d.Report(attest.KindRoutine)
	d.Accepted(verifiertest.Encode(t, d.Seal(second)))
	sequence, digest := d.Sequence, d.Digest

	second.Uptime++ // the same place, another content
	wantRefused(f, d.Delivery(verifiertest.Encode(t, d.Seal(second))), verifier.ReasonFork)

	d.Sequence, d.Digest = sequence, bytes.Repeat([]byte{1}, 32) // the next place, another predecessor
	wantRefused(f, d.Delivery(d.Message(attest.KindRoutine)), verifier.ReasonFork)

	// The place before one that is known, which that one does not follow.
	d.Sequence, d.Digest = sequence+1, digest
	late := d.Report(attest.KindRoutine) // sequence+2, its predecessor is unknown here
	d.Accepted(verifiertest.Encode(t, d.Seal(late)))
	d.Sequence, d.Digest = sequence, digest
	wantRefused(f, d.Delivery(d.Message(attest.KindRoutine)), verifier.ReasonFork)
}

func TestNonces(t *testing.T) {
	f := verifiertest.New(t)
	d := f.NewDevice().Enrolled()
	answer := func(nonce []byte) []byte {
		r := d.Report(attest.KindChallenge)
		r.Nonce = nonce
		return verifiertest.Encode(t, d.Seal(r))
	}
	nonce := d.Challenge()
	other := make([]byte, 16)
	rand.Read(other)
	wantRefused(f, d.Delivery(answer(other)), verifier.ReasonNonce)

	d.Sequence, d.Digest = 0, nil
	d.Accepted(answer(nonce))
	wantRefused(f, d.Delivery(answer(nonce)), verifier.ReasonNonce) // once

	nonce = d.Challenge()
	f.Now += 301
	wantRefused(f, d.Delivery(answer(nonce)), verifier.ReasonNonce) // in time
}

func TestManifests(t *testing.T) {
	f := verifiertest.New(t)
	d := f.NewDevice().Enrolled()
	unknown := referencetest.Example()
	unknown.Sequence++
	d.Ref = f.World.Open(t, unknown)
	m := d.Message(attest.KindBoot)
	wantRefused(f, d.Delivery(m), verifier.ReasonManifest)

	// Once an operator has added it, what the device kept is accepted.
	cfg := verifier.Config{References: []*reference.Reference{f.Ref, d.Ref}}
	if err := f.Verifier.Reload(cfg); err != nil {
		t.Fatal(err)
	}
	d.Accepted(m)
	// What cannot be right changes nothing.
	twin := referencetest.Example()
	twin.Model = d.Ref.Manifest().Model
	twin.Sequence, twin.ReportEvery = unknown.Sequence, unknown.ReportEvery+1
	for _, wrong := range []verifier.Config{{}, {References: []*reference.Reference{d.Ref, f.World.Open(t, twin)}}, {References: cfg.References, Labels: make([]verifier.LabelFile, 1)}} {
		if err := f.Verifier.Reload(wrong); err == nil {
			t.Errorf("took over %+v", wrong)
		}
	}
	d.Accepted(d.Message(attest.KindRoutine))

	sequence, digest := d.Sequence, d.Digest
	r := d.Report(attest.KindRoutine)
	r.Body.Manifest.Sequence++
	wantRefused(f, d.Delivery(verifiertest.Encode(t, d.Seal(r))), verifier.ReasonManifest)

	foreign := referencetest.Example()
	foreign.Model = "pump-2"
	d.Ref = f.World.Open(t, foreign)
	cfg.References = append(cfg.References, d.Ref)
	if err := f.Verifier.Reload(cfg); err != nil {
		t.Fatal(err)
	}
	d.Sequence, d.Digest = sequence, digest
	wantRefused(f, d.Delivery(d.Message(attest.KindRoutine)), verifier.ReasonManifest)
}

func TestMeasRes(t *testing.T) {
	for name, change := range map[string]func(r *attest.Report){
		"stage left out":    func(r *attest.Report) { r.MeasRes = r.MeasRes[1:] },
		"rule left out":     func(r *attest.Report) { r.MeasRes[1].Results = r.MeasRes[1].Results[1:] },
		"rule out of range": func(r *attest.Report) { r.MeasRes[0].Results[0].Rule = [1]byte{9} },
		"rule too many": func(r *attest.Report) {
			r.MeasRes[2].Results = append(r.MeasRes[2].Results, attest.Individual{Rule: [1]byte{1}, Verdict: 1})
		},
		"none": func(r *attest.Report) { r.MeasRes = []attest.System{} },
	} {
		t.Run(name, func(t *testing.T) {
			f := verifiertest.New(t)
			d := f.NewDevice().Enrolled()
			r := d.Report(attest.KindBoot)
			change(r)
			wantRefused(f, d.Delivery(verifiertest.Encode(t, d.Seal(r))), verifier.ReasonMeasRes)
		})
	}
}

func TestPolicyThatChecksNothing(t *testing.T) {
	f := verifiertest.New(t)
	sound := verifier.Config{References: []*reference.Reference{f.Ref}, Result: f.World.Result}
	other := referencetest.Example()
	other.ReportEvery = 30
	for name, change := range map[string]func(c *verifier.Config){
		"no manifest":         func(c *verifier.Config) { c.References = nil },
		"no result key":       func(c *verifier.Config) { c.Result = nil },
		"no endorsement root": func(c *verifier.Config) { c.RequireEKCert = true },
		"two of one sequence": func(c *verifier.Config) { c.References = append(c.References, f.World.Open(t, other)) },
	} {
		cfg := sound
		change(&cfg)
		if _, err := verifier.New(cfg, f.Store); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := verifier.New(sound, nil); err == nil {
		t.Error("no store: accepted")
	}
	for _, cfg := range []verifier.Config{sound, {NoReferences: true, Result: f.World.Result}} {
		if _, err := verifier.New(cfg, f.Store); err != nil {
			t.Error(err)
		}
	}
}
