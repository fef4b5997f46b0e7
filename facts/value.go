package facts

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Kind is the type of a value. There are no floats: a quantity is an integer
// in the fixed unit of its fact.
type Kind uint8

// The kinds of a value. The numbers are not on the wire; a value's CBOR major
// type tells its kind.
const (
	Int   Kind = 1 + iota // int64 in the fact's unit
	Bool                  // true or false
	Text                  // UTF-8, at most MaxText bytes
	Bytes                 // a digest or identifier, at most MaxBytes
	Set                   // distinct texts in ascending byte order
)

// Limits of one value. They bound what a hostile or broken source can put
// into a report, and what a report can put into a verifier.
const (
	MaxText  = 4096 // the longest kernel command line of the supported architectures is 4096
	MaxBytes = 64   // SHA-512
	MaxSet   = 512  // members; a gateway has some tens of listening sockets and units
)

func (k Kind) String() string {
	switch k {
	case Int:
		return "int"
	case Bool:
		return "bool"
	case Text:
		return "text"
	case Bytes:
		return "bytes"
	case Set:
		return "set"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// A Value is one measured or expected value. The zero Value has no kind and
// equals nothing, not even itself, so that a value that was never set cannot
// pass a comparison.
type Value struct {
	kind Kind
	num  int64 // Int; Bool as 0 or 1
	text string
	raw  []byte
	set  []string
}

// IntValue returns n as a value in the unit of its fact.
func IntValue(n int64) Value { return Value{kind: Int, num: n} }

// BoolValue returns b as a value.
func BoolValue(b bool) Value {
	v := Value{kind: Bool}
	if b {
		v.num = 1
	}
	return v
}

// TextValue returns s as a value; it must be valid UTF-8 of at most MaxText bytes.
func TextValue(s string) Value { return Value{kind: Text, text: s} }

// BytesValue returns b as a value; it keeps b.
func BytesValue(b []byte) Value { return Value{kind: Bytes, raw: b} }

// SetValue returns members as a set: sorted, without duplicates. It keeps and
// reorders members.
func SetValue(members []string) Value {
	slices.Sort(members)
	return Value{kind: Set, set: slices.Compact(members)}
}

// Kind returns the value's kind, 0 for the zero Value.
func (v Value) Kind() Kind { return v.kind }

// Int returns the number of an Int value, 0 for another kind.
func (v Value) Int() int64 {
	if v.kind != Int {
		return 0
	}
	return v.num
}

// Bool returns the truth of a Bool value, false for another kind.
func (v Value) Bool() bool { return v.kind == Bool && v.num != 0 }

// Text returns the text of a Text value, "" for another kind.
func (v Value) Text() string { return v.text }

// Bytes returns the bytes of a Bytes value, nil for another kind. The caller
// must not change them.
func (v Value) Bytes() []byte { return v.raw }

// Set returns the members of a Set value in ascending order, nil for another
// kind. The caller must not change them.
func (v Value) Set() []string { return v.set }

// Clone returns a value that shares no memory with v.
func (v Value) Clone() Value {
	v.raw, v.set = bytes.Clone(v.raw), slices.Clone(v.set)
	return v
}

// Equal reports whether both values have a kind and the same kind and content.
func (v Value) Equal(w Value) bool {
	if v.kind == 0 || v.kind != w.kind {
		return false
	}
	switch v.kind {
	case Int, Bool:
		return v.num == w.num
	case Text:
		return v.text == w.text
	case Bytes:
		return bytes.Equal(v.raw, w.raw)
	default:
		return slices.Equal(v.set, w.set)
	}
}

// String returns the value as people read it, without its unit.
func (v Value) String() string {
	switch v.kind {
	case Int:
		return strconv.FormatInt(v.num, 10)
	case Bool:
		return strconv.FormatBool(v.num != 0)
	case Text:
		return strconv.Quote(v.text)
	case Bytes:
		return hex.EncodeToString(v.raw)
	case Set:
		return "{" + strings.Join(v.set, ", ") + "}"
	}
	return "no value"
}

// Check refuses what must not enter a signed document: no kind, beyond the
// limits, text that is not UTF-8, a set out of order.
func (v Value) Check() error {
	switch v.kind {
	case Int, Bool:
		return nil
	case Text:
		return checkText(v.text)
	case Bytes:
		if len(v.raw) > MaxBytes {
			return fmt.Errorf("byte value has %d bytes, the limit is %d", len(v.raw), MaxBytes)
		}
		return nil
	case Set:
		if len(v.set) > MaxSet {
			return fmt.Errorf("set has %d members, the limit is %d", len(v.set), MaxSet)
		}
		for i, m := range v.set {
			if err := checkText(m); err != nil {
				return fmt.Errorf("set member %d: %w", i, err)
			}
			if i > 0 && v.set[i-1] >= m {
				return fmt.Errorf("set member %d %q does not follow %q in ascending order", i, m, v.set[i-1])
			}
		}
		return nil
	}
	return fmt.Errorf("value has no kind")
}
