package agent

import (
	"context"
	"testing"
	"time"

	"github.com/miotfacts/miotfacts/agent/failsafe"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
)

// watcher hands the agent's function to the test.
type watcher chan func(facts.Key)

func (w watcher) Watch(ctx context.Context, changed func(facts.Key)) error {
	w <- changed
	<-ctx.Done()
	return ctx.Err()
}

// TestEventPausesAtOnce lets a fact that is read once a minute cross an extreme
// between two periods of an hour: the event alone has it read, compared, and the
// pause asked for.
func TestEventPausesAtOnce(t *testing.T) {
	b := newBench(t, func(m *reference.Manifest) {
		m.FailSafe = append(m.FailSafe, reference.Rule{Fact: 70, Op: reference.SubsetOf, Values: []facts.Value{facts.SetValue([]string{"tcp/0.0.0.0:22"})}})
	})
	b.fast.cadence = facts.Event
	asked := make(chan struct{}, 1)
	events := make(watcher, 1)
	rounds := make(chan struct{}, 1000)
	b.cfg.Period, b.cfg.Events, b.cfg.Alive = time.Hour, events, func() { rounds <- struct{}{} }
	b.cfg.Enforcer = &asking{enforcer: b.enforcer, asked: asked}
	b.start()
	b.agent.link.now = time.Now
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.agent.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	changed := <-events
	// The enforcer's first answer, and what follows from it, need rounds of their own.
	for range 4 {
		changed(70)
		<-rounds
	}
	select {
	case <-asked:
		t.Fatal("a pause was asked for without a reason")
	default:
	}
	b.fast.set(70, facts.SetValue([]string{"tcp/0.0.0.0:22", "tcp/0.0.0.0:4444"}))
	changed(70)
	select {
	case <-asked:
	case <-time.After(10 * time.Second):
		t.Fatal("no pause was asked for")
	}
	if r := b.enforcer.requests[0]; r.Fact != 70 {
		t.Errorf("request %+v", r)
	}
}

// asking tells when a pause is asked for.
type asking struct {
	*enforcer
	asked chan struct{}
}

func (a *asking) Pause(ctx context.Context, r failsafe.PauseRequest) (failsafe.Status, error) {
	s, err := a.enforcer.Pause(ctx, r)
	notify(a.asked)
	return s, err
}

// TestHurryTakesEachOnce wants many events of one fact to be one read.
func TestHurryTakesEachOnce(t *testing.T) {
	h := hurry{wake: make(chan struct{}, 1)}
	for range 3 {
		h.add(70)
		h.add(74)
	}
	if keys := h.take(); len(keys) != 2 || keys[0] != 70 || keys[1] != 74 {
		t.Errorf("took %v", keys)
	}
	h.add(71)
	if keys := h.take(); len(keys) != 1 || keys[0] != 71 {
		t.Errorf("took %v", keys)
	}
	if keys := h.take(); len(keys) != 0 {
		t.Errorf("took %v", keys)
	}
}
