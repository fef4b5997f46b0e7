package label_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/label"
	"github.com/miotfacts/miotfacts/reference"
	"golang.org/x/image/draw"
	"golang.org/x/image/math/f64"
)

// picture returns the example drawn as PNG, and the signed label in it.
func picture(t testing.TB, f label.Format, lang label.Lang) ([]byte, image.Image, []byte) {
	t.Helper()
	signed := sign(t, example(t), fixed(t, "label"))
	d, err := label.Draw(signed, f, lang)
	if err != nil {
		t.Fatal(err)
	}
	data, err := d.PNG()
	if err != nil {
		t.Fatal(err)
	}
	img, err := png.Decode(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return data, img, signed
}

func scan(t testing.TB, img image.Image) []byte {
	t.Helper()
	text, err := label.Scan(img)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := label.FromText(text)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// photograph turns img by degrees and saves it as a JPEG of low quality.
func photograph(t testing.TB, img image.Image, degrees float64, quality int) image.Image {
	t.Helper()
	b := img.Bounds()
	side := int(math.Hypot(float64(b.Dx()), float64(b.Dy()))) + 40
	table := image.NewRGBA(image.Rect(0, 0, side, side))
	draw.Draw(table, table.Bounds(), image.NewUniform(color.Gray{Y: 235}), image.Point{}, draw.Src)
	sin, cos := math.Sincos(degrees * math.Pi / 180)
	x, y, c := float64(b.Min.X+b.Max.X)/2, float64(b.Min.Y+b.Max.Y)/2, float64(side)/2
	draw.BiLinear.Transform(table, f64.Aff3{cos, -sin, c - cos*x + sin*y, sin, cos, c - sin*x - cos*y}, img, b, draw.Over, nil)
	var out bytes.Buffer
	if err := jpeg.Encode(&out, table, &jpeg.Options{Quality: quality}); err != nil {
		t.Fatal(err)
	}
	photo, err := jpeg.Decode(&out)
	if err != nil {
		t.Fatal(err)
	}
	return photo
}

func TestScan(t *testing.T) {
	_, large, signed := picture(t, label.A6, label.English)
	_, small, _ := picture(t, label.Small, label.English)
	b := large.Bounds()
	corner := large.(*image.Gray).SubImage(image.Rect(b.Max.X*55/100, b.Max.Y*68/100, b.Max.X, b.Max.Y)) // what someone photographs
	for name, img := range map[string]image.Image{
		"A6":                             large,
		"40x60":                          small,
		"JPEG quality 40":                photograph(t, corner, 0, 40),
		"turned by 15, JPEG quality 40":  photograph(t, corner, 15, 40),
		"turned by 190, JPEG quality 40": photograph(t, corner, 190, 40),
	} {
		text, err := label.Scan(img)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, err := label.FromText(text); err != nil || !bytes.Equal(got, signed) {
			t.Errorf("%s: another label: %v", name, err)
		}
	}
	if _, err := label.Scan(image.NewGray(image.Rect(0, 0, 300, 300))); !errors.Is(err, label.ErrNoCode) {
		t.Errorf("an empty picture: %v", err)
	}
}

// TestCovered holds that a code is read with 15 % of its modules covered by a square,
// wherever it lies between the corners and of whatever tone it is, in a photograph
// too, by zbarimg as well; and finds out how far the middle may be covered, and how
// many single modules may be wrong.
func TestCovered(t *testing.T) {
	signed := sign(t, example(t), fixed(t, "label"))
	for name, img := range coveredCodes(t, 15) {
		text, err := label.Scan(img)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if got, err := label.FromText(text); err != nil || !bytes.Equal(got, signed) {
			t.Errorf("%s: another label: %v", name, err)
		}
		if got, err := label.FromText(zbar(t, img)); err != nil || !bytes.Equal(got, signed) {
			t.Errorf("%s: zbarimg reads another label, or none: %v", name, err)
		}
	}
	code := exampleCode(t)
	ours := func(img image.Image) bool { _, err := label.Scan(img); return err == nil }
	theirs := func(img image.Image) bool { return zbar(t, img) != "" }
	most := func(reads func(image.Image) bool, draw func(int) image.Image) int {
		n := 0
		for reads(draw(n + 1)) {
			n++
		}
		return n
	}
	middle := func(percent int) image.Image { return codeImage(code, cover{percent: percent, tone: color.White}) }
	single := func(percent int) image.Image { return spotted(code, percent) }
	square, scattered := most(ours, middle), most(ours, single)
	t.Logf("version %d, level %s: read with a square in its middle over %d %%, by zbarimg (Debian package zbar-tools) %d %%", code.Version, code.Level, square, most(theirs, middle))
	t.Logf("with single modules painted white anywhere, %d %%, by zbarimg %d %%", scattered, most(theirs, single))
	if square < 30 {
		t.Errorf("read with up to %d %% covered, want 30 %% or more", square)
	}
	if scattered >= 15 { // docs/label.md says that no level of error correction could restore it
		t.Errorf("read with %d %% of single modules painted: say so in docs/label.md", scattered)
	}
	// Everywhere between the corners: zbarimg misses some, for reasons of its own.
	read, all := 0, 0
	for y := -36; y <= 36; y += 12 {
		for x := -36; x <= 36; x += 12 {
			if side := code.Size * 39 / 200; (max(x, -x)+side > code.Size/2-9) && (max(y, -y)+side > code.Size/2-9) {
				continue // on a corner
			}
			all++
			img := codeImage(code, cover{15, x, y, color.White})
			if !ours(img) {
				t.Errorf("15 %% covered at %d, %d: not read", x, y)
			}
			if theirs(img) {
				read++
			}
		}
	}
	t.Logf("read at each of %d places of a square over 15 %%, by zbarimg at %d", all, read)
	if all != 45 {
		t.Errorf("%d places, docs/label.md says 45", all)
	}
	if read*10 < all*9 {
		t.Errorf("zbarimg reads it at %d of %d places, want nine in ten", read, all)
	}
}

// zbar returns the text of the label that zbarimg reads in a picture.
func zbar(t *testing.T, img image.Image) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "zbarimg", "--nodbus", "-q", "--raw", pngFile(t, img)).Output()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		t.Fatalf("zbarimg: %v (Debian package zbar-tools)", err)
	}
	return strings.TrimSuffix(string(out), "\n")
}

