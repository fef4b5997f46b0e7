// Package pdf writes documents of texts, lines and areas as PDF 1.7 (ISO 32000-1):
// the fonts within, the texts as texts, the same bytes for the same input.
//
// It is pure and reads nothing that comes from elsewhere. It lays nothing out, knows
// no pictures, and tags nothing for screen readers: for them there are pages.
package pdf

import (
	"bytes"
	"compress/zlib"
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"

	"golang.org/x/image/font"
	"golang.org/x/image/font/sfnt"
	"golang.org/x/image/math/fixed"
)

// All lengths are in micrometres, from the upper left corner of the page.

// A Document is written page by page.
type Document struct {
	lang, title   string
	regular, bold *used
	pages         []*Page
	err           error
}

// New returns an empty document; lang is an ISO 639-1 code.
func New(lang, title string) (*Document, error) {
	regular, bold, err := Faces()
	if err != nil {
		return nil, err
	}
	return &Document{lang: lang, title: title, regular: &used{regular, map[sfnt.GlyphIndex]rune{}}, bold: &used{bold, map[sfnt.GlyphIndex]rune{}}}, nil
}

// A Page is drawn on, what comes later above what was there before.
type Page struct {
	document      *Document
	width, height int
	content       strings.Builder
}

// Page appends a page.
func (d *Document) Page(width, height int) *Page {
	p := &Page{document: d, width: width, height: height}
	// The page is in points from its lower left corner; the matrix makes of it
	// micrometres from its upper left one.
	fmt.Fprintf(&p.content, "0.00283465 0 0 -0.00283465 0 %s cm\n", points(height))
	d.pages = append(d.pages, p)
	return p
}

// Pages returns the pages there are.
func (d *Document) Pages() []*Page { return slices.Clone(d.pages) }

// A Colour is red, green and blue.
type Colour [3]uint8

func (c Colour) String() string {
	var parts []string
	for _, x := range c {
		n := int(x) * 1000 / 255
		parts = append(parts, fmt.Sprintf("%d.%03d", n/1000, n%1000))
	}
	return strings.Join(parts, " ")
}

// Colour is what areas and texts are filled with from here on; black at first.
func (p *Page) Colour(c Colour) { fmt.Fprintf(&p.content, "%s rg\n", c) }

// Pen is with what lines are drawn from here on: its colour, its width, and the
// length of dashes, 0 for none.
func (p *Page) Pen(c Colour, width, dash int) {
	dashes := "[]"
	if dash > 0 {
		dashes = fmt.Sprintf("[%d]", dash)
	}
	fmt.Fprintf(&p.content, "%s RG %d w %s 0 d\n", c, width, dashes)
}

// Area fills a rectangle.
func (p *Page) Area(x, y, w, h int) { fmt.Fprintf(&p.content, "%d %d %d %d re f\n", x, y, w, h) }

// Polygon draws the outline of corners, and fills it before if it is to be filled.
func (p *Page) Polygon(fill bool, corners ...[2]int) {
	op := "m"
	for _, c := range corners {
		fmt.Fprintf(&p.content, "%d %d %s ", c[0], c[1], op)
		op = "l"
	}
	p.content.WriteString(map[bool]string{false: "s\n", true: "b\n"}[fill])
}

// Line draws a line.
func (p *Page) Line(x1, y1, x2, y2 int) {
	fmt.Fprintf(&p.content, "%d %d m %d %d l S\n", x1, y1, x2, y2)
}

// Text writes a line of text; x and y are the left end of its base line.
func (p *Page) Text(x, y, size int, bold bool, text string) {
	f, key := p.document.regular, "F1"
	if bold {
		f, key = p.document.bold, "F2"
	}
	glyphs, err := f.glyphs(text)
	if err != nil && p.document.err == nil {
		p.document.err = err
	}
	fmt.Fprintf(&p.content, "BT /%s %d Tf 1 0 0 -1 %d %d Tm <%s> Tj ET\n", key, size, x, y, glyphs)
}

// Bytes returns the document.
func (d *Document) Bytes() ([]byte, error) {
	if d.err != nil {
		return nil, fmt.Errorf("cannot write PDF: %w", d.err)
	}
	// Numbers of the objects: 1 catalogue, 2 pages, 3 about it, five for each font,
	// then two for each page.
	const firstFont, perFont = 4, 5
	page := firstFont + 2*perFont
	var kids []string
	for i := range d.pages {
		kids = append(kids, fmt.Sprintf("%d 0 R", page+2*i))
	}
	p := &file{}
	p.object("<< /Type /Catalog /Pages 2 0 R /Lang (%s) /ViewerPreferences << /DisplayDocTitle true >> >>", d.lang)
	p.object("<< /Type /Pages /Kids [%s] /Count %d >>", strings.Join(kids, " "), len(kids))
	p.object("<< /Title <%s> >>", utf16Hex(d.title))
	for _, f := range []*used{d.regular, d.bold} {
		if err := f.write(p); err != nil {
			return nil, fmt.Errorf("cannot write PDF: %w", err)
		}
	}
	for i, x := range d.pages {
		p.object("<< /Type /Page /Parent 2 0 R /MediaBox [0 0 %s %s] /Contents %d 0 R /Resources << /Font << /F1 %d 0 R /F2 %d 0 R >> >> >>",
			points(x.width), points(x.height), page+2*i+1, firstFont, firstFont+perFont)
		p.stream("", []byte(x.content.String()))
	}
	return p.finish()
}

// points writes micrometres in points.
func points(um int) string {
	n := int64(um) * 72 * 1000 / 25400
	return fmt.Sprintf("%d.%03d", n/1000, n%1000)
}

