// Package maturity is the maturity model of Gleissner et al., "Improving IT
// Security of Medical IoT Devices", section IV: the criteria of Tables II to IV
// as data, answers of people, observations that prove or contradict them, and
// the level that follows.
//
// It trusts who wrote the assessment and who counted the observations; it
// verifies no signature and asks no device. It does not weigh criteria and does
// not score: the paper has levels only. What it reads of the tables where they
// leave room is said in docs/maturity.md.
package maturity

import (
	"cmp"
	"slices"
	"time"
)

// A Lang is a language of the texts.
type Lang string

const (
	English Lang = "en"
	German  Lang = "de"
)

// A Text is the same sentence in both languages.
type Text struct{ EN, DE string }

// In returns the text in a language; English if there is no such language.
func (t Text) In(l Lang) string {
	if l == German {
		return t.DE
	}
	return t.EN
}

// A Dimension is one of Donabedian's: good structure and a good process on it
// lead to a good outcome.
type Dimension string

const (
	Structure Dimension = "structure"
	Process   Dimension = "process"
	Outcome   Dimension = "outcome"
)

// MaxLevel is the highest of the levels 1 to 5 (section IV-B).
const MaxLevel = 5

// A Column is one column of criteria in Tables II to IV.
type Column struct {
	ID        string
	Dimension Dimension
	Table     string // of the paper: "II", "III", "IV"
	Name      Text
}

// A Criterion is one of the tables' cells' items.
type Criterion struct {
	ID     string // dimension.column.level.name; never reused
	Column string
	Level  int // 1 to 5
	Text   Text
	Effort int    // 1 to 5 (Efforts): a judgement of this project, not of the paper
	Reason Text   // for the effort
	Covers string // the lower criterion that is met when this one is; "" for none
}

// Columns returns the columns in the order of the tables.
func Columns() []Column { return slices.Clone(columns) }

// Criteria returns the criteria in the order of the tables: by column, then by
// level, then as printed.
func Criteria() []Criterion { return slices.Clone(criteria) }

// A Standing is what is known of one criterion.
type Standing string

const (
	Proved       Standing = "proved"         // by data
	Answered     Standing = "answered"       // yes, by a person; no data speaks against it
	Covered      Standing = "covered"        // a higher criterion of the same ladder is met
	Inapplicable Standing = "not-applicable" // said by a person: left out of "all criteria"
	Contradicted Standing = "contradicted"   // by data, whatever a person says
	Denied       Standing = "no"             // by a person
	Unanswered   Standing = "open"           // nobody said anything and no data proves it
)

// Blocks reports whether a criterion of this standing keeps its level from
// being complete.
func (s Standing) Blocks() bool {
	return s == Contradicted || s == Denied || s == Unanswered
}

// Met reports whether the criterion is fulfilled; one that does not apply is
// neither met nor in the way.
func (s Standing) Met() bool { return s == Proved || s == Answered || s == Covered }

// A Result is one criterion with all that is known of it.
type Result struct {
	Criterion Criterion
	Standing  Standing
	Answer    Answer    // of a person; zero without one
	Readings  []Reading // the observations that speak about it
	Partial   bool      // the readings hold but do not prove: the rule is necessary only, or fleet or time are not covered
	Dispute   bool      // a person and the data say different things
}

// A Level is what a column, a dimension or the whole attains.
type Level struct {
	// Literal follows section IV to the letter: a complete level attains the next
	// higher one. 1 to 5.
	Literal int
	// Strict is the highest level that is complete together with all below it. 0 to 5.
	Strict int
}

// A Score is the level of a column, a dimension or the whole, and its counts by
// level, 1 to 5 at index 0 to 4.
type Score struct {
	Level
	Met, Inapplicable, Total [MaxLevel]int
}

// Complete reports whether nothing of a level is in the way.
func (s Score) Complete(level int) bool {
	return s.Met[level-1]+s.Inapplicable[level-1] == s.Total[level-1]
}

// An Evaluation is an assessment and the data beside it, judged.
type Evaluation struct {
	Assessment *Assessment
	Data       *Data    // nil without
	Results    []Result // as Criteria
	Columns    map[string]Score
	Dimensions map[Dimension]Score
	Overall    Score
}

