package label

import (
	"errors"
	"fmt"
	"image"

	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/common"
	multi "github.com/makiuchi-d/gozxing/multi/qrcode/detector"
	"github.com/makiuchi-d/gozxing/qrcode/decoder"
	"github.com/makiuchi-d/gozxing/qrcode/detector"
	"golang.org/x/image/draw"
)

// ErrNoCode says that no QR code was found in an image.
var ErrNoCode = errors.New("no QR code that can be read")

// maxEnlarged bounds the pixels of an image that Scan enlarges.
const maxEnlarged = 6 << 20

// Scan returns the text of the QR code in an image; of several, the one with a
// label. Where it finds none it looks again at twice the size: a module of a fine
// code may be 3 pixels wide, and the noise of a photograph is of the same size.
func Scan(img image.Image) (string, error) {
	text := scanOnce(img)
	b := img.Bounds()
	if !IsText(text) && b.Dx() > 0 && b.Dx() <= maxEnlarged/max(b.Dy(), 1) {
		large := image.NewRGBA(image.Rect(0, 0, 2*b.Dx(), 2*b.Dy()))
		draw.BiLinear.Scale(large, large.Bounds(), img, b, draw.Src, nil)
		if again := scanOnce(large); again != "" {
			text = again
		}
	}
	if text == "" {
		return "", fmt.Errorf("cannot scan image: %w", ErrNoCode)
	}
	return text, nil
}

// scanOnce returns the text of a label, or else of another code, or "".
func scanOnce(img image.Image) string {
	source := gozxing.NewLuminanceSourceFromImage(img)
	hints := map[gozxing.DecodeHintType]any{gozxing.DecodeHintType_TRY_HARDER: true}
	other := ""
	for _, b := range []gozxing.Binarizer{gozxing.NewHybridBinarizer(source), gozxing.NewGlobalHistgramBinarizer(source)} {
		bitmap, err := gozxing.NewBinaryBitmap(b)
		if err != nil {
			continue
		}
		matrix, err := bitmap.GetBlackMatrix()
		if err != nil {
			continue
		}
		var codes []*common.DetectorResult
		if one, err := detector.NewDetector(matrix).Detect(hints); err == nil {
			codes = append(codes, one)
		}
		if several, err := multi.NewMultiDetector(matrix).DetectMulti(hints); err == nil {
			codes = append(codes, several...)
		}
		for _, c := range codes {
			text, err := decodeModules(c.GetBits())
			if err == nil && IsText(text) {
				return text
			}
			if err == nil && other == "" {
				other = text
			}
		}
	}
	return other
}

// decodeModules returns the text of a code whose modules were read. What is
// covered is told from what is printed, and given to the error correction as
// erased: of a byte that is known to be wrong it needs half as much to restore it.
func decodeModules(m *gozxing.BitMatrix) (string, error) {
	covered := coveredModules(m)
	light, err := codewordsOf(m, covered, false)
	if err != nil {
		return "", err
	}
	dark, err := codewordsOf(m, covered, true)
	if err != nil {
		return "", err
	}
	var data []byte
	for i, b := range light.blocks {
		word := append([]byte(nil), b.GetCodewords()...)
		var erased []int
		for at, v := range dark.blocks[i].GetCodewords() {
			if v != word[at] {
				erased = append(erased, at)
			}
		}
		if !correct(word, len(word)-b.GetNumDataCodewords(), erased) {
			return "", fmt.Errorf("block %d of the code cannot be restored", i)
		}
		data = append(data, word[:b.GetNumDataCodewords()]...)
	}
	r, err := decoder.DecodedBitStreamParser_Decode(data, light.version, light.level, nil)
	if err != nil {
		return "", err
	}
	return r.GetText(), nil
}

// coveredModules returns the modules that lie in a square of 4 by 4 of one colour.
// A mask keeps printed modules mixed: such a square stands there by chance once in
// two of the largest codes, and costs four bytes of error correction then.
func coveredModules(m *gozxing.BitMatrix) []bool {
	const side = 4
	n := m.GetWidth()
	covered := make([]bool, n*n)
	for y := range n - side + 1 {
	next:
		for x := range n - side + 1 {
			for k := range side * side {
				if m.Get(x+k%side, y+k/side) != m.Get(x, y) {
					continue next
				}
			}
			for k := range side * side {
				covered[(y+k/side)*n+x+k%side] = true
			}
		}
	}
	return covered
}

type codewords struct {
	blocks  []*decoder.DataBlock
	version *decoder.Version
	level   decoder.ErrorCorrectionLevel
}

// codewordsOf reads the bytes of a code with the covered modules of one colour.
func codewordsOf(m *gozxing.BitMatrix, covered []bool, dark bool) (*codewords, error) {
	n := m.GetWidth()
	c, err := gozxing.NewSquareBitMatrix(n)
	if err != nil {
		return nil, err
	}
	for y := range n {
		for x := range n {
			hole := covered[y*n+x] && !(x < 9 && y < 9 || x < 11 && y >= n-11 || x >= n-11 && y < 11) // but not in its format
			if hole && dark || !hole && m.Get(x, y) {
				c.Set(x, y)
			}
		}
	}
	p, err := decoder.NewBitMatrixParser(c)
	if err != nil {
		return nil, err
	}
	words := new(codewords)
	if words.version, err = p.ReadVersion(); err != nil {
		return nil, err
	}
	format, err := p.ReadFormatInformation()
	if err != nil {
		return nil, err
	}
	words.level = format.GetErrorCorrectionLevel()
	all, err := p.ReadCodewords()
	if err != nil {
		return nil, err
	}
	words.blocks, err = decoder.DataBlock_GetDataBlocks(all, words.version, words.level)
	return words, err
}
