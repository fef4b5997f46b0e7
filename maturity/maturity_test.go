package maturity_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miotfacts/miotfacts/maturity"
)

// counted is how many items each cell of Tables II to IV has, read by hand:
// column, then levels 1 to 5.
var counted = []struct {
	column    string
	dimension maturity.Dimension
	table     string
	cells     [maturity.MaxLevel]int
}{
	{"organisation", maturity.Structure, "II", [5]int{1, 2, 2, 2, 1}},
	{"data", maturity.Structure, "II", [5]int{3, 4, 3, 2, 2}},
	{"authentication", maturity.Structure, "II", [5]int{3, 2, 2, 2, 2}},
	{"updates", maturity.Process, "III", [5]int{2, 3, 2, 2, 2}},
	{"malfunction", maturity.Process, "III", [5]int{4, 3, 3, 1, 1}},
	{"usability", maturity.Process, "III", [5]int{1, 1, 1, 1, 1}},
	{"costs", maturity.Outcome, "IV", [5]int{1, 1, 1, 1, 1}},
	{"downtime", maturity.Outcome, "IV", [5]int{1, 1, 1, 1, 1}},
	{"failsafe", maturity.Outcome, "IV", [5]int{1, 1, 1, 1, 1}},
	{"threats", maturity.Outcome, "IV", [5]int{1, 1, 1, 1, 1}},
}

func TestCriteriaAreThoseOfThePaper(t *testing.T) {
	got := map[string][5]int{}
	for _, c := range maturity.Criteria() {
		n := got[c.Column]
		n[c.Level-1]++
		got[c.Column] = n
	}
	total := 0
	for i, c := range maturity.Columns() {
		want := counted[i]
		if c.ID != want.column || c.Dimension != want.dimension || c.Table != want.table || got[c.ID] != want.cells {
			t.Errorf("column %d: %s, %s, table %s: %v, want %v", i, c.ID, c.Dimension, c.Table, got[c.ID], want)
		}
		for _, n := range got[c.ID] {
			total += n
		}
	}
	if len(got) != len(counted) || total != 81 || total != len(maturity.Criteria()) {
		t.Errorf("%d columns with %d criteria of %d", len(got), total, len(maturity.Criteria()))
	}
}

func TestCriteriaAreComplete(t *testing.T) {
	dimension := map[string]maturity.Dimension{}
	for _, c := range maturity.Columns() {
		dimension[c.ID] = c.Dimension
	}
	byID, texts := map[string]maturity.Criterion{}, map[string]string{}
	for _, c := range maturity.Criteria() {
		want := regexp.MustCompile(fmt.Sprintf(`^%s\.%s\.%d\.[a-z0-9_]+$`, dimension[c.Column], c.Column, c.Level))
		if !want.MatchString(c.ID) {
			t.Errorf("id %s does not say where it stands", c.ID)
		}
		if _, twice := byID[c.ID]; twice {
			t.Errorf("%s stands there twice", c.ID)
		}
		byID[c.ID] = c
		if c.Effort < 1 || c.Effort > 5 {
			t.Errorf("%s: effort %d", c.ID, c.Effort)
		}
		for _, text := range []string{c.Text.EN, c.Text.DE, c.Reason.EN, c.Reason.DE} {
			if text == "" || strings.HasSuffix(text, ".") {
				t.Errorf("%s: text %q", c.ID, text)
			}
		}
		for _, text := range []string{c.Text.EN, c.Text.DE} {
			if other, twice := texts[text]; twice {
				t.Errorf("%s and %s are called the same", c.ID, other)
			}
			texts[text] = c.ID
		}
		if c.Text.EN == c.Text.DE {
			t.Errorf("%s is not translated", c.ID)
		}
	}
	for _, c := range byID {
		if low, ok := byID[c.Covers]; c.Covers != "" && (!ok || low.Column != c.Column || low.Level != c.Level-1) {
			t.Errorf("%s covers %q, which is not one rung below", c.ID, c.Covers)
		}
	}
}

