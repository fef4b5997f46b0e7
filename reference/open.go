package reference

import (
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/facts"
)

// A Reference is a manifest that a Trust has opened: its signature, role,
// validity, model and content were checked. Only OpenManifest makes one.
type Reference struct {
	manifest Manifest
	vocab    *facts.Vocabulary
	digest   [32]byte
	signer   cose.KeyID
}

// Manifest returns the verified statement. The caller must not change it.
func (r *Reference) Manifest() *Manifest { return &r.manifest }

// Vocabulary returns the catalogue with the manifest's application facts.
func (r *Reference) Vocabulary() *facts.Vocabulary { return r.vocab }

// Digest returns the SHA-256 of the signed bytes; it names this very edition.
func (r *Reference) Digest() [32]byte { return r.digest }

// Signer returns the key that signed.
func (r *Reference) Signer() cose.KeyID { return r.signer }

// SignManifest returns m as a signed document. It refuses a manifest that Check
// finds wrong.
func SignManifest(m *Manifest, key *cose.Signer) ([]byte, error) {
	if err := firstError(m.Check()); err != nil {
		return nil, fmt.Errorf("cannot sign manifest: %w", err)
	}
	payload, err := cose.Encode(m)
	if err != nil {
		return nil, err
	}
	if len(payload) > MaxManifestSize-512 {
		return nil, fmt.Errorf("cannot sign manifest: %d bytes, the limit is %d", len(payload), MaxManifestSize-512)
	}
	// What is signed here must open on a device, texts that are not UTF-8 included.
	if err := cose.Decode(payload, MaxManifestSize, new(Manifest)); err != nil {
		return nil, fmt.Errorf("cannot sign manifest: %w", err)
	}
	return key.Sign(cose.Manifest, payload)
}

func firstError(ps []Problem) error {
	for _, p := range ps {
		if !p.Warning {
			return fmt.Errorf("%w: %w", ErrContent, p)
		}
	}
	return nil
}

// Want is what a manifest is opened for. An empty Vendor or Model accepts any,
// as a workbench does; a device names both.
type Want struct {
	Vendor, Model string
	AgentVersion  string // "" accepts any
	Floor         uint64 // the highest sequence seen; a lower one is a rollback
}

// OpenManifest verifies a signed manifest for w at the time now.
func (t *Trust) OpenManifest(data []byte, w Want, now Interval) (*Reference, error) {
	r, err := t.openManifest(data, w, now)
	if err != nil {
		return nil, fmt.Errorf("cannot open manifest: %w", err)
	}
	return r, nil
}

func (t *Trust) openManifest(data []byte, w Want, now Interval) (*Reference, error) {
	payload, signer, err := t.open(data, MaxManifestSize, cose.Manifest, RoleManifest, w.Model, now)
	if err != nil {
		return nil, err
	}
	r := &Reference{digest: sha256.Sum256(data), signer: signer}
	m := &r.manifest
	if err := cose.Decode(payload, MaxManifestSize, m); err != nil {
		return nil, err
	}
	if err := firstError(m.Check()); err != nil {
		return nil, err
	}
	if w.Vendor != "" && m.Vendor != w.Vendor || w.Model != "" && m.Model != w.Model {
		return nil, fmt.Errorf("%w: %s %s, this is %s %s", ErrModel, m.Vendor, m.Model, w.Vendor, w.Model)
	}
	// The key's restriction to models holds for the model the manifest names,
	// whatever the caller asked for.
	if _, err := t.key(signer, RoleManifest, m.Model, now); err != nil {
		return nil, err
	}
	if m.Sequence < w.Floor {
		return nil, fmt.Errorf("%w: %d, have seen %d", ErrRollback, m.Sequence, w.Floor)
	}
	if err := now.within(m.NotBefore, m.NotAfter); err != nil {
		return nil, err
	}
	if w.AgentVersion != "" && m.MinAgent != "" {
		ok, err := agentNewEnough(w.AgentVersion, m.MinAgent)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, fmt.Errorf("%w: wants %s, this is %s", ErrAgent, m.MinAgent, w.AgentVersion)
		}
	}
	if r.vocab, err = m.Vocabulary(); err != nil {
		return nil, err
	}
	return r, nil
}

// OpenLabel verifies the signature of a facts label by a key that may sign labels
// of the model at the time now, and returns its payload, of which nothing else
// was checked, and the key. Package label knows what a label says.
func (t *Trust) OpenLabel(data []byte, limit int, model string, now Interval) ([]byte, cose.KeyID, error) {
	return t.open(data, limit, cose.Label, RoleLabel, model, now)
}

// MaxCommandSize bounds a signed command in bytes.
const MaxCommandSize = 1024

// A Kind is what a command orders.
type Kind uint8

// The kinds of commands.
const (
	Resume      Kind = 1 // end this pause of this device
	Challenge   Kind = 2 // report with a quote over this nonce
	Maintenance Kind = 3 // begin or end maintenance
	Epoch       Kind = 4 // to all devices: from now on reports carry this nonce (RFC 9334 section 10.3)
	Renew       Kind = 5 // make a new device key and have it take the place of the present one
)

func (k Kind) String() string {
	return name([]string{"", "resume", "challenge", "maintenance", "epoch", "renewal"}, int(k), "command")
}

// role returns whose key gives a command. Maintenance takes a pause away before it
// comes, so it takes who may end one.
func (k Kind) role() Role {
	if k == Resume || k == Maintenance {
		return RoleResume
	}
	return RoleCommand
}

