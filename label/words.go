package label

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A Lang is a language in which labels are drawn. What the manufacturer wrote
// stays in the language it is written in.
type Lang uint8

// The languages.
const (
	English Lang = 1
	German  Lang = 2
)

// ParseLang returns the language with the ISO 639-1 code s.
func ParseLang(s string) (Lang, error) {
	switch s {
	case "en":
		return English, nil
	case "de":
		return German, nil
	}
	return 0, fmt.Errorf(`unknown language %q: want "en" or "de"`, s)
}

func (l Lang) String() string { return l.say("en", "de") }

// say returns the one of two texts that is in l. They stand beside each other so
// that none can be missing.
func (l Lang) say(en, de string) string {
	if l == German {
		return de
	}
	return en
}

// A country of the table below.
type country struct {
	code   Country
	eu     bool // member of the European Union
	en, de string
}

// countries returns the countries that are written out; others are shown by
// their code.
func countries() []country {
	return []country{
		{"AT", true, "Austria", "Österreich"}, {"BE", true, "Belgium", "Belgien"}, {"BG", true, "Bulgaria", "Bulgarien"},
		{"CY", true, "Cyprus", "Zypern"}, {"CZ", true, "Czechia", "Tschechien"}, {"DE", true, "Germany", "Deutschland"},
		{"DK", true, "Denmark", "Dänemark"}, {"EE", true, "Estonia", "Estland"}, {"ES", true, "Spain", "Spanien"},
		{"FI", true, "Finland", "Finnland"}, {"FR", true, "France", "Frankreich"}, {"GR", true, "Greece", "Griechenland"},
		{"HR", true, "Croatia", "Kroatien"}, {"HU", true, "Hungary", "Ungarn"}, {"IE", true, "Ireland", "Irland"},
		{"IT", true, "Italy", "Italien"}, {"LT", true, "Lithuania", "Litauen"}, {"LU", true, "Luxembourg", "Luxemburg"},
		{"LV", true, "Latvia", "Lettland"}, {"MT", true, "Malta", "Malta"}, {"NL", true, "Netherlands", "Niederlande"},
		{"PL", true, "Poland", "Polen"}, {"PT", true, "Portugal", "Portugal"}, {"RO", true, "Romania", "Rumänien"},
		{"SE", true, "Sweden", "Schweden"}, {"SI", true, "Slovenia", "Slowenien"}, {"SK", true, "Slovakia", "Slowakei"},
		{"CA", false, "Canada", "Kanada"}, {"CH", false, "Switzerland", "Schweiz"}, {"CN", false, "China", "China"},
		{"GB", false, "United Kingdom", "Vereinigtes Königreich"}, {"IL", false, "Israel", "Israel"}, {"IN", false, "India", "Indien"},
		{"IS", false, "Iceland", "Island"}, {"JP", false, "Japan", "Japan"}, {"KR", false, "South Korea", "Südkorea"},
		{"LI", false, "Liechtenstein", "Liechtenstein"}, {"NO", false, "Norway", "Norwegen"}, {"SG", false, "Singapore", "Singapur"},
		{"TW", false, "Taiwan", "Taiwan"}, {"US", false, "United States", "Vereinigte Staaten"},
	}
}

// country returns the name of c, with the Union it belongs to.
func (l Lang) country(c Country) string {
	for _, k := range countries() {
		if k.code != c {
			continue
		}
		if k.eu {
			return l.say(k.en+", EU", k.de+", EU")
		}
		return l.say(k.en, k.de)
	}
	return string(c)
}

func (l Lang) when(w When) string {
	switch w {
	case RealTime:
		return l.say("real time", "Echtzeit")
	case PostProcessing:
		return l.say("post processing", "Nachverarbeitung")
	}
	return l.say("real time, post processing", "Echtzeit, Nachverarbeitung")
}

func (l Lang) reach(r Reach) string {
	switch r {
	case Cloud:
		return "Cloud"
	case Local:
		return l.say("Local", "Lokal")
	}
	return l.say("Cloud and local", "Cloud und lokal")
}

func (l Lang) control(c Control) string {
	switch c {
	case ByApp:
		return "App"
	case ByDevice:
		return l.say("device itself", "Gerät selbst")
	}
	return l.say("website", "Webseite")
}

func (l Lang) protection(p Protection) string {
	switch p {
	case SecureBoot:
		return "Secure Boot"
	case MeasuredBoot:
		return l.say("measured boot", "gemessener Start")
	}
	return l.say("verified root", "geprüftes Dateisystem")
}

