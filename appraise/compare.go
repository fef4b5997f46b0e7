// Package appraise compares facts with their reference and decides the stage of
// a device. It is pure: no I/O, no clock, no goroutine. The device runs it to
// act, and the verifier runs the same code to check the device's word.
//
// A Comparison turns snapshots into results, one for each rule, with the holds
// of the rules. Step turns results into the next stage. Explain turns a result
// into words. What a reading says is taken as measured; what could not be
// measured is never taken as good or as bad.
package appraise

import (
	"fmt"
	"slices"

	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
)

// A Verdict is the outcome of one rule, with the numbers of the measres claim
// (RFC 9711 section 4.2.15).
type Verdict uint8

// The verdicts.
const (
	Passes       Verdict = 1
	Deviates     Verdict = 2
	NotAppraised Verdict = 3 // the fact could not be read, or not yet
	AbsentHere   Verdict = 4 // the fact is absent, and the rule says that this may be
)

func (v Verdict) String() string {
	switch v {
	case Passes:
		return "passes"
	case Deviates:
		return "deviates"
	case NotAppraised:
		return "not appraised"
	case AbsentHere:
		return "absent"
	}
	return fmt.Sprintf("verdict(%d)", uint8(v))
}

// A Result is what came of one rule in one round.
type Result struct {
	Stage   reference.Stage // whose rule: integration, operating, or paused for fail-safe
	Index   int             // of the rule in its stage
	Verdict Verdict
	Reading facts.Reading // that led to it
	Lasted  int64         // ms the value has been outside without a break, also before the hold is over
}

// Side is where a reading lies as seen from a rule.
type Side uint8

// The sides. Unknown is neither: it does not begin, continue or end a crossing.
const (
	Unknown Side = iota
	Inside
	Outside
)

// Look tells on which side of r the reading x lies.
func Look(r reference.Rule, x facts.Reading) Side {
	if r.Op == reference.IsAbsent {
		switch x.Status {
		case facts.Absent:
			return Inside
		case facts.OK:
			return Outside
		}
		return Unknown
	}
	switch x.Status {
	case facts.OK:
		return look(r, x.Value)
	case facts.Absent:
		if r.Absent == reference.AbsentDeviates {
			return Outside
		}
	}
	return Unknown
}

func look(r reference.Rule, v facts.Value) Side {
	in := false
	switch r.Op {
	case reference.Range:
		if v.Kind() != facts.Int {
			return Outside
		}
		in = (r.Min == nil || v.Int() >= *r.Min) && (r.Max == nil || v.Int() <= *r.Max)
	case reference.Equal, reference.OneOf:
		in = slices.ContainsFunc(r.Values, v.Equal)
	case reference.SubsetOf:
		in = v.Kind() == facts.Set && len(r.Values) == 1 && len(missing(v.Set(), r.Values[0].Set())) == 0
	case reference.SupersetOf:
		in = v.Kind() == facts.Set && len(r.Values) == 1 && len(missing(r.Values[0].Set(), v.Set())) == 0
	}
	if in {
		return Inside
	}
	return Outside
}

// missing returns the members of a that are not in b; both are sorted.
func missing(a, b []string) []string {
	var out []string
	for _, m := range a {
		if _, ok := slices.BinarySearch(b, m); !ok {
			out = append(out, m)
		}
	}
	return out
}

// maxStep bounds the time in ms between two rounds that counts towards a hold.
// A machine that was suspended, or an agent that did not get the processor, has
// not seen what happened meanwhile and must not count it.
const maxStep = 2000

// A Comparison holds the rules of one reference and how long each has been
// crossed. It is not safe for concurrent use.
type Comparison struct {
	ref     *reference.Reference
	rules   []tracked
	results []Result
	uptime  int64
	begun   bool
}

type tracked struct {
	stage  reference.Stage
	index  int
	rule   reference.Rule
	side   Side  // of the last reading that was not Unknown
	lasted int64 // ms on that side
	raised bool  // outside for the hold, and not yet inside for the hold
}

