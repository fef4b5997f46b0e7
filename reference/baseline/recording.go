// Package baseline turns what a golden device showed into a draft of a
// manifest: it folds snapshots into recordings, and proposes rules from them
// with the reason beside every number.
//
// A recording is not signed and nothing in it is trusted: a draft is for an
// engineer to read and correct, and only what the engineer signs counts. The
// package does no I/O of its own and is never part of factsd.
package baseline

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/miotfacts/miotfacts/facts"
)

// Limits of a recording.
const (
	MaxSize   = 64 << 20 // bytes; 80 facts need 10 kB a run, and some 200 bytes a round for those that change
	MaxRuns   = 4096
	maxValues = 64 // distinct texts or digests of one fact in one run
)

// A Recording is what a golden device showed in a number of runs. It is stored
// as JSON lines: a first line {"recording":1}, then one line a run.
type Recording struct {
	Runs []Run
}

// A Run is what was seen in one stretch of time.
type Run struct {
	Boot   string  `json:"boot"`        // boot id: runs of one boot share what is measured once a boot
	Began  string  `json:"began"`       // RFC 3339, for people
	Period int64   `json:"period_ms"`   // between two rounds
	Length int64   `json:"duration_ms"` // from the first round to the last
	Rounds uint32  `json:"rounds"`
	Times  []int64 `json:"times_ms,omitempty"` // of each round since the first; none in old recordings
	Facts  []Seen  `json:"facts"`              // in ascending order of wire keys
}

// A Seen is what one fact was in a run.
type Seen struct {
	Fact    string   `json:"fact"`
	Unit    string   `json:"unit,omitempty"`
	OK      uint32   `json:"ok"`                // rounds with a value
	Absent  uint32   `json:"absent,omitempty"`  // rounds in which this machine did not have it
	Failed  uint32   `json:"failed,omitempty"`  // rounds in which it was unreadable, stale or malformed
	Reason  string   `json:"reason,omitempty"`  // of the last round without a value
	Min     *int64   `json:"min,omitempty"`     // Int, in Unit
	Max     *int64   `json:"max,omitempty"`     // Int, in Unit
	Bools   []bool   `json:"bools,omitempty"`   // Bool: those seen, false first
	Texts   []string `json:"texts,omitempty"`   // Text: those seen; Set: the members ever seen; Bytes: those seen, in hexadecimal
	Varied  bool     `json:"varied,omitempty"`  // more values than a recording keeps
	Samples []Sample `json:"samples,omitempty"` // each value that differs from the one before, with its round
}

type header struct {
	Recording int `json:"recording"`
}

// Encode returns the recording as it is stored.
func (r *Recording) Encode() ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(header{1}); err != nil {
		return nil, fmt.Errorf("cannot encode recording: %w", err)
	}
	for i := range r.Runs {
		if err := enc.Encode(&r.Runs[i]); err != nil {
			return nil, fmt.Errorf("cannot encode recording: run %d: %w", i+1, err)
		}
	}
	return out.Bytes(), nil
}

// Decode reads what Encode wrote and refuses all else: other fields, other
// order, facts that are not in the catalogue, values of another kind.
func Decode(data []byte) (*Recording, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("cannot read recording: %d bytes, the limit is %d", len(data), MaxSize)
	}
	lines := bytes.SplitAfter(data, []byte("\n"))
	var h header
	if err := decodeLine(lines[0], &h); err != nil || h.Recording != 1 {
		return nil, errors.New(`cannot read recording: line 1 is not {"recording":1}`)
	}
	vocab, err := facts.NewVocabulary(nil)
	if err != nil {
		return nil, err
	}
	r := &Recording{}
	for i, line := range lines[1:] {
		if len(line) == 0 && i == len(lines)-2 {
			break // what follows the last line
		}
		var run Run
		err := decodeLine(line, &run)
		if err == nil {
			err = run.check(vocab)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read recording: line %d: %w", i+2, err)
		}
		if r.Runs = append(r.Runs, run); len(r.Runs) > MaxRuns {
			return nil, fmt.Errorf("cannot read recording: more than %d runs", MaxRuns)
		}
	}
	return r, nil
}

func decodeLine(line []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	// The one encoding, as for signed documents: no double keys, no other case.
	var again bytes.Buffer
	enc := json.NewEncoder(&again)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	if !bytes.Equal(again.Bytes(), line) {
		return errors.New("not as a recorder writes it; do not edit a recording, edit the draft")
	}
	return nil
}

func (r *Run) check(vocab *facts.Vocabulary) error {
	if r.Boot == "" || r.Rounds == 0 {
		return errors.New("a run without a boot id or without rounds")
	}
	if n := len(r.Times); n > 0 && (uint64(n) != uint64(r.Rounds) || r.Times[0] != 0 || r.Times[n-1] != r.Length || !slices.IsSorted(r.Times)) {
		return errors.New("the times of the rounds do not go from 0 to the length of the run")
	}
	last := facts.Key(0)
	for _, s := range r.Facts {
		d, ok := vocab.ByName(s.Fact)
		if !ok {
			return fmt.Errorf("no fact is called %q", s.Fact)
		}
		if d.Key <= last {
			return fmt.Errorf("%s is out of order", s.Fact)
		}
		last = d.Key
		err := s.check(d, r.Rounds)
		if err == nil {
			err = s.checkSamples(d, len(r.Times))
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s.Fact, err)
		}
	}
	return nil
}

