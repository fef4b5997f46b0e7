package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/miotfacts/miotfacts/maturity"
	"github.com/spf13/cobra"
)

func newMaturityCommand() *cobra.Command {
	return newGroup("maturity", "Assess how securely a facility integrates medical IoT",
		`The maturity model has 81 criteria in three dimensions and five levels. People
answer them in a file; data counted over the fleet proves or contradicts them
(docs/maturity.md). By the rule of the paper a complete level attains the next
higher one; the stricter reading, the highest level that is complete together
with all below it, stands beside it in brackets.`,
		newMaturityNewCommand(), newMaturityLintCommand(), newMaturityAssessCommand(),
		newMaturityReportCommand(), newMaturityCompareCommand())
}

func maturityLangFlag(c *cobra.Command) *string {
	return c.Flags().String("lang", "en", "`language` of the texts: en or de")
}

func maturityLang(name string) (maturity.Lang, error) {
	switch l := maturity.Lang(name); l {
	case maturity.English, maturity.German:
		return l, nil
	}
	return "", fail(exitUsage, "write --lang en or --lang de", "no texts in language %q", name)
}

func newMaturityNewCommand() *cobra.Command {
	var subject, date, out string
	c := &cobra.Command{
		Use:   "new",
		Short: "Print an assessment to begin with",
		Long: `Prints an assessment with every criterion open and its text above it, sorted by id.
It passes lint as it is. A file that is there is not overwritten.`,
		Example: `  factsctl maturity new --subject "Example Clinic" --out clinic-2026.toml
  factsctl maturity new --subject "Beispielklinik" --lang de --date 2026-03-31`,
		Args: cobra.NoArgs,
	}
	lang := maturityLangFlag(c)
	c.Flags().StringVar(&subject, "subject", "", "`text` that says what is assessed")
	c.Flags().StringVar(&date, "date", "", "`day` of the assessment, 2026-03-31 (default today, UTC)")
	c.Flags().StringVar(&out, "out", "", "`file` to write instead of standard output")
	required(c, "subject")
	c.RunE = func(c *cobra.Command, _ []string) error {
		l, err := maturityLang(*lang)
		if err != nil {
			return err
		}
		a := &maturity.Assessment{Subject: subject, Date: time.Now().UTC()}
		if date != "" {
			if a.Date, err = time.Parse(time.DateOnly, date); err != nil {
				return fail(exitUsage, "write it as 2026-03-31", "%q is no day", date)
			}
		}
		text := maturity.Format(a, l)
		if read, _ := maturity.Read(text); read == nil {
			return fail(exitUsage, "give one line of text, 1000 bytes at most", "%q cannot be the subject", subject)
		}
		if out != "" && out != "-" {
			if _, err := os.Lstat(out); err == nil {
				return fail(exitUsage, "choose another name; answers are never overwritten", "%s is there already", out)
			}
		}
		return write(c, out, text)
	}
	return c
}

func newMaturityFinding(file string, p maturity.Problem) finding {
	level := "error"
	if p.Warning {
		level = "warning"
	}
	return finding{file, p.Line, p.Path, level, p.Message, p.Fix}
}

func newMaturityLintCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "lint FILE.toml...",
		Short: "Check assessments and say what to correct",
		Long: `Checks assessments and prints each problem with its line and what to do about it.
Errors make it end with exit code 1, warnings do not.`,
		Example: `  factsctl maturity lint clinic-2026.toml`,
		Args:    cobra.MinimumNArgs(1),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON: a list of problems")
	c.RunE = func(c *cobra.Command, args []string) error {
		return lint(c, args, maturity.MaxSize, asJSON, "assessments cannot be judged", func(name string, data []byte) (bool, []finding) {
			v, problems := maturity.Read(data)
			var found []finding
			for _, p := range problems {
				found = append(found, newMaturityFinding(name, p))
			}
			return v != nil, found
		})
	}
	return c
}

// evaluation reads and judges an assessment; dataName is "" for no data.
func evaluation(c *cobra.Command, name, dataName string) (*maturity.Evaluation, error) {
	text, err := read(c, name, maturity.MaxSize)
	if err != nil {
		return nil, err
	}
	a, problems := maturity.Read(text)
	for _, p := range problems {
		newMaturityFinding(name, p).print(c.ErrOrStderr())
	}
	if a == nil {
		return nil, fail(exitRefused, "correct what is listed above", "%s cannot be judged", name)
	}
	if dataName == "" {
		return maturity.Evaluate(a, nil), nil
	}
	text, err = read(c, dataName, maturity.MaxData)
	if err != nil {
		return nil, err
	}
	d, err := maturity.ReadData(text)
	if err != nil {
		return nil, fail(exitRefused, "docs/maturity.md lists the observations", "%s: %w", dataName, err)
	}
	return maturity.Evaluate(a, d), nil
}

