package baseline_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/baseline"
)

var options = baseline.Options{Vendor: "Example Medical", Model: "pump-1", From: 1_800_000_000, Until: 1_900_000_000}

func vocabulary(t testing.TB) *facts.Vocabulary {
	t.Helper()
	v, err := facts.NewVocabulary(nil)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func key(t testing.TB, name string) facts.Key {
	t.Helper()
	d, ok := vocabulary(t).ByName(name)
	if !ok {
		t.Fatalf("no fact is called %s", name)
	}
	return d.Key
}

// A reading for tests: a value by its Go type, or a status.
func reading(t testing.TB, name string, v any) facts.Reading {
	r := facts.Reading{Key: key(t, name)}
	switch v := v.(type) {
	case int:
		r.Value = facts.IntValue(int64(v))
	case int64:
		r.Value = facts.IntValue(v)
	case bool:
		r.Value = facts.BoolValue(v)
	case string:
		r.Value = facts.TextValue(v)
	case []byte:
		r.Value = facts.BytesValue(v)
	case []string:
		r.Value = facts.SetValue(slices.Clone(v))
	case facts.Status:
		r.Status, r.Reason = v, "because"
	default:
		t.Fatalf("%T is no value", v)
	}
	return r
}

// record returns a run in boot in which the fact called name had these values.
func record(t testing.TB, boot, name string, values ...any) *baseline.Recording {
	r := baseline.NewRecorder(vocabulary(t), boot, "2026-01-01T00:00:00Z", 1000)
	for i, v := range values {
		r.Add(facts.Snapshot{Uptime: int64(1000 * i), Readings: []facts.Reading{reading(t, "boot.total", 10_000), reading(t, name, v)}})
	}
	return &baseline.Recording{Runs: []baseline.Run{r.Run()}}
}

func TestDraft(t *testing.T) {
	const operating, integration, failSafe = "operating", "integration", "fail_safe"
	for _, tt := range []struct {
		name   string
		fact   string
		values []any
		stage  string // "": no rule
		want   string // the rule, or words of the note
	}{
		{"upper end and margin", "cpu.usage", []any{200, 300, 250}, operating, "max=380"},
		{"least margin", "cpu.usage", []any{2, 4}, operating, "max=54"},
		{"a share cannot exceed the whole", "cpu.usage", []any{990}, "", "with a margin nothing would be outside"},
		{"a load can", "cpu.load", []any{990}, operating, "max=1300"},
		{"lower end", "memory.available", []any{100_000, 200_000}, operating, "min=75000"},
		{"no lower end below nothing", "memory.available", []any{8000}, "", "nothing would be outside"},
		{"both ends", "energy.voltage", []any{5000, 5100}, operating, "min=3700 max=6400"},
		{"both ends of a boot time", "boot.kernel", []any{2000}, integration, "min=1500 max=2500"},
		{"below zero", "thermal.max", []any{-20_000, -10_000}, operating, "max=-5000"},
		{"a counter of events", "memory.oom_kills", []any{0, 0}, operating, "max=0"},
		{"a counter that grows", "integrity.ima_count", []any{5, 6}, "", "it grows with time"},
		{"bits", "integrity.taint", []any{1024}, operating, "equal 1024"},
		{"bits that changed", "integrity.taint", []any{0, 1024}, "", "it changed between 0 and 1024"},
		{"a flag as it should be", "storage.root_readonly", []any{true}, operating, "equal true"},
		{"a flag as it should not be", "storage.root_readonly", []any{false}, "", "a sound device has true here"},
		{"a flag that changed", "storage.root_readonly", []any{true, false}, "", "a sound device has true here"},
		{"a flag that should be off", "integrity.tamper", []any{false}, operating, "equal false"},
		{"a flag that should be off and is on", "integrity.tamper", []any{true}, "", "a sound device has false here"},
		{"one text", "software.kernel", []any{"6.1", "6.1"}, integration, `equal "6.1"`},
		{"two texts", "software.kernel", []any{"6.2", "6.1"}, integration, `one_of "6.1" "6.2"`},
		{"bytes", "boot.pcr_digest", []any{[]byte{1, 2}}, integration, "equal 0102"},
		{"a set", "network.listening", []any{[]string{"b"}, []string{}, []string{"a"}}, operating, "subset_of {a, b}"},
		{"an empty set", "service.failed", []any{[]string{}}, operating, "subset_of {}"},
		{"unreadable once", "cpu.usage", []any{1, facts.Unreadable, 2}, "", "it could not be read in 1 rounds (because)"},
		{"stale once", "cpu.usage", []any{1, facts.Stale}, "", "it could not be read"},
		{"malformed once", "cpu.usage", []any{facts.Malformed, 1}, "", "it could not be read"},
		{"always absent", "cpu.usage", []any{facts.Absent}, "", "absent on this machine (because)"},
		{"sometimes absent", "cpu.load", []any{100, facts.Absent}, operating, "max=150 if_absent"},
		{"not yet", "cpu.usage", []any{facts.Pending}, "", "it never had a value"},
		{"not yet at first", "cpu.load", []any{facts.Pending, 100}, operating, "max=150"},
		{"beyond all measure", "cpu.load", []any{int64(1 << 60)}, "", "beyond what a machine shows"},
		{"the agent", "software.agent", []any{"0.1.0"}, "", "min_agent"},
	} {
		m, notes, err := baseline.Draft([]*baseline.Recording{record(t, "b", tt.fact, tt.values...)}, options)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		stage, rule := find(m, key(t, tt.fact), integration, operating)
		if stage != tt.stage || tt.stage != "" && rule != tt.want {
			t.Errorf("%s: %q %s, want %q %s", tt.name, stage, rule, tt.stage, tt.want)
		}
		i := slices.IndexFunc(notes, func(n baseline.Note) bool { return n.Fact == tt.fact && n.Stage == tt.stage })
		if i < 0 || tt.stage == "" && !strings.Contains(notes[i].Text, tt.want) {
			t.Errorf("%s: no note says %q in %+v", tt.name, tt.want, notes)
		}
	}
	m, _, err := baseline.Draft([]*baseline.Recording{record(t, "b", "thermal.max", 40_000, 50_000)}, options)
	if err != nil {
		t.Fatal(err)
	}
	if stage, rule := find(m, key(t, "thermal.max"), failSafe); stage == "" || rule != "max=95000" || m.FailSafe[0].Hold != 3000 ||
		!strings.HasPrefix(m.FailSafe[0].Why, "suggested, not measured: replace by the safety limit") {
		t.Errorf("extreme of 50 °C, operating up to 63: %s %+v", rule, m.FailSafe)
	}
}

// TestDraftMissesMembers wants a second rule of services: one that stops is no
// member that the first has never seen.
func TestDraftMissesMembers(t *testing.T) {
	superset := func(recs ...*baseline.Recording) string {
		m, _, err := baseline.Draft(recs, options)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range m.Operating {
			if r.Op == reference.SupersetOf {
				return fmt.Sprint(r.Values)
			}
		}
		return "none"
	}
	both := record(t, "b", "service.active", []string{"a", "b", "c"}, []string{"a", "b"}, []string{"a", "b", "c"})
	one := record(t, "b", "service.active", []string{"a", "c"}, facts.Absent)
	old := record(t, "b", "service.active", []string{"a"})
	old.Runs[0].Facts[1].Samples = nil
	for _, x := range []struct {
		recs []*baseline.Recording
		want string
	}{
		{[]*baseline.Recording{both}, "[{a, b}]"},
		{[]*baseline.Recording{both, one}, "[{a}]"},
		{[]*baseline.Recording{one, record(t, "b", "service.active", []string{"x"})}, "none"},
		{[]*baseline.Recording{both, old}, "none"},
		{[]*baseline.Recording{record(t, "b", "network.listening", []string{"a"})}, "none"},
	} {
		if got := superset(x.recs...); got != x.want {
			t.Errorf("%s, want %s", got, x.want)
		}
	}
}

// find returns a rule for fact in one of stages, in words.
func find(m *reference.Manifest, fact facts.Key, stages ...string) (string, string) {
	for _, stage := range stages {
		rules := map[string][]reference.Rule{"integration": m.Integration, "operating": m.Operating, "fail_safe": m.FailSafe}[stage]
		for _, r := range rules {
			if r.Fact != fact {
				continue
			}
			var words []string
			if r.Op != reference.Range {
				words = append(words, r.Op.String())
			}
			if r.Min != nil {
				words = append(words, fmt.Sprintf("min=%d", *r.Min))
			}
			if r.Max != nil {
				words = append(words, fmt.Sprintf("max=%d", *r.Max))
			}
			for _, v := range r.Values {
				words = append(words, v.String())
			}
			if r.Absent == reference.AbsentNotAppraised {
				words = append(words, "if_absent")
			}
			return stage, strings.Join(words, " ")
		}
	}
	return "", ""
}

// TestDraftSaysWhatItIsWorth holds the figures beside the numbers: runs of one
// boot count once for what is measured once a boot.
func TestDraftSaysWhatItIsWorth(t *testing.T) {
	for _, tt := range []struct {
		boots, runs        int
		integration, usage string
	}{
		{12, 1, "12 boots: 10000 ms; margin 25 %, at least 500; each end covers 95 % of boots with 46 % confidence; 59 boots give 95 %", "12 runs, 12 samples"},
		{1, 12, "1 boot: 10000 ms; margin 25 %, at least 500; each end covers 95 % of boots with 5 % confidence; 59 boots give 95 %", "12 runs, 12 samples"},
		{59, 1, "59 boots: 10000 ms; margin 25 %, at least 500; each end covers 95 % of boots with 95 % confidence", "59 runs, 59 samples"},
	} {
		var recs []*baseline.Recording
		for b := range tt.boots {
			for range tt.runs {
				recs = append(recs, record(t, fmt.Sprint(b), "cpu.usage", 100))
			}
		}
		m, _, err := baseline.Draft(recs, options)
		if err != nil {
			t.Fatal(err)
		}
		if m.Integration[0].Why != tt.integration {
			t.Errorf("%d boots of %d runs: %s", tt.boots, tt.runs, m.Integration[0].Why)
		}
		if !strings.HasPrefix(m.Operating[0].Why, tt.usage) {
			t.Errorf("%d boots of %d runs: %s", tt.boots, tt.runs, m.Operating[0].Why)
		}
	}
}

func TestDraftRefuses(t *testing.T) {
	good := record(t, "b", "cpu.usage", 1)
	for _, tt := range []struct {
		what  string
		recs  []*baseline.Recording
		opt   func(*baseline.Options)
		words string
	}{
		{"no recording", nil, func(*baseline.Options) {}, "hold no run"},
		{"no boot fact", []*baseline.Recording{{Runs: []baseline.Run{{Boot: "b", Rounds: 1}}}}, func(*baseline.Options) {}, "no fact of the boot was measured"},
		{"no model", []*baseline.Recording{good}, func(o *baseline.Options) { o.Model = "" }, "model: 0 bytes"},
		{"no validity", []*baseline.Recording{good}, func(o *baseline.Options) { o.Until = o.From }, "is empty"},
		{"a negative margin", []*baseline.Recording{good}, func(o *baseline.Options) { o.Margin = -1 }, "margin of -1"},
	} {
		o := options
		tt.opt(&o)
		if m, _, err := baseline.Draft(tt.recs, o); m != nil || err == nil || !strings.Contains(err.Error(), tt.words) {
			t.Errorf("%s: %v, %v", tt.what, m, err)
		}
	}
}

func TestRecording(t *testing.T) {
	var rec baseline.Recording
	for i, r := range []*baseline.Recording{
		record(t, "b1", "cpu.usage", 3, facts.Pending, 1, facts.Unreadable), record(t, "b2", "network.listening", []string{"<&>"}, []string{"ä"}),
		record(t, "b2", "boot.pcr_digest", []byte{0xff}, facts.Absent), record(t, "b3", "storage.verity", true, false),
	} {
		r.Runs[0].Period = int64(i + 1)
		rec.Runs = append(rec.Runs, r.Runs...)
	}
	data, err := rec.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := baseline.Decode(data)
	if err != nil {
		t.Fatalf("%v in\n%s", err, data)
	}
	if twice, err := again.Encode(); err != nil || !bytes.Equal(twice, data) {
		t.Errorf("encoded again as\n%s, was\n%s", twice, data)
	}
	want := `{"fact":"cpu.usage","unit":"permille","ok":2,"failed":1,"reason":"because","min":1,"max":3,"samples":[[0,3],[1,{"status":"pending","reason":"because"}],[2,1],[3,{"status":"unreadable","reason":"because"}]]}`
	if !strings.Contains(string(data), want) {
		t.Errorf("%s is not in\n%s", want, data)
	}
}

func TestDecodeIsStrict(t *testing.T) {
	rec := record(t, "b", "network.listening", []string{"a", "b"})
	data, err := rec.Encode()
	if err != nil {
		t.Fatal(err)
	}
	good := string(data)
	for _, tt := range []struct{ what, old, new, words string }{
		{"no header", `{"recording":1}`, `{}`, "line 1"},
		{"another version", `{"recording":1}`, `{"recording":2}`, "line 1"},
		{"an unknown field", `"rounds":1`, `"rounds":1,"x":2`, "unknown field"},
		{"a double key", `"rounds":1`, `"rounds":1,"rounds":1`, "not as a recorder writes it"},
		{"another case", `"rounds"`, `"Rounds"`, "not as a recorder writes it"},
		{"a space", `"rounds":1`, `"rounds": 1`, "not as a recorder writes it"},
		{"a float", `"min":10000`, `"min":1.5`, "line 2"},
		{"trailing garbage", "]}\n", "]} x\n", "not as a recorder writes it"},
		{"an unknown fact", `"boot.total"`, `"boot.totally"`, `no fact is called "boot.totally"`},
		{"facts out of order", `"network.listening"`, `"boot.kernel"`, "boot.kernel is out of order"},
		{"another unit", `"ms"`, `"s"`, `unit is "s", want "ms"`},
		{"more readings than rounds", `"ok":1,"min"`, `"ok":2,"min"`, "more readings than the 1 rounds"},
		{"no max", `,"max":10000`, ``, "min and max"},
		{"min above max", `"min":10000`, `"min":10001`, "above max"},
		{"values of another kind", `"max":10000`, `"max":10000,"texts":["a"]`, "another kind"},
		{"no rounds", `"rounds":1`, `"rounds":0`, "without rounds"},
		{"no boot", `"boot":"b"`, `"boot":""`, "without a boot id"},
		{"unsorted", `"texts":["a","b"]`, `"texts":["b","a"]`, "not in ascending order"},
		{"an unsorted sample", `[[0,["a","b"]]]`, `[[0,["b","a"]]]`, "not as a recorder writes it"},
		{"a sample of another kind", `[[0,["a","b"]]]`, `[[0,1]]`, "a sample is of kind int, want set"},
		{"a sample after the end", `[[0,["a","b"]]]`, `[[1,["a","b"]]]`, "sample of round 1, the run has times of 1"},
		{"samples out of order", `[[0,["a","b"]]]`, `[[0,["a","b"]],[0,[]]]`, "out of order"},
		{"a sample without a value", `[[0,["a","b"]]]`, `[[0]]`, "not a round and a value"},
		{"a sample with a status of its own", `[[0,["a","b"]]]`, `[[0,{"status":"fine","reason":"x"}]]`, `status "fine"`},
		{"a sample without a reason", `[[0,["a","b"]]]`, `[[0,{"status":"absent"}]]`, "without a reason"},
		{"times of other rounds", `"times_ms":[0]`, `"times_ms":[0,0]`, "do not go from 0"},
		{"times without a beginning", `"times_ms":[0]`, `"times_ms":[1]`, "do not go from 0"},
		{"samples without times", `"times_ms":[0],`, ``, "the run has times of 0"},
		{"no line end", "]}\n", "]}", "not as a recorder writes it"},
		{"an empty line", "]}\n", "]}\n\n", "line 3"},
	} {
		if strings.Count(good, tt.old) != 1 {
			t.Errorf("%s: %q stands there %d times", tt.what, tt.old, strings.Count(good, tt.old))
		}
		if _, err := baseline.Decode([]byte(strings.Replace(good, tt.old, tt.new, 1))); err == nil || !strings.Contains(err.Error(), tt.words) {
			t.Errorf("%s: %v, want %s", tt.what, err, tt.words)
		}
	}
	if _, err := baseline.Decode(make([]byte, baseline.MaxSize+1)); err == nil || !strings.Contains(err.Error(), "the limit is") {
		t.Errorf("oversize: %v", err)
	}
	if _, err := baseline.Decode(nil); err == nil {
		t.Error("nothing was read as a recording")
	}
}

// TestReplay wants a run back as it was, sample for sample.
func TestReplay(t *testing.T) {
	vocab := vocabulary(t)
	rounds := [][]facts.Reading{
		{reading(t, "boot.total", facts.Pending), reading(t, "cpu.usage", facts.Pending), reading(t, "storage.verity", true), reading(t, "network.listening", []string{"a"})},
		{reading(t, "boot.total", 9), reading(t, "cpu.usage", 5), reading(t, "storage.verity", true), reading(t, "network.listening", []string{"a", "b"})},
		{reading(t, "boot.total", 9), reading(t, "cpu.usage", 5), reading(t, "storage.verity", false), reading(t, "network.listening", []string{})},
		{reading(t, "boot.total", 9), reading(t, "cpu.usage", facts.Unreadable), reading(t, "storage.verity", facts.Absent), reading(t, "network.listening", []string{"a"})},
	}
	r := baseline.NewRecorder(vocab, "b", "2026-01-01T00:00:00Z", 1000)
	for i, x := range rounds {
		slices.SortFunc(x, func(a, b facts.Reading) int { return int(a.Key) - int(b.Key) })
		r.Add(facts.Snapshot{Uptime: int64(5000 + 1001*i), Readings: x})
	}
	data, err := (&baseline.Recording{Runs: []baseline.Run{r.Run()}}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	rec, err := baseline.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	replay, err := rec.Runs[0].Replay(vocab)
	if err != nil {
		t.Fatal(err)
	}
	i := 0
	for s := range replay {
		if s.Uptime != int64(1001*i) || len(s.Readings) != len(rounds[i]) {
			t.Fatalf("round %d: uptime %d, %d readings", i, s.Uptime, len(s.Readings))
		}
		for j, x := range s.Readings {
			if w := rounds[i][j]; x.Key != w.Key || x.Status != w.Status || x.Reason != w.Reason || x.Status == facts.OK && !x.Value.Equal(w.Value) {
				t.Errorf("round %d: %+v, was %+v", i, x, w)
			}
		}
		i++
	}
	if i != len(rounds) {
		t.Errorf("%d rounds, want %d", i, len(rounds))
	}

	// A recording of before has no samples, and says so instead of showing nothing.
	old, err := os.ReadFile("testdata/raspberrypi4.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	rec, err = baseline.Decode(old)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rec.Runs[0].Replay(vocab); !errors.Is(err, baseline.ErrNoSamples) {
		t.Errorf("replay of an old recording: %v", err)
	}
}

func TestWithout(t *testing.T) {
	a, b := record(t, "a", "cpu.usage", 1), record(t, "b", "cpu.usage", 1)
	a.Runs = append(a.Runs, record(t, "c", "cpu.usage", 1).Runs...)
	for i, want := range []string{"c b", "a b", "a c"} {
		got := ""
		for _, rec := range baseline.Without([]*baseline.Recording{a, b}, i) {
			for _, r := range rec.Runs {
				got += " " + r.Boot
			}
		}
		if got != " "+want {
			t.Errorf("without %d: %s, want %s", i, got, want)
		}
	}
	if len(a.Runs) != 2 || len(b.Runs) != 1 {
		t.Error("the recordings were changed")
	}
}

// Values beyond what a recording keeps do not vanish: the fact is marked, and
// gets no rule.
func TestTooManyValues(t *testing.T) {
	var texts, members []any
	for i := range 65 {
		texts = append(texts, fmt.Sprintf("%03d", i))
	}
	for i := range facts.MaxSet + 1 {
		members = append(members, []string{fmt.Sprintf("%04d", i)})
	}
	for name, values := range map[string][]any{"software.kernel": texts, "network.listening": members} {
		rec := record(t, "b", name, values...)
		data, err := rec.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if rec, err = baseline.Decode(data); err != nil {
			t.Fatal(err)
		}
		m, _, err := baseline.Draft([]*baseline.Recording{rec}, options)
		if err != nil {
			t.Fatal(err)
		}
		if stage, rule := find(m, key(t, name), "integration", "operating"); stage != "" {
			t.Errorf("%s: %s", name, rule)
		}
	}
}

func TestRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		vocab := vocabulary(t)
		rounds := 0
		collect := func(time.Time) facts.Snapshot {
			rounds++
			return facts.Snapshot{Uptime: int64(rounds) * 1000, Readings: []facts.Reading{reading(t, "cpu.load", rounds), reading(t, "cpu.pressure", facts.Absent)}}
		}
		var seen []string
		progress := func(p baseline.Progress) {
			seen = append(seen, fmt.Sprintf("%d/%d %v %d/%d", p.Run, p.Runs, p.Elapsed, p.OK, p.All))
		}
		start := time.Now()
		runs, err := baseline.Record(t.Context(), baseline.Plan{Runs: 2, For: 3 * time.Second, Period: time.Second, Boot: "b"}, vocab, collect, progress)
		if err != nil || len(runs) != 2 {
			t.Fatalf("%+v, %v", runs, err)
		}
		if runs[0].Rounds != 4 || runs[0].Length != 3000 || *runs[0].Facts[0].Max != 4 || *runs[1].Facts[0].Min != 5 || runs[1].Boot != "b" {
			t.Errorf("runs %+v", runs)
		}
		if took := time.Since(start); took != 6*time.Second {
			t.Errorf("took %v", took)
		}
		if seen[3] != "1/2 3s 1/2" || len(seen) != 8 {
			t.Errorf("progress %q", seen)
		}
	})
}

func TestRecordIsCutShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 4500*time.Millisecond)
		defer cancel()
		collect := func(time.Time) facts.Snapshot { return facts.Snapshot{} }
		runs, err := baseline.Record(ctx, baseline.Plan{Runs: 3, For: 3 * time.Second, Period: time.Second, Boot: "b"}, vocabulary(t), collect, func(baseline.Progress) {})
		if len(runs) != 1 || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "run 2 of 3") {
			t.Errorf("%d runs, %v", len(runs), err)
		}
		for _, p := range []baseline.Plan{{For: 1, Period: 1}, {Runs: 1, For: 1}, {Runs: 1, Period: 2, For: 1}} {
			if _, err := baseline.Record(ctx, p, vocabulary(t), collect, func(baseline.Progress) {}); err == nil {
				t.Errorf("plan %+v was taken", p)
			}
		}
	})
}

// FuzzDecode holds that whatever is read as a recording is encoded to the same
// bytes, and that its draft passes Check.
func FuzzDecode(f *testing.F) {
	paths, err := filepath.Glob("testdata/*.jsonl")
	if err != nil || len(paths) == 0 {
		f.Fatalf("no recordings in testdata: %v", err)
	}
	for _, p := range paths {
		data, err := os.ReadFile(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		rec, err := baseline.Decode(data)
		if err != nil {
			return
		}
		if again, err := rec.Encode(); err != nil || !bytes.Equal(again, data) {
			t.Fatalf("encoded again as %q, %v", again, err)
		}
		for i := range rec.Runs {
			if replay, err := rec.Runs[i].Replay(vocabulary(t)); err == nil {
				for s := range replay {
					if len(s.Readings) != len(rec.Runs[i].Facts) {
						t.Fatal("a round without all facts")
					}
				}
			}
		}
		m, _, err := baseline.Draft([]*baseline.Recording{rec}, options)
		if err != nil {
			return
		}
		for _, p := range m.Check() {
			if !p.Warning {
				t.Fatal(p)
			}
		}
	})
}
