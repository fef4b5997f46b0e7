package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/reference/baseline"
)

func TestDetect(t *testing.T) {
	calm := playedRun{"a", 8000, []int64{50, 50, 50, 50, 50, 50, 50, 50}, []int64{100, 100, 100, 100, 100, 100, 100, 100}}
	odd := calm // it deviates by itself from the onset on
	odd.load = []int64{100, 100, 900, 900, 900, 900, 900, 900}
	recs := []*baseline.Recording{play(t, calm, calm, odd)}
	s, err := simulate(authored(t, simulated), recs)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		kind baseline.AnomalyKind
		size int64
		want string
	}{
		// The hold of 2 s costs two rounds more than the load has.
		{baseline.Jump, 100, `injected jump of cpu.usage up by 900 permille: cpu.usage 2/3 0 0ms
injected jump of thermal.max up by 50000 m°C: thermal.max 3/3 2 2000ms
`},
		{baseline.Jump, 10, `injected jump of cpu.usage up by 90 permille: cpu.usage 0/3 0 0ms
injected jump of thermal.max up by 5000 m°C: thermal.max 0/3 0 0ms
`},
		// 15 a s, so that the third second is the first beyond 500; 90 of it.
		{baseline.Drift, 1200, `injected drift of cpu.usage up by 10800 permille a minute: cpu.usage 2/3 3 3000ms
injected drift of thermal.max up by 600000 m°C a minute: thermal.max 0/3 0 0ms
`},
		{baseline.Stuck, 100, `injected stuck cpu.usage: cpu.usage 0/3 0 0ms
injected stuck thermal.max: thermal.max 0/3 0 0ms
`},
		{baseline.ProcessLoad, 100, `injected process-load: cpu.usage 2/3 0 0ms
`},
		{baseline.ServiceStopped, 100, "injected service-stopped: refused: the run has no service that was always active\n"},
		{baseline.NewListener, 100, "injected new-listener: refused: the run has no network.listening\n"},
	} {
		s.Detections = nil
		if err := s.detect(recs, x.kind, x.size, 2000); err != nil {
			t.Fatal(err)
		}
		if got := shown(s.Detections); got != x.want {
			t.Errorf("%s\n%s\nwant\n%s", x.kind, got, x.want)
		}
	}
	var b strings.Builder
	if err := s.print(&b); err != nil {
		t.Fatal(err)
	}
	if want := "injected: new-listener, from 2s on, in 0 runs\n  not possible here: the run has no network.listening"; !strings.Contains(b.String(), want) {
		t.Errorf("%q is not in\n%s", want, b.String())
	}
}

// TestDetectRecorded sees what began with the onset and nothing that was there.
func TestDetectRecorded(t *testing.T) {
	rec := play(t,
		playedRun{"a", 8000, []int64{90, 90, 90, 90, 90, 90}, []int64{100, 100, 100, 100, 900, 900}},
		playedRun{"a", 8000, []int64{50, 50, 90, 90, 90, 90}, []int64{900, 900, 900, 100, 100, 900}},
	)
	s, err := simulate(authored(t, simulated), []*baseline.Recording{rec})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.recorded(rec, "leak.jsonl", 2000); err != nil {
		t.Fatal(err)
	}
	// It was hot in the first run before, though the hold ended with the onset.
	if got, want := shown(s.Detections), "recorded leak.jsonl: cpu.usage 2/2 3 3000ms; thermal.max 2/2 2 2000ms\n"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func shown(list []detection) string {
	var b strings.Builder
	for _, x := range list {
		what := "recorded"
		if x.Injected {
			what = "injected"
		}
		fmt.Fprintf(&b, "%s %s:", what, x.Anomaly)
		if x.Runs == 0 {
			fmt.Fprintf(&b, " refused: %s", x.Refused)
		}
		for i, r := range x.Rules {
			if i > 0 {
				b.WriteString(";")
			}
			fmt.Fprintf(&b, " %s %d/%d %d %dms", r.Fact, r.Seen, x.Runs, r.Rounds, r.MS)
		}
		b.WriteString("\n")
	}
	return b.String()
}
