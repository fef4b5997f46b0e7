package main

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/miotfacts/miotfacts/appraise"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/baseline"
	"github.com/spf13/cobra"
)

// trials are the anomalies that were asked for.
type trials struct {
	names []string
	onset time.Duration
	given bool // the onset was
	by    int64

	recordings map[string]*baseline.Recording // those that are recorded
}

func (t *trials) flags(c *cobra.Command) {
	c.Flags().StringSliceVar(&t.names, "inject", nil, "`anomaly` to look for, a kind or the recording of one; may be given several times")
	c.Flags().DurationVar(&t.onset, "onset", 0, "`time` since the first round at which an anomaly begins (default the middle of each run, of a recorded one its first round)")
	c.Flags().Int64Var(&t.by, "by", 100, "size of a jump, and of a minute's drift, in `percent` of the greatest value recorded")
}

// load reads the recordings among them and refuses what is neither.
func (t *trials) load(c *cobra.Command) error {
	t.recordings, t.given = map[string]*baseline.Recording{}, c.Flags().Changed("onset")
	kinds := baseline.AnomalyKinds()
	if t.by < 1 || t.by > 100_000 {
		return fail(exitUsage, "give 1 to 100000", "anomaly of %d %%", t.by)
	}
	if t.onset < 0 {
		return fail(exitUsage, "give the time since the first round", "anomaly that begins at %v", t.onset)
	}
	for _, name := range t.names {
		if slices.Contains(kinds, baseline.AnomalyKind(name)) {
			continue
		}
		if _, err := os.Stat(name); err != nil {
			return fail(exitUsage, fmt.Sprintf("the kinds are %v", kinds), "%s is no kind of anomaly and no recording", name)
		}
		rec, err := loadRecording(c, name)
		if err != nil {
			return err
		}
		t.recordings[name] = rec
	}
	return nil
}

