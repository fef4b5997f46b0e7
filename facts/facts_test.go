package facts_test

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/miotfacts/miotfacts/facts"
)

func TestCatalogueIsAVocabulary(t *testing.T) {
	v, err := facts.NewVocabulary(nil)
	if err != nil {
		t.Fatal(err)
	}
	groups := map[string]int{}
	docs := facts.Documents()
	if len(docs) != len(facts.Catalogue()) {
		t.Errorf("%d documents of %d facts", len(docs), len(facts.Catalogue()))
	}
	for i, d := range facts.Catalogue() {
		if i < len(docs) && (docs[i].Name != d.Name || docs[i].Source == "" || !strings.HasSuffix(docs[i].Doc, ".")) {
			t.Errorf("%s: document %+v", d.Name, docs[i])
		}
	}
	for _, d := range v.Defs() {
		groups[d.Group()]++
		if d.Key == 0 || d.Key >= facts.AppKeyMin || d.Kind == 0 || d.Cadence == 0 {
			t.Errorf("%s: incomplete definition %+v", d.Name, d)
		}
		if (d.Kind == facts.Int) != (d.Unit != "") {
			t.Errorf("%s: kind %s with unit %q", d.Name, d.Kind, d.Unit)
		}
	}
	if n := len(v.Defs()); n < 60 {
		t.Errorf("the catalogue has %d facts, want at least 60", n)
	}
	for _, g := range strings.Fields("boot cpu memory energy thermal storage network service process integrity time software") {
		if groups[g] == 0 {
			t.Errorf("no fact in group %s", g)
		}
	}
}

func TestVocabularyRefuses(t *testing.T) {
	good := facts.Def{Name: "app.flow", Key: 1000, Kind: facts.Int, Min: 0, Max: 10}
	for _, tt := range []struct {
		name string
		edit func(*facts.Def)
		want string
	}{
		{"name outside app", func(d *facts.Def) { d.Name = "cpu.flow" }, "must be \"app.\""},
		{"upper case", func(d *facts.Def) { d.Name = "app.Flow" }, "lower-case"},
		{"key of the catalogue", func(d *facts.Def) { d.Key = 20 }, "outside 1000 to 1999"},
		{"text", func(d *facts.Def) { d.Kind = facts.Text }, "not int"},
		{"empty range", func(d *facts.Def) { d.Max = 0 }, "is empty"},
	} {
		d := good
		tt.edit(&d)
		if _, err := facts.NewVocabulary([]facts.Def{d}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want one with %q", tt.name, err, tt.want)
		}
	}
	if _, err := facts.NewVocabulary([]facts.Def{good, {Name: "app.other", Key: 1000, Kind: facts.Int, Max: 1}}); err == nil {
		t.Error("two facts with one key were accepted")
	}
	v, err := facts.NewVocabulary([]facts.Def{good})
	if err != nil {
		t.Fatal(err)
	}
	if d, ok := v.ByName("app.flow"); !ok || d.Key != 1000 {
		t.Errorf("app.flow not found: %+v", d)
	}
}

func TestZeroValueEqualsNothing(t *testing.T) {
	var z facts.Value
	if z.Equal(z) || z.Equal(facts.IntValue(0)) || facts.IntValue(0).Equal(facts.BoolValue(false)) {
		t.Error("a value that was never set, or of another kind, compared as equal")
	}
}

func TestValueRoundTrip(t *testing.T) {
	for _, v := range []facts.Value{
		facts.IntValue(0), facts.IntValue(-1), facts.IntValue(1 << 62), facts.BoolValue(true), facts.BoolValue(false),
		facts.TextValue(""), facts.TextValue("ä"), facts.BytesValue([]byte{1, 2}), facts.SetValue(nil), facts.SetValue([]string{"b", "a", "b"}),
	} {
		data, err := cbor.Marshal(v)
		if err != nil {
			t.Fatalf("%v: %v", v, err)
		}
		var w facts.Value
		if err := cbor.Unmarshal(data, &w); err != nil {
			t.Fatalf("%v: %v", v, err)
		}
		if !v.Equal(w) {
			t.Errorf("%v came back as %v", v, w)
		}
	}
	if _, err := cbor.Marshal(facts.Value{}); err == nil {
		t.Error("the zero value was encoded")
	}
}

