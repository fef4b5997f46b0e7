package verifier_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"slices"
	"testing"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/tpm/tpmtest"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/referencetest"
	"github.com/miotfacts/miotfacts/verifier"
)

func has(found []verifier.Finding, code verifier.Reason, tier verifier.Tier) bool {
	return slices.ContainsFunc(found, func(f verifier.Finding) bool { return f.Code == code && f.Tier == tier && f.Text != "" })
}

func TestKeyFileEnrolment(t *testing.T) {
	f := newFleet(t)
	d := f.device()
	if reply := f.handle(d.sealEnrolment(d.enrolment(nil))); !reply.Receipt || reply.Down != nil {
		t.Fatalf("%+v", reply)
	}
	v := d.view()
	if v.Enrolled != verifier.Proved || v.Protection != attest.ProtectionFile || !has(v.Findings, verifier.ReasonKeyFile, verifier.TierNone) {
		t.Errorf("%+v", v)
	}
	// It asks again, as it does every five minutes.
	if reply := f.handle(d.sealEnrolment(d.enrolment(nil))); reply.Refused != nil || reply.Down != nil {
		t.Fatalf("%+v", reply)
	}
	down, err := f.Approve(f.now, d.ueid, "ward 3")
	if err != nil || !f.down(down).Enrolled {
		t.Fatal(down, err)
	}
	if _, err := f.Approve(f.now, d.ueid, "ward 3"); !errors.Is(err, verifier.ErrState) {
		t.Errorf("approved twice: %v", err)
	}
	// It missed that it was approved.
	if reply := f.handle(d.sealEnrolment(d.enrolment(nil))); reply.Refused != nil || !f.down(reply.Down).Enrolled {
		t.Fatalf("%+v", reply)
	}
	if v := d.view(); v.Enrolled != verifier.Approved || v.ApprovedBy != "ward 3" || v.Chain != 1 {
		t.Errorf("%+v", v)
	}
}

// The whole way with a real TPM: proof, approval, a boot report with a quote, a
// challenge, and its result.
func TestTPMEnrolmentEndToEnd(t *testing.T) {
	e, roots := tpmtest.Manufacture(t)
	m := referencetest.Example()
	m.Boot = &reference.Boot{PCRs: []int{0, 7}}
	f := newFleetOf(t, m, func(c *verifier.Config) { c.EKRoots, c.RequireEKCert = roots, true })
	d := f.tpmDevice(e.Addr)

	reply := f.handle(d.sealEnrolment(d.enrolment(nil)))
	if reply.Refused != nil {
		t.Fatalf("%+v", reply.Refused)
	}
	if v := d.view(); v.Enrolled != verifier.Asked || v.EKProblem != "" {
		t.Errorf("%s, %q", v.Enrolled, v.EKProblem)
	}
	if _, err := f.Approve(f.now, d.ueid, "ward 3"); !errors.Is(err, verifier.ErrState) {
		t.Errorf("approved without proof: %v", err)
	}
	f.wantRefused(d.sealEnrolment(d.enrolment(make([]byte, 32))), verifier.ReasonCredential)

	c := f.down(reply.Down).Credential
	secret, err := d.tpm.Activate(c.Blob, c.Secret)
	if err != nil {
		t.Fatal(err)
	}
	if reply := f.handle(d.sealEnrolment(d.enrolment(secret))); reply.Refused != nil {
		t.Fatalf("%+v", reply.Refused)
	}
	if v := d.view(); v.Enrolled != verifier.Proved || v.Secret != nil {
		t.Errorf("%s, %x", v.Enrolled, v.Secret)
	}
	d.approve()

	r := d.accepted(d.message(attest.KindBoot))
	if !r.Quoted || r.Tier != verifier.TierAffirming {
		t.Errorf("quoted %v, %s: %+v", r.Quoted, r.Tier, r.Findings)
	}
	nonce := d.challenge()
	answer := d.report(attest.KindChallenge)
	answer.Nonce = nonce
	r = d.accepted(encode(t, d.seal(answer)))
	result, err := verifier.OpenResult(r.Result, f.world.Result.Public())
	if err != nil {
		t.Fatal(err)
	}
	a := result.Submods[d.ueid.String()]
	if a.Status != verifier.TierAffirming || !bytes.Equal(a.Nonce, nonce) || !a.Details.Quoted || a.Vector[verifier.Hardware] != 2 || a.Vector[verifier.InstanceIdentity] != 2 {
		t.Errorf("%+v", a)
	}
}

