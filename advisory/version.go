package advisory

import (
	"regexp"
	"slices"
	"strings"
)

// A comparison tells which of two versions is later: below 0, 0 or above 0, and
// whether both are versions of its kind at all.
type comparison func(a, b string) (int, bool)

// semverKinds are the types of package URL whose versions are those of semver.org.
var semverKinds = []string{"golang", "npm", "cargo", "hex", "pub"}

// comparisonOf returns the comparison of a type of package URL, nil where there is
// none: such versions are only found in lists.
func comparisonOf(kind string) comparison {
	if kind == "semver" || slices.Contains(semverKinds, kind) {
		return semver
	}
	switch kind {
	case "deb":
		return dpkg
	case "rpm":
		return rpm
	case "apk":
		return apk
	case "pypi":
		return pep440
	case "intdot":
		return intdot
	}
	return nil
}

// The forms of versions, with the parts that are compared.
var (
	semverForm = regexp.MustCompile(`^v?(\d+)(?:\.(\d+))?(?:\.(\d+))?(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?$`)
	dpkgForm   = regexp.MustCompile(`^(?:(\d+):)?([0-9A-Za-z.+~:-]*?)(?:-([0-9A-Za-z.+~]+))?$`)
	rpmForm    = regexp.MustCompile(`^(?:(\d+):)?([0-9A-Za-z._+~^]+)(?:-([0-9A-Za-z._+~^]+))?$`)
	apkForm    = regexp.MustCompile(`^(\d+(?:\.\d+)*)([a-z]?)((?:_(?:alpha|beta|pre|rc|cvs|svn|git|hg|p)\d*)*)(?:~[0-9a-f]+)?(?:-r(\d+))?$`)
	intdotForm = regexp.MustCompile(`^\d+(?:\.\d+)*$`)
	pypiForm   = regexp.MustCompile(`^v?(?:(\d+)!)?(\d+(?:\.\d+)*)(?:[._-]?(alpha|beta|preview|pre|a|b|c|rc)[._-]?(\d*))?(?:-(\d+)|([._-]?(?:post|rev|r)[._-]?)(\d*))?(?:([._-]?dev[._-]?)(\d*))?(?:\+([a-z0-9]+(?:[._-][a-z0-9]+)*))?$`)
)

