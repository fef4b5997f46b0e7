package label

import (
	"bytes"
	"compress/flate"
	"compress/zlib"
	"crypto/ed25519"
	_ "embed" // the dictionary is part of the program
	"fmt"
	"io"
	"strings"

	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/qrcode"
	"github.com/makiuchi-d/gozxing/qrcode/decoder"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/reference"
)

// What begins the text of a QR code with a label. All of the text is of the
// alphanumeric mode of QR codes, which takes 5.5 bits a character. The first form
// was made without the dictionary and can still be read.
const (
	prefix      = "MF2:"
	firstPrefix = "MF1:"
)

// dictionary is what labels often say: words, and a made-up label in CBOR. A
// compressor that has seen it needs much less for a label, which is room for more
// error correction. It never changes: what was printed was compressed with it.
//
//go:embed dictionary.bin
var dictionary []byte

// IsText reports whether a text is that of a label's code, by how it begins.
func IsText(text string) bool {
	return strings.HasPrefix(text, prefix) || strings.HasPrefix(text, firstPrefix)
}

// MaxVersion is the largest version of a QR code that phones read well on 30 mm:
// 117 modules of 0.24 mm. maxText is what the largest code of all holds at level
// M (ISO/IEC 18004, version 40).
const (
	MaxVersion = 25
	maxText    = 3391
)

// Text returns a signed label as the text of a QR code: compressed (RFC 1951) with
// the dictionary as what came before it, in base45 (RFC 9285), behind a prefix.
func Text(signed []byte) (string, error) {
	var z bytes.Buffer
	w, err := flate.NewWriterDict(&z, flate.BestCompression, dictionary)
	if err == nil {
		_, err = w.Write(signed)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return "", fmt.Errorf("cannot compress label: %w", err)
	}
	return prefix + base45(z.Bytes()), nil
}

// FromText returns the signed label in the text of a QR code. It verifies
// nothing.
func FromText(text string) ([]byte, error) {
	data, err := fromText(text)
	if err != nil {
		return nil, fmt.Errorf("cannot read the text of a label: %w", err)
	}
	return data, nil
}

func fromText(text string) ([]byte, error) {
	if len(text) > 2*MaxSize {
		return nil, fmt.Errorf("%d characters, the limit is %d", len(text), 2*MaxSize)
	}
	if !IsText(text) {
		return nil, fmt.Errorf("it does not begin with %q or %q", prefix, firstPrefix)
	}
	z, err := fromBase45(text[len(prefix):])
	if err != nil {
		return nil, err
	}
	in := bytes.NewReader(z)
	r := flate.NewReaderDict(in, dictionary)
	if strings.HasPrefix(text, firstPrefix) {
		if r, err = zlib.NewReader(in); err != nil {
			return nil, err
		}
	}
	data, err := io.ReadAll(io.LimitReader(r, MaxSize+1)) // it may claim to be of any size
	switch {
	case err != nil:
		return nil, err
	case len(data) > MaxSize:
		return nil, fmt.Errorf("it holds more than %d bytes", MaxSize)
	case in.Len() != 0:
		return nil, fmt.Errorf("%d bytes behind its end", in.Len())
	}
	return data, nil
}

const digits45 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:"

// base45 encodes as RFC 9285 section 4 says: two bytes in three characters, least
// digit first, a last single byte in two.
func base45(data []byte) string {
	var b strings.Builder
	put := func(n, digits int) {
		for range digits {
			b.WriteByte(digits45[n%45])
			n /= 45
		}
	}
	for ; len(data) >= 2; data = data[2:] {
		put(int(data[0])<<8|int(data[1]), 3)
	}
	if len(data) == 1 {
		put(int(data[0]), 2)
	}
	return b.String()
}

// fromBase45 decodes and refuses groups above what their bytes hold.
func fromBase45(s string) ([]byte, error) {
	var data []byte
	for at := 0; at < len(s); at += 3 {
		group := s[at:min(at+3, len(s))]
		n := 0
		for i := len(group) - 1; i >= 0; i-- {
			d := strings.IndexByte(digits45, group[i])
			if d < 0 {
				return nil, fmt.Errorf("character %d, %q, is not of base45", at+i, group[i])
			}
			n = n*45 + d
		}
		switch {
		case len(group) == 3 && n < 1<<16:
			data = append(data, byte(n>>8), byte(n))
		case len(group) == 2 && n < 1<<8:
			data = append(data, byte(n))
		default:
			return nil, fmt.Errorf("characters from %d, %q, are no group of base45", at, group)
		}
	}
	return data, nil
}

// A Code is a QR code, a square of modules.
type Code struct {
	Version int    // 1 to 40
	Level   string // of error correction: of a label the highest of H, Q and M that MaxVersion holds
	Size    int    // modules on a side, without the quiet zone of 4
	dark    []bool // Size rows of Size modules
}

// Dark reports whether a module is dark.
func (c *Code) Dark(x, y int) bool { return c.dark[y*c.Size+x] }

// NewCode returns the QR code of a text. Room that a label leaves in the largest
// version that phones read well is given to error correction.
func NewCode(text string) (*Code, error) {
	if len(text) > maxText {
		return nil, fmt.Errorf("cannot make QR code: %d characters, the largest code holds %d", len(text), maxText)
	}
	c := new(Code)
	var m *gozxing.BitMatrix
	var err error
	for _, level := range []decoder.ErrorCorrectionLevel{decoder.ErrorCorrectionLevel_H, decoder.ErrorCorrectionLevel_Q, decoder.ErrorCorrectionLevel_M} {
		if level != decoder.ErrorCorrectionLevel_M && !IsText(text) {
			continue // a link is short and lies in no dirt that matters
		}
		c.Level = level.String()
		m, err = qrcode.NewQRCodeWriter().Encode(text, gozxing.BarcodeFormat_QR_CODE, 0, 0, map[gozxing.EncodeHintType]any{
			gozxing.EncodeHintType_ERROR_CORRECTION: level,
			gozxing.EncodeHintType_MARGIN:           0,
		})
		if err == nil && m.GetWidth() <= 17+4*MaxVersion {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make QR code: %w", err)
	}
	c.Size, c.Version = m.GetWidth(), (m.GetWidth()-17)/4
	for y := range c.Size {
		for x := range c.Size {
			c.dark = append(c.dark, m.Get(x, y))
		}
	}
	return c, nil
}

// budget warns of a label whose QR code would be too fine to be scanned. It is
// signed for that with a key that no list will ever have: all signatures are of
// the same size, and none is compressible.
func (l *Label) budget() []reference.Problem {
	fix := "shorten names and reasons, or leave out runtime facts and rows that few need"
	seed := [ed25519.SeedSize]byte{}
	version, err := l.version(ed25519.NewKeyFromSeed(seed[:]))
	if err != nil {
		return []reference.Problem{{Message: err.Error(), Fix: fix}}
	}
	if version > MaxVersion {
		return []reference.Problem{{Message: fmt.Sprintf("its QR code has version %d; phones read version %d and less on 30 mm", version, MaxVersion), Fix: fix, Warning: true}}
	}
	return nil
}

func (l *Label) version(key ed25519.PrivateKey) (int, error) {
	signer, err := cose.NewSigner(key)
	if err != nil {
		return 0, err
	}
	signed, err := Sign(l, signer)
	if err != nil {
		return 0, err
	}
	text, err := Text(signed)
	if err != nil {
		return 0, err
	}
	code, err := NewCode(text)
	if err != nil {
		return 0, err
	}
	return code.Version, nil
}
