package handover

import "strings"

// A challenge is drawn as one QR code of version 3 at level L, in the alphanumeric
// mode and with mask 0 (ISO/IEC 18004): small enough for a console of 24 lines.
const (
	codeSize  = 29 // modules on a side
	codeData  = 55 // bytes
	codeCheck = 15 // bytes that correct
	codeQuiet = 4  // light modules around it
)

const alphanumeric = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:"

// A Code is the QR code of a challenge.
type Code struct {
	dark, fixed [codeSize][codeSize]bool // by row and column; fixed: not of the data
}

// Code returns the challenge as a QR code: its lines without what is between them.
func (c *Challenge) Code() *Code {
	q := new(Code)
	q.patterns()
	q.fill(correct(encode(Plain(strings.Join(c.Lines(), "")))))
	q.format()
	return q
}

// Dark reports whether a module is dark; those around the code are light.
func (q *Code) Dark(x, y int) bool {
	return x >= 0 && y >= 0 && x < codeSize && y < codeSize && q.dark[y][x]
}

// Text draws the code for a terminal.
func (q *Code) Text() string { return HalfBlocks(codeSize, q.Dark) }

// HalfBlocks draws a QR code of so many modules with half blocks, two modules a
// character, black on white whatever the terminal's colours are. It asks dark for
// the quiet zone too.
func HalfBlocks(size int, dark func(x, y int) bool) string {
	var b strings.Builder
	for y := -codeQuiet; y < size+codeQuiet; y += 2 {
		b.WriteString("\x1b[30;107m")
		for x := -codeQuiet; x < size+codeQuiet; x++ {
			half := 0
			if dark(x, y) {
				half |= 1
			}
			if dark(x, y+1) {
				half |= 2
			}
			b.WriteString([...]string{" ", "▀", "▄", "█"}[half])
		}
		b.WriteString("\x1b[0m\n")
	}
	return b.String()
}

// encode returns text, of an even number of characters, as the bytes of the data.
func encode(text string) []byte {
	out := make([]byte, codeData)
	at := 0
	put := func(v, n int) {
		for i := n - 1; i >= 0 && at < 8*codeData; i-- {
			out[at/8] |= byte(v>>i&1) << (7 - at%8)
			at++
		}
	}
	put(2, 4)
	put(len(text), 9)
	for i := 0; i+1 < len(text); i += 2 {
		put(45*strings.IndexByte(alphanumeric, text[i])+strings.IndexByte(alphanumeric, text[i+1]), 11)
	}
	put(0, 4)
	for i, pad := (at+7)/8, 0xec; i < codeData; i, pad = i+1, pad^0xec^0x11 {
		out[i] = byte(pad)
	}
	return out
}

// times multiplies in the field of the code, GF(256) over x^8+x^4+x^3+x^2+1.
func times(a, b byte) (product byte) {
	for ; b > 0; b >>= 1 {
		if b&1 != 0 {
			product ^= a
		}
		high := a & 0x80
		if a <<= 1; high != 0 {
			a ^= 0x1d
		}
	}
	return product
}

// correct appends the check of Reed and Solomon.
func correct(data []byte) []byte {
	generator := []byte{1}
	for i, root := 0, byte(1); i < codeCheck; i, root = i+1, times(root, 2) {
		next := make([]byte, len(generator)+1)
		for k, g := range generator {
			next[k] ^= g
			next[k+1] ^= times(g, root)
		}
		generator = next
	}
	rest := append(append([]byte{}, data...), make([]byte, codeCheck)...)
	for i := range data {
		for k, factor := 0, rest[i]; k < len(generator); k++ {
			rest[i+k] ^= times(generator[k], factor)
		}
	}
	return append(append([]byte{}, data...), rest[len(data):]...)
}

func (q *Code) set(x, y int, dark bool) {
	if x >= 0 && y >= 0 && x < codeSize && y < codeSize {
		q.dark[y][x], q.fixed[y][x] = dark, true
	}
}

// square draws rings around a module: dark where the distance is none of light.
func (q *Code) square(x, y, reach int, light ...int) {
	for dy := -reach; dy <= reach; dy++ {
		for dx := -reach; dx <= reach; dx++ {
			ring, dark := max(dx, -dx, dy, -dy), true
			for _, l := range light {
				dark = dark && ring != l
			}
			q.set(x+dx, y+dy, dark)
		}
	}
}

func (q *Code) patterns() {
	for i := range codeSize {
		q.set(i, 6, i%2 == 0)
		q.set(6, i, i%2 == 0)
	}
	for i := range 9 { // kept for the format
		q.set(i, 8, false)
		q.set(8, i, false)
		if i < 8 {
			q.set(codeSize-1-i, 8, false)
			q.set(8, codeSize-1-i, false)
		}
	}
	q.square(3, 3, 4, 2, 4)
	q.square(codeSize-4, 3, 4, 2, 4)
	q.square(3, codeSize-4, 4, 2, 4)
	q.square(22, 22, 2, 1)
	q.set(6, 8, true)
	q.set(8, 6, true)
	q.set(8, codeSize-8, true)
}

// fill puts the bytes in their places, in columns of two from the right, and masks
// them.
func (q *Code) fill(data []byte) {
	at := 0
	for right := codeSize - 1; right > 0; right -= 2 {
		if right == 6 {
			right = 5
		}
		for i := range codeSize {
			y := i
			if (right+1)&2 == 0 {
				y = codeSize - 1 - i
			}
			for x := right; x > right-2; x-- {
				if q.fixed[y][x] {
					continue
				}
				bit := at < 8*len(data) && data[at/8]>>(7-at%8)&1 != 0
				q.dark[y][x] = bit != ((x+y)%2 == 0)
				at++
			}
		}
	}
}

// format says level and mask, with its own check, twice.
func (q *Code) format() {
	word := 1 << 13 // level L, mask 0
	for i, rest := 4, word; i >= 0; i-- {
		if rest>>(i+10)&1 != 0 {
			rest ^= 0x537 << i
		}
		if i == 0 {
			word |= rest
		}
	}
	word ^= 0x5412
	for i := range 15 {
		dark := word>>i&1 != 0
		switch { // around the first corner
		case i < 6:
			q.set(8, i, dark)
		case i < 8:
			q.set(8, i+1, dark)
		case i == 8:
			q.set(7, 8, dark)
		default:
			q.set(14-i, 8, dark)
		}
		if i < 8 { // and at the others
			q.set(codeSize-1-i, 8, dark)
		} else {
			q.set(8, codeSize-15+i, dark)
		}
	}
}
