package main

import (
	"fmt"
	"io"
	"math"
	"time"

	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/baseline"
)

// confidence is that of every interval here, two-sided.
const confidence = 0.95

// A freshCount holds what recordings let expect against what fresh ones showed.
//
// A run is the unit: in it a rule deviates or does not. Alarms within a run come
// in bursts and are no independent observations, so that no interval is given
// for their number.
type freshCount struct {
	By         string     `json:"by"` // "manifest": it was replayed; "drafts": of all runs but one
	Runs       int        `json:"runs"`
	FreshRuns  int        `json:"fresh_runs"`
	ObservedMS int64      `json:"observed_ms"`
	FreshMS    int64      `json:"fresh_observed_ms"`
	Rules      []forecast `json:"rules"` // of operating and fail-safe
	Outside    int        `json:"outside"`

	Boots *freshBoots `json:"boots"` // the rules of integration
}

// A forecast is one rule's.
type forecast struct {
	Stage   string `json:"stage"`
	Fact    string `json:"fact"`
	Expects string `json:"expects"`

	Deviated int     `json:"runs_with_deviation"`
	Share    float64 `json:"share"` // of runs
	Low      float64 `json:"share_low"`
	High     float64 `json:"share_high"`
	PerDay   float64 `json:"per_day"` // alarms a device-day

	From          int     `json:"predicted_from"` // fresh runs with a deviation
	To            int     `json:"predicted_to"`
	FreshDeviated int     `json:"counted"`
	FreshPerDay   float64 `json:"counted_per_day"` // alarms a device-day
	Inside        bool    `json:"inside"`
}

// A tallied is what recordings showed of one rule.
type tallied struct{ runs, alarms int }

// tallies counts by stage and fact, which is how rules of drafts correspond. A run
// counts once, however many rules of a fact deviate in it.
func (s *simulation) tallies(into map[[2]string]tallied) {
	runs := map[[2]string]map[int]bool{}
	for _, r := range s.Rules {
		key := [2]string{r.Stage, r.Fact}
		t := into[key]
		t.alarms += r.Count
		if runs[key] == nil {
			runs[key] = map[int]bool{}
		}
		for _, e := range r.Events {
			if !runs[key][e.Run] {
				runs[key][e.Run] = true
				t.runs++
			}
		}
		into[key] = t
	}
}

// compareFresh replays fresh recordings and compares what comes of it with what
// the recordings of s let expect: by the drafts that left a run out if there are
// any, else by the manifest itself.
func (s *simulation) compareFresh(m *reference.Manifest, fresh []*baseline.Recording) error {
	f, err := simulate(m, fresh)
	if err != nil {
		return err
	}
	c := &freshCount{By: "manifest", Runs: s.Runs, FreshRuns: f.Runs, ObservedMS: s.ObservedMS, FreshMS: f.ObservedMS, Rules: []forecast{}}
	expected, counted := map[[2]string]tallied{}, map[[2]string]tallied{}
	f.tallies(counted)
	if s.LeaveOut != nil {
		c.By, expected = "drafts", s.LeaveOut.rules
	} else {
		s.tallies(expected)
	}
	seen := map[[2]string]bool{}
	for i, r := range s.Rules {
		key := [2]string{r.Stage, r.Fact}
		if r.Stage == "integration" || !r.Recorded || !f.Rules[i].Recorded || seen[key] {
			continue // compareBoots has these
		}
		seen[key] = true
		e, n := expected[key], counted[key]
		x := forecast{Stage: r.Stage, Fact: r.Fact, Expects: r.Expects, Deviated: e.runs, Share: float64(e.runs) / float64(s.Runs), FreshDeviated: n.runs,
			PerDay: perDay(e.alarms, s.ObservedMS), FreshPerDay: perDay(n.alarms, f.ObservedMS)}
		x.Low, x.High = shareBetween(e.runs, s.Runs)
		x.From, x.To = freshBetween(e.runs, s.Runs, f.Runs)
		x.Inside = x.From <= n.runs && n.runs <= x.To
		if !x.Inside {
			c.Outside++
		}
		c.Rules = append(c.Rules, x)
	}
	c.Boots = s.compareBoots(f)
	s.Fresh = c
	return nil
}

func perDay(n int, ms int64) float64 {
	if ms <= 0 {
		return 0
	}
	return float64(n) * float64((24 * time.Hour).Milliseconds()) / float64(ms)
}

