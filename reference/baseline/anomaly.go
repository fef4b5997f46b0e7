package baseline

import (
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/miotfacts/miotfacts/facts"
)

// An AnomalyKind says what happens to a device.
type AnomalyKind string

// The kinds. The first three happen to one number each, the others to all facts
// that would show it.
const (
	Jump           AnomalyKind = "jump"            // the number changes by Size at once
	Drift          AnomalyKind = "drift"           // it changes by Size a minute, evenly
	Stuck          AnomalyKind = "stuck"           // it stays what it was
	ServiceStopped AnomalyKind = "service-stopped" // a service ends and stays away
	NewListener    AnomalyKind = "new-listener"    // a program that no service started opens a port
	ProcessLoad    AnomalyKind = "process-load"    // a new process takes all processor time that was idle
)

// AnomalyKinds returns all kinds.
func AnomalyKinds() []AnomalyKind {
	return []AnomalyKind{Jump, Drift, Stuck, ServiceStopped, NewListener, ProcessLoad}
}

// OfOneNumber tells whether an anomaly of the kind happens to a Fact.
func (k AnomalyKind) OfOneNumber() bool { return k == Jump || k == Drift || k == Stuck }

// An Anomaly is put into what a recording of a sound device shows. It is made
// up: what it tells is how soon rules would have seen it, and never that a
// device behaves so.
type Anomaly struct {
	Kind  AnomalyKind
	Fact  string // of a kind OfOneNumber
	Size  int64  // of Jump and Drift, in the unit of Fact; below 0 the number falls
	Onset int64  // ms since the first round
}

// Facts returns the names of the facts that can show the anomaly.
func (a Anomaly) Facts() []string {
	switch a.Kind {
	case ServiceStopped:
		return []string{"service.active", "network.owners"}
	case NewListener:
		return []string{"network.listening", "network.unowned", "network.owners", "process.count"}
	case ProcessLoad:
		return []string{"cpu.usage", "cpu.load", "process.count"}
	}
	return []string{a.Fact}
}

// injectedPort is one that no service has.
const injectedPort = "tcp/0.0.0.0:31337"

const slowPeriod = int64(facts.SlowPeriod / time.Millisecond)

// loadTime is over what time the kernel averages cpu.load, in ms.
const loadTime = 60_000

// Inject returns the snapshots of a run with the anomaly in them. A snapshot is
// valid until the next. What a device reads once a minute shows the anomaly from
// its next reading on, counted from the first round; facts of events in the same
// round, because a device is told of them; facts of the boot do not show it.
// refused says why the run can have no such anomaly.
func (a Anomaly) Inject(run *Run, vocab *facts.Vocabulary) (snapshots iter.Seq[facts.Snapshot], refused error) {
	rounds, err := run.Replay(vocab)
	if err != nil {
		return nil, err
	}
	changes, err := a.changes(run, vocab)
	if err != nil {
		return nil, err
	}
	return func(yield func(facts.Snapshot) bool) {
		var readings []facts.Reading
		for s := range rounds {
			readings = append(readings[:0], s.Readings...)
			for i := range readings {
				x := &readings[i]
				d, _ := vocab.ByKey(x.Key)
				since := s.Uptime - a.Onset
				if d.Cadence == facts.Slow { // what it showed when it was last read
					since = s.Uptime/slowPeriod*slowPeriod - a.Onset
				}
				if change := changes[d.Name]; change != nil && since >= 0 && x.Status == facts.OK {
					x.Value = change(x.Value, since)
				}
			}
			if !yield(facts.Snapshot{Uptime: s.Uptime, Readings: readings}) {
				return
			}
		}
	}, nil
}

// A change makes of a sound value what it is some ms after the onset.
type change func(v facts.Value, since int64) facts.Value

