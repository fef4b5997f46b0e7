package maturity_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/miotfacts/miotfacts/maturity"
)

// TestPDF lets a reader of PDF show the report: it says what the page says, in both
// languages, on A4, with its fonts within.
func TestPDF(t *testing.T) {
	for _, l := range langs {
		for name, e := range map[string]*maturity.Evaluation{"example": example(t), "hostile": hostileEvaluation(t), "nothing": maturity.Evaluate(&maturity.Assessment{Subject: "S"}, nil)} {
			data, err := e.PDF(l)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := e.PDF(l); err != nil || !bytes.Equal(again, data) {
				t.Errorf("%s, %s: written again it is another: %v", name, l, err)
			}
			file := filepath.Join(t.TempDir(), "report.pdf")
			if err := os.WriteFile(file, data, 0o600); err != nil {
				t.Fatal(err)
			}
			text := squeezed(poppler(t, "pdftotext", "-raw", file, "-"))
			says := []string{e.Assessment.Subject, maturity.LevelName(e.Overall.Literal, l), maturity.LevelName(e.Overall.Strict, l)}
			for _, c := range maturity.Columns() {
				says = append(says, c.Name.In(l))
			}
			for _, r := range e.Results {
				says = append(says, r.Criterion.Text.In(l), r.Criterion.ID, r.Standing.Name(l), r.Answer.In(l), r.Note(l))
				for _, x := range r.Readings {
					says = append(says, x.In(l))
				}
			}
			for _, r := range e.Next() {
				says = append(says, r.Criterion.Reason.In(l))
			}
			for _, s := range says {
				if !strings.Contains(text, squeezed(s)) {
					t.Errorf("%s, %s: it does not say %q", name, l, s)
				}
			}
			if l == maturity.German {
				for _, english := range []string{"Level", "Standing", "Because", "person says", " of 3", "Table", "at least"} {
					if name != "hostile" && strings.Contains(text, squeezed(english)) {
						t.Errorf("%s: the German report says %q", name, english)
					}
				}
			}
			if info := poppler(t, "pdfinfo", file); !strings.Contains(info, "(A4)") || !strings.Contains(squeezed(info), squeezed(e.Assessment.Subject)) {
				t.Errorf("%s, %s: %s", name, l, info)
			}
			fonts := strings.Split(strings.TrimSpace(poppler(t, "pdffonts", file)), "\n")[2:]
			for _, f := range fonts { // name, type, encoding, embedded
				if fields := strings.Fields(f); len(fields) < 6 || fields[4] != "yes" && fields[5] != "yes" {
					t.Errorf("a font is not within: %s", f)
				}
			}
			if len(fonts) != 2 {
				t.Errorf("fonts: %q", fonts)
			}
			poppler(t, "pdftoppm", "-r", "20", "-png", file, filepath.Join(t.TempDir(), "page"))
		}
	}
}

func poppler(t *testing.T, name string, args ...string) string {
	t.Helper()
	var out, complaints bytes.Buffer
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil || complaints.Len() > 0 {
		t.Fatalf("%s: %v (Debian package poppler-utils)\n%s", name, err, &complaints)
	}
	return out.String()
}

// squeezed leaves spaces out: lines are broken anywhere.
func squeezed(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || r == '\f' {
			return -1
		}
		return r
	}, s)
}
