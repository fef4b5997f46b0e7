package label

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// A Due is one device's day of inspection, for a calendar.
type Due struct {
	Label  *Label
	Date   Date
	Device string // its name for people
	ID     string // tells it from all others, always the same; "": Device does
}

// Calendar returns the day of inspection of one device and its tasks. stamp is
// the day on which it was computed.
func (l *Label) Calendar(d Date, device string, stamp Day, lang Lang) []byte {
	return Calendar([]Due{{Label: l, Date: d, Device: device}}, stamp, lang)
}

// Calendar returns days of inspection and their tasks as iCalendar (RFC 5545): for
// each device an event of a whole day, and a task due on it for each thing to do.
// The entries are the device's own: a date that was computed anew takes the place
// of the old one. Without devices there is no calendar: it must have an entry.
func Calendar(all []Due, stamp Day, lang Lang) []byte {
	c := &calendar{stamp: stamp.basic() + "T000000Z"}
	c.line("BEGIN:VCALENDAR")
	c.line("VERSION:2.0")
	c.line("PRODID:-//miotfacts//label//" + strings.ToUpper(lang.String()))
	for _, d := range all {
		c.device(d, lang)
	}
	c.line("END:VCALENDAR")
	return []byte(c.out.String())
}

func (c *calendar) device(d Due, lang Lang) {
	l := d.Label
	if d.ID == "" {
		d.ID = d.Device
	}
	name := strings.TrimSpace(l.Vendor + " " + l.Model + " " + d.Device)
	id := fmt.Sprintf("%x", sha256.Sum256(fmt.Appendf(nil, "%q %q %q", l.Vendor, l.Model, d.ID)))[:32]
	why := lang.say("Best before inspection. Then inspect the device; do not throw it away.", "Spätestens an diesem Tag prüfen. Das Gerät nicht wegwerfen.") + "\n"
	for _, s := range d.Date.Steps {
		why += fmt.Sprintf("\n%s %+d: %s", s.What, s.Days, s.Why)
	}
	for _, n := range d.Date.Negative {
		why += "\nNEGATIVE: " + n
	}
	c.entry("VEVENT", id+"-inspection", lang.say("Inspect ", "Prüfen: ")+name, why)
	c.line("DTSTART;VALUE=DATE:" + d.Date.Inspect.basic())
	c.line("TRANSP:TRANSPARENT")
	c.line("END:VEVENT")
	for i, task := range Tasks(lang) {
		c.entry("VTODO", fmt.Sprintf("%s-task-%d", id, i+1), task, name)
		c.line("DUE;VALUE=DATE:" + d.Date.Inspect.basic())
		c.line("END:VTODO")
	}
}

// basic writes the day as iCalendar does.
func (d Day) basic() string { return time.Unix(d.Start(), 0).UTC().Format("20060102") }

type calendar struct {
	out   strings.Builder
	stamp string
}

func (c *calendar) entry(kind, id, summary, description string) {
	text := strings.NewReplacer(`\`, `\\`, ";", `\;`, ",", `\,`, "\n", `\n`)
	c.line("BEGIN:" + kind)
	c.line("UID:" + id)
	c.line("DTSTAMP:" + c.stamp)
	c.line("SUMMARY:" + text.Replace(summary))
	c.line("DESCRIPTION:" + text.Replace(description))
}

// line writes a content line, folded at 75 bytes between characters (section 3.1).
func (c *calendar) line(s string) {
	for width := 75; len(s) > width; width = 74 {
		at := width
		for !utf8.RuneStart(s[at]) {
			at--
		}
		c.out.WriteString(s[:at] + "\r\n ")
		s = s[at:]
	}
	c.out.WriteString(s + "\r\n")
}
