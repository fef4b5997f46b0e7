package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"time"

	"github.com/miotfacts/miotfacts/appraise"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/baseline"
	"github.com/spf13/cobra"
)

// A simulation is what a manifest would have made of recordings, as --json
// prints it.
type simulation struct {
	Vendor     string       `json:"vendor"`
	Model      string       `json:"model"`
	Sequence   uint64       `json:"sequence"`
	Runs       int          `json:"runs"`
	Boots      int          `json:"boots"`       // different ones
	ObservedMS int64        `json:"observed_ms"` // length of all runs together
	Rules      []*ruleCount `json:"rules"`
	LeaveOut   *leaveOneOut `json:"leave_one_out,omitempty"`
	Fresh      *freshCount  `json:"fresh,omitempty"`
	Detections []detection  `json:"detections,omitempty"`

	ref *reference.Reference
	at  map[reference.Stage]int // where the rules of a stage begin

	boots map[string]bool
}

// A ruleCount is what one rule would have caused. A rule of the integration
// counts once for each boot, the others each time they begin to deviate.
type ruleCount struct {
	Stage        string      `json:"stage"` // "integration", "operating" or "fail_safe"
	Index        int         `json:"index"` // of the rule in its stage, from 0
	Fact         string      `json:"fact"`
	Expects      string      `json:"expects"`
	Causes       string      `json:"causes"`   // "no admission", "deviation", "report", "alarm" or "pause"
	Recorded     bool        `json:"recorded"` // the fact is in every run; otherwise the numbers say less, or nothing
	Count        int         `json:"count"`
	PerDay       float64     `json:"per_day"`         // Count a device-day; of the integration a boot
	AtMost       float64     `json:"at_most_per_day"` // the rate that would lead to more than Count with 95 % probability
	NotAppraised int         `json:"not_appraised"`   // rounds in which the rule could not be appraised
	Events       []ruleEvent `json:"events"`          // each of Count

	op    reference.Op
	above bool // it has a greatest value
}

// A ruleEvent is one time at which a rule began to deviate.
type ruleEvent struct {
	Run   int    `json:"run"`   // from 1, through all recordings
	Began string `json:"began"` // of the run
	AtMS  int64  `json:"at_ms"` // since then
	Boot  string `json:"boot"`
	Text  string `json:"text"`
}

// A leaveOneOut is what drafts would have made of the runs they did not see.
type leaveOneOut struct {
	Runs   int            `json:"runs"`
	Alarms int            `json:"runs_with_deviation"`
	Facts  map[string]int `json:"facts"` // runs in which a rule of the fact deviated, by fact

	rules map[[2]string]tallied
	boots map[string]int // boots in which a rule of integration deviated, by fact
}

