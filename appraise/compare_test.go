package appraise_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/appraise"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/referencetest"
)

func num(n int64) *int64 { return &n }

func ok(k facts.Key, v facts.Value) facts.Reading { return facts.Reading{Key: k, Value: v} }

func TestLook(t *testing.T) {
	set := func(m ...string) facts.Value { return facts.SetValue(m) }
	in := func(v ...facts.Value) []facts.Value { return v }
	for _, tt := range []struct {
		name string
		rule reference.Rule
		x    facts.Reading
		want appraise.Side
	}{
		{"at the minimum", reference.Rule{Op: reference.Range, Min: num(5)}, ok(1, facts.IntValue(5)), appraise.Inside},
		{"below the minimum", reference.Rule{Op: reference.Range, Min: num(5)}, ok(1, facts.IntValue(4)), appraise.Outside},
		{"at the maximum", reference.Rule{Op: reference.Range, Max: num(5)}, ok(1, facts.IntValue(5)), appraise.Inside},
		{"above the maximum", reference.Rule{Op: reference.Range, Max: num(5)}, ok(1, facts.IntValue(6)), appraise.Outside},
		{"range of a text", reference.Rule{Op: reference.Range, Max: num(5)}, ok(1, facts.TextValue("")), appraise.Outside},
		{"equal", reference.Rule{Op: reference.Equal, Values: in(facts.BoolValue(true))}, ok(1, facts.BoolValue(true)), appraise.Inside},
		{"not equal", reference.Rule{Op: reference.Equal, Values: in(facts.BoolValue(true))}, ok(1, facts.BoolValue(false)), appraise.Outside},
		{"a value never set", reference.Rule{Op: reference.Equal, Values: in(facts.Value{})}, ok(1, facts.Value{}), appraise.Outside},
		{"one of", reference.Rule{Op: reference.OneOf, Values: in(facts.TextValue("a"), facts.TextValue("b"))}, ok(1, facts.TextValue("b")), appraise.Inside},
		{"one of none", reference.Rule{Op: reference.OneOf}, ok(1, facts.TextValue("b")), appraise.Outside},
		{"subset", reference.Rule{Op: reference.SubsetOf, Values: in(set("a", "b"))}, ok(1, set("b")), appraise.Inside},
		{"the empty set is a subset", reference.Rule{Op: reference.SubsetOf, Values: in(set("a", "b"))}, ok(1, set()), appraise.Inside},
		{"not a subset", reference.Rule{Op: reference.SubsetOf, Values: in(set("a", "b"))}, ok(1, set("b", "c")), appraise.Outside},
		{"subset of nothing said", reference.Rule{Op: reference.SubsetOf}, ok(1, set()), appraise.Outside},
		{"superset", reference.Rule{Op: reference.SupersetOf, Values: in(set("a"))}, ok(1, set("a", "b")), appraise.Inside},
		{"not a superset", reference.Rule{Op: reference.SupersetOf, Values: in(set("a"))}, ok(1, set("b")), appraise.Outside},
		{"absent as wanted", reference.Rule{Op: reference.IsAbsent}, facts.Reading{Status: facts.Absent}, appraise.Inside},
		{"present though unwanted", reference.Rule{Op: reference.IsAbsent}, ok(1, facts.IntValue(0)), appraise.Outside},
		{"unreadable is not absent", reference.Rule{Op: reference.IsAbsent}, facts.Reading{Status: facts.Unreadable}, appraise.Unknown},
		{"absent deviates", reference.Rule{Op: reference.Range, Max: num(1)}, facts.Reading{Status: facts.Absent}, appraise.Outside},
		{"absent may be", reference.Rule{Op: reference.Range, Max: num(1), Absent: reference.AbsentNotAppraised}, facts.Reading{Status: facts.Absent}, appraise.Unknown},
		{"unreadable", reference.Rule{Op: reference.Range, Max: num(1)}, facts.Reading{Status: facts.Unreadable}, appraise.Unknown},
		{"stale", reference.Rule{Op: reference.Range, Max: num(1)}, facts.Reading{Status: facts.Stale}, appraise.Unknown},
		{"malformed", reference.Rule{Op: reference.Range, Max: num(1)}, facts.Reading{Status: facts.Malformed}, appraise.Unknown},
		{"pending", reference.Rule{Op: reference.Range, Max: num(1)}, facts.Reading{Status: facts.Pending}, appraise.Unknown},
		{"unknown comparison", reference.Rule{Op: 99}, ok(1, facts.IntValue(0)), appraise.Outside},
	} {
		if got := appraise.Look(tt.rule, tt.x); got != tt.want {
			t.Errorf("%s: side %d, want %d", tt.name, got, tt.want)
		}
	}
}

