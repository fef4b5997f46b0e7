package label

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/miotfacts/miotfacts/advisory"
)

// ErrBOM says that a file is not the bill of materials that a label names.
var ErrBOM = errors.New("not the bill of materials of the label")

// Software is what is known of a device's software beside the label.
type Software struct {
	BOM   *advisory.BOM
	Flaws *advisory.Result // nil: compared with no advisories
}

// OpenBOM reads the bill of materials that l names, and refuses any other file.
func (l *Label) OpenBOM(data []byte) (*advisory.BOM, error) {
	if l.SBOM == nil {
		return nil, fmt.Errorf("cannot open bill of materials: %w: it names none", ErrBOM)
	}
	b, err := advisory.ReadBOM(data)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(b.SHA256[:], l.SBOM.SHA256) {
		return nil, fmt.Errorf("cannot open bill of materials: %w: sha256 is %x, the label says %x", ErrBOM, b.SHA256, []byte(l.SBOM.SHA256))
	}
	return b, nil
}

// Advisories returns a Matcher for the software of the device.
func (l *Label) Advisories(b *advisory.BOM) (*advisory.Matcher, error) {
	d := advisory.Device{Vendor: l.Vendor, Model: l.Model}
	if l.SBOM != nil {
		d.BOM = l.SBOM.URL
	}
	return advisory.NewMatcher(b, d)
}

// open returns the number of open vulnerabilities of a kind, as they count.
func (o Observation) open(k Kind) uint32 {
	severity := map[Kind]advisory.Severity{CriticalFlaws: advisory.Critical, HighFlaws: advisory.High, MediumFlaws: advisory.Medium, LowFlaws: advisory.Low}
	if s, ok := severity[k]; ok && o.Flaws != nil {
		return uint32(o.Flaws.Open(s)) // bounded far below by what a Matcher takes
	}
	return 0
}

// unrated returns how many open vulnerabilities nobody appraised, and the kind they
// count as: the worst that the label gives a weight; 0 if it weighs none.
func (l *Label) unrated(o Observation) (uint32, Kind) {
	if o.Flaws == nil {
		return 0, 0
	}
	for k := CriticalFlaws; k <= LowFlaws; k++ {
		if l.weighs(k) {
			return uint32(o.Flaws.Open(advisory.Unknown)), k
		}
	}
	return uint32(o.Flaws.Open(advisory.Unknown)), 0
}

func (l *Label) weighs(k Kind) bool {
	for _, p := range l.Inspection.Parameters {
		if p.Kind == k {
			return true
		}
	}
	return false
}

// severity returns a severity in words.
func (l Lang) severity(s advisory.Severity) string {
	switch s {
	case advisory.Critical:
		return l.say("critical", "kritisch")
	case advisory.High:
		return l.say("high", "hoch")
	case advisory.Medium:
		return l.say("medium", "mittel")
	case advisory.Low:
		return l.say("low", "niedrig")
	}
	return l.say("not appraised", "nicht bewertet")
}

// state returns a state in words.
func (l Lang) state(s advisory.State) string {
	switch s {
	case advisory.Investigated:
		return l.say("OPEN: under investigation", "OFFEN: wird untersucht")
	case advisory.NotAffected:
		return l.say("not affected", "nicht betroffen")
	case advisory.Fixed:
		return l.say("fixed", "behoben")
	}
	return l.say("OPEN", "OFFEN")
}

// flawHead names the columns of Rows.
func (l Lang) flawHead() []string {
	return []string{l.say("Vulnerability", "Schwachstelle"), l.say("State", "Stand"), l.say("Severity", "Schwere"), l.say("Where", "Wo"), l.say("Why", "Warum")}
}

// Rows returns the vulnerabilities as a table: open ones first, the worst first.
func (s *Software) Rows(lang Lang) [][]string {
	var rows [][]string
	if s.Flaws == nil {
		return nil
	}
	for _, v := range s.Flaws.Vulnerabilities {
		severity := lang.severity(v.Severity)
		if v.Severity == advisory.Unknown && v.State.Open() {
			severity += lang.say(", counts as the worst", ", zählt als schlimmste")
		}
		if v.Basis != "" {
			severity += " (" + v.Basis + ")"
		}
		why := v.Why
		if why == "" {
			why = lang.say("no reason given", "ohne Begründung")
		}
		if v.Source != v.ID {
			why += " [" + v.Source + "]"
		}
		rows = append(rows, []string{
			strings.Join(append([]string{v.ID}, v.Aliases...), ", "), lang.state(v.State), severity, strings.Join(v.Where, ", "), why,
		})
	}
	return rows
}

// Notes says in words what was compared, and what was not.
func (s *Software) Notes(lang Lang) []string {
	notes := []string{fmt.Sprintf(lang.say("The bill of materials is the one that the label names (sha256 %x…): %d components.", "Die Stückliste ist die, die das Etikett nennt (sha256 %x…): %d Komponenten."), s.BOM.SHA256[:8], len(s.BOM.Components))}
	if s.Flaws == nil {
		return append(notes, lang.say("It was compared with no advisories: vulnerabilities are not known.", "Sie wurde mit keinen Meldungen verglichen: Schwachstellen sind nicht bekannt."))
	}
	open, out := 0, 0
	for _, v := range s.Flaws.Vulnerabilities {
		if v.State.Open() {
			open++
		} else {
			out++
		}
	}
	notes = append(notes, fmt.Sprintf(lang.say("Known vulnerabilities: %d open, %d not affected or fixed, by %d documents whose signatures were not checked.", "Bekannte Schwachstellen: %d offen, %d nicht betroffen oder behoben, nach %d Dokumenten, deren Signaturen nicht geprüft wurden."), open, out, s.Flaws.Documents))
	if n := len(s.Flaws.Unidentified); n > 0 {
		notes = append(notes, fmt.Sprintf(lang.say("Not compared: %d components without a package URL (%s).", "Nicht verglichen: %d Komponenten ohne Package-URL (%s)."), n, listed(s.Flaws.Unidentified)))
	}
	if n := s.Flaws.Withdrawn; n > 0 {
		notes = append(notes, fmt.Sprintf(lang.say("Withdrawn by their database: %d entries.", "Von ihrer Datenbank zurückgezogen: %d Einträge."), n))
	}
	for _, x := range s.Flaws.NotCompared {
		notes = append(notes, lang.say("Not compared: ", "Nicht verglichen: ")+x+".")
	}
	return notes
}

// listed names the first of many.
func listed(names []string) string {
	const most = 5
	if len(names) > most {
		return strings.Join(names[:most], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}

// Text writes the software down for a terminal.
func (s *Software) Text(lang Lang) (string, error) {
	var b strings.Builder
	for _, n := range s.Notes(lang) {
		fmt.Fprintln(&b, n)
	}
	if rows := s.Rows(lang); len(rows) > 0 {
		fmt.Fprintln(&b)
		w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		for _, r := range append([][]string{lang.flawHead()}, rows...) {
			fmt.Fprintln(w, strings.Join(r, "\t"))
		}
		if err := w.Flush(); err != nil {
			return "", fmt.Errorf("cannot write vulnerabilities: %w", err)
		}
	}
	return b.String(), nil
}
