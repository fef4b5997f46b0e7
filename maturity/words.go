package maturity

import (
	"fmt"
	"strings"
	"time"
)

// Name returns the dimension in a language.
func (d Dimension) Name(l Lang) string {
	switch d {
	case Structure:
		return Text{"Structure", "Struktur"}.In(l)
	case Process:
		return Text{"Process", "Prozess"}.In(l)
	case Outcome:
		return Text{"Outcome", "Ergebnis"}.In(l)
	}
	return string(d)
}

// Name returns the standing in a language.
func (s Standing) Name(l Lang) string {
	switch s {
	case Proved:
		return Text{"proved by data", "durch Daten belegt"}.In(l)
	case Answered:
		return Text{"met, a person says", "erfüllt laut Angabe"}.In(l)
	case Covered:
		return Text{"met by a higher one", "durch ein höheres erfüllt"}.In(l)
	case Inapplicable:
		return Text{"not applicable", "nicht anwendbar"}.In(l)
	case Contradicted:
		return Text{"contradicted by data", "durch Daten widerlegt"}.In(l)
	case Denied:
		return Text{"not met, a person says", "nicht erfüllt laut Angabe"}.In(l)
	case Unanswered:
		return Text{"open", "offen"}.In(l)
	}
	return string(s)
}

// Sign returns one character for the standing, so that colour is not needed.
func (s Standing) Sign() string {
	switch {
	case s.Met():
		return "✓"
	case s == Inapplicable:
		return "–"
	case s == Unanswered:
		return "?"
	}
	return "✗"
}

// LevelName returns a level with its name, "3, on the way". Level 0 is what the
// stricter reading gives where level one is not complete.
func LevelName(level int, l Lang) string {
	if level < 1 || level > MaxLevel {
		return Text{"0, none complete", "0, keine vollständig"}.In(l)
	}
	return fmt.Sprintf("%d, %s", level, Levels()[level-1].In(l))
}

// Note says where a person and the data disagree, or what data leaves to a
// person; "" for nothing of it.
func (r Result) Note(l Lang) string {
	switch {
	case r.Dispute && r.Standing == Denied:
		return Text{"data would prove it", "Daten würden es belegen"}.In(l)
	case r.Dispute && r.Answer.Answer == Yes:
		return Text{"a person said yes", "ein Mensch sagte ja"}.In(l)
	case r.Dispute:
		return Text{"a person said not applicable", "ein Mensch sagte nicht anwendbar"}.In(l)
	case r.Partial:
		return Text{"data agrees and is not enough to prove", "Daten stimmen zu und genügen nicht als Beleg"}.In(l)
	}
	return ""
}

// In returns the reading in a language, with what it says.
func (r Reading) In(l Lang) string {
	limit := Text{"at most", "höchstens"}
	if r.AtLeast {
		limit = Text{"at least", "mindestens"}
	}
	says := Text{"says nothing", "sagt nichts"}
	switch {
	case r.Contradicts():
		says = Text{"contradicts", "widerspricht"}
	case r.Holds():
		says = Text{"holds", "trifft zu"}
	}
	return fmt.Sprintf("%s = %d (%s %d): %s", r.Observation, r.Value, limit.In(l), r.Limit, says.In(l))
}

// In returns what the data is about in a language.
func (d *Data) In(l Lang) string {
	return fmt.Sprintf(Text{"%s, %s to %s, about %d of %d devices", "%s, %s bis %s, über %d von %d Geräten"}.In(l),
		d.Source, d.From.Format(time.DateOnly), d.Until.Format(time.DateOnly), d.Devices, d.Inventory)
}

// In returns who said what, when and on what evidence, in one line; "" for
// nobody.
func (a Answer) In(l Lang) string {
	if a.Who == "" {
		return ""
	}
	word := Text{a.Answer, map[string]string{Yes: "ja", No: "nein", NotApplicable: "nicht anwendbar", Open: "offen"}[a.Answer]}.In(l)
	if a.Answer == NotApplicable && l != German {
		word = "not applicable"
	}
	parts := []string{word, a.Who}
	if !a.When.IsZero() {
		parts = append(parts, a.When.Format(time.DateOnly))
	}
	text := strings.Join(parts, ", ")
	if a.Evidence != "" {
		text += ": " + a.Evidence
	}
	return text
}