func FuzzValue(f *testing.F) {
	for _, s := range []string{"\x00", "\x20", "\xf4", "\xf5", "\x61a", "\x41a", "\x80", "\x82\x61a\x61b", "\x82\x61b\x61a", "\xfb\x00\x00\x00\x00\x00\x00\x00\x00", "\xf6", "\x9f\xff"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var v facts.Value
		if cbor.Unmarshal(data, &v) != nil {
			return
		}
		again, err := cbor.Marshal(v)
		if err != nil {
			t.Fatalf("decoded %x to %v, which cannot be encoded: %v", data, v, err)
		}
		var w facts.Value
		if err := cbor.Unmarshal(again, &w); err != nil || !v.Equal(w) {
			t.Fatalf("%x became %v, then %v (%v)", data, v, w, err)
		}
		if len(again) > len(data) {
			t.Fatalf("%x was longer than the shortest form %x", again, data)
		}
	})
}

type source struct {
	name    string
	cadence facts.Cadence
	keys    []facts.Key
	read    func([]facts.Reading) []facts.Reading
	calls   int
}

func (s *source) Name() string           { return s.name }
func (s *source) Cadence() facts.Cadence { return s.cadence }
func (s *source) Keys() []facts.Key      { return s.keys }
func (s *source) Read(dst []facts.Reading) []facts.Reading {
	s.calls++
	return s.read(dst)
}

func constant(k facts.Key, n int64) func([]facts.Reading) []facts.Reading {
	return func(dst []facts.Reading) []facts.Reading {
		return append(dst, facts.Reading{Key: k, Value: facts.IntValue(n)})
	}
}

func TestStuckSourceCostsItsDeadlineOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		stuck := &source{name: "nfs", cadence: facts.Fast, keys: []facts.Key{2}, read: func(dst []facts.Reading) []facts.Reading {
			<-release
			return constant(2, 7)(dst)
		}}
		good := &source{name: "good", cadence: facts.Fast, keys: []facts.Key{3}, read: constant(3, 9)}
		c, err := facts.NewCollector([]facts.Source{stuck, good}, 100*time.Millisecond, func() int64 { return 5 })
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for round := range 3 {
			start := time.Now()
			s := c.Collect(start)
			if r := s.Reading(2); r.Status != facts.Stale || r.Reason == "" {
				t.Fatalf("round %d: stuck source gave %+v", round, r)
			}
			if r := s.Reading(3); r.Status != facts.OK || r.Value.Int() != 9 {
				t.Fatalf("round %d: the other source gave %+v", round, r)
			}
			want := time.Duration(0)
			if round == 0 {
				want = 100 * time.Millisecond
			}
			if took := time.Since(start); took != want {
				t.Errorf("round %d took %v, want %v", round, took, want)
			}
		}
		close(release)
		synctest.Wait()
		if r := c.Collect(time.Now()).Reading(2); r.Status != facts.OK || r.Value.Int() != 7 {
			t.Errorf("after the read came back: %+v", r)
		}
	})
}

// TestStuckInTheMiddle wants the sources before and after one that is stuck to
// be read in the same round, a slow one to be read as soon as it comes back, and
// a second one to cost its own deadline.
func TestStuckInTheMiddle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		wait := func(k facts.Key) func(dst []facts.Reading) []facts.Reading {
			return func(dst []facts.Reading) []facts.Reading {
				<-release
				return constant(k, 1)(dst)
			}
		}
		sleepy := func(dst []facts.Reading) []facts.Reading {
			time.Sleep(60 * time.Millisecond)
			return constant(4, 1)(dst)
		}
		sources := []facts.Source{
			&source{name: "a", cadence: facts.Fast, keys: []facts.Key{9}, read: constant(9, 1)},
			&source{name: "stuck fast", cadence: facts.Fast, keys: []facts.Key{2}, read: wait(2)},
			&source{name: "late but in time", cadence: facts.Fast, keys: []facts.Key{4}, read: sleepy},
			&source{name: "stuck slow", cadence: facts.Slow, keys: []facts.Key{3}, read: wait(3)},
			&source{name: "b", cadence: facts.Fast, keys: []facts.Key{1}, read: constant(1, 1)},
		}
		c, err := facts.NewCollector(sources, 100*time.Millisecond, func() int64 { return 5 })
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		want := func(s facts.Snapshot, statuses map[facts.Key]facts.Status) {
			t.Helper()
			for k, st := range statuses {
				if r := s.Reading(k); r.Status != st {
					t.Errorf("fact %d: %+v, want %s", k, r, st)
				}
			}
		}
		start := time.Now()
		want(c.Collect(start), map[facts.Key]facts.Status{9: facts.OK, 2: facts.Stale, 4: facts.OK, 3: facts.Stale, 1: facts.OK})
		if took := time.Since(start); took != 260*time.Millisecond {
			t.Errorf("the first round took %v, want 260 ms", took)
		}
		start = time.Now()
		want(c.Collect(start), map[facts.Key]facts.Status{9: facts.OK, 2: facts.Stale, 4: facts.OK, 3: facts.Stale, 1: facts.OK})
		if took := time.Since(start); took != 60*time.Millisecond {
			t.Errorf("the second round took %v, want 60 ms", took)
		}
		close(release)
		synctest.Wait()
		want(c.Collect(time.Now()), map[facts.Key]facts.Status{9: facts.OK, 2: facts.OK, 4: facts.OK, 3: facts.OK, 1: facts.OK})
	})
}

