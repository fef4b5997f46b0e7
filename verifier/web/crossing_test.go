package web_test

import (
	"testing"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/verifier/web"
)

func TestCrossing(t *testing.T) {
	if web.NewCrossing(nil) != nil || web.NewCrossing(&attest.History{Fact: 5}) != nil {
		t.Error("something is shown of nothing")
	}
	c := web.NewCrossing(&attest.History{Fact: 1000, Samples: []attest.Sample{{At: 1000, Value: -20}, {At: 2000, Value: 120}, {At: 61_000 - 1, Value: 620}}})
	if low, high := c.Bounds(); low != -20 || high != 620 || c.Last() != 620 {
		t.Errorf("from %d to %d, then %d", low, high, c.Last())
	}
	if got := c.Points(); got != "0.0,20.0 1.0,15.6 60.0,0.0" {
		t.Errorf("points %q", got)
	}
	if got := c.Spark(); got != "▁▂█" {
		t.Errorf("spark %q", got)
	}
	flat := web.NewCrossing(&attest.History{Fact: 1000, Samples: []attest.Sample{{At: 1, Value: 1 << 62}}})
	if flat.Points() != "60.0,10.0" || flat.Spark() != "▅" {
		t.Errorf("of one value: %q, %q", flat.Points(), flat.Spark())
	}
}
