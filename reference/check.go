package reference

import (
	"fmt"
	"math"
	"slices"

	"github.com/miotfacts/miotfacts/facts"
)

// A Problem is one thing that is wrong with a manifest.
type Problem struct {
	Path    string // where: "operating[2].max", indices from 0
	Line    int    // in the authored file, from 1; 0 for what is not in it
	Message string // what is wrong, with the value and the limit
	Fix     string // what to do about it
	Warning bool   // it may be signed all the same
}

func (p Problem) Error() string {
	if p.Path == "" {
		return p.Message
	}
	return p.Path + ": " + p.Message
}

type checker struct {
	m     *Manifest
	vocab *facts.Vocabulary
	found []Problem
}

func (c *checker) bad(path, fix, format string, args ...any) {
	c.found = append(c.found, Problem{Path: path, Message: fmt.Sprintf(format, args...), Fix: fix})
}

func (c *checker) warn(path, fix, format string, args ...any) {
	c.found = append(c.found, Problem{Path: path, Message: fmt.Sprintf(format, args...), Fix: fix, Warning: true})
}

// Check returns everything that is wrong with m, in the order of its fields. A
// manifest with a problem that is not a warning is neither signed nor opened.
func (m *Manifest) Check() []Problem {
	c := &checker{m: m}
	c.head()
	vocab, err := m.Vocabulary()
	if err != nil {
		c.bad(m.firstBadApp(), "give every application fact a name, key and range of its own", "%v", err)
		return c.found
	}
	c.vocab = vocab
	for _, s := range []struct {
		name  string
		rules []Rule
	}{{"integration", m.Rules(StageIntegration)}, {"operating", m.Operating}, {"fail_safe", m.FailSafe}} {
		if len(s.rules) > MaxRules {
			c.bad(s.name, "merge rules", "%d rules, the limit is %d", len(s.rules), MaxRules)
			continue
		}
		for i, r := range s.rules {
			c.rule(fmt.Sprintf("%s[%d]", s.name, i), s.name, r, s.rules[:i])
		}
	}
	c.nesting()
	c.reaction()
	c.leeway()
	c.energy()
	c.boot()
	c.bootEvents()
	c.files()
	return c.found
}

// firstBadApp returns the path of the application fact with which the
// vocabulary stops being one.
func (m *Manifest) firstBadApp() string {
	for i := range m.Apps {
		part := Manifest{Apps: m.Apps[:i+1]}
		if _, err := part.Vocabulary(); err != nil {
			return fmt.Sprintf("app[%d]", i)
		}
	}
	return "app"
}

func (c *checker) head() {
	m := c.m
	if m.Version != 1 {
		c.bad("version", "write version = 1", "format version %d is not 1", m.Version)
	}
	for _, f := range []struct{ path, text string }{{"vendor", m.Vendor}, {"model", m.Model}} {
		if f.text == "" || len(f.text) > MaxName {
			c.bad(f.path, "name the "+f.path, "%d bytes, want 1 to %d", len(f.text), MaxName)
		}
	}
	if m.Sequence < 1 || m.Sequence > math.MaxInt64 {
		c.bad("sequence", "begin with 1 and raise it with every edition", "sequence %d is outside 1 to 2^63-1", m.Sequence)
	}
	if m.NotBefore <= 0 || m.NotAfter > endOfTime {
		c.bad("valid", "give valid.from and valid.until as dates", "validity from %s until %s is outside the years 1970 to 9999", stamp(m.NotBefore), stamp(m.NotAfter))
	} else if m.NotAfter <= m.NotBefore {
		c.bad("valid", "give a valid.until that is later than valid.from", "validity from %s until %s is empty", stamp(m.NotBefore), stamp(m.NotAfter))
	}
	if _, err := ParseVersion(m.MinAgent); m.MinAgent != "" && err != nil {
		c.bad("min_agent", "write a version such as \"0.1.0\"", "%v", err)
	}
	if m.Enforce < Observe || m.Enforce > Pause {
		c.bad("enforce", "write \"observe\", \"alarm\" or \"pause\"", "unknown degree %d", m.Enforce)
	}
	if m.ReportEvery < 1 || m.ReportEvery > 3600 {
		c.bad("report_every", "write \"60s\"", "%d s is outside 1 to 3600", m.ReportEvery)
	}
	if m.Resume.Signers < 1 || m.Resume.Signers > 2 {
		c.bad("resume.signers", "write 1, or 2 for the two-person rule", "%d signers, want 1 or 2", m.Resume.Signers)
	}
	if m.Resume.Lifetime < 60 || m.Resume.Lifetime > 604800 {
		c.bad("resume.lifetime", "write \"1h\"", "%d s is outside 60 to 604800", m.Resume.Lifetime)
	}
	if s := m.Silence; s != nil {
		if s.After < 1000 || s.After > 3600000 {
			c.bad("silence.after", "write \"30s\"", "%d ms is outside 1000 to 3600000", s.After)
		}
		if s.Then < Observe || s.Then > Pause {
			c.bad("silence.then", "write \"observe\", \"alarm\" or \"pause\"", "unknown degree %d", s.Then)
		}
	}
	if len(m.Apps) > MaxApps {
		c.bad("app", "hand in fewer facts", "%d application facts, the limit is %d", len(m.Apps), MaxApps)
	}
	for i, a := range m.Apps {
		if a.Unit == "" || len(a.Unit) > MaxUnit {
			c.bad(fmt.Sprintf("app[%d].unit", i), "write the unit as people read it; unit = \"1\" for a count", "%s: %d bytes, want 1 to %d", a.Name, len(a.Unit), MaxUnit)
		}
	}
	if len(m.Integration) == 0 {
		c.bad("integration", "add a rule, for example for boot.total", "no rule: every boot would be admitted")
	}
	if len(m.FailSafe) == 0 {
		c.warn("fail_safe", "add the extremes that must never be crossed", "no rule: nothing can make the device pause")
	}
}

