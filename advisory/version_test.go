package advisory

import (
	"os/exec"
	"testing"
)

// versions are in order, each list by its own rules; "=" joins equal ones.
var versions = map[string][]string{
	"golang": {"1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "v1.0.1", "1.26", "1.26.1", "2.0.0"},
	"deb":    {"1.0~~", "1.0~rc1-1", "1.0-1", "1.0-1+deb12u1", "1.0-1.1", "1.0-2", "1.0a-1", "1.0+dfsg-1", "1.9", "1.10", "1:0.1", "2:0"},
	"rpm":    {"1.0~rc1", "1.0", "1.0^git1", "1.0.a", "1.0.1", "1.0.10-1.el9", "1.0.10-2.el9", "1:0.1-1"},
	"apk":    {"1.0_alpha", "1.0_alpha2", "1.0_beta", "1.0_rc1", "1.0", "1.0-r1", "1.0-r10", "1.0_p1", "1.0_p1-r2", "1.0a", "1.0b", "1.0.1", "1.2", "1.10"},
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
		{"pypi", "1.0-1", "1.0.post1", true, true}, {"apk", "1.0.0.01", "1.0", false, true}, {"apk", "x", "1.0", false, false},
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
		"CVSS:3.1/AV:N/AV:L/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", "CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N"} {
		if got, ok := BaseScore(bad); ok {
			t.Errorf("%q: %.1f", bad, got)
		}
	}
}

func FuzzBaseScore(f *testing.F) {
	f.Add("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H")
	f.Add("CVSS:3.0/AV:P/AC:H/PR:H/UI:R/S:C/C:L/I:N/A:N/E:U/RL:O")
	f.Fuzz(func(t *testing.T, vector string) {
		if s, ok := BaseScore(vector); ok && !(s >= 0 && s <= 10) {
			t.Fatalf("%q: %v", vector, s)
		}
	})
}
