package verifier_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"slices"
	"testing"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/attest/tpm/tpmtest"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/referencetest"
	"github.com/miotfacts/miotfacts/verifier"
	"github.com/miotfacts/miotfacts/verifier/verifiertest"
)

func has(found []verifier.Finding, code verifier.Reason, tier verifier.Tier) bool {
	return slices.ContainsFunc(found, func(f verifier.Finding) bool { return f.Code == code && f.Tier == tier && f.Text != "" })
}

func TestKeyFileEnrolment(t *testing.T) {
	f := verifiertest.New(t)
	d := f.NewDevice()
	if reply := f.Take(d.SealEnrolment(d.Enrolment(nil))); !reply.Receipt || reply.Down != nil {
		t.Fatalf("%+v", reply)
	}
	v := d.View()
	if v.Enrolled != verifier.Proved || v.Protection != attest.ProtectionFile || !has(v.Findings, verifier.ReasonKeyFile, verifier.TierNone) {
		t.Errorf("%+v", v)
	}
	// It asks again, as it does every five minutes.
	if reply := f.Take(d.SealEnrolment(d.Enrolment(nil))); reply.Refused != nil || reply.Down != nil {
		t.Fatalf("%+v", reply)
	}
	down, err := f.Approve(f.Now, d.UEID, "ward 3")
	if err != nil || !f.Down(down).Enrolled {
		t.Fatal(down, err)
	}
	if _, err := f.Approve(f.Now, d.UEID, "ward 3"); !errors.Is(err, verifier.ErrState) {
		t.Errorf("approved twice: %v", err)
	}
	// It missed that it was approved.
	if reply := f.Take(d.SealEnrolment(d.Enrolment(nil))); reply.Refused != nil || !f.Down(reply.Down).Enrolled {
		t.Fatalf("%+v", reply)
	}
	if v := d.View(); v.Enrolled != verifier.Approved || v.ApprovedBy != "ward 3" || v.Chain != 1 {
		t.Errorf("%+v", v)
	}
}

// The whole way with a real TPM: proof, approval, a boot report with a quote, a
// challenge, and its result.
func TestTPMEnrolmentEndToEnd(t *testing.T) {
	e, roots := tpmtest.Manufacture(t)
	m := referencetest.Example()
	m.Boot = &reference.Boot{PCRs: []int{0, 7}}
	f := verifiertest.Of(t, m, func(c *verifier.Config) { c.EKRoots, c.RequireEKCert = roots, true })
	d := f.NewTPMDevice(e.Addr)

	reply := f.Take(d.SealEnrolment(d.Enrolment(nil)))
	if reply.Refused != nil {
		t.Fatalf("%+v", reply.Refused)
	}
	if v := d.View(); v.Enrolled != verifier.Asked || v.EKProblem != "" {
		t.Errorf("%s, %q", v.Enrolled, v.EKProblem)
	}
	if _, err := f.Approve(f.Now, d.UEID, "ward 3"); !errors.Is(err, verifier.ErrState) {
		t.Errorf("approved without proof: %v", err)
	}
	wantRefused(f, d.SealEnrolment(d.Enrolment(make([]byte, 32))), verifier.ReasonCredential)

	c := f.Down(reply.Down).Credential
	secret, err := d.TPM.Activate(c.Blob, c.Secret)
	if err != nil {
		t.Fatal(err)
	}
	if reply := f.Take(d.SealEnrolment(d.Enrolment(secret))); reply.Refused != nil {
		t.Fatalf("%+v", reply.Refused)
	}
	if v := d.View(); v.Enrolled != verifier.Proved || v.Secret != nil {
		t.Errorf("%s, %x", v.Enrolled, v.Secret)
	}
	d.Approve()

	r := d.Accepted(d.Message(attest.KindBoot))
	if !r.Quoted || r.Tier != verifier.TierAffirming {
		t.Errorf("quoted %v, %s: %+v", r.Quoted, r.Tier, r.Findings)
	}
	nonce := d.Challenge()
	answer := d.Report(attest.KindChallenge)
	answer.Nonce = nonce
	r = d.Accepted(verifiertest.Encode(t, d.Seal(answer)))
	result, err := verifier.OpenResult(r.Result, f.World.Result.Public())
	if err != nil {
		t.Fatal(err)
	}
	a := result.Submods[d.UEID.String()]
	if a.Status != verifier.TierAffirming || !bytes.Equal(a.Nonce, nonce) || !a.Details.Quoted || a.Vector[verifier.Hardware] != 2 || a.Vector[verifier.InstanceIdentity] != 2 {
		t.Errorf("%+v", a)
	}
}

