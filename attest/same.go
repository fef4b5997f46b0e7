package attest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"

	"github.com/miotfacts/miotfacts/facts"
)

// Same names facts that are as an earlier report of the same boot has them, which
// has all: they need not be sent again. Numbers among them did not move.
type Same struct {
	_        struct{} `cbor:",toarray"`
	Sequence uint64   // of that report
	Facts    []byte   // bit k%8 of byte k/8 for fact k; the last byte is not zero
}

// maxSame is more than the highest key of a fact needs.
const maxSame = 256

// Has reports whether fact k is one of them. A nil Same has none.
func (s *Same) Has(k facts.Key) bool {
	return s != nil && int(k/8) < len(s.Facts) && s.Facts[k/8]>>(k%8)&1 == 1
}

// Keys returns the facts, ascending.
func (s *Same) Keys() []facts.Key {
	var keys []facts.Key
	for k := range facts.Key(8 * len(s.Facts)) {
		if s.Has(k) {
			keys = append(keys, k)
		}
	}
	return keys
}

func (s *Same) add(k facts.Key) {
	if n := int(k/8) + 1; n > len(s.Facts) {
		s.Facts = append(s.Facts, make([]byte, n-len(s.Facts))...)
	}
	s.Facts[k/8] |= 1 << (k % 8)
}

func (s *Same) check(r *Report) error {
	switch {
	case r.Whole() || r.Body.Kind == KindAlarm:
		return fmt.Errorf("a report of kind %s stands for itself, and names report %d", r.Body.Kind, s.Sequence)
	case s.Sequence == 0 || s.Sequence >= r.Body.Sequence:
		return fmt.Errorf("report %d has facts as in report %d, which is not before it", r.Body.Sequence, s.Sequence)
	case len(s.Facts) == 0 || len(s.Facts) > maxSame || s.Facts[len(s.Facts)-1] == 0 || s.Has(0):
		return errors.New("the facts that are as before are malformed")
	}
	for k := range r.Body.Facts {
		if s.Has(k) {
			return fmt.Errorf("fact %d has a value, and the one it had before", k)
		}
	}
	for k := range r.Body.Gaps {
		if s.Has(k) {
			return fmt.Errorf("fact %d has no value, and the one it had before", k)
		}
	}
	return nil
}

// Whole reports whether r has all facts, those of the boot as well.
func (r *Report) Whole() bool { return r.Body.Kind == KindBoot || r.Body.Kind == KindChallenge }

// LeaveOut takes out what is as base has it, a whole report of the same boot. A
// whole report and an alarm stay as they are: they stand for themselves.
func (r *Report) LeaveOut(base *Report) {
	if r.Whole() || r.Body.Kind == KindAlarm || !bytes.Equal(base.BootSeed, r.BootSeed) {
		return
	}
	same := &Same{Sequence: base.Body.Sequence}
	for k, f := range r.Body.Facts {
		if old, ok := base.Body.Facts[k]; ok && f.equal(old) {
			same.add(k)
			delete(r.Body.Facts, k)
		}
	}
	for k, g := range r.Body.Gaps {
		if old, ok := base.Body.Gaps[k]; ok && g == old {
			same.add(k)
			delete(r.Body.Gaps, k)
		}
	}
	if same.Facts != nil {
		r.Body.Same = same
	}
}

// FillIn returns r with what it left out, which base has. It is r itself when
// that is nothing, and an error when base is another report than r names.
func (r *Report) FillIn(base *Report) (*Report, error) {
	same := r.Body.Same
	if same == nil {
		return r, nil
	}
	if base == nil || base.Body.Sequence != same.Sequence || !bytes.Equal(base.BootSeed, r.BootSeed) || !base.Whole() {
		return nil, fmt.Errorf("cannot fill in report %d: report %d of the same boot is needed", r.Body.Sequence, same.Sequence)
	}
	whole := *r
	whole.Body.Same, whole.Body.Facts, whole.Body.Gaps = nil, maps.Clone(r.Body.Facts), maps.Clone(r.Body.Gaps)
	for _, k := range same.Keys() {
		f, ok := base.Body.Facts[k]
		g, gap := base.Body.Gaps[k]
		switch {
		case ok:
			if whole.Body.Facts == nil {
				whole.Body.Facts = map[facts.Key]Fact{}
			}
			whole.Body.Facts[k] = f
		case gap:
			if whole.Body.Gaps == nil {
				whole.Body.Gaps = map[facts.Key]Gap{}
			}
			whole.Body.Gaps[k] = g
		default:
			return nil, fmt.Errorf("cannot fill in report %d: report %d has no fact %d", r.Body.Sequence, same.Sequence, k)
		}
	}
	return &whole, nil
}

// equal reports whether both have the same value, and neither has moved.
func (f Fact) equal(g Fact) bool {
	return f.Min == f.Max && g.Min == g.Max && f.Value.Equal(g.Value)
}
