package maturity

import (
	"bytes"
	"fmt"
	"html"
	"strings"
	"time"
)

// The picture: one axis a column, in the order of the tables, clockwise from
// the top. Lengths are tenths of a pixel, so that no floating-point arithmetic
// makes it differ between machines.
const (
	centreX, centreY = 4000, 2950
	ring             = 400 // between two levels
)

// directions are the ten axes, 36 degrees apart, times 10,000.
var directions = [10][2]int{
	{0, -10000}, {5878, -8090}, {9511, -3090}, {9511, 3090}, {5878, 8090},
	{0, 10000}, {-5878, 8090}, {-9511, 3090}, {-9511, -3090}, {-5878, -8090},
}

func onAxis(axis, distance int) (x, y int) {
	d := directions[axis]
	return centreX + d[0]*distance/10000, centreY + d[1]*distance/10000
}

func tenth(n int) string { return fmt.Sprintf("%d.%d", n/10, n%10) }

func point(x, y int) string { return tenth(x) + "," + tenth(y) }

// A radar is two rings of levels over the ten columns, and their words.
type radar struct {
	lang          Lang
	title         string
	dashed, solid [len(directions)]int
	dashedLegend  string
	solidLegend   string
	beside        [len(directions)]string
}

// SVG draws the levels of all columns as a radar picture. The same evaluation
// gives the same bytes.
func (e *Evaluation) SVG(l Lang) []byte { return e.radar(l).draw() }

func (e *Evaluation) radar(l Lang) *radar {
	r := &radar{
		lang:         l,
		title:        e.title(l),
		dashedLegend: literalName.In(l) + ": " + LevelName(e.Overall.Literal, l),
		solidLegend:  strictName.In(l) + ": " + LevelName(e.Overall.Strict, l),
	}
	for i, c := range columns {
		v := e.Columns[c.ID]
		r.dashed[i], r.solid[i] = v.Literal, v.Strict
		r.beside[i] = fmt.Sprintf("%d (%d)", v.Literal, v.Strict)
	}
	return r
}

// SVGChange draws the levels, by the rule of the paper, of two evaluations.
func SVGChange(before, after *Evaluation, l Lang) []byte {
	legend := func(e *Evaluation) string { return e.title(l) + ": " + LevelName(e.Overall.Literal, l) }
	r := radar{lang: l, title: before.title(l) + " → " + after.title(l), dashedLegend: legend(before), solidLegend: legend(after)}
	for i, c := range columns {
		b, a := before.Columns[c.ID].Literal, after.Columns[c.ID].Literal
		r.dashed[i], r.solid[i] = b, a
		r.beside[i] = fmt.Sprintf("%d → %d", b, a)
	}
	return r.draw()
}

func (e *Evaluation) title(l Lang) string {
	return Text{"Maturity", "Reifegrad"}.In(l) + ", " + e.Assessment.Subject + ", " + e.Assessment.Date.Format(time.DateOnly)
}

var (
	literalName = Text{"Level by the rule of the paper", "Stufe nach der Regel der Arbeit"}
	strictName  = Text{"Stricter reading (in brackets)", "Strengere Lesart (in Klammern)"}
)

// polygon returns the corners at a level of each column.
func polygon(levels [len(directions)]int) string {
	var corners []string
	for i, level := range levels {
		corners = append(corners, point(onAxis(i, ring*level)))
	}
	return strings.Join(corners, " ")
}

// words are the picture for who does not see it.
func (r *radar) words() string {
	parts := []string{r.dashedLegend, r.solidLegend}
	for i, c := range columns {
		parts = append(parts, c.Name.In(r.lang)+" "+r.beside[i])
	}
	return strings.Join(parts, "; ")
}

// legend shortens a line of the legend to the width of the picture; the title
// has all of it.
func legend(s string) string {
	const most = 95
	if runes := []rune(s); len(runes) > most {
		return string(runes[:most/2]) + " … " + string(runes[len(runes)-most/2:])
	}
	return s
}