func TestEKCertificates(t *testing.T) {
	e, roots := tpmtest.Manufacture(t)
	other, otherRoots := tpmtest.Manufacture(t)
	without := tpmtest.Start(t)
	for _, c := range []struct {
		name    string
		addr    string
		roots   *x509.CertPool
		require bool
		spoil   func(d *verifiertest.Device, e *attest.Enrolment)
		want    verifier.Reason // "" accepted
		problem bool
	}{
		{name: "known root", addr: e.Addr, roots: roots, require: true},
		{name: "unknown root", addr: e.Addr, roots: otherRoots, problem: true},
		{name: "unknown root, required", addr: e.Addr, roots: otherRoots, require: true, want: verifier.ReasonCertificate},
		{name: "missing", addr: without, roots: roots, problem: true},
		{name: "missing, required", addr: without, roots: roots, require: true, want: verifier.ReasonCertificate},
		{name: "no roots", addr: e.Addr, problem: true},
		{name: "of another key", addr: e.Addr, roots: roots, spoil: func(d *verifiertest.Device, e *attest.Enrolment) {
			e.TPM.EKCert = d.Fleet.NewTPMDevice(other.Addr).Identity.EKCert
		}, want: verifier.ReasonCertificate},
		{name: "garbage", addr: e.Addr, roots: roots, spoil: func(d *verifiertest.Device, e *attest.Enrolment) { e.TPM.EKCert = []byte("no") }, want: verifier.ReasonCertificate},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := verifiertest.New(t, func(cfg *verifier.Config) { cfg.EKRoots, cfg.RequireEKCert = c.roots, c.require })
			d := f.NewTPMDevice(c.addr)
			request := d.Enrolment(nil)
			if c.spoil != nil {
				c.spoil(d, request)
			}
			if c.want != "" {
				wantRefused(f, d.SealEnrolment(request), c.want)
				return
			}
			if reply := f.Take(d.SealEnrolment(request)); reply.Refused != nil {
				t.Fatalf("%+v", reply.Refused)
			}
			if v := d.View(); (v.EKProblem != "") != c.problem || has(v.Findings, verifier.ReasonCertificate, verifier.TierNone) != c.problem {
				t.Errorf("problem %q, findings %+v", v.EKProblem, v.Findings)
			}
		})
	}
}

