package maturity_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"github.com/miotfacts/miotfacts/maturity"
)

const (
	exampleFile = "../configs/maturity-example.toml"
	exampleData = "../configs/maturity-example.json"
)

func read(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func example(t testing.TB) *maturity.Evaluation {
	t.Helper()
	a, problems := maturity.Read(read(t, exampleFile))
	if a == nil {
		t.Fatal(problems)
	}
	d, err := maturity.ReadData(read(t, exampleData))
	if err != nil {
		t.Fatal(err)
	}
	return maturity.Evaluate(a, d)
}

func TestExample(t *testing.T) {
	text := read(t, exampleFile)
	a, problems := maturity.Read(text)
	if len(problems) != 1 || !problems[0].Warning || !strings.Contains(problems[0].Message, "level 5 of downtime") {
		t.Errorf("problems: %+v", problems)
	}
	// It is in the form that Format writes, below one line of its own.
	if diff := cmp.Diff("# An example; the clinic and the people are made up.\n"+string(maturity.Format(a, maturity.English)), string(text)); diff != "" {
		t.Error(diff)
	}
	e := example(t)
	if want := (maturity.Level{Literal: 3, Strict: 2}); e.Overall.Level != want {
		t.Errorf("level %v", e.Overall.Level)
	}
	standings := map[maturity.Standing]int{}
	for _, r := range e.Results {
		standings[r.Standing]++
	}
	for _, s := range []maturity.Standing{maturity.Proved, maturity.Answered, maturity.Covered, maturity.Inapplicable, maturity.Contradicted, maturity.Denied, maturity.Unanswered} {
		if standings[s] == 0 {
			t.Errorf("the example shows nothing %s", s)
		}
	}
}

func TestReadBack(t *testing.T) {
	a := assess(func(c maturity.Criterion) string {
		return []string{maturity.Yes, maturity.No, maturity.NotApplicable, maturity.Open, maturity.Yes}[c.Level-1]
	})
	a.Subject, a.Answers[3].Who, a.Answers[4].Evidence = `"quoted" \ and äöü`, `\u0041 "`, "it's #1 = [x]"
	for _, l := range []maturity.Lang{maturity.English, maturity.German} {
		text := maturity.Format(a, l)
		got, problems := maturity.Read(text)
		if got == nil {
			t.Fatal(problems)
		}
		if diff := cmp.Diff(a, got); diff != "" {
			t.Error(diff)
		}
		if len(text) > maturity.MaxSize/4 {
			t.Errorf("%d bytes", len(text))
		}
	}
}

func TestProblems(t *testing.T) {
	const head = "version = 1\nsubject = \"S\"\ndate = 2026-03-31\n"
	const id = "id = \"structure.organisation.1.commitment\"\n"
	const rest = "who = \"W\"\nwhen = 2026-03-01\nevidence = \"E\"\n"
	answer := func(text string) string { return head + "[[answer]]\n" + text }
	for _, c := range []struct {
		name, text string
		line       int
		path, says string
		warning    bool
	}{
		{"empty", "", 0, "version", "version 1", false},
		{"another version", strings.Replace(head, "1", "2", 1), 1, "version", "version 1", false},
		{"no subject", "version = 1\ndate = 2026-03-31\n", 0, "subject", "missing", false},
		{"empty subject", strings.Replace(head, `"S"`, `" "`, 1), 2, "subject", "empty", false},
		{"subject that moves the cursor", strings.Replace(head, `"S"`, `"\u001b[2J"`, 1), 2, "subject", "control characters", false},
		{"subject that turns the text around", strings.Replace(head, `"S"`, `"\u202e"`, 1), 2, "subject", "control characters", false},
		{"subject too long", strings.Replace(head, `"S"`, `"`+strings.Repeat("x", 1001)+`"`, 1), 2, "subject", "1001 bytes are more than 1000", false},
		{"no date", "version = 1\nsubject = \"S\"\n", 0, "date", "missing", false},
		{"date in another form", strings.Replace(head, "2026-03-31", `"31.03.2026"`, 1), 3, "", "date", false},
		{"date as a number", strings.Replace(head, "2026-03-31", "20260331", 1), 3, "date", "", false},
		{"not TOML", head + "x y", 4, "", "", false},
		{"key twice", head + "version = 1\n", 4, "", "", false},
		{"unknown key", head + "levels = 3\n", 4, "levels", "unknown key", false},
		{"unknown key in an answer", answer(id + "answr = \"yes\"\n"), 6, "answer.answr", "unknown key", false},
		{"unknown key that moves the cursor", head + "\"\\u009b2J\" = 3\n", 4, "\ufffd2J", "unknown key", false},
		{"unknown table", head + "[extra]\nx = 1\n", 4, "extra", "unknown key", false},
		{"no id", answer("answer = \"open\"\n"), 4, "answer[0]", "id is missing", false},
		{"no answer", answer(id), 4, "answer[0]", "answer is missing", false},
		{"unknown id", answer("id = \"structure.organisation.1.x\"\nanswer = \"open\"\n"), 5, "answer[0].id", "no criterion is called", false},
		{"id twice", answer(id+"answer = \"open\"\n[[answer]]\n"+id) + "answer = \"open\"\n", 8, "answer[1].id", "answered twice", false},
		{"unknown answer", answer(id + "answer = \"maybe\"\n" + rest), 6, "answer[0].answer", `no answer is called "maybe"`, false},
		{"yes without who", answer(id + "answer = \"yes\"\nwhen = 2026-03-01\nevidence = \"E\"\n"), 4, "answer[0].who", "without who", false},
		{"yes without when", answer(id + "answer = \"yes\"\nwho = \"W\"\nevidence = \"E\"\n"), 4, "answer[0].when", "without when", false},
		{"no without evidence", answer(id + "answer = \"no\"\nwho = \"W\"\nwhen = 2026-03-01\n"), 4, "answer[0].evidence", "without evidence", false},
		{"not applicable without evidence", answer(id + "answer = \"not-applicable\"\nwho = \"W\"\nwhen = 2026-03-01\nevidence = \"\"\n"), 9, "answer[0].evidence", "without evidence", false},
		{"evidence on two lines", answer(id + "answer = \"yes\"\nwho = \"W\"\nwhen = 2026-03-01\nevidence = \"a\\nb\"\n"), 9, "answer[0].evidence", "control characters", false},
		{"answered after the assessment", answer(id + "answer = \"yes\"\nwho = \"W\"\nwhen = 2026-04-01\nevidence = \"E\"\n"), 8, "answer[0].when", "after the assessment of 2026-03-31", false},
		{"no such day", answer(id + "answer = \"yes\"\nwho = \"W\"\nwhen = 2026-02-30\nevidence = \"E\"\n"), 8, "", "", false},
		{"answered long ago", answer(id + "answer = \"yes\"\nwho = \"W\"\nwhen = 2024-03-30\nevidence = \"E\"\n"), 8, "answer[0].when", "more than two years", true},
		{"not sorted", answer(id + "answer = \"open\"\n[[answer]]\nid = \"outcome.costs.1.budget\"\nanswer = \"open\"\n"), 8, "answer[1].id", "stands after", true},
		{"criteria missing", answer(id + "answer = \"open\"\n"), 0, "answer", "80 of 81 criteria are not in the file", true},
		{"a cell passed on nothing", answer(id + "answer = \"not-applicable\"\n" + rest), 0, "answer", "level 1 of organisation is passed", true},
		{"answers in one line", head + "answer = [{id = \"x\", answer = \"open\"}]\n", 4, "answer[0].id", "no criterion", false},
	} {
		a, problems := maturity.Read([]byte(c.text))
		if (a == nil) == c.warning {
			t.Errorf("%s: read %v", c.name, a != nil)
		}
		i := slices.IndexFunc(problems, func(p maturity.Problem) bool {
			return p.Line == c.line && (c.path == "" || p.Path == c.path) && strings.Contains(p.Message, c.says) && p.Warning == c.warning
		})
		if i < 0 {
			t.Errorf("%s: want line %d, %s: %s; got %+v", c.name, c.line, c.path, c.says, problems)
		} else if problems[i].Fix == "" {
			t.Errorf("%s: says not how to correct it", c.name)
		}
		if !slices.IsSortedFunc(problems, func(a, b maturity.Problem) int { return a.Line - b.Line }) {
			t.Errorf("%s: not in the order of lines: %+v", c.name, problems)
		}
	}
	if a, problems := maturity.Read(make([]byte, maturity.MaxSize+1)); a != nil || !strings.Contains(problems[0].Message, "larger than") {
		t.Errorf("too large: %v", problems)
	}
}

func TestDataProblems(t *testing.T) {
	good := `{"version": 1, "source": "S", "from": "2025-04-01", "until": "2026-03-31", "inventory": 2, "devices": 1, "observations": {"security_events": 3}}`
	d, err := maturity.ReadData([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if d.Source != "S" || d.Inventory != 2 || d.Devices != 1 || len(d.Values) != 1 || d.Values["security_events"] != 3 || !d.Until.Equal(today) {
		t.Errorf("%+v", d)
	}
	for _, c := range []struct{ name, old, new, says string }{
		{"not JSON", good, "x", "want a JSON object"},
		{"a list", good, "[]", "want a JSON object"},
		{"cut off", `3}}`, `3`, "cannot read observations"},
		{"something follows", `3}}`, `3}} {}`, "something follows"},
		{"no version", `"version": 1, `, ``, `no "version"`},
		{"another version", `"version": 1`, `"version": 2`, "version: 2 is not from 1 to 1"},
		{"no source", `"source": "S", `, ``, `no "source"`},
		{"source is null", `"S"`, `null`, "source: it is empty"},
		{"source that moves the cursor", `"S"`, `"\u001b[2J"`, "control characters"},
		{"unknown key", `"source"`, `"extra": 1, "source"`, `unknown "extra"`},
		{"key in other letters", `"devices"`, `"Devices"`, `no "devices"`},
		{"key twice", `"source"`, `"devices": 2, "source"`, `"devices" stands there twice`},
		{"unknown observation", `"security_events"`, `"events"`, `unknown "events"`},
		{"observation twice", `{"security_events": 3}`, `{"security_events": 30, "security_events": 3}`, `"security_events" stands there twice`},
		{"fraction", `: 3}`, `: 3.5}`, "security_events: want an integer, not \"3.5\""},
		{"null", `: 3}`, `: null}`, "security_events: want an integer, not \"null\""},
		{"text", `: 3}`, `: "3"}`, "security_events: want an integer"},
		{"negative", `: 3}`, `: -1}`, "security_events: -1 is not from 0 to 1000000"},
		{"too large", `{"security_events": 3}`, `{"secure_boot_share": 1001}`, "secure_boot_share: 1001 is not from 0 to 1000"},
		{"beyond 64 bits", `: 3}`, `: 99999999999999999999}`, "want an integer"},
		{"no device", `"devices": 1`, `"devices": 0`, "devices: 0 is not from 1"},
		{"more devices than there are", `"devices": 1`, `"devices": 3`, "3 devices are more than the inventory of 2"},
		{"no date", `"2026-03-31"`, `"31.03.2026"`, "until: want a date"},
		{"no such day", `"2026-03-31"`, `"2026-02-30"`, "until: want a date"},
		{"backwards", `"2026-03-31"`, `"2025-03-31"`, "until 2025-03-31 is before from 2025-04-01"},
		{"too large a file", good, good + strings.Repeat(" ", maturity.MaxData), "more than"},
	} {
		text := strings.Replace(good, c.old, c.new, 1)
		if text == good {
			t.Fatalf("%s: nothing replaced", c.name)
		}
		if d, err := maturity.ReadData([]byte(text)); err == nil || d != nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", c.name, err, c.says)
		}
	}
}

// What Read takes, Format writes and Read takes again as the same; lines are
// within the file.
func FuzzRead(f *testing.F) {
	f.Add(read(f, exampleFile))
	f.Add([]byte("version = 1\nsubject = \"S\"\ndate = 2026-03-31\n[[answer]]\nid = \"outcome.costs.1.budget\"\nanswer = \"no\"\nwho = \"W\"\nwhen = 2026-03-01\nevidence = \"E\"\n"))
	f.Add([]byte("version = 1\nsubject = \"S\"\ndate = 2026-03-31\nanswer = [{id = \"x\"}]\n[extra.x]\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		a, problems := maturity.Read(text)
		for _, p := range problems {
			if strings.ContainsFunc(p.Path+p.Message, unicode.IsControl) || p.Line < 0 || p.Line > strings.Count(string(text), "\n")+1 || p.Fix == "" {
				t.Errorf("problem %+v", p)
			}
		}
		if a == nil {
			if len(problems) == 0 {
				t.Error("nothing read and nothing said")
			}
			return
		}
		again, problems := maturity.Read(maturity.Format(a, maturity.German))
		if again == nil {
			t.Fatalf("not read again: %+v", problems)
		}
		answers := func(a *maturity.Assessment) (s []string) {
			for _, x := range a.Answers {
				if x.Answer != maturity.Open || x.Who != "" || x.Evidence != "" || !x.When.IsZero() {
					s = append(s, fmt.Sprint(x))
				}
			}
			return s
		}
		if a.Subject != again.Subject || !a.Date.Equal(again.Date) || !slices.Equal(answers(a), answers(again)) {
			t.Errorf("not the same:\n%s", cmp.Diff(a, again))
		}
		if b, c := maturity.Evaluate(a, nil), maturity.Evaluate(again, nil); b.Overall != c.Overall {
			t.Errorf("judged %v and %v", b.Overall, c.Overall)
		}
	})
}

// TestDataJSON writes what it reads, byte by byte, and nothing that it would refuse.
func TestDataJSON(t *testing.T) {
	want := read(t, exampleData)
	d, err := maturity.ReadData(want)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := d.JSON(); err != nil || string(got) != string(want) {
		t.Errorf("%v:\n%s", err, got)
	}
	for name, change := range map[string]func(*maturity.Data){
		"source":      func(d *maturity.Data) { d.Source = "" },
		"observation": func(d *maturity.Data) { d.Values = map[string]int64{"made_up": 1} },
		"value":       func(d *maturity.Data) { d.Values = map[string]int64{"tls_min_version": 14} },
		"inventory":   func(d *maturity.Data) { d.Inventory = d.Devices - 1 },
	} {
		c := *d
		change(&c)
		if got, err := c.JSON(); err == nil || got != nil {
			t.Errorf("%s: wrote %s", name, got)
		}
	}
}

func FuzzReadData(f *testing.F) {
	f.Add(read(f, exampleData))
	f.Add([]byte(`{"version": 1, "source": "S", "from": "2025-04-01", "until": "2026-03-31", "inventory": 2, "devices": 1, "observations": {"a": {"b": [1]}}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := maturity.ReadData(text)
		if (d == nil) != (err != nil) {
			t.Fatalf("%v and %v", d, err)
		}
		if d != nil {
			for _, r := range maturity.Evaluate(&maturity.Assessment{Date: today}, d).Results {
				if r.Standing == maturity.Answered || r.Standing == maturity.Denied {
					t.Errorf("%s without a person: %s", r.Criterion.ID, r.Standing)
				}
			}
		}
	})
}
