package maturity

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

const (
	// MaxSize bounds an assessment, in bytes: every criterion at full length fits.
	MaxSize = 512 << 10
	// maxText bounds a text of an assessment, in bytes: what is longer belongs into
	// the document that the evidence names.
	maxText = 1000
)

// What a person answers; "open" stands for nothing yet.
const (
	Open          = "open"
	Yes           = "yes"
	No            = "no"
	NotApplicable = "not-applicable"
)

// An Assessment is what people answered about a facility or a part of it.
type Assessment struct {
	Subject string    // what is assessed
	Date    time.Time // day of the assessment, UTC
	Answers []Answer  // sorted by id, at most one a criterion
}

// An Answer is what a person says about a criterion.
type Answer struct {
	ID       string
	Answer   string // Open, Yes, No, NotApplicable; "" counts as Open
	Who      string // these three are required unless the answer is open
	When     time.Time
	Evidence string // where the proof is to be found, or why
}

// A Problem is one thing wrong with an assessment.
type Problem struct {
	Line    int // 0: missing from the file
	Path    string
	Message string
	Fix     string
	Warning bool // it can be judged all the same
}

// The file's form. A pointer tells what is missing from what is empty.
type file struct {
	Version *int64          `toml:"version"`
	Subject *string         `toml:"subject"`
	Date    *toml.LocalDate `toml:"date"`
	Answer  []struct {
		ID       *string         `toml:"id"`
		Answer   *string         `toml:"answer"`
		Who      string          `toml:"who"`
		When     *toml.LocalDate `toml:"when"`
		Evidence string          `toml:"evidence"`
	} `toml:"answer"`
}

// Read reads an assessment in TOML (docs/maturity.md) and returns every problem
// it finds, in the order of their lines; the assessment is nil if one of them is
// more than a warning.
func Read(data []byte) (*Assessment, []Problem) {
	if len(data) > MaxSize {
		return nil, []Problem{{Message: fmt.Sprintf("the file is larger than %d bytes", MaxSize), Fix: "give an assessment"}}
	}
	var f file
	dec := toml.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&f); err != nil {
		return nil, decodeProblems(err)
	}
	r := reader{lines: linesOf(data)}
	a := r.assessment(&f)
	slices.SortStableFunc(r.found, func(p, q Problem) int { return cmp.Compare(p.Line, q.Line) })
	if slices.ContainsFunc(r.found, func(p Problem) bool { return !p.Warning }) {
		return nil, r.found
	}
	return a, r.found
}

func decodeProblems(err error) []Problem {
	if strict, ok := errors.AsType[*toml.StrictMissingError](err); ok {
		var found []Problem
		for _, e := range strict.Errors {
			at, _ := e.Position()
			key := plain(strings.Join(e.Key(), "."))
			found = append(found, Problem{Line: at, Path: key, Message: "unknown key", Fix: "correct or delete it; docs/maturity.md has the keys"})
		}
		return found
	}
	p := Problem{Message: plain(strings.TrimPrefix(err.Error(), "toml: ")), Fix: "correct it; docs/maturity.md has the keys and their kinds"}
	if at, ok := errors.AsType[*toml.DecodeError](err); ok {
		p.Line, _ = at.Position()
		p.Path = plain(strings.Join(at.Key(), "."))
	}
	return []Problem{p}
}

// linesOf returns the lines of the keys of a document that was decoded: "date",
// "answer[3]", "answer[3].who".
func linesOf(data []byte) map[string]int {
	lines := map[string]int{}
	var p unstable.Parser
	p.Reset(data)
	line := func(n *unstable.Node) int { return 1 + bytes.Count(data[:n.Raw.Offset], []byte("\n")) }
	name := func(it unstable.Iterator) (string, int) {
		var parts []string
		at := 0
		for it.Next() {
			parts, at = append(parts, string(it.Node().Data)), line(it.Node())
		}
		return strings.Join(parts, "."), at
	}
	prefix, answers := "", 0
	for p.NextExpression() {
		e := p.Expression()
		switch e.Kind {
		case unstable.Table:
			key, at := name(e.Key())
			lines[key], prefix = at, key+"."
		case unstable.ArrayTable:
			key, at := name(e.Key())
			key += "[" + strconv.Itoa(answers) + "]"
			answers++
			lines[key], prefix = at, key+"."
		case unstable.KeyValue:
			key, at := name(e.Key())
			lines[prefix+key] = at
		}
	}
	return lines
}

