// Package advisory finds out which published vulnerabilities are open in a device:
// it compares advisories (OSV 1.7, CSAF 2.0 and its VEX profile, CycloneDX 1.4 to
// 1.7 with VEX) with the device's bill of materials (CycloneDX).
//
// Everything is read offline from bytes that the caller has. Nobody's signature is
// checked: what an advisory says is as good as the way it came. What cannot be
// decided counts against the device and says why: a version that cannot be
// compared, a severity that nobody gives, a state without a reason. What was not
// compared at all is named in the result.
//
// A statement that takes a vulnerability out counts where it is as close to the
// device as the one that brings it in: the device's own VEX before a supplier's,
// a supplier's before a database. Among equals the worse counts.
package advisory

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A State is what is said of a vulnerability in a component.
type State uint8

// The states. The first two are open.
const (
	Affected      State = 1
	Investigated  State = 2 // nobody knows yet
	NotAffected   State = 3
	Fixed         State = 4
	maxStatements       = 1 << 16 // that match one bill of materials
)

func (s State) String() string {
	return [...]string{"unknown", "affected", "under investigation", "not affected", "fixed"}[min(s, Fixed)]
}

// Open reports whether the vulnerability counts.
func (s State) Open() bool { return s < NotAffected }

// A Vulnerability is one that was found in a device, or that was taken out.
type Vulnerability struct {
	ID       string   // CVE where there is one
	Aliases  []string // its other names
	Severity Severity
	Basis    string // of the severity: "CVSS:3.1 computed 9.8"; "" where it is not appraised
	State    State
	Where    []string // components, name and version, that have this state
	Why      string   // the justification of the state, or what could not be compared
	Source   string   // the document that says so
}

// A Result is what the advisories say of a bill of materials.
type Result struct {
	Documents       int             // that were read
	Withdrawn       int             // entries that their database took back
	Vulnerabilities []Vulnerability // open ones first, the worst first
	Unidentified    []string        // components without a package URL: no database can name them
	NotCompared     []string        // what could not be compared at all, in words
}

// Open returns the number of open vulnerabilities of a severity.
func (r *Result) Open(s Severity) int {
	n := 0
	for _, v := range r.Vulnerabilities {
		if v.State.Open() && v.Severity == s {
			n++
		}
	}
	return n
}

// A Device is by what advisories can name the device as a whole.
type Device struct {
	Vendor, Model string // as in its label
	BOM           string // address of its bill of materials
}

// whole is the target of a statement about the device as a whole.
const whole = -1

// How close a statement is to the device.
const (
	byDatabase = 1
	bySupplier = 2
	byDevice   = 3
)

// A statement says one thing of one vulnerability in one target.
type statement struct {
	ids    []string // its own first
	target int      // index of a component, or whole
	level  int
	state  State
	why    string
	source string
}

// A Matcher compares advisories with a bill of materials, one file after the other.
type Matcher struct {
	bom        *BOM
	device     Device
	issued     map[string]string      // when the newest version of a document was issued
	statements map[string][]statement // by document
	ratings    map[string]rating      // by identifier
	withdrawn  map[string]bool
	named      map[string][]int // components by the short names of their packages and sources
	count      int
	strange    map[string]int // what was not compared
}

