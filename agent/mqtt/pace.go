package mqtt

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// What a change of the network may cut short.
const (
	changeSettles = 100 * time.Millisecond // link, address and route come one after the other
	changeSpread  = 150 * time.Millisecond // at random on top: what hangs on one switch does not come back all at once
	changeBurst   = 8                      // changes acted upon in a row; then one for each longest wait
)

// A pace spaces attempts to connect. They wait for longer and longer, from first
// to longest, and a random half of each wait keeps a fleet from coming back all
// at once.
//
// A change of the network ends a wait, and a TCP connection that is being
// opened, 100 to 250 ms later, and the waits begin anew with first: a device
// reports when its link is there, not up to longest later. It is a hint and
// bounded: 8 changes in a row, then one for each longest. So a link that never
// rests costs a broker, with 0.5 s and 30 s, at most 14 attempts a minute in the
// long run. An established connection is not touched: whether it still works, TCP
// and the keep-alive tell.
//
// It belongs to one goroutine.
type pace struct {
	first, longest time.Duration
	changed        <-chan struct{} // nil: nothing tells

	failures int       // since it had worked or the network changed
	due      time.Time // when a change is acted upon; zero: there was none
	earned   time.Time // when all changes that were acted upon are earned again
}

// next returns how long to wait after one more failure.
func (p *pace) next() time.Duration {
	wait := backoff(p.failures, p.first, p.longest)
	p.failures++
	return wait
}

// worked forgets failures.
func (p *pace) worked() { p.failures = 0 }

// during calls f with a context that ends when the network has changed, and
// reports whether it did. A change that f did not wait for counts for the next f.
func (p *pace) during(ctx context.Context, f func(context.Context)) (cut bool) {
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		if p.due.IsZero() {
			select {
			case <-ctx.Done():
				return
			case <-p.changed:
				p.due = p.allowed(time.Now())
			}
		}
		if sleep(ctx, time.Until(p.due)) {
			p.due, p.failures, cut = time.Time{}, 0, true
			cancel()
		}
	})
	f(ctx)
	cancel()
	watching.Wait()
	return cut
}

// allowed returns when a change that is told now may be acted upon.
func (p *pace) allowed(now time.Time) time.Time {
	if p.earned.Before(now) {
		p.earned = now
	}
	at := now.Add(changeSettles + rand.N(changeSpread))
	if bound := p.earned.Add(-(changeBurst - 1) * p.longest); bound.After(at) {
		at = bound
	}
	p.earned = p.earned.Add(p.longest)
	return at
}

// sleep waits, and reports whether it waited to the end.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// backoff doubles from first to longest, and takes a random half off.
func backoff(failures int, first, longest time.Duration) time.Duration {
	d := longest
	if failures < 32 && first<<failures>>failures == first {
		d = min(first<<failures, longest)
	}
	return d/2 + rand.N(d/2+1)
}