func TestEnrolmentRefusals(t *testing.T) {
	addr, another := tpmtest.Start(t), tpmtest.Start(t)
	for _, c := range []struct {
		name   string
		reason verifier.Reason
		make   func(f *verifiertest.Fleet) verifier.Delivery
	}{
		{"too large", verifier.ReasonSize, func(f *verifiertest.Fleet) verifier.Delivery {
			d := f.NewDevice()
			m := d.SealEnrolment(d.Enrolment(nil))
			m.Payload = append(m.Payload, make([]byte, attest.MaxEnrolSize)...)
			return m
		}},
		{"garbage", verifier.ReasonDecode, func(f *verifiertest.Fleet) verifier.Delivery {
			d := f.NewDevice()
			m := d.SealEnrolment(d.Enrolment(nil))
			m.Payload = m.Payload[1:]
			return m
		}},
		{"signed by another key than it names", verifier.ReasonKey, func(f *verifiertest.Fleet) verifier.Delivery {
			d := f.NewDevice()
			e := d.Enrolment(nil)
			d.Signer = verifiertest.NewKey(f)
			return d.SealEnrolment(e)
		}},
		{"signature spoiled", verifier.ReasonSignature, func(f *verifiertest.Fleet) verifier.Delivery {
			d := f.NewDevice()
			m := d.SealEnrolment(d.Enrolment(nil))
			m.Payload[len(m.Payload)-64] ^= 0x40
			return m
		}},
		{"under another name", verifier.ReasonTopic, func(f *verifiertest.Fleet) verifier.Delivery {
			d := f.NewDevice()
			m := d.SealEnrolment(d.Enrolment(nil))
			m.Device = f.NewDevice().UEID.String()
			return m
		}},
		{"device key of another TPM", verifier.ReasonCertify, func(f *verifiertest.Fleet) verifier.Delivery {
			d, other := f.NewTPMDevice(addr), f.NewTPMDevice(another)
			d.Identity.Device = other.Identity.Device
			d.Signer = other.Signer
			return d.SealEnrolment(d.Enrolment(nil))
		}},
		{"key file that calls itself a TPM", verifier.ReasonKey, func(f *verifiertest.Fleet) verifier.Delivery {
			d := f.NewTPMDevice(addr)
			d.Signer = verifiertest.NewKey(f)
			return d.SealEnrolment(d.Enrolment(nil))
		}},
		{"name not of its endorsement key", verifier.ReasonIdentity, func(f *verifiertest.Fleet) verifier.Delivery {
			d := f.NewTPMDevice(addr)
			d.UEID = f.NewDevice().UEID
			return d.SealEnrolment(d.Enrolment(nil))
		}},
		{"secret that nobody asked for", verifier.ReasonCredential, func(f *verifiertest.Fleet) verifier.Delivery {
			d := f.NewTPMDevice(addr)
			return d.SealEnrolment(d.Enrolment(make([]byte, 32)))
		}},
		{"another key under an approved name", verifier.ReasonIdentity, func(f *verifiertest.Fleet) verifier.Delivery {
			d := f.NewDevice().Enrolled()
			d.Signer = verifiertest.NewKey(f)
			return d.SealEnrolment(d.Enrolment(nil))
		}},
		{"another key under a name that waits", verifier.ReasonIdentity, func(f *verifiertest.Fleet) verifier.Delivery {
			d := f.NewDevice()
			d.Prove()
			d.Signer = verifiertest.NewKey(f)
			return d.SealEnrolment(d.Enrolment(nil))
		}},
		{"key file under the name of a TPM", verifier.ReasonIdentity, func(f *verifiertest.Fleet) verifier.Delivery {
			d := f.NewTPMDevice(addr)
			d.Prove()
			thief := f.NewDevice()
			thief.UEID = d.UEID
			return thief.SealEnrolment(thief.Enrolment(nil))
		}},
		{"revoked", verifier.ReasonRevoked, func(f *verifiertest.Fleet) verifier.Delivery {
			d := f.NewDevice().Enrolled()
			if err := f.Revoke(f.Now, d.UEID); err != nil {
				f.Fatal(err)
			}
			return d.SealEnrolment(d.Enrolment(nil))
		}},
		{"too many wait", verifier.ReasonFull, func(f *verifiertest.Fleet) verifier.Delivery {
			for range 3 {
				f.NewDevice().Prove()
			}
			d := f.NewDevice()
			return d.SealEnrolment(d.Enrolment(nil))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := verifiertest.New(t, func(cfg *verifier.Config) { cfg.MaxWaiting = 3 })
			wantRefused(f, c.make(f), c.reason)
		})
	}
}

// Who asks first under a TPM's name does not keep the TPM out.
func TestTPMTakesTheNameItOwns(t *testing.T) {
	f := verifiertest.New(t)
	d := f.NewTPMDevice(tpmtest.Start(t))
	thief := f.NewDevice()
	thief.UEID = d.UEID
	thief.Prove()
	d.Prove()
	if v := d.View(); v.Protection != attest.ProtectionTPM || v.Enrolled != verifier.Proved {
		t.Errorf("%s, %s", v.Protection, v.Enrolled)
	}
}

func TestAnotherKeyAfterRevoking(t *testing.T) {
	f := verifiertest.New(t)
	d := f.NewDevice().Enrolled()
	d.Accepted(d.Message(attest.KindBoot))
	if err := f.Revoke(f.Now, d.UEID); err != nil {
		t.Fatal(err)
	}
	if v := d.View(); v.Tier != verifier.TierContraindicated || !has(v.Findings, verifier.ReasonRevoked, verifier.TierContraindicated) {
		t.Errorf("revoked: %s %+v", v.Tier, v.Findings)
	}
	d.Signer, d.Sequence, d.Digest = verifiertest.NewKey(t), 0, nil
	d.Prove()
	if v := d.View(); v.Enrolled != verifier.Proved || !has(v.Findings, verifier.ReasonIdentity, verifier.TierNone) {
		t.Errorf("%s %+v", v.Enrolled, v.Findings)
	}
	d.Approve()
	if r := d.Accepted(d.Message(attest.KindBoot)); r.Chain != 2 {
		t.Errorf("chain %d", r.Chain)
	}
}

