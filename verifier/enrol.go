package verifier

import (
	"bytes"
	"crypto/rand"
	"crypto/subtle"
	"crypto/x509"
	"errors"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/attest/tpm"
)

// enrol deals with a request to be known. It returns the message for the device.
//
// A TPM proves that it holds the named endorsement key by opening a credential;
// the UEID is derived from that key, so nobody else can have it. A key file
// proves nothing but itself: the operator sees that and decides.
func (v *Verifier) enrol(now int64, m Delivery) ([]byte, error) {
	if attest.IsRenewal(m.Payload) {
		return v.renew(now, m)
	}
	if len(m.Payload) > attest.MaxEnrolSize {
		return nil, refuse(ReasonSize, "enrolment of %d bytes, the limit is %d", len(m.Payload), attest.MaxEnrolSize)
	}
	e, err := attest.OpenEnrolment(m.Payload)
	if err != nil {
		return nil, refuse(enrolReason(err), "%v", err)
	}
	id := attest.UEID(e.UEID)
	if err := fromDevice(m, id); err != nil {
		return nil, err
	}
	defer v.lock(id)()
	problem, err := v.checkEK(e)
	if err != nil {
		return nil, err
	}
	d, err := v.store.Device(id)
	if errors.Is(err, ErrNotFound) {
		d, err = nil, nil
	}
	if err != nil {
		return nil, err
	}
	if d != nil && d.Enrolled == Retired {
		return nil, refuse(ReasonRetired, "device %s was decommissioned", id)
	}
	if d != nil && d.Key.ID() == e.Key.ID() && d.Protection == e.Protection {
		return v.enrolKnown(now, d, e, problem)
	}
	if d != nil && d.Enrolled == Approved && d.Former(e.Key.ID()) {
		return renewed(d) // it has not heard that its renewal was taken
	}
	return v.enrolNew(now, d, e, problem)
}

// enrolReason finds the reason in an error of OpenEnrolment.
func enrolReason(err error) Reason {
	var certification tpm.Reason
	switch {
	case errors.Is(err, cose.ErrKey):
		return ReasonKey
	case errors.Is(err, cose.ErrSignature):
		return ReasonSignature
	case errors.As(err, &certification):
		return ReasonCertify
	}
	return ReasonDecode
}

// fromDevice refuses a message that came under another device's name.
func fromDevice(m Delivery, id attest.UEID) error {
	switch {
	case m.Device != id.String():
		return refuse(ReasonTopic, "device %s sent under the name %q", id, clip(m.Device))
	case m.Client != "" && m.Client != id.String():
		return refuse(ReasonTopic, "message of device %s came over the connection of %q", id, clip(m.Client))
	}
	return nil
}

// checkEK checks what ties the request to a TPM. It returns why the endorsement
// certificate proves nothing, for the operator who approves by inventory.
func (v *Verifier) checkEK(e *attest.Enrolment) (problem string, err error) {
	if e.TPM == nil {
		return "", nil
	}
	if want := attest.UEIDOfEK(e.TPM.EK); want != attest.UEID(e.UEID) {
		return "", refuse(ReasonIdentity, "device %s has an endorsement key that makes it %s", attest.UEID(e.UEID), want)
	}
	switch {
	case len(e.TPM.EKCert) == 0:
		problem = "EK certificate missing: approve by inventory"
	case v.cfg.EKRoots == nil:
		problem = "EK certificate not checked, no roots are configured: approve by inventory"
	default:
		if cerr := tpm.VerifyEKCert(e.TPM.EKCert, e.TPM.EK, v.cfg.EKRoots); cerr != nil {
			var unknown x509.UnknownAuthorityError
			var invalid x509.CertificateInvalidError
			switch {
			case errors.As(cerr, &unknown):
				problem = "EK certificate of an unknown root: approve by inventory"
			case errors.As(cerr, &invalid) && invalid.Reason == x509.Expired:
				problem = "EK certificate has expired: approve by inventory"
			default:
				return "", refuse(ReasonCertificate, "%v", cerr)
			}
		}
	}
	if problem != "" && v.cfg.RequireEKCert {
		return "", refuse(ReasonCertificate, "%s", problem)
	}
	return problem, nil
}