// A round is one second of app.flow: a number, or a letter for what came
// instead: u unreadable, a absent, p pending.
func run(t *testing.T, c *appraise.Comparison, start int64, rounds string) (verdicts string) {
	t.Helper()
	for i, word := range strings.Fields(rounds) {
		x := facts.Reading{Key: 1000}
		switch word {
		case "u":
			x.Status = facts.Unreadable
		case "a":
			x.Status = facts.Absent
		case "p":
			x.Status = facts.Pending
		case "high":
			x.Value = facts.IntValue(600)
		case "low":
			x.Value = facts.IntValue(100)
		default:
			t.Fatalf("unknown round %q", word)
		}
		for _, r := range c.Compare(facts.Snapshot{Uptime: start + int64(i)*1000, Readings: []facts.Reading{x}}) {
			if r.Stage == reference.StagePaused {
				verdicts += [...]string{"?", ".", "X", "-", "a"}[r.Verdict]
			}
		}
	}
	return verdicts
}

func TestHolds(t *testing.T) {
	w := referencetest.New(t)
	ref := w.Open(t, referencetest.Example()) // app.flow at most 500, hold 3 s
	for _, tt := range []struct{ name, rounds, want string }{
		{"a spike shorter than the hold", "low high high high low", "....."},
		{"a crossing for the hold", "low high high high high low", "....X" + "X"},
		{"back inside for the hold", "high high high high low low low low", "...XXXX."},
		{"unreadable does not count", "high high u u u high high", "..---.X"},
		{"unreadable does not clear", "high high high high u u u u low", "...XXXXXX"},
		{"never read", "u u u u u", "-----"},
		{"absent may be", "a a a a a", "aaaaa"},
		{"flapping never lasts", "high low high low high low high low", "........"},
	} {
		if got := run(t, appraise.NewComparison(ref), 0, tt.rounds); got != tt.want {
			t.Errorf("%s: %s gave %s, want %s", tt.name, tt.rounds, got, tt.want)
		}
	}
}

func TestSuspendDoesNotCount(t *testing.T) {
	w := referencetest.New(t)
	c := appraise.NewComparison(w.Open(t, referencetest.Example()))
	if got := run(t, c, 0, "high") + run(t, c, 3600_000, "high"); got != ".." {
		t.Errorf("an hour asleep counted towards the hold: %s", got)
	}
	if got := run(t, c, 3601_000, "high"); got != "X" {
		t.Errorf("time awake did not count: %s", got)
	}
}

func TestRestartForgets(t *testing.T) {
	w := referencetest.New(t)
	c := appraise.NewComparison(w.Open(t, referencetest.Example()))
	if got := run(t, c, 0, "high high high high"); got != "...X" {
		t.Fatal(got)
	}
	c.Restart()
	if got := run(t, c, 4000, "high low"); got != ".." {
		t.Errorf("after a restart: %s", got)
	}
}

func TestIntegration(t *testing.T) {
	w := referencetest.New(t)
	ref := w.Open(t, referencetest.Example())
	for _, tt := range []struct {
		name string
		x    facts.Reading
		want appraise.Outcome
	}{
		{"inside", ok(6, facts.IntValue(9000)), appraise.Passed},
		{"too long", ok(6, facts.IntValue(90000)), appraise.Failed},
		{"absent", facts.Reading{Key: 6, Status: facts.Absent}, appraise.Failed},
		{"pending", facts.Reading{Key: 6, Status: facts.Pending}, appraise.Undecided},
		{"unreadable", facts.Reading{Key: 6, Status: facts.Unreadable}, appraise.Undecided},
	} {
		got := appraise.Integration(appraise.NewComparison(ref).Compare(facts.Snapshot{Readings: []facts.Reading{tt.x}}))
		if got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
	if got := appraise.Integration(nil); got != appraise.Undecided {
		t.Errorf("no rule at all: %s", got)
	}
}

// TestBootAccept wants a device that is not admitted with a boot that the manifest
// does not accept, though all its other rules pass.
func TestBootAccept(t *testing.T) {
	w := referencetest.New(t)
	const pcrDigest facts.Key = 12
	sound, other, third := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32), bytes.Repeat([]byte{3}, 32)
	alone := &reference.Boot{PCRs: []int{4}, Accept: [][]byte{sound, other}}
	group := []reference.BootGroup{{Name: "system", Versions: []reference.BootVersion{{Name: "1", Events: []reference.BootEvent{{PCR: 4, What: 5, Digest: sound}}}}}}
	own := []reference.Rule{{Fact: pcrDigest, Op: reference.Equal, Values: []facts.Value{facts.BytesValue(third)}}}
	for _, tt := range []struct {
		name   string
		boot   *reference.Boot
		groups []reference.BootGroup
		own    []reference.Rule
		x      facts.Reading
		want   appraise.Outcome
	}{
		{"accepted", alone, nil, nil, ok(pcrDigest, facts.BytesValue(other)), appraise.Passed},
		{"another boot", alone, nil, nil, ok(pcrDigest, facts.BytesValue(third)), appraise.Failed},
		{"no TPM", alone, nil, nil, facts.Reading{Key: pcrDigest, Status: facts.Absent}, appraise.Failed},
		{"a TPM that fails", alone, nil, nil, facts.Reading{Key: pcrDigest, Status: facts.Unreadable}, appraise.Undecided},
		{"not known yet", alone, nil, nil, facts.Reading{Key: pcrDigest, Status: facts.Pending}, appraise.Undecided},
		{"nothing to accept", &reference.Boot{PCRs: []int{4}, Accept: [][]byte{}}, nil, nil, ok(pcrDigest, facts.BytesValue(third)), appraise.Passed},
		{"the verifier looks at events", alone, group, nil, ok(pcrDigest, facts.BytesValue(third)), appraise.Passed},
		{"and the manufacturer's rule", alone, group, own, ok(pcrDigest, facts.BytesValue(other)), appraise.Failed},
		{"the manufacturer's rule alone", alone, nil, own, ok(pcrDigest, facts.BytesValue(third)), appraise.Passed},
	} {
		m := referencetest.Example()
		m.Boot, m.BootEvents, m.Integration = tt.boot, tt.groups, append(m.Integration, tt.own...)
		ref := w.Open(t, m)
		results := appraise.NewComparison(ref).Compare(facts.Snapshot{Readings: []facts.Reading{ok(6, facts.IntValue(9000)), tt.x}})
		if got := appraise.Integration(results); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
		if tt.name != "another boot" {
			continue
		}
		if text := appraise.Explain(ref, results[1]); !strings.HasPrefix(text, "integration: boot.pcr_digest is 0303") || !strings.HasSuffix(text, "(boot.accept)") {
			t.Errorf("%s: %s", tt.name, text)
		}
	}
}

