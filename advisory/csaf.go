package advisory

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// numberIn rates by a score that stands where a vector may stand.
func numberIn(text, basis string) rating {
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return rating{}
	}
	return scored(f, basis)
}

// A product of a CSAF document.
type product struct {
	vendor, name, version string // from its branches
	versions              string // the range of its versions, in place of version
	purl                  purl
	boms                  []string // addresses of its bill of materials
	part, of              string   // it is the product part in the product of
}

// csaf takes a document of CSAF 2.0 in (OASIS standard, sections 3.2.2 and 3.2.3),
// whatever its profile.
func (m *Matcher) csaf(n node) error {
	d := n.get("document")
	if v := d.get("csaf_version").must(); v != "2.0" {
		n.doc.fail(d.at+".csaf_version", "%q is not 2.0", v)
	}
	id := d.get("publisher", "namespace").must() + " " + d.get("tracking", "id").must()
	if issued := d.get("tracking", "current_release_date").time(); n.doc.err != nil || !m.newer(id, issued) {
		return n.doc.err
	}
	products, groups := csafProducts(n.get("product_tree"))
	source := d.get("tracking", "id").text()
	for _, v := range n.get("vulnerabilities").list() {
		name := v.get("cve").text()
		var others []string
		for _, x := range v.get("ids").list() {
			others = append(others, x.get("text").must())
		}
		if name == "" && len(others) > 0 {
			name, others = others[0], others[1:]
		}
		if name == "" {
			name = source + " " + strconv.Itoa(len(m.statements[id])+1) // it has no name of its own
		}
		ids := names(name, others)
		m.rate(ids[:1], csafRating(v))
		reasons := csafReasons(v, groups)
		unnamed := 0
		for _, status := range []struct {
			key   string
			state State
		}{
			{"known_affected", Affected}, {"first_affected", Affected}, {"last_affected", Affected}, {"under_investigation", Investigated},
			{"known_not_affected", NotAffected}, {"fixed", Fixed}, {"first_fixed", Fixed},
		} {
			for _, x := range v.get("product_status", status.key).list() {
				p, ok := products[x.must()]
				if !ok {
					x.doc.fail(x.at, "%q is not in the product tree", x.text())
					continue
				}
				state, why := status.state, reasons[x.text()]
				if state == NotAffected {
					state, why = excused("not affected", why)
				}
				found := m.products(p, products, 0)
				if len(found) == 0 && p.purl.name == "" && p.part == "" && state.Open() {
					unnamed++
				}
				for _, t := range found {
					s := statement{ids: ids, target: t.target, level: t.level, state: state, why: why, source: source}
					if t.unsure != "" {
						if !state.Open() {
							continue // takes out what it may not mean
						}
						s.why = cutWhy(why, t.unsure)
					}
					if err := m.say(id, s); err != nil {
						return err
					}
				}
			}
		}
		if unnamed > 0 {
			m.strange["affected products of CSAF documents are neither this device nor named by a package URL"] += unnamed
		}
	}
	return n.doc.err
}

// products returns what a product means here.
func (m *Matcher) products(p product, all map[string]product, depth int) []target {
	if p.part != "" {
		if depth > 8 { // a circle
			return nil
		}
		found := m.products(all[p.part], all, depth+1)
		around := m.products(all[p.of], all, depth+1)
		unsure := ""
		switch sure := slices.IndexFunc(around, func(t target) bool { return t.unsure == "" }); {
		case len(around) > 0 && sure < 0:
			unsure = around[0].unsure
		case len(around) == 0 && !m.hasName(all[p.of]):
			unsure = "as a part of something else, as far as one can tell"
		}
		for i := range found {
			if slices.ContainsFunc(around, func(t target) bool { return t.target == whole }) {
				found[i].level = byDevice
			}
			if found[i].unsure == "" {
				found[i].unsure = unsure
			}
		}
		return found
	}
	subject := m.bom.Subject
	if slices.Contains(p.boms, m.device.BOM) && m.device.BOM != "" {
		return []target{{target: whole, level: byDevice}}
	}
	version := cmp.Or(p.purl.version, p.version)
	if p.versions != "" {
		version = ""
	}
	found := m.packages(p.purl, version)
	if p.vendor != "" && strings.EqualFold(p.vendor, m.device.Vendor) && strings.EqualFold(p.name, m.device.Model) &&
		(p.version == "" || p.version == subject.Version) {
		found = []target{{target: whole, level: byDevice}}
	}
	if p.versions == "" {
		return found
	}
	kept := found[:0]
	for _, t := range found {
		in, why := within(p.versions, m.bom.component(t.target))
		if t.unsure = why; in || why != "" {
			kept = append(kept, t)
		}
	}
	return kept
}