func TestEKCertificates(t *testing.T) {
	e, roots := tpmtest.Manufacture(t)
	other, otherRoots := tpmtest.Manufacture(t)
	without := swtpm(t)
	for _, c := range []struct {
		name    string
		addr    string
		roots   *x509.CertPool
		require bool
		spoil   func(d *device, e *attest.Enrolment)
		want    verifier.Reason // "" accepted
		problem bool
	}{
		{name: "known root", addr: e.Addr, roots: roots, require: true},
		{name: "unknown root", addr: e.Addr, roots: otherRoots, problem: true},
		{name: "unknown root, required", addr: e.Addr, roots: otherRoots, require: true, want: verifier.ReasonCertificate},
		{name: "missing", addr: without, roots: roots, problem: true},
		{name: "missing, required", addr: without, roots: roots, require: true, want: verifier.ReasonCertificate},
		{name: "no roots", addr: e.Addr, problem: true},
		{name: "of another key", addr: e.Addr, roots: roots, spoil: func(d *device, e *attest.Enrolment) {
			e.TPM.EKCert = d.f.tpmDevice(other.Addr).identity.EKCert
		}, want: verifier.ReasonCertificate},
		{name: "garbage", addr: e.Addr, roots: roots, spoil: func(d *device, e *attest.Enrolment) { e.TPM.EKCert = []byte("no") }, want: verifier.ReasonCertificate},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFleet(t, func(cfg *verifier.Config) { cfg.EKRoots, cfg.RequireEKCert = c.roots, c.require })
			d := f.tpmDevice(c.addr)
			request := d.enrolment(nil)
			if c.spoil != nil {
				c.spoil(d, request)
			}
			if c.want != "" {
				f.wantRefused(d.sealEnrolment(request), c.want)
				return
			}
			if reply := f.handle(d.sealEnrolment(request)); reply.Refused != nil {
				t.Fatalf("%+v", reply.Refused)
			}
			if v := d.view(); (v.EKProblem != "") != c.problem || has(v.Findings, verifier.ReasonCertificate, verifier.TierNone) != c.problem {
				t.Errorf("problem %q, findings %+v", v.EKProblem, v.Findings)
			}
		})
	}
}

func TestEnrolmentRefusals(t *testing.T) {
	addr, another := swtpm(t), swtpm(t)
	for _, c := range []struct {
		name   string
		reason verifier.Reason
		make   func(f *fleet) verifier.Delivery
	}{
		{"too large", verifier.ReasonSize, func(f *fleet) verifier.Delivery {
			d := f.device()
			m := d.sealEnrolment(d.enrolment(nil))
			m.Payload = append(m.Payload, make([]byte, attest.MaxEnrolSize)...)
			return m
		}},
		{"garbage", verifier.ReasonDecode, func(f *fleet) verifier.Delivery {
			d := f.device()
			m := d.sealEnrolment(d.enrolment(nil))
			m.Payload = m.Payload[1:]
			return m
		}},
		{"signed by another key than it names", verifier.ReasonKey, func(f *fleet) verifier.Delivery {
			d := f.device()
			e := d.enrolment(nil)
			d.signer = newKey(f)
			return d.sealEnrolment(e)
		}},
		{"signature spoiled", verifier.ReasonSignature, func(f *fleet) verifier.Delivery {
			d := f.device()
			m := d.sealEnrolment(d.enrolment(nil))
			m.Payload[len(m.Payload)-64] ^= 0x40
			return m
		}},
		{"under another name", verifier.ReasonTopic, func(f *fleet) verifier.Delivery {
			d := f.device()
			m := d.sealEnrolment(d.enrolment(nil))
			m.Device = f.device().ueid.String()
			return m
		}},
		{"device key of another TPM", verifier.ReasonCertify, func(f *fleet) verifier.Delivery {
			d, other := f.tpmDevice(addr), f.tpmDevice(another)
			d.identity.Device = other.identity.Device
			d.signer = other.signer
			return d.sealEnrolment(d.enrolment(nil))
		}},
		{"key file that calls itself a TPM", verifier.ReasonKey, func(f *fleet) verifier.Delivery {
			d := f.tpmDevice(addr)
			d.signer = newKey(f)
			return d.sealEnrolment(d.enrolment(nil))
		}},
		{"name not of its endorsement key", verifier.ReasonIdentity, func(f *fleet) verifier.Delivery {
			d := f.tpmDevice(addr)
			d.ueid = f.device().ueid
			return d.sealEnrolment(d.enrolment(nil))
		}},
		{"secret that nobody asked for", verifier.ReasonCredential, func(f *fleet) verifier.Delivery {
			d := f.tpmDevice(addr)
			return d.sealEnrolment(d.enrolment(make([]byte, 32)))
		}},
		{"another key under an approved name", verifier.ReasonIdentity, func(f *fleet) verifier.Delivery {
			d := f.device().enrolled()
			d.signer = newKey(f)
			return d.sealEnrolment(d.enrolment(nil))
		}},
		{"another key under a name that waits", verifier.ReasonIdentity, func(f *fleet) verifier.Delivery {
			d := f.device()
			d.prove()
			d.signer = newKey(f)
			return d.sealEnrolment(d.enrolment(nil))
		}},
		{"key file under the name of a TPM", verifier.ReasonIdentity, func(f *fleet) verifier.Delivery {
			d := f.tpmDevice(addr)
			d.prove()
			thief := f.device()
			thief.ueid = d.ueid
			return thief.sealEnrolment(thief.enrolment(nil))
		}},
		{"revoked", verifier.ReasonRevoked, func(f *fleet) verifier.Delivery {
			d := f.device().enrolled()
			if err := f.Revoke(f.now, d.ueid); err != nil {
				f.Fatal(err)
			}
			return d.sealEnrolment(d.enrolment(nil))
		}},
		{"too many wait", verifier.ReasonFull, func(f *fleet) verifier.Delivery {
			for range 3 {
				f.device().prove()
			}
			d := f.device()
			return d.sealEnrolment(d.enrolment(nil))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFleet(t, func(cfg *verifier.Config) { cfg.MaxWaiting = 3 })
			f.wantRefused(c.make(f), c.reason)
		})
	}
}