// shareBetween returns the exact interval of Clopper and Pearson for a share of
// which x of n were seen.
func shareBetween(x, n int) (low, high float64) {
	tail := (1 - confidence) / 2
	// search returns where a probability that rises with p crosses the tail.
	search := func(rising func(p float64) float64) float64 {
		a, b := 0.0, 1.0
		for range 60 {
			if p := (a + b) / 2; rising(p) > tail {
				b = p
			} else {
				a = p
			}
		}
		return (a + b) / 2
	}
	high = 1
	if x > 0 {
		low = search(func(p float64) float64 { return binomial(n, x, n, p) }) // x or more
	}
	if x < n {
		high = 1 - search(func(q float64) float64 { return binomial(n, 0, x, 1-q) }) // x or fewer
	}
	return low, high
}

// binomial is the probability of from to upto successes of n.
func binomial(n, from, upto int, p float64) float64 {
	var sum float64
	for k := from; k <= upto; k++ {
		switch {
		case p == 0 && k > 0, p == 1 && k < n:
		case p == 0, p == 1:
			sum++
		default:
			sum += math.Exp(choose(n, k) + float64(k)*math.Log(p) + float64(n-k)*math.Log1p(-p))
		}
	}
	return sum
}

// choose is the logarithm of n over k.
func choose(n, k int) float64 {
	a, _ := math.Lgamma(float64(n) + 1)
	b, _ := math.Lgamma(float64(k) + 1)
	c, _ := math.Lgamma(float64(n-k) + 1)
	return a - b - c
}

// freshBetween returns how many of m fresh runs deviate if they are like the n
// of which x did: those numbers y for which it is no surprise that, of all x+y
// runs that deviated, just y are among the fresh ones (hypergeometric
// distribution). It assumes no distribution of the fact, only that any order of
// the runs was as probable.
func freshBetween(x, n, m int) (from, upto int) {
	tail := (1 - confidence) / 2
	from, upto = m, 0
	for y := 0; y <= m; y++ {
		var fewer, more float64
		for k := max(0, x+y-n); k <= min(m, x+y); k++ {
			p := math.Exp(choose(m, k) + choose(n, x+y-k) - choose(n+m, x+y))
			if k <= y {
				fewer += p
			}
			if k >= y {
				more += p
			}
		}
		if fewer > tail && more > tail {
			from, upto = min(from, y), max(upto, y)
		}
	}
	return from, upto
}

func (c *freshCount) print(w io.Writer) {
	how := "the manifest made of these recordings"
	if c.By == "drafts" {
		how = "drafts made of the runs that they did not see"
	}
	fmt.Fprintf(w, "\npredicted from what %s, against what the manifest makes of %d fresh runs, %v\n", how, c.FreshRuns, time.Duration(c.FreshMS)*time.Millisecond)
	fmt.Fprintf(w, "(a run with a deviation counts once; intervals of %.0f %%; alarms a device-day without one, they come in bursts)\n", 100*confidence)
	fmt.Fprintf(w, "%-44s %7s %15s %13s %8s %8s %19s\n", "", "of", "share of runs", "predicted", "counted", "", "alarms a day")
	fmt.Fprintf(w, "%-44s %7d %15s %13s %8s %8s %9s %9s\n", "rule", c.Runs, "", "fresh runs", "", "", "predicted", "counted")
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
		fmt.Fprintf(w, "%-44s %7d %15s %13s %8d %8s %9s %9s\n", r.Stage+": "+r.Fact, r.Deviated, fmt.Sprintf("%.3f to %.3f", r.Low, r.High),
			fmt.Sprintf("%d to %d", r.From, r.To), r.FreshDeviated, where, rounded(r.PerDay), rounded(r.FreshPerDay))
	}
	_, high := shareBetween(0, c.Runs)
	_, upto := freshBetween(0, c.Runs, c.FreshRuns)
	fmt.Fprintf(w, "%d rules deviated in no run of either: predicted 0 to %d of the fresh runs each, share at most %.3f\n", quiet, upto, high)
	fmt.Fprintf(w, "%d of %d rules outside their interval; by chance alone at most %.1f are to be expected\n", c.Outside, len(c.Rules), (1-confidence)*float64(len(c.Rules)))
	c.Boots.print(w)
}
