package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/facts/linux"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/baseline"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// A machine is what is measured: this one, or a fixture of one.
type machine struct {
	root  *string
	state *string

	cgroups, cgroup *string
	processes       *[]string
}

func machineFlag(c *cobra.Command) *machine {
	return &machine{
		cgroups:   c.Flags().String("cgroup-root", "/sys/fs/cgroup", "`directory` where cgroup v2 is mounted, below the root"),
		cgroup:    c.Flags().String("cgroup", "", "`cgroup` of the medical application below it, such as system.slice/pump.service"),
		processes: c.Flags().StringSlice("process", nil, "`name` or executable of a process that is to run; may be given several times"),

		root:  c.Flags().String("root", "/", "root `directory` of the machine to measure"),
		state: c.Flags().String("state", "", "`directory` that keeps what is counted over boots, not the agent's; without it\nboot.count and time.operating_hours are absent, and boot.total where there is no systemd"),
	}
}

// collector returns a collector of all facts of the machine.
func (m *machine) collector(deadline time.Duration) (*facts.Collector, error) {
	c, _, err := m.watched(deadline)
	return c, err
}

// watched returns a collector of all facts and, of this machine itself, what tells
// of events, which is nil of a fixture.
func (m *machine) watched(deadline time.Duration) (*facts.Collector, *linux.Events, error) {
	root, err := linux.OpenRoot(*m.root)
	if err != nil {
		return nil, nil, ioFailure(err)
	}
	if *m.state != "" {
		if info, err := os.Stat(*m.state); err != nil || !info.IsDir() {
			return nil, nil, fail(exitIO, "make it first, for the user who measures", "%s is no directory for the state", *m.state)
		}
	}
	options := linux.Options{AgentVersion: version(), Services: true, StateDir: *m.state,
		Cgroups: strings.Trim(*m.cgroups, "/"), Application: *m.cgroup, Processes: *m.processes}
	if root.Live() {
		options.Events = linux.NewEvents(root, options, slog.New(slog.DiscardHandler))
	}
	sources, err := linux.Sources(root, options)
	if err != nil {
		return nil, nil, ioFailure(err)
	}
	c, err := facts.NewCollector(sources, deadline, linux.Uptime)
	if err != nil {
		return nil, nil, ioFailure(err)
	}
	return c, options.Events, nil
}

// news are the facts that events told of since they were last read.
type news struct {
	event map[facts.Key]bool // those that only events are about
	mu    sync.Mutex
	keys  []facts.Key
}

func newNews() *news {
	n := &news{event: map[facts.Key]bool{}}
	for _, d := range facts.Catalogue() {
		n.event[d.Key] = d.Cadence == facts.Event
	}
	return n
}

// add leaves out what each round reads anyway: a rate is taken from round to round.
func (n *news) add(k facts.Key) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.event[k] && !slices.Contains(n.keys, k) {
		n.keys = append(n.keys, k)
	}
}

func (n *news) take() []facts.Key {
	n.mu.Lock()
	defer n.mu.Unlock()
	keys := n.keys
	n.keys = nil
	return keys
}

// boot returns the machine's boot id. Boots of a machine that tells none count
// as one: that claims too little, not too much.
func (m *machine) boot() string {
	data, err := os.ReadFile(filepath.Join(*m.root, "proc/sys/kernel/random/boot_id"))
	if id := strings.TrimSpace(string(data)); err == nil && id != "" && len(id) <= reference.MaxName {
		return id
	}
	return "unknown"
}

// maxRounds keeps a recording, with some 260 bytes a round, below
// baseline.MaxSize: to learn that at the end would lose it.
const maxRounds = 200_000

