package facts

import (
	"fmt"
	"unicode/utf8"

	"github.com/fxamacker/cbor/v2"
)

// Values go into signed documents, so their encoding is the core deterministic
// one (RFC 8949 section 4.2.1): shortest integers, definite lengths.

func checkText(s string) error {
	if len(s) > MaxText {
		return fmt.Errorf("text has %d bytes, the limit is %d", len(s), MaxText)
	}
	if !utf8.ValidString(s) {
		return fmt.Errorf("text is not valid UTF-8")
	}
	return nil
}

// MarshalCBOR encodes the value: an integer, a boolean, a text, a byte string,
// or an array of texts. It fails for the zero Value and beyond the limits.
func (v Value) MarshalCBOR() ([]byte, error) {
	if err := v.Check(); err != nil {
		return nil, fmt.Errorf("cannot encode value: %w", err)
	}
	switch v.kind {
	case Int:
		return cbor.Marshal(v.num)
	case Bool:
		return cbor.Marshal(v.num != 0)
	case Text:
		return cbor.Marshal(v.text)
	case Bytes:
		return cbor.Marshal(v.raw)
	default:
		if v.set == nil {
			return cbor.Marshal([]string{})
		}
		return cbor.Marshal(v.set)
	}
}

// UnmarshalCBOR decodes what MarshalCBOR encodes and refuses all else.
func (v *Value) UnmarshalCBOR(data []byte) error {
	if len(data) == 0 {
		return fmt.Errorf("cannot decode value: empty")
	}
	var w Value
	var err error
	switch major := data[0] >> 5; {
	case major == 0 || major == 1:
		w.kind = Int
		err = cbor.Unmarshal(data, &w.num)
	case major == 2:
		w.kind = Bytes
		err = cbor.Unmarshal(data, &w.raw)
	case major == 3:
		w.kind = Text
		err = cbor.Unmarshal(data, &w.text)
	case major == 4:
		w.kind = Set
		err = cbor.Unmarshal(data, &w.set)
	case data[0] == 0xf4 || data[0] == 0xf5:
		w = BoolValue(data[0] == 0xf5)
	default:
		return fmt.Errorf("cannot decode value: initial byte 0x%02x is none of integer, boolean, text, bytes, array", data[0])
	}
	if err != nil {
		return fmt.Errorf("cannot decode value: %w", err)
	}
	if err := w.Check(); err != nil {
		return fmt.Errorf("cannot decode value: %w", err)
	}
	*v = w
	return nil
}
