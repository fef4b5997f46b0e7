package label

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
)

const maxDays = 36525 // 100 years; a longer span is a slip of the pen

// What people write in texts of a certain form, as narrow as they need it.
var (
	address  = regexp.MustCompile(`^https://[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+(:[0-9]{1,5})?(/[!-~]*)?$`)
	mail     = regexp.MustCompile(`^[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+$`)
	phone    = regexp.MustCompile(`^\+[1-9][0-9 ]{4,22}[0-9]$`)
	notified = regexp.MustCompile(`^[0-9]{4}$`)
)

type checker struct{ found []reference.Problem }

func (c *checker) bad(path, fix, format string, args ...any) {
	c.found = append(c.found, reference.Problem{Path: path, Message: fmt.Sprintf(format, args...), Fix: fix})
}

func (c *checker) warn(path, fix, format string, args ...any) {
	c.found = append(c.found, reference.Problem{Path: path, Message: fmt.Sprintf(format, args...), Fix: fix, Warning: true})
}

// missing complains about a row of the label that is not there.
func (c *checker) missing(path, row, fix string) { c.bad(path, fix, "missing row: %s", row) }

// text complains about a text that is empty, too long or not for printing.
func (c *checker) text(path, s string) {
	switch {
	case s == "":
		c.bad(path, "write it", "missing")
	case len(s) > MaxText:
		c.bad(path, "shorten it", "%d bytes, the limit is %d", len(s), MaxText)
	case strings.TrimSpace(s) != s || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }):
		c.bad(path, "remove what cannot be printed, and spaces at its ends", "%q is not plain text", s)
	}
}

func (c *checker) optional(path, s string) {
	if s != "" {
		c.text(path, s)
	}
}

func (c *checker) url(path, s string) {
	if s != "" && (!address.MatchString(s) || len(s) > MaxText) {
		c.bad(path, `write an address that begins with "https://"`, "%q is no https address of at most %d bytes", s, MaxText)
	}
}

func (c *checker) country(path string, s Country) {
	if len(s) != 2 || s[0] < 'A' || s[0] > 'Z' || s[1] < 'A' || s[1] > 'Z' {
		c.bad(path, `write the two-letter code of ISO 3166-1: country = "NL"`, "%q is no country code", s)
	}
}

func (c *checker) choice(path string, i int, names []string) {
	if i < 1 || i >= len(names) {
		c.bad(path, `write one of "`+strings.Join(names[1:], `", "`)+`"`, "%s", nameOf([]string{}, i))
	}
}

func (c *checker) day(path string, d Day) {
	if d == 0 {
		c.bad(path, "write a date: 2031-12-31", "missing")
	}
	c.optionalDay(path, d)
}

func (c *checker) optionalDay(path string, d Day) {
	switch {
	case d == noDay:
		c.bad(path, "write a date from 1971 on without quotes: 2031-12-31", "it is no date")
	case d < 0 || d > maxDay:
		c.bad(path, "write a date from 1971 to 9999", "day %d is outside 0 to %d", d, maxDay)
	}
}

// rows checks the number of rows in a list, and calls each for every one. A list
// that is nil was not written.
func rows[T any](c *checker, path, row, fix string, list []T, each func(at string, row T)) {
	if list == nil {
		c.missing(path, row, fix)
	}
	if len(list) > MaxRows {
		c.bad(path, "merge rows", "%d rows, the limit is %d", len(list), MaxRows)
		return
	}
	for i, r := range list {
		each(fmt.Sprintf("%s[%d]", path, i), r)
	}
}

