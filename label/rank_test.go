package label_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/label"
)

// model returns the example as another maker's and model's.
func model(t testing.TB, vendor, name string, change ...func(*label.Label)) *label.Label {
	return example(t, append([]func(*label.Label){func(l *label.Label) { l.Vendor, l.Model = vendor, name }}, change...)...)
}

func cycle(days uint32) label.Observation {
	return label.Observation{Amounts: map[label.Kind]uint32{label.UpdateObserved: days}}
}

func TestRank(t *testing.T) {
	support := func(year int) func(*label.Label) {
		return func(l *label.Label) { l.Updates.SupportUntil = label.Day((year-1970)*365 + 200) }
	}
	every := func(days uint32) func(*label.Label) { return func(l *label.Label) { l.Updates.Every = days } }
	for _, tt := range []struct {
		name    string
		entries []label.Entry
		order   string
		said    []string
	}{
		{"a negative label, automatically", []label.Entry{{Label: model(t, "A", "1", support(2026))}, {Label: model(t, "B", "1", every(365))}}, "1 B, 2 A",
			[]string{"1. B\n   0 of 1 labels negative\n   the longest time between updates: 365 days promised (1)", "2. A: NEGATIVE\n   1 of 1 labels negative", "     NEGATIVE: support has ended on 2026-0"}},
		{"updates less often than promised", []label.Entry{{Label: model(t, "A", "1"), Observed: []label.Observation{cycle(61)}}, {Label: model(t, "B", "1")}}, "1 B, 2 A",
			[]string{"NEGATIVE: updates come every 61 days, promised were 60", "61 days observed"}},
		{"the share, not the number", []label.Entry{{Label: model(t, "A", "1", support(2026))}, {Label: model(t, "A", "2")}, {Label: model(t, "A", "3")}, {Label: model(t, "B", "1", support(2026))}}, "1 A, 2 B", nil},
		{"a promise that is kept", []label.Entry{{Label: model(t, "A", "1"), Observed: []label.Observation{cycle(20)}}, {Label: model(t, "B", "1", every(30))}}, "1 A, 2 B", []string{"20 days observed (1)"}},
		{"the worst device", []label.Entry{{Label: model(t, "A", "1"), Observed: []label.Observation{cycle(20), cycle(50)}}, {Label: model(t, "B", "1", every(40))}}, "1 B, 2 A", []string{"50 days observed (1)", "2 devices observed"}},
		{"the worst model", []label.Entry{{Label: model(t, "A", "1")}, {Label: model(t, "A", "2", func(l *label.Label) { l.Inspection.Base = 100 })}, {Label: model(t, "B", "1")}}, "1 B, 2 A", []string{"280 days (2)"}},
		{"equal", []label.Entry{{Label: model(t, "B", "1")}, {Label: model(t, "A", "1")}, {Label: model(t, "C", "1", every(90))}}, "1 A, 1 B, 3 C", nil},
		{"the highest edition", []label.Entry{{Label: model(t, "A", "1", func(l *label.Label) { l.Sequence = 2 })}, {Label: model(t, "A", "1", support(2026)), Observed: []label.Observation{cycle(7)}}}, "1 A", []string{"0 of 1", "edition 2, 1 devices"}},
		{"no start", []label.Entry{{Label: model(t, "A", "1", func(l *label.Label) { l.Made = 0 })}, {Label: model(t, "B", "1")}}, "1 B, 2 A", []string{"not known, counts as 0 days (1:", "no start known"}},
		{"none", nil, "", nil},
	} {
		slices.Reverse(tt.entries)
		makers, err := label.Rank(tt.entries, label.DayOf(now))
		if err != nil {
			t.Fatal(err)
		}
		var order []string
		for _, m := range makers {
			order = append(order, fmt.Sprint(m.Place, " ", m.Vendor))
		}
		text := label.ExplainRank(makers)
		if got := strings.Join(order, ", "); got != tt.order {
			t.Errorf("%s: %s, want %s\n%s", tt.name, got, tt.order, text)
		}
		for _, want := range tt.said {
			if !strings.Contains(text, want) {
				t.Errorf("%s: it does not say %q\n%s", tt.name, want, text)
			}
		}
	}
	if _, err := label.Rank([]label.Entry{{Label: example(t)}, {Label: example(t)}}, 1); err == nil || !strings.Contains(err.Error(), "edition 1 of Example Medical wearable-1 stands there twice") {
		t.Errorf("the same edition twice: %v", err)
	}
	if _, err := label.Rank([]label.Entry{{Label: example(t), Observed: []label.Observation{{Model: "x"}}}}, 1); !errors.Is(err, label.ErrModel) {
		t.Errorf("of another model: %v", err)
	}
}

// TestRankProperties holds that the order of the files does not matter, and that
// nobody gains a place by looking after a model worse.
func TestRankProperties(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	base := example(t)
	lost := 0
	for range 300 {
		var entries []label.Entry
		for v := range 4 {
			for m := range 1 + r.IntN(3) {
				l := *base
				l.Vendor, l.Model = fmt.Sprint("V", v), fmt.Sprint("M", m)
				l.Updates.Every = 30 * (1 + r.Uint32N(4))
				l.Updates.SupportUntil = label.DayOf(now) + label.Day(r.IntN(1000)-200)
				e := label.Entry{Label: &l}
				for range r.IntN(3) {
					e.Observed = append(e.Observed, cycle(r.Uint32N(150)))
				}
				entries = append(entries, e)
			}
		}
		rank := func(entries []label.Entry) []label.Maker {
			makers, err := label.Rank(entries, label.DayOf(now))
			if err != nil {
				t.Fatal(err)
			}
			return makers
		}
		place := func(makers []label.Maker, vendor string) int {
			return makers[slices.IndexFunc(makers, func(m label.Maker) bool { return m.Vendor == vendor })].Place
		}
		before := rank(entries)
		shuffled := slices.Clone(entries)
		r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		if label.ExplainRank(rank(shuffled)) != label.ExplainRank(before) {
			t.Fatal("another order of the files gives another ranking")
		}
		i := r.IntN(len(entries))
		worse := slices.Clone(entries)
		l := *entries[i].Label
		worse[i] = label.Entry{Label: &l, Observed: slices.Clone(entries[i].Observed)}
		switch r.IntN(3) {
		case 0:
			l.Updates.SupportUntil -= 400
		case 1:
			l.Inspection.Base = 1
		case 2:
			worse[i].Observed = append(worse[i].Observed, cycle(151))
		}
		was, is := place(before, l.Vendor), place(rank(worse), l.Vendor)
		if is < was {
			t.Fatalf("worse, and from place %d to %d", was, is)
		}
		if is > was {
			lost++
		}
	}
	if lost < 20 {
		t.Errorf("only %d lost a place: the test shows nothing", lost)
	}
}
