package reference

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/miotfacts/miotfacts/facts"
)

// endOfTime is the last second of the year 9999, beyond which TOML has no dates.
const endOfTime = 253402300799

func stamp(unix int64) string { return time.Unix(unix, 0).UTC().Format(time.RFC3339) }

// Format returns m, which passes Check, as TOML that Author reads back to the
// same manifest. Comments say in which unit a number is.
func Format(m *Manifest) []byte {
	f := &formatter{}
	if v, err := m.Vocabulary(); err == nil {
		f.vocab = v
	} else {
		f.vocab = new(facts.Vocabulary)
	}
	f.line("version = %d", m.Version)
	f.line("vendor = %s", quote(m.Vendor))
	f.line("model = %s", quote(m.Model))
	f.line("sequence = %d", m.Sequence)
	f.line("valid = { from = %s, until = %s }", date(m.NotBefore, 0), date(m.NotAfter, lastSecond))
	if m.MinAgent != "" {
		f.line("min_agent = %s", quote(m.MinAgent))
	}
	f.line("enforce = %s", quote(m.Enforce.String()))
	f.line("report_every = %s", span(m.ReportEvery, "s"))
	f.line("resume = { signers = %d, lifetime = %s }", m.Resume.Signers, span(m.Resume.Lifetime, "s"))
	if s := m.Silence; s != nil {
		f.line("silence = { after = %s, then = %s }", span(s.After, "ms"), quote(s.Then.String()))
	}
	f.leeway(m.Leeway)
	f.energy(m.Energy)
	if b := m.Boot; b != nil {
		accept := make([]string, len(b.Accept))
		for i, d := range b.Accept {
			accept[i] = quote(hex.EncodeToString(d))
		}
		f.line("\n[boot]\npcrs = %s", strings.ReplaceAll(fmt.Sprint(b.PCRs), " ", ", "))
		f.line("accept = %s", list(accept))
	}
	f.boot(m.BootEvents, m.Files)
	for _, a := range m.Apps {
		f.line("\n[[app]]\nkey = %d\nname = %s\nunit = %s\nmin = %d\nmax = %d", a.Key, quote(a.Name), quote(a.Unit), a.Min, a.Max)
	}
	f.rules("integration", m.Integration)
	f.rules("operating", m.Operating)
	f.rules("fail_safe", m.FailSafe)
	for _, r := range m.Reaction {
		f.line("\n[[reaction]]\ndo = %s", quote(r.Do.String()))
		if r.Target != "" {
			f.line("target = %s", quote(r.Target))
		}
		if r.Signal != 0 {
			f.line("signal = %d", r.Signal)
		}
		if r.Value != "" {
			f.line("value = %s", quote(r.Value))
		}
		if len(r.Peers) > 0 {
			peers := make([]string, len(r.Peers))
			for i, p := range r.Peers {
				peers[i] = quote(p)
			}
			f.line("peers = %s", list(peers))
		}
		if r.OnlyIf != 0 {
			f.line("only_if = %s", quote(name(onlyIfNames, int(r.OnlyIf), "only_if")))
		}
		f.line("within = %s", span(r.Deadline, "ms"))
	}
	return f.out.Bytes()
}

type formatter struct {
	out   bytes.Buffer
	vocab *facts.Vocabulary
}

func (f *formatter) line(format string, args ...any) { fmt.Fprintf(&f.out, format+"\n", args...) }

func (f *formatter) rules(stage string, rules []Rule) {
	for _, r := range rules {
		d, _ := f.vocab.ByKey(r.Fact)
		f.line("\n[[%s]]\nfact = %s", stage, quote(f.vocab.Name(r.Fact)))
		for _, e := range []struct {
			key string
			end *int64
		}{{"min", r.Min}, {"max", r.Max}} {
			if e.end != nil {
				f.line("%s = %d%s", e.key, *e.end, comment(d.Unit))
			}
		}
		values := make([]string, len(r.Values))
		for i, v := range r.Values {
			values[i] = literal(v)
		}
		switch r.Op {
		case OneOf:
			f.line("one_of = %s%s", list(values), comment(d.Unit))
		case IsAbsent:
			f.line("absent = true")
		case Equal, SubsetOf, SupersetOf:
			f.line("%s = %s%s", r.Op, strings.Join(values, ", "), comment(d.Unit))
		}
		if r.Hold != 0 {
			f.line("hold = %s", span(r.Hold, "ms"))
		}
		if r.Absent == AbsentNotAppraised {
			f.line("if_absent = %s", quote(absentNames[r.Absent+1]))
		}
		if r.Why != "" {
			f.line("why = %s", quote(r.Why))
		}
	}
}

// comment returns the unit as a comment. Units of app facts are the authors'
// text, which may hold what ends a comment.
func comment(unit string) string {
	if unit == "" || unit == "1" || strings.ContainsFunc(unit, unicode.IsControl) {
		return ""
	}
	return "  # " + unit
}

func literal(v facts.Value) string {
	switch v.Kind() {
	case facts.Text:
		return quote(v.Text())
	case facts.Bytes:
		return quote("hex:" + hex.EncodeToString(v.Bytes()))
	case facts.Set:
		members := make([]string, len(v.Set()))
		for i, m := range v.Set() {
			members[i] = quote(m)
		}
		return list(members)
	}
	return v.String()
}

// list puts items on one line each where one line would be long.
func list(items []string) string {
	if s := "[" + strings.Join(items, ", ") + "]"; len(s) <= 80 {
		return s
	}
	return "[\n  " + strings.Join(items, ",\n  ") + ",\n]"
}

// quote returns s as a TOML basic string.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case unicode.IsControl(r) || !unicode.IsPrint(r) && r != ' ':
			fmt.Fprintf(&b, `\U%08X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

func date(unix, dayEnd int64) string {
	if t := time.Unix(unix-dayEnd, 0).UTC(); t.Unix()%86400 == 0 {
		return t.Format(time.DateOnly)
	}
	return stamp(unix)
}

// span returns n of unit in the largest unit that n is a whole number of.
func span(n uint32, unit string) string {
	best := scaled{unit, 1}
	for _, s := range scales(unit) {
		if n != 0 && int64(n)%s.factor == 0 {
			best = s
		}
	}
	return quote(fmt.Sprintf("%d%s", int64(n)/best.factor, best.unit))
}
