package eventlog

import (
	"encoding/binary"
	"hash"
	"math/bits"
)

// sm3 is the hash of GB/T 32905-2016, which is ISO/IEC 10118-3's SM3. Firmware
// for the Chinese market logs it, and a log that has nothing else must replay.
// Go's library has none.
type sm3 struct {
	v   [8]uint32
	buf []byte // of an unfinished block
	n   uint64 // bytes written
}

func newSM3() hash.Hash {
	s := new(sm3)
	s.Reset()
	return s
}

func (s *sm3) Size() int      { return 32 }
func (s *sm3) BlockSize() int { return 64 }

func (s *sm3) Reset() {
	*s = sm3{v: [8]uint32{0x7380166f, 0x4914b2b9, 0x172442d7, 0xda8a0600, 0xa96f30bc, 0x163138aa, 0xe38dee4d, 0xb0fb0e4e}}
}

func (s *sm3) Write(p []byte) (int, error) {
	s.n += uint64(len(p))
	s.buf = append(s.buf, p...)
	for ; len(s.buf) >= 64; s.buf = s.buf[64:] {
		s.block(s.buf[:64])
	}
	return len(p), nil
}

func (s *sm3) Sum(b []byte) []byte {
	end := &sm3{v: s.v}
	tail := append([]byte(nil), s.buf...)
	tail = append(tail, 0x80)
	for len(tail)%64 != 56 {
		tail = append(tail, 0)
	}
	end.Write(binary.BigEndian.AppendUint64(tail, 8*s.n))
	for _, word := range end.v {
		b = binary.BigEndian.AppendUint32(b, word)
	}
	return b
}

// block is the compression function, section 5.3.
func (s *sm3) block(p []byte) {
	var w [68]uint32
	for j := range 16 {
		w[j] = binary.BigEndian.Uint32(p[4*j:])
	}
	for j := 16; j < 68; j++ {
		x := w[j-16] ^ w[j-9] ^ bits.RotateLeft32(w[j-3], 15)
		w[j] = x ^ bits.RotateLeft32(x, 15) ^ bits.RotateLeft32(x, 23) ^ bits.RotateLeft32(w[j-13], 7) ^ w[j-6]
	}
	a, b, c, d, e, f, g, h := s.v[0], s.v[1], s.v[2], s.v[3], s.v[4], s.v[5], s.v[6], s.v[7]
	for j := range 64 {
		t := uint32(0x79cc4519)
		ff, gg := a^b^c, e^f^g
		if j >= 16 {
			t = 0x7a879d8a
			ff, gg = a&b|a&c|b&c, e&f|^e&g
		}
		ss1 := bits.RotateLeft32(bits.RotateLeft32(a, 12)+e+bits.RotateLeft32(t, j), 7)
		tt1 := ff + d + (ss1 ^ bits.RotateLeft32(a, 12)) + (w[j] ^ w[j+4])
		tt2 := gg + h + ss1 + w[j]
		a, b, c, d = tt1, a, bits.RotateLeft32(b, 9), c
		e, f, g, h = tt2^bits.RotateLeft32(tt2, 9)^bits.RotateLeft32(tt2, 17), e, bits.RotateLeft32(f, 19), g
	}
	for i, x := range [8]uint32{a, b, c, d, e, f, g, h} {
		s.v[i] ^= x
	}
}
