package label

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// An Entry is a model in a ranking of manufacturers: its label, and what was seen of
// its devices.
type Entry struct {
	Label    *Label
	Observed []Observation // one for each device; none is fine
}

// A Ranked is a model as a ranking sees it.
type Ranked struct {
	Model    string
	Edition  uint64
	Devices  int      // that were observed
	Cycle    uint32   // days between two updates: the longest that was observed, else what is promised
	Seen     bool     // Cycle was observed
	Inspect  Day      // the earliest of its devices; 0: no start is known
	Days     int64    // from the start to Inspect, the fewest; 0 where no start is known
	Negative []string // why its label is a negative one
}

// A Maker is a manufacturer in a ranking.
type Maker struct {
	Place    int // 1 is the best; equal ones share a place
	Vendor   string
	Negative int // of its labels
	Models   []Ranked
	Why      []string // what its place follows from, what weighs most first
}

// Rank puts manufacturers in order, by how they look after all their models that are
// given: the share of negative labels first, then the longest time between updates,
// then the shortest time to an inspection. Of a model with several editions the
// highest counts. A label is negative, automatically, where support has ended on the
// day on or updates come less often than promised. The worst model counts for its
// maker, so that many good ones do not hide a bad one.
func Rank(entries []Entry, on Day) ([]Maker, error) {
	latest := map[[2]string]Entry{}
	for _, e := range entries {
		key := [2]string{e.Label.Vendor, e.Label.Model}
		have, ok := latest[key]
		if ok && have.Label.Sequence == e.Label.Sequence {
			return nil, fmt.Errorf("cannot rank: edition %d of %s %s stands there twice", e.Label.Sequence, key[0], key[1])
		}
		all := append(slices.Clone(have.Observed), e.Observed...)
		if !ok || e.Label.Sequence > have.Label.Sequence {
			have.Label = e.Label
		}
		latest[key] = Entry{have.Label, all}
	}
	makers := map[string]*Maker{}
	for key, e := range latest {
		r, err := e.rank(on)
		if err != nil {
			return nil, fmt.Errorf("cannot rank: %w", err)
		}
		m := makers[key[0]]
		if m == nil {
			m = &Maker{Vendor: key[0]}
			makers[key[0]] = m
		}
		m.Models = append(m.Models, r)
	}
	var list []Maker
	for _, m := range makers {
		m.explain()
		list = append(list, *m)
	}
	slices.SortFunc(list, func(a, b Maker) int { return cmp.Or(compareMakers(a, b), strings.Compare(a.Vendor, b.Vendor)) })
	for i := range list {
		list[i].Place = i + 1
		if i > 0 && compareMakers(list[i-1], list[i]) == 0 {
			list[i].Place = list[i-1].Place
		}
	}
	return list, nil
}

func (e Entry) rank(on Day) (Ranked, error) {
	l := e.Label
	r := Ranked{Model: l.Model, Edition: l.Sequence, Devices: len(e.Observed), Cycle: l.Updates.Every}
	observed := e.Observed
	if len(observed) == 0 {
		observed = []Observation{{}}
	}
	for i, o := range observed {
		if o.Model != "" && o.Model != l.Model {
			return r, fmt.Errorf("%w: %s is not %s", ErrModel, o.Model, l.Model)
		}
		if o.On == 0 {
			o.On = on
		}
		if n, ok := o.Amounts[UpdateObserved]; ok {
			if !r.Seen || n > r.Cycle {
				r.Cycle = n
			}
			r.Seen = true
		}
		for _, why := range l.negative(o) {
			if !slices.Contains(r.Negative, why) {
				r.Negative = append(r.Negative, why)
			}
		}
		o.Inspected = 0 // the hospital's own work is no merit of the maker
		d, err := l.BestBefore(o)
		if err != nil { // no start is known
			r.Inspect, r.Days = 0, 0
			continue
		}
		if days := int64(d.Inspect - d.Start); i == 0 || days < r.Days {
			r.Days = days
		}
		if i == 0 || r.Inspect != 0 && d.Inspect < r.Inspect {
			r.Inspect = d.Inspect
		}
	}
	slices.Sort(r.Negative)
	return r, nil
}

// worst returns the longest time between updates and the shortest to an inspection,
// with the models that have them.
func (m *Maker) worst() (cycle, soon Ranked) {
	cycle, soon = m.Models[0], m.Models[0]
	for _, r := range m.Models[1:] {
		if r.Cycle > cycle.Cycle {
			cycle = r
		}
		if r.Days < soon.Days {
			soon = r
		}
	}
	return cycle, soon
}

func compareMakers(a, b Maker) int {
	ac, as := a.worst()
	bc, bs := b.worst()
	return cmp.Or(
		cmp.Compare(a.Negative*len(b.Models), b.Negative*len(a.Models)),
		cmp.Compare(ac.Cycle, bc.Cycle),
		cmp.Compare(bs.Days, as.Days),
	)
}

// explain sorts the models and says what the place follows from.
func (m *Maker) explain() {
	slices.SortFunc(m.Models, func(a, b Ranked) int { return strings.Compare(a.Model, b.Model) })
	for _, r := range m.Models {
		if len(r.Negative) > 0 {
			m.Negative++
		}
	}
	cycle, soon := m.worst()
	how := "promised"
	if cycle.Seen {
		how = "observed"
	}
	m.Why = []string{
		fmt.Sprintf("%d of %d labels negative", m.Negative, len(m.Models)),
		fmt.Sprintf("the longest time between updates: %d days %s (%s)", cycle.Cycle, how, cycle.Model),
	}
	if soon.Inspect == 0 {
		m.Why = append(m.Why, fmt.Sprintf("the shortest time to an inspection: not known, counts as 0 days (%s: no day of manufacture or purchase)", soon.Model))
	} else {
		m.Why = append(m.Why, fmt.Sprintf("the shortest time to an inspection: %d days (%s)", soon.Days, soon.Model))
	}
}

// ExplainRank writes a ranking down, each place with its reasons.
func ExplainRank(makers []Maker) string {
	var b strings.Builder
	for _, m := range makers {
		verdict := ""
		if m.Negative > 0 {
			verdict = ": NEGATIVE"
		}
		fmt.Fprintf(&b, "%d. %s%s\n", m.Place, m.Vendor, verdict)
		for _, why := range m.Why {
			fmt.Fprintf(&b, "   %s\n", why)
		}
		for _, r := range m.Models {
			when := "no start known"
			if r.Inspect != 0 {
				when = "inspect " + r.Inspect.String()
			}
			fmt.Fprintf(&b, "   - %s, edition %d, %d devices observed: %s\n", r.Model, r.Edition, r.Devices, when)
			for _, n := range r.Negative {
				fmt.Fprintf(&b, "     NEGATIVE: %s\n", n)
			}
		}
	}
	return b.String()
}