// spotted paints a share of single modules white, wherever they fall but in the
// corners.
func spotted(c *label.Code, percent int) image.Image {
	const dots = 4
	img := codeImage(c, cover{}).(*image.Gray)
	r := rand.New(rand.NewPCG(1, 1))
	for range c.Size * c.Size * percent / 100 {
		x, y := r.IntN(c.Size), r.IntN(c.Size)
		if x < 9 && (y < 9 || y >= c.Size-9) || x >= c.Size-9 && y < 9 {
			continue
		}
		draw.Draw(img, image.Rect((x+4)*dots, (y+4)*dots, (x+5)*dots, (y+5)*dots), image.White, image.Point{}, draw.Src)
	}
	return img
}

// A cover lies on a code: a square of a share of its modules.
type cover struct {
	percent int
	x, y    int // of its middle, in modules from the middle of the code
	tone    color.Color
}

func exampleCode(t testing.TB) *label.Code {
	t.Helper()
	text, err := label.Text(sign(t, example(t), fixed(t, "label")))
	if err != nil {
		t.Fatal(err)
	}
	c, err := label.NewCode(text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// coveredCodes returns pictures of the example's code with a share of its modules
// covered.
func coveredCodes(t testing.TB, percent int) map[string]image.Image {
	c := exampleCode(t)
	all := map[string]image.Image{}
	for name, tone := range map[string]color.Color{"white": color.White, "black": color.Black, "gray": color.Gray{Y: 128}} {
		for _, at := range [][2]int{{0, 0}, {20, 20}} {
			img := codeImage(c, cover{percent, at[0], at[1], tone})
			all[fmt.Sprintf("%s at %v", name, at)] = img
			if name == "white" {
				all[fmt.Sprintf("%s at %v, turned by 15, JPEG quality 40", name, at)] = photograph(t, img, 15, 40)
			}
		}
	}
	return all
}

// codeImage draws a code with 4 dots a module, and something on it.
func codeImage(c *label.Code, on cover) image.Image {
	const dots = 4
	img := image.NewGray(image.Rect(0, 0, (c.Size+8)*dots, (c.Size+8)*dots))
	draw.Draw(img, img.Bounds(), image.White, image.Point{}, draw.Src)
	for y := range c.Size {
		for x := range c.Size {
			if c.Dark(x, y) {
				draw.Draw(img, image.Rect((x+4)*dots, (y+4)*dots, (x+5)*dots, (y+5)*dots), image.Black, image.Point{}, draw.Src)
			}
		}
	}
	if on.percent > 0 {
		half := int(math.Ceil(math.Sqrt(float64(c.Size*c.Size*on.percent)/100) * dots / 2))
		x, y := img.Bounds().Dx()/2+on.x*dots, img.Bounds().Dy()/2+on.y*dots
		draw.Draw(img, image.Rect(x-half, y-half, x+half, y+half), image.NewUniform(on.tone), image.Point{}, draw.Src)
	}
	return img
}

// TestAnotherReader lets a reader of other people read what is drawn here.
func TestAnotherReader(t *testing.T) {
	for f, lang := range map[label.Format]label.Lang{label.A6: label.German, label.Small: label.English} {
		data, _, signed := picture(t, f, lang)
		file := filepath.Join(t.TempDir(), "label.png")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), "zbarimg", "--nodbus", "-q", "--raw", file).Output()
		if err != nil {
			t.Fatalf("zbarimg: %v (Debian package zbar-tools)", err)
		}
		var got []byte
		links := ""
		for _, line := range strings.Split(strings.TrimSuffix(string(out), "\n"), "\n") {
			if !label.IsText(line) {
				links += line
			} else if got, err = label.FromText(line); err != nil {
				t.Error(err)
			}
		}
		if !bytes.Equal(got, signed) {
			t.Errorf("size %d: zbarimg reads %.60q", f, out)
		}
		if want := example(t).Details; f == label.A6 && links != want || f == label.Small && links != "" {
			t.Errorf("size %d: the second code holds %q, want the link %q on A6 only", f, links, want)
		}
	}
}