func (c *checker) rule(at, stage string, r Rule, before []Rule) {
	d, ok := c.vocab.ByKey(r.Fact)
	if !ok {
		c.bad(at+".fact", "see the list of facts", "no fact has key %d", r.Fact)
		return
	}
	if slices.ContainsFunc(before, func(b Rule) bool { return b.Fact == r.Fact && b.Op == r.Op }) {
		c.bad(at+".fact", "merge both rules", "%s has a rule of this kind in this stage already", d.Name)
	}
	want := 0
	switch r.Op {
	case Range:
		c.rangeRule(at, d, r)
	case Equal:
		want = 1
	case OneOf:
		want = len(r.Values)
		if want == 0 || want > MaxValues {
			c.bad(at+".one_of", "list the values a sound device may have", "%s: %d values, want 1 to %d", d.Name, want, MaxValues)
		}
	case SubsetOf, SupersetOf:
		want = 1
		if d.Kind != facts.Set {
			c.bad(at, "use equal or one_of", "%s is of kind %s, sets only can be compared by %s", d.Name, d.Kind, r.Op)
			return
		}
	case IsAbsent:
		if r.Absent != AbsentDeviates {
			c.bad(at+".absent", "remove if_absent", "a rule that wants %s absent cannot say what absent means", d.Name)
		}
	default:
		c.bad(at, "use one of range, equal, one_of, subset_of, superset_of, absent", "%s: unknown comparison %d", d.Name, r.Op)
		return
	}
	if len(r.Values) != want {
		c.bad(at, "give the values that the comparison needs and no others", "%s: %d values for %s, want %d", d.Name, len(r.Values), r.Op, want)
	}
	if r.Op != Range && (r.Min != nil || r.Max != nil) {
		c.bad(at, "remove min and max", "%s: min and max belong to a range, this is %s", d.Name, r.Op)
	}
	for _, v := range r.Values {
		if v.Kind() != d.Kind {
			c.bad(at, fmt.Sprintf("write a value of kind %s", d.Kind), "%s is of kind %s, the rule has %s %s", d.Name, d.Kind, v.Kind(), v)
		} else if _, err := v.MarshalCBOR(); err != nil {
			c.bad(at, "shorten the value", "%s: %v", d.Name, err)
		} else if r.Op == SupersetOf && len(v.Set()) == 0 {
			c.bad(at+".superset_of", "list what must be there, or remove the rule", "%s: every set has all members of the empty one", d.Name)
		}
	}
	if r.Hold > 3600000 {
		c.bad(at+".hold", "write at most \"1h\"", "%s: hold of %d ms, the limit is 3600000", d.Name, r.Hold)
	}
	if r.Absent > AbsentNotAppraised {
		c.bad(at+".if_absent", "write \"deviates\" or \"not-appraised\"", "%s: unknown policy %d", d.Name, r.Absent)
	}
	if len(r.Why) > MaxWhy {
		c.bad(at+".why", "shorten it", "%s: %d bytes, the limit is %d", d.Name, len(r.Why), MaxWhy)
	}
	if stage != "integration" && d.Cadence == facts.Boot {
		c.warn(at+".fact", "move the rule to integration", "%s does not change after boot", d.Name)
	}
	if stage == "fail_safe" && d.Cadence == facts.Fast && r.Hold == 0 {
		c.warn(at+".hold", "write hold = \"3s\"", "%s: without a hold a single sample can pause the device", d.Name)
	}
}

func (c *checker) rangeRule(at string, d facts.Def, r Rule) {
	switch {
	case d.Kind != facts.Int:
		c.bad(at, "use equal or one_of", "%s is of kind %s, integers only have a range", d.Name, d.Kind)
	case r.Min == nil && r.Max == nil:
		c.bad(at, "write min, max or both", "%s: a range without an end lets everything pass", d.Name)
	case r.Min != nil && r.Max != nil && *r.Min > *r.Max:
		c.bad(at+".min", "exchange min and max", "%s: min %d is above max %d", d.Name, *r.Min, *r.Max)
	case d.Min < d.Max && r.Max != nil && (*r.Max < d.Min || *r.Max > d.Max):
		c.bad(at+".max", "stay inside the declared range", "%s: max %d is outside the declared %d to %d", d.Name, *r.Max, d.Min, d.Max)
	case d.Min < d.Max && r.Min != nil && (*r.Min < d.Min || *r.Min > d.Max):
		c.bad(at+".min", "stay inside the declared range", "%s: min %d is outside the declared %d to %d", d.Name, *r.Min, d.Min, d.Max)
	}
}

