package ima

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
)

// An Extend says what the kernel extends into a bank.
type Extend uint8

const (
	// Hashed: the template data, hashed with the bank's hash (Linux 5.8).
	Hashed Extend = iota
	// Padded: the SHA-1 template digest, filled up with zeros, as before Linux
	// 5.8 and for banks whose hash the kernel does not have.
	Padded
)

func (x Extend) String() string { return [...]string{"hashed", "padded"}[x] }

// A State is where a replay stands, so that it can go on with later entries
// without the earlier ones. The zero State stands before the first entry.
type State struct {
	Entries    int // that were extended
	Violations int // among them
	pcrs       map[key][]byte
}

type key struct {
	pcr    int
	bank   Bank
	extend Extend
}

// Add extends an entry.
func (s *State) Add(e *Entry) {
	if s.pcrs == nil {
		s.pcrs = map[key][]byte{}
	}
	s.Entries++
	if e.Violation {
		s.Violations++
	}
	short := SHA1.sum(e.hashed()...)
	for _, b := range Banks() {
		for _, x := range []Extend{Hashed, Padded} {
			var digest []byte
			switch {
			case e.Violation:
				digest = bytes.Repeat([]byte{0xff}, b.Size())
			case x == Padded || b == SHA1:
				digest = append(slices.Clone(short), make([]byte, b.Size()-len(short))...)
			default:
				digest = b.sum(e.hashed()...)
			}
			k := key{e.PCR, b, x}
			value := s.pcrs[k]
			if value == nil {
				value = make([]byte, b.Size())
			}
			s.pcrs[k] = b.sum(value, digest)
		}
	}
}

// PCR returns the value of a PCR; zero as long as nothing was extended.
func (s State) PCR(pcr int, b Bank, x Extend) []byte {
	if value := s.pcrs[key{pcr, b, x}]; value != nil {
		return bytes.Clone(value)
	}
	return make([]byte, b.Size())
}

// PCRs lists the PCRs that were extended, ascending.
func (s State) PCRs() []int {
	set := map[int]bool{}
	for k := range s.pcrs {
		set[k.pcr] = true
	}
	return slices.Sorted(maps.Keys(set))
}

// MarshalBinary keeps the state for the next part of the list: the two counts,
// then for each value PCR, bank, way of extending, and the value, ascending.
func (s State) MarshalBinary() ([]byte, error) {
	out := binary.BigEndian.AppendUint64(nil, uint64(s.Entries))
	out = binary.BigEndian.AppendUint64(out, uint64(s.Violations))
	keys := slices.SortedFunc(maps.Keys(s.pcrs), func(a, b key) int {
		return cmp.Or(cmp.Compare(a.pcr, b.pcr), cmp.Compare(a.bank, b.bank), cmp.Compare(a.extend, b.extend))
	})
	for _, k := range keys {
		out = append(out, byte(k.pcr), byte(k.bank), byte(k.extend))
		out = append(out, s.pcrs[k]...)
	}
	return out, nil
}

// UnmarshalBinary reads what MarshalBinary wrote.
func (s *State) UnmarshalBinary(data []byte) error {
	if len(data) < 16 {
		return fmt.Errorf("cannot read state of IMA replay: %d bytes", len(data))
	}
	entries, violations := binary.BigEndian.Uint64(data), binary.BigEndian.Uint64(data[8:])
	if entries > math.MaxInt32 || violations > entries {
		return fmt.Errorf("cannot read state of IMA replay: %d violations among %d entries", violations, entries)
	}
	read := State{int(entries), int(violations), map[key][]byte{}}
	for rest := data[16:]; len(rest) > 0; {
		if len(rest) < 3 {
			return fmt.Errorf("cannot read state of IMA replay: cut")
		}
		k := key{int(rest[0]), Bank(rest[1]), Extend(rest[2])}
		size := k.bank.Size()
		if size == 0 || k.pcr > maxPCR || k.extend > Padded || len(rest) < 3+size || read.pcrs[k] != nil {
			return fmt.Errorf("cannot read state of IMA replay: PCR %d, bank %v, %d bytes are left", k.pcr, k.bank, len(rest))
		}
		read.pcrs[k] = bytes.Clone(rest[3 : 3+size])
		rest = rest[3+size:]
	}
	*s = read
	return nil
}

func (s State) clone() State {
	s.pcrs = maps.Clone(s.pcrs) // the values themselves never change
	return s
}

// Replay extends all entries after start; the zero State is the boot's.
func (l *List) Replay(start State) State {
	s := start.clone()
	for i := range l.Entries {
		s.Add(&l.Entries[i])
	}
	return s
}

// A Prefix is the part of a list that a PCR value proves.
type Prefix struct {
	Entries int    // of the list, from its first
	Extend  Extend // how the kernel extended
	State   State  // after these entries: where the next part of the list goes on
}

// Prefix finds the entries of l that, after start, lead to value of PCR 10 in
// bank b. Value must come out of a quote that was verified. Entries behind the
// prefix are not proved. None leads to it: the list is false or of another
// boot.
func (l *List) Prefix(start State, b Bank, value []byte) (Prefix, error) {
	if !slices.Contains(Banks(), b) || len(value) != b.Size() {
		return Prefix{}, fmt.Errorf("cannot verify IMA list: %d bytes are no value of bank %v", len(value), b)
	}
	s := start.clone()
	for i := 0; ; i++ {
		for _, x := range []Extend{Hashed, Padded} {
			if bytes.Equal(s.PCR(PCR, b, x), value) {
				return Prefix{i, x, s}, nil
			}
		}
		if i == len(l.Entries) {
			return Prefix{}, fmt.Errorf("cannot verify IMA list: none of %d entries leads to %x in PCR %d", i, value, PCR)
		}
		s.Add(&l.Entries[i])
	}
}

// BootAggregate returns what the first entry says of PCRs 0 to 9. A list that
// does not begin with it is a later part of one, or no kernel's.
//
// A zero digest is the kernel's word that it found no TPM when IMA started
// ("activating TPM-bypass"): then it extends no PCR at all.
func (l *List) BootAggregate() (File, bool) {
	if len(l.Entries) == 0 || l.Entries[0].Violation {
		return File{}, false
	}
	f, err := l.Entries[0].File()
	return f, err == nil && f.Name == "boot_aggregate"
}

// Aggregate computes boot_aggregate from the PCRs of bank b: 0 to 7 in the bank
// of SHA-1, 0 to 9 in the others (Linux 5.8, ima_calc_boot_aggregate_tfm). A
// missing one is an error.
func Aggregate(b Bank, pcrs map[int][]byte) ([]byte, error) {
	last := 9
	if b == SHA1 {
		last = 7
	}
	if b.Size() == 0 {
		return nil, fmt.Errorf("cannot compute boot_aggregate: no hash for bank %v", b)
	}
	h := b.hash()
	for pcr := range last + 1 {
		if len(pcrs[pcr]) != b.Size() {
			return nil, fmt.Errorf("cannot compute boot_aggregate: value of %d bytes for PCR %d", len(pcrs[pcr]), pcr)
		}
		h.Write(pcrs[pcr])
	}
	return h.Sum(nil), nil
}
