package advisory

import (
	"encoding/hex"
	"slices"
	"strings"
	"unicode"
)

// A purl is a package URL (ECMA-427).
type purl struct {
	kind, namespace, name, version string
	qualifiers                     map[string]string
}

// parsePURL returns the parts of a package URL, and whether it is one.
func parsePURL(s string) (purl, bool) {
	var p purl
	rest, ok := strings.CutPrefix(s, "pkg:")
	if !ok {
		return p, false
	}
	rest, _, _ = strings.Cut(strings.TrimLeft(rest, "/"), "#")
	rest, query, _ := strings.Cut(rest, "?")
	p.qualifiers = map[string]string{}
	for pair := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(pair, "=")
		if p.qualifiers[name], ok = unescape(value); !ok {
			return p, false
		}
	}
	if at := strings.LastIndexByte(rest, '@'); at > strings.LastIndexByte(rest, '/') {
		if p.version, ok = unescape(rest[at+1:]); !ok {
			return p, false
		}
		rest = rest[:at]
	}
	kind, path, _ := strings.Cut(rest, "/")
	if path, ok = unescape(strings.Trim(path, "/")); !ok || kind == "" || path == "" {
		return p, false
	}
	p.kind, p.name = strings.ToLower(kind), path
	if at := strings.LastIndexByte(path, '/'); at >= 0 {
		p.namespace, p.name = path[:at], path[at+1:]
	}
	p.normalise()
	return p, p.name != ""
}

// unescape resolves percent-encoded bytes, of what can be printed.
func unescape(s string) (string, bool) {
	head, rest, escaped := strings.Cut(s, "%")
	var b strings.Builder
	b.WriteString(head)
	for escaped {
		if len(rest) < 2 {
			return "", false
		}
		c, err := hex.DecodeString(rest[:2])
		if err != nil {
			return "", false
		}
		b.Write(c)
		head, rest, escaped = strings.Cut(rest[2:], "%")
		b.WriteString(head)
	}
	out := b.String()
	return out, !strings.ContainsFunc(out, func(r rune) bool { return !unicode.IsPrint(r) })
}

// normalise makes parts lower case whose type says that case does not matter.
func (p *purl) normalise() {
	switch p.kind {
	case "deb", "apk", "rpm":
		p.namespace = strings.ToLower(p.namespace)
		if p.kind != "rpm" {
			p.name = strings.ToLower(p.name)
		}
	case "github", "bitbucket", "composer", "hex", "golang":
		p.namespace, p.name = strings.ToLower(p.namespace), strings.ToLower(p.name)
	case "pypi":
		p.name = strings.ReplaceAll(strings.ToLower(p.name), "_", "-")
	}
	if p.kind == "golang" && p.namespace == "" && p.name == "std" {
		p.name = "stdlib" // as the Go vulnerability database calls it
	}
}

// short is a part of key that finds packages fast, whatever their namespace.
func (p purl) short() string { return p.kind + "/" + p.name }

// key is what two packages must share to be the same one in any version.
func (p purl) key() string { return p.kind + "/" + p.namespace + "/" + p.name }

// source returns the package that p was built from, where it says so: databases
// of distributions name their source packages.
func (p purl) source() (purl, bool) {
	up := p.qualifiers["upstream"]
	if up == "" {
		return p, false
	}
	p.name = up
	if p.kind == "rpm" { // name-version-release.src.rpm
		p.name = strings.TrimSuffix(p.name, ".src.rpm")
		for range 2 {
			if at := strings.LastIndexByte(p.name, '-'); at > 0 {
				p.name = p.name[:at]
			}
		}
		return p, true
	}
	if name, version, ok := strings.Cut(up, "@"); ok {
		p.name, p.version = name, version
	}
	return p, true
}

// comparable returns the version as the comparison of its ecosystem wants it.
func (p purl) comparable() string {
	if e := p.qualifiers["epoch"]; e != "" && p.kind == "rpm" {
		return e + ":" + p.version
	}
	return p.version
}

// wanted returns the package of an ecosystem of OSV with that name, without a kind
// where the ecosystem is not known.
func wanted(ecosystem, name string) purl {
	family, _, _ := strings.Cut(ecosystem, ":")
	want := purl{name: name}
	want.kind, _ = ecosystemOf(family)
	switch want.kind {
	case "golang", "npm", "composer":
		if at := strings.LastIndexByte(name, '/'); at >= 0 {
			want.namespace, want.name = name[:at], name[at+1:]
		}
	case "maven":
		want.namespace, want.name, _ = strings.Cut(name, ":")
	}
	want.normalise()
	return want
}

// inEcosystem reports whether p can be a package of an ecosystem of OSV with that
// name. The release of a distribution counts where both sides name one.
func (p purl) inEcosystem(ecosystem, name string) bool {
	family, release, _ := strings.Cut(ecosystem, ":")
	_, namespaces := ecosystemOf(family)
	want := wanted(ecosystem, name)
	if want.kind == "" || want.kind != p.kind || want.name != p.name {
		return false
	}
	if namespaces == nil {
		return want.namespace == p.namespace
	}
	if p.namespace != "" && !slices.Contains(namespaces, p.namespace) {
		return false
	}
	return sameRelease(release, p.qualifiers["distro"])
}

// sameRelease compares "12", "v3.18" or "22.04:LTS" with "debian-12.5",
// "alpine-3.18.4" or "ubuntu-22.04". What is not known can be the same.
func sameRelease(release, distro string) bool {
	release, _, _ = strings.Cut(strings.TrimPrefix(release, "v"), ":")
	if at := strings.LastIndexByte(distro, '-'); at >= 0 {
		distro = distro[at+1:]
	}
	digits := func(s string) bool { return s != "" && s[0] >= '0' && s[0] <= '9' }
	if !digits(release) || !digits(distro) {
		return true
	}
	return strings.HasPrefix(distro+".", release+".") || strings.HasPrefix(release+".", distro+".")
}

// ecosystemOf returns the type of package URL of an ecosystem of OSV, and for
// distributions the namespaces that mean it.
func ecosystemOf(family string) (kind string, namespaces []string) {
	switch family {
	case "Go":
		return "golang", nil
	case "npm":
		return "npm", nil
	case "PyPI":
		return "pypi", nil
	case "crates.io":
		return "cargo", nil
	case "Maven":
		return "maven", nil
	case "NuGet":
		return "nuget", nil
	case "RubyGems":
		return "gem", nil
	case "Packagist":
		return "composer", nil
	case "Hex":
		return "hex", nil
	case "Pub":
		return "pub", nil
	case "ConanCenter":
		return "conan", nil
	case "OSS-Fuzz":
		return "generic", nil
	case "Debian":
		return "deb", []string{"debian"}
	case "Ubuntu":
		return "deb", []string{"ubuntu"}
	case "Alpine":
		return "apk", []string{"alpine"}
	case "Wolfi":
		return "apk", []string{"wolfi"}
	case "Chainguard":
		return "apk", []string{"chainguard"}
	case "Red Hat":
		return "rpm", []string{"redhat"}
	case "AlmaLinux":
		return "rpm", []string{"almalinux", "alma"}
	case "Rocky Linux":
		return "rpm", []string{"rocky-linux", "rocky", "rockylinux"}
	case "SUSE":
		return "rpm", []string{"suse", "sles"}
	case "openSUSE":
		return "rpm", []string{"opensuse"}
	case "openEuler":
		return "rpm", []string{"openeuler"}
	}
	return "", nil
}
