package verifier_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/attest/tpm"
	"github.com/miotfacts/miotfacts/attest/tpm/tpmtest"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/verifier"
	"github.com/miotfacts/miotfacts/verifier/verifiertest"
)

// A renewer is a device with its next key.
type renewer struct {
	*verifiertest.Device
	next     *cose.Signer
	identity *attest.Identity
}

// renewers are devices of both kinds. The TPM of each next key is open beside that
// of the present one.
func renewers(t *testing.T, f *verifiertest.Fleet) map[string]*renewer {
	t.Helper()
	file := &renewer{Device: f.NewDevice().Enrolled(), next: verifiertest.NewKey(t)}
	addr := tpmtest.Start(t)
	inTPM := &renewer{Device: f.NewTPMDevice(addr).Enrolled()}
	inTPM.next, inTPM.identity = generation(t, addr, 1)
	return map[string]*renewer{"file": file, "TPM": inTPM}
}

func generation(t *testing.T, addr string, n uint64) (*cose.Signer, *attest.Identity) {
	t.Helper()
	opened, err := tpm.Options{Generation: n}.Open(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { opened.Close() })
	id, err := opened.Provision()
	if err != nil {
		t.Fatal(err)
	}
	s, err := cose.NewSigner(opened.Signer())
	if err != nil {
		t.Fatal(err)
	}
	return s, attest.IdentityOf(id)
}

// order orders a renewal and returns its nonce as the device learns it.
func (r *renewer) order() []byte {
	f := r.Fleet
	f.Helper()
	data, err := f.Renew(f.Now, r.UEID, "ward 3")
	if err != nil {
		f.Fatal(err)
	}
	order, err := f.World.Trust(f).OpenCommand(f.Down(data).Command, reference.Renew, r.UEID[:], "pump-1", reference.At(f.Now))
	if err != nil {
		f.Fatal(err)
	}
	return order.Command().Nonce
}

// renewal asks for the next key by the order with this nonce.
func (r *renewer) renewal(nonce []byte, change ...func(*attest.Enrolment)) verifier.Delivery {
	f := r.Fleet
	f.Helper()
	e := r.Enrolment(nonce)
	e.Key, e.TPM = r.next.Public(), r.identity
	for _, c := range change {
		c(e)
	}
	request, err := attest.SealEnrolment(e, r.next)
	if err != nil {
		f.Fatal(err)
	}
	data, err := attest.SealRenewal(request, r.Signer)
	if err != nil {
		f.Fatal(err)
	}
	m := r.Delivery(data)
	m.Kind = "enrol"
	return m
}

// taken reports whether a reply says that the next key counts.
func (r *renewer) taken(reply verifier.Reply) bool {
	id := r.next.Public().ID()
	return reply.Refused == nil && reply.Down != nil && bytes.Equal(r.Fleet.Down(reply.Down).Renewed, id[:])
}

