package baseline

import (
	"fmt"
	"slices"
	"time"

	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
)

// longestHold is the longest hold in ms that a draft proposes. What was outside
// for longer was not a moment but another state of the device.
const longestHold = 300_000

// maxStep bounds the time in ms between two rounds that counts towards a hold, as
// in package appraise.
const maxStep = 2000

// crossings are what came of leaving each run out: how long it was outside of what
// the other runs give.
type crossings struct {
	runs    int   // left out, one after the other
	crossed int   // of these, that were outside
	ended   int   // times that a run was outside and came back within it
	open    int   // times that it was outside to its end: for how long nobody knows
	longest int64 // ms, of those that ended
}

// cross replays a run of a fact against a rule that was drafted without it.
func (c *crossings) cross(times []int64, samples []Sample, outside func(facts.Value) bool) {
	c.runs++
	before := c.ended + c.open
	crossing, lasted, last, next := false, int64(0), int64(0), 0
	status, out := facts.Pending, false
	for round, at := range times {
		if next < len(samples) && int(samples[next].Round) == round {
			status = samples[next].Status
			out = status == facts.OK && outside(samples[next].Value)
			next++
		}
		step := min(at-last, maxStep)
		last = at
		switch {
		case status != facts.OK: // neither begins nor continues nor ends one
		case out && !crossing:
			crossing, lasted = true, 0
		case crossing:
			// Up to the first round inside: it may have ended as late as that.
			lasted += step
			if !out {
				crossing = false
				c.ended++
				c.longest = max(c.longest, lasted)
			}
		}
	}
	if crossing {
		c.open++
	}
	if c.ended+c.open > before {
		c.crossed++
	}
}

// hold is what the crossings let propose in ms, and why.
func (c *crossings) hold() (uint32, string) {
	of := fmt.Sprintf("%d of %s left out", c.crossed, count(c.runs, "run"))
	switch {
	case c.runs == 0:
		return 0, "no crossings to draw a hold from: that takes two runs with samples"
	case c.crossed == 0:
		return 0, fmt.Sprintf("no hold: none of %s crossed what the others give", count(c.runs, "run"))
	case c.ended == 0:
		return 0, fmt.Sprintf("no hold: %s crossed and stayed outside to the end", of)
	case c.longest > longestHold:
		return 0, fmt.Sprintf("no hold: %s crossed, for up to %s, which is a state and no moment", of, span(c.longest))
	}
	h := uint32(min(roundUp(c.longest), longestHold))
	why := fmt.Sprintf("hold %s: %s crossed, the longest for %s", span(int64(h)), of, span(c.longest))
	if c.open > 0 {
		why += fmt.Sprintf("; %d more to the end", c.open)
	}
	return h, why
}

func span(ms int64) string { return (time.Duration(ms) * time.Millisecond).String() }

// numbers leaves each run out of a number's: bounds gives the ends of the rule
// that the least and the greatest value of the others lead to.
func (t *total) numbers(bounds func(low, high int64) (least, most *int64)) (c crossings) {
	// The least and the greatest of all other runs, by those of two.
	lows, highs := []int64{}, []int64{}
	for _, x := range t.observed {
		if x.seen.Min != nil {
			lows, highs = append(lows, *x.seen.Min), append(highs, *x.seen.Max)
		}
	}
	if len(lows) < 2 {
		return c
	}
	slices.Sort(lows)
	slices.Sort(highs)
	n := len(highs)
	for _, x := range t.observed {
		if x.seen.Min == nil || len(x.seen.Samples) == 0 {
			continue
		}
		low, high := lows[0], highs[n-1]
		if *x.seen.Min == low {
			low = lows[1]
		}
		if *x.seen.Max == high {
			high = highs[n-2]
		}
		least, most := bounds(low, high)
		c.cross(x.times, x.seen.Samples, func(v facts.Value) bool {
			return least != nil && v.Int() < *least || most != nil && v.Int() > *most
		})
	}
	return c
}

// members leaves each run out of a set's, for a rule that demands (SupersetOf) or
// admits (SubsetOf) what the other runs had.
func (t *total) members(op reference.Op) (c crossings) {
	runs, had := 0, map[string]int{} // in how many runs: ever, or always
	for _, x := range t.observed {
		if x.seen.OK > 0 {
			runs++
			for _, m := range x.members(op) {
				had[m]++
			}
		}
	}
	if runs < 2 {
		return c
	}
	for _, x := range t.observed {
		if x.seen.OK == 0 || len(x.seen.Samples) == 0 {
			continue
		}
		own := x.members(op)
		c.cross(x.times, x.seen.Samples, func(v facts.Value) bool {
			if op == reference.SubsetOf {
				return slices.ContainsFunc(v.Set(), func(m string) bool { return had[m] == 1 }) // that one is this one
			}
			for m, n := range had {
				if n == runs-1 && !slices.Contains(own, m) && !slices.Contains(v.Set(), m) {
					return true
				}
			}
			return false
		})
	}
	return c
}

// An observed is a fact in one run.
type observed struct {
	times []int64
	seen  *Seen
}

// members returns those that the run ever had or, for SupersetOf, always had.
func (x *observed) members(op reference.Op) []string {
	if op == reference.SubsetOf {
		return x.seen.Texts
	}
	var always []string
	first := true
	for _, s := range x.seen.Samples {
		switch {
		case s.Status != facts.OK:
		case first:
			always, first = slices.Clone(s.Value.Set()), false
		default:
			always = slices.DeleteFunc(always, func(m string) bool { return !slices.Contains(s.Value.Set(), m) })
		}
	}
	return always
}
