package facts

import "slices"

// A Folded reading is what one fact did between two reports: the newest
// reading, and for integers the extremes since, so that a spike between two
// reports is not lost.
type Folded struct {
	Reading
	Min, Max int64  // of the interval's OK readings, in the fact's unit; Int only
	Samples  uint32 // OK readings in the interval
	Missed   uint32 // readings in the interval that were not OK, Absent or Pending
}

// A Fold accumulates snapshots between two reports. The zero Fold is empty.
type Fold struct {
	Begin, End int64    // uptime in ms of the first and the last snapshot
	facts      []Folded // ascending by key
	rounds     int
}

// Add folds s in.
func (f *Fold) Add(s Snapshot) {
	if f.rounds == 0 {
		f.Begin = s.Uptime
	}
	f.End = s.Uptime
	f.rounds++
	for _, r := range s.Readings {
		i, ok := slices.BinarySearchFunc(f.facts, r.Key, func(x Folded, k Key) int { return int(int64(x.Key) - int64(k)) })
		if !ok {
			f.facts = slices.Insert(f.facts, i, Folded{})
		}
		f.facts[i].add(r)
	}
}

func (x *Folded) add(r Reading) {
	x.Reading = r
	switch r.Status {
	case OK:
		n := r.Value.Int()
		if r.Value.Kind() != Int {
			n = 0
		}
		if x.Samples == 0 || n < x.Min {
			x.Min = n
		}
		if x.Samples == 0 || n > x.Max {
			x.Max = n
		}
		x.Samples++
	case Absent, Pending:
	default:
		x.Missed++
	}
}

// Facts returns the folded facts in ascending order of keys; valid until Add or Reset.
func (f *Fold) Facts() []Folded { return f.facts }

// Reset empties f for the next interval and keeps its memory.
func (f *Fold) Reset() { *f = Fold{facts: f.facts[:0]} }
