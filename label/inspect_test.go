package label_test

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"regexp"
	"slices"
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
	blocks := fenced(string(doc))
	if len(blocks) != 7 || blocks[0].form != "toml" || blocks[1].form != "json" {
		t.Fatalf("docs/best-before.md has %d blocks, want an observation in TOML and JSON, four dates and vulnerabilities", len(blocks))
	}
	observed, err := label.ReadObserved([]byte(blocks[0].text))
	if err != nil {
		t.Fatal(err)
	}
	exported, err := label.ReadObserved([]byte(blocks[1].text))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(observed, exported) {
		t.Errorf("docs/best-before.md says in JSON %+v, in TOML %+v", exported, observed)
	}
	found := software(t)
	advised := observed
	advised.Flaws = found.Flaws
	text, err := found.Text(label.English)
	if err != nil {
		t.Fatal(err)
	}
	if text != blocks[6].text {
		t.Errorf("docs/best-before.md, vulnerabilities: found is\n%s", text)
	}
	inspected := advised
	inspected.Inspected, inspected.InspectedBy = observed.On, "M. Muster"
	for i, o := range []label.Observation{{}, observed, advised, inspected} {
		d, err := example(t).BestBefore(o)
		if err != nil {
			t.Fatal(err)
		}
		if got := d.Explain(); got != blocks[i+2].text {
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

// A block is a piece of a document between fences.
type block struct{ form, text string }

func fenced(doc string) []block {
	var blocks []block
	parts := strings.Split(doc, "```")
	for i := 1; i < len(parts); i += 2 {
		form, text, _ := strings.Cut(parts[i], "\n")
		blocks = append(blocks, block{form, text})
	}
	return blocks
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
		{"without weight", nil, label.Observation{Flaws: flaws([5]uint32{0, 0, 0, 3, 0})}, "flaws_high          +0 days   3 observed; the label gives it no weight"},
		{"the worst that is weighed", func(l *label.Label) { l.Inspection.Parameters[5].Kind = label.MediumFlaws }, label.Observation{Flaws: flaws([5]uint32{1, 0, 0, 0, 2})}, "flaws_medium      -365 days   1 observed, 1 of them not appraised: "},
		{"nothing is weighed", func(l *label.Label) { l.Inspection.Parameters = l.Inspection.Parameters[:5] }, label.Observation{Flaws: flaws([5]uint32{1})}, "flaws               +0 days   1 observed, severity not appraised; the label gives it no weight"},
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
		{"the flash wears on", nil, label.Observation{On: day("2026-09-02"), Amounts: n(label.FlashWear, 500)}, "2027-03-05", "component", ""},
		{"the flash is worn out", nil, label.Observation{On: day("2026-09-02"), Amounts: n(label.FlashWear, 1200)}, "2026-08-02", "component", ""},
		{"the flash is new", nil, label.Observation{On: day("2026-09-02"), Amounts: n(label.FlashWear, 0)}, "2028-08-28", "base", ""},
		{"many flaws", nil, label.Observation{Amounts: n(label.CriticalFlaws, 4_000_000_000)}, "2026-08-29", "flaws_critical", ""},
		{"not sold any more", nil, label.Observation{Amounts: n(label.StillSold, 0)}, "2028-06-29", "still_sold", ""},
		{"late updates", nil, label.Observation{Amounts: n(label.UpdateObserved, 61)}, "2028-08-28", "base", "updates come every 61 days, promised were 60"},
		{"inspected, a component wears out", nil, label.Observation{Inspected: day("2028-08-20"), InspectedBy: "M. Muster"}, "2029-08-03", "component", ""},
		{"inspected", func(l *label.Label) { l.Inspection.Components = nil }, label.Observation{Inspected: day("2028-08-20"), InspectedBy: "M. Muster"}, "2031-02-16", "inspected", ""},
		{"inspected, support ends", func(l *label.Label) { l.Inspection.Components = nil }, label.Observation{Inspected: day("2031-02-20"), InspectedBy: "M. Muster"}, "2031-12-31", "support", ""},
		{"inspected after support has ended", nil, label.Observation{On: day("2032-02-20"), Inspected: day("2032-02-20"), InspectedBy: "M. Muster"}, "2032-02-20", "support", "support has ended on 2031-12-31"},
		{"inspected, and worn out", nil, label.Observation{On: day("2026-09-02"), Inspected: day("2026-09-01"), InspectedBy: "M. Muster", Amounts: n(label.FlashWear, 1200)}, "2026-09-01", "component", ""},
		{"inspected, with many flaws", func(l *label.Label) { l.Inspection.Base = 300 }, label.Observation{Inspected: day("2026-09-01"), InspectedBy: "M. Muster", Amounts: n(label.CriticalFlaws, 9)}, "2026-09-01", "start", ""},
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
	for _, tt := range []struct {
		o    label.Observation
		want string
	}{
		{label.Observation{Inspected: day("2026-03-01"), InspectedBy: "M. Muster"}, "inspected on 2026-03-01, before the start on 2026-03-02"},
		{label.Observation{On: day("2027-01-01"), Inspected: day("2027-01-02"), InspectedBy: "M. Muster"}, "inspected on 2027-01-02, after the day of the observation, 2027-01-01"},
	} {
		if _, err := example(t).BestBefore(tt.o); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v, want %s", err, tt.want)
		}
	}
}

// reread writes an observation as JSON and reads it back.
func reread(t *testing.T, seen label.Observed) label.Observation {
	t.Helper()
	seen.Version = 1
	data, err := json.Marshal(seen)
	if err != nil {
		t.Fatal(err)
	}
	o, err := label.ReadObserved(data)
	if err != nil {
		t.Fatalf("%v: %s", err, data)
	}
	return o
}

// TestDateProperties holds for many labels and observations: the same input gives
// the same date, the lines add up to it, a worse amount never moves it later, and an
// inspection never earlier.
func TestDateProperties(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	amount := func() uint32 { return r.Uint32() >> r.UintN(32) }
	later := map[label.Kind]bool{label.StillSold: true, label.LineExists: true, label.AverageLife: true}
	moved, movedByFlaws := 0, 0
	movedBy := map[string]int{}
	base := example(t)
	for range 2_500 {
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
			p := label.Parameter{Kind: k, Direction: label.Earlier, Per: 1 + amount()>>8, Days: 1 + r.Uint32N(300), Limit: 300 + r.Uint32N(1000), Reason: "above 60 °C"}
			switch k {
			case label.UpdateObserved, label.HotHours:
				p.Per, p.Days = 200+r.Uint32N(200_000), 1+r.Uint32N(100)
				if k == label.UpdateObserved {
					p.Per = 1 + p.Per/1000
				}
			case label.CriticalFlaws, label.HighFlaws, label.MediumFlaws, label.LowFlaws:
				p.Per = 1 + r.Uint32N(3)
			}
			if later[k] || k == label.NewVariants && r.IntN(2) == 0 {
				p.Direction = label.Later
			}
			if r.IntN(2) == 0 && k != label.UpdatePromised {
				o.Amounts[k] = amount()
				if k == label.FlashWear { // else it alone bounds every date
					o.Amounts[k] = r.Uint32N(300)
				}
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
		seen := label.Observed{On: o.On, Amounts: map[string]uint32{}}
		if o.On > l.Made && r.IntN(2) == 0 {
			seen.Inspected, seen.InspectedBy = l.Made+label.Day(r.IntN(int(o.On-l.Made+1))), "M. Muster"
		}
		for k, n := range o.Amounts {
			seen.Amounts[k.String()] = n
		}
		if _, ok := o.Amounts[label.UpdateObserved]; !ok && o.On != 0 {
			for day, i := l.Made, 0; day <= o.On && i < 5; day, i = day+label.Day(1+r.IntN(900)), i+1 {
				seen.Firmware = append(seen.Firmware, label.FirmwareSeen{Version: fmt.Sprint(i), FirstSeen: day})
			}
		}
		if _, ok := o.Amounts[label.HotHours]; !ok {
			hours := uint32(1 << 20)
			for celsius := int32(20); celsius < 90; celsius += 1 + r.Int32N(40) {
				hours = r.Uint32N(hours + 1)
				seen.Temperature = append(seen.Temperature, label.HoursAbove{Celsius: celsius, Hours: hours})
			}
		}
		advised := o.Flaws
		o = reread(t, seen)
		o.Flaws = advised
		d, err := l.BestBefore(o)
		if err != nil {
			t.Fatal(err)
		}
		later := func(what string, worse label.Observed) {
			w := reread(t, worse)
			w.Flaws = o.Flaws
			e, err := l.BestBefore(w)
			if err != nil {
				t.Fatal(err)
			}
			if e.Inspect > d.Inspect {
				t.Fatalf("%s moves the date later:\n%s%s", what, d.Explain(), e.Explain())
			}
			if e.Inspect < d.Inspect {
				movedBy[what]++
			}
		}
		if n := len(seen.Firmware); n > 1 {
			worse, at := seen, 1+r.IntN(n-1)
			worse.Firmware = slices.Delete(slices.Clone(seen.Firmware), at, at+1)
			later("an update that did not come", worse)
		}
		if len(seen.Temperature) > 0 {
			worse := seen
			worse.Temperature = slices.Clone(seen.Temperature)
			for i := range worse.Temperature {
				worse.Temperature[i].Hours += 1 << 20
			}
			later("a hotter history", worse)
			worse.Temperature = slices.Clone(seen.Temperature[:len(seen.Temperature)-1])
			if len(worse.Temperature) > 0 && seen.Temperature[0].Celsius <= 60 {
				later("a coarser history", worse)
			}
		}
		if seen.Inspected != 0 {
			if d.Inspect < seen.Inspected {
				t.Fatalf("to be inspected before its inspection on %s:\n%s", seen.Inspected, d.Explain())
			}
			for _, day := range []label.Day{0, l.Made + label.Day(r.IntN(int(seen.Inspected-l.Made+1)))} {
				before := seen
				if before.Inspected = day; day == 0 {
					before.InspectedBy = ""
				}
				later(map[bool]string{true: "no inspection", false: "an earlier inspection"}[day == 0], before)
			}
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
			worse := label.Observation{On: o.On, Inspected: o.Inspected, InspectedBy: o.InspectedBy, Flaws: o.Flaws, Temperature: o.Temperature, Amounts: map[label.Kind]uint32{}}
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
	if moved < 500 || movedByFlaws < 50 || movedBy["an update that did not come"] < 20 || movedBy["a hotter history"] < 20 || movedBy["no inspection"] < 100 || movedBy["an earlier inspection"] < 100 {
		t.Errorf("%v; only %d of the worse amounts and %d of the vulnerabilities moved a date: the test shows nothing", movedBy, moved, movedByFlaws)
	}
}

func TestReadObserved(t *testing.T) {
	const on = "on = 2027-06-01\n"
	seen := func(rows ...string) string {
		out := ""
		for i, day := range rows {
			out += fmt.Sprintf("[[firmware]]\nversion = \"1.%d\"\nfirst_seen = %s\n", i, day)
		}
		return out
	}
	hot := func(celsius, hours int) string {
		return fmt.Sprintf("[[temperature]]\ncelsius = %d\nhours = %d\n", celsius, hours)
	}
	for _, tt := range []struct{ name, text, want string }{ // the line of update_observed or hot_hours that must be there
		{"the longest wait", on + seen("2026-12-01", "2027-03-02", "2027-05-02"), "91 observed (the longest wait: 1.0 on 2026-12-01, 1.1 on 2027-03-02)"},
		{"it still runs", on + seen("2026-12-01", "2027-01-01"), "151 observed (the longest wait: 1.1 on 2027-01-01, none since, until 2027-06-01)"},
		{"one version", on + seen("2027-05-31"), "1 observed (the longest wait: 1.0 on 2027-05-31, none since"},
		{"no day of observation", seen("2026-12-01", "2027-01-01"), "31 observed (the longest wait: 1.0 on 2026-12-01, 1.1 on 2027-01-01)"},
		{"one version, no day", seen("2026-12-01"), "not known; slow updates"},
		{"an amount", "[amounts]\nupdate_observed = 7\n", "7 observed: "},
		{"this bound", hot(40, 900) + hot(60, 100), "100 hours above 60 °C observed: "},
		{"the bound below it", hot(40, 900) + hot(70, 100), "900 hours above 40 °C observed: "},
		{"only above it", hot(61, 100), "not known; above 60 °C"},
		{"hours alone", "[amounts]\nhot_hours = 7\n", "7 observed: "},
		{"the same in JSON", `{"version":1,"on":"2027-06-01","firmware":[{"version":"1","first_seen":"2027-05-01"}],"amounts":{"flash_wear":3}}`, "31 observed (the longest wait: 1 on 2027-05-01, none since"},
	} {
		o, err := label.ReadObserved([]byte(tt.text))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		l := example(t, func(l *label.Label) {
			l.Inspection.Parameters = append(l.Inspection.Parameters, label.Parameter{Kind: label.UpdateObserved, Direction: label.Earlier, Per: 1, Days: 1, Limit: 999, Reason: "slow updates"})
		})
		d, err := l.BestBefore(o)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(d.Explain(), "   "+tt.want) {
			t.Errorf("%s: no %q in\n%s", tt.name, tt.want, d.Explain())
		}
	}
	for _, tt := range []struct{ text, want string }{
		{"[amounts]\nrust = 1", `"rust" is none of`},
		{"[amounts]\nupdate_promised = 1", "stands in the label"},
		{"[amounts]\nhot_hours = -1", "cannot"},
		{"on = 2026-13-01", "cannot"},
		{"on = \"soon\"", "is no date"},
		{"purchased = 1969-01-01", "is no date"},
		{"inspected = \"today\"\ninspected_by = \"M. Muster\"", "inspected is no date"},
		{"inspected = 2027-01-01", "stand together"},
		{"inspected_by = \"M. Muster\"", "stand together"},
		{"inspected = 2027-01-01\ninspected_by = \"a\\nb\"", "inspected_by: \"a\\nb\" is not plain text"},
		{`device = "a\nb"`, "is not plain text"},
		{"of = 2026-01-01", "cannot"},
		{on + seen("2027-06-02"), "firmware[0].first_seen: 2027-06-02 is after the day of the observation"},
		{seen("2027-01-02", "2027-01-01"), "firmware[1].first_seen: 2027-01-01 is before that"},
		{strings.Replace(seen("2027-01-02", "2027-01-03"), "1.1", "1.0", 1), "firmware[1].version: 1.0 stands there twice"},
		{"[[firmware]]\nversion = \"1\"", "firmware[0].first_seen is no date"},
		{"[[firmware]]\nfirst_seen = 2027-01-01", "firmware[0].version"},
		{on + seen("2027-01-02") + "[amounts]\nupdate_observed = 7\n", "update_observed follows from firmware"},
		{hot(60, 1) + hot(60, 1), "temperature[1].celsius: 60 is not above"},
		{hot(60, 1) + hot(70, 2), "temperature[1].hours: 2 above 70 °C, but 1 above 60 °C"},
		{hot(2000, 1), "outside -273 to 1000"},
		{hot(60, 1) + "[amounts]\nhot_hours = 1", "hot_hours follows from temperature"},
		{`{"version":2}`, "version: 2 is not 1"},
		{`{"version":1,"on":"01.01.2027"}`, "is no date"},
		{`{"version":1,"an":1}`, "unknown field"},
		{`{"version":1}{}`, "invalid character"},
		{`{"version":1,"amounts":{"hot_hours":1,"hot_hours":0}}`, `"amounts.hot_hours" stands there twice`},
		{`{"version":1,"Version":1}`, `"version" stands there twice`},
	} {
		if _, err := label.ReadObserved([]byte(tt.text)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: %v, want %s", tt.text, err, tt.want)
		}
	}
	// A number from elsewhere takes the place of one from a file, its reason too.
	o, err := label.ReadObserved([]byte(on + seen("2027-05-01") + hot(60, 900)))
	if err != nil {
		t.Fatal(err)
	}
	o.Amounts[label.UpdateObserved], o.Amounts[label.HotHours] = 61, 7
	d, err := example(t).BestBefore(o)
	if text := d.Explain(); err != nil || strings.Contains(text, "wait") || !strings.Contains(text, "every 61 days") || !strings.Contains(text, "   7 observed") {
		t.Errorf("%s, %v", text, err)
	}
	if _, err := example(t).BestBefore(label.Observation{Model: "pump-1"}); !errors.Is(err, label.ErrModel) {
		t.Errorf("of another model: %v", err)
	}
}

// What one file says of a device and another one, too, must be the same.
func TestJoin(t *testing.T) {
	read := func(text string) label.Observation {
		o, err := label.ReadObserved([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	person, machine := read("purchased = 2026-05-04\non = 2027-06-01\n[amounts]\nstill_sold = 0"), read(`{"version":1,"model":"wearable-1","on":"2027-06-01","inspected":"2027-03-01","inspected_by":"B","temperature":[{"celsius":60,"hours":5}],"amounts":{"flash_wear":7}}`)
	sum, err := person.Join(machine)
	if err != nil {
		t.Fatal(err)
	}
	want := read("model = \"wearable-1\"\ninspected = 2027-03-01\ninspected_by = \"B\"\npurchased = 2026-05-04\non = 2027-06-01\n[amounts]\nstill_sold = 0\nflash_wear = 7\n[[temperature]]\ncelsius = 60\nhours = 5")
	if !reflect.DeepEqual(sum, want) {
		t.Errorf("%+v", sum)
	}
	for text, complaint := range map[string]string{
		"on = 2027-06-02": "on stands in both",
		"inspected = 2027-03-02\ninspected_by = \"A\"": "of inspection B and of A",
		"inspected = 2027-03-02\ninspected_by = \"B\"": "inspected stands in both",
		"model = \"pump-1\"":                           "of model wearable-1 and of pump-1",
		"[amounts]\nflash_wear = 7":                    "flash_wear stands in both",
		"[amounts]\nhot_hours = 7":                     "hot_hours, by temperature too",
		"[[temperature]]\ncelsius = 60\nhours = 5":     "temperature stands in both",
	} {
		if _, err := machine.Join(read(text)); err == nil || !strings.Contains(err.Error(), complaint) {
			t.Errorf("%q: %v, want %s", text, err, complaint)
		}
	}
}

// FuzzReadObserved holds that what can be read has a date, and is read from JSON as
// it was written.
func FuzzReadObserved(f *testing.F) {
	doc, err := os.ReadFile("../docs/best-before.md")
	if err != nil {
		f.Fatal(err)
	}
	for _, b := range fenced(string(doc))[:2] {
		f.Add([]byte(b.text))
	}
	f.Add([]byte(`{"version":1,"firmware":[{"version":"1","first_seen":"2027-05-01"}],"temperature":[{"celsius":-5,"hours":1}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := label.ReadObserved(data)
		if err != nil {
			return
		}
		o.Model = ""
		if d, err := example(t).BestBefore(o); err != nil || d.Inspect < d.Start {
			t.Fatalf("%+v, %v", d, err)
		}
	})
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
