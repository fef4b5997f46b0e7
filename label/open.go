package label

import (
	"fmt"

	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/reference"
)

// Sign returns l as a signed document. It refuses a label that Check finds wrong.
func Sign(l *Label, key *cose.Signer) ([]byte, error) {
	if err := l.firstError(); err != nil {
		return nil, fmt.Errorf("cannot sign label: %w", err)
	}
	payload, err := cose.Encode(l)
	if err != nil {
		return nil, err
	}
	signed, err := key.Sign(cose.Label, payload)
	if err != nil {
		return nil, err
	}
	// What is signed here must open elsewhere, texts that are not UTF-8 included.
	if _, _, err := Parse(signed); err != nil {
		return nil, fmt.Errorf("cannot sign label: %w", err)
	}
	return signed, nil
}

func (l *Label) firstError() error {
	for _, p := range l.Check() {
		if !p.Warning {
			return fmt.Errorf("%w: %w", reference.ErrContent, p)
		}
	}
	return nil
}

// Parse decodes and checks the content of a signed label for display, with the
// key that it claims to be signed with. Nothing of it is verified.
func Parse(data []byte) (*Label, cose.KeyID, error) {
	u, err := cose.Parse(data, MaxSize)
	if err != nil {
		return nil, cose.KeyID{}, fmt.Errorf("cannot read label: %w", err)
	}
	if u.Type() != cose.Label {
		return nil, cose.KeyID{}, fmt.Errorf("cannot read label: %w: %s", cose.ErrType, u.Type())
	}
	l := new(Label)
	if err := cose.Decode(u.UnverifiedPayload(), MaxSize, l); err != nil {
		return nil, cose.KeyID{}, fmt.Errorf("cannot read label: %w", err)
	}
	if err := l.firstError(); err != nil {
		return nil, cose.KeyID{}, fmt.Errorf("cannot read label: %w", err)
	}
	return l, u.KeyID(), nil
}

// A Verified label was opened by a Trust. Only Open makes one.
type Verified struct {
	label  Label
	signer cose.KeyID
}

// Label returns the verified statement. The caller must not change it.
func (v *Verified) Label() *Label { return &v.label }

// Signer returns the key that signed.
func (v *Verified) Signer() cose.KeyID { return v.signer }

// Open verifies a signed label at the time now: signature, role, models and
// validity of its key, its own validity and content. It needs no network.
func Open(data []byte, trust *reference.Trust, now reference.Interval) (*Verified, error) {
	v, err := open(data, trust, now)
	if err != nil {
		return nil, fmt.Errorf("cannot open label: %w", err)
	}
	return v, nil
}

func open(data []byte, trust *reference.Trust, now reference.Interval) (*Verified, error) {
	// The key may be for certain models only, so the model is read first; what it
	// is read from is what is verified next.
	u, err := cose.Parse(data, MaxSize)
	if err != nil {
		return nil, err
	}
	v := new(Verified)
	model := ""
	if err := cose.Decode(u.UnverifiedPayload(), MaxSize, &v.label); err == nil {
		model = v.label.Model
	}
	payload, signer, err := trust.OpenLabel(data, MaxSize, model, now)
	if err != nil {
		return nil, err
	}
	v.label, v.signer = Label{}, signer
	if err := cose.Decode(payload, MaxSize, &v.label); err != nil {
		return nil, err
	}
	if err := v.label.firstError(); err != nil {
		return nil, err
	}
	l := &v.label
	if now.Earliest >= (l.Until + 1).Start() {
		return nil, fmt.Errorf("%w: the label is valid until %s, it is %s at least", reference.ErrExpired, l.Until, DayOf(now.Earliest))
	}
	if now.Latest != 0 && now.Latest < l.From.Start() {
		return nil, fmt.Errorf("%w: the label is valid from %s, it is %s at most", reference.ErrNotYet, l.From, DayOf(now.Latest))
	}
	return v, nil
}