// digits compares two numbers of any length; none is 0.
func digits(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

func isNumber(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// semver compares as semver.org 2.0.0, section 11, says. Numbers that are left out
// are 0: Go calls its own releases 1.26.
func semver(a, b string) (int, bool) {
	x, y := semverForm.FindStringSubmatch(a), semverForm.FindStringSubmatch(b)
	if x == nil || y == nil {
		return 0, false
	}
	for i := 1; i <= 3; i++ {
		if c := digits(x[i], y[i]); c != 0 {
			return c, true
		}
	}
	switch {
	case x[4] == y[4]:
		return 0, true
	case x[4] == "":
		return 1, true
	case y[4] == "":
		return -1, true
	}
	p, q := strings.Split(x[4], "."), strings.Split(y[4], ".")
	for i := range min(len(p), len(q)) {
		c := strings.Compare(p[i], q[i])
		switch n, m := isNumber(p[i]), isNumber(q[i]); {
		case n && m:
			c = digits(p[i], q[i])
		case n:
			c = -1
		case m:
			c = 1
		}
		if c != 0 {
			return c, true
		}
	}
	return len(p) - len(q), true
}

// dpkg compares as Debian Policy, section 5.6.12, says.
func dpkg(a, b string) (int, bool) {
	x, y := dpkgForm.FindStringSubmatch(a), dpkgForm.FindStringSubmatch(b)
	if x == nil || y == nil || x[2] == "" || y[2] == "" {
		return 0, false
	}
	if c := digits(x[1], y[1]); c != 0 {
		return c, true
	}
	if c := dpkgPart(x[2], y[2]); c != 0 {
		return c, true
	}
	return dpkgPart(x[3], y[3]), true
}

// dpkgOrder is the order of what is no digit: ~ before the end, that before
// letters, those before the rest.
func dpkgOrder(s string) int {
	switch {
	case s == "" || s[0] >= '0' && s[0] <= '9':
		return 0
	case s[0] == '~':
		return -1
	case s[0] >= 'A' && s[0] <= 'Z' || s[0] >= 'a' && s[0] <= 'z':
		return int(s[0])
	}
	return int(s[0]) + 256
}

func dpkgPart(a, b string) int {
	for a != "" || b != "" {
		for dpkgOrder(a) != 0 || dpkgOrder(b) != 0 {
			if c := dpkgOrder(a) - dpkgOrder(b); c != 0 {
				return c
			}
			a, b = a[1:], b[1:]
		}
		var n, m string
		n, a = span(a, isDigit)
		m, b = span(b, isDigit)
		if c := digits(n, m); c != 0 {
			return c
		}
	}
	return 0
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func isLetter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }

// span cuts s behind the bytes of a class.
func span(s string, class func(byte) bool) (head, rest string) {
	i := 0
	for i < len(s) && class(s[i]) {
		i++
	}
	return s[:i], s[i:]
}

// rpm compares epoch, version and, where both have one, release, as rpm does.
func rpm(a, b string) (int, bool) {
	x, y := rpmForm.FindStringSubmatch(a), rpmForm.FindStringSubmatch(b)
	if x == nil || y == nil {
		return 0, false
	}
	if c := digits(x[1], y[1]); c != 0 {
		return c, true
	}
	if c := rpmPart(x[2], y[2]); c != 0 || x[3] == "" || y[3] == "" {
		return c, true
	}
	return rpmPart(x[3], y[3]), true
}

func rpmPart(a, b string) int {
	separator := func(c byte) bool { return !isDigit(c) && !isLetter(c) && c != '~' && c != '^' }
	for {
		_, a = span(a, separator)
		_, b = span(b, separator)
		if strings.HasPrefix(a, "~") || strings.HasPrefix(b, "~") { // before the end
			if !strings.HasPrefix(a, "~") {
				return 1
			}
			if !strings.HasPrefix(b, "~") {
				return -1
			}
			a, b = a[1:], b[1:]
			continue
		}
		if strings.HasPrefix(a, "^") || strings.HasPrefix(b, "^") { // behind the end, before more
			switch {
			case a == "":
				return -1
			case b == "":
				return 1
			case a[0] != '^':
				return 1
			case b[0] != '^':
				return -1
			}
			a, b = a[1:], b[1:]
			continue
		}
		if a == "" || b == "" {
			return len(a) - len(b)
		}
		class := isLetter
		if isDigit(a[0]) {
			class = isDigit
		}
		var n, m string
		n, a = span(a, class)
		m, b = span(b, class)
		if m == "" { // a number is later than letters
			if isDigit(n[0]) {
				return 1
			}
			return -1
		}
		c := strings.Compare(n, m)
		if isDigit(n[0]) {
			c = digits(n, m)
		}
		if c != 0 {
			return c
		}
	}
}

// apk compares as apk-tools do: numbers, a letter, suffixes, the revision.
func apk(a, b string) (int, bool) {
	x, y := apkForm.FindStringSubmatch(a), apkForm.FindStringSubmatch(b)
	if x == nil || y == nil {
		return 0, false
	}
	p, q := strings.Split(x[1], "."), strings.Split(y[1], ".")
	for i := range min(len(p), len(q)) {
		c := digits(p[i], q[i])
		if i > 0 && (p[i][0] == '0' || q[i][0] == '0') { // as behind a decimal point
			c = strings.Compare(p[i], q[i])
		}
		if c != 0 {
			return c, true
		}
	}
	if len(p) != len(q) {
		return len(p) - len(q), true
	}
	if c := strings.Compare(x[2], y[2]); c != 0 {
		return c, true
	}
	s, t := strings.Split(x[3], "_")[1:], strings.Split(y[3], "_")[1:]
	for i := range max(len(s), len(t)) {
		order := func(list []string) (int, string) {
			if i >= len(list) {
				return 4, "" // between the candidates and what comes after
			}
			name, number := span(list[i], isLetter)
			for at, known := range []string{"alpha", "beta", "pre", "rc", "", "cvs", "svn", "git", "hg", "p"} {
				if known == name {
					return at, number
				}
			}
			return 4, number
		}
		n, from := order(s)
		m, to := order(t)
		if n != m {
			return n - m, true
		}
		if c := digits(from, to); c != 0 {
			return c, true
		}
	}
	return digits(x[4], y[4]), true
}

// pep440 compares as the Python packaging specification says, local versions left
// out: no advisory names them.
func pep440(a, b string) (int, bool) {
	x, y := pypiForm.FindStringSubmatch(strings.ToLower(a)), pypiForm.FindStringSubmatch(strings.ToLower(b))
	if x == nil || y == nil {
		return 0, false
	}
	if c := digits(x[1], y[1]); c != 0 {
		return c, true
	}
	p, q := strings.Split(x[2], "."), strings.Split(y[2], ".")
	for i := range max(len(p), len(q)) {
		part := func(list []string) string {
			if i < len(list) {
				return list[i]
			}
			return ""
		}
		if c := digits(part(p), part(q)); c != 0 {
			return c, true
		}
	}
	phase := func(m []string) int {
		post := m[5] != "" || m[6] != ""
		switch {
		case m[3] == "" && !post && m[8] != "":
			return 0 // a development of the release comes before its candidates
		case m[3] == "":
			return 4
		case m[3][0] == 'a':
			return 1
		case m[3][0] == 'b':
			return 2
		}
		return 3
	}
	if c := phase(x) - phase(y); c != 0 {
		return c, true
	}
	if c := digits(x[4], y[4]); c != 0 {
		return c, true
	}
	yes := func(b bool) int {
		if b {
			return 1
		}
		return 0
	}
	if c := yes(x[5] != "" || x[6] != "") - yes(y[5] != "" || y[6] != ""); c != 0 {
		return c, true
	}
	if c := digits(x[5]+x[7], y[5]+y[7]); c != 0 {
		return c, true
	}
	if c := yes(x[8] == "") - yes(y[8] == ""); c != 0 {
		return c, true
	}
	return digits(x[9], y[9]), true
}

// intdot compares numbers with dots between them, as the type intdot of version
// ranges has them. Numbers that are left out are 0.
func intdot(a, b string) (int, bool) {
	if !intdotForm.MatchString(a) || !intdotForm.MatchString(b) {
		return 0, false
	}
	for a != "" || b != "" {
		var n, m string
		n, a, _ = strings.Cut(a, ".")
		m, b, _ = strings.Cut(b, ".")
		if c := digits(n, m); c != 0 {
			return c, true
		}
	}
	return 0, true
}
