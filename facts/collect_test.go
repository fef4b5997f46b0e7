package facts

import (
	"testing"
	"testing/synctest"
	"time"
)

type constant struct{}

func (constant) Name() string     { return "constant" }
func (constant) Cadence() Cadence { return Fast }
func (constant) Keys() []Key      { return []Key{1} }
func (constant) Read(dst []Reading) []Reading {
	return append(dst, Reading{Key: 1, Value: IntValue(7)})
}

// TestWorkerThatBeginsLate is a machine on which nothing ran between the beginning of
// a round and its deadline: the source was not asked, and has to be asked again.
func TestWorkerThatBeginsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := NewCollector([]Source{constant{}}, time.Second, func() int64 { return 0 })
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		late := &worker{start: make(chan struct{}, 1), done: make(chan struct{}, 1)}
		c.worker = late
		if r := c.Collect(time.Now()).Reading(1); r.Status != Stale {
			t.Errorf("while the worker did not run: %+v", r)
		}
		go late.run()
		for round := range 2 {
			if r := c.Collect(time.Now()).Reading(1); r.Status != OK || r.Value.Int() != 7 {
				t.Errorf("round %d after it: %+v", round, r)
			}
		}
	})
}