const dataUsage = "`file` of observations that prove or contradict, JSON"

func newMaturityAssessCommand() *cobra.Command {
	var dataName string
	var asJSON bool
	c := &cobra.Command{
		Use:   "assess FILE.toml",
		Short: "Show the levels and what is missing for the next one",
		Long: `Judges an assessment: levels by column, dimension and overall, where data and people
disagree, and what is missing for the next level, the cheapest first.`,
		Example: `  factsctl maturity assess clinic-2026.toml
  factsctl maturity assess clinic-2026.toml --data clinic-2026.json --json`,
		Args: cobra.ExactArgs(1),
	}
	lang := maturityLangFlag(c)
	c.Flags().StringVar(&dataName, "data", "", dataUsage)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.RunE = func(c *cobra.Command, args []string) error {
		l, err := maturityLang(*lang)
		if err != nil {
			return err
		}
		e, err := evaluation(c, args[0], dataName)
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(c.OutOrStdout(), newShownMaturity(e, l))
		}
		return printMaturity(c.OutOrStdout(), e, l)
	}
	return c
}

var dimensions = []maturity.Dimension{maturity.Structure, maturity.Process, maturity.Outcome}

// printMaturity prints an evaluation for a terminal.
func printMaturity(out io.Writer, e *maturity.Evaluation, l maturity.Lang) error {
	t := func(en, de string) string { return maturity.Text{EN: en, DE: de}.In(l) }
	fmt.Fprintf(out, "%s, %s\n", e.Assessment.Subject, e.Assessment.Date.Format(time.DateOnly))
	if e.Data != nil {
		fmt.Fprintf(out, "%s: %s\n", t("data", "Daten"), e.Data.In(l))
	}
	fmt.Fprintf(out, "\n%s: %s\n%s: %s\n\n", t("level by the rule of the paper", "Stufe nach der Regel der Arbeit"), maturity.LevelName(e.Overall.Literal, l),
		t("stricter reading", "strengere Lesart"), maturity.LevelName(e.Overall.Strict, l))
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%s\t%s\t1\t2\t3\t4\t5\t%s\t%s\n", t("dimension", "Dimension"), t("column", "Spalte"), t("level", "Stufe"), t("strict", "streng"))
	row := func(dimension, column string, s maturity.Score) {
		fmt.Fprintf(w, "%s\t%s", dimension, column)
		for level := 1; level <= maturity.MaxLevel; level++ {
			mark := ""
			if s.Complete(level) {
				mark = "✓"
			}
			fmt.Fprintf(w, "\t%d/%d%s", s.Met[level-1], s.Total[level-1]-s.Inapplicable[level-1], mark)
		}
		fmt.Fprintf(w, "\t%d\t%d\n", s.Literal, s.Strict)
	}
	for _, d := range dimensions {
		for _, col := range maturity.Columns() {
			if col.Dimension == d {
				row(d.Name(l), col.Name.In(l), e.Columns[col.ID])
			}
		}
		row(d.Name(l), t("all", "alle"), e.Dimensions[d])
	}
	row(t("all", "alle"), "", e.Overall)
	if err := w.Flush(); err != nil {
		return ioFailure(err)
	}
	printClashes(out, e, l)
	next := e.Next()
	if len(next) == 0 {
		fmt.Fprintf(out, "\n%s\n", t("nothing is missing: every level is complete", "es fehlt nichts: alle Stufen sind vollständig"))
		return nil
	}
	fmt.Fprintf(out, "\n%s:\n", fmt.Sprintf(t("missing on level %d, the cheapest first", "es fehlt auf Stufe %d, Günstigstes zuerst"), next[0].Criterion.Level))
	for _, r := range next {
		fmt.Fprintf(out, "  %s %s %d: %s\n      %s\n      %s; %s\n", r.Standing.Sign(), t("effort", "Aufwand"), r.Criterion.Effort, r.Criterion.Text.In(l),
			r.Criterion.ID, r.Standing.Name(l), r.Criterion.Reason.In(l))
	}
	return nil
}

