package linux

import (
	"testing"
	"time"

	"github.com/miotfacts/miotfacts/facts"
)

// BenchmarkFastRound is a sampling period as the agent has it: the collector
// over all sources of this machine, in a round in which only the fast ones are
// due. The budget is 0.25 ms and no allocation.
func BenchmarkFastRound(b *testing.B) {
	r, err := OpenRoot("/")
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	c, err := facts.NewCollector(mustSources(b, r, Options{StateDir: b.TempDir()}), time.Second, Uptime)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	now := time.Now()
	c.Collect(now)
	c.Collect(now)
	b.ReportAllocs()
	for b.Loop() {
		c.Collect(now)
	}
}

// BenchmarkFastSources is the same without the collector.
func BenchmarkFastSources(b *testing.B) {
	r, err := OpenRoot("/")
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	benchmark(b, r, func(facts.Source) bool { return true })
}

// BenchmarkFastSource tells which source costs what.
func BenchmarkFastSource(b *testing.B) {
	r, err := OpenRoot("/")
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	for _, s := range mustSources(b, r, Options{}) {
		if s.Cadence() == facts.Fast {
			b.Run(s.Name(), func(b *testing.B) {
				benchmark(b, r, func(o facts.Source) bool { return o.Name() == s.Name() })
			})
		}
	}
}

// BenchmarkFastRoundGateway reads the sensors of a fixture, which this machine may not have.
func BenchmarkFastRoundGateway(b *testing.B) {
	r, err := OpenRoot(devices + "/x86-gateway")
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	benchmark(b, r, func(s facts.Source) bool { return s.Name() != "listeners" })
}

func benchmark(b *testing.B, r *Root, take func(facts.Source) bool) {
	sources := mustSources(b, r, Options{})
	dst := make([]facts.Reading, 0, 128)
	round := func() {
		dst = dst[:0]
		for _, s := range sources {
			if s.Cadence() == facts.Fast && take(s) {
				dst = s.Read(dst)
			}
		}
	}
	round()
	round()
	b.ReportAllocs()
	for b.Loop() {
		round()
	}
}

// TestFastRoundMakesNoGarbage holds the budget where a benchmark is not run.
// Sockets of other programs may come and go meanwhile, so the least of a few
// tries counts.
func TestFastRoundMakesNoGarbage(t *testing.T) {
	for _, dir := range []string{"/", devices + "/x86-gateway", devices + "/raspberrypi4"} {
		r, err := OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		start := time.Now()
		r.now = func() int64 { return int64(time.Since(start)) }
		sources := mustSources(t, r, Options{})
		dst := make([]facts.Reading, 0, 128)
		least := 1e9
		for range 5 {
			least = min(least, testing.AllocsPerRun(20, func() {
				dst = dst[:0]
				for _, s := range sources {
					// Of a fixture, sockets are read from /proc/net, which is not the fast path.
					if s.Cadence() == facts.Fast && (r.Live() || s.Name() != "listeners") {
						dst = s.Read(dst)
					}
				}
			}))
		}
		if least > 0 {
			t.Errorf("%s: %v allocations a fast round, want none", dir, least)
		}
	}
}