func newRecordCommand() *cobra.Command {
	var out string
	var more bool
	plan := baseline.Plan{}
	c := &cobra.Command{
		Use:   "record --out FILE",
		Short: "Record what a golden device shows",
		Long: `Measures this machine every period and keeps what each fact was: the least and the
greatest number, the texts, the members. Each run is a line of its own in FILE.

What is measured once a boot counts once a boot: to learn how boot times differ,
record after each of some boots, with --append. 59 boots cover 95 % of all boots
with 95 % confidence. Event facts are read in the round after an event, as on a
device within 50 ms. App facts are not recorded. One recording takes two days of
rounds a second.

Without systemd, boot-complete is when --state is first used in a boot: run record
early, from the same place of the start order as the agent.`,
		Example: `  factsctl record --out golden.jsonl --for 10m
  factsctl record --out golden.jsonl --append --runs 3 --for 60s --state /var/lib/factsctl
  factsctl record --out pi.jsonl --root testdata/devices/raspberrypi4 --for 2s`,
		Args: cobra.NoArgs,
	}
	m := machineFlag(c)
	f := c.Flags()
	f.StringVar(&out, "out", "", "`file` for the recording")
	f.BoolVar(&more, "append", false, "add runs to a recording that is there")
	f.IntVar(&plan.Runs, "runs", 1, "`number` of runs")
	f.DurationVar(&plan.For, "for", 30*time.Second, "`length` of a run")
	f.DurationVar(&plan.Period, "period", time.Second, "`time` between two rounds")
	required(c, "out")
	c.RunE = func(c *cobra.Command, _ []string) error {
		rec, err := openRecording(c, out, more)
		if err != nil {
			return err
		}
		if plan.Runs < 1 || plan.Period < 10*time.Millisecond || plan.For < plan.Period {
			return fail(exitUsage, "give --runs 1 or more, --period 10ms or more, and --for at least one period", "cannot record %d runs of %v with a round every %v", plan.Runs, plan.For, plan.Period)
		}
		if rounds := int64(plan.Runs) * int64(plan.For/plan.Period); rounds > maxRounds {
			return fail(exitUsage, "record into several files; manifest draft and simulate take any number of them", "%d rounds are more than the %d that one recording is sure to hold", rounds, maxRounds)
		}
		collector, events, err := m.watched(plan.Period)
		if err != nil {
			return err
		}
		defer collector.Close()
		told, collect := newNews(), collector.Collect
		if events != nil {
			ctx, cancel := context.WithCancel(c.Context())
			ended := make(chan struct{})
			go func() { defer close(ended); events.Watch(ctx, told.add) }()
			defer func() { cancel(); <-ended }()
			collect = func(now time.Time) facts.Snapshot {
				if keys := told.take(); len(keys) > 0 {
					collector.CollectOnly(now, keys)
				}
				return collector.Collect(now)
			}
		}
		vocab, err := facts.NewVocabulary(nil)
		if err != nil {
			return err
		}
		plan.Boot = m.boot()
		bar := newProgress(c.ErrOrStderr())
		runs, cut := baseline.Record(c.Context(), plan, vocab, collect, bar.show)
		bar.end()
		rec.Runs = append(rec.Runs, runs...)
		if len(runs) > 0 {
			data, err := rec.Encode()
			if err == nil && len(data) > baseline.MaxSize {
				err = fmt.Errorf("the recording has %d bytes, the limit is %d", len(data), baseline.MaxSize)
			}
			if err != nil {
				return fail(exitUsage, "begin another file", "%w", err)
			}
			if err := write(c, out, data); err != nil {
				return err
			}
		}
		if cut != nil {
			return fail(exitIO, fmt.Sprintf("%d whole runs are kept", len(runs)), "%w", cut)
		}
		note(c, "recorded %d runs; %s now has %d", len(runs), out, len(rec.Runs))
		return nil
	}
	return c
}

// openRecording returns the recording to add to. One that is there is only
// touched when that was asked for.
func openRecording(c *cobra.Command, name string, more bool) (*baseline.Recording, error) {
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, os.ErrNotExist), err == nil && !info.Mode().IsRegular():
		return new(baseline.Recording), nil
	case err != nil:
		return nil, ioFailure(err)
	case !more:
		return nil, fail(exitUsage, "give --append to add runs to it, or another name", "%s is there already", name)
	}
	return loadRecording(c, name)
}

func loadRecording(c *cobra.Command, name string) (*baseline.Recording, error) {
	data, err := read(c, name, baseline.MaxSize)
	if err != nil {
		return nil, err
	}
	rec, err := baseline.Decode(data)
	if err != nil {
		return nil, fail(exitUsage, "give a file that factsctl record wrote", "%s: %w", name, err)
	}
	return rec, nil
}

func loadRecordings(c *cobra.Command, names []string) (recs []*baseline.Recording, err error) {
	for _, name := range names {
		rec, err := loadRecording(c, name)
		if err != nil {
			return nil, err
		}
		recs = append(recs, rec)
	}
	return recs, nil
}

// A progress shows how far a recording is: one line that is written over on a
// terminal, one line a run elsewhere.
type progress struct {
	out      io.Writer
	terminal bool
}

