package baseline

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
)

// Options are what a draft takes from the engineer and not from a recording.
type Options struct {
	Vendor, Model string
	Sequence      uint64 // 0: 1
	From, Until   int64  // validity, Unix seconds
	Margin        int64  // added beyond what was seen, per mille of it; 0: 250
}

// A Note says why a fact has or has not a rule in the draft.
type Note struct {
	Fact  string
	Stage string // "" where nothing is proposed
	Text  string
}

// Draft proposes a manifest for devices like those in the recordings, and says
// of every fact that was recorded what was made of it. The manifest passes
// Check. Its numbers are the extremes that were seen, widened by a margin:
// no distribution is assumed, and what that is worth stands beside each.
//
// A fact that could not be read, even once, gets no rule. Fail-safe extremes
// cannot be measured on a sound device; those in the draft are marked as such.
func Draft(recordings []*Recording, o Options) (*reference.Manifest, []Note, error) {
	if o.Margin == 0 {
		o.Margin = 250
	}
	if o.Margin < 0 || o.Margin > 10_000 {
		return nil, nil, fmt.Errorf("cannot draft: margin of %d per mille is outside 0 to 10000", o.Margin)
	}
	vocab, err := facts.NewVocabulary(nil)
	if err != nil {
		return nil, nil, err
	}
	d := &drafter{opt: o, m: &reference.Manifest{
		Version: 1, Vendor: o.Vendor, Model: o.Model, Sequence: max(o.Sequence, 1), NotBefore: o.From, NotAfter: o.Until,
		Enforce: reference.Alarm, ReportEvery: 60, Resume: reference.ResumePolicy{Signers: 1, Lifetime: 3600},
		Silence: &reference.Silence{After: 30_000, Then: reference.Alarm},
	}}
	runs, boots := 0, map[string]bool{}
	merged := map[string]*total{}
	for _, rec := range recordings {
		for _, r := range rec.Runs {
			runs++
			boots[r.Boot] = true
			for i := range r.Facts {
				s := &r.Facts[i]
				if merged[s.Fact] == nil {
					merged[s.Fact] = &total{boots: map[string]bool{}}
				}
				merged[s.Fact].add(*s, r.Boot)
				merged[s.Fact].observed = append(merged[s.Fact].observed, observed{r.Times, s})
			}
		}
	}
	if runs == 0 {
		return nil, nil, errors.New("cannot draft: the recordings hold no run")
	}
	for _, def := range vocab.Defs() {
		if t := merged[def.Name]; t != nil {
			d.propose(def, t)
		}
	}
	if len(d.m.Integration) == 0 {
		return nil, d.notes, errors.New("cannot draft: no fact of the boot was measured, so nothing can admit a device to operation")
	}
	for _, p := range d.m.Check() {
		if !p.Warning {
			return nil, d.notes, fmt.Errorf("cannot draft: %w", p)
		}
	}
	return d.m, d.notes, nil
}

// A total is what one fact was in all runs.
type total struct {
	Seen
	runs     int // with a value
	boots    map[string]bool
	observed []observed // run by run

	always  []string // members of a Set in every sample of all runs
	sampled bool     // always is of some run
	unknown bool     // a run was recorded without samples
}

func (t *total) add(s Seen, boot string) {
	if s.OK > 0 {
		t.runs++
		t.boots[boot] = true
	}
	// Counts of long recordings stop rising rather than wrap to a small number.
	t.OK, t.Absent, t.Failed = sum(t.OK, s.OK), sum(t.Absent, s.Absent), sum(t.Failed, s.Failed)
	t.Varied = t.Varied || s.Varied
	if s.Reason != "" {
		t.Reason = s.Reason
	}
	if s.Min != nil {
		low, high := *s.Min, *s.Max
		if t.Min != nil {
			low, high = min(low, *t.Min), max(high, *t.Max)
		}
		t.Min, t.Max = &low, &high
	}
	for _, b := range s.Bools {
		if !slices.Contains(t.Bools, b) {
			t.Bools = append(t.Bools, b)
		}
	}
	t.unknown = t.unknown || s.OK > 0 && len(s.Samples) == 0
	for _, x := range s.Samples {
		switch {
		case x.Status != facts.OK || x.Value.Kind() != facts.Set:
		case !t.sampled:
			t.always, t.sampled = slices.Clone(x.Value.Set()), true
		default:
			t.always = slices.DeleteFunc(t.always, func(m string) bool { return !slices.Contains(x.Value.Set(), m) })
		}
	}
	t.Texts = append(t.Texts, s.Texts...)
	slices.Sort(t.Texts)
	t.Texts = slices.Compact(t.Texts)
}