func TestRenewal(t *testing.T) {
	f := verifiertest.New(t)
	for name, d := range renewers(t, f) {
		t.Run(name, func(t *testing.T) {
			d.Accepted(d.Message(attest.KindBoot))
			late := d.Message(attest.KindRoutine) // on its way while the key is renewed
			m := d.renewal(d.order())
			old := d.Signer.Public().ID()
			if reply := f.Take(m); !d.taken(reply) {
				t.Fatalf("%+v", reply)
			}
			v := d.View()
			if v.Key.ID() != d.next.Public().ID() || v.Renewal != nil || v.Renewals != 1 || v.RenewalBy != "ward 3" || v.Renewed.Key.ID() != old || v.Renewed.At != f.Now {
				t.Errorf("%+v", v)
			}
			// It did not hear of it: it asks again, goes on, and asks to be enrolled.
			if reply := f.Take(m); !d.taken(reply) {
				t.Errorf("asked again: %+v", reply)
			}
			if reply := f.Take(d.SealEnrolment(d.Enrolment(nil))); !d.taken(reply) {
				t.Errorf("asked to be enrolled: %+v", reply)
			}
			still := d.Message(attest.KindRoutine)
			d.Accepted(still)
			// It heard of it. The chain goes on under the new key.
			former := *d.Device
			d.Signer, d.Identity = d.next, d.identity
			if r := d.Accepted(d.Message(attest.KindBoot)); r.Sequence != 4 || r.Chain != 1 {
				t.Errorf("report %d of chain %d", r.Sequence, r.Chain)
			}
			d.Accepted(late)
			// From then on the key before is refused, whatever it says.
			former.Sequence, former.Digest = d.Sequence, d.Digest
			wantRefused(f, former.Delivery(former.Message(attest.KindRoutine)), verifier.ReasonKey)
			wantRefused(f, former.SealEnrolment(former.Enrolment(nil)), verifier.ReasonIdentity)
			d.Accepted(d.Message(attest.KindRoutine))
			if v := d.View(); v.Missing != 0 || v.Renewed.From != 4 {
				t.Errorf("%d missing, under the new key from %d", v.Missing, v.Renewed.From)
			}
			if _, err := f.Evidence(d.UEID); err != nil {
				t.Error(err)
			}
		})
	}
}

// A report of a boot that began under the key before is filled in from its boot
// report, and the evidence of that boot can be checked elsewhere.
func TestRenewalWithinABoot(t *testing.T) {
	f := verifiertest.New(t)
	d := renewers(t, f)["file"]
	whole := d.Report(attest.KindBoot)
	d.Accepted(verifiertest.Encode(t, d.Seal(whole)))
	if reply := f.Take(d.renewal(d.order())); !d.taken(reply) {
		t.Fatalf("%+v", reply)
	}
	d.Signer = d.next
	r := d.Report(attest.KindRoutine)
	r.LeaveOut(whole)
	if r.Body.Same == nil {
		t.Fatal("nothing was left out")
	}
	if rec := d.Accepted(verifiertest.Encode(t, d.Seal(r))); rec.Tier != verifier.TierAffirming {
		t.Errorf("%s: %+v", rec.Tier, rec.Findings)
	}
	data, err := f.Evidence(d.UEID)
	if err != nil {
		t.Fatal(err)
	}
	b, err := attest.DecodeBundle(data)
	if err != nil {
		t.Fatal(err)
	}
	out, err := verifier.CheckBundle(verifier.Config{References: []*reference.Reference{f.Ref}, Result: f.World.Result}, f.Now, b)
	if err != nil || out.Reply.Refused != nil {
		t.Errorf("%+v, %v", out, err)
	}
}