func newProgress(w io.Writer) *progress {
	f, ok := w.(*os.File)
	return &progress{out: w, terminal: ok && term.IsTerminal(int(f.Fd()))}
}

func (p *progress) show(at baseline.Progress) {
	text := fmt.Sprintf("run %d of %d: %v of %v, %d of %d facts have a value", at.Run, at.Runs, at.Elapsed.Truncate(time.Second), at.For, at.OK, at.All)
	switch {
	case p.terminal:
		fmt.Fprintf(p.out, "\r\x1b[K%s", text)
	case at.Elapsed >= at.For:
		fmt.Fprintln(p.out, text)
	}
}

func (p *progress) end() {
	if p.terminal {
		fmt.Fprintln(p.out)
	}
}

func newManifestDraftCommand() *cobra.Command {
	var out, from, until string
	var force bool
	var o baseline.Options
	var percent int64
	c := &cobra.Command{
		Use:   "draft RECORDING... --vendor NAME --model NAME",
		Short: "Draft a manifest from recordings",
		Long: `Proposes a manifest from recordings of golden devices: ranges around what was seen
with a margin, sets of what was seen, and beside each the reason and what it is
worth. Each run is held against what the others give: as long as those that crossed
it took to come back, so long is the hold of the rule. That much later it sees a
fault; each why says so. Facts that could not be read get no rule. Fail-safe extremes cannot be
measured on a sound device: those in the draft are marked, replace them by the
limits of your safety case. Read the whole draft before you sign it.`,
		Example: `  factsctl manifest draft golden.jsonl --vendor "Example Medical" --model pump-1 --out pump-1.toml
  factsctl manifest draft a.jsonl b.jsonl --vendor "Example Medical" --model pump-1 --margin 10`,
		Args: cobra.MinimumNArgs(1),
	}
	f := c.Flags()
	f.StringVar(&out, "out", "", "`file` to write instead of standard output; one that is there is not overwritten")
	f.BoolVar(&force, "force", false, "overwrite the file")
	f.StringVar(&o.Vendor, "vendor", "", "manufacturer's `name`")
	f.StringVar(&o.Model, "model", "", "device `model`")
	f.Uint64Var(&o.Sequence, "sequence", 1, "`number` of the edition")
	f.StringVar(&from, "from", "", "`date` from which it is valid (default today)")
	f.StringVar(&until, "until", "", "`date` until which it is valid (default two years after from)")
	f.Int64Var(&percent, "margin", 25, "margin beyond what was seen, in `percent` of it")
	required(c, "vendor", "model")
	c.RunE = func(c *cobra.Command, args []string) error {
		if _, err := os.Stat(out); out != "" && err == nil && !force {
			return fail(exitUsage, "give another name, or --force", "%s is there already", out)
		}
		if percent < 1 || percent > 1000 {
			return fail(exitUsage, "give 1 to 1000", "margin of %d %%", percent)
		}
		o.Margin = percent * 10
		begin, err := parseTime(from)
		if err != nil {
			return err
		}
		day := time.Unix(begin, 0).UTC().Truncate(24 * time.Hour)
		o.From, o.Until = day.Unix(), day.AddDate(2, 0, 0).Unix()-1
		if until != "" {
			if o.Until, err = parseTime(until); err != nil {
				return err
			}
		}
		recs, err := loadRecordings(c, args)
		if err != nil {
			return err
		}
		m, notes, err := baseline.Draft(recs, o)
		if err != nil {
			return fail(exitRefused, "record again on a machine that shows its facts", "%w", err)
		}
		return write(c, out, draftText(m, notes))
	}
	return c
}

// draftText is the manifest with what an engineer has to know before signing it.
func draftText(m *reference.Manifest, notes []baseline.Note) []byte {
	var b strings.Builder
	b.WriteString(`# Draft, made from recordings. Before you sign it:
#   - replace each limit in [[fail_safe]] by that of your safety case
#   - decide on enforce, and with "pause" add the steps of [[reaction]]
#   - read every why; delete rules that you cannot answer for
#
# No rule was proposed for:
`)
	for _, n := range notes {
		if n.Stage == "" {
			fmt.Fprintf(&b, "#   %s: %s\n", n.Fact, strings.Map(func(r rune) rune {
				if r < ' ' || r == 0x7f {
					return ' '
				}
				return r
			}, n.Text))
		}
	}
	b.WriteString("\n")
	b.Write(reference.Format(m))
	return []byte(b.String())
}