type reader struct {
	lines map[string]int
	found []Problem
}

func (r *reader) add(warning bool, path, fix, format string, args ...any) {
	p := Problem{Path: path, Message: fmt.Sprintf(format, args...), Fix: fix, Warning: warning}
	for at := path; at != "" && p.Line == 0; at = at[:max(strings.LastIndexAny(at, ".["), 0)] {
		p.Line = r.lines[at]
	}
	r.found = append(r.found, p)
}

func (r *reader) bad(path, fix, format string, args ...any) { r.add(false, path, fix, format, args...) }

func (r *reader) assessment(f *file) *Assessment {
	a := &Assessment{}
	if f.Version == nil || *f.Version != 1 {
		r.bad("version", "write version = 1", "this is no assessment of version 1")
	}
	switch {
	case f.Subject == nil:
		r.bad("subject", `name what is assessed: subject = "..."`, "missing")
	case line(*f.Subject) != nil:
		r.bad("subject", `name what is assessed: subject = "..."`, "%v", line(*f.Subject))
	default:
		a.Subject = *f.Subject
	}
	if f.Date == nil {
		r.bad("date", "write the day of the assessment: date = 2026-03-31", "missing")
	} else {
		a.Date = f.Date.AsTime(time.UTC)
	}
	level := map[string]int{}
	for _, c := range criteria {
		level[c.ID] = c.Level
	}
	seen, last := map[string]bool{}, ""
	for i, in := range f.Answer {
		path := fmt.Sprintf("answer[%d]", i)
		if in.ID == nil {
			r.bad(path, "write id = \"...\"; factsctl maturity new has all ids", "id is missing")
			continue
		}
		id := *in.ID
		switch {
		case level[id] == 0:
			r.bad(path+".id", "factsctl maturity new has all ids", "no criterion is called %q", id)
			continue
		case seen[id]:
			r.bad(path+".id", "delete one of them", "%s is answered twice", id)
			continue
		case id < last:
			r.add(true, path+".id", "sort by id: changes then show as such", "%s stands after %s", id, last)
		}
		seen[id], last = true, max(id, last)
		if in.Answer == nil {
			r.bad(path, `write answer = "yes", "no", "not-applicable" or "open"`, "%s: answer is missing", id)
			continue
		}
		answer := Answer{ID: id, Answer: *in.Answer, Who: in.Who, Evidence: in.Evidence}
		if in.When != nil {
			answer.When = in.When.AsTime(time.UTC)
		}
		r.answer(path, &answer, a.Date)
		a.Answers = append(a.Answers, answer)
	}
	var missing []string
	for _, c := range criteria {
		if !seen[c.ID] {
			missing = append(missing, c.ID)
		}
	}
	if len(missing) > 0 {
		r.add(true, "answer", `add them with answer = "open" or better`, "%d of %d criteria are not in the file and count as open: %s", len(missing), len(criteria), brief(missing))
	}
	slices.SortFunc(a.Answers, func(x, y Answer) int { return strings.Compare(x.ID, y.ID) })
	r.emptyCells(a)
	return a
}

func (r *reader) answer(path string, a *Answer, date time.Time) {
	switch a.Answer {
	case Open:
	case Yes, No, NotApplicable:
		for _, text := range []struct{ key, value, fix string }{
			{"who", a.Who, `say who answered: who = "..."`},
			{"evidence", a.Evidence, `say where the proof is, or why: evidence = "..."`},
		} {
			if text.value == "" {
				r.bad(path+"."+text.key, text.fix, "%s: answered %q without %s", a.ID, a.Answer, text.key)
			}
		}
		switch {
		case a.When.IsZero():
			r.bad(path+".when", "say when: when = 2026-03-31", "%s: answered %q without when", a.ID, a.Answer)
		case !date.IsZero() && a.When.After(date):
			r.bad(path+".when", "correct one of the dates", "%s: answered on %s, after the assessment of %s", a.ID, a.When.Format(time.DateOnly), date.Format(time.DateOnly))
		case a.When.Before(date.AddDate(-2, 0, 0)):
			r.add(true, path+".when", "ask again", "%s: answered on %s, more than two years before the assessment", a.ID, a.When.Format(time.DateOnly))
		}
	default:
		r.bad(path+".answer", `write "yes", "no", "not-applicable" or "open"`, "%s: no answer is called %q", a.ID, a.Answer)
	}
	for _, text := range []struct{ key, value string }{{"who", a.Who}, {"evidence", a.Evidence}} {
		if err := line(text.value); err != nil && text.value != "" {
			r.bad(path+"."+text.key, "shorten it to one plain line", "%s: %v", a.ID, err)
		}
	}
}