func (r *radar) draw() []byte {
	var b bytes.Buffer
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 640" role="img" aria-labelledby="radar-title radar-text" lang="%s" font-family="sans-serif">`, r.lang)
	p(`<title id="radar-title">%s</title>`, html.EscapeString(r.title))
	p(`<desc id="radar-text">%s</desc>`, html.EscapeString(r.words()))
	p(`<rect width="800" height="640" fill="#fff"/>`)
	for level := MaxLevel; level > 0; level-- {
		var even [len(directions)]int
		for i := range even {
			even[i] = level
		}
		p(`<polygon points="%s" fill="none" stroke="#888" stroke-width="1"/>`, polygon(even))
	}
	for i := range directions {
		x, y := onAxis(i, ring*MaxLevel)
		p(`<line x1="%s" y1="%s" x2="%s" y2="%s" stroke="#888"/>`, tenth(centreX), tenth(centreY), tenth(x), tenth(y))
	}
	p(`<polygon points="%s" fill="#0b4f8a" fill-opacity="0.18" stroke="#0b4f8a" stroke-width="3"/>`, polygon(r.solid))
	p(`<polygon points="%s" fill="none" stroke="#9c3a00" stroke-width="2.5" stroke-dasharray="8 5"/>`, polygon(r.dashed))
	for i := range columns {
		x, y := onAxis(i, ring*r.dashed[i])
		p(`<circle cx="%s" cy="%s" r="6" fill="#fff" stroke="#9c3a00" stroke-width="2.5"/>`, tenth(x), tenth(y))
		x, y = onAxis(i, ring*r.solid[i]) // within the circle where both are the same
		p(`<rect x="%s" y="%s" width="8" height="8" fill="#0b4f8a"/>`, tenth(x-40), tenth(y-40))
	}
	for level := 1; level <= MaxLevel; level++ { // beside the upright axis, above the lines
		p(`<text x="%s" y="%s" font-size="13" fill="#333" stroke="#fff" stroke-width="3" paint-order="stroke">%d</text>`, tenth(centreX+100), tenth(centreY-ring*level+45), level)
	}
	for i, c := range columns {
		r.label(p, i, c)
	}
	p(`<line x1="30" y1="592" x2="80" y2="592" stroke="#9c3a00" stroke-width="2.5" stroke-dasharray="8 5"/><circle cx="55" cy="592" r="6" fill="#fff" stroke="#9c3a00" stroke-width="2.5"/>`)
	p(`<text x="92" y="597" font-size="14" fill="#111">%s</text>`, html.EscapeString(legend(r.dashedLegend)))
	p(`<line x1="30" y1="618" x2="80" y2="618" stroke="#0b4f8a" stroke-width="3"/><rect x="51" y="614" width="8" height="8" fill="#0b4f8a"/>`)
	p(`<text x="92" y="623" font-size="14" fill="#111">%s</text>`, html.EscapeString(legend(r.solidLegend)))
	p(`</svg>`)
	return b.Bytes()
}

// label writes a column's name, and its dimension with the levels, beside the
// end of its axis.
func (r *radar) label(p func(string, ...any), axis int, c Column) {
	x, y, anchor, name := beside(axis, c, r.lang)
	for _, text := range name {
		p(`<text x="%s" y="%s" font-size="15" font-weight="bold" text-anchor="%s" fill="#111">%s</text>`, tenth(x), tenth(y), anchor, html.EscapeString(text))
		y += 180
	}
	p(`<text x="%s" y="%s" font-size="15" text-anchor="%s" fill="#111">%s: %s</text>`, tenth(x), tenth(y), anchor, c.Dimension.Name(r.lang), r.beside[axis])
}

// beside returns where the first line of a column's name stands beside the end of
// its axis, which end of the line that is, and its lines, 180 apart.
func beside(axis int, c Column, l Lang) (x, y int, anchor string, name []string) {
	x, y = onAxis(axis, ring*MaxLevel+260)
	anchor = "middle"
	switch d := directions[axis][0]; {
	case d > 0:
		anchor = "start"
	case d < 0:
		anchor = "end"
	}
	x -= directions[axis][0] * 120 / 10000
	y -= 40
	name = fold(c.Name.In(l))
	if directions[axis][1] < 0 { // above the picture a second line would run into it
		y -= 180 * (len(name) - 1)
	}
	return x, y, anchor, name
}

// fold breaks a long name at the blank nearest to its middle.
func fold(s string) []string {
	best := -1
	for i := range s {
		if s[i] == ' ' && (best < 0 || abs(i-len(s)/2) < abs(best-len(s)/2)) {
			best = i
		}
	}
	if len(s) < 18 || best < 0 {
		return []string{s}
	}
	return []string{s[:best], s[best+1:]}
}

func abs(n int) int { return max(n, -n) }
