package label

import (
	"bytes"
	"compress/zlib"
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"

	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/gobold"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/font/sfnt"
	"golang.org/x/image/math/fixed"
)

// PDF returns the drawing as PDF 1.7 (ISO 32000-1) in the size of its format, for
// print: one page, the fonts within, the texts as texts.
func (d *Drawing) PDF() ([]byte, error) {
	p := &pdf{}
	regular, bold := &pdfFont{font: d.regular, data: goregular.TTF, name: "GoRegular"}, &pdfFont{font: d.bold, data: gobold.TTF, name: "Go-Bold"}
	var c strings.Builder
	// The page is in points from its lower left corner; the matrix makes of it
	// micrometres from its upper left one.
	fmt.Fprintf(&c, "0.00283465 0 0 -0.00283465 0 %s cm\n", points(d.height))
	for _, r := range d.bars {
		fmt.Fprintf(&c, "%d %d %d %d re\n", r.x, r.y, r.w, r.h)
	}
	for _, code := range d.codes {
		code.runs(func(x, y, n int) {
			fmt.Fprintf(&c, "%d %d %d %d re\n", code.x+x*d.module, code.y+y*d.module, n*d.module, d.module)
		})
	}
	c.WriteString("f\nBT\n")
	for _, t := range d.texts {
		f, key := regular, "F1"
		if t.bold {
			f, key = bold, "F2"
		}
		x := t.x
		if t.right {
			x -= d.measure(t.text, t.size, t.bold)
		}
		glyphs, err := f.glyphs(t.text)
		if err != nil {
			return nil, fmt.Errorf("cannot draw PDF: %w", err)
		}
		fmt.Fprintf(&c, "/%s %d Tf 1 0 0 -1 %d %d Tm <%s> Tj\n", key, t.size, x, t.y, glyphs)
	}
	c.WriteString("ET\n")

	// Numbers of the objects: 1 catalogue, 2 pages, 3 page, 4 content, 5 about it,
	// then five for each font.
	p.object("<< /Type /Catalog /Pages 2 0 R /Lang (%s) /ViewerPreferences << /DisplayDocTitle true >> >>", d.lang)
	p.object("<< /Type /Pages /Kids [3 0 R] /Count 1 >>")
	p.object("<< /Type /Page /Parent 2 0 R /MediaBox [0 0 %s %s] /Contents 4 0 R /Resources << /Font << /F1 6 0 R /F2 11 0 R >> >> >>", points(d.width), points(d.height))
	p.stream("", []byte(c.String()))
	p.object("<< /Title <%s> >>", utf16Hex(d.title))
	for _, f := range []*pdfFont{regular, bold} {
		if err := f.write(p); err != nil {
			return nil, fmt.Errorf("cannot draw PDF: %w", err)
		}
	}
	return p.finish()
}

// points writes micrometres in points.
func points(um int) string {
	n := int64(um) * 72 * 1000 / inch
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

// A pdf collects objects, numbered from 1.
type pdf struct {
	out     bytes.Buffer
	offsets []int
	err     error
}

func (p *pdf) object(format string, args ...any) {
	if len(p.offsets) == 0 {
		p.out.WriteString("%PDF-1.7\n%\xe2\xe3\xcf\xd3\n")
	}
	p.offsets = append(p.offsets, p.out.Len())
	fmt.Fprintf(&p.out, "%d 0 obj\n", len(p.offsets))
	fmt.Fprintf(&p.out, format, args...)
	p.out.WriteString("\nendobj\n")
}

func (p *pdf) stream(entries string, data []byte) {
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

func (p *pdf) finish() ([]byte, error) {
	at := p.out.Len()
	fmt.Fprintf(&p.out, "xref\n0 %d\n0000000000 65535 f \n", len(p.offsets)+1)
	for _, o := range p.offsets {
		fmt.Fprintf(&p.out, "%010d 00000 n \n", o)
	}
	fmt.Fprintf(&p.out, "trailer\n<< /Size %d /Root 1 0 R /Info 5 0 R >>\nstartxref\n%d\n%%%%EOF\n", len(p.offsets)+1, at)
	return p.out.Bytes(), p.err
}

// A pdfFont is a font and the glyphs that a drawing uses of it.
type pdfFont struct {
	font *opentype.Font
	data []byte
	name string
	used map[sfnt.GlyphIndex]rune
	buf  sfnt.Buffer
}

// glyphs returns text as the numbers of its glyphs, in hexadecimal.
func (f *pdfFont) glyphs(text string) (string, error) {
	if f.used == nil {
		f.used = map[sfnt.GlyphIndex]rune{}
	}
	var b strings.Builder
	for _, r := range text {
		g, err := f.font.GlyphIndex(&f.buf, r)
		if err != nil {
			return "", err
		}
		f.used[g] = r
		fmt.Fprintf(&b, "%04X", g)
	}
	return b.String(), nil
}

// write appends the font: its dictionary, descendant, descriptor, file, and what
// its glyphs are in Unicode.
func (f *pdfFont) write(p *pdf) error {
	n := len(p.offsets) + 1
	var order []sfnt.GlyphIndex
	for g := range f.used {
		order = append(order, g)
	}
	slices.Sort(order)
	const em = 1000
	var widths, unicode strings.Builder
	for _, g := range order {
		a, err := f.font.GlyphAdvance(&f.buf, g, fixed.I(em), font.HintingNone)
		if err != nil {
			return err
		}
		fmt.Fprintf(&widths, "%d [%d] ", g, a.Round())
		fmt.Fprintf(&unicode, "<%04X> <%s>\n", g, utf16Hex(string(f.used[g]))[4:])
	}
	m, err := f.font.Metrics(&f.buf, fixed.I(em), font.HintingNone)
	if err != nil {
		return err
	}
	b, err := f.font.Bounds(&f.buf, fixed.I(em), font.HintingNone)
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