// emptyCells warns of a column's level that is passed because nothing of it
// applies.
func (r *reader) emptyCells(a *Assessment) {
	type cell struct {
		column string
		level  int
	}
	left := map[cell]int{}
	for _, c := range criteria {
		left[cell{c.Column, c.Level}]++
	}
	for _, answer := range a.Answers {
		if answer.Answer != NotApplicable {
			continue
		}
		i := slices.IndexFunc(criteria, func(c Criterion) bool { return c.ID == answer.ID })
		at := cell{criteria[i].Column, criteria[i].Level}
		if left[at]--; left[at] == 0 {
			r.add(true, "answer", "look at it once more", "level %d of %s is passed without a criterion that applies", at.level, at.column)
		}
	}
}

// line returns what is wrong with a text that has to be one line of print.
func line(s string) error {
	switch {
	case strings.TrimSpace(s) == "":
		return errors.New("it is empty")
	case len(s) > maxText:
		return fmt.Errorf("%d bytes are more than %d", len(s), maxText)
	case !utf8.ValidString(s):
		return errors.New("it is not UTF-8")
	case strings.ContainsFunc(s, steers):
		return errors.New("it has control characters")
	}
	return nil
}

// steers reports whether a character moves the cursor or turns text around.
func steers(c rune) bool { return unicode.IsControl(c) || unicode.Is(unicode.Bidi_Control, c) }

// plain makes what a library says about foreign bytes fit to be printed.
func plain(s string) string {
	return strings.Map(func(c rune) rune {
		if steers(c) {
			return unicode.ReplacementChar
		}
		return c
	}, s)
}

func brief(names []string) string {
	if len(names) > 3 {
		return strings.Join(names[:3], ", ") + ", ..."
	}
	return strings.Join(names, ", ")
}

// Format writes an assessment as TOML with every criterion, sorted by id, its
// text above it. Read takes it back.
func Format(a *Assessment, l Lang) []byte {
	answers := map[string]Answer{}
	for _, answer := range a.Answers {
		answers[answer.ID] = answer
	}
	sorted := slices.SortedFunc(slices.Values(criteria), func(x, y Criterion) int { return strings.Compare(x.ID, y.ID) })
	var b bytes.Buffer
	for _, text := range heading(l) {
		fmt.Fprintf(&b, "# %s\n", text)
	}
	fmt.Fprintf(&b, "\nversion = 1\nsubject = %s\ndate = %s\n", quote(a.Subject), a.Date.Format(time.DateOnly))
	for _, c := range sorted {
		answer := answers[c.ID]
		fmt.Fprintf(&b, "\n# %s\n[[answer]]\nid = %s\nanswer = %s\n", c.Text.In(l), quote(c.ID), quote(cmp.Or(answer.Answer, Open)))
		if answer.Who != "" {
			fmt.Fprintf(&b, "who = %s\n", quote(answer.Who))
		}
		if !answer.When.IsZero() {
			fmt.Fprintf(&b, "when = %s\n", answer.When.Format(time.DateOnly))
		}
		if answer.Evidence != "" {
			fmt.Fprintf(&b, "evidence = %s\n", quote(answer.Evidence))
		}
	}
	return b.Bytes()
}

func heading(l Lang) []string {
	return Text{
		"An assessment by the maturity model of docs/maturity.md.\nEach criterion is \"yes\", \"no\", \"not-applicable\" or \"open\". All but open need\nwho = \"...\", when = 2026-03-31 and evidence = \"...\". Keep it sorted by id.",
		"Eine Bewertung nach dem Reifegradmodell in docs/maturity.md.\nJedes Kriterium ist \"yes\", \"no\", \"not-applicable\" oder \"open\". Außer bei open gehören dazu\nwho = \"...\", when = 2026-03-31 und evidence = \"...\". Die Sortierung nach id bleibt.",
	}.lines(l)
}

func (t Text) lines(l Lang) []string { return strings.Split(t.In(l), "\n") }

// quote writes a TOML basic string; what Read takes has no control characters.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}
