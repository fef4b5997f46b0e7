package label

import (
	"fmt"
	"strings"
)

// A Sheet is a label in words, as every picture of it shows them.
type Sheet struct {
	Lang     Lang
	Title    string // "IoT Components Facts"
	Device   string
	Vendor   string
	Example  string // set if the label is made up
	Sections []Section
	Inspect  string // heading of the date
	Date     string // the best-before-inspection date
	DateNote string
	Scan     string   // what the code is
	Link     []string // what the code with the link is, if there is one
	Validity string
}

// A Section is a table of two columns, or of four where Stages is set.
type Section struct {
	Title, Note string
	Stages      bool // columns: fact, integration, operating, fail-safe
	Head        []string
	Rows        [][]string
}

// Sheet returns the label in words. The date is what the label alone says:
// nothing is observed.
func (l *Label) Sheet(lang Lang) *Sheet {
	say := lang.say
	none := say("None", "Keine")
	s := &Sheet{
		Lang: lang, Device: l.Model, Vendor: l.Vendor,
		Title:    say("IoT Components Facts", "IoT-Komponentenangaben"),
		Inspect:  say("Best before inspection", "Spätestens prüfen"),
		DateNote: say("Then inspect it; do not throw it away.", "Dann prüfen, nicht wegwerfen."),
		Scan:     say("The code holds this label, signed.", "Der Code enthält dieses Etikett, signiert."),
		Validity: fmt.Sprintf(say("Edition %d, valid %s to %s", "Ausgabe %d, gültig %s bis %s"), l.Sequence, lang.day(l.From), lang.day(l.Until)),
	}
	if l.Example {
		s.Example = say("EXAMPLE – not issued by a maker", "BEISPIEL – von keinem Hersteller")
	}
	if d, err := l.BestBefore(Observation{}); err == nil {
		s.Date = lang.day(d.Inspect)
	} else {
		s.Date = fmt.Sprintf(say("%d days from purchase", "%d Tage ab Kauf"), l.unbounded())
	}
	if l.Details != "" {
		s.Link = []string{say("The small code is only a link to details.", "Der kleine Code ist nur ein Link zu mehr.")}
	}
	add := func(title, note string, rows [][]string) {
		if len(rows) == 0 {
			note, rows = "", [][]string{{none, ""}}
		}
		s.Sections = append(s.Sections, Section{Title: title, Note: note, Rows: rows})
	}
	add(say("Sensors / detectors", "Sensoren / Detektoren"), say("yields, when", "liefert, wann"), mapped(l.Sensors, func(x Sensor) []string {
		return []string{x.Name, x.Yields + ", " + lang.when(x.When)}
	}))
	add(say("Actuators", "Aktoren"), say("does", "bewirkt"), mapped(l.Actuators, func(x Actuator) []string { return []string{x.Name, x.Does} }))
	add(say("Connectivity / network", "Verbindungen / Netz"), say("cloud or local", "Cloud oder lokal"), mapped(l.Connections, func(x Connection) []string {
		return []string{x.Protocol, lang.reach(x.Reach)}
	}))
	line := func(list []string) string {
		if len(list) == 0 {
			return none
		}
		return strings.Join(list, "; ")
	}
	where := [][]string{
		{say("Gateways", "Gateways"), line(l.Gateways)},
		{say("Cloud location", "Ort der Cloud"), lang.places(l.Cloud, true)},
		{say("Storage location", "Ort der Speicherung"), lang.places(l.Storage, true)},
	}
	add(say("Where data go", "Wohin Daten gehen"), "", where)
	e := l.Responsible
	add(say("Responsible entity", "Verantwortlich"), "", [][]string{{e.Name, lang.country(e.Country)}, {e.Phone, e.Email}})
	add(say("Stored attributes", "Gespeicherte Daten"), say("cycle", "Zyklus"), mapped(l.Attributes, func(x Attribute) []string { return []string{x.Name, lang.cycle(x.Cycle)} }))
	add(say("User control", "Bedienung durch Nutzer"), "", [][]string{{line(mapped(l.Control, lang.control)), ""}})
	add(say("Deletion of data", "Löschen von Daten"), say("1 easy to 5 complex", "1 einfach bis 5 aufwendig"), mapped(l.Deletion, func(x Deletion) []string {
		name := x.Of
		if x.How != "" {
			name += " – " + x.How
		}
		return []string{name, fmt.Sprintf("%d %s", x.Ease, lang.ease(x.Ease))}
	}))
	s.Sections = append(s.Sections, l.runtimeSection(lang))
	u := l.Updates
	life := [][]string{
		{say("Updates at least every", "Updates mindestens alle"), fmt.Sprintf(say("%d days", "%d Tage"), u.Every)},
		{say("Security support until", "Sicherheitssupport bis"), lang.day(u.SupportUntil)},
	}
	optional := func(name, value string) {
		if value != "" {
			life = append(life, []string{name, value})
		}
	}
	if u.EndOfSales != 0 {
		optional(say("Sold until", "Verkauf bis"), lang.day(u.EndOfSales))
	}
	if u.EndOfLife != 0 {
		optional(say("End of life", "Lebensende"), lang.day(u.EndOfLife))
	}
	if len(l.Boot) > 0 {
		optional(say("Start protected by", "Start geschützt durch"), line(mapped(l.Boot, lang.protection)))
	}
	optional(say("Report a flaw to", "Schwachstelle melden an"), u.Contact)
	if l.Made != 0 {
		optional(say("Manufactured", "Hergestellt"), lang.day(l.Made))
	}
	if l.SBOM != nil {
		optional(say("Bill of materials", "Software-Stückliste"), l.SBOM.URL)
	}
	optional(say("Network policy (MUD)", "Netzregeln (MUD)"), l.MUD)
	optional("UDI-DI", l.UDI)
	if l.CE == "self" {
		optional("CE", say("self-declared", "selbst erklärt"))
	} else {
		optional("CE", l.CE)
	}
	optional(say("Details", "Mehr dazu"), l.Details)
	add(say("Lifecycle and identifiers", "Lebenszyklus und Kennungen"), "", life)
	return s
}

func (l *Label) runtimeSection(lang Lang) Section {
	s := Section{
		Title: lang.say("Runtime facts", "Laufzeitwerte"), Stages: true,
		Head: []string{lang.say("Fact", "Wert"), "Integration", lang.say("Operating", "Betrieb"), "Fail-safe"},
	}
	for _, r := range l.Runtime {
		s.Rows = append(s.Rows, []string{r.Fact, lang.bounds(r.Integration, r.Unit), lang.bounds(r.Operating, r.Unit), lang.bounds(r.FailSafe, r.Unit)})
	}
	if len(s.Rows) == 0 {
		s.Rows = [][]string{{lang.say("None", "Keine"), "", "", ""}}
	}
	return s
}

func mapped[T, U any](list []T, f func(T) U) []U {
	var out []U
	for _, x := range list {
		out = append(out, f(x))
	}
	return out
}
