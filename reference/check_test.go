package reference_test

import (
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/referencetest"
)

// TestNesting holds that what is allowed in use lies inside what must never be
// left, for each pair of comparisons of which that can be said.
func TestNesting(t *testing.T) {
	num := func(n int64) *int64 { return &n }
	between := func(low, high *int64) reference.Rule { return reference.Rule{Op: reference.Range, Min: low, Max: high} }
	ints := func(op reference.Op, ns ...int64) reference.Rule {
		r := reference.Rule{Op: op}
		for _, n := range ns {
			r.Values = append(r.Values, facts.IntValue(n))
		}
		return r
	}
	set := func(members ...string) reference.Rule {
		return reference.Rule{Op: reference.SubsetOf, Values: []facts.Value{facts.SetValue(members)}}
	}
	const load, listening = 21, 70
	for _, tt := range []struct {
		what    string
		fact    facts.Key
		use     reference.Rule
		extreme reference.Rule
		words   string // "": no complaint
	}{
		{"inside", load, between(num(1), num(9)), between(num(0), num(10)), ""},
		{"the same", load, between(num(0), num(10)), between(num(0), num(10)), ""},
		{"below", load, between(num(-1), num(9)), between(num(0), num(10)), "goes below the fail-safe minimum 0"},
		{"above", load, between(num(1), num(11)), between(num(0), num(10)), "goes above the fail-safe maximum 10"},
		{"open below", load, between(nil, num(9)), between(num(0), num(10)), "goes below the fail-safe minimum 0"},
		{"open above", load, between(num(1), nil), between(num(0), num(10)), "goes above the fail-safe maximum 10"},
		{"open where the extreme is", load, between(nil, num(9)), between(nil, num(10)), ""},
		{"a value inside", load, ints(reference.Equal, 10), between(num(0), num(10)), ""},
		{"a value above", load, ints(reference.Equal, 11), between(num(0), num(10)), "value 11 is outside the fail-safe range"},
		{"one of the values below", load, ints(reference.OneOf, 5, -1), between(num(0), num(10)), "value -1 is outside the fail-safe range"},
		{"a smaller set", listening, set("a"), set("a", "b"), ""},
		{"a larger set", listening, set("a", "c"), set("a", "b"), `allows "c"`},
	} {
		for _, stage := range []string{"integration", "operating"} {
			m := referencetest.Example()
			m.Operating = nil
			tt.use.Fact, tt.extreme.Fact, tt.extreme.Hold = tt.fact, tt.fact, 3000
			if stage == "integration" {
				m.Integration = append(m.Integration, tt.use)
			} else {
				m.Operating = append(m.Operating, tt.use)
			}
			m.FailSafe = append(m.FailSafe, tt.extreme)
			var errors []string
			for _, p := range m.Check() {
				if !p.Warning {
					errors = append(errors, p.Error())
				}
			}
			got := strings.Join(errors, "; ")
			if (tt.words == "") != (got == "") || !strings.Contains(got, tt.words) || tt.words != "" && !strings.HasPrefix(got, stage+"[") {
				t.Errorf("%s in %s: %q, want %q", tt.what, stage, got, tt.words)
			}
		}
	}
}