// nesting holds that what is allowed before lies inside what must never be left.
func (c *checker) nesting() {
	for _, s := range []struct {
		name  string
		rules []Rule
	}{{"integration", c.m.Integration}, {"operating", c.m.Operating}} {
		for i, r := range s.rules {
			for _, x := range c.m.FailSafe {
				if x.Fact == r.Fact {
					c.nested(fmt.Sprintf("%s[%d]", s.name, i), s.name, r, x)
				}
			}
		}
	}
}

// nested compares rule r of stage with the fail-safe rule x of the same fact,
// where both are of kinds that can be compared.
func (c *checker) nested(at, stage string, r, x Rule) {
	n := c.vocab.Name(r.Fact)
	switch {
	case r.Op == Range && x.Op == Range:
		if x.Min != nil && (r.Min == nil || *r.Min < *x.Min) {
			c.bad(at+".min", fmt.Sprintf("write min = %d or more", *x.Min), "%s: the %s range goes below the fail-safe minimum %d", n, stage, *x.Min)
		}
		if x.Max != nil && (r.Max == nil || *r.Max > *x.Max) {
			c.bad(at+".max", fmt.Sprintf("write max = %d or less", *x.Max), "%s: the %s range goes above the fail-safe maximum %d", n, stage, *x.Max)
		}
	case (r.Op == Equal || r.Op == OneOf) && x.Op == Range:
		for _, v := range r.Values {
			if x.Min != nil && v.Int() < *x.Min || x.Max != nil && v.Int() > *x.Max {
				c.bad(at+"."+r.Op.String(), "write values inside the fail-safe range", "%s: the %s value %s is outside the fail-safe range", n, stage, v)
			}
		}
	case r.Op == SubsetOf && x.Op == SubsetOf && len(r.Values) == 1 && len(x.Values) == 1:
		for _, member := range r.Values[0].Set() {
			if !slices.Contains(x.Values[0].Set(), member) {
				c.bad(at+".subset_of", "add it to the fail-safe rule, or remove it here", "%s: the %s rule allows %q, the fail-safe rule does not", n, stage, member)
			}
		}
	}
}

func (c *checker) reaction() {
	m := c.m
	if len(m.Reaction) > MaxReactions {
		c.bad("reaction", "shorten the chain", "%d steps, the limit is %d", len(m.Reaction), MaxReactions)
	}
	if m.Enforce == Pause && len(m.FailSafe) > 0 && len(m.Reaction) == 0 {
		c.bad("reaction", "add at least one step, or write enforce = \"alarm\"", "enforce is pause and no step makes the device pause")
	}
	for i, r := range m.Reaction {
		at := fmt.Sprintf("reaction[%d]", i)
		if field, fix, err := r.check(); err != nil {
			c.bad(at+"."+field, fix, "%v", err)
		}
		if r.OnlyIf > IfFailed || r.OnlyIf != 0 && i == 0 {
			c.bad(at+".only_if", `remove it, or write only_if = "failed" in a later step`, "condition %d of step %d: there is no step before it, or the condition is unknown", r.OnlyIf, i)
		}
		if r.Do == Prepare && i > 0 {
			c.bad(at+".do", "make it the first step", "prepare is step %d: what came before may have stopped the application already", i)
		}
		if r.Do == Quarantine && slices.ContainsFunc(m.Reaction[:i], func(b Reaction) bool { return b.Do == Quarantine }) {
			c.bad(at+".do", "name all peers in one step", "a second quarantine")
		}
		if r.Deadline < 1 || r.Deadline > 60000 {
			c.bad(at+".within", "write within = \"2s\"", "deadline of %d ms is outside 1 to 60000", r.Deadline)
		}
	}
}

func (c *checker) boot() {
	b := c.m.Boot
	if b == nil {
		return
	}
	if len(b.PCRs) == 0 || len(b.PCRs) > 24 {
		c.bad("boot.pcrs", "select the PCRs that your boot chain extends, such as [0, 2, 4, 7]", "%d PCRs, want 1 to 24", len(b.PCRs))
	}
	for i, p := range b.PCRs {
		if p < 0 || p > 23 || i > 0 && b.PCRs[i-1] >= p {
			c.bad("boot.pcrs", "list them once each in ascending order, 0 to 23", "PCR %d at place %d", p, i)
		}
	}
	if len(b.Accept) == 0 && len(c.m.BootEvents) == 0 {
		c.warn("boot.accept", "record the digest of a sound boot", "no digest: the boot state is reported and not appraised")
	}
	if len(b.Accept) > 64 {
		c.bad("boot.accept", "drop the digests of versions that are out of use", "%d digests, the limit is 64", len(b.Accept))
	}
	for i, d := range b.Accept {
		if len(d) != 32 {
			c.bad(fmt.Sprintf("boot.accept[%d]", i), "write 64 hexadecimal digits", "digest of %d bytes, want 32", len(d))
		}
	}
}
