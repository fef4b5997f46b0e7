package advisory

import (
	"os/exec"
	"strings"
	"testing"
)

// versions are in order, each list by its own rules; "=" joins equal ones.
var versions = map[string][]string{
	"golang": {"1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "v1.0.1", "1.26", "1.26.1", "2.0.0"},
	"deb":    {"1.0~~", "1.0~rc1-1", "1.0-1", "1.0-1+deb12u1", "1.0-1.1", "1.0-2", "1.0a-1", "1.0+dfsg-1", "1.9", "1.10", "1:0.1", "2:0"},
	"rpm":    {"1.0~rc1", "1.0", "1.0^git1", "1.0.a", "1.0.1", "1.0.10-1.el9", "1.0.10-2.el9", "1:0.1-1"},
	"apk":    {"1.0_alpha", "1.0_alpha2", "1.0_beta", "1.0_rc1", "1.0", "1.0-r1", "1.0-r10", "1.0_p1", "1.0_p1-r2", "1.0a", "1.0b", "1.0.1", "1.2", "1.10"},
	"intdot": {"0.9", "1", "1.0.1", "1.2", "1.10", "2.0", "10.0"},
	"pypi":   {"1.0.dev1", "1.0a1.dev2", "1.0a1", "1.0a2", "1.0b1", "1.0rc1", "1.0", "1.0.post1.dev1", "1.0.post1", "1.0.1", "1.2", "1.10", "1!0.1"},
}

func TestVersions(t *testing.T) {
	for kind, list := range versions {
		compare := comparisonOf(kind)
		for i, a := range list {
			for j, b := range list {
				if c, ok := compare(a, b); !ok || sign(c) != sign(i-j) {
					t.Errorf("%s: %s and %s: %d, %v", kind, a, b, c, ok)
				}
			}
		}
	}
	for _, tt := range []struct {
		kind, a, b string
		equal, ok  bool
	}{
		{"golang", "1.2", "v1.2.0+incompatible", true, true}, {"golang", "1.2.x", "1.2.0", false, false}, {"deb", "1.0-0", "1.0", true, true},
		{"deb", "1.0_1", "1", false, false}, {"rpm", "1.0-1", "1.0", true, true}, {"pypi", "1.0", "1.0.0", true, true}, {"pypi", "1.0.alpha1", "1.0a1", true, true},
		{"pypi", "1.0-1", "1.0.post1", true, true}, {"apk", "1.0.0.01", "1.0", false, true}, {"apk", "x", "1.0", false, false}, {"intdot", "1.0", "1", true, true}, {"intdot", "01.2", "1.2", true, true}, {"intdot", "1.0-rc1", "1.0", false, false},
	} {
		if c, ok := comparisonOf(tt.kind)(tt.a, tt.b); ok != tt.ok || (ok && (c == 0) != tt.equal) {
			t.Errorf("%s: %s and %s: %d, %v", tt.kind, tt.a, tt.b, c, ok)
		}
	}
	if comparisonOf("maven") != nil {
		t.Error("versions of maven are compared")
	}
}

func sign(n int) int {
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}

// TestDpkg asks dpkg itself about each pair.
func TestDpkg(t *testing.T) {
	list := append([]string{"1.0-1~bpo12+1", "1.0.0+really0.9-1", "0:1.0-1", "1.00-1", "1.0-1-2", "5.66-1", "1.0Z", "1.0+", "1.0.+", "1.0~+"}, versions["deb"]...)
	for _, a := range list {
		for _, b := range list {
			c, ok := dpkg(a, b)
			if !ok {
				t.Errorf("%s and %s cannot be compared", a, b)
			}
			for relation, holds := range map[string]bool{"lt": c < 0, "eq": c == 0} {
				err := exec.CommandContext(t.Context(), "dpkg", "--compare-versions", a, relation, b).Run()
				if _, exited := err.(*exec.ExitError); err != nil && !exited {
					t.Fatalf("%v (Debian package dpkg)", err)
				}
				if (err == nil) != holds {
					t.Errorf("%s %s %s: dpkg says %v", a, relation, b, err == nil)
				}
			}
		}
	}
}

// FuzzVersions holds that the order is one: the same both ways round.
func FuzzVersions(f *testing.F) {
	for kind, list := range versions {
		for i := range list[1:] {
			f.Add(kind, list[i], list[i+1])
		}
	}
	f.Fuzz(func(t *testing.T, kind, a, b string) {
		compare := comparisonOf(kind)
		if compare == nil {
			return
		}
		c, ok := compare(a, b)
		d, back := compare(b, a)
		if ok != back || ok && sign(c) != -sign(d) {
			t.Fatalf("%q and %q: %d %v, %d %v", a, b, c, ok, d, back)
		}
		if same, ok := compare(a, a); ok && same != 0 {
			t.Fatalf("%q and itself: %d", a, same)
		}
	})
}

func FuzzPURL(f *testing.F) {
	f.Add("pkg:deb/debian/libssl3@1:3.0-1?distro=debian-12&upstream=openssl%403.0-1#x")
	f.Add("pkg:npm/%40a/b@1.0.0")
	f.Add("pkg:rpm/redhat/m-libs@3.0.7-18.el9?epoch=1&upstream=m-3.0.7-18.el9.src.rpm")
	f.Fuzz(func(t *testing.T, s string) {
		p, ok := parsePURL(s)
		if !ok {
			return
		}
		if p.name == "" || p.kind == "" {
			t.Fatalf("%q: %+v", s, p)
		}
		sources(p)
		p.inEcosystem("Debian:12", "openssl")
		p.inEcosystem("npm", "@a/b")
	})
}

// Scores of common kinds of vulnerabilities, as databases give them.
func TestBaseScore(t *testing.T) {
	for vector, want := range map[string]float64{
		"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H": 9.8, "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H": 10,
		"CVSS:3.1/AV:N/AC:L/PR:N/UI:R/S:C/C:L/I:L/A:N": 6.1, "CVSS:3.1/AV:N/AC:L/PR:L/UI:N/S:C/C:L/I:L/A:N": 6.4,
		"CVSS:3.1/AV:N/AC:H/PR:N/UI:R/S:U/C:L/I:N/A:N": 3.1, "CVSS:3.1/AV:L/AC:L/PR:L/UI:N/S:U/C:H/I:H/A:H": 7.8,
		"CVSS:3.0/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:H/E:P": 7.5, "CVSS:3.1/AV:P/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H": 6.8,
		"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:N/A:N": 7.5, "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:N": 0,
		"CVSS:3.1/AV:A/AC:L/PR:N/UI:N/S:C/C:H/I:N/A:H": 9.3, "CVSS:3.1/AV:L/AC:H/PR:L/UI:N/S:U/C:L/I:L/A:N": 3.6,
		"CVSS:3.0/AV:N/AC:H/PR:N/UI:N/S:U/C:H/I:H/A:N": 7.4, "CVSS:3.1/AV:N/AC:L/PR:H/UI:N/S:C/C:L/I:L/A:N": 5.5,
	} {
		if got, ok := BaseScore(vector); !ok || got != want {
			t.Errorf("%s: %.1f, %v, want %.1f", vector, got, ok, want)
		}
	}
	for _, bad := range []string{"", "AV:N", "CVSS:2.0/AV:N/AC:L/Au:N/C:P/I:P/A:P", "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H", "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:X",
		"CVSS:3.1/AV:N/AV:L/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"} {
		if got, ok := BaseScore(bad); ok {
			t.Errorf("%q: %.1f", bad, got)
		}
	}
}

// Scores of CVSS 4.0, as other calculators give them, of nearly each macro vector
// that base metrics can reach: the lowest and the highest of those that were tried.
func TestBaseScore4(t *testing.T) {
	for _, tt := range []struct {
		vector string
		want   float64
	}{
		{"CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:H/SI:H/SA:H", 10},
		{"CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N", 9.3},
		{"CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N/E:U/CR:L/MAV:P/S:P/U:Red", 9.3}, // the base score
		{"CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:N/VI:N/VA:N/SC:N/SI:N/SA:N", 0},
		{"CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:L/VI:H/VA:L/SC:N/SI:H/SA:L", 9.2},
		{"CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:L/VI:N/VA:H/SC:N/SI:H/SA:N", 9.2},
		{"CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:L/VI:L/VA:L/SC:H/SI:N/SA:L", 7.8},
		{"CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:N/VI:N/VA:N/SC:H/SI:L/SA:H", 7.9},
		{"CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:L/VI:L/VA:N/SC:N/SI:L/SA:N", 6.9},
		{"CVSS:4.0/AV:N/AC:H/AT:N/PR:N/UI:N/VC:H/VI:H/VA:N/SC:L/SI:H/SA:L", 9.4},
		{"CVSS:4.0/AV:N/AC:L/AT:P/PR:N/UI:N/VC:H/VI:H/VA:H/SC:H/SI:N/SA:H", 9.5},
		{"CVSS:4.0/AV:N/AC:H/AT:P/PR:N/UI:N/VC:H/VI:H/VA:N/SC:N/SI:N/SA:L", 9.1},
		{"CVSS:4.0/AV:N/AC:H/AT:N/PR:N/UI:N/VC:H/VI:N/VA:N/SC:L/SI:H/SA:N", 9},
		{"CVSS:4.0/AV:N/AC:L/AT:P/PR:N/UI:N/VC:H/VI:L/VA:L/SC:N/SI:H/SA:H", 9.1},
		{"CVSS:4.0/AV:N/AC:L/AT:P/PR:N/UI:N/VC:H/VI:N/VA:N/SC:L/SI:L/SA:L", 8.2},
		{"CVSS:4.0/AV:N/AC:L/AT:P/PR:N/UI:N/VC:L/VI:H/VA:L/SC:L/SI:L/SA:L", 8.3},
		{"CVSS:4.0/AV:N/AC:H/AT:N/PR:N/UI:N/VC:N/VI:N/VA:N/SC:L/SI:L/SA:H", 7},
		{"CVSS:4.0/AV:N/AC:L/AT:P/PR:N/UI:N/VC:N/VI:L/VA:L/SC:H/SI:L/SA:L", 7},
		{"CVSS:4.0/AV:N/AC:H/AT:P/PR:N/UI:N/VC:N/VI:N/VA:L/SC:N/SI:N/SA:L", 6.3},
		{"CVSS:4.0/AV:L/AC:L/AT:N/PR:L/UI:N/VC:H/VI:H/VA:H/SC:N/SI:H/SA:L", 9.2},
		{"CVSS:4.0/AV:N/AC:L/AT:N/PR:L/UI:A/VC:H/VI:H/VA:H/SC:H/SI:N/SA:H", 9.3},
		{"CVSS:4.0/AV:L/AC:L/AT:N/PR:N/UI:A/VC:H/VI:H/VA:N/SC:L/SI:N/SA:L", 8.3},
		{"CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:A/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N", 8.6},
		{"CVSS:4.0/AV:L/AC:L/AT:N/PR:H/UI:N/VC:H/VI:N/VA:L/SC:N/SI:H/SA:N", 8.1},
		{"CVSS:4.0/AV:A/AC:L/AT:N/PR:N/UI:N/VC:N/VI:H/VA:N/SC:H/SI:H/SA:L", 8.5},
		{"CVSS:4.0/AV:A/AC:L/AT:N/PR:H/UI:N/VC:N/VI:N/VA:H/SC:L/SI:N/SA:L", 6.8},
		{"CVSS:4.0/AV:N/AC:L/AT:N/PR:L/UI:N/VC:N/VI:H/VA:H/SC:N/SI:N/SA:L", 7.2},
		{"CVSS:4.0/AV:L/AC:L/AT:N/PR:H/UI:N/VC:L/VI:N/VA:N/SC:N/SI:H/SA:N", 5.9},
		{"CVSS:4.0/AV:N/AC:L/AT:N/PR:L/UI:P/VC:L/VI:L/VA:N/SC:H/SI:H/SA:H", 6.4},
		{"CVSS:4.0/AV:L/AC:L/AT:N/PR:H/UI:N/VC:N/VI:L/VA:N/SC:N/SI:N/SA:L", 4.6},
		{"CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:P/VC:N/VI:N/VA:L/SC:L/SI:N/SA:L", 5.3},
		{"CVSS:4.0/AV:A/AC:L/AT:P/PR:H/UI:N/VC:H/VI:H/VA:N/SC:H/SI:N/SA:N", 8.4},
		{"CVSS:4.0/AV:N/AC:L/AT:P/PR:N/UI:A/VC:H/VI:H/VA:H/SC:H/SI:H/SA:N", 8.8},
		{"CVSS:4.0/AV:A/AC:H/AT:P/PR:H/UI:N/VC:H/VI:H/VA:N/SC:N/SI:L/SA:L", 7.2},
		{"CVSS:4.0/AV:A/AC:L/AT:P/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:L/SA:N", 7.7},
		{"CVSS:4.0/AV:A/AC:H/AT:P/PR:N/UI:A/VC:N/VI:H/VA:N/SC:N/SI:H/SA:N", 6.8},
		{"CVSS:4.0/AV:N/AC:H/AT:N/PR:L/UI:N/VC:L/VI:H/VA:L/SC:L/SI:H/SA:H", 7.3},
		{"CVSS:4.0/AV:L/AC:H/AT:P/PR:H/UI:N/VC:N/VI:N/VA:H/SC:N/SI:L/SA:N", 5.6},
		{"CVSS:4.0/AV:N/AC:L/AT:P/PR:N/UI:P/VC:L/VI:H/VA:L/SC:L/SI:L/SA:N", 6.1},
		{"CVSS:4.0/AV:L/AC:H/AT:P/PR:H/UI:N/VC:L/VI:N/VA:N/SC:H/SI:N/SA:N", 4},
		{"CVSS:4.0/AV:N/AC:L/AT:P/PR:L/UI:N/VC:L/VI:N/VA:N/SC:H/SI:L/SA:H", 5.6},
		{"CVSS:4.0/AV:L/AC:H/AT:N/PR:H/UI:N/VC:L/VI:N/VA:L/SC:L/SI:N/SA:L", 1.8},
		{"CVSS:4.0/AV:N/AC:L/AT:P/PR:L/UI:N/VC:N/VI:N/VA:N/SC:N/SI:L/SA:N", 2.3},
		{"CVSS:4.0/AV:A/AC:L/AT:N/PR:H/UI:A/VC:H/VI:H/VA:H/SC:N/SI:H/SA:N", 8.3},
		{"CVSS:4.0/AV:P/AC:L/AT:N/PR:N/UI:P/VC:H/VI:H/VA:L/SC:L/SI:H/SA:H", 8.5},
		{"CVSS:4.0/AV:P/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:L/SC:L/SI:L/SA:N", 6.9},
		{"CVSS:4.0/AV:P/AC:L/AT:N/PR:H/UI:P/VC:H/VI:H/VA:H/SC:N/SI:L/SA:L", 7},
		{"CVSS:4.0/AV:A/AC:L/AT:N/PR:H/UI:P/VC:N/VI:L/VA:H/SC:H/SI:N/SA:N", 6.7},
		{"CVSS:4.0/AV:P/AC:L/AT:N/PR:L/UI:P/VC:H/VI:N/VA:H/SC:H/SI:H/SA:H", 7.2},
		{"CVSS:4.0/AV:L/AC:L/AT:N/PR:L/UI:P/VC:N/VI:H/VA:N/SC:L/SI:N/SA:N", 5.1},
		{"CVSS:4.0/AV:A/AC:L/AT:N/PR:L/UI:P/VC:H/VI:L/VA:H/SC:L/SI:L/SA:L", 5.3},
		{"CVSS:4.0/AV:A/AC:L/AT:N/PR:L/UI:P/VC:L/VI:L/VA:L/SC:H/SI:N/SA:N", 4.1},
		{"CVSS:4.0/AV:P/AC:L/AT:N/PR:L/UI:P/VC:L/VI:N/VA:N/SC:H/SI:H/SA:H", 4.7},
		{"CVSS:4.0/AV:A/AC:L/AT:N/PR:H/UI:P/VC:L/VI:L/VA:L/SC:L/SI:N/SA:N", 2.4},
		{"CVSS:4.0/AV:P/AC:L/AT:N/PR:N/UI:N/VC:L/VI:N/VA:L/SC:L/SI:L/SA:N", 2.4},
		{"CVSS:4.0/AV:A/AC:L/AT:P/PR:H/UI:P/VC:H/VI:H/VA:N/SC:N/SI:H/SA:N", 6.7},
		{"CVSS:4.0/AV:P/AC:L/AT:P/PR:H/UI:N/VC:H/VI:H/VA:H/SC:H/SI:L/SA:H", 7.2},
		{"CVSS:4.0/AV:A/AC:H/AT:P/PR:L/UI:P/VC:H/VI:H/VA:L/SC:L/SI:L/SA:N", 5.3},
		{"CVSS:4.0/AV:P/AC:H/AT:P/PR:N/UI:N/VC:H/VI:H/VA:H/SC:L/SI:N/SA:L", 5.4},
		{"CVSS:4.0/AV:A/AC:H/AT:P/PR:L/UI:A/VC:N/VI:N/VA:H/SC:N/SI:N/SA:H", 5.6},
		{"CVSS:4.0/AV:P/AC:H/AT:P/PR:N/UI:N/VC:L/VI:H/VA:L/SC:H/SI:H/SA:H", 6.1},
		{"CVSS:4.0/AV:A/AC:H/AT:P/PR:L/UI:A/VC:N/VI:N/VA:H/SC:N/SI:L/SA:L", 4.1},
		{"CVSS:4.0/AV:P/AC:H/AT:P/PR:N/UI:A/VC:H/VI:L/VA:H/SC:N/SI:L/SA:N", 4.6},
		{"CVSS:4.0/AV:A/AC:H/AT:N/PR:L/UI:A/VC:L/VI:L/VA:N/SC:H/SI:N/SA:N", 1.8},
		{"CVSS:4.0/AV:P/AC:H/AT:P/PR:N/UI:A/VC:N/VI:L/VA:L/SC:H/SI:H/SA:H", 2.4},
		{"CVSS:4.0/AV:A/AC:H/AT:N/PR:H/UI:P/VC:L/VI:N/VA:L/SC:N/SI:N/SA:L", 1},
		{"CVSS:4.0/AV:P/AC:L/AT:P/PR:L/UI:P/VC:N/VI:N/VA:N/SC:L/SI:N/SA:L", 1},
	} {
		if got, ok := BaseScore(tt.vector); !ok || got != tt.want {
			t.Errorf("%s: %.1f, %v, want %.1f", tt.vector, got, ok, tt.want)
		}
	}
	const good = "CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N"
	for _, bad := range []string{
		strings.Replace(good, "/SA:N", "", 1), strings.Replace(good, "AV:N", "AV:NA", 1), strings.Replace(good, "AV:N", "AV:", 1), strings.Replace(good, "UI:N", "UI:R", 1),
		strings.Replace(good, "SI:N", "SI:S", 1), strings.Replace(good, "4.0", "4.1", 1), strings.Replace(good, "/AC:L", "/AV:N/AC:L", 1), good + "/", "CVSS:4.0/", "CVSS:4.0",
	} {
		if got, ok := BaseScore(bad); ok {
			t.Errorf("%q: %.1f", bad, got)
		}
	}
}

// TestBaseScore4Order holds for all vectors that a worse base metric never gives a
// lower score.
func TestBaseScore4Order(t *testing.T) {
	metrics := []struct{ name, values string }{ // the worst first
		{"AV", "NALP"}, {"AC", "LH"}, {"AT", "NP"}, {"PR", "NLH"}, {"UI", "NPA"},
		{"VC", "HLN"}, {"VI", "HLN"}, {"VA", "HLN"}, {"SC", "HLN"}, {"SI", "HLN"}, {"SA", "HLN"},
	}
	m := map[string]string{}
	vectors := 0
	var each func(i int)
	each = func(i int) {
		if i < len(metrics) {
			for _, v := range metrics[i].values {
				m[metrics[i].name] = string(v)
				each(i + 1)
			}
			return
		}
		vectors++
		score, ok := score4(m)
		if !ok || score < 0 || score > 10 {
			t.Fatalf("%v: %v, %v", m, score, ok)
		}
		for _, x := range metrics {
			at := strings.Index(x.values, m[x.name])
			if at == 0 {
				continue
			}
			m[x.name] = x.values[at-1 : at]
			if worse, _ := score4(m); worse < score {
				t.Fatalf("%v: %.1f, with a better %s %.1f", m, worse, x.name, score)
			}
			m[x.name] = x.values[at : at+1]
		}
	}
	each(0)
	if vectors != 4*2*2*3*3*729 {
		t.Errorf("%d vectors", vectors)
	}
}

func TestVers(t *testing.T) {
	component := func(text string) Component {
		p, ok := parsePURL(text)
		if !ok {
			return Component{Version: text}
		}
		return Component{Version: "x", purl: p}
	}
	const golang, deb = "pkg:golang/example.com/m@v1.5.0", "pkg:deb/debian/m@1:1.4-2"
	for _, tt := range []struct {
		text, of string
		in       bool
		why      string // a part of it
	}{
		{"vers:golang/<1.5.1", golang, true, ""},
		{"vers:golang/<1.5.0", golang, false, ""},
		{"vers:golang/<=1.5.0", golang, true, ""},
		{"vers:golang/>1.5.0", golang, false, ""},
		{"vers:golang/>=1.5.0", golang, true, ""},
		{"vers:golang/>=1.2.0|<1.4.0|>=1.5.0|<1.6.0", golang, true, ""},
		{"vers:golang/>=1.2.0|<1.4.0|>=1.6.0", golang, false, ""},
		{"vers:golang/<1.4.0|>=1.4.5", golang, true, ""},
		{"vers:golang/<1.4.0|>=1.5.1", golang, false, ""},
		{"vers:golang/1.4.0|1.5.0", golang, true, ""},
		{"vers:golang/1.4.0|=1.5.1", golang, false, ""},
		{"vers:golang/>=1.2.0|!=1.5.0|<2.0.0", golang, false, ""},
		{"vers:golang/>=1.2.0|!=1.4.0|<2.0.0", golang, true, ""},
		{"vers:golang/1.1.0|>=1.2.0|<2.0.0", golang, true, ""},
		{"vers:golang/1.5.0-rc.1|>=1.6.0", golang, false, ""},
		{"vers:golang/*", golang, true, ""},
		{"vers:all/*", golang, true, ""},
		{"vers:none/*", golang, false, ""},
		{"vers:semver/<2.0.0", golang, true, ""},
		{"vers:deb/<1%3A1.4-2%2Bdeb12u1", deb, true, ""},
		{"vers:deb/<1.5", deb, false, ""},
		{"vers:apk/<1.2.3-r5", "pkg:apk/alpine/m@1.2.3-r4", true, ""},
		{"vers:rpm/<1:3.0.7-20.el9", "pkg:rpm/redhat/m@3.0.7-18.el9?epoch=1", true, ""},
		{"vers:pypi/<=1.3.0|3.0.0", "pkg:pypi/m@1.0", true, ""},
		{"vers:intdot/>=2.10|<3", "2.9", false, ""},
		{"vers:intdot/>=2.10|<3", "2.11.1", true, ""},
		{"vers:semver/>=1.0|<2", "1.0", true, ""},
		{"vers:generic/1.0|1.2", "1.2", true, ""},
		{"vers:maven/1.0|1.2", "pkg:maven/a/b@1.2", true, ""},

		{"vers:generic/1.0|1.2", "1.20", false, "versions of generic cannot be compared: not compared"},
		{"vers:maven/<2", "pkg:maven/a/b@1.2", false, "versions of maven cannot be compared: not compared"},
		{"vers:npm/<2", golang, false, "a range of versions of npm, and it is a package of golang: not compared"},
		{"vers:semver/<2", deb, false, "a range of versions of semver, and it is a package of deb: not compared"},
		{"vers:golang/<2", "pkg:golang/example.com/m", false, "the bill of materials has no version: not compared"},
		{"vers:golang/<2", "pkg:golang/example.com/m@devel", false, "cannot be compared with vers:golang/<2"},
		{"vers:golang/<two", golang, false, "cannot be compared"},
		{"vers:golang/<2.0.0|>=1.0.0", golang, false, "cannot be compared"}, // does not rise
		{"vers:golang/>=1.5.0|<1.5.0", golang, false, "cannot be compared"}, // one version twice
		{"vers:golang/>1.0.0|>=1.2.0", golang, false, "cannot be compared"}, // no turns
		{"vers:golang/<1.0.0|!=1.1.0|<2", golang, false, "cannot be compared"},
		{"vers:golang/!=1.4.0", golang, false, "cannot be compared"}, // what is in it?
		{"vers:all/<2", golang, false, "another form than vers"},
		{"vers:none/1.0", golang, false, "another form than vers"},
		{"<= 1.6", golang, false, "another form than vers"},
		{"vers:Golang/<2", golang, false, "another form than vers"},
		{"vers:golang/", golang, false, "another form than vers"},
		{"vers:golang", golang, false, "another form than vers"},
		{"vers:golang/<2|", golang, false, "another form than vers"},
		{"vers:golang/< 2", golang, false, "another form than vers"},
		{"vers:golang/*|<2", golang, false, "another form than vers"},
		{"vers:golang/<%2", golang, false, "another form than vers"},
	} {
		in, why := within(tt.text, component(tt.of))
		if in != tt.in || (why == "") != (tt.why == "") || !strings.Contains(why, tt.why) || why != "" && !strings.Contains(why, "not compared") {
			t.Errorf("%s, %s: %v, %q", tt.text, tt.of, in, why)
		}
	}
}

// FuzzVers holds that a version that a range names as outside is never in it, and
// one that it names as inside is, wherever they can be compared.
func FuzzVers(f *testing.F) {
	for _, s := range []string{"vers:golang/1.4.0|>=1.5.0|!=1.5.3|<1.6.0", "vers:deb/<1%3A1.4-2%2Bdeb12u1", "vers:npm/*", "vers:none/*", "vers:generic/1.0"} {
		f.Add(s, "1.5.0")
	}
	f.Fuzz(func(t *testing.T, text, version string) {
		r, ok := parseVers(text)
		if !ok || len(r.constraints) == 0 {
			return
		}
		within(text, Component{Version: version})
		compare := comparisonOf(r.kind)
		if compare == nil {
			return
		}
		for _, c := range r.constraints {
			if in, ok := r.contains(c.version, compare); ok && in != (c.op == "=" || c.op == "<=" || c.op == ">=") {
				t.Fatalf("%q contains %q: %v", text, c.version, in)
			}
		}
	})
}

func FuzzBaseScore(f *testing.F) {
	f.Add("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H")
	f.Add("CVSS:4.0/AV:P/AC:H/AT:P/PR:H/UI:A/VC:L/VI:N/VA:N/SC:L/SI:N/SA:H/E:U")
	f.Add("CVSS:3.0/AV:P/AC:H/PR:H/UI:R/S:C/C:L/I:N/A:N/E:U/RL:O")
	f.Fuzz(func(t *testing.T, vector string) {
		if s, ok := BaseScore(vector); ok && !(s >= 0 && s <= 10) {
			t.Fatalf("%q: %v", vector, s)
		}
	})
}