// What was read of the boot stays known while another fact of its source is still
// to come, also when the source does not answer in time.
func TestBootFactsStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		text := []byte("loader")
		src := &source{name: "boot", cadence: facts.Boot, keys: []facts.Key{1, 2}}
		src.read = func(dst []facts.Reading) []facts.Reading {
			if src.calls == 2 {
				copy(text, "......")
				<-release
			}
			late := facts.Reading{Key: 2, Status: facts.Pending, Reason: "to come"}
			if src.calls > 2 {
				late = facts.Reading{Key: 2, Value: facts.IntValue(5)}
			}
			return append(dst, facts.Reading{Key: 1, Value: facts.BytesValue(text)}, late)
		}
		c, err := facts.NewCollector([]facts.Source{src}, 100*time.Millisecond, func() int64 { return 5 })
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for round, late := range []facts.Status{facts.Pending, facts.Stale, facts.Stale} {
			s := c.Collect(time.Now())
			if r := s.Reading(1); r.Status != facts.OK || string(r.Value.Bytes()) != "loader" {
				t.Errorf("round %d: the fact that was read is %+v", round, r)
			}
			if r := s.Reading(2); r.Status != late {
				t.Errorf("round %d: the other is %+v, want %s", round, r, late)
			}
		}
		close(release)
		synctest.Wait()
		if r := c.Collect(time.Now()).Reading(2); r.Status != facts.OK || r.Value.Int() != 5 {
			t.Errorf("when it is there: %+v", r)
		}
	})
}

func TestRoundMakesNoGarbage(t *testing.T) {
	c, err := facts.NewCollector([]facts.Source{
		&source{name: "a", cadence: facts.Fast, keys: []facts.Key{9}, read: constant(9, 1)},
		&source{name: "mute", cadence: facts.Fast, keys: []facts.Key{3}, read: func(dst []facts.Reading) []facts.Reading { return dst }},
		&source{name: "slow", cadence: facts.Slow, keys: []facts.Key{2}, read: constant(2, 1)},
	}, time.Second, func() int64 { return 5 })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	now := time.Now()
	if n := testing.AllocsPerRun(100, func() { now = now.Add(time.Second); c.Collect(now) }); n != 0 {
		t.Errorf("%v allocations a round, want none", n)
	}
}

