package pdf

import (
	"fmt"
	"strings"

	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/gobold"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/font/sfnt"
	"golang.org/x/image/math/fixed"
)

// A Face is one of the Go fonts, which everybody may hand on.
type Face struct {
	*opentype.Font
	data []byte
	name string
	buf  sfnt.Buffer
}

// Faces returns the regular and the bold face.
func Faces() (regular, bold *Face, err error) {
	regular, bold = &Face{data: goregular.TTF, name: "GoRegular"}, &Face{data: gobold.TTF, name: "Go-Bold"}
	for _, f := range []*Face{regular, bold} {
		if f.Font, err = opentype.Parse(f.data); err != nil {
			return nil, nil, fmt.Errorf("cannot read font %s: %w", f.name, err)
		}
	}
	return regular, bold, nil
}

// Measure returns the width of text in the unit of size.
func (f *Face) Measure(text string, size int) int {
	const ppem = 1024 // fine enough that the rounding of advances does not count
	var sum fixed.Int26_6
	for _, r := range text {
		if i, err := f.GlyphIndex(&f.buf, r); err == nil {
			if a, err := f.GlyphAdvance(&f.buf, i, fixed.I(ppem), font.HintingNone); err == nil {
				sum += a
			}
		}
	}
	return int(int64(sum) * int64(size) / (ppem * 64))
}

// Wrap breaks text into lines of a width at its spaces, and within words that are
// wider.
func (f *Face) Wrap(text string, size, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && f.Measure(line+" "+word, size) <= width {
			line += " " + word
			continue
		}
		if line != "" {
			lines = append(lines, line)
		}
		line = ""
		for _, r := range word {
			if line != "" && f.Measure(line+string(r), size) > width {
				lines = append(lines, line)
				line = ""
			}
			line += string(r)
		}
	}
	return append(lines, line)
}