// hasName reports whether the bill of materials has the product by name, as it has
// an operating system.
func (m *Matcher) hasName(p product) bool {
	return p.name != "" && slices.ContainsFunc(m.bom.Components, func(c Component) bool {
		return strings.EqualFold(c.Name, p.name) && (p.version == "" || p.version == c.Version)
	})
}

// csafProducts returns the products of a tree by their identifiers, and the groups.
func csafProducts(tree node) (products map[string]product, groups map[string][]string) {
	products, groups = map[string]product{}, map[string][]string{}
	add := func(n node, p product) {
		id := n.get("product_id").must()
		helper := n.get("product_identification_helper")
		if text := helper.get("purl").text(); text != "" {
			found, ok := parsePURL(text)
			if !ok {
				n.doc.fail(helper.at+".purl", "%q is no package URL", text)
			}
			p.purl = found
		}
		p.boms = helper.get("sbom_urls").texts()
		if _, twice := products[id]; twice {
			n.doc.fail(n.at+".product_id", "%q stands there twice", id)
		}
		products[id] = p
	}
	var walk func(list node, p product)
	walk = func(list node, p product) {
		for _, b := range list.list() {
			p := p
			switch name := b.get("name").text(); b.get("category").text() {
			case "vendor":
				p.vendor = name
			case "product_name":
				p.name = name
			case "product_version":
				p.version = name
			case "product_version_range":
				p.versions = name
			}
			if b.get("product").there() {
				add(b.get("product"), p)
			}
			walk(b.get("branches"), p)
		}
	}
	walk(tree.get("branches"), product{})
	for _, n := range tree.get("full_product_names").list() {
		add(n, product{})
	}
	for _, r := range tree.get("relationships").list() {
		add(r.get("full_product_name"), product{part: r.get("product_reference").must(), of: r.get("relates_to_product_reference").must()})
	}
	for _, g := range tree.get("product_groups").list() {
		groups[g.get("group_id").must()] = g.get("product_ids").texts()
	}
	return products, groups
}

// csafReasons returns why each product is not affected: flags and threats of
// category impact.
func csafReasons(v node, groups map[string][]string) map[string]string {
	reasons := map[string]string{}
	give := func(n node, why string) {
		for _, id := range members(n, groups) {
			if !strings.Contains(reasons[id], why) {
				reasons[id] = cutWhy(reasons[id], why)
			}
		}
	}
	for _, f := range v.get("flags").list() {
		label := f.get("label").must()
		if !slices.Contains([]string{"component_not_present", "inline_mitigations_already_exist", "vulnerable_code_cannot_be_controlled_by_adversary", "vulnerable_code_not_in_execute_path", "vulnerable_code_not_present"}, label) {
			f.doc.fail(f.at+".label", "%q is unknown", label)
		}
		give(f, words(label))
	}
	for _, t := range v.get("threats").list() {
		if why := t.get("details").reason(); t.get("category").text() == "impact" && named(why, "").severity == Unknown {
			give(t, why)
		}
	}
	return reasons
}

func members(n node, groups map[string][]string) []string {
	ids := n.get("product_ids").texts()
	for _, g := range n.get("group_ids").texts() {
		ids = append(ids, groups[g]...)
	}
	return ids
}

func csafRating(v node) rating {
	var numbers, vectors, words rating
	for _, s := range v.get("scores").list() {
		for _, version := range []string{"cvss_v3", "cvss_v4"} {
			c := s.get(version)
			if score, ok := c.get("baseScore").number(); ok {
				numbers = numbers.worse(scored(score, strings.Replace(version, "cvss_v", "CVSS ", 1)))
			}
			vectors = vectors.worse(vectored(c.get("vectorString").text()))
			words = words.worse(named(c.get("baseSeverity").text(), "rated"))
		}
	}
	for _, t := range v.get("threats").list() {
		if t.get("category").text() == "impact" {
			words = words.worse(named(t.get("details").words(), "rated")) // as distributors write it
		}
	}
	return firstKnown(numbers, vectors, words)
}
