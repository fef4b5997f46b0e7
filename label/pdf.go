package label

import (
	"fmt"

	"github.com/miotfacts/miotfacts/pdf"
)

// PDF returns the drawing as PDF in the size of its format, for print: one page, the
// fonts within, the texts as texts.
func (d *Drawing) PDF() ([]byte, error) {
	doc, err := pdf.New(d.lang.String(), d.title)
	if err != nil {
		return nil, fmt.Errorf("cannot draw PDF: %w", err)
	}
	p := doc.Page(d.width, d.height)
	for _, r := range d.bars {
		p.Area(r.x, r.y, r.w, r.h)
	}
	for _, code := range d.codes {
		code.runs(func(x, y, n int) {
			p.Area(code.x+x*d.module, code.y+y*d.module, n*d.module, d.module)
		})
	}
	for _, t := range d.texts {
		x := t.x
		if t.right {
			x -= d.measure(t.text, t.size, t.bold)
		}
		p.Text(x, t.y, t.size, t.bold, t.text)
	}
	return doc.Bytes()
}