func (l Lang) ease(e Ease) string {
	switch e {
	case Easy:
		return l.say("easy: one action", "einfach: eine Handlung")
	case Steps:
		return l.say("several steps, alone", "mehrere Schritte, allein")
	case OnRequest:
		return l.say("on request", "auf Anfrage")
	case Complex:
		return l.say("complex: others needed", "aufwendig: andere nötig")
	}
	return l.say("not possible in use", "im Betrieb nicht möglich")
}

func (l Lang) cycle(c Cycle) string {
	if c == OnEvent {
		return l.say("on event", "bei Ereignis")
	}
	for _, u := range []struct {
		seconds                Cycle
		every, jede, one, many string
	}{
		{86400, "day", "jeden Tag", "days", "Tage"}, {3600, "hour", "jede Stunde", "hours", "Stunden"},
		{60, "minute", "jede Minute", "minutes", "Minuten"}, {1, "second", "jede Sekunde", "seconds", "Sekunden"},
	} {
		switch {
		case c == u.seconds:
			return l.say("every "+u.every, u.jede)
		case c%u.seconds == 0:
			return l.say(fmt.Sprintf("every %d %s", c/u.seconds, u.one), fmt.Sprintf("alle %d %s", c/u.seconds, u.many))
		}
	}
	return ""
}

// day returns d as people of the language write it, the month in words where the
// order of the numbers could be mistaken.
func (l Lang) day(d Day) string {
	y, m, n := d.date()
	en := [...]string{"", "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"}
	return l.say(fmt.Sprintf("%d %s %d", n, en[m], y), fmt.Sprintf("%02d.%02d.%d", n, m, y))
}

// bounds returns a range for people: "10 to 80 °C".
func (l Lang) bounds(r *Range, unit string) string {
	if r == nil {
		return "–"
	}
	low, u := l.quantity(r.Min, unit)
	high, v := l.quantity(r.Max, unit)
	switch {
	case r.Min == nil && r.Max == nil:
		return "–"
	case r.Min == nil:
		return "≤ " + high + v
	case r.Max == nil:
		return "≥ " + low + u
	case u == v:
		return low + "–" + high + v
	}
	return low + u + "–" + high + v
}

// quantity returns a number in the unit that people read, without rounding, and
// the unit with a space before it.
func (l Lang) quantity(n *int64, unit string) (string, string) {
	if n == nil {
		return "", ""
	}
	point := l.say(".", ",")
	for _, s := range []struct {
		unit   string
		factor int64
		to     string
	}{
		{"m°C", 1000, "°C"}, {"mW", 1000, "W"}, {"mV", 1000, "V"}, {"mJ", 1000, "J"}, {"ms", 1000, "s"}, {"permille", 10, "%"}, {"kHz", 1000, "MHz"},
	} {
		if s.unit == unit {
			return thousandth(*n, s.factor, point), " " + s.to
		}
	}
	if unit == "KiB" && *n%1024 == 0 && *n != 0 {
		return strconv.FormatInt(*n/1024, 10), " MiB"
	}
	if unit == "1" {
		return strconv.FormatInt(*n, 10), ""
	}
	return strconv.FormatInt(*n, 10), " " + unit
}

// thousandth writes n divided by a power of ten.
func thousandth(n, by int64, point string) string {
	sign, u := "", uint64(n)
	if n < 0 {
		sign, u = "-", -u
	}
	digits := len(strconv.FormatInt(by, 10)) - 1
	rest := strings.TrimRight(fmt.Sprintf("%0*d", digits, u%uint64(by)), "0")
	if rest != "" {
		rest = point + rest
	}
	return sign + strconv.FormatUint(u/uint64(by), 10) + rest
}

// places returns each country once, with those who keep machines there if by.
func (l Lang) places(list []Place, by bool) string {
	if len(list) == 0 {
		return l.say("None", "Keine")
	}
	var codes []Country
	who := map[Country][]string{}
	for _, p := range list {
		if !slices.Contains(codes, p.Country) {
			codes = append(codes, p.Country)
		}
		if by && p.By != "" {
			who[p.Country] = append(who[p.Country], p.By)
		}
	}
	return strings.Join(mapped(codes, func(c Country) string {
		if len(who[c]) > 0 {
			return l.country(c) + " (" + strings.Join(who[c], ", ") + ")"
		}
		return l.country(c)
	}), "; ")
}
