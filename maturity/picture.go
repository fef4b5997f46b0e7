package maturity

import (
	"bytes"
	"fmt"
	"html"
	"strings"
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

// polygon returns the corners at each column's level.
func (e *Evaluation) polygon(level func(Level) int) string {
	var corners []string
	for i, c := range columns {
		corners = append(corners, point(onAxis(i, ring*level(e.Columns[c.ID].Level))))
	}
	return strings.Join(corners, " ")
}

// SVG draws the levels of all columns as a radar picture. The same evaluation
// gives the same bytes.
func (e *Evaluation) SVG(l Lang) []byte {
	var b bytes.Buffer
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	title := Text{"Maturity", "Reifegrad"}.In(l) + ": " + e.Assessment.Subject + ", " + e.Assessment.Date.Format("2006-01-02")
	p(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 640" role="img" aria-labelledby="radar-title radar-text" lang="%s" font-family="sans-serif">`, l)
	p(`<title id="radar-title">%s</title>`, html.EscapeString(title))
	p(`<desc id="radar-text">%s</desc>`, html.EscapeString(e.inWords(l)))
	p(`<rect width="800" height="640" fill="#fff"/>`)
	for level := MaxLevel; level > 0; level-- {
		var corners []string
		for i := range directions {
			corners = append(corners, point(onAxis(i, ring*level)))
		}
		p(`<polygon points="%s" fill="none" stroke="#888" stroke-width="1"/>`, strings.Join(corners, " "))
	}
	for i := range directions {
		x, y := onAxis(i, ring*MaxLevel)
		p(`<line x1="%s" y1="%s" x2="%s" y2="%s" stroke="#888"/>`, tenth(centreX), tenth(centreY), tenth(x), tenth(y))
	}
	p(`<polygon points="%s" fill="#0b4f8a" fill-opacity="0.18" stroke="#0b4f8a" stroke-width="3"/>`, e.polygon(func(v Level) int { return v.Strict }))
	p(`<polygon points="%s" fill="none" stroke="#9c3a00" stroke-width="2.5" stroke-dasharray="8 5"/>`, e.polygon(func(v Level) int { return v.Literal }))
	for i, c := range columns {
		v := e.Columns[c.ID]
		x, y := onAxis(i, ring*v.Strict)
		p(`<rect x="%s" y="%s" width="9" height="9" fill="#0b4f8a"/>`, tenth(x-45), tenth(y-45))
		x, y = onAxis(i, ring*v.Literal)
		p(`<circle cx="%s" cy="%s" r="6" fill="#fff" stroke="#9c3a00" stroke-width="2.5"/>`, tenth(x), tenth(y))
	}
	for level := 1; level <= MaxLevel; level++ { // beside the upright axis, above the lines
		p(`<text x="%s" y="%s" font-size="13" fill="#333" stroke="#fff" stroke-width="3" paint-order="stroke">%d</text>`, tenth(centreX+100), tenth(centreY-ring*level+45), level)
	}
	for i, c := range columns {
		x, y := onAxis(i, ring*MaxLevel+260)
		anchor := "middle"
		switch d := directions[i][0]; {
		case d > 0:
			anchor = "start"
		case d < 0:
			anchor = "end"
		}
		if anchor != "middle" {
			x -= directions[i][0] * 120 / 10000
		}
		v := e.Columns[c.ID]
		name := fold(c.Name.In(l))
		y -= 40
		if directions[i][1] < 0 { // above the picture a second line would run into it
			y -= 180 * (len(name) - 1)
		}
		for _, text := range name {
			p(`<text x="%s" y="%s" font-size="15" font-weight="bold" text-anchor="%s" fill="#111">%s</text>`, tenth(x), tenth(y), anchor, html.EscapeString(text))
			y += 180
		}
		p(`<text x="%s" y="%s" font-size="15" text-anchor="%s" fill="#111">%s: %d (%d)</text>`, tenth(x), tenth(y), anchor, c.Dimension.Name(l), v.Literal, v.Strict)
	}
	p(`<line x1="30" y1="592" x2="80" y2="592" stroke="#9c3a00" stroke-width="2.5" stroke-dasharray="8 5"/><circle cx="55" cy="592" r="6" fill="#fff" stroke="#9c3a00" stroke-width="2.5"/>`)
	p(`<text x="92" y="597" font-size="15" fill="#111">%s: %s</text>`, literalName.In(l), html.EscapeString(LevelName(e.Overall.Literal, l)))
	p(`<line x1="30" y1="618" x2="80" y2="618" stroke="#0b4f8a" stroke-width="3"/><rect x="50.5" y="613.5" width="9" height="9" fill="#0b4f8a"/>`)
	p(`<text x="92" y="623" font-size="15" fill="#111">%s: %s</text>`, strictName.In(l), html.EscapeString(LevelName(e.Overall.Strict, l)))
	p(`</svg>`)
	return b.Bytes()
}

var (
	literalName = Text{"Level by the rule of the paper", "Stufe nach der Regel der Arbeit"}
	strictName  = Text{"Stricter reading (in brackets)", "Strengere Lesart (in Klammern)"}
)

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

// inWords is the picture for who does not see it.
func (e *Evaluation) inWords(l Lang) string {
	parts := []string{literalName.In(l) + " " + LevelName(e.Overall.Literal, l) + "; " + strictName.In(l) + " " + LevelName(e.Overall.Strict, l)}
	for _, c := range columns {
		v := e.Columns[c.ID]
		parts = append(parts, fmt.Sprintf("%s %d (%d)", c.Name.In(l), v.Literal, v.Strict))
	}
	return strings.Join(parts, "; ")
}