func printClashes(out io.Writer, e *maturity.Evaluation, l maturity.Lang) {
	heading := maturity.Text{EN: "data and people disagree", DE: "Daten und Menschen widersprechen sich"}.In(l)
	for _, r := range e.Results {
		if !r.Dispute {
			continue
		}
		if heading != "" {
			fmt.Fprintf(out, "\n%s:\n", heading)
			heading = ""
		}
		fmt.Fprintf(out, "  %s %s\n      %s", r.Standing.Sign(), r.Criterion.ID, r.Standing.Name(l))
		if note := r.Note(l); note != "" {
			fmt.Fprintf(out, "; %s", note)
		}
		fmt.Fprintln(out)
		if said := r.Answer.In(l); said != "" {
			fmt.Fprintf(out, "      %s\n", said)
		}
		for _, reading := range r.Readings {
			fmt.Fprintf(out, "      %s\n", reading.In(l))
		}
	}
}

// A shownMaturity is an evaluation as --json prints it.
type shownMaturity struct {
	Subject    string           `json:"subject"`
	Date       string           `json:"date"`
	Data       *shownData       `json:"data"` // null without
	Level      shownLevel       `json:"level"`
	Dimensions []shownScore     `json:"dimensions"`
	Columns    []shownScore     `json:"columns"`
	Criteria   []shownCriterion `json:"criteria"`
	Missing    []shownMissing   `json:"missing"` // for the next level, the cheapest first
}

type shownData struct {
	Source    string `json:"source"`
	From      string `json:"from"`
	Until     string `json:"until"`
	Inventory int64  `json:"inventory"`
	Devices   int64  `json:"devices"`
}

type shownLevel struct {
	Literal int `json:"literal"` // by the rule of the paper, 1 to 5
	Strict  int `json:"strict"`  // highest complete level, 0 to 5
}

type shownScore struct {
	ID           string   `json:"id"`
	Literal      int      `json:"literal"`
	Strict       int      `json:"strict"`
	Met          []int    `json:"met"` // by level
	Inapplicable []int    `json:"not_applicable"`
	Total        []int    `json:"total"`
	Missing      []string `json:"missing"` // at the column's or dimension's lowest incomplete level
}

type shownCriterion struct {
	ID       string       `json:"id"`
	Column   string       `json:"column"`
	Level    int          `json:"level"`
	Text     string       `json:"text"`
	Standing string       `json:"standing"`
	Answer   string       `json:"answer"`
	Who      string       `json:"who"`
	When     string       `json:"when"` // "" without an answer
	Evidence string       `json:"evidence"`
	Dispute  bool         `json:"dispute"` // a person and data disagree
	Partial  bool         `json:"partial"` // data agrees and is not enough to prove
	Readings []shownProof `json:"readings"`
}

type shownProof struct {
	Observation string `json:"observation"`
	Value       int64  `json:"value"`
	AtLeast     bool   `json:"at_least"`
	Limit       int64  `json:"limit"`
	Holds       bool   `json:"holds"`
	Contradicts bool   `json:"contradicts"`
}

type shownMissing struct {
	ID       string `json:"id"`
	Level    int    `json:"level"`
	Text     string `json:"text"`
	Standing string `json:"standing"`
	Effort   int    `json:"effort"` // 1 to 5
	Reason   string `json:"reason"`
}

func newShownMaturity(e *maturity.Evaluation, l maturity.Lang) shownMaturity {
	s := shownMaturity{
		Subject: e.Assessment.Subject, Date: e.Assessment.Date.Format(time.DateOnly),
		Level: shownLevel(e.Overall.Level), Missing: []shownMissing{},
	}
	if d := e.Data; d != nil {
		s.Data = &shownData{d.Source, d.From.Format(time.DateOnly), d.Until.Format(time.DateOnly), d.Inventory, d.Devices}
	}
	dimension := map[string]maturity.Dimension{}
	for _, c := range maturity.Columns() {
		dimension[c.ID] = c.Dimension
	}
	score := func(id string, v maturity.Score, in func(maturity.Criterion) bool) shownScore {
		out := shownScore{id, v.Literal, v.Strict, v.Met[:], v.Inapplicable[:], v.Total[:], []string{}}
		for _, r := range e.Results {
			if r.Standing.Blocks() && r.Criterion.Level == v.Strict+1 && in(r.Criterion) {
				out.Missing = append(out.Missing, r.Criterion.ID)
			}
		}
		return out
	}
	for _, d := range dimensions {
		s.Dimensions = append(s.Dimensions, score(string(d), e.Dimensions[d], func(c maturity.Criterion) bool { return dimension[c.Column] == d }))
	}
	for _, col := range maturity.Columns() {
		s.Columns = append(s.Columns, score(col.ID, e.Columns[col.ID], func(c maturity.Criterion) bool { return c.Column == col.ID }))
	}
	for _, r := range e.Results {
		c := shownCriterion{
			ID: r.Criterion.ID, Column: r.Criterion.Column, Level: r.Criterion.Level, Text: r.Criterion.Text.In(l), Standing: string(r.Standing),
			Answer: r.Answer.Answer, Who: r.Answer.Who, Evidence: r.Answer.Evidence, Dispute: r.Dispute, Partial: r.Partial, Readings: []shownProof{},
		}
		if c.Answer == "" {
			c.Answer = maturity.Open
		}
		if !r.Answer.When.IsZero() {
			c.When = r.Answer.When.Format(time.DateOnly)
		}
		for _, v := range r.Readings {
			c.Readings = append(c.Readings, shownProof{v.Observation, v.Value, v.AtLeast, v.Limit, v.Holds(), v.Contradicts()})
		}
		s.Criteria = append(s.Criteria, c)
	}
	for _, r := range e.Next() {
		s.Missing = append(s.Missing, shownMissing{r.Criterion.ID, r.Criterion.Level, r.Criterion.Text.In(l), string(r.Standing), r.Criterion.Effort, r.Criterion.Reason.In(l)})
	}
	return s
}