func sum(a, b uint32) uint32 {
	if b > math.MaxUint32-a {
		return math.MaxUint32
	}
	return a + b
}

// A treatment is what a recording can say about one fact.
type treatment struct {
	skip      string // why it says nothing
	low, high bool   // which ends of a range to propose
	exact     bool   // no margin
	bits      bool   // not a quantity: bits or a level, one value only
	want      bool   // of a Bool: the value that a sound device has
	extreme   bool   // suggest a fail-safe extreme as well
	complete  bool   // of a Set: a member that goes missing is as bad as one that comes
}

func treat(d facts.Def) treatment {
	switch d.Name {
	case "boot.count", "energy.used", "energy.gaps", "energy.cycles", "integrity.ima_count", "time.operating_hours", "software.last_update":
		return treatment{skip: "it grows with time; what was seen says nothing about later"}
	case "software.agent":
		return treatment{skip: "min_agent says which agents will do"}
	case "network.addresses", "network.default_route", "network.dns":
		return treatment{skip: "the network that a device is put into gives it; declare by hand what your devices have of their own"}
	case "network.peers":
		return treatment{skip: "ports of incoming connections are chosen at random; declare the peers by hand"}
	case "memory.oom_kills", "integrity.ima_violations", "time.jumps":
		return treatment{high: true, exact: true}
	case "integrity.taint", "integrity.ptrace_scope":
		return treatment{bits: true}
	case "memory.available":
		return treatment{low: true, extreme: true}
	case "energy.battery", "energy.battery_health":
		return treatment{low: true}
	case "energy.voltage", "time.rtc":
		return treatment{low: true, high: true}
	case "thermal.max", "energy.power":
		return treatment{high: true, extreme: true}
	case "energy.undervoltage", "integrity.tamper":
		return treatment{want: false}
	case "service.active", "integrity.lsm", "events.channels":
		return treatment{complete: true}
	case "energy.computed":
		return treatment{skip: "it says how energy.power is known"}
	}
	if d.Cadence == facts.Boot {
		return treatment{low: true, high: true, want: true}
	}
	return treatment{high: true, want: true}
}

type drafter struct {
	opt   Options
	m     *reference.Manifest
	notes []Note
}

func (d *drafter) skip(def facts.Def, format string, args ...any) {
	d.notes = append(d.notes, Note{Fact: def.Name, Text: fmt.Sprintf(format, args...)})
}

func (d *drafter) rule(def facts.Def, stage string, r reference.Rule) {
	r.Fact = def.Key
	if len(r.Why) > reference.MaxWhy {
		r.Why = strings.ToValidUTF8(r.Why[:reference.MaxWhy-3], "") + "..."
	}
	switch stage {
	case "integration":
		d.m.Integration = append(d.m.Integration, r)
	case "operating":
		d.m.Operating = append(d.m.Operating, r)
	default:
		d.m.FailSafe = append(d.m.FailSafe, r)
	}
	d.notes = append(d.notes, Note{Fact: def.Name, Stage: stage, Text: r.Why})
}