func newSimulateCommand() *cobra.Command {
	var asJSON, leaveOut bool
	var plotDir string
	var percent int64
	var fresh []string
	var try trials
	c := &cobra.Command{
		Use:   "simulate MANIFEST RECORDING...",
		Short: "Count the false alarms that a manifest would have raised",
		Long: `Replays recordings of sound devices through the comparison that devices run, and
counts for each rule of a manifest how often it would have deviated, and when. The
manifest is TOML or signed; its signature is not looked at. What was recorded on
sound devices are false alarms.

Rates are for one device and day. "at most" is the rate that would have shown more
than was counted with 95 % probability: a recording of a minute without an alarm says
little about a year. Facts that a recording does not have, those of the application
among them, are listed and not counted.

--plot draws what the recordings show of each number that the manifest has a range
for, with the bands of the stages.

--leave-one-out asks how good drafts are: for each run it drafts a manifest from all
the others, and counts what that draft makes of the run.

--fresh compares what the recordings let expect with what the manifest makes of
recordings that came later: in how many of those runs each rule deviates, with the
interval that was predicted. With --leave-one-out the drafts predict, as they should
for a manifest that was drafted from these recordings; otherwise the manifest does.
Rules of integration are compared by boots: recordings of one boot predict nothing of
them, and fresh runs of a boot that was recorded before do not count.

--inject asks the other question, how soon a fault would be seen: it puts an anomaly
into what each run shows and says after how many rounds which rule saw it, and which
never did. Kinds: jump, drift and stuck, for each number with a range, one by one;
service-stopped; new-listener; process-load. An anomaly that really happened is the
name of its recording. What a device reads once a minute sees it that late here too.`,
		Example: `  factsctl simulate pump-1.toml golden.jsonl
  factsctl simulate pump-1.toml golden.jsonl --plot pictures
  factsctl simulate pump-1.manifest a.jsonl b.jsonl --leave-one-out --json
  factsctl simulate pump-1.toml golden.jsonl --leave-one-out --fresh later.jsonl
  factsctl simulate pump-1.toml golden.jsonl --inject jump,new-listener
  factsctl simulate pump-1.toml golden.jsonl --inject leak.jsonl --onset 30s`,
		Args: cobra.MinimumNArgs(2),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON: one object")
	c.Flags().StringVar(&plotDir, "plot", "", "`folder` for a picture (SVG) of each fact with a range")
	c.Flags().BoolVar(&leaveOut, "leave-one-out", false, "check drafts of all runs but one against that one")
	c.Flags().Int64Var(&percent, "margin", 25, "margin of these drafts, in `percent`")
	c.Flags().StringSliceVar(&fresh, "fresh", nil, "`recording` of later runs, to compare with what was predicted; may be given several times")
	try.flags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if percent < 1 || percent > 1000 {
			return fail(exitUsage, "give 1 to 1000", "margin of %d %%", percent)
		}
		m, err := loadManifest(c, args[0])
		if err != nil {
			return err
		}
		recs, err := loadRecordings(c, args[1:])
		if err != nil {
			return err
		}
		later, err := loadRecordings(c, fresh)
		if err != nil {
			return err
		}
		if err := try.load(c); err != nil {
			return err
		}
		s, err := simulate(m, recs)
		if err == nil && plotDir != "" {
			var pictures map[string][]byte
			if pictures, err = plots(m, recs); err == nil {
				for _, name := range slices.Sorted(maps.Keys(pictures)) {
					if err := write(c, filepath.Join(plotDir, name+".svg"), pictures[name]); err != nil {
						return err
					}
				}
			}
		}
		if err == nil && leaveOut {
			s.LeaveOut, err = leaveEachOut(m, recs, percent*10)
		}
		if err == nil && len(later) > 0 {
			err = s.compareFresh(m, later)
		}
		if err == nil {
			err = try.run(s, recs)
		}
		switch {
		case errors.Is(err, baseline.ErrNoSamples):
			return fail(exitUsage, "record again with this factsctl", "%w", err)
		case err != nil:
			return fail(exitRefused, "see factsctl manifest lint", "%w", err)
		case asJSON:
			return printJSON(c.OutOrStdout(), s)
		}
		return s.print(c.OutOrStdout())
	}
	return c
}

// loadManifest reads a manifest in TOML or a signed one, whose signature it does
// not verify.
func loadManifest(c *cobra.Command, name string) (*reference.Manifest, error) {
	data, err := read(c, name, maxAuthored)
	if err != nil {
		return nil, err
	}
	if u, err := cose.Parse(data, reference.MaxManifestSize); err == nil && u.Type() == cose.Manifest {
		m := new(reference.Manifest)
		if err := cose.Decode(u.UnverifiedPayload(), reference.MaxManifestSize, m); err != nil {
			return nil, fail(exitRefused, refusalHint(err), "%s: %w", name, err)
		}
		return m, nil
	}
	m, problems := reference.Author(data)
	if m != nil {
		return m, nil
	}
	for _, p := range problems {
		newFinding(name, p).print(c.ErrOrStderr())
	}
	return nil, fail(exitRefused, "correct what is listed above", "%s is no manifest", name)
}

// open returns m as a device has it. A Reference comes only from a signed
// document that a Trust has opened, so m is signed with a key that nobody keeps.
func open(m *reference.Manifest) (*reference.Reference, error) {
	root, err := newThrowaway()
	if err != nil {
		return nil, err
	}
	key, err := newThrowaway()
	if err != nil {
		return nil, err
	}
	list := &reference.Keys{Version: 1, Owner: reference.Manufacturer, Sequence: 1, Keys: []reference.ListedKey{{
		Key: key.Public(), Role: reference.RoleManifest, Name: "simulation", NotBefore: m.NotBefore, NotAfter: m.NotAfter,
	}}}
	signedList, err := reference.SignKeys(list, root)
	if err != nil {
		return nil, err
	}
	signed, err := reference.SignManifest(m, key)
	if err != nil {
		return nil, err
	}
	trust, err := reference.NewTrust(reference.Root{Key: root.Public(), Owner: reference.Manufacturer})
	if err != nil {
		return nil, err
	}
	if _, err := trust.AddKeys(signedList); err != nil {
		return nil, err
	}
	return trust.OpenManifest(signed, reference.Want{}, reference.At(m.NotBefore))
}

