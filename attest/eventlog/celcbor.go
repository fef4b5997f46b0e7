package eventlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/fxamacker/cbor/v2"
)

// Keys of a record in CBOR (CEL 1.1, section 5.2): those of the other encodings,
// and two for its content.
type cborRecord struct {
	Number  *uint64         `cbor:"0,keyasint"`
	PCR     *uint32         `cbor:"1,keyasint"`
	NVIndex *uint32         `cbor:"2,keyasint"`
	Digests []cborDigest    `cbor:"3,keyasint"`
	Kind    *uint64         `cbor:"9,keyasint"`
	Content cbor.RawMessage `cbor:"10,keyasint"`
}

type cborDigest struct {
	Bank  *Bank  `cbor:"0,keyasint"`
	Value []byte `cbor:"1,keyasint"`
}

// cborMode refuses what two readers can read as two things.
var cborMode = func() cbor.DecMode {
	mode, err := cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField, MaxNestedLevels: maxDepth, UTF8: cbor.UTF8RejectInvalid,
	}.DecMode()
	if err != nil {
		panic("eventlog: internal error: " + err.Error())
	}
	return mode
}()

// majors of the first byte of an item (RFC 8949, 3.1).
const (
	majorArray = 4
	majorMap   = 5
)

// cborArray reads the head of an array of a stated length.
func cborArray(data []byte) (n uint64, rest []byte, ok bool) {
	if len(data) == 0 || data[0]>>5 != majorArray {
		return 0, nil, false
	}
	info, rest := data[0]&31, data[1:]
	if info < 24 {
		return uint64(info), rest, true
	}
	size := 1 << (info - 24)
	if info > 27 || len(rest) < size {
		return 0, nil, false
	}
	var b [8]byte
	copy(b[8-size:], rest)
	return binary.BigEndian.Uint64(b[:]), rest[size:], true
}

// isCBOR says whether data are a record or begin a list of them: a map whose first
// key is the record number's. No log of a firmware begins with such a byte, which
// would be PCR 128 or above.
func isCBOR(data []byte) bool {
	if _, rest, ok := cborArray(data); ok {
		data = rest
	}
	return len(data) > 1 && data[0]>>5 == majorMap && data[1] == celNumber
}

// parseCBOR reads a list of records, or records one behind the other (RFC 8742),
// as a log that grows is written.
func (l *Log) parseCBOR(data []byte) error {
	l.Format = CEL
	numbers := map[int]uint64{} // the last record number by PCR
	n, rest, isList := cborArray(data)
	if !isList {
		rest = data
	}
	for i := uint64(0); isList && i < n || !isList && len(rest) > 0; i++ {
		offset := len(data) - len(rest)
		after, err := l.addCBOR(rest, offset, numbers)
		if err != nil {
			return fmt.Errorf("record %d at offset %d: %w", len(l.Events), offset, noEOF(err))
		}
		rest = after
	}
	if len(rest) > 0 {
		return fmt.Errorf("%d bytes after the list of %d records", len(rest), n)
	}
	return nil
}

// addCBOR takes the first record and returns what is behind it.
func (l *Log) addCBOR(data []byte, offset int, numbers map[int]uint64) (rest []byte, err error) {
	if len(l.Events) == maxEvents {
		return nil, fmt.Errorf("more than %d records", maxEvents)
	}
	var r cborRecord
	if rest, err = cborMode.UnmarshalFirst(data, &r); err != nil {
		return nil, err
	}
	e := Event{Offset: offset, PCR: NoPCR}
	switch {
	case r.Number == nil:
		return nil, errors.New("no record number")
	case (r.PCR == nil) == (r.NVIndex == nil):
		return nil, errors.New("want a PCR or an NV index")
	case r.Kind == nil || r.Content == nil:
		return nil, errors.New("no content")
	case r.PCR != nil && *r.PCR > maxPCR:
		return nil, fmt.Errorf("PCR %d, the highest is %d", *r.PCR, maxPCR)
	case r.PCR != nil:
		e.PCR = int(*r.PCR)
	}
	if last, ok := numbers[e.PCR]; ok && *r.Number <= last {
		return nil, fmt.Errorf("record number %d after %d", *r.Number, last)
	}
	numbers[e.PCR] = *r.Number
	for _, d := range r.Digests {
		switch {
		case d.Bank == nil:
			return nil, errors.New("digest of no bank")
		case len(d.Value) == 0 || len(d.Value) > 64 || d.Bank.Replayable() && len(d.Value) != banks[d.Bank.index()].size:
			return nil, fmt.Errorf("digest of %d bytes in bank %v", len(d.Value), *d.Bank)
		case e.Digest(*d.Bank) != nil:
			return nil, fmt.Errorf("two digests in bank %v", *d.Bank)
		}
		e.Digests = append(e.Digests, Digest{*d.Bank, d.Value})
		if !slices.Contains(l.Banks, *d.Bank) {
			l.Banks = append(l.Banks, *d.Bank)
		}
	}
	if err := e.readCBORContent(*r.Kind, r.Content); err != nil {
		return nil, err
	}
	switch {
	case len(e.Data) > maxData:
		return nil, fmt.Errorf("data of %d bytes, the limit is %d", len(e.Data), maxData)
	case len(e.Digests) == 0 && e.extends():
		return nil, errors.New("no digests")
	}
	l.Events = append(l.Events, e)
	return rest, nil
}

// readCBORContent takes over what a record says beyond its digests. Contents that
// are not known here stay as they are.
func (e *Event) readCBORContent(kind uint64, content cbor.RawMessage) error {
	if kind <= celDigests {
		return fmt.Errorf("content of type %d, which is another field's", kind)
	}
	e.Kind, e.Data = fmt.Sprintf("content %d", kind), content
	if name := celContents[byte(kind)]; name != "" && kind <= 0xff {
		e.Kind = name
	}
	switch e.Kind {
	case "pcclient_std":
		var c struct {
			Type cbor.RawMessage `cbor:"0,keyasint"`
			Data []byte          `cbor:"1,keyasint"`
		}
		if err := cborMode.Unmarshal(content, &c); err != nil {
			return fmt.Errorf("content: %w", err)
		}
		var name string
		known := c.Type != nil && c.Data != nil
		if known && cborMode.Unmarshal(c.Type, (*uint32)(&e.Type)) != nil {
			if known = cborMode.Unmarshal(c.Type, &name) == nil; known {
				e.Type, known = typeNamed(name)
			}
		}
		if !known {
			return fmt.Errorf("content is no event type and data")
		}
		e.Data = c.Data
	case "ima_template": // the digest is over the template's data
		var c struct {
			Name *string `cbor:"0,keyasint"`
			Data []byte  `cbor:"1,keyasint"`
		}
		if err := cborMode.Unmarshal(content, &c); err != nil || c.Name == nil || c.Data == nil {
			return errors.Join(errors.New("content is no template and its data"), err)
		}
		e.Data = c.Data
	case "ima_tlv", "systemd":
		if err := cborMode.Unmarshal(content, &e.Data); err != nil {
			return fmt.Errorf("content: %w", err)
		}
	}
	return nil
}
