package attest

import (
	"errors"
	"fmt"

	"github.com/miotfacts/miotfacts/attest/cose"
)

// MaxRenewalSize bounds a signed renewal in bytes: an enrolment in an envelope.
const MaxRenewalSize = MaxEnrolSize + 512

// SealRenewal returns what puts another key in the place of the present one, which
// signs for it. The request is an enrolment that SealEnrolment has signed with the
// other key; its secret is the nonce of the order.
func SealRenewal(request []byte, present *cose.Signer) ([]byte, error) {
	return present.Sign(cose.Renewal, request)
}

// IsRenewal says whether data claim to be a renewal.
func IsRenewal(data []byte) bool {
	u, err := cose.Parse(data, MaxRenewalSize)
	return err == nil && u.Type() == cose.Renewal
}

// A Renewal asks for a new device key. The new key has signed the request in it,
// and for a TPM the attestation key certifies it; that the present key agrees is
// for Verify to say.
type Renewal struct {
	signed    *cose.Unverified
	enrolment *Enrolment
}

// OpenRenewal checks the request in a renewal, as OpenEnrolment does.
func OpenRenewal(data []byte) (*Renewal, error) {
	u, err := cose.Parse(data, MaxRenewalSize)
	if err == nil && u.Type() != cose.Renewal {
		err = fmt.Errorf("%w: %s", cose.ErrType, u.Type())
	}
	if err != nil {
		return nil, fmt.Errorf("cannot accept renewal: %w", err)
	}
	e, err := OpenEnrolment(u.UnverifiedPayload())
	if err == nil && len(e.Secret) == 0 {
		err = errors.New("no nonce of an order")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot accept renewal: %w", err)
	}
	return &Renewal{u, e}, nil
}

// Device returns the device that the renewal names. Nothing it asks for counts
// before Verify.
func (r *Renewal) Device() UEID { return UEID(r.enrolment.UEID) }

// KeyID returns the new key.
func (r *Renewal) KeyID() cose.KeyID { return r.enrolment.Key.ID() }

// Verify returns the request when key, the device's so far, has signed for it.
func (r *Renewal) Verify(key *cose.PublicKey) (*Enrolment, error) {
	if _, err := r.signed.Verify(cose.Renewal, key); err != nil {
		return nil, err
	}
	return r.enrolment, nil
}
