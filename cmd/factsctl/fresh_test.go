package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/reference/baseline"
)

// TestCompareFresh has golden runs of which a draft finds one, and fresh ones
// that are as they are, and others that are not.
func TestCompareFresh(t *testing.T) {
	calm := playedRun{"a", 8000, []int64{50, 50}, []int64{100, 100}}
	busy := playedRun{"a", 8000, []int64{50, 50}, []int64{100, 900}}
	hot := playedRun{"a", 8000, []int64{90, 90}, []int64{100, 100}}
	golden := []*baseline.Recording{play(t, calm, calm, calm, calm, calm, calm, calm, calm, calm, busy)}
	m := authored(t, simulated)
	for _, x := range []struct {
		name   string
		fresh  []playedRun
		drafts bool
		load   string // deviated, predicted, counted
		heat   string
	}{
		{"the same", []playedRun{calm, calm, busy, calm, calm}, false, "1 of 10, 0 to 3, 1 true", "0 of 10, 0 to 2, 0 true"},
		{"drafts", []playedRun{calm, calm, busy, calm, calm}, true, "1 of 10, 0 to 3, 1 true", "0 of 10, 0 to 2, 0 true"},
		{"another", []playedRun{hot, hot, hot, hot, hot}, false, "1 of 10, 0 to 3, 0 true", "0 of 10, 0 to 2, 5 false"},
	} {
		t.Run(x.name, func(t *testing.T) {
			s, err := simulate(m, golden)
			if err != nil {
				t.Fatal(err)
			}
			if x.drafts {
				if s.LeaveOut, err = leaveEachOut(m, golden, 250); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.compareFresh(m, []*baseline.Recording{play(t, x.fresh...)}); err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for _, r := range s.Fresh.Rules {
				got[r.Fact] = fmt.Sprint(r.Deviated, " of ", s.Fresh.Runs, ", ", r.From, " to ", r.To, ", ", r.FreshDeviated, " ", r.Inside)
			}
			if got["cpu.usage"] != x.load || len(got) != 2 { // app.flow is not recorded, boot.total is of boots
				t.Errorf("%v, want cpu.usage %s", got, x.load)
			}
			if x.name != "another" && got["thermal.max"] != x.heat {
				t.Errorf("thermal.max %s, want %s", got["thermal.max"], x.heat)
			}
			var b strings.Builder
			if err := s.print(&b); err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{"of 2 rules outside their interval", "operating: cpu.usage"} {
				if !strings.Contains(b.String(), want) {
					t.Errorf("%q is not in\n%s", want, b.String())
				}
			}
		})
	}
}

// TestCompareBoots has recordings of several boots: a run more of a boot is none.
func TestCompareBoots(t *testing.T) {
	boots := func(first, n int, total int64) (runs []playedRun) {
		for i := range n {
			runs = append(runs, playedRun{fmt.Sprint(first + i), total, []int64{50, 50}, []int64{100, 100}})
		}
		return runs
	}
	slow := func(first, n int) []playedRun { return boots(first, n, 90_000) }
	join := func(runs ...[]playedRun) []playedRun { return slices.Concat(runs...) }
	for _, x := range []struct {
		name          string
		golden, fresh []playedRun
		drafts        bool
		want          string // of boot.total
		says          string
	}{
		{"as before", boots(0, 20, 8000), boots(100, 10, 8000), false, "0 of 20, 0 to 3, 0 of 10 true", "1 rules deviated in no boot of either: predicted 0 to 3 of 10"},
		{"slow ones", boots(0, 20, 8000), join(boots(100, 5, 8000), slow(200, 5)), false, "0 of 20, 0 to 3, 5 of 10 false", "boot.total: in 0 of 20 boots, share 0.000 to 0.168; predicted 0 to 3 of 10 fresh boots, counted 5, OUTSIDE"},
		{"a slow one among the golden, by drafts", join(boots(0, 19, 8000), slow(50, 1)), boots(100, 10, 8000), true, "1 of 20, 0 to 4, 0 of 10 true", "inside"},
		{"runs of the same boots", boots(0, 20, 8000), slow(0, 20), false, "", "nothing is compared: the fresh runs are of the same boots"},
		{"some of the same boots", boots(0, 20, 8000), join(slow(0, 20), boots(100, 10, 8000)), false, "0 of 20, 0 to 3, 0 of 10 true", "20 recorded, 10 fresh"},
		{"one boot", join(boots(0, 1, 8000), boots(0, 1, 8000)), boots(100, 10, 8000), true, "", "nothing is predicted: one boot does not tell"},
		{"what it is worth", boots(0, 12, 8000), boots(100, 1, 8000), false, "0 of 12, 0 to 1, 0 of 1 true", "the extremes of 12 boots cover 95 % of boots with 46 % confidence"},
	} {
		t.Run(x.name, func(t *testing.T) {
			m := authored(t, simulated)
			golden := []*baseline.Recording{play(t, x.golden...)}
			s, err := simulate(m, golden)
			if err != nil {
				t.Fatal(err)
			}
			if x.drafts {
				if s.LeaveOut, err = leaveEachOut(m, golden, 250); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.compareFresh(m, []*baseline.Recording{play(t, x.fresh...)}); err != nil {
				t.Fatal(err)
			}
			got := ""
			for _, r := range s.Fresh.Boots.Rules {
				got += fmt.Sprint(r.Deviated, " of ", s.Fresh.Boots.Boots, ", ", r.From, " to ", r.To, ", ", r.FreshDeviated, " of ", s.Fresh.Boots.FreshBoots, " ", r.Inside)
			}
			var b strings.Builder
			if err := s.print(&b); err != nil {
				t.Fatal(err)
			}
			if got != x.want || !strings.Contains(b.String(), x.says) {
				t.Errorf("%q, want %q, and %q in\n%s", got, x.want, x.says, b.String())
			}
		})
	}
}

// TestShareBetween compares with tables of the interval of Clopper and Pearson.
func TestShareBetween(t *testing.T) {
	for _, x := range []struct {
		x, n      int
		low, high float64
	}{{0, 59, 0, 0.0606}, {1, 10, 0.0025, 0.4450}, {5, 10, 0.1871, 0.8129}, {10, 10, 0.6915, 1}} {
		if low, high := shareBetween(x.x, x.n); math.Abs(low-x.low) > 1e-4 || math.Abs(high-x.high) > 1e-4 {
			t.Errorf("%d of %d: %.4f to %.4f, want %.4f to %.4f", x.x, x.n, low, high, x.low, x.high)
		}
	}
}

// TestFreshBetween draws runs of a heavy-tailed number at random. Whatever its
// distribution, a limit drawn from some runs is crossed in others as often as
// was predicted, in at least 95 % of the trials.
func TestFreshBetween(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	const n, m, trials = 20, 30, 2000
	for _, margin := range []float64{1, 1.25, 3} {
		inside := 0
		for range trials {
			runs := make([]float64, n+m)
			for i := range runs {
				runs[i] = 1 / (1 - random.Float64()) // Pareto: no mean
			}
			most, second := 0.0, 0.0
			for _, v := range runs[:n] {
				if v > most {
					most, second = v, most
				} else {
					second = max(second, v)
				}
			}
			x := 0 // of the runs left out, those beyond the margin of the others
			if most > second*margin {
				x = 1
			}
			y := 0
			for _, v := range runs[n:] {
				if v > most*margin {
					y++
				}
			}
			if from, upto := freshBetween(x, n, m); from <= y && y <= upto {
				inside++
			}
		}
		if share := float64(inside) / trials; share < confidence {
			t.Errorf("margin %v: inside in %.3f of the trials", margin, share)
		}
	}
}
