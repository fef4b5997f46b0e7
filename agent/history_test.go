package agent

import (
	"testing"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference/referencetest"
)

func TestHistory(t *testing.T) {
	h := newHistory(referencetest.New(t).Open(t, referencetest.Example()))
	const flow = facts.Key(1000)
	if h.of(flow) != nil || h.of(9) != nil || newHistory(nil).of(flow) != nil {
		t.Error("there is a history before the first sample")
	}
	at := func(ms int64, r facts.Reading) facts.Snapshot {
		r.Key = flow
		return facts.Snapshot{Uptime: ms, Readings: []facts.Reading{r}}
	}
	for i := range int64(200) {
		h.add(at(i*1000, facts.Reading{Value: facts.IntValue(i)}))
	}
	h.add(at(199_500, facts.Reading{Value: facts.IntValue(620)}))
	h.add(at(200_100, facts.Reading{Status: facts.Unreadable, Reason: "no answer"}))
	got := h.of(flow)
	if got.Fact != flow || len(got.Samples) != attest.MaxHistory {
		t.Fatalf("%+v", got)
	}
	first, last := got.Samples[0], got.Samples[len(got.Samples)-1]
	if first.At != 140_000 || first.Value != 140 || last.At != 199_500 || last.Value != 620 {
		t.Errorf("from %+v to %+v", first, last)
	}
	// After a gap only what lies within a minute.
	h.add(at(250_000, facts.Reading{Value: facts.IntValue(1)}))
	if got := h.of(flow).Samples; len(got) != 10 || got[0].At != 191_000 {
		t.Errorf("%d samples, the first %+v", len(got), got[0])
	}
	s := at(0, facts.Reading{Value: facts.IntValue(1)})
	if n := testing.AllocsPerRun(200, func() { s.Uptime += 1000; h.add(s) }); n != 0 {
		t.Errorf("a sample allocates %.1f times", n)
	}
}
