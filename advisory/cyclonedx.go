package advisory

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A Component is a part of a device's software.
type Component struct {
	Name, Version string
	ref           string // bom-ref
	purl          purl   // without a name where it has none
}

func (c Component) title() string { return strings.TrimSpace(c.Name + " " + c.Version) }

// A BOM is a bill of materials in CycloneDX.
type BOM struct {
	SHA256     [32]byte  // of the file
	Subject    Component // what it is the bill of
	Components []Component
	serial     string
	version    string
	root       node
}

// maxComponents bounds a bill of materials. An image of a whole distribution has
// some thousand packages.
const maxComponents = 1 << 16

// ReadBOM reads a bill of materials in CycloneDX 1.2 to 1.7, JSON.
func ReadBOM(data []byte) (*BOM, error) {
	root, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("cannot read bill of materials: %w", err)
	}
	b := &BOM{SHA256: sha256.Sum256(data), root: root}
	b.read(root)
	if root.doc.err != nil {
		return nil, fmt.Errorf("cannot read bill of materials: %w", root.doc.err)
	}
	return b, nil
}

func (b *BOM) read(root node) {
	cyclonedxVersion(root)
	b.serial = root.get("serialNumber").text()
	b.version = "1"
	if v := root.get("version"); v.there() {
		n, ok := v.number()
		if ok && (n < 1 || n > 1_000_000_000 || n != float64(int(n))) {
			v.doc.fail(v.at, "no version of a document")
			n = 1
		}
		b.version = strconv.Itoa(int(n))
	}
	if subject := root.get("metadata", "component"); subject.there() {
		b.Subject = component(subject)
		b.nested(subject.get("components"))
	}
	b.nested(root.get("components"))
}

func cyclonedxVersion(root node) {
	if f := root.get("bomFormat").must(); f != "CycloneDX" && root.doc.err == nil {
		root.doc.fail(root.at+".bomFormat", "%q is not CycloneDX", f)
	}
	known := []string{"1.2", "1.3", "1.4", "1.5", "1.6", "1.7"}
	if v := root.get("specVersion").must(); !slices.Contains(known, v) {
		root.doc.fail(root.at+".specVersion", "%q is none of %s", v, strings.Join(known, ", "))
	}
}

// nested takes components with those inside of them, which parse bounded in depth.
func (b *BOM) nested(list node) {
	for _, n := range list.list() {
		if len(b.Components) >= maxComponents {
			n.doc.fail(n.at, "more than %d components", maxComponents)
			return
		}
		b.Components = append(b.Components, component(n))
		b.nested(n.get("components"))
	}
}

func component(n node) Component {
	c := Component{Name: n.get("name").must(), Version: n.get("version").text(), ref: n.get("bom-ref").text()}
	if g := n.get("group").text(); g != "" {
		c.Name = g + "/" + c.Name
	}
	if text := n.get("purl").text(); text != "" {
		p, ok := parsePURL(text)
		if !ok {
			n.doc.fail(n.at+".purl", "%q is no package URL", text)
		}
		if p.version == "" {
			p.version = c.Version
		}
		c.purl = p
	}
	return c
}

// component returns what a statement is about.
func (b *BOM) component(target int) Component {
	if target == whole {
		return b.Subject
	}
	return b.Components[target]
}

func (b *BOM) title(target int) string {
	if t := b.component(target).title(); t != "" || target != whole {
		return t
	}
	return "the device"
}

// cyclonedx takes in what a CycloneDX document says of vulnerabilities, its own
// bill of materials or another file about it.
func (m *Matcher) cyclonedx(root node, unnamed string) error {
	cyclonedxVersion(root)
	other := &BOM{}
	other.read(root)
	id, issued := other.serial, root.get("metadata", "timestamp").text()
	if id == "" {
		id = fmt.Sprintf("%s (%d)", unnamed, len(m.issued)+1)
	}
	issued = fmt.Sprintf("%09s %s", other.version, issued)
	if !m.newer(id, issued) {
		return root.doc.err
	}
	for _, n := range root.get("vulnerabilities").list() {
		name := n.get("id").must()
		var aliases []string
		for _, r := range n.get("references").list() {
			if a := r.get("id").text(); a != name {
				aliases = append(aliases, a)
			}
		}
		ids := names(name, aliases)
		m.rate(ids[:1], cyclonedxRating(n.get("ratings")))
		state, why := cyclonedxState(n)
		for _, a := range n.get("affects").list() {
			if err := m.affects(a, other, root.doc == m.bom.root.doc, id, statement{ids: ids, state: state, why: why, source: id}); err != nil {
				return err
			}
		}
	}
	return root.doc.err
}

// affects turns one element of affects into statements.
func (m *Matcher) affects(a node, other *BOM, own bool, document string, s statement) error {
	targets := m.linked(a.get("ref").must(), other, own)
	if targets == nil {
		m.strange["components that a VEX in CycloneDX names are not in the bill of materials"]++
	}
	list := a.get("versions").list()
	for _, t := range targets {
		s := s
		s.target, s.level = t.target, t.level
		if len(list) > 0 && !s.narrow(list, m.bom.component(t.target)) {
			continue
		}
		if err := m.say(document, s); err != nil {
			return err
		}
	}
	return nil
}

