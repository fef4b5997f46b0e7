package attest

import (
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/attest/tpm"
)

// MaxEnrolSize bounds a signed enrolment request in bytes: an EK certificate
// has one to two kilobytes.
const MaxEnrolSize = 16 << 10

// An Enrolment is a device's request to be known, signed with its device key.
// The verifier answers a TPM-backed one with a credential that only the TPM
// with the named EK can open; the device sends the request again with the
// secret from it.
type Enrolment struct {
	Version    uint            `cbor:"1,keyasint"`           // of this format: 1
	UEID       []byte          `cbor:"2,keyasint"`           // 17 bytes
	Vendor     string          `cbor:"3,keyasint"`           //
	Model      string          `cbor:"4,keyasint"`           //
	Serial     string          `cbor:"5,keyasint,omitempty"` //
	Key        *cose.PublicKey `cbor:"6,keyasint"`           // device key
	Protection Protection      `cbor:"7,keyasint"`           //
	TPM        *Identity       `cbor:"8,keyasint,omitempty"` // ProtectionTPM only
	Secret     []byte          `cbor:"9,keyasint,omitempty"` // from the credential, in the second request; in a renewal the nonce of its order
}

// An Identity is what a TPM says of its keys.
type Identity struct {
	EK        []byte `cbor:"1,keyasint"`           // TPMT_PUBLIC
	EKCert    []byte `cbor:"2,keyasint,omitempty"` // DER as in NV
	AK        []byte `cbor:"3,keyasint"`           // TPMT_PUBLIC
	Device    []byte `cbor:"4,keyasint"`           // TPMT_PUBLIC of the device key
	Attest    []byte `cbor:"5,keyasint"`           // TPM2_Certify of the device key by the AK
	Signature []byte `cbor:"6,keyasint"`
}

// UEIDOfEK returns the UEID of the device whose TPM has this endorsement key
// (TPMT_PUBLIC): the first 16 bytes of SHA-256("miotfacts ueid" || ek).
func UEIDOfEK(ek []byte) UEID {
	h := sha256.New()
	h.Write([]byte("miotfacts ueid"))
	h.Write(ek)
	return NewUEID([16]byte(h.Sum(nil)[:16]))
}

// IdentityOf returns id in its wire form.
func IdentityOf(id *tpm.Identity) *Identity {
	return &Identity{EK: id.EKPublic, EKCert: id.EKCert, AK: id.AKPublic, Device: id.DevicePublic, Attest: id.Certify.Attest, Signature: id.Certify.Signature}
}

// TPM returns i as package tpm verifies it.
func (i *Identity) TPM() tpm.Identity {
	return tpm.Identity{EKPublic: i.EK, EKCert: i.EKCert, AKPublic: i.AK, DevicePublic: i.Device, Certify: tpm.Attestation{Attest: i.Attest, Signature: i.Signature}}
}

func (e *Enrolment) check() error {
	switch {
	case e.Version != 1:
		return fmt.Errorf("enrolment version %d is not 1", e.Version)
	case len(e.UEID) != len(UEID{}) || e.UEID[0] != 1:
		return fmt.Errorf("ueid %x is not of type RAND with 16 bytes", e.UEID)
	case e.Key == nil:
		return errors.New("no device key")
	case e.Protection != ProtectionTPM && e.Protection != ProtectionFile:
		return fmt.Errorf("unknown key protection %d", e.Protection)
	case (e.Protection == ProtectionTPM) != (e.TPM != nil):
		return fmt.Errorf("key protection %s does not fit the TPM claim", e.Protection)
	case len(e.Vendor) > 128 || len(e.Model) > 128 || len(e.Serial) > 128 || len(e.Secret) > 64:
		return errors.New("vendor, model, serial or secret is too long")
	}
	return nil
}

// SealEnrolment returns e as a signed document.
func SealEnrolment(e *Enrolment, key *cose.Signer) ([]byte, error) {
	if err := e.check(); err != nil {
		return nil, fmt.Errorf("cannot seal enrolment: %w", err)
	}
	payload, err := cose.Encode(e)
	if err != nil {
		return nil, err
	}
	return key.Sign(cose.Enrol, payload)
}

// OpenEnrolment checks that a request was signed by the key it names, and for a
// TPM that the attestation key certifies that key. It does not say that the
// device is one to be trusted: an operator approves.
func OpenEnrolment(data []byte) (*Enrolment, error) {
	e, err := openEnrolment(data)
	if err != nil {
		return nil, fmt.Errorf("cannot accept enrolment: %w", err)
	}
	return e, nil
}

func openEnrolment(data []byte) (*Enrolment, error) {
	u, err := cose.Parse(data, MaxEnrolSize)
	if err != nil {
		return nil, err
	}
	e := new(Enrolment)
	if err := cose.Decode(u.UnverifiedPayload(), MaxEnrolSize, e); err != nil {
		return nil, err
	}
	if err := e.check(); err != nil {
		return nil, err
	}
	if _, err := u.Verify(cose.Enrol, e.Key); err != nil {
		return nil, err
	}
	if e.TPM != nil {
		certified, err := tpm.VerifyCertify(e.TPM.TPM())
		if err != nil {
			return nil, err
		}
		key, err := cose.NewPublicKey(certified)
		if err != nil {
			return nil, err
		}
		if key.ID() != e.Key.ID() {
			return nil, fmt.Errorf("%w: the TPM certifies %s, the request is signed by %s", cose.ErrKey, key.ID(), e.Key.ID())
		}
	}
	return e, nil
}

// A Down message is what the verifier sends to one device. Exactly one of its
// parts is set.
type Down struct {
	Command    []byte      `cbor:"1,keyasint,omitempty"` // signed command of an operator
	Credential *Credential `cbor:"2,keyasint,omitempty"` // to be activated by the TPM
	Enrolled   bool        `cbor:"3,keyasint,omitempty"` // the operator approved; a hint
	Have       *Have       `cbor:"4,keyasint,omitempty"` // how much of the boot's logs the verifier has; a hint
	Renewed    []byte      `cbor:"5,keyasint,omitempty"` // KeyID of the device key that counts from now on, 16 bytes; a hint
}

// A Credential is the output of TPM2_MakeCredential.
type Credential struct {
	Blob   []byte `cbor:"1,keyasint"` // TPM2B_ID_OBJECT
	Secret []byte `cbor:"2,keyasint"` // TPM2B_ENCRYPTED_SECRET
}

// MaxDownSize bounds a message to a device in bytes.
const MaxDownSize = 8 << 10

// DecodeDown decodes a message from the verifier.
func DecodeDown(data []byte) (*Down, error) {
	d := new(Down)
	if err := cose.Decode(data, MaxDownSize, d); err != nil {
		return nil, fmt.Errorf("cannot decode message from verifier: %w", err)
	}
	n := 0
	for _, set := range []bool{d.Command != nil, d.Credential != nil, d.Enrolled, d.Have != nil, d.Renewed != nil} {
		if set {
			n++
		}
	}
	if n != 1 {
		return nil, fmt.Errorf("cannot decode message from verifier: %d parts, want one", n)
	}
	if d.Renewed != nil && len(d.Renewed) != len(cose.KeyID{}) {
		return nil, fmt.Errorf("cannot decode message from verifier: key id of %d bytes, want %d", len(d.Renewed), len(cose.KeyID{}))
	}
	if d.Have != nil {
		if err := d.Have.check(); err != nil {
			return nil, fmt.Errorf("cannot decode message from verifier: %w", err)
		}
	}
	return d, nil
}
