package advisory

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// osv takes an entry of the Open Source Vulnerability format in.
func (m *Matcher) osv(n node) error {
	id, modified := n.get("id").must(), n.get("modified").time()
	aliases := n.get("aliases").texts()
	if up := n.get("upstream").texts(); len(up) == 1 { // an entry of a distribution about one vulnerability
		aliases = append(aliases, up...)
	} else if len(up) > 1 {
		aliases = nil
	}
	if n.doc.err != nil || !m.newer(id, modified) {
		return n.doc.err
	}
	if n.get("withdrawn").text() != "" {
		m.withdrawn[id] = true
		return n.doc.err
	}
	ids := names(id, aliases)
	m.rate(ids, osvRating(n))
	for _, a := range n.get("affected").list() {
		ecosystem, name := a.get("package", "ecosystem").text(), a.get("package", "name").text()
		p, hasPURL := parsePURL(a.get("package", "purl").text())
		family, _, _ := strings.Cut(ecosystem, ":")
		if kind, _ := ecosystemOf(family); kind == "" && !hasPURL {
			what := "entries about packages of ecosystem " + family
			if ecosystem == "" {
				what = "entries without a package"
			}
			m.strange[what]++
			continue
		}
		own := osvSeverity(a.get("severity"))
		candidates := slices.Clone(m.named[wanted(ecosystem, name).short()])
		if hasPURL {
			candidates = append(candidates, m.named[p.short()]...)
		}
		slices.Sort(candidates)
		for _, i := range slices.Compact(candidates) {
			for _, q := range sources(m.bom.Components[i].purl) {
				if !q.inEcosystem(ecosystem, name) && !(hasPURL && p.key() == q.key() && sameRelease(p.qualifiers["distro"], q.qualifiers["distro"])) {
					continue
				}
				affected, why := osvAffects(a, q)
				if !affected {
					continue
				}
				m.rate(ids[:1], own)
				if err := m.say(id, statement{ids: ids, target: i, level: byDatabase, state: Affected, why: why, source: id}); err != nil {
					return err
				}
				break
			}
		}
	}
	return n.doc.err
}

// sources returns a package and the one it was built from.
func sources(p purl) []purl {
	if s, ok := p.source(); ok {
		return []purl{p, s}
	}
	return []purl{p}
}

// osvAffects is the evaluation of the format's specification. What it cannot
// compare is affected, and it says so.
func osvAffects(a node, p purl) (affected bool, why string) {
	if p.version == "" {
		return true, "the bill of materials has no version: not compared"
	}
	listed := a.get("versions").texts()
	for _, v := range listed {
		if v == p.version || strings.TrimPrefix(v, "v") == strings.TrimPrefix(p.version, "v") {
			return true, "version " + p.version + " is listed"
		}
	}
	ranges := a.get("ranges").list()
	if len(ranges) == 0 {
		return len(listed) == 0, "it names no versions"
	}
	undecided := ""
	for _, r := range ranges {
		kind := r.get("type").must()
		compare := comparisonOf(p.kind)
		switch kind {
		case "SEMVER":
			compare = semver
		case "ECOSYSTEM":
		case "GIT":
			if !slices.ContainsFunc(ranges, func(r node) bool { return r.get("type").text() != "GIT" }) { // the versions that have them are not in the list
				undecided = "it names commits only: not compared"
			}
			continue
		default:
			r.doc.fail(r.at+".type", "%q is unknown", kind)
			continue
		}
		if compare == nil {
			undecided = "versions of " + p.kind + " cannot be compared: not compared"
			continue
		}
		in, bounds, ok := inRange(r, p.comparable(), compare)
		if !ok {
			undecided = fmt.Sprintf("version %s cannot be compared with %s: not compared", p.version, bounds)
			continue
		}
		if in {
			return true, bounds
		}
	}
	return undecided != "", undecided
}

// An event is a version from which on something holds.
type event struct{ kind, version string }

// inRange reports whether a version is in a range of events, and the range in
// words.
func inRange(r node, version string, compare comparison) (in bool, bounds string, ok bool) {
	var events []event
	var limits, said []string
	for _, e := range r.get("events").list() {
		if len(e.object()) != 1 {
			e.doc.fail(e.at, "want one member")
		}
		for _, kind := range []string{"introduced", "fixed", "last_affected", "limit"} {
			v := e.get(kind).text()
			switch {
			case v == "":
			case kind == "limit":
				limits = append(limits, v)
			default:
				events = append(events, event{kind, v})
			}
			if v != "" {
				said = append(said, words(kind)+" "+v)
			}
		}
	}
	bounds = strings.Join(said, ", ")
	if !slices.ContainsFunc(events, func(e event) bool { return e.kind == "introduced" }) {
		r.doc.fail(r.at+".events", "no introduced")
	}
	ok = true
	order := func(a, b string) int {
		switch {
		case a == b:
			return 0
		case a == "0":
			return -1
		case b == "0":
			return 1
		}
		c, comparable := compare(a, b)
		ok = ok && comparable
		return c
	}
	slices.SortStableFunc(events, func(a, b event) int { return cmp.Or(order(a.version, b.version), strings.Compare(b.kind, a.kind)) })
	before := len(limits) == 0
	for _, l := range limits {
		before = before || l == "*" || order(version, l) < 0
	}
	for _, e := range events {
		c := order(version, e.version)
		switch {
		case e.kind == "introduced" && c >= 0:
			in = true
		case e.kind == "fixed" && c >= 0, e.kind == "last_affected" && c > 0:
			in = false
		}
	}
	return in && before, bounds, ok
}

func osvRating(n node) rating {
	return firstKnown(osvSeverity(n.get("severity")), named(n.get("database_specific", "severity").wordsIfText(), "rated"))
}

// wordsIfText returns a string where there is one: what databases add has no type.
func (n node) wordsIfText() string {
	s, _ := n.v.(string)
	return s
}

func osvSeverity(list node) rating {
	var numbers, other rating
	for _, s := range list.list() {
		kind, score := s.get("type").text(), s.get("score").text()
		switch {
		case kind == "CVSS_V3" || kind == "CVSS_V4":
			numbers = numbers.worse(vectored(score))
			numbers = numbers.worse(numberIn(score, strings.Replace(kind, "CVSS_V", "CVSS ", 1)))
		case kind != "CVSS_V2":
			other = other.worse(named(score, "rated"))
		}
	}
	return firstKnown(numbers, other)
}
