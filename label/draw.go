package label

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"slices"
	"strings"

	"github.com/miotfacts/miotfacts/pdf"
	"golang.org/x/image/font"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/math/fixed"
)

// All lengths of a drawing are in micrometres and all positions integers, so that
// one label gives the same bytes everywhere.
const (
	mm    = 1000
	point = 353 // 1/72 inch
)

// A Format is a size of print.
type Format uint8

// The formats: the whole label on A6 (105 x 148 mm), and the code with the most
// important rows on 40 x 60 mm.
const (
	A6    Format = 1
	Small Format = 2
)

// ParseFormat returns the format called s.
func ParseFormat(s string) (Format, error) {
	switch s {
	case "a6":
		return A6, nil
	case "40x60":
		return Small, nil
	}
	return 0, fmt.Errorf(`unknown size %q: want "a6" or "40x60"`, s)
}

// A Drawing is a label drawn on a sheet of a format.
type Drawing struct {
	lang          Lang
	title         string
	width, height int
	texts         []textMark
	bars          []bar
	codes         []placed
	module        int // side, of all codes
	regular, bold *pdf.Face
}

type textMark struct {
	x, y  int  // an end of the base line
	right bool // the right end
	size  int  // of the font
	bold  bool
	text  string
}

type bar struct{ x, y, w, h int }

// A placed code stands with its upper left module there.
type placed struct {
	*Code
	x, y int
}

// DotsPerInch is the resolution of a PNG. A module of the code is a whole number
// of its dots, so that it stays sharp.
const DotsPerInch = 300

const inch = 25400

// Draw draws a signed label. It needs not be verified, only well-formed. It
// refuses a label whose text or code has not enough room.
func Draw(signed []byte, f Format, lang Lang) (*Drawing, error) {
	d, err := drawing(signed, f, lang)
	if err != nil {
		return nil, fmt.Errorf("cannot draw label: %w", err)
	}
	return d, nil
}

func drawing(signed []byte, f Format, lang Lang) (*Drawing, error) {
	l, _, err := Parse(signed)
	if err != nil {
		return nil, err
	}
	text, err := Text(signed)
	if err != nil {
		return nil, err
	}
	code, err := NewCode(text)
	if err != nil {
		return nil, err
	}
	d := &Drawing{lang: lang, codes: []placed{{Code: code}}}
	if d.regular, d.bold, err = pdf.Faces(); err != nil {
		return nil, err
	}
	s := l.Sheet(lang)
	d.title = s.Title + ": " + s.Device
	if f == Small {
		d.width, d.height = 40*mm, 60*mm
		return d, d.small(s, l)
	}
	if l.Details != "" {
		link, err := NewCode(l.Details)
		if err != nil {
			return nil, err
		}
		d.codes = append(d.codes, placed{Code: link})
	}
	d.width, d.height = 105*mm, 148*mm
	for size := 90; size >= 48; size -= 3 { // tenths of a point; the smallest is still read
		d.texts, d.bars = nil, nil
		if d.full(s, size*point/10) {
			return d, nil
		}
	}
	return nil, errors.New("it does not fit on A6; draw it as HTML, or shorten it")
}

// place puts the code into a square of a side, quiet zone included, with its
// right and bottom edge there. It returns the side it takes.
func (d *Drawing) place(right, bottom, side int) (int, error) {
	modules := d.codes[0].Size + 8
	dots := side * DotsPerInch / inch / modules
	if dots < 2 {
		return 0, fmt.Errorf("its QR code of version %d does not fit on %d mm; leave out rows", d.codes[0].Version, side/mm)
	}
	d.module = dots * inch / DotsPerInch
	d.codes[0].x, d.codes[0].y = right-(modules-4)*d.module, bottom-(modules-4)*d.module
	return modules * d.module, nil
}

func (d *Drawing) face(bold bool) *pdf.Face {
	if bold {
		return d.bold
	}
	return d.regular
}

// measure returns the width of text in a size.
func (d *Drawing) measure(text string, size int, bold bool) int {
	return d.face(bold).Measure(text, size)
}

// wrap breaks text into lines of a width.
func (d *Drawing) wrap(text string, size, width int, bold bool) []string {
	return d.face(bold).Wrap(text, size, width)
}

