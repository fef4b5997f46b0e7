package main

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/miotfacts/miotfacts/facts"
	"github.com/spf13/cobra"
)

func newFactsCommand() *cobra.Command {
	return newGroup("facts", "Look up facts and what this machine shows",
		"A fact is a runtime value with a name, a fixed unit and a documented source.",
		newFactsListCommand(), newFactsShowCommand(), newFactsNowCommand(), newFactsExplainCommand(), newFactsDocCommand())
}

// A shownFact is a definition as --json prints it.
type shownFact struct {
	Name    string    `json:"name"`
	Key     facts.Key `json:"key"`
	Unit    string    `json:"unit"`
	Kind    string    `json:"kind"`
	Cadence string    `json:"cadence"`
	Source  string    `json:"source"`
	Doc     string    `json:"doc"`
}

func newShownFact(d facts.Def) shownFact {
	doc := documentOf(d)
	return shownFact{d.Name, d.Key, d.Unit, d.Kind.String(), d.Cadence.String(), doc.Source, doc.Doc}
}

// documentOf returns what is documented of a fact of the catalogue.
func documentOf(d facts.Def) facts.Document {
	docs := facts.Documents()
	return docs[slices.IndexFunc(docs, func(x facts.Document) bool { return x.Name == d.Name })]
}

// A shownReading is a measurement as --json prints it.
type shownReading struct {
	Name   string `json:"name"`
	Unit   string `json:"unit"`
	Status string `json:"status"`
	Value  any    `json:"value,omitempty"` // number, boolean, text, hexadecimal text or list of texts; when status is "ok"
	Reason string `json:"reason,omitempty"`
}

func newShownReading(d facts.Def, r facts.Reading) shownReading {
	s := shownReading{Name: d.Name, Unit: d.Unit, Status: r.Status.String(), Reason: r.Reason}
	if r.Status == facts.OK {
		switch r.Value.Kind() {
		case facts.Int:
			s.Value = r.Value.Int()
		case facts.Bool:
			s.Value = r.Value.Bool()
		case facts.Text:
			s.Value = r.Value.Text()
		case facts.Set:
			s.Value = append([]string{}, r.Value.Set()...)
		default:
			s.Value = r.Value.String()
		}
	}
	return s
}

func newFactsListCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "list [GROUP]",
		Short: "List all facts",
		Long:  "Lists the facts that a manifest can have rules for: name, kind, unit, cadence and meaning.",
		Example: `  factsctl facts list
  factsctl facts list boot --json`,
		Args: cobra.MaximumNArgs(1),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON: a list of definitions")
	c.RunE = func(c *cobra.Command, args []string) error {
		shown := []shownFact{}
		for _, d := range facts.Catalogue() {
			if len(args) == 0 || d.Group() == args[0] {
				shown = append(shown, newShownFact(d))
			}
		}
		if len(shown) == 0 {
			return fail(exitUsage, "see factsctl facts list", "no facts are in group %q", args[0])
		}
		if asJSON {
			return printJSON(c.OutOrStdout(), shown)
		}
		w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
		for _, f := range shown {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", f.Name, f.Kind, f.Unit, f.Cadence, f.Doc)
		}
		return w.Flush()
	}
	return c
}

// findFact returns the definition called name.
func findFact(name string) (facts.Def, error) {
	for _, d := range facts.Catalogue() {
		if d.Name == name {
			return d, nil
		}
	}
	return facts.Def{}, fail(exitUsage, "see factsctl facts list", "no fact is called %q", name)
}

func newFactsShowCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "show NAME",
		Short:   "Show the definition of a fact",
		Long:    "Shows what a fact means, in which unit, and where it is read.",
		Example: `  factsctl facts show thermal.max`,
		Args:    cobra.ExactArgs(1),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.RunE = func(c *cobra.Command, args []string) error {
		d, err := findFact(args[0])
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(c.OutOrStdout(), newShownFact(d))
		}
		_, err = fmt.Fprint(c.OutOrStdout(), definition(d))
		return err
	}
	return c
}

func definition(d facts.Def) string {
	unit, doc := d.Unit, documentOf(d)
	if unit == "" {
		unit = "none"
	}
	return fmt.Sprintf("%s: %s\n\n  wire key  %d\n  kind      %s\n  unit      %s\n  cadence   %s\n  source    %s\n",
		d.Name, doc.Doc, d.Key, d.Kind, unit, d.Cadence, doc.Source)
}

// measure reads all facts of m twice, wait apart, because a rate needs two
// samples, and calls use with the second snapshot while it is valid.
func measure(c *cobra.Command, m *machine, wait time.Duration, use func(facts.Snapshot) error) error {
	collector, err := m.collector(2 * time.Second)
	if err != nil {
		return err
	}
	defer collector.Close()
	collector.Collect(time.Now())
	select {
	case <-time.After(wait):
	case <-c.Context().Done():
		return fail(exitIO, "", "interrupted")
	}
	return use(collector.Collect(time.Now()))
}

