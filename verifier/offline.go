package verifier

import (
	"errors"
	"fmt"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
)

// Evidence returns what a device has shown of its present boot as a bundle, for
// checking elsewhere. ErrNotFound: no boot report or answer to a challenge came.
func (v *Verifier) Evidence(id attest.UEID) ([]byte, error) {
	defer v.lock(id)()
	d, err := v.store.Device(id)
	if err != nil {
		return nil, err
	}
	if d.Boot == nil {
		return nil, fmt.Errorf("evidence of device %s: %w", id, ErrNotFound)
	}
	b := attest.Bundle{Version: 1}
	if b.Message, err = v.store.BootReport(id, d.Chain, [16]byte(d.Boot.Seed), 0); err != nil {
		return nil, err
	}
	u, err := attest.Decode(b.Message)
	if err != nil {
		return nil, err
	}
	b.Key = d.keyOf(u.KeyID())
	if d.Identity != nil {
		b.AK = d.Identity.AK
		l := &logs{store: v.store, device: d, seed: [16]byte(d.Boot.Seed)}
		for log, s := range d.Boot.Logs {
			if s.Bytes == 0 {
				continue
			}
			if b.Logs == nil {
				b.Logs = map[attest.Log][]byte{}
			}
			if b.Logs[log], err = l.bytes(log, 0); err != nil {
				return nil, err
			}
		}
	}
	return cose.Encode(b)
}

// Offline is what was made of a bundle.
type Offline struct {
	Device *Device // as it would stand in the fleet
	Record *Record // nil when the message was refused
	Reply  Reply
}

// CheckBundle appraises a bundle by a policy, as a message that comes at now from
// a device that was approved with the bundle's keys: whether these are the
// device's is for the caller to know. What needs memory of a device is not told:
// freshness, the chain, clocks that went back.
func CheckBundle(cfg Config, now int64, b *attest.Bundle) (*Offline, error) {
	u, err := attest.Decode(b.Message)
	if err != nil {
		return nil, fmt.Errorf("cannot check bundle: %w", err)
	}
	r := u.Unverified()
	d := &Device{
		UEID: attest.UEID(r.UEID), Key: b.Key, Protection: attest.ProtectionFile, Enrolled: Approved, Chain: 1,
		EKProblem: "the bundle does not say", Boot: &Boot{Seed: r.BootSeed},
	}
	if b.AK != nil {
		d.Protection, d.Identity = attest.ProtectionTPM, &attest.Identity{AK: b.AK}
	}
	s := &bundleStore{device: d, logs: b.Logs}
	switch {
	case r.Body.Kind == attest.KindChallenge:
		d.Challenge = &Challenge{Nonce: r.Nonce, At: now}
	case len(r.Nonce) == len(Epoch{}.Nonce): // whose it is is not known here
		s.epochs = []Epoch{{Nonce: [16]byte(r.Nonce)}}
	}
	for _, ref := range cfg.References {
		d.Vendor, d.Model = ref.Manifest().Vendor, ref.Manifest().Model
	}
	for log, data := range b.Logs {
		*d.Boot.log(log) = LogState{Bytes: uint64(len(data))}
	}
	v, err := New(cfg, s)
	if err != nil {
		return nil, err
	}
	out := new(Offline)
	if out.Reply, err = v.Handle(now, Delivery{Device: d.UEID.String(), Kind: "evidence", Payload: b.Message}); err != nil {
		return nil, err
	}
	out.Device, out.Record = s.device, s.record
	return out, nil
}

// A bundleStore knows one device and one bundle.
type bundleStore struct {
	device *Device
	logs   map[attest.Log][]byte
	epochs []Epoch
	record *Record
}

func (s *bundleStore) Device(id attest.UEID) (*Device, error) {
	if id != s.device.UEID {
		return nil, ErrNotFound
	}
	return s.device, nil
}

func (s *bundleStore) Devices() ([]Device, error) { return []Device{*s.device}, nil }
func (s *bundleStore) Save(*Device) error         { return errors.New("a bundle cannot be changed") }
func (s *bundleStore) Refuse(*Refused) error      { return nil }
func (s *bundleStore) Epochs() ([]Epoch, error)   { return s.epochs, nil }

func (s *bundleStore) AddEpoch(Epoch, int64) error {
	return errors.New("a bundle has no epochs of its own")
}

func (s *bundleStore) Neighbours(attest.UEID, uint64, uint64, [32]byte) (Neighbours, error) {
	return Neighbours{}, nil
}

func (s *bundleStore) BootReport(attest.UEID, uint64, [16]byte, uint64) ([]byte, error) {
	return nil, ErrNotFound
}

func (s *bundleStore) Log(_ attest.UEID, _ uint64, _ [16]byte, log attest.Log, from uint64) ([]attest.Part, error) {
	var parts []attest.Part
	data := s.logs[log]
	for at := from; at < uint64(len(data)); {
		p, err := attest.Pack(log, at, data[at:], false, 2*attest.MaxPart)
		if err != nil {
			return nil, err
		}
		parts = append(parts, p)
		at += uint64(p.Size)
	}
	return parts, nil
}

func (s *bundleStore) Accept(d *Device, r *Record) error {
	s.device, s.record = d, r
	return nil
}
