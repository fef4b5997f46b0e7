package facts

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A Source reads some facts. It reports on every round: for each of its keys
// one reading, whatever came of it.
type Source interface {
	Name() string     // for messages: "meminfo"
	Cadence() Cadence // when Read is called
	Keys() []Key      // the facts it reports; constant
	// Read appends one reading for each of Keys to dst and returns it. It may
	// block: the collector stops waiting at its deadline. The collector calls
	// it from one goroutine at a time.
	Read(dst []Reading) []Reading
}

// SlowPeriod is the period of Slow facts.
const SlowPeriod = 60 * time.Second

// A Collector reads sources round by round. A source that does not answer by
// the deadline makes its facts stale, costs the round its deadline once, and is
// left alone until its read comes back; the other sources go on.
//
// A round in which every source answers makes no garbage: one goroutine reads
// them all, and what it needs is kept.
//
// A Collector is not safe for concurrent use.
type Collector struct {
	slots    []slot
	deadline time.Duration
	late     string // why the facts of a source are stale that missed its deadline
	uptime   func() int64
	timer    *time.Timer
	worker   *worker
	due      []*slot   // of the present round
	readings []Reading // ascending by key; a slot's places in it never change
}

type slot struct {
	call
	places   []int  // of its keys in the readings
	keys     []Key  //
	mute     string // why a fact is malformed that it did not report
	nextSlow time.Time
	settled  bool // a Boot source that has nothing pending any more
	busy     bool // its read missed the deadline and has not come back
}

// A call is one read of a source; it is the worker's from when it is handed
// over until back is true.
type call struct {
	src  Source
	buf  []Reading
	back atomic.Bool
}

// A worker reads the sources of a round one after the other. When one of them
// is stuck, the collector gives the worker up and takes another: this one ends
// when the read comes back.
type worker struct {
	start chan struct{}
	done  chan struct{} // all calls are back
	calls []*call

	mu      sync.Mutex
	at      int       // index of the call that is being read
	since   time.Time // when it began
	begun   bool      // a call was: on a machine that is starved, a worker may begin late
	givenUp bool
}

func newWorker() *worker {
	// Both channels hold one, so that nobody waits for the one who has gone.
	w := &worker{start: make(chan struct{}, 1), done: make(chan struct{}, 1)}
	go w.run()
	return w
}

func (w *worker) run() {
	for range w.start {
		for i := 0; w.begin(i); i++ {
			c := w.calls[i]
			c.buf = c.src.Read(c.buf[:0])
			c.back.Store(true)
		}
	}
}

// begin reports whether call i is to be read.
func (w *worker) begin(i int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.givenUp {
		return false
	}
	if i == len(w.calls) {
		w.done <- struct{}{}
		return false
	}
	w.at, w.since, w.begun = i, time.Now(), true
	return true
}

// stuck returns the index of the call that has been read for deadline or
// longer, or that has not begun by then, and gives the worker up; else how long to
// wait on.
func (w *worker) stuck(deadline time.Duration) (at int, begun bool, wait time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if wait = deadline - time.Since(w.since); wait > 0 {
		return 0, false, wait
	}
	w.givenUp = true
	close(w.start)
	return w.at, w.begun, 0
}

// NewCollector returns a collector over sources, each with deadline to answer.
// uptime tells the time since boot in ms. It refuses two sources that report
// the same fact.
func NewCollector(sources []Source, deadline time.Duration, uptime func() int64) (*Collector, error) {
	if deadline <= 0 {
		return nil, errors.New("cannot collect without a deadline")
	}
	owner := map[Key]string{}
	c := &Collector{deadline: deadline, late: fmt.Sprintf("no answer within %v", deadline), uptime: uptime, timer: time.NewTimer(time.Hour), slots: make([]slot, len(sources))}
	for i, src := range sources {
		s := &c.slots[i]
		s.src, s.keys, s.mute = src, slices.Clone(src.Keys()), "source "+src.Name()+" did not report it"
		for _, k := range s.keys {
			if o, taken := owner[k]; taken {
				return nil, fmt.Errorf("cannot collect fact %d from %s: %s reports it already", k, src.Name(), o)
			}
			owner[k] = src.Name()
			place, _ := slices.BinarySearchFunc(c.readings, Reading{Key: k}, byKey)
			c.readings = slices.Insert(c.readings, place, Reading{Key: k})
		}
	}
	for i := range c.slots {
		s := &c.slots[i]
		for _, k := range s.keys {
			place, _ := slices.BinarySearchFunc(c.readings, Reading{Key: k}, byKey)
			s.places = append(s.places, place)
		}
	}
	return c, nil
}

