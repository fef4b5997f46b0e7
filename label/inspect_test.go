package label_test

import (
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"os"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/miotfacts/miotfacts/advisory"
	"github.com/miotfacts/miotfacts/label"
)

// TestWorkedExample computes what docs/best-before.md says.
func TestWorkedExample(t *testing.T) {
	doc, err := os.ReadFile("../docs/best-before.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```(toml)?\n(.*?)```\n").FindAllStringSubmatch(string(doc), -1)
	if len(blocks) != 5 || blocks[0][1] != "toml" {
		t.Fatalf("docs/best-before.md has %d blocks, want an observation, three dates and vulnerabilities", len(blocks))
	}
	observed, err := label.AuthorObservation([]byte(blocks[0][2]))
	if err != nil {
		t.Fatal(err)
	}
	found := software(t)
	advised := observed
	advised.Flaws = found.Flaws
	text, err := found.Text(label.English)
	if err != nil {
		t.Fatal(err)
	}
	if text != blocks[4][2] {
		t.Errorf("docs/best-before.md, vulnerabilities: found is\n%s", text)
	}
	for i, o := range []label.Observation{{}, observed, advised} {
		d, err := example(t).BestBefore(o)
		if err != nil {
			t.Fatal(err)
		}
		if got := d.Explain(); got != blocks[i+1][2] {
			t.Errorf("docs/best-before.md, date %d: computed is\n%s", i+1, got)
		}
	}
	for _, task := range label.Tasks(label.English) {
		if !strings.Contains(string(doc), "\n- "+task+"\n") {
			t.Errorf("docs/best-before.md does not name the task %q", task)
		}
	}
	for k := label.UpdatePromised; k <= label.LowFlaws; k++ {
		if !strings.Contains(string(doc), "`"+k.String()+"`") {
			t.Errorf("docs/best-before.md does not name the kind %s", k)
		}
	}
}

