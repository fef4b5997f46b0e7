package main

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/baseline"
)

// A playedRun makes a run with a round a second.
type playedRun struct {
	boot              string
	total             int64   // boot.total in ms
	temperature, load []int64 // thermal.max in °C, cpu.usage in per mille; -1: unreadable
}

func play(t *testing.T, runs ...playedRun) *baseline.Recording {
	t.Helper()
	v, err := facts.NewVocabulary(nil)
	if err != nil {
		t.Fatal(err)
	}
	read := func(name string, n int64) facts.Reading {
		d, ok := v.ByName(name)
		if !ok {
			t.Fatalf("no fact %s", name)
		}
		if n == -1 {
			return facts.Reading{Key: d.Key, Status: facts.Unreadable, Reason: "i/o error"}
		}
		return facts.Reading{Key: d.Key, Value: facts.IntValue(n)}
	}
	rec := new(baseline.Recording)
	for _, x := range runs {
		r := baseline.NewRecorder(v, x.boot, "2026-01-01T00:00:00Z", 1000)
		for i := range x.temperature {
			temperature := x.temperature[i]
			if temperature > 0 {
				temperature *= 1000
			}
			r.Add(facts.Snapshot{Uptime: int64(i) * 1000, Readings: []facts.Reading{read("boot.total", x.total), read("cpu.usage", x.load[i]), read("thermal.max", temperature)}})
		}
		rec.Runs = append(rec.Runs, r.Run())
	}
	// As it comes out of a file.
	data, err := rec.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if rec, err = baseline.Decode(data); err != nil {
		t.Fatal(err)
	}
	return rec
}

func authored(t *testing.T, text string) *reference.Manifest {
	t.Helper()
	m, problems := reference.Author([]byte(text))
	if m == nil {
		t.Fatal(problems)
	}
	return m
}

const simulated = `version = 1
vendor = "V"
model = "m"
sequence = 7
valid = { from = 2026-01-01, until = 2027-01-01 }
enforce = "alarm"
report_every = "60s"
resume = { signers = 1, lifetime = "1h" }
[[app]]
name = "app.flow"
key = 1000
unit = "ml/h"
min = 0
max = 10
[[integration]]
fact = "boot.total"
max = 9000
[[operating]]
fact = "cpu.usage"
max = 500
[[operating]]
fact = "app.flow"
max = 5
[[fail_safe]]
fact = "thermal.max"
max = 80000
hold = "2s"
`

func TestSimulate(t *testing.T) {
	rec := play(t,
		// Hot for 1 s, which the hold forgives, and then for 3 s, with a round that could not be read.
		playedRun{"a", 9500, []int64{70, 81, 70, 81, 82, -1, 83, 70, 70, 70, 70}, []int64{100, 600, 600, 100, 600, 100, 100, 100, 100, 100, 100}},
		playedRun{"a", 9500, []int64{70, 70}, []int64{600, 600}}, // the same boot
		playedRun{"b", 9500, []int64{70, 70}, []int64{100, 100}},
		playedRun{"c", 8000, []int64{70, 70}, []int64{100, 100}},
	)
	s, err := simulate(authored(t, simulated), []*baseline.Recording{rec})
	if err != nil {
		t.Fatal(err)
	}
	if s.Runs != 4 || s.Boots != 3 || s.ObservedMS != 13_000 || s.Sequence != 7 {
		t.Errorf("%+v", s)
	}
	got := ""
	for _, r := range s.Rules {
		got += fmt.Sprintf("%s %s %s recorded=%v not_appraised=%d:", r.Stage, r.Fact, r.Causes, r.Recorded, r.NotAppraised)
		for _, e := range r.Events {
			got += fmt.Sprintf(" %d@%d", e.Run, e.AtMS)
		}
		got += "\n"
	}
	want := `integration boot.total no admission recorded=true not_appraised=0: 1@0 3@0
operating cpu.usage deviation recorded=true not_appraised=0: 1@1000 1@4000 2@0
operating app.flow deviation recorded=false not_appraised=0:
fail_safe thermal.max alarm recorded=true not_appraised=1: 1@6000
`
	// The round that could not be read neither begins, continues nor ends a crossing.
	if got != want {
		t.Errorf("\n%s\nwant\n%s", got, want)
	}
	load := s.Rules[1]
	if days := 13.0 / 86400; math.Abs(load.PerDay-3/days) > 1 || math.Abs(load.AtMost-7.7537/days) > 10 {
		t.Errorf("%v a day, at most %v", load.PerDay, load.AtMost)
	}
	if boot := s.Rules[0]; math.Abs(boot.PerDay-2.0/3) > 1e-9 {
		t.Errorf("%v a boot", boot.PerDay)
	}
	var text strings.Builder
	if err := s.print(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"V m, sequence 7: 4 runs of 3 boots, 13s observed", "2 times no admission, of 3 boots", "run 1, began 2026-01-01T00:00:00Z, after 4s: ", "app.flow", "not in every run"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("%q is not in\n%s", want, text.String())
		}
	}
}

func TestSimulateRefuses(t *testing.T) {
	rec := play(t, playedRun{"a", 1, []int64{70}, []int64{1}})
	rec.Runs[0].Times = nil
	if _, err := simulate(authored(t, simulated), []*baseline.Recording{rec}); !errors.Is(err, baseline.ErrNoSamples) {
		t.Errorf("a run without samples: %v", err)
	}
	if _, err := simulate(authored(t, simulated), []*baseline.Recording{{}}); err == nil {
		t.Error("no run was simulated")
	}
}

// TestLeaveEachOut wants the one run that is not like the others to be the one
// that a draft of the others finds.
func TestLeaveEachOut(t *testing.T) {
	calm := playedRun{"a", 8000, []int64{50, 50}, []int64{100, 100}}
	busy := playedRun{"b", 8000, []int64{50, 50}, []int64{100, 900}}
	out, err := leaveEachOut(authored(t, simulated), []*baseline.Recording{play(t, calm, calm), play(t, calm, busy)}, 250)
	if err != nil {
		t.Fatal(err)
	}
	if out.Runs != 4 || out.Alarms != 1 || len(out.Facts) != 1 || out.Facts["cpu.usage"] != 1 {
		t.Errorf("%+v", out)
	}
	if _, err := leaveEachOut(authored(t, simulated), []*baseline.Recording{play(t, calm)}, 250); err == nil {
		t.Error("one run was checked against none")
	}
}

func TestAtMost(t *testing.T) {
	// Half of the 0.95 quantile of the chi-squared distribution with 2(n+1) degrees of freedom.
	for n, want := range map[int]float64{0: 2.9957, 1: 4.7439, 5: 10.5130, 10: 16.9622, 100: 118.0793} {
		if got := atMost(n); math.Abs(got-want) > 0.001 {
			t.Errorf("atMost(%d) = %.4f, want %.4f", n, got, want)
		}
	}
}