func TestDecommissioned(t *testing.T) {
	f := verifiertest.New(t)
	d := f.NewDevice().Enrolled()
	d.Accepted(d.Message(attest.KindBoot))
	if err := f.Decommission(f.Now, d.UEID, ""); !errors.Is(err, verifier.ErrState) {
		t.Errorf("by nobody: %v", err)
	}
	if err := f.Decommission(f.Now, d.UEID, "ward 3"); err != nil {
		t.Fatal(err)
	}
	if v := d.View(); v.Enrolled != verifier.Retired || v.RetiredBy != "ward 3" || v.RetiredAt != f.Now || v.Tier != verifier.TierNone || !has(v.Findings, verifier.ReasonRetired, verifier.TierNone) {
		t.Errorf("%s by %s, %s, %+v", v.Enrolled, v.RetiredBy, v.Tier, v.Findings)
	}
	if reply := d.Send(d.Message(attest.KindRoutine)); reply.Refused == nil || reply.Refused.Reason != verifier.ReasonRetired || !reply.Receipt {
		t.Errorf("its report: %+v", reply)
	}
	for _, key := range []*cose.Signer{d.Signer, verifiertest.NewKey(t)} {
		d.Signer = key
		if reply := f.Take(d.SealEnrolment(d.Enrolment(nil))); reply.Refused == nil || reply.Refused.Reason != verifier.ReasonRetired {
			t.Errorf("its request: %+v", reply)
		}
	}
	for name, err := range map[string]error{
		"approve": second(f.Approve(f.Now, d.UEID, "x")), "revoke": f.Revoke(f.Now, d.UEID),
		"decommission": f.Decommission(f.Now, d.UEID, "x"), "challenge": second(f.Challenge(f.Now, d.UEID)),
	} {
		if !errors.Is(err, verifier.ErrState) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A machine with another mainboard has another TPM and so another name.
func TestReplaced(t *testing.T) {
	f := verifiertest.New(t)
	old := f.NewTPMDevice(tpmtest.Start(t)).Enrolled()
	old.Accepted(old.Message(attest.KindBoot))
	next, other := f.NewTPMDevice(tpmtest.Start(t)), f.NewDevice()
	e := other.Enrolment(nil)
	e.Model = "another model"
	if reply := f.Take(other.SealEnrolment(e)); reply.Refused != nil {
		t.Fatalf("%+v", reply.Refused)
	}
	if reply := f.Take(next.SealEnrolment(next.Enrolment(nil))); reply.Refused != nil {
		t.Fatalf("%+v", reply.Refused)
	}
	for name, err := range map[string]error{
		"by what proved nothing": second(f.Replace(f.Now, old.UEID, next.UEID, "ward 3")),
		"by another model":       second(f.Replace(f.Now, old.UEID, other.UEID, "ward 3")),
		"by itself":              second(f.Replace(f.Now, old.UEID, old.UEID, "ward 3")),
		"by what nobody knows":   second(f.Replace(f.Now, old.UEID, f.NewDevice().UEID, "ward 3")),
		"of what nobody knows":   second(f.Replace(f.Now, f.NewDevice().UEID, next.UEID, "ward 3")),
		"by nobody's order":      second(f.Replace(f.Now, old.UEID, next.UEID, "")),
		"in the wrong direction": second(f.Replace(f.Now, next.UEID, old.UEID, "ward 3")),
	} {
		if !errors.Is(err, verifier.ErrState) && !errors.Is(err, verifier.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if v := old.View(); v.Enrolled != verifier.Approved {
		t.Fatalf("a replacement that was refused leaves the old device %s", v.Enrolled)
	}
	next.Prove()
	down, err := f.Replace(f.Now, old.UEID, next.UEID, "ward 3")
	if err != nil || !f.Down(down).Enrolled {
		t.Fatalf("%v", err)
	}
	was, is := old.View(), next.View()
	if was.Enrolled != verifier.Retired || was.ReplacedBy == nil || *was.ReplacedBy != next.UEID {
		t.Errorf("the old one: %s, replaced by %v", was.Enrolled, was.ReplacedBy)
	}
	if is.Enrolled != verifier.Approved || is.ApprovedBy != "ward 3" || is.Replaces == nil || *is.Replaces != old.UEID {
		t.Errorf("the new one: %s by %s, replaces %v", is.Enrolled, is.ApprovedBy, is.Replaces)
	}
	if _, err := f.Replace(f.Now, old.UEID, next.UEID, "ward 3"); !errors.Is(err, verifier.ErrState) {
		t.Errorf("again: %v", err)
	}
	next.Accepted(next.Message(attest.KindBoot))
}

// The verifier stopped after the first half of a replacement.
func TestReplacementGoesOn(t *testing.T) {
	f := verifiertest.New(t)
	old, next := f.NewDevice().Enrolled(), f.NewDevice()
	next.Prove()
	d, err := f.Store.Device(old.UEID)
	if err != nil {
		t.Fatal(err)
	}
	d.Enrolled, d.RetiredAt, d.RetiredBy, d.ReplacedBy = verifier.Retired, f.Now, "ward 3", &next.UEID
	if err := f.Store.Save(d); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Replace(f.Now, old.UEID, next.UEID, "ward 3"); err != nil {
		t.Fatal(err)
	}
	if v := next.View(); v.Enrolled != verifier.Approved || v.Replaces == nil {
		t.Errorf("%s, replaces %v", v.Enrolled, v.Replaces)
	}
}

// An operator who said no before the TPM had proved itself can still say yes.
func TestRevokedBeforeItsProof(t *testing.T) {
	f := verifiertest.New(t)
	d := f.NewTPMDevice(tpmtest.Start(t))
	if reply := f.Take(d.SealEnrolment(d.Enrolment(nil))); reply.Refused != nil {
		t.Fatalf("%+v", reply.Refused)
	}
	if err := f.Revoke(f.Now, d.UEID); err != nil {
		t.Fatal(err)
	}
	d.Prove()
	if v := d.View(); v.Enrolled != verifier.Revoked {
		t.Errorf("%s", v.Enrolled)
	}
	d.Approve()
}

func TestOperatorRefusals(t *testing.T) {
	f := verifiertest.New(t)
	d := f.NewDevice()
	for name, err := range map[string]error{
		"approve":   second(f.Approve(f.Now, d.UEID, "x")),
		"revoke":    f.Revoke(f.Now, d.UEID),
		"challenge": second(f.Challenge(f.Now, d.UEID)),
		"command":   second(f.Command(d.UEID, nil)),
		"show":      second(f.Device(f.Now, d.UEID)),
	} {
		if !errors.Is(err, verifier.ErrNotFound) {
			t.Errorf("%s of an unknown device: %v", name, err)
		}
	}
	d.Prove()
	for name, err := range map[string]error{
		"approve by nobody": second(f.Approve(f.Now, d.UEID, "")),
		"challenge":         second(f.Challenge(f.Now, d.UEID)),
		"command":           second(f.Command(d.UEID, nil)),
	} {
		if !errors.Is(err, verifier.ErrState) {
			t.Errorf("%s of a device that waits: %v", name, err)
		}
	}
	d.Approve()
	if _, err := f.Command(d.UEID, []byte("no")); err == nil {
		t.Error("forwarded garbage")
	}
	if _, err := f.Command(d.UEID, f.World.OperatorKeys); err == nil {
		t.Error("forwarded a key list as a command")
	}
	command, err := reference.SignCommand(&reference.Command{
		Version: 1, Kind: reference.Resume, Device: d.UEID[:], Pause: make([]byte, 16), Nonce: make([]byte, 16), NotBefore: 1, NotAfter: 2,
	}, f.World.Resume)
	if err != nil {
		t.Fatal(err)
	}
	data, err := f.Command(d.UEID, command)
	if err != nil || !bytes.Equal(f.Down(data).Command, command) {
		t.Errorf("%x %v", data, err)
	}
}

func second[T any](_ T, err error) error { return err }
