package baseline

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/miotfacts/miotfacts/facts"
)

// A Sample is what a fact was from one round on, until its next sample. In JSON
// it is a pair of the round and the value: a number, a boolean, a text, a list of
// members, {"hex":...} or, where there was no value, {"status":...,"reason":...}.
type Sample struct {
	Round  uint32 // from 0
	Status facts.Status
	Value  facts.Value // when Status is OK
	Reason string      // when it is not
}

// A sampleObject is what JSON has no kind of its own for.
type sampleObject struct {
	Hex    *string `json:"hex,omitempty"`
	Status string  `json:"status,omitempty"`
	Reason string  `json:"reason,omitempty"`
}

// MarshalJSON encodes the pair.
func (s Sample) MarshalJSON() ([]byte, error) {
	var v any
	switch {
	case s.Status != facts.OK:
		v = sampleObject{Status: s.Status.String(), Reason: s.Reason}
	case s.Value.Kind() == facts.Int:
		v = s.Value.Int()
	case s.Value.Kind() == facts.Bool:
		v = s.Value.Bool()
	case s.Value.Kind() == facts.Text:
		v = s.Value.Text()
	case s.Value.Kind() == facts.Bytes:
		text := hex.EncodeToString(s.Value.Bytes())
		v = sampleObject{Hex: &text}
	case s.Value.Kind() == facts.Set:
		v = append([]string{}, s.Value.Set()...)
	default:
		return nil, errors.New("cannot encode sample: it has no value")
	}
	return json.Marshal([2]any{s.Round, v})
}

// UnmarshalJSON decodes what MarshalJSON encodes.
func (s *Sample) UnmarshalJSON(data []byte) error {
	var pair []json.RawMessage
	if err := json.Unmarshal(data, &pair); err != nil {
		return err
	}
	if len(pair) != 2 || len(pair[1]) == 0 {
		return errors.New("a sample is not a round and a value")
	}
	var x Sample
	if err := json.Unmarshal(pair[0], &x.Round); err != nil {
		return err
	}
	var err error
	switch c := pair[1][0]; c {
	case '{':
		var o sampleObject
		if err := json.Unmarshal(pair[1], &o); err != nil {
			return err
		}
		if o.Hex != nil {
			var raw []byte
			raw, err = hex.DecodeString(*o.Hex)
			x.Value = facts.BytesValue(raw)
			break
		}
		for x.Status = facts.OK + 1; x.Status.Known() && x.Status.String() != o.Status; x.Status++ {
		}
		if !x.Status.Known() {
			return fmt.Errorf("a sample with status %q", o.Status)
		}
		x.Reason = o.Reason
	case '[':
		var members []string
		err = json.Unmarshal(pair[1], &members)
		x.Value = facts.SetValue(members)
	case '"':
		var text string
		err = json.Unmarshal(pair[1], &text)
		x.Value = facts.TextValue(text)
	case 't', 'f':
		x.Value = facts.BoolValue(c == 't')
	default:
		var n int64
		err = json.Unmarshal(pair[1], &n)
		x.Value = facts.IntValue(n)
	}
	*s = x
	return err
}

// checkSamples refuses samples that no recorder writes.
func (s *Seen) checkSamples(d facts.Def, rounds int) error {
	for i, x := range s.Samples {
		switch {
		case int64(x.Round) >= int64(rounds):
			return fmt.Errorf("sample of round %d, the run has times of %d", x.Round, rounds)
		case i > 0 && x.Round <= s.Samples[i-1].Round:
			return errors.New("samples are out of order")
		case x.Status == facts.OK && x.Value.Kind() != d.Kind:
			return fmt.Errorf("a sample is of kind %s, want %s", x.Value.Kind(), d.Kind)
		case x.Status == facts.OK:
			if _, err := x.Value.MarshalCBOR(); err != nil {
				return fmt.Errorf("a sample: %w", err)
			}
		case x.Reason == "":
			return fmt.Errorf("a sample is %s without a reason", x.Status)
		}
	}
	return nil
}

// sample keeps x if it is another than before. What cannot be a value of kind
// is malformed, as in the counts of the run.
func (s *Seen) sample(round uint32, x facts.Reading, kind facts.Kind) {
	n := Sample{Round: round, Status: x.Status, Value: x.Value, Reason: x.Reason}
	if _, err := x.Value.MarshalCBOR(); n.Status == facts.OK && (x.Value.Kind() != kind || err != nil) {
		n.Status, n.Reason = facts.Malformed, "it was no "+kind.String()
	}
	if n.Status != facts.OK {
		n.Value = facts.Value{}
		if n.Reason == "" {
			n.Reason = "no reason was given"
		}
	}
	if len(s.Samples) > 0 {
		l := s.Samples[len(s.Samples)-1]
		if l.Status == n.Status && l.Reason == n.Reason && (n.Status != facts.OK || l.Value.Equal(n.Value)) {
			return
		}
	}
	n.Value = n.Value.Clone()
	s.Samples = append(s.Samples, n)
}

// ErrNoSamples says that a run was recorded by a version that kept none.
var ErrNoSamples = errors.New("the run has no samples")

// Replay returns the snapshots of the run, one after the other, with uptimes in
// ms since its first round. A snapshot is valid until the next.
func (r *Run) Replay(vocab *facts.Vocabulary) (iter.Seq[facts.Snapshot], error) {
	if len(r.Times) == 0 {
		return nil, ErrNoSamples
	}
	return func(yield func(facts.Snapshot) bool) {
		next := make([]int, len(r.Facts))
		now := make([]facts.Reading, len(r.Facts))
		for i, s := range r.Facts {
			d, _ := vocab.ByName(s.Fact)
			now[i] = facts.Reading{Key: d.Key, Status: facts.Pending, Reason: "not yet recorded"}
		}
		for round, at := range r.Times {
			for i, s := range r.Facts {
				if n := next[i]; n < len(s.Samples) && int(s.Samples[n].Round) == round {
					x := s.Samples[n]
					now[i].Status, now[i].Value, now[i].Reason = x.Status, x.Value, x.Reason
					next[i]++
				}
			}
			if !yield(facts.Snapshot{Uptime: at, Readings: now}) {
				return
			}
		}
	}, nil
}

// Without returns the recordings without one run, which counts through all of
// them from 0: for asking what a draft would have said of a run it did not see.
func Without(recordings []*Recording, run int) []*Recording {
	var rest []*Recording
	for _, rec := range recordings {
		kept := rec
		if run >= 0 && run < len(rec.Runs) {
			kept = &Recording{Runs: slices.Delete(slices.Clone(rec.Runs), run, run+1)}
		}
		rest = append(rest, kept)
		run -= len(rec.Runs)
	}
	return rest
}
