package reference_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/referencetest"
)

// TestDocument holds that what docs/manifest.md shows is taken, and that its
// table of units is the one in code.
func TestDocument(t *testing.T) {
	text, err := os.ReadFile("../docs/manifest.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```toml\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(blocks) != 2 {
		t.Fatalf("%d blocks of TOML, want a manifest and a key list", len(blocks))
	}
	if m, ps := reference.Author([]byte(blocks[0][1])); m == nil || len(ps) != 0 {
		t.Errorf("the manifest: %v", ps)
	}
	if l, ps := reference.AuthorKeys([]byte(blocks[1][1]), anyKey(t)); l == nil || len(ps) != 0 {
		t.Errorf("the key list: %v", ps)
	}
	// A fact of each unit takes each unit that the table lists, and no other.
	facts := map[string]string{
		"ms": "boot.total", "s": "software.last_update", "h": "time.operating_hours", "mW": "energy.power", "mJ": "energy.used", "mV": "energy.voltage",
		"m°C": "thermal.max", "KiB": "memory.available", "B/s": "network.rx", "kHz": "cpu.frequency", "permille": "cpu.usage",
	}
	rows := regexp.MustCompile("(?m)^  \\| `([^`]+)` \\| (`.*`) \\|$").FindAllStringSubmatch(string(text), -1)
	if len(rows) != len(facts) {
		t.Fatalf("%d rows of units, want %d", len(rows), len(facts))
	}
	all := map[string]bool{}
	for _, row := range rows {
		for _, unit := range units(row[2]) {
			all[unit] = true
		}
	}
	for _, row := range rows {
		listed := units(row[2])
		for unit := range all {
			m, _ := reference.Author([]byte(strings.Replace(small, "fact = \"energy.power\"\nmax = \"1.5W\"", "fact = \""+facts[row[1]]+"\"\nmax = \"1"+unit+"\"", 1)))
			want := false
			for _, l := range listed {
				want = want || l == unit
			}
			if (m != nil) != want {
				t.Errorf("%s written in %s: taken %v, the table says %v", row[1], unit, m != nil, want)
			}
		}
	}
}

func units(cell string) []string { return strings.Split(strings.Trim(cell, "`"), "`, `") }

func anyKey(t *testing.T) func(string) (*cose.PublicKey, error) {
	return func(string) (*cose.PublicKey, error) { return referencetest.Signer(t).Public(), nil }
}

func TestAuthorKeys(t *testing.T) {
	const good = `version = 1
owner = "operator"
sequence = 2
[[key]]
file = "a.pub"
role = "resume"
name = "ward 3"
valid = { from = 2026-01-01, until = 2026-12-31 }
models = ["pump-1"]
revoked_from = 2026-06-01
`
	l, ps := reference.AuthorKeys([]byte(good), anyKey(t))
	if len(ps) != 0 {
		t.Fatal(ps)
	}
	k := l.Keys[0]
	if l.Owner != reference.Operator || l.Sequence != 2 || k.Role != reference.RoleResume || k.NotBefore != 1767225600 || k.NotAfter != 1798761599 ||
		k.RevokedFrom != 1780272000 || len(k.Models) != 1 || k.Name != "ward 3" {
		t.Errorf("read as %+v", l)
	}
	for _, tt := range []struct {
		old, new string
		line     int
		message  string
	}{
		{"version = 1", "version = 2", 0, "version 2 is not 1"},
		{`owner = "operator"`, `owner = "hospital"`, 2, `"hospital" is not one of`},
		{"sequence = 2", "", 0, "sequence: missing"},
		{`file = "a.pub"`, "", 4, "key[0].file: missing"},
		{`role = "resume"`, `role = "manifest"`, 4, "a key of the operator cannot have role manifest"},
		{`role = "resume"`, `role = "resumes"`, 6, `"resumes" is not one of`},
		{`name = "ward 3"`, `nam = "ward 3"`, 7, `unknown key "nam"`},
		{"until = 2026-12-31", "until = 2025-12-31", 4, "is empty"},
		{`models = ["pump-1"]`, `models = "pump-1"`, 9, "want a list, this is text"},
		{"revoked_from = 2026-06-01", "revoked_from = true", 10, "want a date, this is a boolean"},
		{"[[key]]", "[[key", 4, ""},
	} {
		l, ps := reference.AuthorKeys([]byte(strings.Replace(good, tt.old, tt.new, 1)), anyKey(t))
		if l != nil || len(ps) != 1 || ps[0].Line != tt.line || !strings.Contains(ps[0].Error(), tt.message) || ps[0].Fix == "" {
			t.Errorf("%s: %+v, want line %d: %s", tt.new, ps, tt.line, tt.message)
		}
	}
}