// Check returns everything that is wrong with l, in the order of its fields. A
// label with a problem that is not a warning is neither signed nor opened.
func (l *Label) Check() []reference.Problem {
	c := &checker{}
	if l.Version != 1 {
		c.bad("version", "write version = 1", "version %d is not 1", l.Version)
	}
	c.text("vendor", l.Vendor)
	c.text("model", l.Model)
	if l.Sequence < 1 || l.Sequence > 1<<63-1 {
		c.bad("sequence", "write sequence = 1 and raise it with every edition", "sequence %d is outside 1 to 2^63-1", l.Sequence)
	}
	c.day("from", l.From)
	c.day("until", l.Until)
	if l.Until < l.From && l.Until != noDay {
		c.bad("until", "write an until that is not before from", "validity from %s until %s is empty", l.From, l.Until)
	}
	c.components(l)
	c.boot(l.Boot)
	c.data(l)
	c.runtime(l.Runtime)
	c.lifecycle(l)
	return c.found
}

func (c *checker) components(l *Label) {
	rows(c, "sensor", "sensors and what they yield", "add [[sensor]] tables, or sensor = [] if there is none", l.Sensors, func(at string, s Sensor) {
		c.text(at+".name", s.Name)
		c.text(at+".yields", s.Yields)
		c.choice(at+".when", int(s.When), whenNames())
	})
	rows(c, "actuator", "actuators", "add [[actuator]] tables, or actuator = [] if there is none", l.Actuators, func(at string, a Actuator) {
		c.text(at+".name", a.Name)
		c.text(at+".does", a.Does)
	})
	rows(c, "connection", "connectivity and network", "add [[connection]] tables, or connection = [] if there is none", l.Connections, func(at string, x Connection) {
		c.text(at+".protocol", x.Protocol)
		c.choice(at+".reach", int(x.Reach), reachNames())
	})
	rows(c, "gateway", "gateways", `write gateway = ["..."], or gateway = [] if there is none`, l.Gateways, c.text)
	place := func(at string, p Place) {
		c.country(at+".country", p.Country)
		c.optional(at+".by", p.By)
	}
	rows(c, "cloud", "cloud location", "add [[cloud]] tables, or cloud = [] if there is none", l.Cloud, place)
	rows(c, "storage", "storage location", "add [[storage]] tables, or storage = [] if nothing is stored", l.Storage, place)
	if len(l.Cloud) == 0 && slices.ContainsFunc(l.Connections, func(x Connection) bool { return x.Reach&Cloud != 0 }) {
		c.bad("cloud", "add a [[cloud]] table", "no cloud location, but a connection that reaches the cloud")
	}
}

// boot checks what the label says of its boot, which it need not do.
func (c *checker) boot(list []Protection) {
	if list != nil && len(list) == 0 {
		c.bad("boot", "name what protects it, or remove the key: what is not said is not compared", "nothing is named")
	}
	for i, p := range list {
		at := fmt.Sprintf("boot[%d]", i)
		c.choice(at, int(p), protectionNames())
		if slices.Contains(list[:i], p) {
			c.bad(at, "remove it", "%s stands there twice", p)
			return
		}
	}
}

func (c *checker) data(l *Label) {
	if e := l.Responsible; e == (Entity{}) {
		c.missing("responsible", "responsible entity", "add a [responsible] table with name, phone, email and country")
	} else {
		c.text("responsible.name", e.Name)
		if !phone.MatchString(e.Phone) {
			c.bad("responsible.phone", `write it with the code of the country: phone = "+49 96 1234"`, "%q is no phone number", e.Phone)
		}
		if !mail.MatchString(e.Email) || len(e.Email) > MaxText {
			c.bad("responsible.email", `write email = "security@example.com"`, "%q is no mail address", e.Email)
		}
		c.country("responsible.country", e.Country)
	}
	rows(c, "attribute", "stored attributes and their cycle", "add [[attribute]] tables, or attribute = [] if nothing is stored", l.Attributes, func(at string, a Attribute) {
		c.text(at+".name", a.Name)
		if a.Cycle < OnEvent || a.Cycle == 0 {
			c.bad(at+".cycle", `write cycle = "1m" or cycle = "on event"`, "no cycle")
		}
	})
	if len(l.Attributes) > 0 && len(l.Storage) == 0 && l.Storage != nil {
		c.bad("storage", "add a [[storage]] table", "no storage location, but %d stored attributes", len(l.Attributes))
	}
	rows(c, "user_control", "user control", `write user_control = ["app", "device", "website"], or [] if there is none`, l.Control, func(at string, u Control) {
		c.choice(at, int(u), controlNames())
	})
	rows(c, "deletion", "deletion of data, from easy to complex", "add [[deletion]] tables, or deletion = [] if nothing is stored", l.Deletion, func(at string, d Deletion) {
		c.text(at+".of", d.Of)
		c.choice(at+".ease", int(d.Ease), easeNames())
		c.optional(at+".how", d.How)
	})
	if len(l.Attributes) > 0 && len(l.Deletion) == 0 && l.Deletion != nil {
		c.bad("deletion", "add a [[deletion]] table", "%d stored attributes, and nothing said of their deletion", len(l.Attributes))
	}
}