func (s *Seen) check(d facts.Def, rounds uint32) error {
	switch {
	case s.Unit != d.Unit:
		return fmt.Errorf("unit is %q, want %q", s.Unit, d.Unit)
	case uint64(s.OK)+uint64(s.Absent)+uint64(s.Failed) > uint64(rounds):
		return fmt.Errorf("more readings than the %d rounds of the run", rounds)
	case (d.Kind == facts.Int && s.OK > 0) != (s.Min != nil && s.Max != nil), (s.Min != nil) != (s.Max != nil):
		return errors.New("min and max go with integers that were measured")
	case s.Min != nil && *s.Min > *s.Max:
		return fmt.Errorf("min %d is above max %d", *s.Min, *s.Max)
	case len(s.Bools) > 0 && d.Kind != facts.Bool, len(s.Texts) > 0 && (d.Kind == facts.Int || d.Kind == facts.Bool):
		return fmt.Errorf("values of another kind than %s", d.Kind)
	case len(s.Bools) > 2, len(s.Bools) == 2 && (s.Bools[0] || !s.Bools[1]):
		return errors.New("booleans are not false, true or both")
	case d.Kind == facts.Bool && s.OK > 0 && len(s.Bools) == 0, (d.Kind == facts.Text || d.Kind == facts.Bytes) && s.OK > 0 && len(s.Texts) == 0:
		return errors.New("measured, but no value was kept")
	case s.OK == 0 && len(s.Bools)+len(s.Texts) > 0:
		return errors.New("values that were never measured")
	case len(s.Texts) > limit(d.Kind):
		return fmt.Errorf("%d values, the limit is %d", len(s.Texts), limit(d.Kind))
	}
	for i, t := range s.Texts {
		if len(t) > facts.MaxText || i > 0 && s.Texts[i-1] >= t {
			return errors.New("values are too long or not in ascending order")
		}
		if b, err := hex.DecodeString(t); d.Kind == facts.Bytes && (err != nil || len(b) > facts.MaxBytes) {
			return fmt.Errorf("%q is not %d bytes at most in hexadecimal", t, facts.MaxBytes)
		}
	}
	return nil
}

func limit(k facts.Kind) int {
	if k == facts.Set {
		return facts.MaxSet
	}
	return maxValues
}

// A Recorder folds the snapshots of one run.
type Recorder struct {
	vocab      *facts.Vocabulary
	run        Run
	begin, end int64
	seen       map[facts.Key]*Seen
}

// NewRecorder returns a recorder of a run in the boot that boot names.
func NewRecorder(vocab *facts.Vocabulary, boot, began string, periodMS int64) *Recorder {
	return &Recorder{vocab: vocab, run: Run{Boot: boot, Began: began, Period: periodMS}, seen: map[facts.Key]*Seen{}}
}

// Add folds a snapshot in. Facts that are not in the vocabulary are left out.
func (r *Recorder) Add(s facts.Snapshot) {
	if r.run.Rounds == 0 {
		r.begin, r.end = s.Uptime, s.Uptime
	}
	r.end = max(r.end, s.Uptime)
	r.run.Times = append(r.run.Times, r.end-r.begin)
	r.run.Rounds++
	for _, x := range s.Readings {
		d, ok := r.vocab.ByKey(x.Key)
		if !ok {
			continue
		}
		if r.seen[x.Key] == nil {
			r.seen[x.Key] = &Seen{Fact: d.Name, Unit: d.Unit}
		}
		r.seen[x.Key].add(x, d.Kind)
		r.seen[x.Key].sample(r.run.Rounds-1, x, d.Kind)
	}
}

func (s *Seen) add(x facts.Reading, kind facts.Kind) {
	switch {
	case x.Status == facts.OK && x.Value.Kind() == kind:
		s.OK++
	case x.Status == facts.Pending:
		s.Reason = x.Reason
		return
	case x.Status == facts.Absent:
		s.Absent++
		s.Reason = x.Reason
		return
	default:
		s.Failed++
		s.Reason = x.Reason
		return
	}
	switch v := x.Value; kind {
	case facts.Int:
		low, high := v.Int(), v.Int()
		if s.Min != nil {
			low, high = min(low, *s.Min), max(high, *s.Max)
		}
		s.Min, s.Max = &low, &high
	case facts.Bool:
		if !slices.Contains(s.Bools, v.Bool()) {
			s.Bools = append(s.Bools, v.Bool())
			slices.SortFunc(s.Bools, func(a, b bool) int {
				if a == b {
					return 0
				} else if a {
					return 1
				}
				return -1
			})
		}
	case facts.Text:
		s.keep(v.Text(), kind)
	case facts.Bytes:
		s.keep(hex.EncodeToString(v.Bytes()), kind)
	case facts.Set:
		for _, m := range v.Set() {
			s.keep(m, kind)
		}
	}
}

func (s *Seen) keep(t string, kind facts.Kind) {
	i, found := slices.BinarySearch(s.Texts, t)
	switch {
	case found:
	case len(s.Texts) >= limit(kind):
		s.Varied = true
	default:
		s.Texts = slices.Insert(s.Texts, i, t)
	}
}

// Run returns what was folded so far.
func (r *Recorder) Run() Run {
	run := r.run
	run.Length = r.end - r.begin
	run.Facts = []Seen{}
	for _, d := range r.vocab.Defs() {
		if s := r.seen[d.Key]; s != nil {
			run.Facts = append(run.Facts, *s)
		}
	}
	return run
}
