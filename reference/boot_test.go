package reference_test

import (
	"crypto/sha256"
	"reflect"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/referencetest"
)

// What is said of the boot in TOML is what is signed.
func TestBootInWords(t *testing.T) {
	m := referencetest.Example()
	booted(&m)
	back, problems := reference.Author(reference.Format(&m))
	if back == nil {
		t.Fatalf("%v\n%s", problems, reference.Format(&m))
	}
	if !reflect.DeepEqual(back.BootEvents, m.BootEvents) || !reflect.DeepEqual(back.Files, m.Files) {
		t.Errorf("came back as\n%+v %+v, want\n%+v %+v", back.BootEvents, back.Files, m.BootEvents, m.Files)
	}
}

func TestBootProblems(t *testing.T) {
	for name, c := range map[string]struct {
		edit    func(m *reference.Manifest)
		at      string
		warning bool
	}{
		"name twice":          {func(m *reference.Manifest) { m.BootEvents = append(m.BootEvents, m.BootEvents[0]) }, "boot_group[1].name", false},
		"version twice":       {func(m *reference.Manifest) { m.BootEvents[0].Versions[1].Name = "A" }, "boot_group[0].version[1].name", false},
		"no version":          {func(m *reference.Manifest) { m.BootEvents[0].Versions = nil }, "boot_group[0].version", false},
		"no event":            {func(m *reference.Manifest) { m.BootEvents[0].Versions[0].Events = nil }, "boot_group[0].version[0].events", false},
		"short digest":        {func(m *reference.Manifest) { m.BootEvents[0].Versions[0].Events[0].Digest = []byte{1} }, "boot_group[0].version[0].events[0].sha256", false},
		"unknown component":   {func(m *reference.Manifest) { m.BootEvents[0].Versions[0].Events[0].What = 9 }, "boot_group[0].version[0].events[0].what", false},
		"IMA's PCR":           {func(m *reference.Manifest) { m.BootEvents[0].Versions[0].Events[0].PCR = 10 }, "boot_group[0].version[0].events[0]", false},
		"nothing allowed":     {func(m *reference.Manifest) { m.Files = &reference.Files{} }, "files", false},
		"signer that is none": {func(m *reference.Manifest) { m.Files.Signers = [][]byte{{1}} }, "files.signers[0]", false},
		"short attachment":    {func(m *reference.Manifest) { m.Files.Attachment = []byte{1} }, "files.attachment", false},
		"PCR without events":  {func(m *reference.Manifest) { m.Boot.PCRs = []int{4, 8, 9, 10} }, "boot.pcrs", true},
	} {
		m := referencetest.Example()
		booted(&m)
		c.edit(&m)
		found := false
		for _, p := range m.Check() {
			found = found || p.Path == c.at && p.Warning == c.warning
		}
		if !found {
			t.Errorf("%s: no problem at %s in %v", name, c.at, m.Check())
		}
	}
}

func TestListOfFiles(t *testing.T) {
	const line = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae  /usr/bin/foo\n"
	open := func(text string) ([]reference.File, error) {
		digest := sha256.Sum256([]byte(text))
		return (&reference.Files{Attachment: digest[:]}).OpenFiles([]byte(text))
	}
	files, err := open(line + strings.ReplaceAll(line, "foo", "a b"))
	if err != nil || len(files) != 2 || files[1].Name != "/usr/bin/a b" {
		t.Errorf("%+v, %v", files, err)
	}
	for _, text := range []string{"x", line + "\n", "\\" + line, "00  /x\n", strings.Replace(line, "  ", " ", 1)} {
		if _, err := open(text); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
	if _, err := (&reference.Files{Attachment: make([]byte, 32)}).OpenFiles([]byte(line)); err == nil {
		t.Error("another list was taken")
	}
}
