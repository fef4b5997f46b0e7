package advisory_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/advisory"
)

func file(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile("../configs/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// bill makes a bill of materials of the device 1.0 from package URLs.
func bill(t testing.TB, purls ...string) *advisory.BOM {
	t.Helper()
	var list []string
	for i, p := range purls {
		list = append(list, fmt.Sprintf(`{"name":"c%d","bom-ref":"r%d","version":"x","purl":%q}`, i, i, p))
	}
	b, err := advisory.ReadBOM([]byte(`{"bomFormat":"CycloneDX","specVersion":"1.6","serialNumber":"urn:uuid:1","version":2,
		"metadata":{"component":{"name":"pump","version":"1.0","bom-ref":"dev","purl":"pkg:generic/pump@1.0"}},"components":[` + strings.Join(list, ",") + `]}`))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var pump = advisory.Device{Vendor: "Acme", Model: "pump", BOM: "https://example.com/pump.json"}

// found writes a result in one line for each vulnerability.
func found(t testing.TB, b *advisory.BOM, files ...string) string {
	t.Helper()
	m, err := advisory.NewMatcher(b, pump)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := m.Add([]byte(f)); err != nil {
			t.Fatal(err)
		}
	}
	var out []string
	for _, v := range m.Result().Vulnerabilities {
		out = append(out, fmt.Sprintf("%s %s %s: %s (%s)", v.ID, v.Severity, v.State, strings.Join(v.Where, ", "), v.Why))
	}
	return strings.Join(out, "\n")
}

// entry makes an entry of OSV.
func entry(id, more, ecosystem, name, affected string) string {
	return fmt.Sprintf(`{"id":%q,"modified":"2026-01-01T00:00:00Z",%s"affected":[{"package":{"ecosystem":%q,"name":%q},%s}]}`, id, more, ecosystem, name, affected)
}

func ranged(kind, events string) string {
	return fmt.Sprintf(`"ranges":[{"type":%q,"events":[%s]}]`, kind, events)
}

const (
	all      = `"ranges":[{"type":"SEMVER","events":[{"introduced":"0"}]}]`
	high     = `"severity":[{"type":"CVSS_V3","score":"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:H"}],`
	critical = `"severity":[{"type":"CVSS_V3","score":"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}],`
	golang   = "pkg:golang/example.com/m@v1.5.0"
)

func TestOSV(t *testing.T) {
	for _, tt := range []struct{ name, purl, entry, want string }{
		{"in a range", golang, entry("A", high, "Go", "example.com/m", ranged("SEMVER", `{"introduced":"1.2.0"},{"fixed":"1.5.1"}`)), "A high affected: c0 x (introduced 1.2.0, fixed 1.5.1)"},
		{"fixed", golang, entry("A", high, "Go", "example.com/m", ranged("SEMVER", `{"introduced":"0"},{"fixed":"1.5.0"}`)), ""},
		{"before it was introduced", golang, entry("A", high, "Go", "example.com/m", ranged("SEMVER", `{"introduced":"1.5.1"}`)), ""},
		{"introduced again", golang, entry("A", high, "Go", "example.com/m", ranged("SEMVER", `{"fixed":"1.2.0"},{"introduced":"1.4.0"},{"introduced":"0"},{"fixed":"1.6.0"}`)), "A high affected: c0 x (fixed 1.2.0, introduced 1.4.0, introduced 0, fixed 1.6.0)"},
		{"the last one", golang, entry("A", high, "Go", "example.com/m", ranged("SEMVER", `{"introduced":"0"},{"last_affected":"1.5.0"}`)), "A high affected: c0 x (introduced 0, last affected 1.5.0)"},
		{"behind the last one", golang, entry("A", high, "Go", "example.com/m", ranged("SEMVER", `{"introduced":"0"},{"last_affected":"1.4.9"}`)), ""},
		{"limit", golang, entry("A", high, "Go", "example.com/m", ranged("SEMVER", `{"introduced":"0"},{"limit":"1.5.0"}`)), ""},
		{"candidate", "pkg:golang/example.com/m@v1.5.1-rc.1", entry("A", high, "Go", "example.com/m", ranged("SEMVER", `{"introduced":"0"},{"fixed":"1.5.1"}`)), "A high affected: c0 x (introduced 0, fixed 1.5.1)"},
		{"Go itself", "pkg:golang/std@1.26.3", entry("A", "", "Go", "stdlib", ranged("SEMVER", `{"introduced":"0"},{"fixed":"1.26.4"}`)), "A not appraised affected: c0 x (introduced 0, fixed 1.26.4)"},
		{"listed", "pkg:maven/org.a/b@1.0", entry("A", critical, "Maven", "org.a:b", `"versions":["0.9","1.0"]`), "A critical affected: c0 x (version 1.0 is listed)"},
		{"not listed", "pkg:maven/org.a/b@1.0", entry("A", critical, "Maven", "org.a:b", `"versions":["0.9"]`), ""},
		{"no comparison", "pkg:maven/org.a/b@1.0", entry("A", critical, "Maven", "org.a:b", `"versions":["0.9"],`+ranged("ECOSYSTEM", `{"introduced":"0"},{"fixed":"0.9.1"}`)), "A critical affected: c0 x (versions of maven cannot be compared: not compared)"},
		{"no version of its kind", "pkg:golang/example.com/m@devel", entry("A", critical, "Go", "example.com/m", ranged("SEMVER", `{"introduced":"0"},{"fixed":"1.0.0"}`)), "A critical affected: c0 x (version devel cannot be compared with introduced 0, fixed 1.0.0: not compared)"},
		{"commits", golang, entry("A", critical, "Go", "example.com/m", ranged("GIT", `{"introduced":"0"},{"fixed":"abc"}`)), "A critical affected: c0 x (it names commits only: not compared)"},
		{"commits of two repositories", golang, entry("A", critical, "Go", "example.com/m", `"ranges":[{"type":"GIT","events":[{"introduced":"0"}]},{"type":"GIT","events":[{"introduced":"a"}]}]`), "A critical affected: c0 x (it names commits only: not compared)"},
		{"commits beside versions", golang, entry("A", critical, "Go", "example.com/m", `"ranges":[{"type":"GIT","events":[{"introduced":"0"}]},{"type":"SEMVER","events":[{"introduced":"2.0.0"}]}]`), ""},
		{"no versions at all", golang, `{"id":"A","modified":"2026-01-01T00:00:00Z","affected":[{"package":{"ecosystem":"Go","name":"example.com/m"}}]}`, "A not appraised affected: c0 x (it names no versions)"},
		{"Debian", "pkg:deb/debian/libm1@1.4-2?distro=debian-12&upstream=m", entry("A", high, "Debian:12", "m", ranged("ECOSYSTEM", `{"introduced":"0"},{"fixed":"1.4-2+deb12u1"}`)), "A high affected: c0 x (introduced 0, fixed 1.4-2+deb12u1)"},
		{"Debian before", "pkg:deb/debian/libm1@1.4-2?distro=debian-12&upstream=m", entry("A", high, "Debian:11", "m", ranged("ECOSYSTEM", `{"introduced":"0"}`)), ""},
		{"Debian, no release known", "pkg:deb/debian/m@1.4-2", entry("A", high, "Debian:11", "m", ranged("ECOSYSTEM", `{"introduced":"0"}`)), "A high affected: c0 x (introduced 0)"},
		{"Ubuntu is not Debian", "pkg:deb/ubuntu/m@1.4-2", entry("A", high, "Debian:11", "m", ranged("ECOSYSTEM", `{"introduced":"0"}`)), ""},
		{"Alpine", "pkg:apk/alpine/m@1.2.3-r4?distro=alpine-3.18.4", entry("A", high, "Alpine:v3.18", "m", ranged("ECOSYSTEM", `{"introduced":"0"},{"fixed":"1.2.3-r5"}`)), "A high affected: c0 x (introduced 0, fixed 1.2.3-r5)"},
		{"Red Hat", "pkg:rpm/redhat/m-libs@3.0.7-18.el9?epoch=1&upstream=m-3.0.7-18.el9.src.rpm", entry("A", high, "Red Hat:enterprise_linux:9::baseos", "m", ranged("ECOSYSTEM", `{"introduced":"0"},{"fixed":"1:3.0.7-20.el9"}`)), "A high affected: c0 x (introduced 0, fixed 1:3.0.7-20.el9)"},
		{"Python", "pkg:pypi/Some_Thing@1.0rc1", entry("A", high, "PyPI", "some-thing", ranged("ECOSYSTEM", `{"introduced":"0"},{"fixed":"1.0"}`)), "A high affected: c0 x (introduced 0, fixed 1.0)"},
		{"npm", "pkg:npm/%40a/b@1.0.0", entry("A", high, "npm", "@a/b", all), "A high affected: c0 x (introduced 0)"},
		{"by package URL", "pkg:generic/tls@1.0", `{"id":"A","modified":"2026-01-01T00:00:00Z","affected":[{"package":{"ecosystem":"X","name":"y","purl":"pkg:generic/tls"},"versions":["1.0"]}]}`, "A not appraised affected: c0 x (version 1.0 is listed)"},
		{"withdrawn", golang, entry("A", `"withdrawn":"2026-01-01T00:00:00Z",`, "Go", "example.com/m", all), ""},
		{"a list", golang, "[" + entry("A", high, "Go", "example.com/m", all) + "," + entry("B", critical, "Go", "example.com/m", all) + "]", "B critical affected: c0 x (introduced 0)\nA high affected: c0 x (introduced 0)"},
		{"rated in words", golang, entry("A", `"database_specific":{"severity":"MODERATE"},`, "Go", "example.com/m", all), "A medium affected: c0 x (introduced 0)"},
		{"version 4, from its vector", golang, entry("A", `"severity":[{"type":"CVSS_V4","score":"CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N"}],`, "Go", "example.com/m", all), "A critical affected: c0 x (introduced 0)"},
		{"version 4, no vector", golang, entry("A", `"severity":[{"type":"CVSS_V4","score":"CVSS:4.0/AV:N"}],`, "Go", "example.com/m", all), "A not appraised affected: c0 x (introduced 0)"},
	} {
		if got := found(t, bill(t, tt.purl), tt.entry); got != tt.want {
			t.Errorf("%s:\n%s\nwant\n%s", tt.name, got, tt.want)
		}
	}
}

// Names of one vulnerability are one vulnerability; two numbers of CVE are two.
func TestNames(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files []string
		want  string
	}{
		{"an alias", []string{entry("GHSA-1", high+`"aliases":["CVE-2026-1"],`, "Go", "example.com/m", all), entry("GO-1", `"aliases":["CVE-2026-1","GHSA-1"],`, "Go", "example.com/m", all)},
			"CVE-2026-1 high affected: c0 x (introduced 0)"},
		{"joined by a third", []string{entry("A", "", "Go", "example.com/m", all), entry("B", "", "Go", "example.com/m", all), entry("C", high+`"aliases":["A","B"],`, "Go", "example.com/m", all)},
			"A high affected: c0 x (introduced 0)"},
		{"rated by an entry of another package", []string{entry("GO-1", `"aliases":["CVE-2026-1"],`, "Go", "example.com/m", all), entry("CVE-2026-1", critical, "Go", "example.com/other", all)},
			"CVE-2026-1 critical affected: c0 x (introduced 0)"},
		{"two numbers", []string{entry("GHSA-1", high+`"aliases":["CVE-2026-1"],`, "Go", "example.com/m", all), entry("GO-1", `"aliases":["CVE-2026-2","GHSA-1"],`, "Go", "example.com/m", all)},
			"CVE-2026-2 high affected: c0 x (introduced 0)\nCVE-2026-1 high affected: c0 x (introduced 0)"},
		{"one entry about two", []string{entry("DSA-1", `"upstream":["CVE-2026-1","CVE-2026-2"],`, "Go", "example.com/m", all), vex("CVE-2026-1", "known_not_affected", "component_not_present")},
			"DSA-1 not appraised affected: c0 x (introduced 0)\nCVE-2026-1 not appraised not affected: pump 1.0 (component not present)"},
		{"the newer version", []string{entry("A", high, "Go", "example.com/m", all), strings.Replace(entry("A", high, "Go", "example.com/other", all), "2026-01-01", "2026-01-02", 1)}, ""},
		{"the newer version, by another clock", []string{strings.Replace(entry("A", high, "Go", "example.com/m", all), "00:00:00Z", "00:00:00+02:00", 1), strings.Replace(entry("A", high, "Go", "example.com/other", all), "00:00:00Z", "00:00:00+01:00", 1)}, ""},
		{"two of the same time", []string{entry("A", high, "Go", "example.com/m", all), entry("A", high, "Go", "example.com/other", all)}, "A high affected: c0 x (introduced 0)"},
		{"the older version", []string{entry("A", high, "Go", "example.com/m", all), strings.Replace(entry("A", high, "Go", "example.com/other", all), "2026-01-01", "2025-01-02", 1)},
			"A high affected: c0 x (introduced 0)"},
	} {
		got := found(t, bill(t, golang), tt.files...)
		if tt.name == "two numbers" {
			if strings.Count(got, "CVE-2026-") != 2 {
				t.Errorf("%s: %s", tt.name, got)
			}
			continue
		}
		if got != tt.want {
			t.Errorf("%s:\n%s\nwant\n%s", tt.name, got, tt.want)
		}
	}
}

// vex makes a VEX of CSAF by the maker of the pump 1.0.
func vex(cve, status, flag string) string {
	return csaf(`{"branches":[{"category":"vendor","name":"acme","branches":[{"category":"product_name","name":"Pump","branches":[
		{"category":"product_version","name":"1.0","product":{"product_id":"P","name":"n"}}]}]}]}`, cve, status, flag)
}

func csaf(tree, cve, status, flag string) string {
	flags := ""
	if flag != "" {
		flags = fmt.Sprintf(`,"flags":[{"label":%q,"product_ids":["P"]}]`, flag)
	}
	return fmt.Sprintf(`{"document":{"csaf_version":"2.0","publisher":{"namespace":"https://example.com"},"tracking":{"id":"V","current_release_date":"2026-01-01T00:00:00Z"}},
		"product_tree":%s,"vulnerabilities":[{"cve":%q,"product_status":{%q:["P"]}%s}]}`, tree, cve, status, flags)
}

func product(version, helper string) string {
	return fmt.Sprintf(`{"full_product_names":[{"product_id":"P","name":"n %s","product_identification_helper":%s}]}`, version, helper)
}

func TestVEX(t *testing.T) {
	osv := entry("A", high+`"aliases":["CVE-1"],`, "Go", "example.com/m", all)
	cdx := func(ref, analysis string) string {
		return fmt.Sprintf(`{"bomFormat":"CycloneDX","specVersion":"1.6","version":1,"vulnerabilities":[{"id":"CVE-1","analysis":%s,"affects":[{"ref":%q}]}]}`, analysis, ref)
	}
	ranges := func(analysis, versions string) string {
		return strings.Replace(cdx("urn:cdx:1/2#r0", analysis), `"affects":[{`, `"affects":[{"versions":[`+versions+`],`, 1)
	}
	device := func(versions, status string) string {
		return strings.Replace(strings.Replace(vex("CVE-1", status, ""), `"1.0"`, `"`+versions+`"`, 1), "product_version", "product_version_range", 1)
	}
	packages := func(versions, status string) string {
		return csaf(fmt.Sprintf(`{"branches":[{"category":"vendor","name":"m","branches":[{"category":"product_name","name":"M","branches":[
			{"category":"product_version_range","name":%q,"product":{"product_id":"P","name":"n","product_identification_helper":{"purl":"pkg:golang/example.com/m"}}}]}]}]}`, versions), "CVE-1", status, "")
	}
	inPump := csaf(`{"branches":[{"category":"vendor","name":"acme","branches":[{"category":"product_name","name":"Pump","branches":[
			{"category":"product_version_range","name":"RANGE","product":{"product_id":"O","name":"p"}}]}]}],
		"full_product_names":[{"product_id":"M","name":"m","product_identification_helper":{"purl":"`+golang+`"}}],
		"relationships":[{"category":"default_component_of","product_reference":"M","relates_to_product_reference":"O","full_product_name":{"product_id":"P","name":"m in p"}}]}`, "CVE-1", "fixed", "")
	const open, component = "CVE-1 high affected: c0 x (introduced 0)", "CVE-1 high not affected: c0 x "
	for _, tt := range []struct{ name, vex, want string }{
		{"CSAF, not affected", vex("CVE-1", "known_not_affected", "vulnerable_code_not_present"), component + "(vulnerable code not present)"},
		{"CSAF, without a reason", vex("CVE-1", "known_not_affected", ""), "CVE-1 high affected: c0 x (it says not affected, but not why)"},
		{"CSAF, a severity is no reason", strings.Replace(vex("CVE-1", "known_not_affected", ""), `"product_status"`, `"threats":[{"category":"impact","details":"Low","product_ids":["P"]}],"product_status"`, 1), "CVE-1 high affected: c0 x (it says not affected, but not why)"},
		{"CSAF, in words", strings.Replace(vex("CVE-1", "known_not_affected", ""), `"product_status"`, `"threats":[{"category":"impact","details":"It is\nnot used.","product_ids":["P"]}],"product_status"`, 1), component + "(It is not used.)"},
		{"CSAF, fixed", vex("CVE-1", "fixed", ""), "CVE-1 high fixed: c0 x ()"},
		{"CSAF, nobody knows yet", vex("CVE-1", "under_investigation", ""), "CVE-1 high under investigation: c0 x ()"},
		{"CSAF, affected", vex("CVE-1", "known_affected", ""), "CVE-1 high affected: c0 x ()"},
		{"CSAF, another vulnerability", vex("CVE-2", "known_not_affected", "vulnerable_code_not_present"), open + "\nCVE-2 not appraised not affected: pump 1.0 (vulnerable code not present)"},
		{"CSAF, another version of the device", strings.Replace(vex("CVE-1", "fixed", ""), `"1.0"`, `"1.1"`, 1), open},
		{"CSAF, a range of versions", device("vers:semver/>=1.0|<2", "fixed"), "CVE-1 high fixed: c0 x ()"},
		{"CSAF, a range of other versions", device("vers:semver/>=1.1", "fixed"), open},
		{"CSAF, a range that is not compared", device("vers:generic/>=1.0", "fixed"), open},
		{"CSAF, a range in words", device("before 1.2", "fixed"), open},
		{"CSAF, affected in a range that is not compared", device("vers:generic/>=1.0", "known_affected"), "CVE-1 high affected: c0 x (versions of generic cannot be compared: not compared)"},
		{"CSAF, affected in a range of other versions", device("vers:intdot/<0.9", "known_affected"), open},
		{"CSAF, all versions", device("vers:all/*", "fixed"), "CVE-1 high fixed: c0 x ()"},
		{"CSAF, a range of a package", packages("vers:golang/<1.5.1", "fixed"), "CVE-1 high fixed: c0 x ()"},
		{"CSAF, a range of other versions of a package", packages("vers:golang/<1.5.0", "fixed"), open},
		{"CSAF, a range of a package that is not compared", packages("<1.6", "known_affected"), "CVE-1 high affected: c0 x (a range of versions in another form than vers: not compared)"},
		{"CSAF, in the device, in a range that is not compared", strings.Replace(inPump, "RANGE", "vers:generic/>=0.9", 1), open},
		{"CSAF, in the device, in a range", strings.Replace(inPump, "RANGE", "vers:intdot/>=0.9", 1), "CVE-1 high fixed: c0 x ()"},
		{"CSAF, by package URL", csaf(product("", `{"purl":"`+golang+`"}`), "CVE-1", "fixed", ""), "CVE-1 high fixed: c0 x ()"},
		{"CSAF, package URL of another version", csaf(product("", `{"purl":"pkg:golang/example.com/m@v1.4.0"}`), "CVE-1", "fixed", ""), open},
		{"CSAF, by the address of the bill", csaf(product("", `{"sbom_urls":["https://example.com/pump.json"]}`), "CVE-1", "fixed", ""), "CVE-1 high fixed: c0 x ()"},
		{"CSAF, in something else", csaf(`{"full_product_names":[{"product_id":"M","name":"m","product_identification_helper":{"purl":"`+golang+`"}},{"product_id":"O","name":"other"}],
			"relationships":[{"category":"default_component_of","product_reference":"M","relates_to_product_reference":"O","full_product_name":{"product_id":"P","name":"m in other"}}]}`, "CVE-1", "fixed", ""), open},
		{"CSAF, in the device", csaf(`{"full_product_names":[{"product_id":"M","name":"m","product_identification_helper":{"purl":"`+golang+`"}},{"product_id":"O","name":"p","product_identification_helper":{"purl":"pkg:generic/pump@1.0"}}],
			"relationships":[{"category":"default_component_of","product_reference":"M","relates_to_product_reference":"O","full_product_name":{"product_id":"P","name":"m in p"}}]}`, "CVE-1", "fixed", ""), "CVE-1 high fixed: c0 x ()"},
		{"CycloneDX, not affected", cdx("urn:cdx:1/2#r0", `{"state":"not_affected","justification":"code_not_reachable","detail":"no parser"}`), component + "(code not reachable: no parser)"},
		{"CycloneDX, without a reason", cdx("urn:cdx:1/2#r0", `{"state":"not_affected"}`), "CVE-1 high affected: c0 x (it says not affected, but not why)"},
		{"CycloneDX, the device", cdx("urn:cdx:1/2#dev", `{"state":"resolved"}`), "CVE-1 high fixed: c0 x ()"},
		{"CycloneDX, another edition of the bill", cdx("urn:cdx:1/1#r0", `{"state":"resolved"}`), open},
		{"CycloneDX, another bill", cdx("urn:cdx:7/2#r0", `{"state":"resolved"}`), open},
		{"CycloneDX, in triage", cdx("urn:cdx:1/2#r0", `{"state":"in_triage"}`), "CVE-1 high under investigation: c0 x ()"},
		{"CycloneDX, by package URL", cdx(golang, `{"state":"resolved"}`), "CVE-1 high fixed: c0 x ()"},
		{"CycloneDX, this version", strings.Replace(cdx("urn:cdx:1/2#r0", `{}`), `"affects":[{`, `"affects":[{"versions":[{"version":"x","status":"unaffected"}],`, 1), component + "(this version is not affected)"},
		{"CycloneDX, a range", ranges(`{"state":"resolved"}`, `{"range":"vers:golang/<2"}`), "CVE-1 high fixed: c0 x ()"},
		{"CycloneDX, a range of other versions", ranges(`{"state":"resolved"}`, `{"range":"vers:golang/<1"}`), open},
		{"CycloneDX, not compared", ranges(`{"state":"resolved"}`, `{"range":"vers:npm/<2"}`), open},
		{"CycloneDX, a range that is not affected", ranges(`{}`, `{"range":"vers:golang/<1","status":"affected"},{"range":"vers:golang/>=1|<2","status":"unaffected"}`), component + "(this version is not affected)"},
		{"CycloneDX, not affected in a range that is not compared", ranges(`{}`, `{"range":"<2","status":"unaffected"}`), "CVE-1 high affected: c0 x (a range of versions in another form than vers: not compared)"},
		{"CycloneDX, affected in a range that is not compared", ranges(`{}`, `{"version":"x","status":"unaffected"},{"range":"vers:generic/<2","status":"affected"}`),
			"CVE-1 high affected: c0 x (a range of versions of generic, and it is a package of golang: not compared)"},
		{"CycloneDX, of several the worst", ranges(`{}`, `{"range":"vers:golang/<2","status":"unaffected"},{"range":"vers:golang/>=1.5.0","status":"unknown"}`), "CVE-1 high under investigation: c0 x ()"},
		{"CycloneDX, the version as the package URL has it", ranges(`{}`, `{"version":"1.5.0","status":"unaffected"}`), component + "(this version is not affected)"},
	} {
		for _, order := range [][]string{{osv, tt.vex}, {tt.vex, osv}} {
			if got := found(t, bill(t, golang), order...); got != tt.want {
				t.Errorf("%s:\n%s\nwant\n%s", tt.name, got, tt.want)
			}
		}
	}
	// The closest counts, whatever comes first.
	supplier := csaf(product("", `{"purl":"`+golang+`"}`), "CVE-1", "known_affected", "")
	supplier = strings.Replace(supplier, `"id":"V"`, `"id":"S"`, 1)
	own := vex("CVE-1", "known_not_affected", "vulnerable_code_not_in_execute_path")
	if got, want := found(t, bill(t, golang), own, supplier), strings.Replace(component, "high", "not appraised", 1)+"(vulnerable code not in execute path)"; got != want {
		t.Errorf("the device's own before a supplier's: %s", got)
	}
	other := strings.Replace(vex("CVE-1", "known_affected", ""), `"id":"V"`, `"id":"W"`, 1)
	if got := found(t, bill(t, golang), own, other); !strings.Contains(got, " affected: c0 x") && !strings.Contains(got, " affected: pump 1.0") {
		t.Errorf("of equals the worse: %s", got)
	}
}

// TestExample holds what the example of configs is made to show.
func TestExample(t *testing.T) {
	b, err := advisory.ReadBOM(file(t, "label-example.cdx.json"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := advisory.NewMatcher(b, advisory.Device{Vendor: "Example Medical", Model: "wearable-1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"osv", "vex"} {
		if err := m.Add(file(t, "label-example-vulnerabilities/"+name+".json")); err != nil {
			t.Fatal(err)
		}
	}
	r := m.Result()
	var got []string
	for _, v := range r.Vulnerabilities {
		got = append(got, v.ID+" "+v.Severity.String()+" "+v.State.String())
	}
	want := "EXAMPLE-2026-3 not appraised affected, EXAMPLE-2026-1 critical affected, EXAMPLE-2026-2 high not affected, EXAMPLE-2026-4 low fixed"
	if strings.Join(got, ", ") != want {
		t.Errorf("%s\nwant %s", strings.Join(got, ", "), want)
	}
	if len(r.Unidentified) != 1 || r.Documents != 6 || r.Open(advisory.Critical) != 1 || r.Open(advisory.High) != 0 || r.Open(advisory.Unknown) != 1 {
		t.Errorf("%+v", r)
	}
}

func TestNotCompared(t *testing.T) {
	m, err := advisory.NewMatcher(bill(t, golang), pump)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{
		entry("A", "", "Bitnami", "x", all), `{"id":"B","modified":"2026-01-01T00:00:00Z","affected":[{"ranges":[]}]}`,
		csaf(product("", `{}`), "CVE-1", "known_affected", ""),
		`{"bomFormat":"CycloneDX","specVersion":"1.6","vulnerabilities":[{"id":"C","affects":[{"ref":"urn:cdx:9/1#x"}]}]}`,
	} {
		if err := m.Add([]byte(f)); err != nil {
			t.Fatal(err)
		}
	}
	got := strings.Join(m.Result().NotCompared, "\n")
	want := `1 affected products of CSAF documents are neither this device nor named by a package URL
1 components that a VEX in CycloneDX names are not in the bill of materials
1 entries about packages of ecosystem Bitnami
1 entries without a package`
	if got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

func TestRefuses(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"", "it is empty"},
		{"{", "unexpected end of JSON input"},
		{"[1,]", "invalid character"},
		{"\xff", "not UTF-8"},
		{`{"id":"a","id":"b"}`, `$: "id" stands there twice`},
		{strings.Repeat("[", 80) + strings.Repeat("]", 80), "deeper than 64"},
		{`{}`, "$: neither OSV nor CSAF nor CycloneDX"},
		{`[{"id":"a","modified":"2026-01-01T00:00:00Z"},7]`, "$[1]: want an object"},
		{`"x"`, "$: want an object"},
		{`{"id":7,"modified":"2026-01-01T00:00:00Z"}`, "$.id: want a string"},
		{`{"id":"a","modified":"yesterday"}`, `"yesterday" is no time`},
		{`{"id":"a\u001b[1m","modified":"2026-01-01T00:00:00Z"}`, "is not plain text"},
		{`{"id":"a","modified":"2026-01-01T00:00:00Z","affected":{}}`, "$.affected: want a list"},
		{entry("a", "", "Go", "example.com/m", ranged("SEMVER", `{"fixed":"1"}`)), "no introduced"},
		{entry("a", "", "Go", "example.com/m", ranged("SEMVER", `{"introduced":"0","fixed":"1"}`)), "want one member"},
		{entry("a", "", "Go", "example.com/m", ranged("CALVER", `{"introduced":"0"}`)), `"CALVER" is unknown`},
		{strings.Replace(vex("CVE-1", "fixed", ""), `"2.0"`, `"1.2"`, 1), `"1.2" is not 2.0`},
		{strings.Replace(vex("CVE-1", "fixed", ""), `["P"]`, `["Q"]`, 1), `"Q" is not in the product tree`},
		{vex("CVE-1", "known_not_affected", "because"), `"because" is unknown`},
		{csaf(`{"full_product_names":[{"product_id":"P","name":"a"},{"product_id":"P","name":"b"}]}`, "CVE-1", "fixed", ""), "stands there twice"},
		{csaf(product("", `{"purl":"x"}`), "CVE-1", "fixed", ""), `"x" is no package URL`},
		{`{"bomFormat":"CycloneDX","specVersion":"9"}`, `"9" is none of`},
		{`{"bomFormat":"SPDX","specVersion":"1.6"}`, "is not CycloneDX"},
		{`{"bomFormat":"CycloneDX","specVersion":"1.6","version":1.5}`, "no version of a document"},
		{`{"bomFormat":"CycloneDX","specVersion":"1.6","vulnerabilities":[{"id":"a","analysis":{"state":"fine"},"affects":[]}]}`, `"fine" is unknown`},
		{`{"bomFormat":"CycloneDX","specVersion":"1.6","components":[{"version":"1"}]}`, "$.components[0].name: missing or empty"},
	} {
		m, err := advisory.NewMatcher(bill(t, golang), pump)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Add([]byte(tt.text)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%.80q: %v, want %s", tt.text, err, tt.want)
		}
	}
	if _, err := advisory.ReadBOM([]byte(`{"bomFormat":"CycloneDX","specVersion":"1.6","components":[{"name":"a","purl":"a"}]}`)); err == nil || !strings.Contains(err.Error(), "is no package URL") {
		t.Errorf("a bill: %v", err)
	}
}

// Vulnerabilities that a bill of materials tells of itself are taken in.
func TestBOMWithVEX(t *testing.T) {
	b, err := advisory.ReadBOM([]byte(`{"bomFormat":"CycloneDX","specVersion":"1.6","components":[{"name":"m","version":"1","bom-ref":"m"}],
		"vulnerabilities":[{"id":"CVE-1","ratings":[{"method":"CVSSv4","score":9.3}],"analysis":{"state":"exploitable"},"affects":[{"ref":"m"}]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if got := found(t, b); got != "CVE-1 critical affected: m 1 ()" {
		t.Error(got)
	}
}

func FuzzBOM(f *testing.F) {
	f.Add(file(f, "label-example.cdx.json"))
	f.Add([]byte(`{"bomFormat":"CycloneDX","specVersion":"1.6","components":[{"name":"m","components":[{"name":"n","purl":"pkg:npm/%40a/b@1"}]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := advisory.ReadBOM(data)
		if err != nil {
			return
		}
		if m, err := advisory.NewMatcher(b, pump); err == nil {
			m.Result()
		}
	})
}

// FuzzAdvisory holds that what was taken out was taken out for a reason.
func FuzzAdvisory(f *testing.F) {
	f.Add(file(f, "label-example-vulnerabilities/osv.json"))
	f.Add(file(f, "label-example-vulnerabilities/vex.json"))
	f.Add([]byte(vex("CVE-1", "known_not_affected", "component_not_present")))
	f.Add([]byte(strings.Replace(strings.Replace(vex("CVE-1", "fixed", ""), `"1.0"`, `"vers:semver/>=1.0|<2"`, 1), "product_version", "product_version_range", 1)))
	f.Add([]byte(`{"bomFormat":"CycloneDX","specVersion":"1.6","vulnerabilities":[{"id":"CVE-1","affects":[{"ref":"pkg:deb/debian/example-tls","versions":[{"range":"vers:deb/<2","status":"unaffected"}]}]}]}`))
	f.Add([]byte(entry("A", critical, "Debian:12", "example-tls", ranged("ECOSYSTEM", `{"introduced":"0"},{"last_affected":"2"}`))))
	f.Add([]byte(`{"bomFormat":"CycloneDX","specVersion":"1.6","version":1,"vulnerabilities":[{"id":"CVE-1","analysis":{"state":"resolved"},"affects":[{"ref":"pkg:deb/debian/example-tls"}]}]}`))
	b, err := advisory.ReadBOM(file(f, "label-example.cdx.json"))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := advisory.NewMatcher(b, pump)
		if err != nil {
			t.Fatal(err)
		}
		if m.Add(data) != nil {
			return
		}
		for _, v := range m.Result().Vulnerabilities {
			if v.ID == "" || len(v.Where) == 0 || v.State == 0 || v.State == advisory.NotAffected && v.Why == "" {
				t.Fatalf("%+v", v)
			}
		}
	})
}
