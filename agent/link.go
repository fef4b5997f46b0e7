package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/miotfacts/miotfacts/agent/failsafe"
	"github.com/miotfacts/miotfacts/appraise"
	"github.com/miotfacts/miotfacts/reference"
)

// A link talks to the enforcer, so that the sampling loop never waits for it.
type link struct {
	enforcer Enforcer
	wanted   chan struct{}   // something is to be asked now; room for one
	changed  chan<- struct{} // the answer changed
	now      func() time.Time
	log      *slog.Logger

	mu      sync.Mutex
	request *failsafe.PauseRequest // the pause to ask for, kept until it is confirmed
	asking  bool
	resume  [][]byte
	status  failsafe.Status
	at      time.Time // of status; zero before the first
	unseen  bool      // a pause of which latch has not told yet
	refused []string  // resumes that the enforcer refused, in words
}

// run asks what is wanted.
func (l *link) run(ctx context.Context) {
	for {
		l.ask(ctx)
		select {
		case <-ctx.Done():
			return
		case <-l.wanted:
		}
	}
}

// alive gives a sign of life. It comes from the loop that samples, in each of its
// rounds: an agent that answers and does not measure is as good as dead.
func (l *link) alive() { notify(l.wanted) }

func (l *link) ask(ctx context.Context) {
	l.mu.Lock()
	request, document := l.request, []byte(nil)
	if !l.asking {
		request = nil
	}
	if request == nil && len(l.resume) > 0 {
		document, l.resume = l.resume[0], l.resume[1:]
	}
	l.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, enforcerFresh)
	defer cancel()
	var status failsafe.Status
	var err error
	switch {
	case request != nil:
		status, err = l.enforcer.Pause(ctx, *request)
	case document != nil:
		if status, err = l.enforcer.Resume(ctx, document); err != nil {
			order := reference.Resume // whatever cannot be read wants to be one
			if k := reference.UnverifiedKind(document); k != 0 {
				order = k
			}
			l.log.Warn("order refused", "kind", order, "err", err)
			l.mu.Lock()
			l.refused = append(l.refused, order.String()+" refused: "+err.Error())
			l.mu.Unlock()
			status, err = l.enforcer.Alive(ctx)
		}
	default:
		status, err = l.enforcer.Alive(ctx)
	}
	if err != nil {
		if ctx.Err() == nil || request != nil {
			l.log.Error("the enforcer does not answer", "err", err)
		}
		return
	}
	l.mu.Lock()
	changed := l.at.IsZero() || status.Latch != l.status.Latch || len(status.Effects) != len(l.status.Effects) || putOff(status) != putOff(l.status)
	l.unseen = l.unseen || status.Latch == appraise.LatchPaused && l.status.Latch != appraise.LatchPaused
	l.status, l.at = status, l.now()
	if request != nil && status.Latch == appraise.LatchPaused {
		l.asking = false
	}
	more := len(l.resume) > 0
	l.mu.Unlock()
	if changed {
		notify(l.changed)
	}
	if more {
		notify(l.wanted)
	}
}

func notify(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// pause asks for a pause, now and until it is confirmed.
func (l *link) pause(r failsafe.PauseRequest) {
	l.mu.Lock()
	l.request, l.asking = &r, true
	l.mu.Unlock()
	notify(l.wanted)
}

// again asks once more for the pause that was asked for last.
func (l *link) again() {
	l.mu.Lock()
	l.asking = l.request != nil
	l.mu.Unlock()
	notify(l.wanted)
}

// hand passes on what may be a resume; the enforcer judges it.
func (l *link) hand(document []byte) {
	l.mu.Lock()
	if len(l.resume) < 8 {
		l.resume = append(l.resume, document)
	}
	l.mu.Unlock()
	notify(l.wanted)
}

// latch returns what the enforcer said last, Unknown when that is too long ago,
// and with LatchMaintenance how long it lasts. A pause is told of once, also when it
// was over before anybody asked: else it would be asked for again.
func (l *link) latch(now time.Time) (appraise.Latch, *failsafe.Maintenance) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.unseen {
		l.unseen = false
		return appraise.LatchPaused, nil
	}
	if l.at.IsZero() || now.Sub(l.at) > enforcerFresh || (l.status.Latch == appraise.LatchMaintenance) != (l.status.Maintenance != nil) {
		return appraise.LatchUnknown, nil
	}
	return l.status.Latch, l.status.Maintenance
}

// putOff reports whether the present pause is being put off.
func (l *link) putOff() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return putOff(l.status)
}

func putOff(s failsafe.Status) bool { return s.Deferral != nil && s.Deferral.Ended == 0 }

// last returns the newest status, and the refusals since the last call.
func (l *link) last() (failsafe.Status, []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	refused := l.refused
	l.refused = nil
	return l.status, refused
}
