package agent

import (
	"context"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
)

// A day is 24 h of a SIMULATED device's operation, a round a second, from a
// seeded generator: sensors that fail, lie for less than a hold, go and come
// back, suspends, and a wall clock that is set.
type day struct {
	rng      *rand.Rand
	gone     int // seconds for which the sensor is not there
	mute     int // seconds for which it does not answer
	mad      int // seconds for which it shows nonsense
	suspends int
	sets     int
}

// reading is the temperature in this second.
func (d *day) reading(second int) facts.Reading {
	r := facts.Reading{Key: 50}
	switch {
	case d.gone > 0:
		d.gone--
		r.Status, r.Reason = facts.Absent, "no such sensor"
	case d.mute > 0:
		d.mute--
		r.Status, r.Reason = facts.Unreadable, "input/output error"
	case d.mad > 0:
		d.mad--
		r.Value = facts.IntValue(127_000)
	default:
		r.Value = facts.IntValue(60_000 + int64(30_000*math.Sin(float64(second)/600)) + d.rng.Int64N(2000))
		switch d.rng.IntN(400) {
		case 0:
			d.gone = 1 + d.rng.IntN(90)
		case 1:
			d.mute = 1 + d.rng.IntN(90)
		case 2, 3, 4:
			d.mad = 1 + d.rng.IntN(3) // the hold is 3 s: three samples are 2 s apart
		case 5:
			r.Status, r.Reason, r.Value = facts.Malformed, "not a number", facts.Value{}
		}
	}
	return r
}

// No reading of a sound day pauses the device, and one true crossing in the same
// day does, once.
func TestNoFalsePauseInADay(t *testing.T) {
	for _, tt := range []struct {
		name string
		true int // the second in which the device really becomes too hot; 0 for never
	}{{"sound", 0}, {"too hot at noon", 12 * 3600}} {
		t.Run(tt.name, func(t *testing.T) {
			limit := int64(95_000)
			b := newBench(t, func(m *reference.Manifest) {
				m.FailSafe = append(m.FailSafe, reference.Rule{Fact: 50, Op: reference.Range, Max: &limit, Hold: 3000, Absent: reference.AbsentNotAppraised, Why: "burns"})
				m.ReportEvery = 3600
			})
			b.fast.readings = append(b.fast.readings, facts.Reading{Key: 50, Value: facts.IntValue(50_000)})
			b.start() // which learns of the sensor
			seal := func() {
				for {
					j, ok := b.agent.sealer.next()
					if !ok {
						return
					}
					b.agent.sealer.do(context.Background(), j)
				}
			}
			d := &day{rng: rand.New(rand.NewPCG(7, 7))}
			spikes, gaps := 0, 0
			for second := 1; second < 24*3600; second++ {
				r := d.reading(second)
				if tt.true != 0 && second >= tt.true && second < tt.true+5 {
					r = facts.Reading{Key: 50, Value: facts.IntValue(99_000)}
				}
				b.now, b.uptime, b.unix = b.now.Add(time.Second), b.uptime+1000, b.unix+1
				switch d.rng.IntN(3000) {
				case 0, 1:
					// Suspended, with nonsense before and after: the boot clock goes on,
					// the monotonic one does not.
					r = facts.Reading{Key: 50, Value: facts.IntValue(127_000)}
					d.mad, d.gone, d.mute = 1, 0, 0
					b.uptime += 60_000 + d.rng.Int64N(3_600_000)
					d.suspends++
				case 2:
					b.unix += d.rng.Int64N(7200) - 3600 // set by hand
					d.sets++
				case 3:
					b.unix += d.rng.Int64N(3) - 1 // an NTP step
					d.sets++
				}
				if r.Status != facts.OK {
					gaps++
				} else if r.Value.Int() > limit {
					spikes++
				}
				b.fast.readings[len(b.fast.readings)-1] = r
				b.agent.link.ask(context.Background())
				if err := b.agent.round(b.now); err != nil {
					t.Fatal(err)
				}
				seal()
				if n := len(b.enforcer.requests); n > 0 && tt.true == 0 {
					t.Fatalf("second %d: a pause for nothing: %+v", second, b.enforcer.requests)
				}
				if b.agent.state.Stage == reference.StagePaused {
					if tt.true == 0 || second < tt.true || second > tt.true+4 {
						t.Fatalf("second %d: paused", second)
					}
					break
				}
			}
			b.agent.link.ask(context.Background())
			if n := len(b.enforcer.requests); tt.true != 0 && (n != 1 || b.enforcer.requests[0].Fact != 50) {
				t.Errorf("a true crossing asked %d times for a pause", n)
			}
			if tt.true == 0 {
				b.stage(reference.StageOperating)
				if spikes < 500 || gaps < 5000 || d.suspends < 20 || d.sets < 20 {
					t.Errorf("the day was too quiet: %d spikes, %d gaps, %d suspends, %d settings of the clock", spikes, gaps, d.suspends, d.sets)
				}
			}
			t.Logf("%d values beyond the extreme for less than its hold, %d without a value, %d suspends, %d settings of the clock", spikes, gaps, d.suspends, d.sets)
		})
	}
}
