package eventlog

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// What a record of the Canonical Event Log has in its encoding as type, length,
// value (CEL 1.0, section 5.1 and table 1). 80 and above are for what writes it.
const (
	celNumber   = 0
	celPCR      = 1
	celNVIndex  = 2
	celDigests  = 3
	celRegister = 108 // of a confidential machine, numbered as its firmware's log numbers them
)

var celContents = map[byte]string{4: "cel", 5: "pcclient_std", 7: "ima_template", 8: "ima_tlv", 11: "systemd", 80: "container"}

// A field is one type, length and value; lengths are big-endian.
type field struct {
	kind  byte
	value []byte
}

func readField(data []byte) (f field, rest []byte, ok bool) {
	if len(data) < 5 || uint64(binary.BigEndian.Uint32(data[1:])) > uint64(len(data)-5) {
		return f, nil, false
	}
	n := 5 + int(binary.BigEndian.Uint32(data[1:]))
	return field{data[0], data[5:n:n]}, data[n:], true
}

// number reads a big-endian number of at most 8 bytes.
func (f field) number() (uint64, bool) {
	var n uint64
	for _, b := range f.value {
		n = n<<8 | uint64(b)
	}
	return n, len(f.value) > 0 && len(f.value) <= 8
}

// isTLV says whether data begin with a record number and a register, which no log
// of the firmware does: there the eighth byte is the end of a type.
func isTLV(data []byte) bool {
	first, rest, ok := readField(data)
	if !ok || first.kind != celNumber || len(first.value) == 0 || len(first.value) > 8 {
		return false
	}
	second, rest, ok := readField(rest)
	if !ok || len(second.value) == 0 || len(second.value) > 4 || second.kind != celPCR && second.kind != celNVIndex && second.kind != celRegister {
		return false
	}
	return len(rest) > 0 && rest[0] == celDigests
}

func (l *Log) parseTLV(data []byte) error {
	l.Format = CEL
	numbers := map[int]uint64{} // the last record number by PCR
	for rest := data; len(rest) > 0; {
		if len(l.Events) == maxEvents {
			return fmt.Errorf("more than %d records", maxEvents)
		}
		offset := len(data) - len(rest)
		e, number, after, err := readTLVRecord(rest)
		if err == nil {
			if last, ok := numbers[e.PCR]; ok && number <= last {
				err = fmt.Errorf("record number %d after %d", number, last)
			}
			numbers[e.PCR] = number
		}
		if err != nil {
			return fmt.Errorf("record %d at offset %d: %w", len(l.Events), offset, err)
		}
		e.Offset = offset
		for _, d := range e.Digests {
			if !slices.Contains(l.Banks, d.Bank) {
				l.Banks = append(l.Banks, d.Bank)
			}
		}
		l.Events = append(l.Events, e)
		rest = after
	}
	return nil
}

// readTLVRecord reads number, register, digests and content, in this order.
func readTLVRecord(data []byte) (e Event, number uint64, rest []byte, err error) {
	var fields [4]field
	rest = data
	for i := range fields {
		var ok bool
		if fields[i], rest, ok = readField(rest); !ok {
			return e, 0, nil, fmt.Errorf("cut in its field %d", i)
		}
	}
	number, ok := fields[0].number()
	if fields[0].kind != celNumber || !ok {
		return e, 0, nil, fmt.Errorf("no record number")
	}
	index, ok := fields[1].number()
	e.PCR = int(min(index, maxPCR))
	switch kind := fields[1].kind; {
	case !ok:
		return e, 0, nil, fmt.Errorf("register of %d bytes", len(fields[1].value))
	case kind == celNVIndex:
		e.PCR = NoPCR
	case kind != celPCR && kind != celRegister:
		return e, 0, nil, fmt.Errorf("field of type %d instead of a register", kind)
	case index > maxPCR:
		return e, 0, nil, fmt.Errorf("PCR %d, the highest is %d", index, maxPCR)
	}
	if fields[2].kind != celDigests {
		return e, 0, nil, fmt.Errorf("field of type %d instead of digests", fields[2].kind)
	}
	for list := fields[2].value; len(list) > 0; {
		d, after, ok := readField(list)
		bank := Bank(d.kind)
		i := bank.index()
		switch {
		case !ok:
			return e, 0, nil, fmt.Errorf("cut in its digests")
		case len(d.value) == 0 || len(d.value) > 64 || i >= 0 && len(d.value) != banks[i].size:
			return e, 0, nil, fmt.Errorf("digest of %d bytes in bank %v", len(d.value), bank)
		case e.Digest(bank) != nil:
			return e, 0, nil, fmt.Errorf("two digests in bank %v", bank)
		}
		e.Digests = append(e.Digests, Digest{bank, d.value})
		list = after
	}
	return e, number, rest, e.readTLVContent(fields[3])
}

// readTLVContent takes over what a record says beyond its digests. Contents that
// are not known here stay as they are.
func (e *Event) readTLVContent(content field) error {
	if content.kind <= celDigests {
		return fmt.Errorf("field of type %d instead of its content", content.kind)
	}
	e.Kind, e.Data = celContents[content.kind], content.value
	if e.Kind == "" {
		e.Kind = fmt.Sprintf("content %d", content.kind)
	}
	if len(e.Data) > maxData {
		return fmt.Errorf("data of %d bytes, the limit is %d", len(e.Data), maxData)
	}
	if e.Kind == "pcclient_std" {
		kind, rest, ok := readField(content.value)
		data, rest, ok2 := readField(rest)
		number, ok3 := kind.number()
		if !ok || !ok2 || !ok3 || kind.kind != 0 || data.kind != 1 || len(rest) > 0 || number > 1<<32-1 {
			return fmt.Errorf("content is no event type and data")
		}
		e.Type, e.Data = Type(number), data.value
	}
	if len(e.Digests) == 0 && e.extends() {
		return fmt.Errorf("no digests")
	}
	return nil
}