func (c *checker) runtime(list []Runtime) {
	vocab, err := facts.NewVocabulary(nil)
	if err != nil {
		c.bad("runtime", "report this", "cannot make the vocabulary: %v", err)
		return
	}
	rows(c, "runtime", "runtime facts in short", "add [[runtime]] tables, or runtime = [] if the device measures none", list, func(at string, r Runtime) {
		d, known := vocab.ByName(r.Fact)
		switch {
		case !known && (!strings.HasPrefix(r.Fact, "app.") || len(r.Fact) > MaxText):
			c.bad(at+".fact", "see factsctl facts list, or name an app. fact of the manifest", "no fact is called %q", r.Fact)
		case known && d.Kind != facts.Int:
			c.bad(at+".fact", "leave it to the manifest", "%s is no number, so it has no range", r.Fact)
		case known && d.Unit != r.Unit:
			c.bad(at+".unit", fmt.Sprintf("write unit = %q", d.Unit), "%s has unit %q, not %q", r.Fact, d.Unit, r.Unit)
		}
		c.text(at+".unit", r.Unit)
		if r.Integration == nil && r.Operating == nil && r.FailSafe == nil {
			c.bad(at, "write integration, operating or fail_safe = { min = ..., max = ... }", "%s: no range of any stage", r.Fact)
		}
		for _, s := range []struct {
			stage string
			r     *Range
		}{{"integration", r.Integration}, {"operating", r.Operating}, {"fail_safe", r.FailSafe}} {
			if s.r != nil && (s.r.Min == nil && s.r.Max == nil || s.r.Min != nil && s.r.Max != nil && *s.r.Min > *s.r.Max) {
				c.bad(at+"."+s.stage, "write min, max or both, min not above max", "%s: the range is empty or has no end", r.Fact)
			}
		}
		if o, f := r.Operating, r.FailSafe; o != nil && f != nil {
			if f.Max != nil && (o.Max == nil || *o.Max > *f.Max) || f.Min != nil && (o.Min == nil || *o.Min < *f.Min) {
				c.bad(at+".operating", "narrow it, or widen fail_safe", "%s: the operating range goes beyond the fail-safe range", r.Fact)
			}
		}
	})
}

