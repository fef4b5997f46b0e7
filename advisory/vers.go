package advisory

import (
	"slices"
	"strings"
)

// A constraint is one signpost of a range of versions.
type constraint struct {
	op      string // one of comparators; "=" where none is written
	version string
}

// comparators are those of constraints, the longer ones first.
var comparators = []string{">=", "<=", "!=", ">", "<", "="}

// A versRange is a range of versions in the form vers (package-url, version range
// specifier, "How to parse and validate VERS").
type versRange struct {
	kind        string       // of package, or "semver", "generic" and the like
	constraints []constraint // none: all versions, of kind none no version
}

// parseVers returns the parts of a range, and whether it is one.
func parseVers(s string) (versRange, bool) {
	rest, ok := strings.CutPrefix(s, "vers:")
	kind, list, ok2 := strings.Cut(rest, "/")
	r := versRange{kind: kind}
	if !ok || !ok2 || kind == "" || strings.ToLower(kind) != kind || strings.ContainsAny(list, " \t") {
		return r, false
	}
	if list == "*" {
		return r, true
	}
	for text := range strings.SplitSeq(list, "|") {
		c := constraint{op: "="}
		for _, op := range comparators {
			if after, ok := strings.CutPrefix(text, op); ok {
				c.op, text = op, after
				break
			}
		}
		if c.version, ok = unescape(text); !ok || text == "" || strings.ContainsAny(text, "<>=!*") {
			return r, false
		}
		r.constraints = append(r.constraints, c)
	}
	return r, kind != "all" && kind != "none"
}

// contains tells whether a version is in the range, and whether that could be told.
func (r versRange) contains(version string, compare comparison) (in, ok bool) {
	if !r.sound(compare) {
		return false, false
	}
	first := true
	for _, c := range r.constraints {
		order, comparable := compare(version, c.version)
		switch {
		case !comparable:
			return false, false
		case order == 0:
			return c.op == "=" || c.op == "<=" || c.op == ">=", true
		case c.op == "=" || c.op == "!=":
			continue
		case order > 0: // beyond a lower bound it is in, beyond an upper one out
			in = c.op[0] == '>'
		case first:
			in = c.op[0] == '<'
		}
		first = false
	}
	return in, true
}

// sound reports whether the versions rise, and lower and upper bounds take turns, as
// they must. A range that only names versions outside of it does not say what is in.
func (r versRange) sound(compare comparison) bool {
	var bound byte
	says := false
	for i, c := range r.constraints {
		if i > 0 {
			if order, ok := compare(r.constraints[i-1].version, c.version); !ok || order >= 0 {
				return false
			}
		}
		switch c.op {
		case "!=":
			continue
		case "=":
		default:
			if c.op[0] == bound {
				return false
			}
			bound = c.op[0]
		}
		says = true
	}
	return says
}

// within reports whether a component is of a version in a range, and why that could
// not be told; "" when it could.
func within(text string, c Component) (in bool, why string) {
	r, ok := parseVers(text)
	switch {
	case !ok:
		return false, "a range of versions in another form than vers: not compared"
	case len(r.constraints) == 0:
		return r.kind != "none", ""
	}
	compare, version, why := c.comparison(r.kind)
	if why != "" {
		return false, why
	}
	if compare == nil {
		for _, x := range r.constraints {
			if x.op == "=" && x.version == version {
				return true, ""
			}
		}
		return false, "versions of " + r.kind + " cannot be compared: not compared"
	}
	if in, ok = r.contains(version, compare); !ok {
		return false, "version " + version + " cannot be compared with " + text + ": not compared"
	}
	return in, ""
}

// comparison returns how versions of a kind are compared with the component's, nil
// where only equal ones can be told, and that version; or why it is of another kind.
func (c Component) comparison(kind string) (compare comparison, version, why string) {
	version = c.Version
	compare = comparisonOf(kind)
	if c.purl.name != "" {
		version = c.purl.comparable()
		semantic := kind == "semver" && slices.Contains(semverKinds, c.purl.kind)
		if comparisonOf(c.purl.kind) != nil && kind != c.purl.kind && !semantic {
			return nil, version, "a range of versions of " + kind + ", and it is a package of " + c.purl.kind + ": not compared"
		}
	}
	if version == "" {
		why = "the bill of materials has no version: not compared"
	}
	return compare, version, why
}