func newMaturityReportCommand() *cobra.Command {
	var dataName, out string
	c := &cobra.Command{
		Use:   "report FILE.toml --out FILE",
		Short: "Write a report as a page, for paper, or as a picture",
		Long: `Writes the report as one HTML page that loads nothing, as PDF for paper (A4), or the
levels as a radar picture, by the ending of the name: .html, .pdf or .svg. The same
input gives the same bytes.`,
		Example: `  factsctl maturity report clinic-2026.toml --data clinic-2026.json --out clinic.html --lang de
  factsctl maturity report clinic-2026.toml --out clinic.pdf
  factsctl maturity report clinic-2026.toml --out clinic.svg`,
		Args: cobra.ExactArgs(1),
	}
	lang := maturityLangFlag(c)
	c.Flags().StringVar(&dataName, "data", "", dataUsage)
	c.Flags().StringVar(&out, "out", "", "`file` to write, .html, .pdf or .svg")
	required(c, "out")
	c.RunE = func(c *cobra.Command, args []string) error {
		l, err := maturityLang(*lang)
		if err != nil {
			return err
		}
		ext := filepath.Ext(out)
		if ext != ".html" && ext != ".pdf" && ext != ".svg" {
			return fail(exitUsage, "let the name end in .html, .pdf or .svg", "cannot tell from %q what to write", out)
		}
		e, err := evaluation(c, args[0], dataName)
		if err != nil {
			return err
		}
		text := e.SVG(l)
		switch ext {
		case ".html":
			text, err = e.HTML(l)
		case ".pdf":
			text, err = e.PDF(l)
		}
		if err != nil {
			return err
		}
		return write(c, out, text)
	}
	return c
}

// A shownComparison is two evaluations as --json prints them.
type shownComparison struct {
	Before  shownEdition           `json:"before"`
	After   shownEdition           `json:"after"`
	Levels  map[string]shownChange `json:"levels"`  // by "overall", dimension or column: those that changed
	Changes []shownStanding        `json:"changes"` // criteria that stand otherwise
}

type shownEdition struct {
	Subject string     `json:"subject"`
	Date    string     `json:"date"`
	Level   shownLevel `json:"level"`
}

type shownChange struct {
	Before shownLevel `json:"before"`
	After  shownLevel `json:"after"`
}

type shownStanding struct {
	ID     string `json:"id"`
	Level  int    `json:"level"`
	Text   string `json:"text"`
	Before string `json:"before"`
	After  string `json:"after"`
	Effect string `json:"effect"` // "gained", "lost" or "none": whether it still is in the way
}