// software returns what the advisories of configs say of the example.
func software(t testing.TB) *label.Software {
	t.Helper()
	read := func(name string) []byte {
		data, err := os.ReadFile("../configs/label-example" + name)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	l := example(t)
	b, err := l.OpenBOM(read(".cdx.json"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := l.Advisories(b)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"osv", "vex"} {
		if err := m.Add(read("-vulnerabilities/" + name + ".json")); err != nil {
			t.Fatal(err)
		}
	}
	return &label.Software{BOM: b, Flaws: m.Result()}
}

func TestOpenBOM(t *testing.T) {
	bom := []byte(`{"bomFormat":"CycloneDX","specVersion":"1.6"}`)
	sum := sha256.Sum256(bom)
	if _, err := example(t, func(l *label.Label) { l.SBOM.SHA256 = sum[:] }).OpenBOM(bom); err != nil {
		t.Error(err)
	}
	for name, l := range map[string]*label.Label{"another": example(t), "none": example(t, func(l *label.Label) { l.SBOM = nil })} {
		if _, err := l.OpenBOM(bom); !errors.Is(err, label.ErrBOM) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := example(t).OpenBOM([]byte("{")); err == nil || errors.Is(err, label.ErrBOM) {
		t.Errorf("no bill at all: %v", err)
	}
}

// flaws returns open vulnerabilities, so many of each severity from unknown to
// critical.
func flaws(n [5]uint32) *advisory.Result {
	r := &advisory.Result{Documents: 1}
	for s, count := range n {
		for range count {
			r.Vulnerabilities = append(r.Vulnerabilities, advisory.Vulnerability{State: advisory.Affected, Severity: advisory.Severity(s)})
		}
	}
	r.Vulnerabilities = append(r.Vulnerabilities, advisory.Vulnerability{State: advisory.Fixed, Severity: advisory.Critical}, advisory.Vulnerability{State: advisory.NotAffected})
	return r
}

// A severity that nobody gives counts as the worst that the label weighs; nothing
// that was found is left out of the lines.
func TestFlaws(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*label.Label)
		o      label.Observation
		want   string
	}{
		{"none", nil, label.Observation{Flaws: flaws([5]uint32{})}, "flaws_critical      +0 days   0 observed: "},
		{"one", nil, label.Observation{Flaws: flaws([5]uint32{4: 1})}, "flaws_critical    -365 days   1 observed: "},
		{"not appraised", nil, label.Observation{Flaws: flaws([5]uint32{1, 0, 0, 0, 1})}, "flaws_critical    -730 days   2 observed, 1 of them not appraised: "},
		{"a person counted more", nil, label.Observation{Amounts: map[label.Kind]uint32{label.CriticalFlaws: 2}, Flaws: flaws([5]uint32{4: 1})}, "flaws_critical    -730 days   2 observed: "},
		{"a person counted fewer", nil, label.Observation{Amounts: map[label.Kind]uint32{label.CriticalFlaws: 0}, Flaws: flaws([5]uint32{4: 1})}, "flaws_critical    -365 days   1 observed: "},
		{"without weight", nil, label.Observation{Flaws: flaws([5]uint32{0, 0, 0, 3, 0})}, "flaws_high          +0 days   3 observed; the label gives them no weight"},
		{"the worst that is weighed", func(l *label.Label) { l.Inspection.Parameters[5].Kind = label.MediumFlaws }, label.Observation{Flaws: flaws([5]uint32{1, 0, 0, 0, 2})}, "flaws_medium      -365 days   1 observed, 1 of them not appraised: "},
		{"nothing is weighed", func(l *label.Label) { l.Inspection.Parameters = l.Inspection.Parameters[:5] }, label.Observation{Flaws: flaws([5]uint32{1})}, "flaws               +0 days   1 observed, severity not appraised; the label gives them no weight"},
	} {
		l := example(t)
		if tt.change != nil {
			tt.change(l)
		}
		d, err := l.BestBefore(tt.o)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(d.Explain(), "\n"+tt.want) {
			t.Errorf("%s: no %q in\n%s", tt.name, tt.want, d.Explain())
		}
	}
}

func TestBounds(t *testing.T) {
	n := func(kind label.Kind, amount uint32) map[label.Kind]uint32 { return map[label.Kind]uint32{kind: amount} }
	day := func(s string) label.Day {
		var d label.Day
		if err := d.UnmarshalTOML([]byte(s)); err != nil {
			t.Fatal(err)
		}
		return d
	}
	for _, tt := range []struct {
		name     string
		change   func(*label.Label)
		o        label.Observation
		inspect  string
		step     string // that must be there
		negative string
	}{
		{"support ends", func(l *label.Label) { l.Updates.SupportUntil = day("2027-01-01") }, label.Observation{}, "2027-01-01", "support", ""},
		{"support ended early", nil, label.Observation{On: day("2026-12-01"), SupportEnded: day("2026-11-30")}, "2026-11-30", "support", "support has ended on 2026-11-30"},
		{"support goes on for longer than promised", nil, label.Observation{SupportEnded: day("2040-01-01")}, "2028-08-28", "base", ""},
		{"a component wears out", func(l *label.Label) { l.Inspection.Components[1].Life = 1600 }, label.Observation{}, "2026-06-10", "component", ""},
		{"it is nearly worn out", nil, label.Observation{On: day("2026-04-01"), Amounts: n(label.OperatingHours, 19984)}, "2026-04-02", "component", ""},
		{"it is beyond its life", nil, label.Observation{On: day("2026-04-01"), Amounts: n(label.OperatingHours, 4_000_000_000)}, "2026-03-02", "component", ""},
		{"many flaws", nil, label.Observation{Amounts: n(label.CriticalFlaws, 4_000_000_000)}, "2026-08-29", "flaws_critical", ""},
		{"not sold any more", nil, label.Observation{Amounts: n(label.StillSold, 0)}, "2028-06-29", "still_sold", ""},
		{"late updates", nil, label.Observation{Amounts: n(label.UpdateObserved, 61)}, "2028-08-28", "base", "updates come every 61 days, promised were 60"},
		{"purchase", func(l *label.Label) { l.Made = 0 }, label.Observation{Purchased: day("2026-03-03")}, "2028-08-29", "base", ""},
	} {
		l := example(t)
		if tt.change != nil {
			tt.change(l)
		}
		d, err := l.BestBefore(tt.o)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		text := d.Explain()
		if d.Inspect.String() != tt.inspect || !strings.Contains("\n"+text, "\n"+tt.step+" ") || strings.Join(d.Negative, ";") != tt.negative {
			t.Errorf("%s: want %s with step %s, negative %q:\n%s", tt.name, tt.inspect, tt.step, tt.negative, text)
		}
	}
	l := example(t, func(l *label.Label) { l.Made = 0 })
	if _, err := l.BestBefore(label.Observation{}); !errors.Is(err, label.ErrNoStart) {
		t.Errorf("without a start: %v", err)
	}
}

// TestDateProperties holds for many labels and observations: the same input gives
// the same date, the lines add up to it, and a worse amount never moves it later.
func TestDateProperties(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	amount := func() uint32 { return r.Uint32() >> r.UintN(32) }
	later := map[label.Kind]bool{label.StillSold: true, label.LineExists: true, label.AverageLife: true}
	moved, movedByFlaws := 0, 0
	base := example(t)
	for range 2_000 {
		copied := *base
		l, in := &copied, &copied.Inspection
		in.Base = 1 + r.Uint32N(2000)
		in.Parameters = nil
		l.Updates.SupportUntil = l.Made + label.Day(r.IntN(4000))
		o := label.Observation{Amounts: map[label.Kind]uint32{}}
		if r.IntN(2) == 0 {
			o.On = l.Made + label.Day(r.IntN(3000))
		}
		for k := label.UpdatePromised; k <= label.LowFlaws; k++ {
			p := label.Parameter{Kind: k, Direction: label.Earlier, Per: 1 + amount()>>8, Days: 1 + r.Uint32N(300), Limit: 300 + r.Uint32N(1000), Reason: "r"}
			if k >= label.CriticalFlaws {
				p.Per = 1 + r.Uint32N(3)
			}
			if later[k] || k == label.NewVariants && r.IntN(2) == 0 {
				p.Direction = label.Later
			}
			if r.IntN(2) == 0 && k != label.UpdatePromised {
				o.Amounts[k] = amount()
			}
			if k < label.CriticalFlaws || r.IntN(4) > 0 { // a label may weigh only some
				in.Parameters = append(in.Parameters, p)
			}
		}
		found := [5]uint32{}
		if r.IntN(2) == 0 {
			for i := range found {
				found[i] = r.Uint32N(4)
			}
			o.Flaws = flaws(found)
		}
		d, err := l.BestBefore(o)
		if err != nil {
			t.Fatal(err)
		}
		sum := int64(d.Start)
		for _, s := range d.Steps {
			sum += s.Days
			if !s.Known && s.Days != 0 {
				t.Fatalf("what is not known moves the date:\n%s", d.Explain())
			}
		}
		if sum != int64(d.Inspect) || d.Inspect < d.Start {
			t.Fatalf("the lines give %d:\n%s", sum, d.Explain())
		}
		if o.Flaws != nil {
			worse, more := o, found
			more[r.IntN(5)] += 1 + r.Uint32N(3)
			worse.Flaws = flaws(more)
			e, err := l.BestBefore(worse)
			if err != nil {
				t.Fatal(err)
			}
			if e.Inspect > d.Inspect {
				t.Fatalf("more vulnerabilities, %v after %v, move the date later:\n%s%s", more, found, d.Explain(), e.Explain())
			}
			if e.Inspect < d.Inspect {
				movedByFlaws++
			}
		}
		for _, p := range in.Parameters {
			n, ok := o.Amounts[p.Kind]
			if !ok {
				continue
			}
			worse := label.Observation{On: o.On, Flaws: o.Flaws, Amounts: map[label.Kind]uint32{}}
			for k, v := range o.Amounts {
				worse.Amounts[k] = v
			}
			worse.Amounts[p.Kind] = n + r.Uint32N(^uint32(0)-n)
			if p.Direction == label.Later {
				worse.Amounts[p.Kind] = r.Uint32N(n + 1)
			}
			e, err := l.BestBefore(worse)
			if err != nil {
				t.Fatal(err)
			}
			if e.Inspect > d.Inspect {
				t.Fatalf("%s from %d to %d moves the date later:\n%s%s", p.Kind, n, worse.Amounts[p.Kind], d.Explain(), e.Explain())
			}
			if e.Inspect < d.Inspect {
				moved++
			}
		}
	}
	if moved < 500 || movedByFlaws < 50 {
		t.Errorf("only %d of the worse amounts and %d of the vulnerabilities moved a date: the test shows nothing", moved, movedByFlaws)
	}
}

func TestObservationRefuses(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"[amounts]\nrust = 1", `"rust" is none of`},
		{"[amounts]\nupdate_promised = 1", "stands in the label"},
		{"[amounts]\nhot_hours = -1", "cannot"},
		{"on = 2026-13-01", "cannot"},
		{"on = \"soon\"", "is no date"},
		{"purchased = 1969-01-01", "is no date"},
		{`device = "a\nb"`, "is not plain text"},
		{"of = 2026-01-01", "cannot"},
	} {
		if _, err := label.AuthorObservation([]byte(tt.text)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: %v, want %s", tt.text, err, tt.want)
		}
	}
}