func TestRulesAreComplete(t *testing.T) {
	order := map[string]int{}
	for i, c := range maturity.Criteria() {
		order[c.ID] = i
	}
	observations := maturity.Observations()
	if !slices.IsSortedFunc(observations, func(a, b maturity.Observation) int { return strings.Compare(a.ID, b.ID) }) {
		t.Error("observations are not sorted by id")
	}
	used := map[string]bool{}
	last := -1
	for _, r := range maturity.Rules() {
		at, ok := order[r.Criterion]
		if !ok || at <= last {
			t.Errorf("rule of %s is of no criterion, or out of order, or the second", r.Criterion)
		}
		last = at
		if len(r.Conditions) == 0 || r.Why.EN == "" || r.Why.DE == "" {
			t.Errorf("rule of %s says nothing or not why", r.Criterion)
		}
		for _, c := range r.Conditions {
			used[c.Observation] = true
			if c.AtLeast && c.Breaks > c.Limit || !c.AtLeast && c.Breaks < c.Limit {
				t.Errorf("rule of %s: %s holds and contradicts at once", r.Criterion, c.Observation)
			}
		}
	}
	for _, o := range observations {
		if !used[o.ID] {
			t.Errorf("no rule uses %s", o.ID)
		}
		delete(used, o.ID)
	}
	if len(used) > 0 {
		t.Errorf("rules use %v, which nobody observes", used)
	}
}

var today = time.Date(2026, 3, 31, 0, 0, 0, 0, time.UTC)

// assess answers each criterion by a function.
func assess(answer func(c maturity.Criterion) string) *maturity.Assessment {
	a := &maturity.Assessment{Subject: "S", Date: today}
	for _, c := range maturity.Criteria() {
		a.Answers = append(a.Answers, maturity.Answer{ID: c.ID, Answer: answer(c), Who: "W", When: today, Evidence: "E"})
	}
	slices.SortFunc(a.Answers, func(x, y maturity.Answer) int { return strings.Compare(x.ID, y.ID) })
	return a
}

func TestLevelRule(t *testing.T) {
	const three = "structure.data.3.key_management"
	upTo := func(level int) func(maturity.Criterion) string {
		return func(c maturity.Criterion) string {
			if c.Level <= level {
				return maturity.Yes
			}
			return maturity.No
		}
	}
	all := upTo(5)
	but := func(f func(maturity.Criterion) string, answer string, ids ...string) func(maturity.Criterion) string {
		return func(c maturity.Criterion) string {
			if slices.Contains(ids, c.ID) {
				return answer
			}
			return f(c)
		}
	}
	for _, c := range []struct {
		name            string
		answer          func(maturity.Criterion) string
		literal, strict int
		missing         int
	}{
		{"nothing answered", func(maturity.Criterion) string { return maturity.Open }, 1, 0, 18},
		{"level one complete", upTo(1), 2, 1, 19},
		{"level two complete", upTo(2), 3, 2, 17},
		{"level three complete", upTo(3), 4, 3, 14},
		{"level four complete", upTo(4), 5, 4, 13},
		{"everything", all, 5, 5, 0},
		// The paper's own example, section IV-C.
		{"one criterion of level three missing, level four fulfilled", but(upTo(4), maturity.No, three), 3, 2, 1},
		{"one criterion of level three missing, all else fulfilled", but(all, maturity.No, three), 3, 2, 1},
		{"one criterion of level three open, all else fulfilled", but(all, maturity.Open, three), 3, 2, 1},
		{"one criterion of level three does not apply", but(all, maturity.NotApplicable, three), 5, 5, 0},
		{"one criterion of level one missing, all else fulfilled", but(all, maturity.No, "process.malfunction.1.secure_state"), 1, 0, 1},
		{"one criterion of level five missing", but(all, maturity.No, "process.updates.5.end_of_life"), 5, 4, 1},
		{"levels one and three missing", but(all, maturity.No, three, "process.malfunction.1.secure_state"), 1, 0, 1},
		// Who denies a lower rung of a ladder because a higher one is true has both.
		{"lower rungs denied", but(all, maturity.No, "outcome.failsafe.1.whole", "outcome.failsafe.2.parts", "outcome.costs.1.budget", "outcome.threats.4.below_10"), 5, 5, 0},
		{"whole ladder denied", but(all, maturity.No, "outcome.failsafe.4.no_harm", "outcome.failsafe.5.no_effect"), 4, 3, 1},
	} {
		e := maturity.Evaluate(assess(c.answer), nil)
		if e.Overall.Literal != c.literal || e.Overall.Strict != c.strict || len(e.Next()) != c.missing {
			t.Errorf("%s: level %d, strict %d, %d missing; want %d, %d, %d", c.name, e.Overall.Literal, e.Overall.Strict, len(e.Next()), c.literal, c.strict, c.missing)
		}
	}

	// By column and dimension the same rule; the others are not touched.
	e := maturity.Evaluate(assess(but(all, maturity.No, three)), nil)
	for id, s := range e.Columns {
		want := maturity.Level{Literal: 5, Strict: 5}
		if id == "data" {
			want = maturity.Level{Literal: 3, Strict: 2}
		}
		if s.Level != want {
			t.Errorf("%s: %v", id, s.Level)
		}
	}
	if e.Dimensions[maturity.Structure].Literal != 3 || e.Dimensions[maturity.Process].Literal != 5 {
		t.Errorf("dimensions: %v", e.Dimensions)
	}
}