func (a Anomaly) changes(run *Run, vocab *facts.Vocabulary) (map[string]change, error) {
	if a.Kind.OfOneNumber() {
		d, ok := vocab.ByName(a.Fact)
		if !ok || d.Kind != facts.Int || d.Cadence == facts.Boot {
			return nil, fmt.Errorf("%s is no number that is measured again and again", a.Fact)
		}
		return map[string]change{a.Fact: a.number(d)}, nil
	}
	shows := func(fact string) error {
		for _, s := range run.Facts {
			if s.Fact == fact && s.OK > 0 {
				return nil
			}
		}
		return fmt.Errorf("the run has no %s", fact)
	}
	switch a.Kind {
	case ServiceStopped:
		name, err := alwaysActive(run)
		if err != nil {
			return nil, err
		}
		return map[string]change{"service.active": without(name), "network.owners": withoutOwner(name)}, nil
	case NewListener:
		return map[string]change{
			"network.listening": with(injectedPort), "network.unowned": plus(1),
			"network.owners": with(injectedPort + " /"),
			"process.count":  plus(1),
		}, shows("network.listening")
	case ProcessLoad:
		taken := func(v facts.Value, _ int64) facts.Value { return facts.IntValue(1000) }
		return map[string]change{
			"cpu.usage": taken, "process.count": plus(1),
			"cpu.load": func(v facts.Value, since int64) facts.Value {
				return facts.IntValue(v.Int() + int64(1000*(1-math.Exp(-float64(since)/loadTime))))
			},
		}, shows("cpu.usage")
	}
	return nil, fmt.Errorf("there is no anomaly of kind %q", a.Kind)
}

// number is the change of a kind OfOneNumber. Numbers that cannot be below 0 are not.
func (a Anomaly) number(d facts.Def) change {
	least := int64(0)
	if d.Unit == "m°C" || d.Name == "time.rtc" {
		least = math.MinInt64
	}
	var held *facts.Value
	return func(v facts.Value, since int64) facts.Value {
		if a.Kind == Stuck {
			if held == nil {
				c := v.Clone()
				held = &c
			}
			return *held
		}
		by := a.Size
		if a.Kind == Drift {
			by = int64(float64(a.Size) * float64(since) / 60_000)
		}
		return facts.IntValue(max(v.Int()+by, least))
	}
}

func plus(n int64) change {
	return func(v facts.Value, _ int64) facts.Value { return facts.IntValue(v.Int() + n) }
}

func with(member string) change {
	return func(v facts.Value, _ int64) facts.Value {
		return facts.SetValue(append(slices.Clone(v.Set()), member))
	}
}

func without(member string) change {
	return func(v facts.Value, _ int64) facts.Value {
		return facts.SetValue(slices.DeleteFunc(slices.Clone(v.Set()), func(m string) bool { return m == member }))
	}
}

// withoutOwner takes the sockets of a service away.
func withoutOwner(owner string) change {
	return func(v facts.Value, _ int64) facts.Value {
		return facts.SetValue(slices.DeleteFunc(slices.Clone(v.Set()), func(m string) bool { return strings.HasSuffix(m, " "+owner) }))
	}
}

// alwaysActive returns the first service that was active through all the run.
func alwaysActive(run *Run) (string, error) {
	for _, s := range run.Facts {
		if s.Fact != "service.active" {
			continue
		}
		for _, name := range s.Texts {
			if !slices.ContainsFunc(s.Samples, func(x Sample) bool { return x.Status == facts.OK && !slices.Contains(x.Value.Set(), name) }) {
				return name, nil
			}
		}
	}
	return "", fmt.Errorf("the run has no service that was always active")
}

// Magnitude is the greatest absolute value of a number in recordings, or what
// differs between two sound devices if that is more: what the Size of an Anomaly
// is a share of.
func Magnitude(recordings []*Recording, d facts.Def) int64 {
	most := floor(d.Unit)
	for _, rec := range recordings {
		for _, run := range rec.Runs {
			for _, s := range run.Facts {
				if s.Fact == d.Name && s.Min != nil {
					most = max(most, abs(*s.Min), abs(*s.Max))
				}
			}
		}
	}
	return most
}
