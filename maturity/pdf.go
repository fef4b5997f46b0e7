package maturity

import (
	"fmt"
	"time"

	"github.com/miotfacts/miotfacts/pdf"
)

// Lengths of the report on A4, in micrometres.
const (
	sheetWidth, sheetHeight = 210_000, 297_000
	margin                  = 18_000
	printed                 = sheetWidth - 2*margin
	body                    = 3_175 // 9 points
	pad                     = 1_200 // in a cell
)

var (
	ink, blue, brown, grey, shade, tint = pdf.Colour{0x11, 0x11, 0x11}, pdf.Colour{0x0b, 0x4f, 0x8a}, pdf.Colour{0x9c, 0x3a, 0}, pdf.Colour{0x76, 0x76, 0x76}, pdf.Colour{0xe8, 0xee, 0xf4}, pdf.Colour{0xd3, 0xdf, 0xea}
)

// PDF returns the report for paper: what HTML says, on A4. The same evaluation gives
// the same bytes.
func (e *Evaluation) PDF(l Lang) ([]byte, error) {
	doc, err := pdf.New(string(l), e.title(l))
	if err != nil {
		return nil, err
	}
	regular, bold, err := pdf.Faces()
	if err != nil {
		return nil, err
	}
	f := &flow{doc: doc, regular: regular, bold: bold}
	f.turn()
	e.onPaper(f, l)
	pages := doc.Pages()
	for i, p := range pages {
		p.Colour(ink)
		text := fmt.Sprintf("%s   %d/%d", e.title(l), i+1, len(pages))
		for _, line := range regular.Wrap(text, 2_600, printed)[:1] { // a long name is cut here alone
			p.Text(margin, sheetHeight-10_000, 2_600, false, line)
		}
	}
	return doc.Bytes()
}

// onPaper writes what the page of HTML has, in its order.
func (e *Evaluation) onPaper(f *flow, l Lang) {
	f.heading(Text{"Maturity of secure medical IoT integration", "Reifegrad der sicheren Integration medizinischer IoT-Geräte"}.In(l), 5_600)
	f.text(e.Assessment.Subject+", "+e.Assessment.Date.Format(time.DateOnly), false)
	if e.Data != nil {
		f.text(Text{"Data", "Daten"}.In(l)+": "+e.Data.In(l), false)
	} else {
		f.text(Text{"Without data: every answer is a person's word.", "Ohne Daten: jede Antwort ist das Wort eines Menschen."}.In(l), false)
	}
	f.text(literalName.In(l)+": "+LevelName(e.Overall.Literal, l), true)
	f.text(Text{"Stricter reading", "Strengere Lesart"}.In(l)+": "+LevelName(e.Overall.Strict, l), true)
	f.text(ruleInWords.In(l), false)
	e.radar(l).onPaper(f)

	f.heading(Text{"Levels", "Stufen"}.In(l), 4_400)
	levels := table{widths: []int{24_000, 54_000, 15_000, 15_000, 15_000, 15_000, 15_000, 21_000}}
	levels.row(true, Text{"Dimension", "Dimension"}.In(l), Text{"Column", "Spalte"}.In(l), "1", "2", "3", "4", "5", Text{"Attained (stricter)", "Erreicht (strenger)"}.In(l))
	for _, r := range e.rows(l) {
		cells := []string{r.Dimension, r.Name}
		for level := 1; level <= MaxLevel; level++ {
			text := r.Cell(level, l)
			if r.Complete(level) {
				text += Text{", all", ", alle"}.In(l)
			}
			cells = append(cells, text)
		}
		levels.row(r.Kind == "sum", append(cells, fmt.Sprintf("%d (%d)", r.Literal, r.Strict))...)
	}
	f.table(levels)

	f.heading(Text{"Missing for the next level, cheapest first", "Was zur nächsten Stufe fehlt, Günstigstes zuerst"}.In(l), 4_400)
	missing := table{widths: []int{72_000, 12_000, 28_000, 28_000, 34_000}}
	missing.row(true, Text{"Criterion", "Kriterium"}.In(l), Text{"Level", "Stufe"}.In(l), Text{"Standing", "Stand"}.In(l), Text{"Effort", "Aufwand"}.In(l), Text{"Because", "Weil"}.In(l))
	for _, r := range e.Next() {
		c := r.Criterion
		missing.row(false, c.Text.In(l), fmt.Sprint(c.Level), r.Standing.Name(l), effort(c.Effort, l), c.Reason.In(l))
	}
	f.tableOr(missing, Text{"Nothing: every level is complete.", "Nichts: alle Stufen sind vollständig."}.In(l))

	f.heading(Text{"Where data and people disagree", "Wo Daten und Menschen sich widersprechen"}.In(l), 4_400)
	all := func(of func(Result) bool) table {
		t := table{widths: []int{12_000, 68_000, 34_000, 60_000}}
		t.row(true, Text{"Level", "Stufe"}.In(l), Text{"Criterion", "Kriterium"}.In(l), Text{"Standing", "Stand"}.In(l), Text{"Answer and data", "Antwort und Daten"}.In(l))
		for _, r := range e.Results {
			if !of(r) {
				continue
			}
			standing, says := r.Standing.Name(l), r.Answer.In(l)
			if note := r.Note(l); note != "" {
				standing += "; " + note
			}
			for _, x := range r.Readings {
				if says != "" {
					says += "; "
				}
				says += x.In(l)
			}
			t.row(false, fmt.Sprint(r.Criterion.Level), r.Criterion.Text.In(l)+" ["+r.Criterion.ID+"]", standing, says)
		}
		return t
	}
	f.tableOr(all(func(r Result) bool { return r.Dispute }), Text{"Nowhere.", "Nirgends."}.In(l))

	f.heading(Text{"All criteria", "Alle Kriterien"}.In(l), 4_400)
	for _, c := range columns {
		f.heading(fmt.Sprintf("%s: %s (%s %s)", c.Dimension.Name(l), c.Name.In(l), Text{"Table", "Tabelle"}.In(l), c.Table), 3_600)
		f.table(all(func(r Result) bool { return r.Criterion.Column == c.ID }))
	}
	f.text(sourceInWords.In(l), false)
}