// enrolKnown goes on with the enrolment of a device under the key it has.
func (v *Verifier) enrolKnown(now int64, d *Device, e *attest.Enrolment, problem string) ([]byte, error) {
	switch d.Enrolled {
	case Approved:
		return cose.Encode(attest.Down{Enrolled: true}) // it may have missed that
	case Proved:
		return nil, nil
	case Revoked:
		// Proving what it holds changes nothing, but lets an operator change his mind.
		if d.ProvedAt != 0 {
			return nil, refuse(ReasonRevoked, "device %s was revoked", d.UEID)
		}
	}
	d.EKProblem = problem
	if len(e.Secret) == 0 {
		return v.credential(d, e)
	}
	if !bytes.Equal(e.TPM.AK, d.Identity.AK) {
		return nil, refuse(ReasonCredential, "device %s: the credential was made for another attestation key", d.UEID)
	}
	if len(d.Secret) == 0 || subtle.ConstantTimeCompare(d.Secret, e.Secret) != 1 {
		return nil, refuse(ReasonCredential, "device %s: the secret is not that of the credential", d.UEID)
	}
	d.ProvedAt, d.Secret = now, nil
	if d.Enrolled == Asked {
		d.Enrolled = Proved
	}
	return nil, v.save(d)
}

// enrolNew begins the enrolment of a device or of a device's other key.
func (v *Verifier) enrolNew(now int64, old *Device, e *attest.Enrolment, problem string) ([]byte, error) {
	id := attest.UEID(e.UEID)
	d := &Device{
		UEID: id, Vendor: e.Vendor, Model: e.Model, Serial: e.Serial, Key: e.Key, Protection: e.Protection, Identity: e.TPM,
		Enrolled: Asked, AskedAt: now, EKProblem: problem,
	}
	if old != nil {
		// A request that proves more than the one that waits may take its place:
		// otherwise a stranger could keep a device out by asking first.
		stronger := e.TPM != nil && (old.Protection != attest.ProtectionTPM || old.ProvedAt == 0)
		if old.Enrolled != Revoked && (old.Enrolled == Approved || !stronger) {
			return nil, refuse(ReasonIdentity, "device %s is enrolled with key %s, now asks with %s: revoke it first if its key was replaced", id, old.Key.ID(), e.Key.ID())
		}
		d.Chain, d.RevokedAt = old.Chain, old.RevokedAt
	}
	if v.full(id) {
		return nil, refuse(ReasonFull, "%d devices wait for approval", v.cfg.MaxWaiting)
	}
	if len(e.Secret) != 0 {
		return nil, refuse(ReasonCredential, "device %s sends a secret, and no credential was made for this key", id)
	}
	if e.TPM == nil {
		d.Enrolled, d.ProvedAt = Proved, now
		return nil, v.save(d)
	}
	return v.credential(d, e)
}

// credential makes a credential that only the TPM with the endorsement key can
// open, and only while it holds the attestation key.
func (v *Verifier) credential(d *Device, e *attest.Enrolment) ([]byte, error) {
	secret := make([]byte, 32)
	rand.Read(secret) // never fails
	name, err := tpm.Name(e.TPM.AK)
	if err != nil {
		return nil, refuse(ReasonCertify, "%v", err)
	}
	blob, encrypted, err := tpm.MakeCredential(e.TPM.EK, name, secret)
	if err != nil {
		return nil, refuse(ReasonCertify, "%v", err)
	}
	// The identity that the credential is for is the one that is kept.
	d.Secret, d.Identity = secret, e.TPM
	if err := v.save(d); err != nil {
		return nil, err
	}
	return cose.Encode(attest.Down{Credential: &attest.Credential{Blob: blob, Secret: encrypted}})
}
