package baseline_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference/baseline"
)

// A draft's rule is held for as long as runs crossed what the other runs gave.
func TestDraftHolds(t *testing.T) {
	calm := []any{100, 110, 100, 105, 100, 100}
	set := func(m ...string) any { return m }
	for _, tt := range []struct {
		name string
		fact string
		runs [][]any // a round a second
		hold uint32
		why  string
	}{
		{"nothing crossed", "cpu.load", [][]any{calm, calm, calm}, 0, "no hold: none of 3 runs crossed what the others give"},
		{"one run tells nothing", "cpu.load", [][]any{calm}, 0, "that takes two runs"},
		{"one sample", "cpu.load", [][]any{calm, {100, 100, 900, 100, 100, 100}, calm}, 1000, "hold 1s: 1 of 3 runs left out crossed, the longest for 1s"},
		{"the longest of two", "cpu.load", [][]any{calm, {100, 900, 100, 900, 900, 900, 100}, calm}, 3000, "the longest for 3s"},
		{"inside the margin", "cpu.load", [][]any{calm, {100, 130, 100}, calm}, 0, "no hold: none of 3 runs"},
		{"two runs as high give it together", "cpu.load", [][]any{{100, 900, 100}, {100, 900, 100}, calm}, 0, "no hold: none of 3 runs"},
		{"outside to the end", "cpu.load", [][]any{calm, {100, 900, 900}, calm}, 0, "no hold: 1 of 3 runs left out crossed and stayed outside to the end"},
		{"one that ended, one that did not", "cpu.load", [][]any{calm, {100, 900, 100, 900}, calm}, 1000, "the longest for 1s; 1 more to the end"},
		{"a state, not a moment", "cpu.load", [][]any{calm, append(slices.Repeat([]any{900}, 400), 100), calm}, 0, "for up to 6m40s, which is a state and no moment"},
		{"absent in between is no end", "cpu.load", [][]any{calm, {100, 900, facts.Absent, facts.Absent, 900, 100}, calm}, 2000, "the longest for 2s"},
		{"below the lower end", "memory.available", [][]any{{100_000, 100_000}, {100_000, 20_000, 20_000, 100_000}, {100_000}}, 2000, "the longest for 2s"},
		{"a member that comes and goes", "network.listening", [][]any{{set("a"), set("a")}, {set("a"), set("a", "b"), set("a", "b"), set("a")}}, 2000, "hold 2s: 1 of 2 runs left out crossed"},
		{"a member of two runs", "network.listening", [][]any{{set("a", "b"), set("a")}, {set("a", "b"), set("a")}}, 0, "no hold: none of 2 runs"},
		{"a run that had no value", "cpu.load", [][]any{calm, {facts.Absent, facts.Absent}, calm}, 0, "no hold: none of 2 runs"},
	} {
		var all []*baseline.Recording
		for _, values := range tt.runs {
			all = append(all, record(t, "b", tt.fact, values...))
		}
		m, _, err := baseline.Draft(all, options)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if len(m.Operating) != 1 || m.Operating[0].Hold != tt.hold || !strings.Contains(m.Operating[0].Why, tt.why) {
			t.Errorf("%s: %+v, want a hold of %d ms and %q", tt.name, m.Operating, tt.hold, tt.why)
		}
	}
}

// What must stay has a hold of its own. What is suggested as extreme is not given a longer one.
func TestDraftHoldsOfOthers(t *testing.T) {
	service := func(m ...string) any { return m }
	both := service("pump.service", "ssh.service")
	runs := [][]any{{both, both}, {both, service("ssh.service"), service("ssh.service"), service("ssh.service"), both}, {both, both}}
	var all []*baseline.Recording
	for _, values := range runs {
		all = append(all, record(t, "b", "service.active", values...))
	}
	m, _, err := baseline.Draft(all, options)
	if err != nil || len(m.Operating) != 2 || m.Operating[0].Hold != 0 || m.Operating[1].Hold != 3000 || !strings.Contains(m.Operating[1].Why, "hold 3s") {
		t.Errorf("service.active: %+v, %v", m, err)
	}

	all = nil
	for _, values := range [][]any{{40_000, 41_000}, {40_000, 99_000, 99_000, 99_000, 99_000, 99_000, 40_000}, {40_000}} {
		all = append(all, record(t, "b", "thermal.max", values...))
	}
	m, _, err = baseline.Draft(all, options)
	if err != nil || len(m.FailSafe) != 1 || m.FailSafe[0].Hold != 3000 || !strings.Contains(m.FailSafe[0].Why, "1 of 3 runs left out crossed it") {
		t.Errorf("thermal.max: %+v, %v", m, err)
	}
	// A boot is asked once.
	m, _, err = baseline.Draft([]*baseline.Recording{record(t, "a", "boot.kernel", 2000), record(t, "b", "boot.kernel", 9000)}, options)
	if err != nil || m.Integration[1].Hold != 0 || strings.Contains(m.Integration[1].Why, "hold") {
		t.Errorf("boot.kernel: %+v, %v", m, err)
	}
}