func newThrowaway() (*cose.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return cose.NewSigner(key)
}

var simulatedStages = [...]struct {
	stage reference.Stage
	name  string
}{{reference.StageIntegration, "integration"}, {reference.StageOperating, "operating"}, {reference.StagePaused, "fail_safe"}}

// simulate replays every run through the comparison. Each run begins as after a
// start of the agent; a pause does not end it, so that what follows counts too.
func simulate(m *reference.Manifest, recs []*baseline.Recording) (*simulation, error) {
	ref, err := open(m)
	if err != nil {
		return nil, err
	}
	s := &simulation{Vendor: m.Vendor, Model: m.Model, Sequence: m.Sequence, ref: ref, at: map[reference.Stage]int{}}
	for _, x := range simulatedStages {
		s.at[x.stage] = len(s.Rules)
		for i, r := range m.Rules(x.stage) {
			d, _ := ref.Vocabulary().ByKey(r.Fact)
			s.Rules = append(s.Rules, &ruleCount{Stage: x.name, Index: i, Fact: d.Name, Expects: appraise.Expectation(d, r), Causes: causes(x.stage, m.Enforce), Recorded: true, Events: []ruleEvent{}, op: r.Op, above: r.Max != nil})
		}
	}
	boots := map[string]bool{}
	for _, rec := range recs {
		for i := range rec.Runs {
			run := &rec.Runs[i]
			s.Runs++
			s.ObservedMS += run.Length
			boots[run.Boot] = true
			if err := s.replay(run); err != nil {
				return nil, fmt.Errorf("run %d of %s: %w", s.Runs, run.Began, err)
			}
		}
	}
	if s.Runs == 0 {
		return nil, errors.New("the recordings hold no run")
	}
	s.Boots, s.boots = len(boots), boots
	for _, r := range s.Rules {
		per := float64(s.ObservedMS) / float64((24 * time.Hour).Milliseconds())
		if r.Stage == "integration" {
			per = float64(s.Boots)
		}
		r.Count = len(r.Events)
		if per > 0 {
			r.PerDay, r.AtMost = float64(r.Count)/per, atMost(r.Count)/per
		}
	}
	return s, nil
}

func causes(stage reference.Stage, e reference.Enforce) string {
	switch {
	case stage == reference.StageIntegration:
		return "no admission"
	case stage == reference.StageOperating:
		return "deviation"
	case e == reference.Pause:
		return "pause"
	case e == reference.Alarm:
		return "alarm"
	}
	return "report"
}

func (s *simulation) replay(run *baseline.Run) error {
	vocab, err := facts.NewVocabulary(nil)
	if err != nil {
		return err
	}
	snapshots, err := run.Replay(vocab)
	if err != nil {
		return err
	}
	recorded := map[string]bool{}
	for _, f := range run.Facts {
		recorded[f.Fact] = true
	}
	for _, r := range s.Rules {
		r.Recorded = r.Recorded && recorded[r.Fact]
	}
	deviates := make([]bool, len(s.Rules))
	comparison := appraise.NewComparison(s.ref)
	for snapshot := range snapshots {
		for _, x := range comparison.Compare(snapshot) {
			i := s.at[x.Stage] + x.Index
			r := s.Rules[i]
			if !recorded[r.Fact] {
				continue
			}
			if x.Verdict == appraise.NotAppraised {
				r.NotAppraised++
			}
			was := deviates[i]
			deviates[i] = x.Verdict == appraise.Deviates
			if was || !deviates[i] || x.Stage == reference.StageIntegration && r.has(run.Boot) {
				continue
			}
			r.Events = append(r.Events, ruleEvent{Run: s.Runs, Began: run.Began, AtMS: snapshot.Uptime, Boot: run.Boot, Text: appraise.Explain(s.ref, x)})
		}
	}
	return nil
}

func (r *ruleCount) has(boot string) bool {
	for _, e := range r.Events {
		if e.Boot == boot {
			return true
		}
	}
	return false
}

// atMost returns the mean of a Poisson distribution under which more than n
// events have a probability of 95 %: the upper end of a one-sided 95 %
// confidence interval. For none it is 3.0.
func atMost(n int) float64 {
	low, high := float64(n), float64(n)+5*math.Sqrt(float64(n)+1)+5
	for range 60 {
		mean := (low + high) / 2
		// The probability of n or fewer; in logarithms, because factorials grow.
		var p float64
		for k := 0; k <= n; k++ {
			f, _ := math.Lgamma(float64(k) + 1)
			p += math.Exp(float64(k)*math.Log(mean) - mean - f)
		}
		if p > 0.05 {
			low = mean
		} else {
			high = mean
		}
	}
	return high
}