func (d *Drawing) text(x, y, size int, bold bool, text string) {
	if text != "" {
		d.texts = append(d.texts, textMark{x, y, false, size, bold, text})
	}
}

func (d *Drawing) textRight(right, y, size int, bold bool, text string) {
	if text != "" {
		d.texts = append(d.texts, textMark{right, y, true, size, bold, text})
	}
}

// fit returns the largest size up to size in which text is no wider than width.
func (d *Drawing) fit(text string, size, width int, bold bool) int {
	if w := d.measure(text, size, bold); w > width {
		return size * width / w
	}
	return size
}

// frame draws the border and returns its inner left, right, top and bottom.
func (d *Drawing) frame(margin, line, pad int) (int, int, int, int) {
	w, h := d.width-2*margin, d.height-2*margin
	d.bars = append(d.bars, bar{margin, margin, w, line}, bar{margin, margin + h - line, w, line},
		bar{margin, margin, line, h}, bar{margin + w - line, margin, line, h})
	in := margin + line + pad
	return in, d.width - in, in, d.height - in
}

// full lays out the whole label and reports whether it fits.
func (d *Drawing) full(s *Sheet, size int) bool {
	left, right, top, bottom := d.frame(2*mm, 500, 1500)
	width := right - left
	lead := size * 118 / 100
	y := top
	rule := func(h int) {
		d.bars = append(d.bars, bar{left, y, width, h})
		y += h
	}
	heading := d.fit(s.Title, 26*point, width, true)
	y += heading * 80 / 100
	d.text(left, y, heading, true, s.Title)
	y += heading*25/100 + 300
	rule(200)
	y += size * 130 / 100
	big := size * 120 / 100
	d.text(left, y, big, true, s.Device)
	d.textRight(right, y, big, false, s.Vendor)
	if s.Example != "" {
		y += lead * 110 / 100
		d.text(left, y, size, true, s.Example)
	}
	y += size * 40 / 100
	rule(1600)

	small := size * 88 / 100
	codeSide, err := d.place(right, bottom, 42*mm)
	if err != nil {
		return false
	}
	section := func(c Section, right int) {
		y += size
		d.text(left, y, size, true, c.Title)
		if c.Stages {
			y = d.stages(c, left, right, y, small)
			return
		}
		d.textRight(right, y, small, false, c.Note)
		for _, r := range c.Rows {
			y += size * 25 / 100
			d.bars = append(d.bars, bar{left, y, right - left, 70})
			y = d.row(r, left+1200, right, y, size, lead)
		}
	}
	last := len(s.Sections) - 1
	for i, c := range s.Sections[:last] {
		if i > 0 {
			y += size * 30 / 100
			rule(300)
		}
		section(c, right)
	}
	y += size * 45 / 100
	rule(1600)

	// Below: the date and the lifecycle on the left, the code on the right.
	if y > bottom-codeSide {
		return false
	}
	column := right - codeSide
	y += size * 130 / 100
	d.text(left, y, size*120/100, true, s.Inspect)
	date := d.fit(s.Date, 20*point, column-left, true)
	y += date * 95 / 100
	d.text(left, y, date, true, s.Date)
	y += lead + date*18/100
	d.text(left, y, d.fit(s.DateNote, size, column-left, false), false, s.DateNote)
	y += size * 40 / 100
	d.bars = append(d.bars, bar{left, y, column - left, 300})
	y += 300
	section(s.Sections[last], column)
	y += size * 40 / 100
	if len(d.codes) > 1 {
		// Another code with the link only, for a telephone that knows no labels.
		side := (d.codes[1].Size + 4) * d.module
		if y > bottom-side {
			return false
		}
		d.codes[1].x, d.codes[1].y = column-side+2*d.module, bottom-side+4*d.module
		column -= side + mm
	}
	for _, t := range append([]string{s.Scan, s.Validity}, s.Link...) {
		for _, line := range d.wrap(t, small, column-left, false) {
			y += small * 118 / 100
			d.text(left, y, small, false, line)
		}
	}
	return y <= bottom
}