// NewMatcher returns a Matcher for a bill of materials. What it says of
// vulnerabilities itself is taken in.
func NewMatcher(bom *BOM, device Device) (*Matcher, error) {
	m := &Matcher{
		bom: bom, device: device, issued: map[string]string{}, statements: map[string][]statement{},
		ratings: map[string]rating{}, withdrawn: map[string]bool{}, strange: map[string]int{}, named: map[string][]int{},
	}
	for i, c := range bom.Components {
		for _, q := range sources(c.purl) {
			if c.purl.name != "" {
				m.named[q.short()] = append(m.named[q.short()], i)
			}
		}
	}
	if bom.root.get("vulnerabilities").there() {
		if err := m.cyclonedx(bom.root, "the bill of materials"); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Add takes a file in: one document, or a list of them. It refuses the whole file
// if a part of it cannot be read.
func (m *Matcher) Add(data []byte) error {
	root, err := parse(data)
	if err != nil {
		return fmt.Errorf("cannot read advisory: %w", err)
	}
	all := []node{root}
	if _, ok := root.v.([]any); ok {
		all = root.list()
	}
	for _, n := range all {
		switch {
		case n.get("bomFormat").there():
			err = m.cyclonedx(n, "a CycloneDX document")
		case n.get("document", "csaf_version").there():
			err = m.csaf(n)
		case n.get("id").there() && n.get("modified").there():
			err = m.osv(n)
		default:
			n.doc.fail(n.at, "neither OSV nor CSAF nor CycloneDX")
			err = n.doc.err
		}
		if err == nil {
			err = root.doc.err
		}
		if err != nil {
			return fmt.Errorf("cannot read advisory: %w", err)
		}
	}
	return nil
}

// newer reports whether a document counts, by when it was issued, and forgets the
// older one of that name. Of two that were issued at the same time both count.
func (m *Matcher) newer(id, issued string) bool {
	before, ok := m.issued[id]
	if ok && before >= issued {
		return before == issued
	}
	m.issued[id] = issued
	m.count -= len(m.statements[id])
	delete(m.statements, id)
	delete(m.withdrawn, id)
	return true
}

var errTooMany = errors.New("too many statements match")

func (m *Matcher) say(document string, s statement) error {
	if m.count++; m.count > maxStatements {
		return fmt.Errorf("%w: more than %d", errTooMany, maxStatements)
	}
	m.statements[document] = append(m.statements[document], s)
	return nil
}

func (m *Matcher) rate(ids []string, r rating) {
	for _, id := range ids {
		m.ratings[id] = m.ratings[id].worse(r)
	}
}

// names returns the names that mean the same vulnerability as the first. An entry
// about several vulnerabilities means none of them alone.
func names(id string, others []string) []string {
	all := append([]string{id}, others...)
	cves := slices.DeleteFunc(slices.Clone(all), func(s string) bool { return !isCVE(s) })
	slices.Sort(cves)
	if len(slices.Compact(cves)) > 1 {
		return []string{id}
	}
	return all
}

func isCVE(id string) bool { return strings.HasPrefix(id, "CVE-") }

// ranked puts CVE numbers first.
func ranked(id string) int {
	if isCVE(id) {
		return 0
	}
	return 1
}

// A class is a vulnerability with all its names.
type class struct {
	cve        string // "" where it has none
	names      []string
	statements []statement
}

// classes puts statements together whose vulnerabilities share a name. Two that
// have different CVE numbers stay two.
func (m *Matcher) classes() []*class {
	var classes []*class
	by := map[string]*class{}
	for _, document := range sorted(m.statements) {
		for _, s := range m.statements[document] {
			var c *class
			cve := ""
			ids := slices.Clone(s.ids)
			slices.SortStableFunc(ids, func(a, b string) int { return cmp.Compare(ranked(a), ranked(b)) })
			if isCVE(ids[0]) {
				cve = ids[0]
			}
			for _, id := range ids {
				d := by[id]
				switch {
				case d == nil || d == c || cve != "" && d.cve != "" && cve != d.cve:
				case c == nil:
					c, cve = d, cmp.Or(cve, d.cve)
				default:
					c.cve = cmp.Or(c.cve, d.cve)
					cve = cmp.Or(cve, d.cve)
					c.names, c.statements = append(c.names, d.names...), append(c.statements, d.statements...)
					for _, n := range d.names {
						by[n] = c
					}
					d.names, d.statements = nil, nil
				}
			}
			if c == nil {
				c = &class{}
				classes = append(classes, c)
			}
			c.cve = cmp.Or(c.cve, cve)
			c.statements = append(c.statements, s)
			for _, id := range s.ids {
				if by[id] == nil {
					by[id] = c
					c.names = append(c.names, id)
				}
			}
		}
	}
	return slices.DeleteFunc(classes, func(c *class) bool { return len(c.statements) == 0 })
}

func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// Result returns what was found.
func (m *Matcher) Result() *Result {
	r := &Result{Documents: len(m.issued), Withdrawn: len(m.withdrawn)}
	for _, c := range m.classes() {
		r.Vulnerabilities = append(r.Vulnerabilities, m.appraise(c))
	}
	slices.SortFunc(r.Vulnerabilities, func(a, b Vulnerability) int {
		open := func(v Vulnerability) int {
			if v.State.Open() {
				return 0
			}
			return 1
		}
		weight := func(s Severity) int { // what nobody appraised may be the worst
			if s == Unknown {
				return int(Critical) + 1
			}
			return int(s)
		}
		return cmp.Or(open(a)-open(b), weight(b.Severity)-weight(a.Severity), strings.Compare(a.ID, b.ID))
	})
	for _, c := range m.bom.Components {
		if c.purl.name == "" {
			r.Unidentified = append(r.Unidentified, c.title())
		}
	}
	for _, what := range sorted(m.strange) {
		r.NotCompared = append(r.NotCompared, fmt.Sprintf("%d %s", m.strange[what], what))
	}
	return r
}

// appraise decides about a vulnerability in each of its components, and then about
// the device: it is open where one of them is.
func (m *Matcher) appraise(c *class) Vulnerability {
	v := Vulnerability{}
	// The statement that counts: the closest, of those the worst, of those the first.
	better := func(s, than statement) bool {
		return s.level > than.level || s.level == than.level && s.state < than.state
	}
	counts := map[int]statement{}
	all := rating{}
	for _, s := range c.statements {
		if have, ok := counts[s.target]; !ok || better(s, have) {
			counts[s.target] = s
		}
	}
	if device, ok := counts[whole]; ok {
		inherited := false
		for target, s := range counts {
			if target != whole && device.level > s.level {
				inherited = true
				s.state, s.why, s.source, s.level = device.state, device.why, device.source, device.level
				counts[target] = s
			}
		}
		if inherited || len(counts) > 1 && !device.state.Open() { // said of its components now
			delete(counts, whole)
		}
	}
	targets := make([]int, 0, len(counts))
	for t := range counts {
		targets = append(targets, t)
	}
	slices.Sort(targets)
	first := statement{}
	for _, t := range targets {
		s := counts[t]
		if first.state == 0 || s.state.Open() && (!first.state.Open() || s.state < first.state) {
			first = s
		}
	}
	for _, t := range targets {
		if counts[t].state == first.state {
			v.Where = append(v.Where, m.bom.title(t))
		}
	}
	v.State, v.Why, v.Source = first.state, first.why, first.source
	slices.Sort(c.names)
	c.names = slices.Compact(c.names)
	v.ID = cmp.Or(c.cve, c.names[0])
	for _, n := range c.names {
		all = all.worse(m.ratings[n])
		if n != v.ID {
			v.Aliases = append(v.Aliases, n)
		}
	}
	v.Severity, v.Basis = all.severity, all.basis
	return v
}
