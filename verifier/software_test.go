package verifier_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/label"
	"github.com/miotfacts/miotfacts/reference/referencetest"
	"github.com/miotfacts/miotfacts/verifier"
)

// The bill of materials is the one that the label names, or it is said why not;
// advisories move the day and are shown, those that a VEX takes out too.
func TestSoftware(t *testing.T) {
	file := func(name ...string) verifier.LabelFile {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(append([]string{"..", "configs"}, name...)...))
		if err != nil {
			t.Fatal(err)
		}
		return verifier.LabelFile{Name: name[len(name)-1], Data: data}
	}
	bom := file("label-example.cdx.json")
	osv, vex := file("label-example-vulnerabilities", "osv.json"), file("label-example-vulnerabilities", "vex.json")
	vex.Data = bytes.Replace(vex.Data, []byte("\"name\": \"wearable-1\""), []byte("\"name\": \"pump-1\""), 1) // this test's model
	torn := verifier.LabelFile{Name: "torn.json", Data: []byte("{")}
	other := verifier.LabelFile{Name: "other.json", Data: []byte("{}")}
	forged := verifier.LabelFile{Name: "wearable-1.cdx.json", Data: append(slices.Clone(bom.Data), ' ')}
	for _, tt := range []struct {
		name       string
		label      func(*label.Label)
		boms, adv  []verifier.LabelFile
		booted     string
		verdict    verifier.Verdict
		text       string
		open, out  int    // vulnerabilities
		noFlaws    string // part of why there are none
		flawsKnown bool   // the day knows critical flaws
	}{
		{name: "the label names none", label: func(l *label.Label) { l.SBOM = nil }, boms: []verifier.LabelFile{bom}, verdict: verifier.Open, text: "names no bill of materials"},
		{name: "none is here", verdict: verifier.Open, text: "no bill of materials was given"},
		{name: "another's", boms: []verifier.LabelFile{other}, verdict: verifier.Open, text: "none of 1 files is the bill of materials that the label names, sha256 45f72461"},
		{name: "altered", boms: []verifier.LabelFile{forged}, verdict: verifier.Contradicts, text: "wearable-1.cdx.json has the name that the label gives and sha256"},
		{name: "unreadable", boms: []verifier.LabelFile{{Name: "wearable-1.cdx.json", Err: errors.New("input/output error")}}, verdict: verifier.Open, text: "cannot be read: input/output error"},
		{name: "the one", boms: []verifier.LabelFile{other, bom}, verdict: verifier.Fits, text: "is the file that the label names, with", noFlaws: "no advisories were given"},
		{name: "compared", boms: []verifier.LabelFile{bom}, adv: []verifier.LabelFile{osv, vex}, verdict: verifier.Fits, open: 2, out: 2, flawsKnown: true},
		{name: "one advisory is torn", boms: []verifier.LabelFile{bom}, adv: []verifier.LabelFile{osv, torn}, verdict: verifier.Fits, noFlaws: "torn.json: cannot read advisory"},
		{name: "one advisory is on a bad disk", boms: []verifier.LabelFile{bom}, adv: []verifier.LabelFile{osv, {Name: "bad.json", Err: errors.New("input/output error")}}, verdict: verifier.Fits, noFlaws: "bad.json: input/output error"},
		{name: "its version booted", boms: []verifier.LabelFile{bom}, booted: "system 1.4.0", verdict: verifier.Fits, text: "it is of version 1.4.0, which booted", noFlaws: "no advisories"},
		{name: "another version booted", boms: []verifier.LabelFile{bom}, booted: "system 1.3.9", verdict: verifier.Contradicts, text: "it is of version 1.4.0, and system 1.3.9 booted", noFlaws: "no advisories"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := referencetest.New(t)
			l := pumpLabel(t)
			if tt.label != nil {
				tt.label(l)
			}
			f := labelled(t, w, referencetest.Example(), []verifier.LabelFile{{Name: "a", Data: signLabel(t, w.Label, l)}}, func(c *verifier.Config) { c.BOMs, c.Advisories = tt.boms, tt.adv })
			d := f.NewDevice().Enrolled()
			plain(d)
			d.Accepted(d.Message(attest.KindBoot))
			if tt.booted != "" {
				stored, err := f.Store.Device(d.UEID)
				if err != nil {
					t.Fatal(err)
				}
				stored.Boot.Quoted, stored.Boot.Versions = true, []string{"firmware 7", tt.booted}
				if err := f.Store.Save(stored); err != nil {
					t.Fatal(err)
				}
			}
			v := d.View()
			i := slices.IndexFunc(v.Life.Checks, func(c verifier.Check) bool { return c.Code == verifier.ReasonLabelSBOM })
			if i < 0 || v.Life.Checks[i].Verdict != tt.verdict || !strings.Contains(v.Life.Checks[i].Text, tt.text) {
				t.Fatalf("%+v, want %s with %q", v.Life.Checks, tt.verdict, tt.text)
			}
			if slices.Contains(codes(v.Findings), verifier.ReasonLabelSBOM) != (tt.verdict == verifier.Contradicts) {
				t.Errorf("findings: %v", v.Findings)
			}
			s := v.Life.Software
			open, out := 0, 0
			if s.Software != nil && s.Flaws != nil {
				for _, x := range s.Flaws.Vulnerabilities {
					if x.State.Open() {
						open++
					} else {
						out++
					}
				}
			}
			if open != tt.open || out != tt.out || !strings.Contains(s.NoFlaws, tt.noFlaws) {
				t.Errorf("%d open, %d taken out, %q; want %d, %d, %q", open, out, s.NoFlaws, tt.open, tt.out, tt.noFlaws)
			}
			if told := slices.ContainsFunc(v.Findings, func(x verifier.Finding) bool {
				return x.Code == verifier.ReasonLabelOpen && strings.Contains(x.Text, "vulnerabilities (")
			}); told != (tt.noFlaws != "") {
				t.Errorf("that they are not known is said: %t, %v", told, v.Findings)
			}
			j := slices.IndexFunc(v.Life.Date.Steps, func(s label.Step) bool { return s.What == label.CriticalFlaws.String() })
			if v.Life.Date.Steps[j].Known != tt.flawsKnown {
				t.Errorf("%+v", v.Life.Date.Steps[j])
			}
		})
	}
}