func (d *drafter) propose(def facts.Def, t *total) {
	how := treat(def)
	switch {
	case t.Failed > 0:
		d.skip(def, "it could not be read in %d rounds (%s)", t.Failed, t.Reason)
		return
	case t.OK == 0 && t.Absent > 0:
		d.skip(def, "absent on this machine (%s)", t.Reason)
		return
	case t.OK == 0:
		d.skip(def, "it never had a value (%s)", t.Reason)
		return
	case t.Varied:
		d.skip(def, "it had more values than a recording keeps")
		return
	case how.skip != "":
		d.skip(def, "%s", how.skip)
		return
	}
	r := reference.Rule{}
	if t.Absent > 0 {
		r.Absent = reference.AbsentNotAppraised
	}
	stage, n, what := "operating", t.runs, "run"
	if def.Cadence == facts.Boot {
		stage, n, what = "integration", len(t.boots), "boot"
	}
	seen := count(n, what)
	if what == "run" {
		seen += ", " + count(int(t.OK), "sample")
	}
	switch def.Kind {
	case facts.Int:
		d.number(def, how, t, r, stage, seen, worth(n, what))
	case facts.Bool:
		if len(t.Bools) != 1 || t.Bools[0] != how.want {
			d.skip(def, "a sound device has %v here, the recorded one had %v", how.want, t.Bools)
			return
		}
		r.Op, r.Values = reference.Equal, []facts.Value{facts.BoolValue(how.want)}
		r.Why = seen + ": always so"
		d.rule(def, stage, r)
	case facts.Set:
		r.Op, r.Values = reference.SubsetOf, []facts.Value{facts.SetValue(slices.Clone(t.Texts))}
		r.Why = fmt.Sprintf("%s: %s ever seen; %s", seen, count(len(t.Texts), "member"), worth(n, what))
		d.hold(&r, stage, def, func() crossings { return t.members(reference.SubsetOf) })
		if len(t.Texts) > facts.MaxSet {
			d.skip(def, "%d members were seen, a rule holds %d", len(t.Texts), facts.MaxSet)
			return
		}
		d.rule(def, stage, r)
		r.Hold = 0
		if how.complete && !t.unknown && len(t.always) > 0 {
			r.Op, r.Values = reference.SupersetOf, []facts.Value{facts.SetValue(slices.Clone(t.always))}
			r.Why = fmt.Sprintf("%s: %s there in every one; %s", seen, count(len(t.always), "member"), worth(n, what))
			d.hold(&r, stage, def, func() crossings { return t.members(reference.SupersetOf) })
			d.rule(def, stage, r)
		}
	default:
		for _, text := range t.Texts {
			v := facts.TextValue(text)
			if def.Kind == facts.Bytes {
				raw, err := hex.DecodeString(text)
				if err != nil {
					d.skip(def, "%q is not hexadecimal", text)
					return
				}
				v = facts.BytesValue(raw)
			}
			r.Values = append(r.Values, v)
		}
		r.Op = reference.OneOf
		if len(r.Values) == 1 {
			r.Op = reference.Equal
		}
		if len(r.Values) > reference.MaxValues {
			d.skip(def, "%d values were seen, a rule holds %d", len(r.Values), reference.MaxValues)
			return
		}
		r.Why = fmt.Sprintf("%s: %s seen; %s", seen, count(len(r.Values), "value"), worth(n, what))
		d.rule(def, stage, r)
	}
}

// number proposes a range from the least and the greatest value that were seen.
func (d *drafter) number(def facts.Def, how treatment, t *total, r reference.Rule, stage, seen, worth string) {
	low, high := *t.Min, *t.Max
	unit := ""
	if def.Unit != "1" {
		unit = " " + def.Unit
	}
	if low < -1<<50 || high > 1<<50 {
		d.skip(def, "%d to %d%s is beyond what a machine shows", low, high, unit)
		return
	}
	r.Why = fmt.Sprintf("%s: %d to %d%s; ", seen, low, high, unit)
	if low == high {
		r.Why = fmt.Sprintf("%s: %d%s; ", seen, low, unit)
	}
	if how.bits {
		if low != high {
			d.skip(def, "it changed between %d and %d, and each value has a meaning of its own", low, high)
			return
		}
		r.Op, r.Values = reference.Equal, []facts.Value{facts.IntValue(low)}
		r.Why += "each value has a meaning of its own, so no margin"
		d.rule(def, stage, r)
		return
	}
	r.Op = reference.Range
	if how.exact {
		r.Max = &high
		r.Why += "no margin: each step up is an event"
		d.rule(def, stage, r)
		return
	}
	bounds := func(low, high int64) (least, most *int64) { return d.bounds(def, how, low, high) }
	r.Min, r.Max = bounds(low, high)
	if r.Min == nil && r.Max == nil {
		d.skip(def, "%d to %d%s was seen; with a margin nothing would be outside", low, high, unit)
		return
	}
	r.Why += fmt.Sprintf("margin %d %%, at least %d; each end %s", d.opt.Margin/10, floor(def.Unit), worth)
	d.hold(&r, stage, def, func() crossings { return t.numbers(bounds) })
	d.rule(def, stage, r)
	if how.extreme {
		d.extreme(def, r, t.numbers(func(low, high int64) (least, most *int64) {
			least, most = bounds(low, high)
			return d.widened(def, least, most)
		}))
	}
}