// A flow fills pages from above.
type flow struct {
	doc           *pdf.Document
	page          *pdf.Page
	regular, bold *pdf.Face
	y             int
}

// turn begins a page.
func (f *flow) turn() {
	f.page, f.y = f.doc.Page(sheetWidth, sheetHeight), margin
	f.page.Pen(grey, 150, 0)
}

// room begins a page where what comes next has no room on this one.
func (f *flow) room(height int) {
	if f.y+height > sheetHeight-margin {
		f.turn()
	}
}

func (f *flow) heading(text string, size int) {
	f.room(size*3 + 20_000) // not alone at the end of a page
	f.y += size / 2
	for _, line := range f.bold.Wrap(text, size, printed) {
		f.y += size * 5 / 4
		f.page.Colour(ink)
		f.page.Text(margin, f.y, size, true, line)
	}
	f.y += size / 2
}

func (f *flow) text(text string, bold bool) {
	face := f.regular
	if bold {
		face = f.bold
	}
	for _, line := range face.Wrap(text, body, printed) {
		f.room(body * 4 / 3)
		f.y += body * 4 / 3
		f.page.Colour(ink)
		f.page.Text(margin, f.y, body, bold, line)
	}
	f.y += body / 3
}

// A table has its heads in the first row.
type table struct {
	widths []int
	rows   []tableRow
}

type tableRow struct {
	bold  bool
	cells []string
}

func (t *table) row(bold bool, cells ...string) { t.rows = append(t.rows, tableRow{bold, cells}) }

// tableOr writes a table, or a sentence where it has no rows.
func (f *flow) tableOr(t table, none string) {
	if len(t.rows) < 2 {
		f.text(none, false)
		return
	}
	f.table(t)
}