func TestRecheck(t *testing.T) {
	fold := func(last, lo, hi int64) facts.Folded {
		return facts.Folded{Reading: ok(1000, facts.IntValue(last)), Min: lo, Max: hi, Samples: 2}
	}
	held := reference.Rule{Op: reference.Range, Max: num(500), Hold: 3000}
	plain := reference.Rule{Op: reference.Range, Min: num(10), Max: num(500)}
	for _, tt := range []struct {
		name string
		rule reference.Rule
		x    facts.Folded
		ms   int64
		want appraise.Bound
	}{
		{"outside for long", held, fold(600, 510, 700), 60000, appraise.MustDeviate},
		{"outside, interval shorter than the hold", held, fold(600, 510, 700), 4000, appraise.Either},
		{"a spike", held, fold(400, 100, 700), 60000, appraise.Either},
		{"inside", held, fold(400, 100, 500), 60000, appraise.MustPass},
		{"no hold, outside", plain, fold(600, 600, 600), 0, appraise.MustDeviate},
		{"outside on both sides", plain, fold(600, 1, 600), 60000, appraise.Either},
		{"unreadable", plain, facts.Folded{Reading: facts.Reading{Status: facts.Unreadable}}, 60000, appraise.Either},
		{"set without a hold", reference.Rule{Op: reference.SubsetOf, Values: []facts.Value{facts.SetValue(nil)}}, facts.Folded{Reading: ok(70, facts.SetValue([]string{"x"}))}, 0, appraise.MustDeviate},
		{"set with a hold", reference.Rule{Op: reference.SubsetOf, Hold: 1, Values: []facts.Value{facts.SetValue(nil)}}, facts.Folded{Reading: ok(70, facts.SetValue([]string{"x"}))}, 60000, appraise.Either},
	} {
		if got := appraise.Recheck(tt.rule, tt.x, tt.ms); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

func TestExplain(t *testing.T) {
	w := referencetest.New(t)
	ref := w.Open(t, referencetest.Example())
	c := appraise.NewComparison(ref)
	snap := facts.Snapshot{Readings: []facts.Reading{
		ok(6, facts.IntValue(45000)),
		ok(70, facts.SetValue([]string{"tcp/0.0.0.0:22", "tcp/0.0.0.0:4444"})),
		{Key: 1000, Status: facts.Absent, Reason: "the application has not spoken"},
	}}
	var lines []string
	for _, r := range c.Compare(snap) {
		lines = append(lines, appraise.Explain(ref, r))
	}
	got := strings.Join(lines, "\n")
	for _, want := range []string{
		"integration: boot.total is 45000 ms; expected 1000 to 30000 ms (20 boots took 9 to 14 s)",
		"operating: network.listening has tcp/0.0.0.0:4444, which nobody declared; expected nothing but {tcp/0.0.0.0:22}",
		"fail-safe: app.flow is absent (the application has not spoken); expected at most 500 ml/h (above 500 ml/h the infusion harms)",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("missing %q in\n%s", want, got)
		}
	}
}