func TestCadences(t *testing.T) {
	pending := true
	boot := &source{name: "boot", cadence: facts.Boot, keys: []facts.Key{1}, read: func(dst []facts.Reading) []facts.Reading {
		if pending {
			return append(dst, facts.Reading{Key: 1, Status: facts.Pending, Reason: "boot has not finished"})
		}
		return constant(1, 1)(dst)
	}}
	slow := &source{name: "slow", cadence: facts.Slow, keys: []facts.Key{60}, read: constant(60, 1)}
	mute := &source{name: "mute", cadence: facts.Fast, keys: []facts.Key{20}, read: func(dst []facts.Reading) []facts.Reading { return dst }}
	c, err := facts.NewCollector([]facts.Source{boot, slow, mute}, time.Second, func() int64 { return 0 })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	now := time.Now()
	s := c.Collect(now)
	if r := s.Reading(1); r.Status != facts.Pending {
		t.Errorf("boot fact: %+v", r)
	}
	if r := s.Reading(20); r.Status != facts.Malformed {
		t.Errorf("a source that reports nothing: %+v", r)
	}
	if r := s.Reading(70); r.Status != facts.Absent {
		t.Errorf("a fact without a source: %+v", r)
	}
	pending = false
	for i := range 61 {
		c.Collect(now.Add(time.Duration(i) * time.Second))
	}
	if boot.calls != 2 || slow.calls != 2 || mute.calls != 62 {
		t.Errorf("reads: boot %d, slow %d, fast %d; want 2, 2, 62", boot.calls, slow.calls, mute.calls)
	}
}

func TestTwoSourcesOfOneFact(t *testing.T) {
	a := &source{name: "a", keys: []facts.Key{1}}
	b := &source{name: "b", keys: []facts.Key{1}}
	if _, err := facts.NewCollector([]facts.Source{a, b}, time.Second, nil); err == nil || !strings.Contains(err.Error(), "a reports it already") {
		t.Errorf("error %v", err)
	}
}

func TestFoldKeepsSpikes(t *testing.T) {
	var f facts.Fold
	for i, n := range []int64{5, 90, -3, 6} {
		f.Add(facts.Snapshot{Uptime: int64(i) * 1000, Readings: []facts.Reading{{Key: 20, Value: facts.IntValue(n)}}})
	}
	f.Add(facts.Snapshot{Uptime: 4000, Readings: []facts.Reading{{Key: 20, Status: facts.Unreadable, Reason: "i/o error"}}})
	x := f.Facts()[0]
	if x.Min != -3 || x.Max != 90 || x.Samples != 4 || x.Missed != 1 || x.Status != facts.Unreadable || f.Begin != 0 || f.End != 4000 {
		t.Errorf("fold %+v over %d to %d", x, f.Begin, f.End)
	}
	f.Reset()
	if len(f.Facts()) != 0 {
		t.Error("Reset left facts")
	}
}

func TestValueEncodingIsShortest(t *testing.T) {
	got, err := cbor.Marshal(facts.SetValue([]string{"b", "a"}))
	if err != nil || !bytes.Equal(got, []byte{0x82, 0x61, 'a', 0x61, 'b'}) {
		t.Errorf("%x, %v", got, err)
	}
}

// TestCollectOnly reads what an event is about and leaves the rest as it was.
func TestCollectOnly(t *testing.T) {
	n := map[facts.Key]int64{}
	counting := func(k facts.Key) func(dst []facts.Reading) []facts.Reading {
		return func(dst []facts.Reading) []facts.Reading {
			n[k]++
			return constant(k, n[k])(dst)
		}
	}
	c, err := facts.NewCollector([]facts.Source{
		&source{name: "fast", cadence: facts.Fast, keys: []facts.Key{20}, read: counting(20)},
		&source{name: "event", cadence: facts.Event, keys: []facts.Key{74}, read: counting(74)},
		&source{name: "slow", cadence: facts.Slow, keys: []facts.Key{60}, read: counting(60)},
	}, time.Second, func() int64 { return 0 })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	now := time.Now()
	want := func(s facts.Snapshot, fast, event, slow int64) {
		t.Helper()
		for k, w := range map[facts.Key]int64{20: fast, 74: event, 60: slow} {
			if got := s.Reading(k).Value.Int(); got != w {
				t.Errorf("fact %d was read %d times, want %d", k, got, w)
			}
		}
	}
	want(c.Collect(now), 1, 1, 1)
	now = now.Add(30 * time.Second)
	want(c.CollectOnly(now, []facts.Key{74, 1999}), 1, 2, 1)
	want(c.CollectOnly(now, nil), 1, 2, 1)
	want(c.CollectOnly(now, []facts.Key{20}), 2, 2, 1)
	now = now.Add(30 * time.Second)
	want(c.Collect(now), 3, 2, 2) // the event's minute began anew with it
	now = now.Add(30 * time.Second)
	want(c.Collect(now), 4, 3, 2) // no event: it is looked at all the same
	want(c.CollectAgain(now), 5, 4, 3)
}