func (c *checker) lifecycle(l *Label) {
	u := l.Updates
	if u == (Updates{}) {
		c.missing("updates", "update promise", "add an [updates] table with every_days and end_of_security_support")
	} else {
		if u.Every < 1 || u.Every > maxDays {
			c.bad("updates.every_days", "write the most days between two updates: every_days = 90", "%d is outside 1 to %d", u.Every, maxDays)
		}
		c.day("updates.end_of_security_support", u.SupportUntil)
		c.optionalDay("updates.end_of_life", u.EndOfLife)
		c.optionalDay("updates.end_of_sales", u.EndOfSales)
		c.optional("updates.report_flaw_to", u.Contact)
	}
	c.inspection(l)
	c.optionalDay("manufactured", l.Made)
	switch {
	case l.SBOM == nil:
		c.warn("sbom", "add sbom = { url = \"https://...\", sha256 = \"...\" }", "missing row: reference to the software bill of materials")
	default:
		if l.SBOM.URL == "" {
			c.bad("sbom.url", "write url = \"https://...\"", "missing")
		}
		c.url("sbom.url", l.SBOM.URL)
		if len(l.SBOM.SHA256) != 32 {
			c.bad("sbom.sha256", "write the SHA-256 of the file", "%d bytes, want 32", len(l.SBOM.SHA256))
		}
	}
	if l.MUD == "" {
		c.warn("mud", `write mud = "https://..."`, "missing row: address of the MUD file (RFC 8520)")
	}
	if l.UDI == "" {
		c.warn("udi", `write udi = "(01)..."`, "missing row: device identifier (UDI-DI)")
	}
	if l.CE == "" {
		c.warn("ce", `write ce = "0123", the number of the notified body, or ce = "self"`, "missing row: CE marking")
	} else if l.CE != "self" && !notified.MatchString(l.CE) {
		c.bad("ce", `write the four digits of the notified body, or "self"`, "%q is no notified body", l.CE)
	}
	c.url("mud", l.MUD)
	c.optional("udi", l.UDI)
	c.url("details", l.Details)
}

func (c *checker) inspection(l *Label) {
	in := l.Inspection
	if in.Base == 0 && in.Parameters == nil {
		c.missing("inspection", "best-before-inspection date", "add an [inspection] table with base_days and [[inspection.parameter]] tables")
		return
	}
	if in.Base < 1 || in.Base > maxDays {
		c.bad("inspection.base_days", "write base_days = 730", "%d is outside 1 to %d", in.Base, maxDays)
	}
	seen := map[Kind]bool{}
	rows(c, "inspection.parameter", "what moves the best-before-inspection date", "add [[inspection.parameter]] tables", in.Parameters, func(at string, p Parameter) {
		c.choice(at+".kind", int(p.Kind), kindNames())
		c.choice(at+".direction", int(p.Direction), directionNames())
		if want := p.Kind.direction(); want != 0 && p.Direction != want {
			c.bad(at+".direction", fmt.Sprintf("write direction = %q", directionNames()[want]), "more of %s cannot move the date %s", p.Kind, nameOf(directionNames(), int(p.Direction)))
		}
		if seen[p.Kind] {
			c.bad(at+".kind", "merge the two", "%s stands there twice", p.Kind)
		}
		seen[p.Kind] = true
		if p.Per < 1 {
			c.bad(at+".per", "write per = 1 or more", "per is 0")
		}
		if p.Days < 1 || p.Days > maxDays {
			c.bad(at+".days", "write the weight in days: days = 30", "%d is outside 1 to %d", p.Days, maxDays)
		}
		if p.Limit < p.Days || p.Limit > maxDays {
			c.bad(at+".limit", "write the most days it may move the date: limit = 180", "%d is outside %d, its weight, to %d", p.Limit, p.Days, maxDays)
		}
		if p.Kind == UpdatePromised && p.Value != nil {
			c.bad(at+".value", "remove it", "what is promised is updates.every_days")
		}
		c.text(at+".reason", p.Reason)
	})
	if in.Components == nil {
		return
	}
	if in.DailyUse < 1 || in.DailyUse > 24 {
		c.bad("inspection.use_hours_per_day", "write use_hours_per_day = 24", "%d is outside 1 to 24", in.DailyUse)
	}
	rows(c, "inspection.component", "", "", in.Components, func(at string, x Component) {
		c.text(at+".name", x.Name)
		if x.Life < 1 || x.Life > maxDays*24 {
			c.bad(at+".life_hours", "write the hours of operation that it lasts", "%d is outside 1 to %d", x.Life, maxDays*24)
		}
	})
}