// bounds are the ends of the range for a number that was low to high.
func (d *drafter) bounds(def facts.Def, how treatment, low, high int64) (least, most *int64) {
	margin := floor(def.Unit)
	if how.low {
		if m := roundDown(low - max(abs(low)*d.opt.Margin/1000, margin)); m > 0 || def.Unit == "m°C" {
			least = &m
		}
	}
	if how.high {
		m := roundUp(high + max(abs(high)*d.opt.Margin/1000, margin))
		if def.Unit != "permille" || def.Name == "cpu.load" || def.Name == "cpu.wait" || m < 1000 {
			most = &m
		}
	}
	return least, most
}

// hold gives a rule of operating the hold that would have kept it silent in the
// runs that were left out. One of integration is asked once a boot and has none.
func (d *drafter) hold(r *reference.Rule, stage string, def facts.Def, found func() crossings) {
	if stage != "operating" || def.Cadence == facts.Boot {
		return
	}
	c := found()
	var why string
	r.Hold, why = c.hold()
	r.Why += "; " + why
}

// extremeHold is the hold in ms of fail-safe rules: three samples.
const extremeHold = 3000

// extreme suggests a fail-safe limit beyond the operating range r.
func (d *drafter) extreme(def facts.Def, r reference.Rule, c crossings) {
	x := reference.Rule{Op: reference.Range, Absent: r.Absent, Hold: extremeHold}
	if x.Min, x.Max = d.widened(def, r.Min, r.Max); x.Min == nil && x.Max == nil {
		return
	}
	x.Why = "suggested, not measured: replace by the safety limit. The operating bound widened, hold of three samples"
	if c.crossed > 0 { // no longer hold for it: a pause would come that much later
		x.Why += fmt.Sprintf("; %d of %s left out crossed it: the bound is too near", c.crossed, count(c.runs, "run"))
	}
	d.rule(def, "fail_safe", x)
}

// widened are the fail-safe ends beyond those of operating.
func (d *drafter) widened(def facts.Def, least, most *int64) (*int64, *int64) {
	if most != nil {
		m := roundUp(*most + max(abs(*most)*2*d.opt.Margin/1000, 2*floor(def.Unit)))
		return nil, &m
	}
	if least != nil {
		if m := roundDown(*least / 2); m > 0 {
			return &m, nil
		}
	}
	return nil, nil
}

// floor is the least margin in a unit: below it lies what differs between two
// sound devices, or two warm days.
func floor(unit string) int64 {
	switch unit {
	case "permille":
		return 50
	case "m°C":
		return 5000
	case "s":
		return 60
	case "ms":
		return 500
	case "mW", "mJ":
		return 500
	case "mV":
		return 100
	case "B/s":
		return 10_000
	case "KiB":
		return 8192
	}
	return 1
}

// worth says what the extremes of n independent observations are worth
// (distribution-free tolerance limit): with confidence 1 - 0.95^n they cover 95 %.
func worth(n int, what string) string {
	if n >= 59 {
		return fmt.Sprintf("covers 95 %% of %ss with 95 %% confidence", what)
	}
	return fmt.Sprintf("covers 95 %% of %ss with %d %% confidence; 59 %ss give 95 %%", what, Confidence(n), what)
}

// Confidence in percent that the extremes of n independent observations cover 95 %
// of all: 1 - 0.95^n, whatever their distribution.
func Confidence(n int) int {
	percent := int(math.Round(100 * (1 - math.Pow(0.95, float64(n)))))
	if n < 59 {
		percent = min(percent, 94)
	}
	return percent
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func abs(n int64) int64 { return max(n, -n) }

// roundUp returns the next number with two significant digits that is not below n.
func roundUp(n int64) int64 {
	if n < 0 {
		return -roundDown(-n)
	}
	step := step(n)
	return (n + step - 1) / step * step
}

func roundDown(n int64) int64 {
	if n < 0 {
		return -roundUp(-n)
	}
	return n / step(n) * step(n)
}

func step(n int64) int64 {
	s := int64(1)
	for n >= 100 {
		n /= 10
		s *= 10
	}
	return s
}