// leaveEachOut drafts a manifest from all runs but one, and replays that one.
func leaveEachOut(m *reference.Manifest, recs []*baseline.Recording, margin int64) (*leaveOneOut, error) {
	out := &leaveOneOut{Facts: map[string]int{}, rules: map[[2]string]tallied{}}
	for _, rec := range recs {
		for i := range rec.Runs {
			n := out.Runs
			out.Runs++
			draft, _, err := baseline.Draft(baseline.Without(recs, n), baseline.Options{Vendor: m.Vendor, Model: m.Model, From: m.NotBefore, Until: m.NotAfter, Margin: margin})
			if err != nil {
				return nil, fmt.Errorf("without run %d: %w", n+1, err)
			}
			s, err := simulate(draft, []*baseline.Recording{{Runs: rec.Runs[i : i+1]}})
			if err != nil {
				return nil, fmt.Errorf("run %d: %w", n+1, err)
			}
			s.tallies(out.rules)
			deviated := map[string]bool{}
			for _, r := range s.Rules {
				if r.Count > 0 {
					deviated[r.Fact] = true
				}
			}
			for f := range deviated {
				out.Facts[f]++
			}
			if len(deviated) > 0 {
				out.Alarms++
			}
		}
	}
	var err error
	out.boots, err = leaveBootsOut(m, recs, margin)
	return out, err
}

// shownEvents is how many events of a rule are printed for people.
const shownEvents = 5

func (s *simulation) print(w io.Writer) error {
	var b bytes.Buffer
	observed := time.Duration(s.ObservedMS) * time.Millisecond
	fmt.Fprintf(&b, "%s %s, sequence %d: %d runs of %d boots, %v observed\n", s.Vendor, s.Model, s.Sequence, s.Runs, s.Boots, observed)
	quiet := 0
	for _, r := range s.Rules {
		if !r.Recorded {
			fmt.Fprintf(&b, "\n%s: %s %s: not in every run, so the count says less\n", r.Stage, r.Fact, r.Expects)
		}
		if r.Count == 0 {
			quiet++
			continue
		}
		fmt.Fprintf(&b, "\n%s: %s %s\n", r.Stage, r.Fact, r.Expects)
		if r.Stage == "integration" {
			fmt.Fprintf(&b, "  %d times %s, of %d boots\n", r.Count, r.Causes, s.Boots)
		} else {
			fmt.Fprintf(&b, "  %d times %s: %s a device-day, at most %s\n", r.Count, r.Causes, rounded(r.PerDay), rounded(r.AtMost))
		}
		for i, e := range r.Events {
			if i == shownEvents {
				fmt.Fprintf(&b, "  and %d more; --json has all\n", r.Count-i)
				break
			}
			fmt.Fprintf(&b, "  run %d, began %s, after %v: %s\n", e.Run, e.Began, time.Duration(e.AtMS)*time.Millisecond, e.Text)
		}
	}
	fmt.Fprintf(&b, "\n%d of %d rules never deviated", quiet, len(s.Rules))
	if s.ObservedMS > 0 {
		fmt.Fprintf(&b, ", each at most %s a device-day", rounded(atMost(0)*float64((24*time.Hour).Milliseconds())/float64(s.ObservedMS)))
	}
	fmt.Fprintln(&b)
	for _, r := range s.Rules {
		if r.NotAppraised > 0 {
			fmt.Fprintf(&b, "%s: %s could not be appraised in %d rounds\n", r.Stage, r.Fact, r.NotAppraised)
		}
	}
	if l := s.LeaveOut; l != nil {
		fmt.Fprintf(&b, "\nleave one run out: drafts of the others would have deviated in %d of %d runs\n", l.Alarms, l.Runs)
		for _, d := range s.ref.Vocabulary().Defs() {
			if n := l.Facts[d.Name]; n > 0 {
				fmt.Fprintf(&b, "  %s in %d runs\n", d.Name, n)
			}
		}
	}
	if s.Fresh != nil {
		s.Fresh.print(&b)
	}
	s.printDetections(&b)
	_, err := w.Write(b.Bytes())
	return err
}

// rounded returns x with two significant digits.
func rounded(x float64) string {
	if x >= 100 {
		return fmt.Sprintf("%.0f", x)
	}
	return fmt.Sprintf("%.2g", x)
}
