package appraise

import (
	"fmt"
	"strings"

	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
)

// Explain says a result in words: the fact, its value, the limit, the stage.
func Explain(ref *reference.Reference, r Result) string {
	rules := ref.Manifest().Rules(r.Stage)
	if r.Index < 0 || r.Index >= len(rules) {
		return fmt.Sprintf("%s rule %d: not in the manifest", stageWord(r.Stage), r.Index)
	}
	rule := rules[r.Index]
	def, _ := ref.Vocabulary().ByKey(rule.Fact)
	text := fmt.Sprintf("%s: %s %s", stageWord(r.Stage), def.Name, saw(def, r.Reading))
	if r.Verdict == Passes && r.Lasted == 0 {
		return text + ", as expected: " + Expectation(def, rule)
	}
	if rule.Op == reference.SubsetOf && r.Reading.Status == facts.OK && len(rule.Values) == 1 {
		if extra := missing(r.Reading.Value.Set(), rule.Values[0].Set()); len(extra) > 0 {
			text = fmt.Sprintf("%s: %s has %s, which nobody declared", stageWord(r.Stage), def.Name, strings.Join(extra, ", "))
		}
	}
	if rule.Op == reference.SupersetOf && r.Reading.Status == facts.OK && len(rule.Values) == 1 {
		if lost := missing(rule.Values[0].Set(), r.Reading.Value.Set()); len(lost) > 0 {
			text = fmt.Sprintf("%s: %s lacks %s", stageWord(r.Stage), def.Name, strings.Join(lost, ", "))
		}
	}
	text += "; expected " + Expectation(def, rule)
	if r.Lasted > 0 {
		text += fmt.Sprintf("; outside for %.1f s", float64(r.Lasted)/1000)
	}
	if rule.Hold > 0 && r.Verdict == Passes {
		text += fmt.Sprintf(" of the %.1f s that count", float64(rule.Hold)/1000)
	}
	if rule.Why != "" {
		text += " (" + rule.Why + ")"
	}
	return text
}

func stageWord(s reference.Stage) string {
	if s == reference.StagePaused {
		return "fail-safe"
	}
	return s.String()
}

func saw(d facts.Def, x facts.Reading) string {
	switch x.Status {
	case facts.OK:
		return "is " + Show(d, x.Value)
	case facts.Absent:
		return "is absent" + because(x)
	case facts.Pending:
		return "is not known yet" + because(x)
	}
	return "is " + x.Status.String() + because(x)
}

func because(x facts.Reading) string {
	if x.Reason == "" {
		return ""
	}
	return " (" + x.Reason + ")"
}

// Show returns v with the unit of d.
func Show(d facts.Def, v facts.Value) string {
	if d.Unit == "" || d.Unit == "1" {
		return v.String()
	}
	return v.String() + " " + d.Unit
}

// Expectation says what a rule expects of the fact d.
func Expectation(d facts.Def, r reference.Rule) string {
	switch r.Op {
	case reference.Range:
		switch {
		case r.Min != nil && r.Max != nil:
			return fmt.Sprintf("%d to %s", *r.Min, Show(d, facts.IntValue(*r.Max)))
		case r.Min != nil:
			return "at least " + Show(d, facts.IntValue(*r.Min))
		case r.Max != nil:
			return "at most " + Show(d, facts.IntValue(*r.Max))
		}
	case reference.Equal:
		if len(r.Values) == 1 {
			return Show(d, r.Values[0])
		}
	case reference.OneOf:
		words := make([]string, len(r.Values))
		for i, v := range r.Values {
			words[i] = Show(d, v)
		}
		return "one of " + strings.Join(words, ", ")
	case reference.SubsetOf:
		if len(r.Values) == 1 {
			return "nothing but " + r.Values[0].String()
		}
	case reference.SupersetOf:
		if len(r.Values) == 1 {
			return "all of " + r.Values[0].String()
		}
	case reference.IsAbsent:
		return "to be absent"
	}
	return "something this version does not know"
}