func TestNextIsCheapestFirst(t *testing.T) {
	e := maturity.Evaluate(assess(func(maturity.Criterion) string { return maturity.Open }), nil)
	next := e.Next()
	if next[0].Criterion.Effort != 1 || next[len(next)-1].Criterion.Effort != 5 {
		t.Errorf("from effort %d to %d", next[0].Criterion.Effort, next[len(next)-1].Criterion.Effort)
	}
	if !slices.IsSortedFunc(next, func(a, b maturity.Result) int { return a.Criterion.Effort - b.Criterion.Effort }) {
		t.Error("not sorted by effort")
	}
}

func data(values map[string]int64) *maturity.Data {
	return &maturity.Data{Source: "test", From: today.AddDate(-1, 0, 1), Until: today, Inventory: 10, Devices: 10, Values: values}
}

func TestDataAndPeople(t *testing.T) {
	type values = map[string]int64
	part := data(values{"secure_boot_share": 1000})
	part.Devices = 9
	partBroken := data(values{"secure_boot_share": 999})
	partBroken.Devices = 9
	old := data(values{"secure_boot_share": 1000})
	old.From, old.Until = today.AddDate(-3, 0, 0), today.AddDate(-1, 0, -1)
	short := data(values{"security_events": 24})
	short.From = today.AddDate(-1, 0, 2)
	shortBroken := data(values{"security_events": 25})
	shortBroken.From = today.AddDate(0, -1, 0)
	budgetPart := data(values{"security_budget": 100})
	budgetPart.Devices = 1

	const (
		boot  = "structure.data.4.secure_boot"
		event = "outcome.threats.1.below_25"
		tls   = "structure.data.3.protocol_versions"
	)
	for _, c := range []struct {
		name, id, answer string
		data             *maturity.Data
		want             maturity.Standing
		dispute, partial bool
	}{
		{"no data, open", boot, maturity.Open, nil, maturity.Unanswered, false, false},
		{"no data, yes", boot, maturity.Yes, nil, maturity.Answered, false, false},
		{"no data, no", boot, maturity.No, nil, maturity.Denied, false, false},
		{"no data, does not apply", boot, maturity.NotApplicable, nil, maturity.Inapplicable, false, false},
		{"data about other things", boot, maturity.Yes, data(values{"shared_keys": 0}), maturity.Answered, false, false},
		{"proved, open", boot, maturity.Open, data(values{"secure_boot_share": 1000}), maturity.Proved, false, false},
		{"proved, yes", boot, maturity.Yes, data(values{"secure_boot_share": 1000}), maturity.Proved, false, false},
		{"proved, but a person says no", boot, maturity.No, data(values{"secure_boot_share": 1000}), maturity.Denied, true, false},
		{"proved, but said not to apply", boot, maturity.NotApplicable, data(values{"secure_boot_share": 1000}), maturity.Proved, true, false},
		{"contradicted, open", boot, maturity.Open, data(values{"secure_boot_share": 999}), maturity.Contradicted, false, false},
		{"contradicted, yes", boot, maturity.Yes, data(values{"secure_boot_share": 999}), maturity.Contradicted, true, false},
		{"contradicted, no", boot, maturity.No, data(values{"secure_boot_share": 999}), maturity.Contradicted, false, false},
		{"contradicted, said not to apply", boot, maturity.NotApplicable, data(values{"secure_boot_share": 0}), maturity.Contradicted, true, false},
		{"part of the fleet proves nothing", boot, maturity.Open, part, maturity.Unanswered, false, true},
		{"part of the fleet contradicts", boot, maturity.Yes, partBroken, maturity.Contradicted, true, false},
		{"old data proves nothing", boot, maturity.Open, old, maturity.Unanswered, false, true},
		{"less than a year proves nothing", event, maturity.Yes, short, maturity.Answered, false, true},
		{"a month contradicts", event, maturity.Yes, shortBroken, maturity.Contradicted, true, false},
		{"24 events are fewer than 25", event, maturity.Open, data(values{"security_events": 24}), maturity.Proved, false, false},
		{"25 are not", event, maturity.Yes, data(values{"security_events": 25}), maturity.Contradicted, true, false},
		{"the books need no device", "outcome.costs.2.budget", maturity.Open, budgetPart, maturity.Proved, false, false},
		{"TLS alone does not prove", tls, maturity.Open, data(values{"tls_min_version": 12}), maturity.Unanswered, false, true},
		{"TLS 1.1 contradicts", tls, maturity.Yes, data(values{"tls_min_version": 11}), maturity.Contradicted, true, false},
		{"TLS 1.2, no plaintext, nothing unchecked", tls, maturity.Open, data(values{"tls_min_version": 12, "plaintext_connections": 0, "unchecked_links": 0}), maturity.Proved, false, false},
		{"an unchecked link leaves it to a person", tls, maturity.Yes, data(values{"tls_min_version": 12, "plaintext_connections": 0, "unchecked_links": 1}), maturity.Answered, false, false},
		{"plaintext contradicts", tls, maturity.Yes, data(values{"tls_min_version": 13, "plaintext_connections": 1, "unchecked_links": 0}), maturity.Contradicted, true, false},
		{"a rule that is necessary only", "structure.organisation.4.minimal_services", maturity.Open, data(values{"undeclared_services": 0}), maturity.Unanswered, false, true},
		{"some TPMs do not contradict that TPMs are used", "structure.data.3.tpm", maturity.Yes, data(values{"tpm_backed_share": 500}), maturity.Answered, false, false},
		{"no TPM does", "structure.data.3.tpm", maturity.Yes, data(values{"tpm_backed_share": 0}), maturity.Contradicted, true, false},
		{"no certificates leave several factors", "structure.authentication.4.multi_factor", maturity.Yes, data(values{"certificate_share": 0}), maturity.Answered, false, false},
	} {
		a := &maturity.Assessment{Subject: "S", Date: today, Answers: []maturity.Answer{{ID: c.id, Answer: c.answer, Who: "W", When: today, Evidence: "E"}}}
		e := maturity.Evaluate(a, c.data)
		i := slices.IndexFunc(e.Results, func(r maturity.Result) bool { return r.Criterion.ID == c.id })
		if r := e.Results[i]; r.Standing != c.want || r.Dispute != c.dispute || r.Partial != c.partial {
			t.Errorf("%s: %s, dispute %v, partial %v; want %s, %v, %v", c.name, r.Standing, r.Dispute, r.Partial, c.want, c.dispute, c.partial)
		}
	}
}

