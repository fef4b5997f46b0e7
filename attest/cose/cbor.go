package cose

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"
)

// Limits of every decoded document. They bound the work and memory that bytes
// from a stranger can cause before a signature is checked.
const (
	maxNested = 12   // the deepest document of ours, a manifest's rule value, nests 7
	maxItems  = 4096 // IMA deltas and rules stay below 1,024
)

// The one encoding and decoding mode: core deterministic encoding (RFC 8949
// section 4.2.1), no indefinite lengths, no duplicate or unknown keys. Both are
// immutable; making them anew for each document would cost more than decoding.
var encMode, decMode = modes()

func modes() (cbor.EncMode, cbor.DecMode) {
	options := cbor.CoreDetEncOptions()
	options.NilContainers = cbor.NilContainerAsEmpty // no null, so that nothing has two encodings
	enc, err := options.EncMode()
	if err != nil {
		panic("cose: internal error: " + err.Error())
	}
	dec, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		MaxNestedLevels:   maxNested,
		MaxArrayElements:  maxItems,
		MaxMapPairs:       maxItems,
		UTF8:              cbor.UTF8RejectInvalid,
	}.DecMode()
	if err != nil {
		panic("cose: internal error: " + err.Error())
	}
	return enc, dec
}

// Encode returns the core deterministic encoding of v. Floats must not occur in
// v's type.
func Encode(v any) ([]byte, error) {
	data, err := encMode.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("cannot encode: %w", err)
	}
	return data, nil
}

// ErrNotDeterministic says that bytes decode, but are not the one encoding of
// what they mean. Accepting them would let one document have two digests.
var ErrNotDeterministic = errors.New("encoding is not the core deterministic one")

// Decode decodes data into the pointer v strictly: at most limit bytes, every
// key known, nothing trailing, and the encoding must be exactly what Encode
// gives for the result. On an error v holds nothing to be used.
func Decode(data []byte, limit int, v any) error {
	if len(data) > limit {
		return fmt.Errorf("cannot decode: %d bytes, the limit is %d", len(data), limit)
	}
	if err := decMode.Unmarshal(data, v); err != nil {
		return fmt.Errorf("cannot decode: %w", err)
	}
	again, err := Encode(v)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, data) {
		return fmt.Errorf("cannot decode: %w", ErrNotDeterministic)
	}
	return nil
}