func utf16Hex(s string) string {
	var b strings.Builder
	b.WriteString("FEFF")
	for _, u := range utf16.Encode([]rune(s)) {
		fmt.Fprintf(&b, "%04X", u)
	}
	return b.String()
}

// A file collects objects, numbered from 1.
type file struct {
	out     bytes.Buffer
	offsets []int
	err     error
}

func (p *file) object(format string, args ...any) {
	if len(p.offsets) == 0 {
		p.out.WriteString("%PDF-1.7\n%\xe2\xe3\xcf\xd3\n")
	}
	p.offsets = append(p.offsets, p.out.Len())
	fmt.Fprintf(&p.out, "%d 0 obj\n", len(p.offsets))
	fmt.Fprintf(&p.out, format, args...)
	p.out.WriteString("\nendobj\n")
}

func (p *file) stream(entries string, data []byte) {
	var z bytes.Buffer
	w := zlib.NewWriter(&z)
	if _, err := w.Write(data); err != nil && p.err == nil {
		p.err = err
	}
	if err := w.Close(); err != nil && p.err == nil {
		p.err = err
	}
	p.object("<< %s/Filter /FlateDecode /Length %d >>\nstream\n%s\nendstream", entries, z.Len(), z.String())
}

func (p *file) finish() ([]byte, error) {
	at := p.out.Len()
	fmt.Fprintf(&p.out, "xref\n0 %d\n0000000000 65535 f \n", len(p.offsets)+1)
	for _, o := range p.offsets {
		fmt.Fprintf(&p.out, "%010d 00000 n \n", o)
	}
	fmt.Fprintf(&p.out, "trailer\n<< /Size %d /Root 1 0 R /Info 3 0 R >>\nstartxref\n%d\n%%%%EOF\n", len(p.offsets)+1, at)
	return p.out.Bytes(), p.err
}

// A used face is one and the glyphs that a document uses of it.
type used struct {
	*Face
	glyph map[sfnt.GlyphIndex]rune
}

// glyphs returns text as the numbers of its glyphs, in hexadecimal.
func (f *used) glyphs(text string) (string, error) {
	var b strings.Builder
	for _, r := range text {
		g, err := f.GlyphIndex(&f.buf, r)
		if err != nil {
			return "", err
		}
		f.glyph[g] = r
		fmt.Fprintf(&b, "%04X", g)
	}
	return b.String(), nil
}

// write appends the font: its dictionary, descendant, descriptor, file, and what
// its glyphs are in Unicode.
func (f *used) write(p *file) error {
	n := len(p.offsets) + 1
	var order []sfnt.GlyphIndex
	for g := range f.glyph {
		order = append(order, g)
	}
	slices.Sort(order)
	const em = 1000
	var widths, unicode strings.Builder
	for _, g := range order {
		a, err := f.GlyphAdvance(&f.buf, g, fixed.I(em), font.HintingNone)
		if err != nil {
			return err
		}
		fmt.Fprintf(&widths, "%d [%d] ", g, a.Round())
		fmt.Fprintf(&unicode, "<%04X> <%s>\n", g, utf16Hex(string(f.glyph[g]))[4:])
	}
	m, err := f.Metrics(&f.buf, fixed.I(em), font.HintingNone)
	if err != nil {
		return err
	}
	b, err := f.Bounds(&f.buf, fixed.I(em), font.HintingNone)
	if err != nil {
		return err
	}
	p.object("<< /Type /Font /Subtype /Type0 /BaseFont /%s /Encoding /Identity-H /DescendantFonts [%d 0 R] /ToUnicode %d 0 R >>", f.name, n+1, n+4)
	p.object("<< /Type /Font /Subtype /CIDFontType2 /BaseFont /%s /CIDSystemInfo << /Registry (Adobe) /Ordering (Identity) /Supplement 0 >> /FontDescriptor %d 0 R /CIDToGIDMap /Identity /W [%s] >>", f.name, n+2, widths.String())
	p.object("<< /Type /FontDescriptor /FontName /%s /Flags 32 /FontBBox [%d %d %d %d] /ItalicAngle 0 /Ascent %d /Descent %d /CapHeight %d /StemV 80 /FontFile2 %d 0 R >>",
		f.name, b.Min.X.Floor(), -b.Max.Y.Ceil(), b.Max.X.Ceil(), -b.Min.Y.Floor(), m.Ascent.Round(), -m.Descent.Round(), m.CapHeight.Round(), n+3)
	p.stream(fmt.Sprintf("/Length1 %d ", len(f.data)), f.data)
	lines := strings.SplitAfter(strings.TrimSuffix(unicode.String(), "\n"), "\n")
	var blocks strings.Builder
	for part := range slices.Chunk(lines, 100) { // as many as a block may have
		if part[0] != "" {
			fmt.Fprintf(&blocks, "%d beginbfchar\n%s\nendbfchar\n", len(part), strings.TrimSuffix(strings.Join(part, ""), "\n"))
		}
	}
	p.stream("", []byte("/CIDInit /ProcSet findresource begin\n12 dict begin\nbegincmap\n/CIDSystemInfo << /Registry (Adobe) /Ordering (UCS) /Supplement 0 >> def\n"+
		"/CMapName /Adobe-Identity-UCS def\n/CMapType 2 def\n1 begincodespacerange\n<0000> <FFFF>\nendcodespacerange\n"+blocks.String()+
		"endcmap\nCMapName currentdict /CMap defineresource pop\nend\nend\n"))
	return nil
}