func newFactsNowCommand() *cobra.Command {
	var asJSON bool
	var wait time.Duration
	c := &cobra.Command{
		Use:   "now",
		Short: "Show what this machine shows now",
		Long: `Reads every fact of this machine twice, a second apart, because a rate needs two
samples. A fact without a value is listed with its status and the reason.`,
		Example: `  factsctl facts now
  factsctl facts now --json --root testdata/devices/raspberrypi4`,
		Args: cobra.NoArgs,
	}
	m := machineFlag(c)
	c.Flags().DurationVar(&wait, "wait", time.Second, "`time` between the two samples")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON: a list of readings")
	c.RunE = func(c *cobra.Command, _ []string) error {
		return measure(c, m, wait, func(s facts.Snapshot) error {
			shown := []shownReading{}
			for _, d := range facts.Catalogue() {
				shown = append(shown, newShownReading(d, s.Reading(d.Key)))
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), shown)
			}
			w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
			for i, d := range facts.Catalogue() {
				value := fmt.Sprint(s.Reading(d.Key).Value)
				if shown[i].Status != "ok" {
					value = shown[i].Status + ": " + shown[i].Reason
				} else if d.Unit != "" && d.Unit != "1" {
					value += " " + d.Unit
				}
				fmt.Fprintf(w, "%s\t%s\n", d.Name, value)
			}
			return w.Flush()
		})
	}
	return c
}

func newFactsExplainCommand() *cobra.Command {
	var wait time.Duration
	c := &cobra.Command{
		Use:     "explain NAME",
		Short:   "Explain a fact and what this machine makes of it",
		Long:    "Shows the definition of a fact, its value on this machine or why there is none,\nand a rule to begin with.",
		Example: `  factsctl facts explain network.listening`,
		Args:    cobra.ExactArgs(1),
	}
	m := machineFlag(c)
	c.Flags().DurationVar(&wait, "wait", time.Second, "`time` between the two samples that a rate needs")
	c.RunE = func(c *cobra.Command, args []string) error {
		d, err := findFact(args[0])
		if err != nil {
			return err
		}
		return measure(c, m, wait, func(s facts.Snapshot) error {
			r := s.Reading(d.Key)
			here := fmt.Sprintf("%s (%s)", r.Status, r.Reason)
			if r.Status == facts.OK {
				here = strings.TrimSpace(r.Value.String() + " " + strings.TrimPrefix(d.Unit, "1"))
			}
			_, err := fmt.Fprintf(c.OutOrStdout(), "%s  here      %s\n\nA rule for it in a manifest:\n\n%s", definition(d), here, sampleRule(d))
			return err
		})
	}
	return c
}

// sampleRule returns a rule for d as it is written in a manifest.
func sampleRule(d facts.Def) string {
	stage := "operating"
	if d.Cadence == facts.Boot {
		stage = "integration"
	}
	want := map[facts.Kind]string{
		facts.Int: "max = ...", facts.Bool: "equal = true", facts.Text: `one_of = ["..."]`,
		facts.Bytes: `equal = "hex:..."`, facts.Set: `subset_of = ["..."]`,
	}[d.Kind]
	if d.Kind == facts.Int && d.Unit != "" && d.Unit != "1" {
		want += "  # in " + d.Unit
	}
	return fmt.Sprintf("  [[%s]]\n  fact = %q\n  %s\n  why = \"...\"\n", stage, d.Name, want)
}

func newFactsDocCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "doc",
		Short:   "Print the reference of all facts in Markdown",
		Long:    "Prints docs/facts.md: the catalogue as a document.",
		Example: `  factsctl facts doc > docs/facts.md`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return write(c, "", []byte(factsDocument()))
		},
	}
}

func factsDocument() string {
	var b strings.Builder
	b.WriteString("# Facts\n\nGenerated by `factsctl facts doc` from `facts/catalogue.go` and `facts/documents.go`; do not edit.\n\n" +
		"A number is an integer in the unit given; there are no floats. *boot* facts are read once a boot, *fast*\n" +
		"ones every second, *slow* ones every 60 s, *event* ones when there is something new. Keys name a fact on the\n" +
		"wire and are never reused. Application facts (`app.*`, keys 1000 to 1999) are declared in the manifest.\n")
	group := ""
	cell := strings.NewReplacer("|", `\|`, "*", `\*`, "<", `\<`, "_", `\_`)
	for i, d := range facts.Catalogue() {
		doc := facts.Documents()[i]
		if d.Group() != group {
			group = d.Group()
			fmt.Fprintf(&b, "\n## %s\n\n| fact | key | kind | unit | cadence | meaning | source |\n|---|---|---|---|---|---|---|\n", group)
		}
		fmt.Fprintf(&b, "| `%s` | %d | %s | %s | %s | %s | %s |\n", d.Name, d.Key, d.Kind, d.Unit, d.Cadence, cell.Replace(doc.Doc), cell.Replace(doc.Source))
	}
	b.WriteString(notMeasured)
	return b.String()
}

// notMeasured says what people look for among the facts in vain, and why.
const notMeasured = `
## What no fact measures

- **setuid programs.** To find new ones means to walk the file system. A root that cannot be written
  (` + "`storage.root_readonly`, `storage.verity`" + `) gets none; elsewhere IMA tells of those that were run, where its policy
  measures them.
- **The clock's offset.** The kernel knows what a time daemon told it, and the agent's unit may not ask
  (` + "`adjtimex`" + `). What there is: ` + "`time.synchronised`, `time.jumps`, `time.rtc`" + `.
- **Who enabled a service.** ` + "`service.files`" + ` changes with the links that enable one; it does not name who made them.
- **Power over Ethernet.** What powers a device over its cable is a fact where the kernel has a power supply of it
  (` + "`energy.mains`" + `), and not seen elsewhere.
- **Stalls within 50 ms.** See [events.md](events.md).
`
