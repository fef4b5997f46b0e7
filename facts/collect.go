package facts

import (
	"errors"
	"fmt"
	"slices"
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
// A Collector is not safe for concurrent use.
type Collector struct {
	slots    []slot
	deadline time.Duration
	uptime   func() int64
	timer    *time.Timer
	worker   *worker
	readings []Reading // of the last snapshot, reused
}

type slot struct {
	src      Source
	keys     []Key
	work     []Reading // owned by the worker while busy
	last     []Reading // what the snapshot shows
	nextSlow time.Time
	settled  bool  // a Boot source that has nothing pending any more
	busy     *call // a read that missed its deadline
}

type call struct {
	src  Source
	buf  []Reading
	done chan struct{}
}

type worker struct{ calls chan *call }

func newWorker() *worker {
	w := &worker{calls: make(chan *call)}
	go func() {
		for c := range w.calls {
			c.buf = c.src.Read(c.buf[:0])
			c.done <- struct{}{}
		}
	}()
	return w
}

// NewCollector returns a collector over sources, each with deadline to answer.
// uptime tells the time since boot in ms. It refuses two sources that report
// the same fact.
func NewCollector(sources []Source, deadline time.Duration, uptime func() int64) (*Collector, error) {
	if deadline <= 0 {
		return nil, errors.New("cannot collect without a deadline")
	}
	owner := map[Key]string{}
	c := &Collector{deadline: deadline, uptime: uptime, timer: time.NewTimer(time.Hour)}
	for _, s := range sources {
		keys := slices.Clone(s.Keys())
		for _, k := range keys {
			if o, taken := owner[k]; taken {
				return nil, fmt.Errorf("cannot collect fact %d from %s: %s reports it already", k, s.Name(), o)
			}
			owner[k] = s.Name()
		}
		c.slots = append(c.slots, slot{src: s, keys: keys})
	}
	return c, nil
}

// Close ends the collector's goroutine. A read that is stuck in the kernel
// keeps its own goroutine until it returns.
func (c *Collector) Close() {
	if c.worker != nil {
		close(c.worker.calls)
		c.worker = nil
	}
	c.timer.Stop()
}

// Collect runs one round at the monotonic time now: every Fast and Event
// source, Slow sources whose period has passed, and Boot sources until nothing
// of theirs is pending. The snapshot's readings are valid until the next call.
func (c *Collector) Collect(now time.Time) Snapshot {
	for i := range c.slots {
		s := &c.slots[i]
		if !s.due(now) {
			continue
		}
		if s.busy != nil {
			select {
			case <-s.busy.done:
				s.work, s.busy = s.busy.buf, nil
			default:
				s.mark(Stale, "the read before has not come back")
				continue
			}
		}
		c.read(s)
		s.settled = s.src.Cadence() == Boot && !slices.ContainsFunc(s.last, func(r Reading) bool {
			return r.Status == Pending || r.Status == Stale
		})
	}
	c.readings = c.readings[:0]
	for i := range c.slots {
		c.readings = append(c.readings, c.slots[i].last...)
	}
	slices.SortFunc(c.readings, func(a, b Reading) int { return int(int64(a.Key) - int64(b.Key)) })
	return Snapshot{Uptime: c.uptime(), Readings: c.readings}
}

func (s *slot) due(now time.Time) bool {
	switch s.src.Cadence() {
	case Boot:
		return !s.settled
	case Slow:
		if now.Before(s.nextSlow) {
			return false
		}
		s.nextSlow = now.Add(SlowPeriod)
	}
	return true
}

func (c *Collector) read(s *slot) {
	if c.worker == nil {
		c.worker = newWorker()
	}
	// done has room for one, so that a late read never blocks its goroutine.
	job := &call{src: s.src, buf: s.work, done: make(chan struct{}, 1)}
	c.worker.calls <- job
	c.timer.Reset(c.deadline)
	select {
	case <-job.done:
		s.work = job.buf
		s.take(job.buf)
	case <-c.timer.C:
		s.busy, s.work = job, nil
		close(c.worker.calls) // it ends when the stuck read returns
		c.worker = nil
		s.mark(Stale, fmt.Sprintf("no answer within %v", c.deadline))
		if s.src.Cadence() == Slow {
			s.nextSlow = time.Time{} // ask again next round
		}
	}
}

// take copies the readings of the source's own keys; what it did not report is
// malformed, what it must not report is dropped.
func (s *slot) take(got []Reading) {
	s.last = s.last[:0]
	for _, k := range s.keys {
		i := slices.IndexFunc(got, func(r Reading) bool { return r.Key == k })
		if i < 0 {
			s.last = append(s.last, Reading{Key: k, Status: Malformed, Reason: "source " + s.src.Name() + " did not report it"})
			continue
		}
		s.last = append(s.last, got[i])
	}
}

func (s *slot) mark(st Status, reason string) {
	s.last = s.last[:0]
	for _, k := range s.keys {
		s.last = append(s.last, Reading{Key: k, Status: st, Reason: reason})
	}
}