// The costs of Table IV as they are read: each band by its lower end.
func TestBudgetBands(t *testing.T) {
	for value, want := range map[int64]int{0: 0, 1: 1, 99: 1, 100: 2, 199: 2, 200: 3, 399: 3, 400: 4, 599: 4, 700: 4, 800: 4, 801: 5} {
		e := maturity.Evaluate(&maturity.Assessment{Date: today}, data(map[string]int64{"security_budget": value}))
		if got := e.Columns["costs"].Strict; got != want {
			t.Errorf("%d/100 %%: level %d complete, want %d", value, got, want)
		}
	}
}

// A contradiction is not covered by a higher rung that a person calls met.
func TestContradictionBeatsCover(t *testing.T) {
	e := maturity.Evaluate(assess(func(maturity.Criterion) string { return maturity.Yes }), data(map[string]int64{"downtime_low_hours": 73}))
	if s := e.Columns["downtime"]; s.Strict != 0 || s.Met != [5]int{0, 0, 1, 1, 1} {
		t.Errorf("downtime: %+v", s)
	}
}

func levels(e *maturity.Evaluation) map[string]maturity.Level {
	all := map[string]maturity.Level{"overall": e.Overall.Level}
	for id, s := range e.Columns {
		all[id] = s.Level
	}
	for d, s := range e.Dimensions {
		all[string(d)] = s.Level
	}
	return all
}

