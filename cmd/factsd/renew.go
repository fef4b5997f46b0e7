package main

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/miotfacts/miotfacts/agent/durable"
	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
)

// maxKeyState bounds the file in bytes.
const maxKeyState = 4 << 10

// A keyState is which device key counts, and a renewal that was begun. It is written
// whole or not at all, so that the device has one key at any moment: the present one
// until the verifier has taken the next.
type keyState struct {
	Generation uint64 `cbor:"1,keyasint,omitempty"` // of the key in the TPM
	Key        []byte `cbor:"2,keyasint,omitempty"` // as in key.file, in place of it
	Order      []byte `cbor:"3,keyasint,omitempty"` // nonce of the order that is being followed
	Next       []byte `cbor:"4,keyasint,omitempty"` // the next key, as in key.file; missing with a TPM
	Done       []byte `cbor:"5,keyasint,omitempty"` // nonce of the last order that was followed

	path string
	tpm  bool
}

func readKeyState(c *config) (*keyState, error) {
	s := &keyState{path: filepath.Join(c.stateOf("run"), "key"), tpm: c.Key.TPM != ""}
	data, err := durable.Read(s.path, maxKeyState)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = cose.Decode(data, maxKeyState, s)
	}
	if err != nil {
		return nil, fail(exitNeeds, "restore the file, or remove it, revoke the device and approve it again", fmt.Errorf("cannot tell which device key counts: %w", err))
	}
	return s, nil
}

func (s *keyState) write(next keyState) error {
	data, err := cose.Encode(&next)
	if err != nil {
		return err
	}
	if err := durable.Write(s.path, data, 0o600); err != nil {
		return err
	}
	next.path, next.tpm = s.path, s.tpm
	*s = next
	return nil
}

// Renew begins a renewal; the next key is used from the next start on.
func (s *keyState) Renew(nonce []byte) (bool, error) {
	if bytes.Equal(nonce, s.Order) || bytes.Equal(nonce, s.Done) {
		return false, nil
	}
	next := *s
	next.Order = nonce
	if !s.tpm {
		var err error
		if next.Next, err = newKey(); err != nil {
			return false, err
		}
	}
	return true, s.write(next)
}

// Renewed takes over the next key.
func (s *keyState) Renewed() error {
	next := keyState{Generation: s.Generation, Key: s.Next, Done: s.Order}
	if s.tpm {
		next.Generation++
	}
	return s.write(next)
}

// request returns the enrolment with the next key that the order asks for, signed by
// it, and the key; nil without an order. With a TPM nothing else here may have it
// open: one without a resource manager serves one at a time.
func (s *keyState) request(c *config, ueid attest.UEID) ([]byte, cose.KeyID, error) {
	if s.Order == nil {
		return nil, cose.KeyID{}, nil
	}
	e := &attest.Enrolment{
		Version: 1, UEID: ueid[:], Vendor: c.Device.Vendor, Model: c.Device.Model, Serial: c.Device.Serial,
		Protection: attest.ProtectionFile, Secret: s.Order,
	}
	var key crypto.Signer
	if s.tpm {
		t, err := openTPM(c, s.Generation+1)
		if err != nil {
			return nil, cose.KeyID{}, err
		}
		defer t.Close()
		id, err := t.Provision()
		if err != nil {
			return nil, cose.KeyID{}, err
		}
		key, e.TPM, e.Protection = t.Signer(), attest.IdentityOf(id), attest.ProtectionTPM
	} else {
		var err error
		if key, err = cose.ParsePrivateKey(s.Next); err != nil {
			return nil, cose.KeyID{}, err
		}
	}
	signer, err := cose.NewSigner(key)
	if err != nil {
		return nil, cose.KeyID{}, err
	}
	e.Key = signer.Public()
	request, err := attest.SealEnrolment(e, signer)
	return request, signer.Public().ID(), err
}