// table writes rows, with the heads again on each page. A row that is higher than a
// page goes on on the next one.
func (f *flow) table(t table) {
	const line = body * 5 / 4
	write := func(r tableRow, head bool) {
		face, cells, lines := f.regular, [][]string{}, 0
		if r.bold {
			face = f.bold
		}
		for i, text := range r.cells {
			wrapped := face.Wrap(text, body, t.widths[i]-2*pad)
			cells, lines = append(cells, wrapped), max(lines, len(wrapped))
		}
		for from := 0; from < lines; {
			left := (sheetHeight - margin - f.y - 2*pad) / line
			n := min(lines-from, left)
			height := n*line + 2*pad
			if head {
				f.page.Colour(shade)
				f.page.Area(margin, f.y, printed, height)
			}
			x := margin
			for i, c := range cells {
				f.page.Colour(ink)
				for k := from; k < min(from+n, len(c)); k++ {
					f.page.Text(x+pad, f.y+pad+(k-from)*line+body, body, r.bold, c[k])
				}
				f.page.Line(x, f.y, x, f.y+height)
				x += t.widths[i]
			}
			f.page.Line(x, f.y, x, f.y+height)
			f.page.Line(margin, f.y, x, f.y)
			f.page.Line(margin, f.y+height, x, f.y+height)
			f.y += height
			if from += n; from < lines {
				f.turn()
			}
		}
	}
	height := func(r tableRow) int {
		lines := 0
		for i, text := range r.cells {
			lines = max(lines, len(f.bold.Wrap(text, body, t.widths[i]-2*pad)))
		}
		return lines*line + 2*pad
	}
	for i, r := range t.rows {
		need := height(r)
		if i == 0 && len(t.rows) > 1 {
			need += height(t.rows[1])
		}
		if f.y+need > sheetHeight-margin && f.y > margin {
			f.turn()
			if i > 0 {
				write(t.rows[0], true)
			}
		}
		write(r, i == 0)
	}
	f.y += body
}

// onPaper draws the radar picture, 800 by 640 pixels, over the width of the page.
func (r *radar) onPaper(f *flow) {
	const tenthOf = 21 // micrometres for a tenth of a pixel: 168 mm
	f.room(6400 * tenthOf)
	top := f.y
	at := func(x, y int) [2]int { return [2]int{margin + x*tenthOf, top + y*tenthOf} }
	ringOf := func(levels [len(directions)]int) (corners [][2]int) {
		for i, level := range levels {
			corners = append(corners, at(onAxis(i, ring*level)))
		}
		return corners
	}
	p := f.page
	p.Pen(blue, 600, 0)
	p.Colour(tint)
	p.Polygon(true, ringOf(r.solid)...)
	p.Pen(grey, 150, 0)
	for level := 1; level <= MaxLevel; level++ {
		var even [len(directions)]int
		for i := range even {
			even[i] = level
		}
		p.Polygon(false, ringOf(even)...)
		c := at(centreX+100, centreY-ring*level+45)
		p.Colour(ink)
		p.Text(c[0], c[1], 2_600, false, fmt.Sprint(level))
	}
	for i := range directions {
		from, to := at(centreX, centreY), at(onAxis(i, ring*MaxLevel))
		p.Line(from[0], from[1], to[0], to[1])
	}
	p.Pen(brown, 500, 1_600)
	p.Polygon(false, ringOf(r.dashed)...)
	p.Colour(blue)
	for _, c := range ringOf(r.solid) {
		p.Area(c[0]-800, c[1]-800, 1_600, 1_600)
	}
	p.Colour(ink)
	for i, c := range columns {
		x, y, anchor, name := beside(i, c, r.lang)
		for k, text := range append(name, c.Dimension.Name(r.lang)+": "+r.beside[i]) {
			face, bold := f.bold, true
			if k == len(name) {
				face, bold = f.regular, false
			}
			where, width := at(x, y), face.Measure(text, body)
			switch anchor {
			case "middle":
				where[0] -= width / 2
			case "end":
				where[0] -= width
			}
			p.Text(where[0], where[1], body, bold, text)
			y += 180
		}
	}
	for _, x := range []struct {
		y    int
		text string
		pen  func()
	}{{5920, r.dashedLegend, func() { p.Pen(brown, 500, 1_600) }}, {6180, r.solidLegend, func() { p.Pen(blue, 600, 0) }}} {
		x.pen()
		from, to := at(300, x.y), at(800, x.y)
		p.Line(from[0], from[1], to[0], to[1])
		where := at(920, x.y+50)
		p.Text(where[0], where[1], body, false, f.regular.Wrap(x.text, body, margin+printed-where[0])[0])
	}
	p.Pen(grey, 150, 0)
	f.y = top + 6400*tenthOf
}