// MaxMaintenance is the longest maintenance in seconds.
const MaxMaintenance = 86400

// A Command is an operator's order to one device, or an epoch for all of them. It
// counts in its time, once.
type Command struct {
	Version   uint   `cbor:"1,keyasint"`           // of this format: 1
	Kind      Kind   `cbor:"2,keyasint"`           //
	Device    []byte `cbor:"3,keyasint,omitempty"` // UEID of the one device, 17 bytes; missing in an epoch
	Pause     []byte `cbor:"4,keyasint,omitempty"` // Resume: id of the one pause, 16 bytes
	Nonce     []byte `cbor:"5,keyasint"`           // 16 random bytes; a device takes a command with it once
	NotBefore int64  `cbor:"6,keyasint"`           // Unix seconds
	NotAfter  int64  `cbor:"7,keyasint"`           // Unix seconds, the last one of validity
	Lasts     uint32 `cbor:"8,keyasint,omitempty"` // Maintenance: s from when the device takes it, 1 to MaxMaintenance
	End       bool   `cbor:"9,keyasint,omitempty"` // Maintenance: end it, instead of Lasts
}

func (c *Command) check() error {
	pause, device := 0, 17
	switch c.Kind {
	case Resume:
		pause = 16
	case Epoch:
		device = 0
	}
	switch {
	case c.Version != 1:
		return fmt.Errorf("%w: command version %d is not 1", ErrContent, c.Version)
	case c.Kind < Resume || c.Kind > Renew:
		return fmt.Errorf("%w: unknown command %d", ErrContent, c.Kind)
	case len(c.Device) != device:
		return fmt.Errorf("%w: %s with a device id of %d bytes, want %d", ErrContent, c.Kind, len(c.Device), device)
	case len(c.Pause) != pause:
		return fmt.Errorf("%w: %s with a pause id of %d bytes, want %d", ErrContent, c.Kind, len(c.Pause), pause)
	case (c.Kind == Maintenance) != ((c.Lasts != 0) != c.End) || c.Kind != Maintenance && c.End:
		return fmt.Errorf("%w: %s that lasts %d s, end %v", ErrContent, c.Kind, c.Lasts, c.End)
	case c.Lasts > MaxMaintenance:
		return fmt.Errorf("%w: maintenance of %d s, the limit is %d s", ErrContent, c.Lasts, MaxMaintenance)
	case len(c.Nonce) != 16:
		return fmt.Errorf("%w: nonce of %d bytes, want 16", ErrContent, len(c.Nonce))
	case c.NotAfter <= c.NotBefore:
		return fmt.Errorf("%w: validity from %d until %d is empty", ErrContent, c.NotBefore, c.NotAfter)
	}
	return nil
}

// SignCommand returns c as a signed document.
func SignCommand(c *Command, key *cose.Signer) ([]byte, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("cannot sign command: %w", err)
	}
	payload, err := cose.Encode(c)
	if err != nil {
		return nil, err
	}
	return key.Sign(cose.Command, payload)
}

// UnverifiedKind returns the kind that a signed command claims to be, 0 when it
// is none, to choose who opens it.
func UnverifiedKind(data []byte) Kind {
	u, err := cose.Parse(data, MaxCommandSize)
	if err != nil || u.Type() != cose.Command {
		return 0
	}
	var c Command
	if cose.Decode(u.UnverifiedPayload(), MaxCommandSize, &c) != nil || c.check() != nil {
		return 0
	}
	return c.Kind
}

// An Order is a command that a Trust has opened for one device. Only
// OpenCommand makes one. Whether it was given before, and whether its pause is
// the present one, is for its receiver to check.
type Order struct {
	command Command
	signer  cose.KeyID
}

// Command returns the verified command. The caller must not change it.
func (o *Order) Command() *Command { return &o.command }

// Signer returns the key that signed.
func (o *Order) Signer() cose.KeyID { return o.signer }

// ErrDevice says that a command is for another device.
var ErrDevice = errors.New("made for another device")

// OpenCommand verifies a signed command of kind for the device with this UEID
// and model at the time now. An epoch is for no device: nil.
func (t *Trust) OpenCommand(data []byte, kind Kind, device []byte, model string, now Interval) (*Order, error) {
	o, err := t.openCommand(data, kind, device, model, now)
	if err != nil {
		return nil, fmt.Errorf("cannot accept %s: %w", kind, err)
	}
	return o, nil
}

func (t *Trust) openCommand(data []byte, kind Kind, device []byte, model string, now Interval) (*Order, error) {
	payload, signer, err := t.open(data, MaxCommandSize, cose.Command, kind.role(), model, now)
	if err != nil {
		return nil, err
	}
	o := &Order{signer: signer}
	if err := cose.Decode(payload, MaxCommandSize, &o.command); err != nil {
		return nil, err
	}
	c := &o.command
	if err := c.check(); err != nil {
		return nil, err
	}
	if c.Kind != kind {
		return nil, fmt.Errorf("%w: it is a %s", ErrContent, c.Kind)
	}
	if string(c.Device) != string(device) {
		return nil, fmt.Errorf("%w: %x, this is %x", ErrDevice, c.Device, device)
	}
	if err := now.within(c.NotBefore, c.NotAfter); err != nil {
		return nil, err
	}
	return o, nil
}