// NewComparison returns a comparison with the rules of all stages of ref.
func NewComparison(ref *reference.Reference) *Comparison {
	c := &Comparison{ref: ref}
	for _, stage := range []reference.Stage{reference.StageIntegration, reference.StageOperating, reference.StagePaused} {
		for i, r := range ref.Manifest().Rules(stage) {
			c.rules = append(c.rules, tracked{stage: stage, index: i, rule: r})
		}
	}
	c.results = make([]Result, len(c.rules))
	return c
}

// Restart forgets all holds, as after a pause.
func (c *Comparison) Restart() {
	for i := range c.rules {
		c.rules[i] = tracked{stage: c.rules[i].stage, index: c.rules[i].index, rule: c.rules[i].rule}
	}
	c.begun = false
}

// Compare appraises s. The results stand in the order of the stages and of
// their rules, and are valid until the next call.
//
// A rule deviates when its fact has been outside for the hold, and passes again
// when it has been inside for the hold. Time in which the fact could not be
// read counts for neither.
func (c *Comparison) Compare(s facts.Snapshot) []Result {
	step := int64(0)
	if c.begun {
		step = min(max(s.Uptime-c.uptime, 0), maxStep)
	}
	c.begun, c.uptime = true, s.Uptime
	for i := range c.rules {
		t := &c.rules[i]
		x := s.Reading(t.rule.Fact)
		side := Look(t.rule, x)
		t.take(side, step)
		c.results[i] = Result{Stage: t.stage, Index: t.index, Verdict: t.verdict(side, x.Status), Reading: x}
		if t.side == Outside {
			c.results[i].Lasted = t.lasted
		}
	}
	return c.results
}

func (t *tracked) take(side Side, step int64) {
	if side == Unknown {
		return
	}
	if side != t.side {
		t.side, t.lasted = side, 0
	} else {
		t.lasted += step
	}
	if t.lasted >= int64(t.rule.Hold) {
		t.raised = side == Outside
	}
}

func (t *tracked) verdict(side Side, status facts.Status) Verdict {
	switch {
	case t.raised:
		return Deviates
	case side != Unknown:
		return Passes
	case status == facts.Absent:
		return AbsentHere
	}
	return NotAppraised
}

// Outcome is what the integration comparison came to.
type Outcome uint8

// The outcomes. Undecided is not passed.
const (
	Undecided Outcome = iota
	Passed
	Failed
)

func (o Outcome) String() string { return [...]string{"undecided", "passed", "failed"}[min(o, 2)] }

// Integration returns what the results of the integration rules come to: failed
// when one deviates, undecided while one could not be appraised.
func Integration(results []Result) Outcome {
	out, n := Passed, 0
	for _, r := range results {
		if r.Stage != reference.StageIntegration {
			continue
		}
		n++
		switch r.Verdict {
		case Deviates:
			return Failed
		case NotAppraised:
			out = Undecided
		}
	}
	if n == 0 {
		return Undecided
	}
	return out
}

// Extreme returns the first fail-safe rule that deviates.
func Extreme(results []Result) (Result, bool) {
	for _, r := range results {
		if r.Stage == reference.StagePaused && r.Verdict == Deviates {
			return r, true
		}
	}
	return Result{}, false
}

// Bound is what the facts of a report allow the device to have concluded.
type Bound uint8

// The bounds.
const (
	Either      Bound = iota // the facts fit both
	MustDeviate              // outside for the whole interval, which is longer than the hold
	MustPass                 // inside for the whole interval, which is longer than the hold
)

// Recheck tells what a device that watched x over an interval of ms must have
// concluded for rule r. The verifier compares it with what the device claims.
func Recheck(r reference.Rule, x facts.Folded, ms int64) Bound {
	last := Look(r, x.Reading)
	if last == Unknown {
		return Either
	}
	if x.Status == facts.OK && x.Value.Kind() == facts.Int && r.Op == reference.Range {
		lo, hi := look(r, facts.IntValue(x.Min)), look(r, facts.IntValue(x.Max))
		// Both ends outside on different sides means that it was inside between.
		both := r.Min != nil && r.Max != nil && x.Min < *r.Min && x.Max > *r.Max
		if lo != last || hi != last || both {
			return Either
		}
	} else if r.Hold > 0 {
		return Either // only the last value is known, not how long it stood
	}
	if r.Hold > 0 && ms < int64(r.Hold)+maxStep {
		return Either
	}
	if last == Outside {
		return MustDeviate
	}
	return MustPass
}
