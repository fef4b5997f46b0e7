package main

import (
	"bytes"
	"fmt"
	"math"

	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/baseline"
)

// Sizes of a plot in pixels, and how many columns it has.
const (
	plotWidth, plotHeight   = 960, 320
	plotLeft, plotTop       = 90, 40
	plotColumns, plotBottom = plotWidth - plotLeft - 20, plotHeight - 40
)

// A column is what a fact was in one slice of time: the least and the greatest.
type column struct {
	low, high int64
	seen      bool
}

// plots draws, for each number that m has a range for, what recordings show of
// it, run after run, with the bands of the stages. It returns SVG by fact.
func plots(m *reference.Manifest, recs []*baseline.Recording) (map[string][]byte, error) {
	vocab, err := m.Vocabulary()
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	for _, stage := range simulatedStages {
		for _, r := range m.Rules(stage.stage) {
			d, ok := vocab.ByKey(r.Fact)
			if !ok || r.Op != reference.Range || out[d.Name] != nil {
				continue
			}
			columns, length, err := columnsOf(d, vocab, recs)
			if err != nil {
				return nil, err
			}
			out[d.Name] = plot(d, m, columns, length)
		}
	}
	return out, nil
}

// columnsOf folds what a fact was into columns; length is that of all runs in ms.
func columnsOf(d facts.Def, vocab *facts.Vocabulary, recs []*baseline.Recording) (columns [plotColumns]column, length int64, err error) {
	for _, rec := range recs {
		for i := range rec.Runs {
			length += rec.Runs[i].Length + rec.Runs[i].Period
		}
	}
	var began int64
	for _, rec := range recs {
		for i := range rec.Runs {
			rounds, err := rec.Runs[i].Replay(vocab)
			if err != nil {
				return columns, 0, err
			}
			for s := range rounds {
				for _, x := range s.Readings {
					if x.Key != d.Key || x.Status != facts.OK {
						continue
					}
					c, n := &columns[(began+s.Uptime)*plotColumns/max(length, 1)], x.Value.Int()
					if !c.seen {
						*c = column{n, n, true}
					}
					c.low, c.high = min(c.low, n), max(c.high, n)
				}
			}
			began += rec.Runs[i].Length + rec.Runs[i].Period
		}
	}
	return columns, length, nil
}

// plot is one picture: a band for each range, and a line from the least to the
// greatest number of each column.
func plot(d facts.Def, m *reference.Manifest, columns [plotColumns]column, length int64) []byte {
	low, high := int64(math.MaxInt64), int64(math.MinInt64)
	take := func(n int64) { low, high = min(low, n), max(high, n) }
	for _, c := range columns {
		if c.seen {
			take(c.low)
			take(c.high)
		}
	}
	type band struct {
		stage, colour string
		rule          reference.Rule
	}
	var bands []band
	for i, colour := range []string{"#9aa5b1", "#2f9e44", "#c92a2a"} {
		for _, r := range m.Rules(simulatedStages[i].stage) {
			if r.Fact != d.Key || r.Op != reference.Range {
				continue
			}
			bands = append(bands, band{simulatedStages[i].name, colour, r})
			for _, limit := range []*int64{r.Min, r.Max} {
				if limit != nil {
					take(*limit)
				}
			}
		}
	}
	// In floating point: the ends may be the ends of 64 bits.
	span := max(float64(high)-float64(low), 1)
	y := func(n int64) float64 {
		return plotBottom - (float64(n)-float64(low)+0.05*span)/(1.1*span)*(plotBottom-plotTop)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12" role="img" aria-label="%s over %d s">`+"\n", plotWidth, plotHeight, d.Name, length/1000)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="#fff"/><text x="%d" y="20" font-size="14">%s in %s, %d s of recordings</text>`+"\n", plotLeft, d.Name, d.Unit, length/1000)
	for i, x := range bands {
		top, bottom := float64(plotTop), float64(plotBottom)
		if x.rule.Max != nil {
			top = y(*x.rule.Max)
		}
		if x.rule.Min != nil {
			bottom = y(*x.rule.Min)
		}
		fmt.Fprintf(&b, `<rect class="%s" x="%d" y="%.1f" width="%d" height="%.1f" fill="%s" fill-opacity="0.10" stroke="%s"/>`+"\n", x.stage, plotLeft, top, plotColumns, max(bottom-top, 0), x.colour, x.colour)
		fmt.Fprintf(&b, `<text x="%d" y="%d" fill="%s">%s</text>`+"\n", plotLeft+120*i, plotHeight-12, x.colour, x.stage)
		for _, limit := range []*int64{x.rule.Min, x.rule.Max} {
			if limit != nil {
				fmt.Fprintf(&b, `<text x="%d" y="%.1f" text-anchor="end" fill="%s">%d</text>`+"\n", plotLeft-6, y(*limit)+4, x.colour, *limit)
			}
		}
	}
	b.WriteString(`<path fill="none" stroke="#1b4b91" stroke-width="1.5" d="`)
	for i, c := range columns {
		if c.seen {
			fmt.Fprintf(&b, "M%d %.1fV%.1f", plotLeft+i, y(c.low)+0.5, y(c.high)-0.5)
		}
	}
	b.WriteString(`"/>` + "\n</svg>\n")
	return b.Bytes()
}
