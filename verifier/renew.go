package verifier

import (
	"bytes"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/reference"
)

// RenewLife is how long in seconds after an order to renew its key a device may
// take: it may be switched off.
const RenewLife = 30 * 86400

// lateKey is how long in seconds reports under the key before count when none under
// the new one has come: those that were on their way.
const lateKey = 86400

// A Renewed key is one that another took the place of.
type Renewed struct {
	Key  *cose.PublicKey `cbor:"1,keyasint"`           // the one before
	At   int64           `cbor:"2,keyasint"`           // Unix seconds
	From uint64          `cbor:"3,keyasint,omitempty"` // lowest sequence under the new key; 0: none has come
}

// Renew orders a device to make itself a new key, without anybody going there. It
// returns the message for the device. Ordered again, the newest order counts.
func (v *Verifier) Renew(now int64, id attest.UEID, by string) ([]byte, error) {
	defer v.lock(id)()
	fail := func(err error) ([]byte, error) {
		return nil, fmt.Errorf("cannot renew the key of device %s: %w", id, err)
	}
	d, err := v.store.Device(id)
	switch {
	case err != nil:
		return fail(err)
	case v.cfg.Command == nil:
		return fail(fmt.Errorf("%w: no key for commands is configured", ErrState))
	case d.Enrolled != Approved:
		return fail(fmt.Errorf("%w: its enrolment is %q", ErrState, d.Enrolled))
	case by == "" || len(by) > 64:
		return fail(fmt.Errorf("%w: say who orders it, in at most 64 bytes", ErrState))
	}
	nonce := make([]byte, 16)
	rand.Read(nonce) // never fails
	command, err := reference.SignCommand(&reference.Command{
		Version: 1, Kind: reference.Renew, Device: id[:], Nonce: nonce, NotBefore: now - clockSkew, NotAfter: now + RenewLife,
	}, v.cfg.Command)
	if err != nil {
		return fail(err)
	}
	d.Renewal, d.RenewalBy = &Challenge{Nonce: nonce, At: now}, by
	if err := v.save(d); err != nil {
		return nil, err
	}
	return cose.Encode(attest.Down{Command: command})
}

// orderAgain is how long in seconds an order by age is waited for before it is given
// again: the broker may have lost it.
const orderAgain = 86400

// KeysOlder returns the devices whose key is older than age, in seconds, and that no
// order of the last day tells to renew it.
func (v *Verifier) KeysOlder(now, age int64) ([]attest.UEID, error) {
	all, err := v.store.Devices()
	if err != nil {
		return nil, fmt.Errorf("cannot look for old keys: %w", err)
	}
	var old []attest.UEID
	for _, d := range all {
		since := d.ApprovedAt
		if d.Renewed != nil {
			since = d.Renewed.At
		}
		if d.Enrolled == Approved && now-since > age && (d.Renewal == nil || now-d.Renewal.At > orderAgain) {
			old = append(old, d.UEID)
		}
	}
	return old, nil
}

// renew deals with a device's new key. The present key and the new one have signed
// for it; with a TPM the attestation key that is known certifies the new one.
func (v *Verifier) renew(now int64, m Delivery) ([]byte, error) {
	r, err := attest.OpenRenewal(m.Payload)
	if err != nil {
		return nil, refuse(enrolReason(err), "%v", err)
	}
	id := r.Device()
	if err := fromDevice(m, id); err != nil {
		return nil, err
	}
	defer v.lock(id)()
	d, err := v.store.Device(id)
	if errors.Is(err, ErrNotFound) {
		return nil, refuse(ReasonUnknown, "device %s never asked to be enrolled", id)
	}
	if err != nil {
		return nil, err
	}
	if err := approved(d); err != nil {
		return nil, err
	}
	if d.Renewed != nil && d.Key.ID() == r.KeyID() {
		if _, err := r.Verify(d.Renewed.Key); err == nil {
			return renewed(d) // it may have missed that
		}
	}
	e, err := r.Verify(d.Key)
	open := d.Renewal
	switch {
	case err != nil:
		return nil, refuse(enrolReason(err), "renewal of device %s: %v", id, err)
	case open == nil:
		return nil, refuse(ReasonNonce, "device %s renews its key, and nobody ordered it", id)
	case subtle.ConstantTimeCompare(open.Nonce, e.Secret) != 1:
		return nil, refuse(ReasonNonce, "device %s renews its key by another order than the open one", id)
	case now > open.At+RenewLife:
		return nil, refuse(ReasonNonce, "device %s renews its key %d s after the order, the limit is %d s", id, now-open.At, RenewLife)
	case e.Protection != d.Protection:
		return nil, refuse(ReasonProtection, "device %s enrolled with %q, its new key is in a %q", id, d.Protection, e.Protection)
	case e.Key.ID() == d.Key.ID():
		return nil, refuse(ReasonIdentity, "device %s renews its key by the same", id)
	case d.Identity != nil && (!bytes.Equal(e.TPM.AK, d.Identity.AK) || !bytes.Equal(e.TPM.EK, d.Identity.EK)):
		return nil, refuse(ReasonIdentity, "device %s: another TPM certifies its new key", id)
	}
	d.Renewed = &Renewed{Key: d.Key, At: now}
	d.Key, d.Identity, d.Renewal = e.Key, e.TPM, nil
	d.Renewals++
	if err := v.save(d); err != nil {
		return nil, err
	}
	return renewed(d)
}

func renewed(d *Device) ([]byte, error) {
	id := d.Key.ID()
	return cose.Encode(attest.Down{Renewed: id[:]})
}

// Former reports whether key is the one before, and still counts: no report under
// the new one has come, so the device may not know yet.
func (d *Device) Former(key cose.KeyID) bool {
	return d.Renewed != nil && d.Renewed.From == 0 && d.Renewed.Key.ID() == key
}

// keyOf returns the device's key with this id: the present one or the one before.
func (d *Device) keyOf(id cose.KeyID) *cose.PublicKey {
	if d.Renewed != nil && d.Renewed.Key.ID() == id {
		return d.Renewed.Key
	}
	return d.Key
}

// verify checks a report's signature. After a renewal the key before counts for
// what was made under it: reports below the first one under the new key.
func (d *Device) verify(now int64, u *attest.Unverified) (*attest.Verified, error) {
	key := d.keyOf(u.KeyID())
	r, err := u.Verify(key)
	if err != nil || d.Renewed == nil {
		return r, err
	}
	sequence, was := r.Report().Body.Sequence, d.Renewed
	switch {
	case key == d.Key:
		if was.From == 0 || sequence < was.From {
			was.From = sequence
		}
	case was.From != 0 && sequence >= was.From:
		return nil, fmt.Errorf("%w: %s, which %s took the place of before report %d", cose.ErrKey, key.ID(), d.Key.ID(), was.From)
	case was.From == 0 && now > was.At+lateKey:
		return nil, fmt.Errorf("%w: %s, which %s took the place of %d s ago", cose.ErrKey, key.ID(), d.Key.ID(), now-was.At)
	}
	return r, nil
}