// lowered returns what has a lower level in after.
func lowered(before, after *maturity.Evaluation) []string {
	var ids []string
	b, a := levels(before), levels(after)
	for id := range b {
		if a[id].Literal < b[id].Literal || a[id].Strict < b[id].Strict {
			ids = append(ids, id)
		}
	}
	return ids
}

// Meeting one more criterion and observing something better never lower a
// level; the whole is its lowest column.
func TestLevelsOnlyRise(t *testing.T) {
	answers := []string{maturity.Yes, maturity.Yes, maturity.Yes, maturity.Yes, maturity.No, maturity.Open, maturity.NotApplicable}
	better := map[string]int64{} // towards this
	for _, r := range maturity.Rules() {
		for _, c := range r.Conditions {
			if c.AtLeast {
				better[c.Observation] = max(better[c.Observation], c.Limit)
			}
		}
	}
	observations := maturity.Observations()
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 7))
		high := r.IntN(5) // mostly met up to here, so that levels differ
		a := assess(func(c maturity.Criterion) string {
			if c.Level <= high && r.IntN(60) > 0 {
				return maturity.Yes
			}
			return answers[r.IntN(len(answers))]
		})
		var d *maturity.Data
		if r.IntN(2) == 0 {
			d = data(map[string]int64{})
			for _, o := range observations {
				if r.IntN(2) == 0 {
					d.Values[o.ID] = better[o.ID]
					if r.IntN(4) == 0 {
						d.Values[o.ID] = r.Int64N(o.Max + 1)
					}
				}
			}
		}
		before := maturity.Evaluate(a, d)

		low := maturity.Level{Literal: 5, Strict: 5}
		for _, s := range before.Columns {
			low = maturity.Level{Literal: min(low.Literal, s.Literal), Strict: min(low.Strict, s.Strict)}
		}
		if before.Overall.Level != low {
			t.Fatalf("seed %d: overall %v, lowest column %v", seed, before.Overall.Level, low)
		}

		more := &maturity.Assessment{Subject: a.Subject, Date: a.Date, Answers: slices.Clone(a.Answers)}
		i := r.IntN(len(more.Answers))
		more.Answers[i].Answer = maturity.Yes
		if ids := lowered(before, maturity.Evaluate(more, d)); ids != nil {
			t.Fatalf("seed %d: meeting %s lowers %v", seed, more.Answers[i].ID, ids)
		}

		if d == nil || len(d.Values) == 0 {
			continue
		}
		good := data(map[string]int64{})
		for id, v := range d.Values {
			good.Values[id] = v
			if r.IntN(3) > 0 {
				continue
			}
			if limit, atLeast := better[id]; atLeast {
				good.Values[id] = max(v, limit)
			} else {
				good.Values[id] = v / 2
			}
		}
		if ids := lowered(before, maturity.Evaluate(a, good)); ids != nil {
			t.Fatalf("seed %d: better data lowers %v:\n%s", seed, ids, cmp.Diff(d.Values, good.Values))
		}
	}
}

