package reference_test

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/reference"
)

// TestCDDL holds that the documents name the keys that the wire structs have,
// and mark as optional those that may be left out.
func TestCDDL(t *testing.T) {
	for _, tt := range []struct {
		file, rule string
		wire       any
	}{
		{"manifest", "manifest", reference.Manifest{}},
		{"manifest", "app", reference.AppFact{}},
		{"manifest", "rule", reference.Rule{}},
		{"manifest", "reaction", reference.Reaction{}},
		{"manifest", "silence", reference.Silence{}},
		{"manifest", "leeway", reference.Leeway{}},
		{"manifest", "maintenance", reference.MaintenancePolicy{}},
		{"manifest", "deferral", reference.Deferral{}},
		{"manifest", "energy-model", reference.EnergyModel{}},
		{"manifest", "boot", reference.Boot{}},
		{"manifest", "resume-policy", reference.ResumePolicy{}},
		{"manifest", "boot-group", reference.BootGroup{}},
		{"manifest", "boot-version", reference.BootVersion{}},
		{"manifest", "files", reference.Files{}},
		{"keys", "keys", reference.Keys{}},
		{"keys", "listed-key", reference.ListedKey{}},
		{"command", "command", reference.Command{}},
	} {
		text, err := os.ReadFile("../docs/" + tt.file + ".cddl")
		if err != nil {
			t.Fatal(err)
		}
		_, body, ok := strings.Cut(string(text), "\n"+tt.rule+" = {\n")
		body, _, ok2 := strings.Cut(body, "\n}")
		if !ok || !ok2 {
			t.Errorf("%s.cddl has no rule %s", tt.file, tt.rule)
			continue
		}
		var got, want []string
		for _, m := range regexp.MustCompile(`(?m)^  (\? )?(\d+) => `).FindAllStringSubmatch(body, -1) {
			got = append(got, m[1]+m[2])
		}
		for f := range reflect.TypeOf(tt.wire).Fields() {
			key, optional, _ := strings.Cut(f.Tag.Get("cbor"), ",keyasint")
			if optional == ",omitempty" {
				key = "? " + key
			}
			want = append(want, key)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s.cddl, %s: keys %q, the struct has %q", tt.file, tt.rule, got, want)
		}
	}
}
