package main

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/baseline"
)

func TestPlots(t *testing.T) {
	num := func(n int64) *int64 { return &n }
	m := &reference.Manifest{
		Integration: []reference.Rule{{Fact: 10, Op: reference.Equal, Values: []facts.Value{facts.BoolValue(true)}}},
		Operating:   []reference.Rule{{Fact: 50, Op: reference.Range, Max: num(60000)}},
		FailSafe:    []reference.Rule{{Fact: 50, Op: reference.Range, Min: num(-9223372036854775808), Max: num(90000)}},
	}
	rec := play(t, playedRun{"a", 5000, []int64{40, 70, -1, 41}, []int64{100, 200, 300, 400}}, playedRun{"b", 5100, []int64{42, 43}, []int64{1, 2}})
	got, err := plots(m, []*baseline.Recording{rec})
	if err != nil {
		t.Fatal(err)
	}
	picture := string(got["thermal.max"])
	if len(got) != 1 || picture == "" {
		t.Fatalf("pictures of %d facts, want of thermal.max", len(got))
	}
	d := xml.NewDecoder(strings.NewReader(picture))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	// Both bands, with their limits, and a stroke for each of the five values.
	for _, want := range []string{`<rect class="operating"`, `<rect class="fail_safe"`, ">60000<", ">90000<", "thermal.max in m°C, 6 s of recordings"} {
		if !strings.Contains(picture, want) {
			t.Errorf("no %s in\n%s", want, picture)
		}
	}
	_, path, _ := strings.Cut(picture, ` d="`)
	if n := strings.Count(path, "M"); n != 5 {
		t.Errorf("%d strokes, want 5", n)
	}
}
