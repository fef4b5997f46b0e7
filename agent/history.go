package agent

import (
	"slices"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
)

// A history keeps the last minute of each number that has an extreme, one value
// a second. Adding to it makes no garbage.
type history struct {
	keys  []facts.Key
	rings []ring
}

// A ring holds the newest samples; next is the oldest once it is full.
type ring struct {
	samples [attest.MaxHistory]attest.Sample
	next, n int
}

// newHistory returns a history for the fail-safe rules of ref, which may be nil.
func newHistory(ref *reference.Reference) *history {
	h := new(history)
	if ref == nil {
		return h
	}
	for _, r := range ref.Manifest().FailSafe {
		if d, ok := ref.Vocabulary().ByKey(r.Fact); ok && d.Kind == facts.Int && !slices.Contains(h.keys, r.Fact) {
			h.keys = append(h.keys, r.Fact)
		}
	}
	h.rings = make([]ring, len(h.keys))
	return h
}

func (h *history) add(s facts.Snapshot) {
	for i, k := range h.keys {
		if r := s.Reading(k); r.Status == facts.OK && r.Value.Kind() == facts.Int {
			h.rings[i].add(attest.Sample{At: max(s.Uptime, 0), Value: r.Value.Int()})
		}
	}
}

// add adds a sample. In one second the newest counts: it is the one that crossed.
func (r *ring) add(s attest.Sample) {
	if last := &r.samples[(r.next+len(r.samples)-1)%len(r.samples)]; r.n > 0 && last.At/1000 == s.At/1000 {
		*last = s
		return
	}
	r.samples[r.next] = s
	r.next = (r.next + 1) % len(r.samples)
	r.n = min(r.n+1, len(r.samples))
}

// of returns the last minute of a fact, nil when it has none.
func (h *history) of(k facts.Key) *attest.History {
	i := slices.Index(h.keys, k)
	if i < 0 || h.rings[i].n == 0 {
		return nil
	}
	r := &h.rings[i]
	out := &attest.History{Fact: k}
	newest := r.samples[(r.next+len(r.samples)-1)%len(r.samples)].At
	for j := range r.n {
		s := r.samples[(r.next+len(r.samples)-r.n+j)%len(r.samples)]
		if newest-s.At < attest.MaxHistory*1000 && s.At <= newest {
			out.Samples = append(out.Samples, s)
		}
	}
	return out
}
