package attest_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/facts"
)

// base returns the boot report of the boot of the example.
func base(t testing.TB) *attest.Report {
	t.Helper()
	r := example(t)
	r.Body.Kind, r.Body.Sequence = attest.KindBoot, 40
	r.Body.Facts[20] = attest.Fact{Value: facts.IntValue(300), Min: 300, Max: 300}
	return r
}

// routine returns a report that has some facts as base has them: a set, a gap and
// a number, beside one that moved and one that is another.
func routine(t testing.TB) *attest.Report {
	t.Helper()
	r := example(t)
	r.Body.Kind = attest.KindRoutine
	r.Body.Facts[20] = attest.Fact{Value: facts.IntValue(300), Min: 299, Max: 300}
	r.Body.Facts[1000] = attest.Fact{Value: facts.IntValue(7), Min: 7, Max: 7}
	return r
}

func TestLeaveOut(t *testing.T) {
	r := routine(t)
	r.LeaveOut(base(t))
	if got, want := r.Body.Same.Keys(), []facts.Key{6, 43, 70}; !slices.Equal(got, want) || r.Body.Same.Sequence != 40 {
		t.Fatalf("left out %v as in report %d, want %v", got, r.Body.Same.Sequence, want)
	}
	for _, k := range []facts.Key{6, 43, 70} {
		if x := r.Reading(k); x.Status != facts.Pending {
			t.Errorf("fact %d, which is elsewhere, is read as %s", k, x.Status)
		}
	}
	filled, err := r.FillIn(base(t))
	if err != nil {
		t.Fatal(err)
	}
	want := routine(t)
	for _, k := range []facts.Key{6, 20, 43, 70, 1000} {
		x, y := filled.Folded(k), want.Folded(k)
		if x.Status != y.Status || x.Reason != y.Reason || x.Min != y.Min || x.Max != y.Max || x.Status == facts.OK && !x.Value.Equal(y.Value) {
			t.Errorf("fact %d came back as %+v, want %+v", k, x, y)
		}
	}
	if filled.Body.Same != nil || r.Body.Same == nil {
		t.Error("the report itself was filled in, or the copy was not")
	}
}

func TestWhatStandsForItself(t *testing.T) {
	for _, kind := range []attest.Kind{attest.KindBoot, attest.KindChallenge, attest.KindAlarm} {
		r := routine(t)
		r.Body.Kind = kind
		if r.LeaveOut(base(t)); r.Body.Same != nil {
			t.Errorf("%s leaves out facts %v", kind, r.Body.Same.Keys())
		}
	}
	r := routine(t)
	r.BootSeed[0]++
	if r.LeaveOut(base(t)); r.Body.Same != nil {
		t.Errorf("facts %v are as in another boot", r.Body.Same.Keys())
	}
	r = routine(t)
	if filled, err := r.FillIn(nil); err != nil || filled != r {
		t.Errorf("a report that left out nothing: %v", err)
	}
}

func TestFillInNeedsTheRightReport(t *testing.T) {
	for name, edit := range map[string]func(b *attest.Report){
		"another one":           func(b *attest.Report) { b.Body.Sequence = 39 },
		"of another boot":       func(b *attest.Report) { b.BootSeed[3]++ },
		"not whole":             func(b *attest.Report) { b.Body.Kind = attest.KindStage },
		"without one of them":   func(b *attest.Report) { delete(b.Body.Facts, 70) },
		"with a gap for a fact": func(b *attest.Report) { delete(b.Body.Gaps, 43) },
	} {
		r, b := routine(t), base(t)
		r.LeaveOut(b)
		edit(b)
		if _, err := r.FillIn(b); err == nil {
			t.Errorf("%s: filled in", name)
		}
	}
	r := routine(t)
	r.LeaveOut(base(t))
	if _, err := r.FillIn(nil); err == nil {
		t.Error("none: filled in")
	}
}

// TestSameVector holds the bytes of a report with facts that are as before.
func TestSameVector(t *testing.T) {
	r := routine(t)
	r.LeaveOut(base(t))
	data := seal(t, r)
	u, err := attest.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	if s := u.Unverified().Body.Same; s == nil || s.Sequence != 40 || !slices.Equal(s.Keys(), []facts.Key{6, 43, 70}) {
		t.Errorf("it came as %+v", s)
	}
	diag, err := cbor.Diagnose(data)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "same.cbor", data)
	golden(t, "same.diag", []byte(diag+"\n"))
}

// A device that could name a fact twice could mean either.
func TestSameNeverHidesAValue(t *testing.T) {
	r := routine(t)
	r.Body.Same = &attest.Same{Sequence: 40, Facts: []byte{0, 0, 0x10}} // 20, which has a value
	if _, err := attest.Seal(r, fixedSigner(t)); err == nil || !strings.Contains(err.Error(), "fact 20 has a value") {
		t.Errorf("%v", err)
	}
}