// narrow makes a statement one about the version of a component, by the versions
// and ranges that it names, and reports whether it is about that version at all. Of
// several that fit the worst counts, and what cannot be compared takes nothing out.
func (s *statement) narrow(list []node, c Component) bool {
	var fits, maybe *statement
	open := ""
	for _, v := range list {
		said := *s
		switch status := v.get("status").text(); status {
		case "", "affected":
		case "unaffected":
			said.state, said.why = NotAffected, cutWhy(s.why, "this version is not affected")
		case "unknown":
			said.state = Investigated
		default:
			v.doc.fail(v.at+".status", "%q is unknown", status)
		}
		in, why := c.is(v.get("version").text())
		if r := v.get("range").text(); r != "" {
			in, why = within(r, c)
		}
		switch {
		case in && (fits == nil || said.state < fits.state):
			fits = &said
		case why != "" && said.state.Open():
			said.why = cutWhy(said.why, why)
			maybe = &said
		case why != "":
			open = why
		}
	}
	switch {
	case fits != nil && (fits.state.Open() || maybe == nil):
		*s = *fits
	case maybe != nil:
		*s = *maybe
	case open != "" && s.state.Open():
		s.why = cutWhy(s.why, open)
	default:
		return false
	}
	return true
}

// is reports whether the component is of a version, and why that could not be told.
func (c Component) is(version string) (same bool, why string) {
	if version == "" {
		return false, "no version is named: not compared"
	}
	if version == c.Version || version == c.purl.version {
		return true, ""
	}
	compare, own, why := c.comparison(c.purl.kind)
	if why == "" && compare != nil {
		if order, ok := compare(own, version); ok {
			return order == 0, ""
		}
	}
	return false, "version " + own + " cannot be compared with " + version + ": not compared"
}

func cutWhy(why, more string) string {
	if why == "" {
		return more
	}
	return why + "; " + more
}

// A target is what a statement may be about.
type target struct {
	target, level int
	unsure        string // why it may be about other versions; "" when it is not
}

// linked finds what a reference of a VEX means in the bill of materials: a bom-ref
// in itself, a BOM-Link to it (CycloneDX, "BOM-Link"), or a component of the VEX
// whose package URL stands in both.
func (m *Matcher) linked(ref string, other *BOM, own bool) []target {
	if link, ok := strings.CutPrefix(ref, "urn:cdx:"); ok {
		bom, element, _ := strings.Cut(link, "#")
		serial := strings.TrimPrefix(m.bom.serial, "urn:uuid:")
		own, ref = serial != "" && bom == serial+"/"+m.bom.version, element
		if !own {
			return nil
		}
		if ref == "" {
			return []target{{target: whole, level: byDevice}}
		}
	}
	if own {
		if ref == m.bom.Subject.ref {
			return []target{{target: whole, level: byDevice}}
		}
		for i, c := range m.bom.Components {
			if c.ref == ref {
				return []target{{target: i, level: byDevice}}
			}
		}
		return nil
	}
	for _, c := range append([]Component{other.Subject}, other.Components...) {
		if c.ref == ref && c.ref != "" {
			found := m.packages(c.purl, c.Version)
			if s := m.bom.Subject; s.Name != "" && s.Version != "" && other.Subject.Name == s.Name && other.Subject.Version == s.Version {
				for i := range found { // a bill of the same device
					found[i].level = byDevice
				}
			}
			return found
		}
	}
	if p, ok := parsePURL(ref); ok {
		return m.packages(p, p.version)
	}
	return nil
}

// packages returns what has the package URL p: the device itself, or components.
// Without a version p means all.
func (m *Matcher) packages(p purl, version string) []target {
	if p.name == "" {
		return nil
	}
	var found []target
	same := func(c Component) bool {
		return c.purl.name != "" && c.purl.key() == p.key() && (version == "" || version == c.purl.version || version == c.Version)
	}
	if same(m.bom.Subject) {
		found = append(found, target{target: whole, level: byDevice})
	}
	for i, c := range m.bom.Components {
		if same(c) {
			found = append(found, target{target: i, level: bySupplier})
		}
	}
	return found
}

// cyclonedxState reads an analysis. To take a vulnerability out by its word alone
// is not enough: it must say why.
func cyclonedxState(n node) (State, string) {
	a := n.get("analysis")
	var why []string
	for _, s := range []string{words(a.get("justification").text()), a.get("detail").reason()} {
		if s != "" {
			why = append(why, s)
		}
	}
	reason := strings.Join(why, ": ")
	switch state := a.get("state").text(); state {
	case "", "exploitable":
		return Affected, reason
	case "in_triage":
		return Investigated, reason
	case "resolved", "resolved_with_pedigree":
		return Fixed, reason
	case "not_affected", "false_positive":
		return excused(words(state), reason)
	default:
		a.doc.fail(a.at+".state", "%q is unknown", state)
		return Affected, ""
	}
}

func excused(state, why string) (State, string) {
	if why == "" {
		return Affected, "it says " + state + ", but not why"
	}
	return NotAffected, why
}

// words writes a term of a schema as people do.
func words(term string) string { return strings.ReplaceAll(term, "_", " ") }

func cyclonedxRating(list node) rating {
	var scores, vectors, words rating
	for _, n := range list.list() {
		method := n.get("method").text()
		if strings.HasPrefix(method, "CVSSv3") || method == "CVSSv4" {
			if score, ok := n.get("score").number(); ok {
				scores = scores.worse(scored(score, strings.Replace(method, "CVSSv", "CVSS ", 1)))
			}
			vectors = vectors.worse(vectored(n.get("vector").text()))
		}
		words = words.worse(named(n.get("severity").text(), "rated"))
	}
	return firstKnown(scores, vectors, words)
}

// firstKnown returns the first rating that says something: numbers before what is
// computed, that before words.
func firstKnown(list ...rating) rating {
	for _, r := range list {
		if r.severity != Unknown {
			return r
		}
	}
	return rating{}
}