func TestCalendar(t *testing.T) {
	l := example(t, func(l *label.Label) {
		l.Inspection.Parameters[0].Reason = `über 60 °C; a, b \ ` + strings.Repeat("ä", 60)
	})
	d, err := l.BestBefore(label.Observation{})
	if err != nil {
		t.Fatal(err)
	}
	data := string(l.Calendar(d, "Ward, 7", l.From, label.German))
	if data != string(l.Calendar(d, "Ward, 7", l.From, label.German)) {
		t.Error("the same date gives other bytes")
	}
	if strings.Contains(strings.ReplaceAll(data, "\r\n", ""), "\n") || !strings.HasSuffix(data, "END:VCALENDAR\r\n") {
		t.Error("a line does not end with CRLF")
	}
	for line := range strings.SplitSeq(data, "\r\n") {
		if len(line) > 75 || !utf8.ValidString(line) {
			t.Errorf("%q has %d bytes, or is cut within a character", line, len(line))
		}
	}
	unfolded := strings.ReplaceAll(data, "\r\n ", "")
	for _, want := range []string{
		"DTSTART;VALUE=DATE:20280828\r\n", "DTSTAMP:20260101T000000Z\r\n", `SUMMARY:Prüfen: Example Medical wearable-1 Ward\, 7` + "\r\n",
		`über 60 °C\; a\, b \\ ` + strings.Repeat("ä", 60) + `\nstill_sold +60: `,
	} {
		if !strings.Contains(unfolded, want) {
			t.Errorf("no %q in\n%s", want, unfolded)
		}
	}
	if n := strings.Count(data, "BEGIN:VTODO\r\n"); n != len(label.Tasks(label.German)) {
		t.Errorf("%d tasks", n)
	}
	uid := regexp.MustCompile(`UID:(\S+)`)
	seen := map[string]bool{}
	for _, device := range []string{"Ward, 7", "Ward, 8"} {
		for _, m := range uid.FindAllString(string(l.Calendar(d, device, l.From, label.English)), -1) {
			if seen[m] {
				t.Errorf("%s stands there twice", m)
			}
			seen[m] = true
		}
	}
}