// Evaluate judges an assessment, which Read returned or which is made of known
// criteria, by the data; nil for none. A contradiction by data beats every
// word of a person; a person's no beats a proof.
func Evaluate(a *Assessment, d *Data) *Evaluation {
	e := &Evaluation{Assessment: a, Data: d, Columns: map[string]Score{}, Dimensions: map[Dimension]Score{}}
	answers := map[string]Answer{}
	for _, answer := range a.Answers {
		answers[answer.ID] = answer
	}
	at := map[string]int{}
	for i, c := range criteria {
		at[c.ID] = i
		r := Result{Criterion: c, Answer: answers[c.ID]}
		r.judge(d, a.Date)
		e.Results = append(e.Results, r)
	}
	// Higher rungs first, so that what one covers can cover in turn.
	for level := MaxLevel; level > 1; level-- {
		for _, r := range e.Results {
			if r.Criterion.Level != level || r.Criterion.Covers == "" || !r.Standing.Met() {
				continue
			}
			if low := &e.Results[at[r.Criterion.Covers]]; !low.Standing.Met() && low.Standing != Contradicted {
				low.Standing, low.Dispute = Covered, false
			}
		}
	}
	dimension := map[string]Dimension{}
	for _, c := range columns {
		dimension[c.ID] = c.Dimension
		e.Columns[c.ID] = e.score(func(r Criterion) bool { return r.Column == c.ID })
	}
	for _, d := range []Dimension{Structure, Process, Outcome} {
		e.Dimensions[d] = e.score(func(r Criterion) bool { return dimension[r.Column] == d })
	}
	e.Overall = e.score(func(Criterion) bool { return true })
	return e
}

func (r *Result) judge(d *Data, date time.Time) {
	switch r.Answer.Answer {
	case Yes:
		r.Standing = Answered
	case No:
		r.Standing = Denied
	case NotApplicable:
		r.Standing = Inapplicable
	default:
		r.Standing = Unanswered
	}
	var says verdict
	says, r.Readings = d.about(r.Criterion.ID, date)
	switch {
	case says == contradicts:
		r.Dispute = r.Standing == Answered || r.Standing == Inapplicable
		r.Standing = Contradicted
	case says == proves && r.Standing == Denied:
		r.Dispute = true
	case says == proves && r.Standing == Inapplicable:
		r.Dispute = true
		r.Standing = Proved
	case says == proves:
		r.Standing = Proved
	case says == supports:
		r.Partial = true
	}
}

func (e *Evaluation) score(in func(Criterion) bool) Score {
	var s Score
	for _, r := range e.Results {
		if !in(r.Criterion) {
			continue
		}
		i := r.Criterion.Level - 1
		s.Total[i]++
		if r.Standing.Met() {
			s.Met[i]++
		}
		if r.Standing == Inapplicable {
			s.Inapplicable[i]++
		}
	}
	for s.Strict < MaxLevel && s.Complete(s.Strict+1) {
		s.Strict++
	}
	s.Literal = min(s.Strict+1, MaxLevel)
	return s
}

// Next returns what is missing for the next level, the cheapest first: the
// criteria in the way at the lowest level that is not complete.
func (e *Evaluation) Next() []Result {
	var missing []Result
	for _, r := range e.Results {
		if r.Standing.Blocks() && r.Criterion.Level == e.Overall.Strict+1 {
			missing = append(missing, r)
		}
	}
	slices.SortStableFunc(missing, func(a, b Result) int {
		return cmp.Or(cmp.Compare(a.Criterion.Effort, b.Criterion.Effort), cmp.Compare(a.Criterion.ID, b.Criterion.ID))
	})
	return missing
}

// A Change is a criterion that stands otherwise than before.
type Change struct {
	Before, After Result
}

// Gained reports whether the criterion is no longer in the way.
func (c Change) Gained() bool { return c.Before.Standing.Blocks() && !c.After.Standing.Blocks() }

// Lost reports whether the criterion was not in the way and is now.
func (c Change) Lost() bool { return !c.Before.Standing.Blocks() && c.After.Standing.Blocks() }

// Compare returns the criteria that stand otherwise in after than in before, in
// the order of the tables.
func Compare(before, after *Evaluation) []Change {
	var changes []Change
	for i, r := range after.Results {
		if b := before.Results[i]; b.Standing != r.Standing {
			changes = append(changes, Change{b, r})
		}
	}
	return changes
}