func byKey(a, b Reading) int { return int(int64(a.Key) - int64(b.Key)) }

// Close ends the collector's goroutine. A read that is stuck in the kernel
// keeps its own goroutine until it returns.
func (c *Collector) Close() {
	if c.worker != nil {
		close(c.worker.start)
		c.worker = nil
	}
	c.timer.Stop()
}

// Collect runs one round at the monotonic time now: every Fast source, Slow and
// Event sources whose period has passed, and Boot sources until nothing of
// theirs is pending. The snapshot's readings are valid until the next call.
func (c *Collector) Collect(now time.Time) Snapshot {
	return c.collect(func(s *slot) bool { return s.due(now) })
}

// CollectOnly runs a round, at once, of the sources that report one of keys. All
// other readings are as the round before left them.
func (c *Collector) CollectOnly(now time.Time, keys []Key) Snapshot {
	return c.collect(func(s *slot) bool {
		named := slices.ContainsFunc(s.keys, func(k Key) bool { return slices.Contains(keys, k) })
		if named {
			s.nextSlow = now.Add(SlowPeriod)
		}
		return named
	})
}

// CollectAgain runs a round of all sources but those of Boot facts that have
// nothing pending, whenever they were read last.
func (c *Collector) CollectAgain(now time.Time) Snapshot {
	for i := range c.slots {
		c.slots[i].nextSlow = time.Time{}
	}
	return c.Collect(now)
}

func (c *Collector) collect(due func(*slot) bool) Snapshot {
	c.due = c.due[:0]
	for i := range c.slots {
		s := &c.slots[i]
		if s.busy && !s.back.Load() {
			c.mark(s, Stale, "the read before has not come back")
			continue
		}
		if due(s) {
			s.busy = false
			c.due = append(c.due, s)
		}
	}
	for left := c.due; len(left) > 0; {
		left = left[c.read(left):]
	}
	return Snapshot{Uptime: c.uptime(), Readings: c.readings}
}

func (s *slot) due(now time.Time) bool {
	switch s.src.Cadence() {
	case Boot:
		return !s.settled
	case Slow, Event:
		if now.Before(s.nextSlow) {
			return false
		}
		s.nextSlow = now.Add(SlowPeriod)
	}
	return true
}

// read lets the worker read slots until all are back or one is stuck, and
// returns with how many of them it is done.
func (c *Collector) read(slots []*slot) int {
	if c.worker == nil {
		c.worker = newWorker()
	}
	w := c.worker
	w.calls = w.calls[:0]
	for _, s := range slots {
		s.back.Store(false)
		w.calls = append(w.calls, &s.call)
	}
	w.mu.Lock()
	w.at, w.since, w.begun = 0, time.Now(), false
	w.mu.Unlock()
	w.start <- struct{}{}
	c.timer.Reset(c.deadline)
	for {
		select {
		case <-w.done:
			for _, s := range slots {
				c.take(s)
			}
			return len(slots)
		case <-c.timer.C:
			at, begun, wait := w.stuck(c.deadline)
			if wait > 0 {
				c.timer.Reset(wait)
				continue
			}
			c.worker = nil
			for _, s := range slots[:at] {
				c.take(s)
			}
			s := slots[at]
			s.busy, s.settled = begun, false // what never began will never come back
			c.mark(s, Stale, c.late)
			s.nextSlow = time.Time{} // ask again next round
			return at + 1
		}
	}
}

// take copies the readings of the source's own keys; what it did not report is
// malformed, what it must not report is dropped.
func (c *Collector) take(s *slot) {
	s.settled = s.src.Cadence() == Boot
	for i, k := range s.keys {
		r := Reading{Key: k, Status: Malformed, Reason: s.mute}
		for j := range s.buf {
			if s.buf[j].Key == k {
				r = s.buf[j]
				break
			}
		}
		if r.Status == Pending || r.Status == Stale {
			s.settled = false
		}
		if s.src.Cadence() == Boot {
			r.Value = r.Value.Clone() // it outlasts the source's next read
		}
		c.readings[s.places[i]] = r
	}
}

// mark says why a source has no readings. What was read of the boot stays: it
// does not change because another fact of its source is still to come.
func (c *Collector) mark(s *slot, st Status, reason string) {
	for i, k := range s.keys {
		if r := c.readings[s.places[i]]; s.src.Cadence() == Boot && r.Status == OK && r.Value.Kind() != 0 {
			continue
		}
		c.readings[s.places[i]] = Reading{Key: k, Status: st, Reason: reason}
	}
}