// TestPictureOfDocs holds that docs/label.md shows the label as it is drawn.
// Another compressor in the standard library changes the code in it; go test
// ./label -update draws it anew.
func TestPictureOfDocs(t *testing.T) {
	d, err := label.Draw(sign(t, example(t), fixed(t, "label")), label.A6, label.English)
	if err != nil {
		t.Fatal(err)
	}
	const path = "../docs/label-example.svg"
	if *update {
		if err := os.WriteFile(path, d.SVG(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(golden, d.SVG()) {
		t.Error("docs/label-example.svg is not what is drawn")
	}
}

// TestPDF lets a reader of PDF show what is drawn here: the texts are texts, the
// code is the label's.
func TestPDF(t *testing.T) {
	signed := sign(t, example(t), fixed(t, "label"))
	d, err := label.Draw(signed, label.A6, label.German)
	if err != nil {
		t.Fatal(err)
	}
	data, err := d.PDF()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "label.pdf")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	poppler := func(name string, args ...string) string {
		t.Helper()
		var out, complaints bytes.Buffer
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Stdout, cmd.Stderr = &out, &complaints
		if err := cmd.Run(); err != nil || complaints.Len() > 0 {
			t.Fatalf("%s: %v (Debian package poppler-utils)\n%s", name, err, &complaints)
		}
		return out.String()
	}
	text := poppler("pdftotext", "-layout", file, "-")
	for _, want := range []string{"IoT-Komponentenangaben", "Niederlande, EU", "Gerät selbst", "≤ 2,5 W", "28.08.2028"} {
		if !strings.Contains(text, want) {
			t.Errorf("the PDF does not say %q", want)
		}
	}
	poppler("pdftoppm", "-r", "300", "-gray", "-png", "-singlefile", file, filepath.Join(dir, "page"))
	page, err := os.Open(filepath.Join(dir, "page.png"))
	if err != nil {
		t.Fatal(err)
	}
	defer page.Close()
	img, err := png.Decode(page)
	if err != nil {
		t.Fatal(err)
	}
	if b := img.Bounds(); b.Dx() < 1240 || b.Dx() > 1241 || b.Dy() < 1748 || b.Dy() > 1749 {
		t.Errorf("the page has %v dots at 300 an inch, A6 has 1240 x 1748", b)
	}
	if !bytes.Equal(scan(t, img), signed) {
		t.Error("the code of the PDF is of another label")
	}
}

func TestDeterministic(t *testing.T) {
	signed := sign(t, example(t), fixed(t, "label"))
	for _, f := range []label.Format{label.A6, label.Small} {
		var svgs, pngs, pdfs [2][]byte
		for i := range 2 {
			d, err := label.Draw(signed, f, label.German)
			if err != nil {
				t.Fatal(err)
			}
			svgs[i] = d.SVG()
			if pngs[i], err = d.PNG(); err != nil {
				t.Fatal(err)
			}
			if err := xml.Unmarshal(svgs[i], new(struct{})); err != nil {
				t.Errorf("SVG is not XML: %v", err)
			}
			if pdfs[i], err = d.PDF(); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(svgs[0], svgs[1]) || !bytes.Equal(pngs[0], pngs[1]) || !bytes.Equal(pdfs[0], pdfs[1]) {
			t.Error("the same label drawn twice gives other bytes")
		}
		if want := []byte("pHYs\x00\x00\x2e\x23\x00\x00\x2e\x23\x01"); !bytes.Contains(pngs[0], want) {
			t.Error("the PNG does not say that it has 300 dots an inch")
		}
	}
	a, errA := label.HTML(signed, label.German, nil)
	b, errB := label.HTML(signed, label.German, nil)
	if errA != nil || errB != nil || !bytes.Equal(a, b) {
		t.Errorf("two pages of the same label differ: %v, %v", errA, errB)
	}
}

// TestHostileText holds that what a manufacturer writes is text in a picture and
// nothing else.
func TestHostileText(t *testing.T) {
	const hostile = `<script>alert("x")</script>&`
	signed := sign(t, example(t, func(l *label.Label) { l.Model, l.Vendor, l.Sensors[0].Name = hostile, hostile, hostile }), fixed(t, "label"))
	html, err := label.HTML(signed, label.English, nil)
	if err != nil {
		t.Fatal(err)
	}
	d, err := label.Draw(signed, label.A6, label.English)
	if err != nil {
		t.Fatal(err)
	}
	for _, picture := range [][]byte{html, d.SVG()} {
		if bytes.Contains(picture, []byte("<script")) {
			t.Error("a text became markup")
		}
	}
}

func TestNoRoom(t *testing.T) {
	many := example(t, func(l *label.Label) {
		for range 20 {
			l.Sensors = append(l.Sensors, l.Sensors[0])
		}
	})
	if _, err := label.Draw(sign(t, many, fixed(t, "label")), label.A6, label.English); err == nil || !strings.Contains(err.Error(), "does not fit on A6") {
		t.Errorf("a long label on A6: %v", err)
	}
	if _, err := label.NewCode(strings.Repeat("A", 3392)); err == nil || !strings.Contains(err.Error(), "3392 characters") {
		t.Errorf("a text beyond the largest code: %v", err)
	}
	if c, err := label.NewCode(strings.Repeat("A", 3391)); err != nil || c.Version != 40 {
		t.Errorf("the largest code: %v", err)
	}
	if c, err := label.NewCode(strings.Repeat("A", 1451)); err != nil || c.Version != 25 {
		t.Errorf("what version 25 holds at level M: %v", err)
	}
}

// TestBomb holds that a small code cannot ask for much memory.
func TestBomb(t *testing.T) {
	text, err := label.Text(make([]byte, 20<<20))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := label.FromText(text); err == nil || !strings.Contains(err.Error(), "the limit is") {
		t.Errorf("%d characters: %v", len(text), err)
	}
	if text, err = label.Text(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if _, err := label.FromText(text); err == nil || !strings.Contains(err.Error(), "holds more than 8192 bytes") {
		t.Errorf("%d characters: %v", len(text), err)
	}
	if _, err := label.FromText("HC1:" + text[4:]); err == nil || !strings.Contains(err.Error(), "does not begin with") {
		t.Errorf("another prefix: %v", err)
	}
}

// BenchmarkLabel gives the figures of docs/label.md, for each example.
func BenchmarkLabel(b *testing.B) {
	key, tr := fixed(b, "label"), trust(b)
	for _, name := range []string{"example", "scanner-wired", "scanner-wireless"} {
		text, err := os.ReadFile("../configs/label-" + name + ".toml")
		if err != nil {
			b.Fatal(err)
		}
		l, problems := label.Author(text)
		if l == nil {
			b.Fatal(problems)
		}
		signed := sign(b, l, key)
		code, err := label.Text(signed)
		if err != nil {
			b.Fatal(err)
		}
		qr, err := label.NewCode(code)
		if err != nil {
			b.Fatal(err)
		}
		d, err := label.Draw(signed, label.A6, label.English)
		if err != nil {
			b.Fatal(err)
		}
		drawn, err := d.PNG()
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name+"/sign", func(b *testing.B) {
			for b.Loop() {
				sign(b, l, key)
			}
			b.ReportMetric(float64(len(signed)), "bytes")
			b.ReportMetric(float64(len(code)), "characters")
			b.ReportMetric(float64(qr.Version), "version")
		})
		b.Run(name+"/scan", func(b *testing.B) { // from the bytes of the PNG to the verified label
			for b.Loop() {
				img, err := png.Decode(bytes.NewReader(drawn))
				if err != nil {
					b.Fatal(err)
				}
				if _, err := label.Open(scan(b, img), tr, reference.At(now)); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/page", func(b *testing.B) { // the same in the browser, as the page counts it
			img, err := png.Decode(bytes.NewReader(drawn))
			if err != nil {
				b.Fatal(err)
			}
			at := img.Bounds()
			corner := img.(*image.Gray).SubImage(image.Rect(at.Max.X*55/100, at.Max.Y*68/100, at.Max.X, at.Max.Y)) // what is held before the camera
			v := openPage(b, corner, issuer(b))
			file := filepath.Join(b.TempDir(), "label.png")
			if err := os.WriteFile(file, drawn, 0o600); err != nil {
				b.Fatal(err)
			}
			took := func() float64 {
				ms, err := strconv.ParseFloat(v.eval(`document.getElementById("verdict").dataset.ms`), 64)
				if err != nil || v.eval(`document.getElementById("verdict").className`) != "ok" {
					b.Fatalf("the page refuses the label: %v", err)
				}
				return ms
			}
			worst, seen, sum, n := 0.0, 0.0, 0.0, 0.0
			for b.Loop() {
				v.give("file", file)
				ms := took()
				worst, sum, n = max(worst, ms), sum+ms, n+1
				v.camera()
				seen = max(seen, took())
			}
			b.ReportMetric(sum/n, "ms/verdict")
			b.ReportMetric(worst, "ms/worst")
			b.ReportMetric(seen, "ms/camera-worst")
		})
	}
}

// FuzzScan holds that no picture makes Scan fail worse than not to find a code.
func FuzzScan(f *testing.F) {
	c, err := label.NewCode("MF2:1234")
	if err != nil {
		f.Fatal(err)
	}
	img := codeImage(c, cover{}).(*image.Gray)
	f.Add(img.Rect.Dx(), img.Pix)
	f.Add(img.Rect.Dx(), codeImage(c, cover{percent: 10, tone: color.White}).(*image.Gray).Pix)
	f.Add(40, bytes.Repeat([]byte{0, 255}, 800))
	f.Fuzz(func(t *testing.T, width int, pix []byte) {
		if width < 1 || width > 400 || len(pix) > 160000 {
			return
		}
		height := len(pix) / width
		text, err := label.Scan(&image.Gray{Pix: pix[:width*height], Stride: width, Rect: image.Rect(0, 0, width, height)})
		if (err == nil) == (text == "") {
			t.Fatalf("%q, %v", text, err)
		}
	})
}
