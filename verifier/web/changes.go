package web

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/miotfacts/miotfacts/verifier"
)

// Limits of the stream. A browser opens one a page.
const (
	maxStreams  = 256
	maxPending  = 64               // refused messages that wait for one slow reader; the oldest go first
	beatEvery   = 20 * time.Second // so that both ends notice a dead connection, and silent devices show
	writeWithin = 10 * time.Second
)

// Changes passes on what the verifier tells to any number of readers. A slow
// reader holds up nobody: what changed twice meanwhile is told once.
type Changes struct {
	mu      sync.Mutex
	closed  bool
	readers map[*reader]bool
}

// A reader is one open stream.
type reader struct {
	wake    chan struct{} // capacity 1
	devices map[string]uint64
	refused []verifier.Refused
}

// NewChanges returns changes with no reader.
func NewChanges() *Changes { return &Changes{readers: map[*reader]bool{}} }

// Tell passes on an event. It does not block.
func (c *Changes) Tell(e verifier.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for r := range c.readers {
		if e.Refused != nil {
			if len(r.refused) == maxPending {
				r.refused = r.refused[1:]
			}
			r.refused = append(r.refused, *e.Refused)
		} else {
			r.devices[e.Device] = max(r.devices[e.Device], e.Sequence)
		}
		r.wakeUp()
	}
}

// Close ends all streams, now and from now on.
func (c *Changes) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for r := range c.readers {
		r.wakeUp()
	}
}

func (r *reader) wakeUp() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// open returns a new reader, nil when there are too many or changes are closed.
func (c *Changes) open() *reader {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || len(c.readers) >= maxStreams {
		return nil
	}
	r := &reader{wake: make(chan struct{}, 1), devices: map[string]uint64{}}
	c.readers[r] = true
	return r
}

func (c *Changes) drop(r *reader) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.readers, r)
}

// take returns what has changed since the last call, not ok when changes are
// closed.
func (c *Changes) take(r *reader) (devices map[string]uint64, refused []verifier.Refused, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	devices, refused = r.devices, r.refused
	r.devices, r.refused = map[string]uint64{}, nil
	return devices, refused, !c.closed
}

// A Change is the data of the stream's event "device".
type Change struct {
	ID       string `json:"id"`
	Sequence uint64 `json:"sequence"`
}

// events is the stream of changes (Server-Sent Events). It begins with "time",
// so that a reader who was away looks anew at everything, and repeats that every
// beat, because a silent device changes by the passing of time alone.
func (s *site) events(w http.ResponseWriter, r *http.Request) error {
	reader := s.Changes.open()
	if reader == nil {
		w.Header().Set("Retry-After", "10")
		return &problem{http.StatusServiceUnavailable, "too many streams are open", "try again in 10 s"}
	}
	defer s.Changes.drop(reader)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // a proxy must not hold it back
	control := http.NewResponseController(w)
	send := func(event string, data any) error {
		text, err := json.Marshal(data)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(w, "event: %s\ndata: %s\n\n", event, text)
		return err
	}
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	late := true
	for {
		_ = control.SetWriteDeadline(time.Now().Add(writeWithin)) // not possible: then there is none
		devices, refused, open := s.Changes.take(reader)
		if !open {
			return nil
		}
		var err error
		if late {
			err = send("time", s.now())
		}
		for id, sequence := range devices {
			if err == nil {
				err = send("device", Change{id, sequence})
			}
		}
		for i := range refused {
			if err == nil {
				err = send("refused", newRefused(&refused[i]))
			}
		}
		if err == nil {
			err = control.Flush()
		}
		if err != nil {
			return nil // the reader is gone
		}
		// The server's own deadlines are for answers that end.
		_ = control.SetWriteDeadline(time.Time{})
		_ = control.SetReadDeadline(time.Time{})
		select {
		case <-r.Context().Done():
			return nil
		case <-reader.wake:
			late = false
		case <-beat.C:
			late = true
		}
	}
}