// row draws two columns below y: the left takes what the right leaves.
func (d *Drawing) row(r []string, left, right, y, size, lead int) int {
	width := right - left
	gap := 2 * mm
	wRight := min(d.measure(r[1], size, false), width*55/100)
	wLeft := width - gap - wRight
	if n := d.measure(r[0], size, false); n < wLeft {
		wLeft = n
		wRight = width - gap - wLeft
	}
	a, b := d.wrap(r[0], size, wLeft, false), d.wrap(r[1], size, wRight, false)
	for i := range max(len(a), len(b)) {
		y += lead
		if i < len(a) {
			d.text(left, y, size, false, a[i])
		}
		if i < len(b) {
			d.textRight(right, y, size, false, b[i])
		}
	}
	return y
}

// stages draws the runtime facts: one fact a row, one stage a column, the heads
// of the columns on the line of the title.
func (d *Drawing) stages(c Section, left, right, y, size int) int {
	columns := []int{left + 1200, 0, 0, right}
	third := (right - left) * 24 / 100
	columns[2], columns[1] = right-third, right-2*third
	for i := 1; i < 4; i++ {
		d.textRight(columns[i], y, size, true, c.Head[i])
	}
	for _, r := range c.Rows {
		y += size * 28 / 100
		d.bars = append(d.bars, bar{left, y, right - left, 70})
		y += size * 118 / 100
		d.text(columns[0], y, d.fit(r[0], size, (right-left)*28/100, false), false, r[0])
		for i := 1; i < 4; i++ {
			d.textRight(columns[i], y, d.fit(r[i], size, third-800, false), false, r[i])
		}
	}
	return y
}

// small lays out the code with the rows that matter most.
func (d *Drawing) small(s *Sheet, l *Label) error {
	left, right, top, bottom := d.frame(500, 300, 500)
	width := right - left
	y := top
	side, err := d.place(0, bottom+900, 36*mm) // the frame may stand in the outermost of the quiet zone's white
	if err != nil {
		return err
	}
	d.codes[0].x = d.width/2 - d.codes[0].Size*d.module/2
	heading := d.fit(s.Title, 13*point, width, true)
	y += heading * 78 / 100
	d.text(left, y, heading, true, s.Title)
	y += 600
	d.bars = append(d.bars, bar{left, y, width, 500})
	y += 500
	rows := [][]string{
		{s.Device, s.Vendor},
		{s.Inspect, s.Date},
		{d.lang.say("Support until", "Support bis"), d.lang.day(l.Updates.SupportUntil)},
		{"Cloud", d.lang.places(l.Cloud, false)},
		{d.lang.say("Storage", "Speicher"), d.lang.places(l.Storage, false)},
		{d.lang.say("Answers for it", "Verantwortlich"), l.Responsible.Name},
	}
	if s.Example != "" {
		rows = append(rows, []string{s.Example, ""})
	}
	// The rows share what the code leaves, up to the size where they look lost.
	each := min((bottom+900-side-y)/len(rows), 9*point)
	size := each * 10 / 14
	if size < 42*point/10 {
		return fmt.Errorf("the QR code of version %d leaves no room for the rows on 40 x 60 mm", d.codes[0].Version)
	}
	for i, r := range rows {
		if i > 0 {
			d.bars = append(d.bars, bar{left, y, width, 60})
		}
		base := y + each*75/100
		a := d.fit(r[0], size, width, true)
		d.text(left, base, a, true, r[0])
		b := d.fit(r[1], size, max(width-mm-d.measure(r[0], a, true), mm), false)
		d.textRight(right, base, b, false, r[1])
		y += each
	}
	return nil
}

// SVG returns the drawing as SVG. Texts stay texts, for copying and for screen
// readers. It is laid out for the Go fonts; the others named are narrower.
func (d *Drawing) SVG() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%s" height="%s" viewBox="0 0 %d %d" role="img" lang="%s">`+"\n<title>%s</title>\n",
		millimetres(d.width), millimetres(d.height), d.width, d.height, d.lang, escape(d.title))
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", d.width, d.height)
	for _, r := range d.bars {
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%d" height="%d"/>`+"\n", r.x, r.y, r.w, r.h)
	}
	b.WriteString(`<g font-family="Go, Helvetica, Arial, sans-serif">` + "\n")
	for _, t := range d.texts {
		style := ""
		if t.bold {
			style += ` font-weight="bold"`
		}
		if t.right {
			style += ` text-anchor="end"`
		}
		fmt.Fprintf(&b, `<text x="%d" y="%d" font-size="%d"%s>%s</text>`+"\n", t.x, t.y, t.size, style, escape(t.text))
	}
	b.WriteString("</g>\n")
	for _, c := range d.codes {
		fmt.Fprintf(&b, "<path d=\"%s\" shape-rendering=\"crispEdges\"/>\n", c.path(c.x, c.y, d.module))
	}
	b.WriteString("</svg>\n")
	return []byte(b.String())
}