func TestCompare(t *testing.T) {
	yes := func(maturity.Criterion) string { return maturity.Yes }
	before := maturity.Evaluate(assess(yes), data(map[string]int64{"secure_boot_share": 999}))
	after := maturity.Evaluate(assess(func(c maturity.Criterion) string {
		if c.ID == "process.updates.3.automated" {
			return maturity.No
		}
		return maturity.Yes
	}), data(map[string]int64{"secure_boot_share": 1000, "shared_keys": 0, "tamper_logged_share": 1000}))
	var got []string
	for _, c := range maturity.Compare(before, after) {
		got = append(got, fmt.Sprintf("%s %s->%s %v %v", c.After.Criterion.ID, c.Before.Standing, c.After.Standing, c.Gained(), c.Lost()))
	}
	want := []string{
		"structure.data.4.secure_boot contradicted->proved true false",
		"process.updates.3.automated answered->no false true",
		"process.malfunction.2.log_tampering answered->proved false false",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if changes := maturity.Compare(before, before); changes != nil {
		t.Errorf("compared with itself: %v", changes)
	}
}

// docs/maturity.md says what the code has: the counted table and the
// observations.
func TestDocument(t *testing.T) {
	text, err := os.ReadFile("../docs/maturity.md")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, c := range counted {
		sum := 0
		row := "| " + string(c.dimension) + " | " + c.table + " | `" + c.column + "` |"
		for _, n := range c.cells {
			row += " " + strconv.Itoa(n) + " |"
			sum += n
		}
		want = append(want, row+" "+strconv.Itoa(sum)+" |")
	}
	for _, o := range maturity.Observations() {
		want = append(want, fmt.Sprintf("| `%s` | 0 to %d | %s | %s |", o.ID, o.Max, o.By, o.Meaning.EN))
	}
	for _, r := range maturity.Rules() {
		var conditions []string
		for _, c := range r.Conditions {
			word := "at most"
			if c.AtLeast {
				word = "at least"
			}
			says := fmt.Sprintf("`%s` %s %d", c.Observation, word, c.Limit)
			switch {
			case c.Breaks == c.Limit:
			case c.AtLeast && c.Breaks > 0:
				says += fmt.Sprintf(", contradicts below %d", c.Breaks)
			default:
				says += ", never contradicts"
			}
			conditions = append(conditions, says)
		}
		proves := "no"
		if r.Proves {
			proves = "yes"
		}
		if r.Proves && r.Yearly {
			proves = "over a year"
		}
		want = append(want, fmt.Sprintf("| `%s` | %s | %s | %s |", r.Criterion, strings.Join(conditions, "; "), proves, r.Why.EN))
	}
	for _, row := range want {
		if !strings.Contains(string(text), row+"\n") {
			t.Errorf("docs/maturity.md lacks the row\n%s", row)
		}
	}
	if rows := strings.Count(string(text), "\n| structure ") + strings.Count(string(text), "\n| process ") + strings.Count(string(text), "\n| outcome ") + strings.Count(string(text), "\n| `"); rows < len(want) {
		t.Errorf("%d rows, want %d", rows, len(want))
	}
}
