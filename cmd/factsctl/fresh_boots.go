package main

import (
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/baseline"
)

// A freshBoots holds for the rules of integration what boots let expect against
// what others showed. A boot is the unit: what is measured once a boot says the
// same in each of its runs.
type freshBoots struct {
	Boots      int        `json:"boots"`
	FreshBoots int        `json:"fresh_boots"` // that are not among Boots
	Confidence int        `json:"confidence"`  // in percent, that extremes of Boots cover 95 % of all
	Rules      []forecast `json:"rules"`       // none where nothing can be predicted
	Outside    int        `json:"outside"`
}

// compareBoots is compareFresh for the rules of integration.
func (s *simulation) compareBoots(f *simulation) *freshBoots {
	c := &freshBoots{Boots: s.Boots, Confidence: baseline.Confidence(s.Boots), Rules: []forecast{}}
	for boot := range f.boots {
		if !s.boots[boot] {
			c.FreshBoots++
		}
	}
	if c.Boots < 2 || c.FreshBoots == 0 {
		return c // one boot tells nothing of how boots differ
	}
	expected := s.bootTallies(nil)
	if s.LeaveOut != nil {
		expected = s.LeaveOut.boots
	}
	counted := f.bootTallies(s.boots)
	seen := map[[2]string]bool{}
	for i, r := range s.Rules {
		key := [2]string{r.Stage, r.Fact}
		if r.Stage != "integration" || !r.Recorded || !f.Rules[i].Recorded || seen[key] {
			continue
		}
		seen[key] = true
		x := forecast{Stage: r.Stage, Fact: r.Fact, Expects: r.Expects, Deviated: expected[r.Fact], Share: float64(expected[r.Fact]) / float64(c.Boots), FreshDeviated: counted[r.Fact]}
		x.Low, x.High = shareBetween(x.Deviated, c.Boots)
		x.From, x.To = freshBetween(x.Deviated, c.Boots, c.FreshBoots)
		if x.Inside = x.From <= x.FreshDeviated && x.FreshDeviated <= x.To; !x.Inside {
			c.Outside++
		}
		c.Rules = append(c.Rules, x)
	}
	return c
}

// bootTallies counts for each fact the boots in which a rule of integration
// deviated, those in but left out.
func (s *simulation) bootTallies(but map[string]bool) map[string]int {
	deviated := map[string]map[string]bool{}
	for _, r := range s.Rules {
		if r.Stage != "integration" {
			continue
		}
		if deviated[r.Fact] == nil {
			deviated[r.Fact] = map[string]bool{}
		}
		for _, e := range r.Events {
			if !but[e.Boot] {
				deviated[r.Fact][e.Boot] = true
			}
		}
	}
	n := map[string]int{}
	for f, boots := range deviated {
		n[f] = len(boots)
	}
	return n
}

// leaveBootsOut drafts a manifest from the runs of all boots but one, and counts
// in how many boots a rule of integration deviates that did not see it.
func leaveBootsOut(m *reference.Manifest, recs []*baseline.Recording, margin int64) (map[string]int, error) {
	boots := map[string][]baseline.Run{}
	for _, rec := range recs {
		for _, r := range rec.Runs {
			boots[r.Boot] = append(boots[r.Boot], r)
		}
	}
	n := map[string]int{}
	if len(boots) < 2 {
		return n, nil
	}
	for _, boot := range slices.Sorted(maps.Keys(boots)) {
		others := new(baseline.Recording)
		for b, runs := range boots {
			if b != boot {
				others.Runs = append(others.Runs, runs...)
			}
		}
		draft, _, err := baseline.Draft([]*baseline.Recording{others}, baseline.Options{Vendor: m.Vendor, Model: m.Model, From: m.NotBefore, Until: m.NotAfter, Margin: margin})
		if err != nil {
			return nil, fmt.Errorf("without boot %s: %w", boot, err)
		}
		s, err := simulate(draft, []*baseline.Recording{{Runs: boots[boot]}})
		if err != nil {
			return nil, fmt.Errorf("boot %s: %w", boot, err)
		}
		for f, deviated := range s.bootTallies(nil) {
			n[f] += deviated
		}
	}
	return n, nil
}

func (c *freshBoots) print(w io.Writer) {
	fmt.Fprintf(w, "\nrules of integration, by boots: %d recorded, %d fresh ones\n", c.Boots, c.FreshBoots)
	fmt.Fprintf(w, "the extremes of %d boots cover 95 %% of boots with %d %% confidence; 59 boots give 95 %%\n", c.Boots, c.Confidence)
	switch {
	case c.Boots < 2:
		fmt.Fprintln(w, "nothing is predicted: one boot does not tell how boots differ; record after each of some")
		return
	case c.FreshBoots == 0:
		fmt.Fprintln(w, "nothing is compared: the fresh runs are of the same boots")
		return
	}
	quiet := 0
	for _, r := range c.Rules {
		if r.Deviated == 0 && r.FreshDeviated == 0 {
			quiet++
			continue
		}
		where := "inside"
		if !r.Inside {
			where = "OUTSIDE"
		}
		fmt.Fprintf(w, "  %s: in %d of %d boots, share %.3f to %.3f; predicted %d to %d of %d fresh boots, counted %d, %s\n",
			r.Fact, r.Deviated, c.Boots, r.Low, r.High, r.From, r.To, c.FreshBoots, r.FreshDeviated, where)
	}
	_, upto := freshBetween(0, c.Boots, c.FreshBoots)
	fmt.Fprintf(w, "%d rules deviated in no boot of either: predicted 0 to %d of %d fresh boots each\n", quiet, upto, c.FreshBoots)
	fmt.Fprintf(w, "%d of %d rules outside their interval\n", c.Outside, len(c.Rules))
}