// path draws the dark modules.
func (c *Code) path(x0, y0, module int) string {
	var b strings.Builder
	c.runs(func(x, y, n int) {
		fmt.Fprintf(&b, "M%d %dh%dv%dh-%dz", x0+x*module, y0+y*module, n*module, module, n*module)
	})
	return b.String()
}

// runs calls each for every run of n dark modules that begins at x, y.
func (c *Code) runs(each func(x, y, n int)) {
	for y := range c.Size {
		for x := 0; x < c.Size; x++ {
			n := 0
			for x+n < c.Size && c.Dark(x+n, y) {
				n++
			}
			if n > 0 {
				each(x, y, n)
				x += n
			}
		}
	}
}

func millimetres(um int) string { return fmt.Sprintf("%d.%03dmm", um/mm, um%mm) }

func escape(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;").Replace(s)
}

// PNG returns the drawing with 300 dots an inch.
func (d *Drawing) PNG() ([]byte, error) {
	dots := func(um int) int { return (um*DotsPerInch + inch/2) / inch }
	img := image.NewRGBA(image.Rect(0, 0, dots(d.width), dots(d.height))) // the kind that text is drawn on fast
	fill := func(r image.Rectangle, c color.Color) {
		draw.Draw(img, r, image.NewUniform(c), image.Point{}, draw.Src)
	}
	black, white := color.Black, color.White
	fill(img.Bounds(), white)
	for _, b := range d.bars {
		x, y := dots(b.x), dots(b.y)
		fill(image.Rect(x, y, x+max(1, dots(b.w)), y+max(1, dots(b.h))), black)
	}
	module := dots(d.module)
	for _, c := range d.codes {
		x0, y0 := dots(c.x), dots(c.y)
		for y := range c.Size {
			for x := range c.Size {
				if c.Dark(x, y) {
					fill(image.Rect(x0+x*module, y0+y*module, x0+(x+1)*module, y0+(y+1)*module), black)
				}
			}
		}
	}
	for _, t := range d.texts {
		face, err := opentype.NewFace(d.face(t.bold).Font, &opentype.FaceOptions{Size: float64(t.size) / inch * 72, DPI: DotsPerInch, Hinting: font.HintingNone})
		if err != nil {
			return nil, fmt.Errorf("cannot draw text: %w", err)
		}
		x := t.x
		if t.right {
			x -= d.measure(t.text, t.size, t.bold)
		}
		w := font.Drawer{Dst: img, Src: image.NewUniform(black), Face: face, Dot: fixed.P(dots(x), dots(t.y))}
		w.DrawString(t.text)
	}
	gray := image.NewGray(img.Bounds())
	for i := range gray.Pix {
		gray.Pix[i] = img.Pix[4*i]
	}
	var out bytes.Buffer
	if err := png.Encode(&out, gray); err != nil {
		return nil, fmt.Errorf("cannot encode PNG: %w", err)
	}
	return withResolution(out.Bytes()), nil
}

// withResolution adds a pHYs chunk behind the header, so that the picture is
// printed in its size.
func withResolution(data []byte) []byte {
	const header = 8 + 25 // signature and IHDR with its length, type and checksum
	const perMetre = (DotsPerInch*10000 + 127) / 254
	chunk := []byte{0, 0, 0, 9, 'p', 'H', 'Y', 's'}
	chunk = binary.BigEndian.AppendUint32(chunk, perMetre)
	chunk = binary.BigEndian.AppendUint32(chunk, perMetre)
	chunk = append(chunk, 1)
	chunk = binary.BigEndian.AppendUint32(chunk, crc32.ChecksumIEEE(chunk[4:]))
	return slices.Concat(data[:header], chunk, data[header:])
}