func TestRenewalRefused(t *testing.T) {
	f := verifiertest.New(t)
	devices := renewers(t, f)
	for name, d := range devices {
		d.Accepted(d.Message(attest.KindBoot))
		other := devices["file"]
		if name == "file" {
			other = devices["TPM"]
		}
		wantRefused(f, d.renewal(make([]byte, 16)), verifier.ReasonNonce) // nobody ordered it
		nonce := d.order()
		wantRefused(f, d.renewal(bytes.Repeat([]byte{1}, 16)), verifier.ReasonNonce)
		wantRefused(f, d.renewal(nil), verifier.ReasonDecode)
		wantRefused(f, d.renewal(other.order()), verifier.ReasonNonce)

		topic := d.renewal(nonce)
		topic.Device = other.UEID.String()
		wantRefused(f, topic, verifier.ReasonTopic)

		present := d.Signer
		d.Signer = verifiertest.NewKey(t) // who does not have the present key
		wantRefused(f, d.renewal(nonce), verifier.ReasonKey)
		d.Signer = present

		same := d.next
		d.next = d.Signer
		if name == "file" {
			wantRefused(f, d.renewal(nonce), verifier.ReasonIdentity) // the same key
		}
		d.next = same

		spoilt := d.renewal(nonce)
		spoilt.Payload[len(spoilt.Payload)-64] ^= 0x40
		wantRefused(f, spoilt, verifier.ReasonSignature)

		if name == "TPM" {
			wantRefused(f, d.renewal(nonce, func(e *attest.Enrolment) { e.TPM = d.Identity }), verifier.ReasonKey) // it certifies another key
			identity := d.identity
			d.next, d.identity = generation(t, tpmtest.Start(t), 1)
			wantRefused(f, d.renewal(nonce), verifier.ReasonIdentity) // of another TPM
			d.next = verifiertest.NewKey(t)
			wantRefused(f, d.renewal(nonce, func(e *attest.Enrolment) { e.TPM, e.Protection = nil, attest.ProtectionFile }), verifier.ReasonProtection)
			d.next, d.identity = same, identity
		}
		f.Now += verifier.RenewLife + 1
		wantRefused(f, d.renewal(nonce), verifier.ReasonNonce) // too late
		nonce = d.order()
		if err := f.Revoke(f.Now, d.UEID); err != nil {
			t.Fatal(err)
		}
		wantRefused(f, d.renewal(nonce), verifier.ReasonRevoked)
		d.Approve()
		wantRefused(f, d.renewal(nonce), verifier.ReasonNonce) // the order went with the approval
	}
	stranger := &renewer{Device: f.NewDevice(), next: verifiertest.NewKey(t)}
	wantRefused(f, stranger.renewal(make([]byte, 16)), verifier.ReasonUnknown)
	if _, err := f.Renew(f.Now, stranger.UEID, "ward 3"); err == nil {
		t.Error("ordered for a stranger")
	}
	if _, err := f.Renew(f.Now, devices["file"].UEID, ""); err == nil || !strings.Contains(err.Error(), "say who") {
		t.Errorf("ordered by nobody: %v", err)
	}
}

// Of reports under the key before that never say an end, none counts after a day.
func TestFormerKeyEnds(t *testing.T) {
	f := verifiertest.New(t)
	d := renewers(t, f)["file"]
	d.Accepted(d.Message(attest.KindBoot))
	if reply := f.Take(d.renewal(d.order())); !d.taken(reply) {
		t.Fatalf("%+v", reply)
	}
	f.Now += 86400
	d.Fleet.Now--
	d.Accepted(d.Message(attest.KindRoutine))
	f.Now += 2
	wantRefused(f, d.Delivery(d.Message(attest.KindRoutine)), verifier.ReasonKey)
}

func TestKeysOlder(t *testing.T) {
	f := verifiertest.New(t)
	const age = 365 * 86400
	d := renewers(t, f)["file"]
	d.Accepted(d.Message(attest.KindBoot))
	waits := f.NewDevice()
	waits.Prove()
	due := func() []attest.UEID {
		t.Helper()
		old, err := f.KeysOlder(f.Now, age)
		if err != nil {
			t.Fatal(err)
		}
		return slices.DeleteFunc(old, func(id attest.UEID) bool { return id != d.UEID && id != waits.UEID })
	}
	if n := due(); len(n) != 0 {
		t.Errorf("at first %v are due", n)
	}
	f.Now += age + 10
	if n := due(); len(n) != 1 || n[0] != d.UEID {
		t.Errorf("after a year %v are due", n)
	}
	nonce := d.order()
	if n := due(); len(n) != 0 {
		t.Errorf("ordered, and %v are due", n)
	}
	f.Now += 86401
	if n := due(); len(n) != 1 {
		t.Errorf("ordered a day ago, and %v are due", n)
	}
	if reply := f.Take(d.renewal(nonce)); !d.taken(reply) {
		t.Fatalf("%+v", reply)
	}
	f.Now += age
	if n := due(); len(n) != 0 {
		t.Errorf("renewed, and %v are due", n)
	}
	f.Now += 10
	if n := due(); len(n) != 1 {
		t.Errorf("a year after its renewal %v are due", n)
	}
}
