package label

// The field of QR codes: 256 elements, polynomial x^8+x^4+x^3+x^2+1, generator 2
// (ISO/IEC 18004, 7.5.2).
type field struct {
	exp [510]byte
	log [256]int
}

func newField() *field {
	f := new(field)
	for i, v := 0, 1; i < 255; i++ {
		f.exp[i], f.exp[i+255], f.log[v] = byte(v), byte(v), i
		if v <<= 1; v > 255 {
			v ^= 0x11d
		}
	}
	return f
}

func (f *field) mul(a, b byte) byte {
	if a == 0 || b == 0 {
		return 0
	}
	return f.exp[f.log[a]+f.log[b]]
}

func (f *field) div(a, b byte) byte {
	if a == 0 {
		return 0
	}
	return f.exp[f.log[a]+255-f.log[b]]
}

// eval returns the value of a polynomial, least power first, at the power n of
// the generator.
func (f *field) eval(p []byte, n int) byte {
	var sum byte
	x := f.exp[(n%255+255)%255]
	for i := len(p) - 1; i >= 0; i-- {
		sum = f.mul(sum, x) ^ p[i]
	}
	return sum
}

// correct restores a block whose last check bytes are of Reed and Solomon, given
// the places that are known to be wrong. It restores e others and s of those as
// long as 2e+s is not above check, and reports whether the block is whole then.
// The steps are those of Berlekamp and Massey, begun with the erasures, and of
// Forney (Blahut, "Algebraic Codes for Data Transmission", chapter 7).
func correct(word []byte, check int, erased []int) bool {
	f, n := newField(), len(word)
	syndromes := func() ([]byte, bool) {
		s, whole := make([]byte, check), true
		for i := range s {
			for _, v := range word {
				s[i] = f.mul(s[i], f.exp[i]) ^ v
			}
			whole = whole && s[i] == 0
		}
		return s, whole
	}
	s, whole := syndromes()
	if whole {
		return true
	}
	if len(erased) > check {
		return false
	}
	lambda := make([]byte, check+1)
	lambda[0] = 1
	for _, at := range erased {
		for i := check; i > 0; i-- {
			lambda[i] ^= f.mul(lambda[i-1], f.exp[(n-1-at)%255])
		}
	}
	b, length := append([]byte(nil), lambda...), len(erased)
	for r := len(erased) + 1; r <= check; r++ {
		var d byte
		for i := range r {
			d ^= f.mul(lambda[i], s[r-1-i])
		}
		shifted := append([]byte{0}, b[:check]...)
		if d == 0 {
			b = shifted
			continue
		}
		next := make([]byte, check+1)
		for i := range next {
			next[i] = lambda[i] ^ f.mul(d, shifted[i])
		}
		if 2*length <= r+len(erased)-1 {
			length = r + len(erased) - length
			for i := range b {
				b[i] = f.div(lambda[i], d)
			}
		} else {
			b = shifted
		}
		lambda = next
	}
	omega, slope := make([]byte, check), make([]byte, check)
	for i := range check {
		for j := range i + 1 {
			omega[i] ^= f.mul(s[i-j], lambda[j])
		}
		if i%2 == 0 {
			slope[i] = lambda[i+1]
		}
	}
	for at := range n {
		root := -(n - 1 - at)
		if f.eval(lambda, root) != 0 {
			continue
		}
		d := f.eval(slope, root)
		if d == 0 {
			return false
		}
		word[at] ^= f.mul(f.exp[(n-1-at)%255], f.div(f.eval(omega, root), d))
	}
	_, whole = syndromes()
	return whole
}