func (t *trials) run(s *simulation, recs []*baseline.Recording) error {
	for _, name := range t.names {
		var err error
		if rec := t.recordings[name]; rec != nil {
			err = s.recorded(rec, name, t.onset.Milliseconds())
		} else {
			onset := int64(-1)
			if t.given {
				onset = t.onset.Milliseconds()
			}
			err = s.detect(recs, baseline.AnomalyKind(name), t.by, onset)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// A detection is how soon the rules saw one anomaly.
type detection struct {
	Anomaly  string     `json:"anomaly"`
	Fact     string     `json:"fact,omitempty"` // of an anomaly of one number
	Injected bool       `json:"injected"`       // made up; otherwise it is in a recording
	OnsetMS  int64      `json:"onset_ms"`       // since the first round of the run; of several runs the first
	Runs     int        `json:"runs"`
	Sound    int        `json:"sound_runs"`        // of the sound recordings
	Refused  string     `json:"refused,omitempty"` // why the runs can have no such anomaly
	Rules    []sighting `json:"rules"`             // those that saw it, and of injected ones all of the facts that show it
}

// A sighting is how soon one rule saw an anomaly.
type sighting struct {
	Stage       string `json:"stage"`
	Index       int    `json:"index"`
	Fact        string `json:"fact"`
	Expects     string `json:"expects"`
	Seen        int    `json:"seen"`          // runs in which it did before they ended
	Rounds      int    `json:"rounds_median"` // from the onset's round, 0: that round itself
	RoundsWorst int    `json:"rounds_worst"`
	MS          int64  `json:"ms_median"` // since the onset
	MSWorst     int64  `json:"ms_worst"`
	Sound       int    `json:"sound_runs"` // runs of the sound recordings in which it deviated too
}

// A noticed is one deviation that began with an anomaly.
type noticed struct {
	rounds int
	ms     int64
}

// A detector asks a reference what it would have seen.
type detector struct {
	ref   *reference.Reference
	vocab *facts.Vocabulary
	recs  []*baseline.Recording
	rules []*ruleCount
	at    map[reference.Stage]int
	sound map[[2]string]tallied
	runs  int // sound ones
}

// detect puts anomalies of a kind into each run. size is a share of the greatest
// value of the recordings, in percent, and onset is in ms since the first round;
// below 0 it is the middle of each run.
func (s *simulation) detect(recs []*baseline.Recording, kind baseline.AnomalyKind, size, onset int64) error {
	d, err := s.detector(recs)
	if err != nil {
		return err
	}
	if !kind.OfOneNumber() {
		x, err := d.inject(baseline.Anomaly{Kind: kind, Onset: onset}, string(kind))
		s.Detections = append(s.Detections, x)
		return err
	}
	for _, def := range d.vocab.Defs() {
		i := slices.IndexFunc(d.rules, func(r *ruleCount) bool { return r.Fact == def.Name && r.Recorded && r.op == reference.Range })
		if i < 0 || def.Cadence == facts.Boot {
			continue
		}
		a := baseline.Anomaly{Kind: kind, Fact: def.Name, Size: baseline.Magnitude(recs, def) * size / 100, Onset: onset}
		way, name := "up", ""
		if !d.rules[i].above {
			a.Size, way = -a.Size, "down"
		}
		switch kind {
		case baseline.Jump:
			name = fmt.Sprintf("jump of %s %s by %s", def.Name, way, appraise.Show(def, facts.IntValue(max(a.Size, -a.Size))))
		case baseline.Drift:
			name = fmt.Sprintf("drift of %s %s by %s a minute", def.Name, way, appraise.Show(def, facts.IntValue(max(a.Size, -a.Size))))
		default:
			name = fmt.Sprintf("%s %s", kind, def.Name)
		}
		x, err := d.inject(a, name)
		if err != nil {
			return err
		}
		s.Detections = append(s.Detections, x)
	}
	return nil
}

func (s *simulation) detector(recs []*baseline.Recording) (*detector, error) {
	vocab, err := facts.NewVocabulary(nil)
	if err != nil {
		return nil, err
	}
	d := &detector{ref: s.ref, vocab: vocab, recs: recs, rules: s.Rules, at: s.at, sound: map[[2]string]tallied{}, runs: s.Runs}
	s.tallies(d.sound)
	return d, nil
}

// inject looks at one anomaly in each run.
func (d *detector) inject(a baseline.Anomaly, name string) (detection, error) {
	out := detection{Anomaly: name, Fact: a.Fact, Injected: true, OnsetMS: a.Onset, Sound: d.runs}
	seen := make([][]noticed, len(d.rules))
	middle := a.Onset < 0
	for _, rec := range d.recs {
		for i := range rec.Runs {
			run := &rec.Runs[i]
			if middle {
				a.Onset = run.Length / 2
			}
			if out.Runs == 0 {
				out.OnsetMS = a.Onset
			}
			sound, err := run.Replay(d.vocab)
			if err != nil {
				return detection{}, err
			}
			sick, err := a.Inject(run, d.vocab)
			if err != nil {
				if !errors.Is(err, baseline.ErrNoSamples) {
					out.Refused = err.Error()
					continue
				}
				return detection{}, err
			}
			out.Runs++
			d.compare(sound, sick, a.Onset, seen)
		}
	}
	if out.Runs > 0 {
		out.Refused = ""
	}
	out.Rules = d.sightings(seen, a.Facts())
	return out, nil
}

// recorded looks at an anomaly that is in recordings, from onset on.
func (s *simulation) recorded(rec *baseline.Recording, name string, onset int64) error {
	d, err := s.detector(nil)
	if err != nil {
		return err
	}
	out := detection{Anomaly: name, OnsetMS: onset, Sound: d.runs}
	seen := make([][]noticed, len(d.rules))
	for i := range rec.Runs {
		rounds, err := rec.Runs[i].Replay(d.vocab)
		if err != nil {
			return err
		}
		out.Runs++
		d.compare(nil, rounds, onset, seen)
	}
	out.Rules = d.sightings(seen, nil)
	s.Detections = append(s.Detections, out)
	return nil
}

// compare adds to seen when each rule began to deviate because of an anomaly:
// in a round in which it does not deviate in the sound run, or, without one, did
// not before the onset.
func (d *detector) compare(sound, sick iter.Seq[facts.Snapshot], onset int64, seen [][]noticed) {
	excused := make([]bool, len(d.rules)) // deviates without the anomaly
	done := make([]bool, len(d.rules))
	next, stop := func() (facts.Snapshot, bool) { return facts.Snapshot{}, false }, func() {}
	if sound != nil {
		next, stop = iter.Pull(sound)
	}
	defer stop()
	without, with := appraise.NewComparison(d.ref), appraise.NewComparison(d.ref)
	rounds := 0
	for snapshot := range sick {
		if s, ok := next(); ok {
			for _, x := range without.Compare(s) {
				excused[d.at[x.Stage]+x.Index] = x.Verdict == appraise.Deviates
			}
		}
		for _, x := range with.Compare(snapshot) {
			i := d.at[x.Stage] + x.Index
			deviates := x.Verdict == appraise.Deviates
			switch {
			case snapshot.Uptime < onset:
				if sound == nil {
					excused[i] = deviates
				}
			case !deviates:
				if sound == nil {
					excused[i] = false
				}
			case !excused[i] && !done[i]:
				done[i] = true
				seen[i] = append(seen[i], noticed{rounds, snapshot.Uptime - onset})
			}
		}
		if snapshot.Uptime >= onset {
			rounds++
		}
	}
}

// sightings are the rules that saw it, and those of shown facts, in the order of
// the manifest.
func (d *detector) sightings(seen [][]noticed, shown []string) []sighting {
	list := []sighting{}
	for i, all := range seen {
		r := d.rules[i]
		if len(all) == 0 && (!slices.Contains(shown, r.Fact) || r.Stage == "integration") {
			continue
		}
		x := sighting{Stage: r.Stage, Index: r.Index, Fact: r.Fact, Expects: r.Expects, Seen: len(all), Sound: d.sound[[2]string{r.Stage, r.Fact}].runs}
		if len(all) > 0 {
			slices.SortFunc(all, func(a, b noticed) int { return a.rounds - b.rounds })
			x.Rounds, x.RoundsWorst = all[len(all)/2].rounds, all[len(all)-1].rounds
			slices.SortFunc(all, func(a, b noticed) int { return int(a.ms - b.ms) })
			x.MS, x.MSWorst = all[len(all)/2].ms, all[len(all)-1].ms
		}
		list = append(list, x)
	}
	return list
}

// printDetections prints a paragraph for each anomaly; of those that happened to
// one number each, those that no rule saw share one.
func (s *simulation) printDetections(w io.Writer) {
	unseen, order := map[string][]string{}, []string{}
	for _, x := range s.Detections {
		if x.Fact != "" && !slices.ContainsFunc(x.Rules, func(r sighting) bool { return r.Seen > 0 }) {
			kind, _, _ := strings.Cut(x.Anomaly, " ")
			if unseen[kind] == nil {
				order = append(order, kind)
			}
			unseen[kind] = append(unseen[kind], x.Fact)
			continue
		}
		x.print(w)
	}
	for _, kind := range order {
		fmt.Fprintf(w, "\ninjected: %s, of each of these: NO RULE saw it before the runs ended\n  %s\n", kind, strings.Join(unseen[kind], ", "))
	}
}

func (x *detection) print(w io.Writer) {
	what := "recorded"
	if x.Injected {
		what = "injected"
	}
	fmt.Fprintf(w, "\n%s: %s, from %v on, in %d runs\n", what, x.Anomaly, time.Duration(x.OnsetMS)*time.Millisecond, x.Runs)
	if x.Runs == 0 {
		fmt.Fprintf(w, "  not possible here: %s\n", x.Refused)
		return
	}
	blind := []string{}
	for _, r := range x.Rules {
		if r.Seen == 0 {
			blind = append(blind, fmt.Sprintf("%s: %s %s", r.Stage, r.Fact, r.Expects))
			continue
		}
		fmt.Fprintf(w, "  %s: %s %s: seen in %d runs, after %d rounds, %v (worst %d, %v)", r.Stage, r.Fact, r.Expects, r.Seen,
			r.Rounds, time.Duration(r.MS)*time.Millisecond, r.RoundsWorst, time.Duration(r.MSWorst)*time.Millisecond)
		if r.Sound > 0 {
			fmt.Fprintf(w, "; it deviated in %d of %d sound runs too", r.Sound, x.Sound)
		}
		fmt.Fprintln(w)
	}
	switch {
	case len(blind) == len(x.Rules):
		fmt.Fprintln(w, "  NO RULE saw it before the runs ended")
	case len(blind) > 0:
		fmt.Fprintf(w, "  never seen by: %s\n", strings.Join(blind, "; "))
	}
}
