// Package cmw wraps messages of ours as conceptual messages (CMW, RFC 9999), so
// that a protocol that carries such needs to know nothing of them: what it is as
// media type or content format, its bytes, and whether it is evidence, a result
// or reference values.
//
// It proves nothing: what is inside has its own signature. Records in CBOR only; no
// collections, no JSON, no CBOR tags.
package cmw

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"

	"github.com/miotfacts/miotfacts/attest/cose"
)

// MediaType is that of what Wrap returns.
const MediaType = "application/cmw+cbor"

// EAT is the CoAP content format of application/eat+cwt (RFC 9782): our reports,
// and our results, which are EAT with the profile of EAR.
const EAT = 263

// Evidence is the media type of a bundle (docs/evidence.cddl). It is not registered.
const Evidence = "application/vnd.miotfacts.evidence+cbor"

// A Kind says what conceptual message it is, as a bit (cm-type).
type Kind uint

// The kinds.
const (
	ReferenceValues   Kind = 1 << 0
	Endorsements      Kind = 1 << 1
	EvidenceKind      Kind = 1 << 2
	AttestationResult Kind = 1 << 3
	AppraisalPolicy   Kind = 1 << 4
)

const maxKind = 1<<5 - 1

// A Record is one conceptual message.
type Record struct {
	Type   string // media type; empty where Format says it
	Format uint16 // CoAP content format; 0 where Type says it
	Value  []byte // the message
	Kind   Kind   // 0: it does not say
}

// String is the record's type: "type text/plain", "content format 263".
func (r Record) String() string {
	if r.Type != "" {
		return "type " + r.Type
	}
	return fmt.Sprintf("content format %d", r.Format)
}

// Wrap returns the record in CBOR.
func Wrap(r Record) ([]byte, error) {
	list := []any{r.Type, r.Value}
	if r.Type == "" {
		list[0] = r.Format
	}
	if r.Kind != 0 {
		list = append(list, uint(r.Kind))
	}
	data, err := cose.Encode(list)
	if err != nil {
		return nil, fmt.Errorf("cannot wrap message: %w", err)
	}
	return data, nil
}

// Is says whether data begin as a record does, and as no message of ours does.
func Is(data []byte) bool { return len(data) > 0 && (data[0] == 0x82 || data[0] == 0x83) }

// Unwrap reads a record of at most limit bytes.
func Unwrap(data []byte, limit int) (Record, error) {
	r, err := unwrap(data, limit)
	if err != nil {
		return Record{}, fmt.Errorf("cannot read conceptual message: %w", err)
	}
	return r, nil
}

func unwrap(data []byte, limit int) (Record, error) {
	var r Record
	var list []cbor.RawMessage
	if !Is(data) {
		return r, errors.New("it is no record of type, value and kind")
	}
	if err := cose.Decode(data, limit, &list); err != nil {
		return r, err
	}
	if err := cbor.Unmarshal(list[0], &r.Type); err != nil || r.Type == "" {
		r.Type = ""
		if err := cbor.Unmarshal(list[0], &r.Format); err != nil {
			return r, errors.New("its type is neither a media type nor a content format")
		}
	}
	if err := cbor.Unmarshal(list[1], &r.Value); err != nil || len(r.Value) == 0 {
		return r, errors.New("it has no value")
	}
	if len(list) == 3 {
		if err := cbor.Unmarshal(list[2], &r.Kind); err != nil || r.Kind == 0 || r.Kind > maxKind {
			return r, errors.New("its kind is none of five bits")
		}
	}
	// The parts were read as they stood: there is one encoding of a record.
	if again, err := Wrap(r); err != nil || !bytes.Equal(again, data) {
		return r, cose.ErrNotDeterministic
	}
	return r, nil
}