func newMaturityCompareCommand() *cobra.Command {
	var oldData, newData, out string
	var asJSON bool
	c := &cobra.Command{
		Use:   "compare OLD.toml NEW.toml",
		Short: "Show what changed between two assessments",
		Long: `Judges two assessments, of two years or of two sites, and prints the levels that
changed and the criteria that were gained and lost. --out adds a radar picture with
the levels of both.`,
		Example: `  factsctl maturity compare clinic-2025.toml clinic-2026.toml --new-data clinic-2026.json
  factsctl maturity compare clinic-2025.toml clinic-2026.toml --out two-years.svg`,
		Args: cobra.ExactArgs(2),
	}
	lang := maturityLangFlag(c)
	c.Flags().StringVar(&oldData, "old-data", "", "`file` of observations for OLD, JSON")
	c.Flags().StringVar(&newData, "new-data", "", "`file` of observations for NEW, JSON")
	c.Flags().StringVar(&out, "out", "", "`file` for the picture, .svg")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.RunE = func(c *cobra.Command, args []string) error {
		l, err := maturityLang(*lang)
		if err != nil {
			return err
		}
		if out != "" && filepath.Ext(out) != ".svg" {
			return fail(exitUsage, "let the name end in .svg", "cannot tell from %q what to write", out)
		}
		before, err := evaluation(c, args[0], oldData)
		if err != nil {
			return err
		}
		after, err := evaluation(c, args[1], newData)
		if err != nil {
			return err
		}
		if before.Assessment.Subject != after.Assessment.Subject {
			note(c, "warning: the subjects differ: %q and %q", before.Assessment.Subject, after.Assessment.Subject)
		}
		if out != "" {
			if err := write(c, out, maturity.SVGChange(before, after, l)); err != nil {
				return err
			}
		}
		if asJSON {
			return printJSON(c.OutOrStdout(), newShownComparison(before, after, l))
		}
		return printComparison(c.OutOrStdout(), before, after, l)
	}
	return c
}

func newShownComparison(before, after *maturity.Evaluation, l maturity.Lang) shownComparison {
	edition := func(e *maturity.Evaluation) shownEdition {
		return shownEdition{e.Assessment.Subject, e.Assessment.Date.Format(time.DateOnly), shownLevel(e.Overall.Level)}
	}
	s := shownComparison{edition(before), edition(after), map[string]shownChange{}, []shownStanding{}}
	level := func(id string, b, a maturity.Level) {
		if b != a {
			s.Levels[id] = shownChange{shownLevel(b), shownLevel(a)}
		}
	}
	level("overall", before.Overall.Level, after.Overall.Level)
	for _, d := range dimensions {
		level(string(d), before.Dimensions[d].Level, after.Dimensions[d].Level)
	}
	for _, col := range maturity.Columns() {
		level(col.ID, before.Columns[col.ID].Level, after.Columns[col.ID].Level)
	}
	for _, change := range maturity.Compare(before, after) {
		effect := "none"
		switch {
		case change.Gained():
			effect = "gained"
		case change.Lost():
			effect = "lost"
		}
		r := change.After.Criterion
		s.Changes = append(s.Changes, shownStanding{r.ID, r.Level, r.Text.In(l), string(change.Before.Standing), string(change.After.Standing), effect})
	}
	return s
}

func printComparison(out io.Writer, before, after *maturity.Evaluation, l maturity.Lang) error {
	t := func(en, de string) string { return maturity.Text{EN: en, DE: de}.In(l) }
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\t%s\t%s\n", before.Assessment.Date.Format(time.DateOnly), after.Assessment.Date.Format(time.DateOnly))
	row := func(name string, b, a maturity.Level) {
		sign := ""
		switch {
		case a.Strict > b.Strict:
			sign = "↑"
		case a.Strict < b.Strict:
			sign = "↓"
		}
		fmt.Fprintf(w, "%s\t%d (%d)\t%d (%d) %s\n", name, b.Literal, b.Strict, a.Literal, a.Strict, sign)
	}
	for _, d := range dimensions {
		for _, col := range maturity.Columns() {
			if col.Dimension == d {
				row(d.Name(l)+": "+col.Name.In(l), before.Columns[col.ID].Level, after.Columns[col.ID].Level)
			}
		}
		row(d.Name(l), before.Dimensions[d].Level, after.Dimensions[d].Level)
	}
	row(t("all", "alle"), before.Overall.Level, after.Overall.Level)
	if err := w.Flush(); err != nil {
		return ioFailure(err)
	}
	changes := maturity.Compare(before, after)
	for _, group := range []struct {
		name string
		in   func(maturity.Change) bool
	}{
		{t("gained", "gewonnen"), maturity.Change.Gained},
		{t("lost", "verloren"), maturity.Change.Lost},
		{t("stands otherwise, with the same effect", "steht anders, mit gleicher Wirkung"), func(c maturity.Change) bool { return !c.Gained() && !c.Lost() }},
	} {
		heading := "\n" + group.name + ":\n"
		for _, change := range changes {
			if group.in(change) {
				r := change.After.Criterion
				fmt.Fprintf(out, "%s  %s: %s\n      %s -> %s\n", heading, r.ID, r.Text.In(l), change.Before.Standing.Name(l), change.After.Standing.Name(l))
				heading = ""
			}
		}
	}
	if len(changes) == 0 {
		fmt.Fprintf(out, "\n%s\n", t("no criterion stands otherwise", "kein Kriterium steht anders"))
	}
	return nil
}