// Who asks first under a TPM's name does not keep the TPM out.
func TestTPMTakesTheNameItOwns(t *testing.T) {
	f := newFleet(t)
	d := f.tpmDevice(swtpm(t))
	thief := f.device()
	thief.ueid = d.ueid
	thief.prove()
	d.prove()
	if v := d.view(); v.Protection != attest.ProtectionTPM || v.Enrolled != verifier.Proved {
		t.Errorf("%s, %s", v.Protection, v.Enrolled)
	}
}

func TestAnotherKeyAfterRevoking(t *testing.T) {
	f := newFleet(t)
	d := f.device().enrolled()
	d.accepted(d.message(attest.KindBoot))
	if err := f.Revoke(f.now, d.ueid); err != nil {
		t.Fatal(err)
	}
	if v := d.view(); v.Tier != verifier.TierContraindicated || !has(v.Findings, verifier.ReasonRevoked, verifier.TierContraindicated) {
		t.Errorf("revoked: %s %+v", v.Tier, v.Findings)
	}
	d.signer, d.sequence, d.digest = newKey(t), 0, nil
	d.prove()
	if v := d.view(); v.Enrolled != verifier.Proved || !has(v.Findings, verifier.ReasonIdentity, verifier.TierNone) {
		t.Errorf("%s %+v", v.Enrolled, v.Findings)
	}
	d.approve()
	if r := d.accepted(d.message(attest.KindBoot)); r.Chain != 2 {
		t.Errorf("chain %d", r.Chain)
	}
}

func TestOperatorRefusals(t *testing.T) {
	f := newFleet(t)
	d := f.device()
	for name, err := range map[string]error{
		"approve":   second(f.Approve(f.now, d.ueid, "x")),
		"revoke":    f.Revoke(f.now, d.ueid),
		"challenge": second(f.Challenge(f.now, d.ueid)),
		"command":   second(f.Command(d.ueid, nil)),
		"show":      second(f.Device(f.now, d.ueid)),
	} {
		if !errors.Is(err, verifier.ErrNotFound) {
			t.Errorf("%s of an unknown device: %v", name, err)
		}
	}
	d.prove()
	for name, err := range map[string]error{
		"approve by nobody": second(f.Approve(f.now, d.ueid, "")),
		"challenge":         second(f.Challenge(f.now, d.ueid)),
		"command":           second(f.Command(d.ueid, nil)),
	} {
		if !errors.Is(err, verifier.ErrState) {
			t.Errorf("%s of a device that waits: %v", name, err)
		}
	}
	d.approve()
	if _, err := f.Command(d.ueid, []byte("no")); err == nil {
		t.Error("forwarded garbage")
	}
	if _, err := f.Command(d.ueid, f.world.OperatorKeys); err == nil {
		t.Error("forwarded a key list as a command")
	}
	command, err := reference.SignCommand(&reference.Command{
		Version: 1, Kind: reference.Resume, Device: d.ueid[:], Pause: make([]byte, 16), Nonce: make([]byte, 16), NotBefore: 1, NotAfter: 2,
	}, f.world.Resume)
	if err != nil {
		t.Fatal(err)
	}
	data, err := f.Command(d.ueid, command)
	if err != nil || !bytes.Equal(f.down(data).Command, command) {
		t.Errorf("%x %v", data, err)
	}
}

func second[T any](_ T, err error) error { return err }
