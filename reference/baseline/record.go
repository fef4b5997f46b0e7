package baseline

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/miotfacts/miotfacts/facts"
)

// A Plan says how much to record.
type Plan struct {
	Runs   int           // at least 1
	For    time.Duration // length of one run
	Period time.Duration // between two rounds
	Boot   string        // boot id of the machine
}

// Progress is where a recording stands.
type Progress struct {
	Run, Runs int // the present one, from 1
	Elapsed   time.Duration
	For       time.Duration
	OK, All   int // facts with a value in the newest round, and all that were read
}

// Record records runs by calling collect every period, and progress after each
// round. When ctx ends it returns the runs that were completed, and the error.
func Record(ctx context.Context, p Plan, vocab *facts.Vocabulary, collect func(time.Time) facts.Snapshot, progress func(Progress)) ([]Run, error) {
	if p.Runs < 1 || p.Period <= 0 || p.For < p.Period {
		return nil, errors.New("cannot record: want at least one run, and a run of at least one period")
	}
	tick := time.NewTicker(p.Period)
	defer tick.Stop()
	var runs []Run
	for i := range p.Runs {
		began := time.Now()
		r := NewRecorder(vocab, p.Boot, began.UTC().Format(time.RFC3339), p.Period.Milliseconds())
		for {
			now := time.Now()
			s := collect(now)
			r.Add(s)
			at := Progress{Run: i + 1, Runs: p.Runs, Elapsed: now.Sub(began), For: p.For, All: len(s.Readings)}
			for _, x := range s.Readings {
				if x.Status == facts.OK {
					at.OK++
				}
			}
			progress(at)
			if now.Sub(began) >= p.For {
				break
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return runs, fmt.Errorf("cannot finish run %d of %d: %w", i+1, p.Runs, context.Cause(ctx))
			}
		}
		runs = append(runs, r.Run())
	}
	return runs, nil
}
