package main

import (
	"fmt"

	"github.com/miotfacts/miotfacts/label"
	"github.com/spf13/cobra"
)

type shownMaker struct {
	Place    int          `json:"place"`
	Vendor   string       `json:"vendor"`
	Negative bool         `json:"negative"`
	Why      []string     `json:"why"`
	Models   []shownModel `json:"models"`
}

type shownModel struct {
	Model    string   `json:"model"`
	Edition  uint64   `json:"edition"`
	Devices  int      `json:"devices_observed"`
	Cycle    uint32   `json:"update_cycle_days"`
	Observed bool     `json:"update_cycle_observed"`
	Inspect  string   `json:"best_before_inspection,omitempty"`
	Negative []string `json:"negative"`
}

func newLabelRankCommand() *cobra.Command {
	var observed []string
	var at string
	var asJSON bool
	c := &cobra.Command{
		Use:   "rank FILE...",
		Short: "Put manufacturers in order by how they look after their devices",
		Long: `Reads signed labels of several models and puts their manufacturers in order: the
share of negative labels first, then the longest time between updates, then the
shortest time to an inspection; the worst model counts. A label is negative,
automatically, where support has ended or updates come less often than promised.
--observed names what was seen of a device, with its model; it may be given several
times. It does not verify the labels.`,
		Example: `  factsctl label rank *.label
  factsctl label rank *.label --observed bed-7.json --observed bed-8.json --json`,
		Args: cobra.MinimumNArgs(1),
	}
	f := c.Flags()
	f.StringArrayVar(&observed, "observed", nil, "`file`, TOML or JSON, with what is known of a device and its model")
	f.StringVar(&at, "at", "", "rank for this `time`, 2027-01-01 or 2027-01-01T12:00:00Z (default now)")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	c.RunE = func(c *cobra.Command, args []string) error {
		now, err := parseTime(at)
		if err != nil {
			return err
		}
		var entries []label.Entry
		for _, name := range args {
			_, l, _, err := readLabel(c, name)
			if err != nil {
				return err
			}
			entries = append(entries, label.Entry{Label: l})
		}
		for _, name := range observed {
			o, err := readObserved(c, []string{name})
			if err != nil {
				return err
			}
			if err := give(entries, o); err != nil {
				return fail(exitUsage, `write model = "..." in it, as in one of the labels`, "%s: %w", name, err)
			}
		}
		makers, err := label.Rank(entries, label.DayOf(now))
		if err != nil {
			return fail(exitUsage, "give each label once", "%w", err)
		}
		note(c, "the labels were not verified: factsctl label scan does that")
		if !asJSON {
			return write(c, "", []byte(label.ExplainRank(makers)))
		}
		shown := []shownMaker{}
		for _, m := range makers {
			s := shownMaker{Place: m.Place, Vendor: m.Vendor, Negative: m.Negative > 0, Why: m.Why}
			for _, r := range m.Models {
				x := shownModel{Model: r.Model, Edition: r.Edition, Devices: r.Devices, Cycle: r.Cycle, Observed: r.Seen, Negative: append([]string{}, r.Negative...)}
				if r.Inspect != 0 {
					x.Inspect = r.Inspect.String()
				}
				s.Models = append(s.Models, x)
			}
			shown = append(shown, s)
		}
		return printJSON(c.OutOrStdout(), shown)
	}
	return c
}

// give adds an observation to the labels of its model, which are of one maker.
func give(entries []label.Entry, o label.Observation) error {
	found := -1
	for i, e := range entries {
		if o.Model != e.Label.Model && (o.Model != "" || len(entries) > 1) {
			continue
		}
		if found >= 0 && entries[found].Label.Vendor != e.Label.Vendor {
			return fmt.Errorf("model %s is of %s and of %s", o.Model, entries[found].Label.Vendor, e.Label.Vendor)
		}
		found = i
	}
	if found < 0 {
		return fmt.Errorf("model %q is of no label", o.Model)
	}
	entries[found].Observed = append(entries[found].Observed, o)
	return nil
}
