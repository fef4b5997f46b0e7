package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/cmd/manual"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/spf13/cobra"
)

// TestHelp holds what the help of each command must have: a long text, an
// example that calls it, and no line wider than a terminal.
func TestHelp(t *testing.T) {
	for _, c := range manual.Commands(newRootCommand()) {
		if c.Short == "" || c.Long == "" {
			t.Errorf("%s has no help", c.CommandPath())
		}
		if c.Runnable() && !c.HasSubCommands() && !strings.Contains(c.Example, c.CommandPath()) {
			t.Errorf("%s has no example", c.CommandPath())
		}
		for _, line := range strings.Split(c.Long+"\n"+c.Example, "\n") {
			if len([]rune(line)) > 100 {
				t.Errorf("%s: line of %d characters: %s", c.CommandPath(), len([]rune(line)), line)
			}
		}
	}
}

// TestTemplates holds that what `new` prints passes lint as it is.
func TestTemplates(t *testing.T) {
	if m, ps := reference.Author(manifestTemplate); m == nil || len(ps) != 0 {
		t.Errorf("manifest template: %v", ps)
	}
	private, public, err := generateKey("ed25519", nil)
	if err != nil || private == nil {
		t.Fatal(err)
	}
	l, ps := reference.AuthorKeys(keysTemplate, func(string) (*cose.PublicKey, error) { return public, nil })
	if l == nil || len(ps) != 0 {
		t.Errorf("key list template: %v", ps)
	}
}

// TestSampleRules holds that the rule facts explain shows fits the fact.
func TestSampleRules(t *testing.T) {
	const head = `version = 1
vendor = "V"
model = "m"
sequence = 1
valid = { from = 2026-01-01, until = 2027-01-01 }
enforce = "alarm"
report_every = "60s"
resume = { signers = 1, lifetime = "1h" }
`
	for _, d := range facts.Catalogue() {
		text := head + sampleRule(d)
		if d.Cadence != facts.Boot {
			text += "[[integration]]\nfact = \"boot.total\"\nmax = 1\n"
		}
		text = strings.NewReplacer("max = ...", "max = 1", "hex:...", "hex:00").Replace(text)
		if m, ps := reference.Author([]byte(text)); m == nil {
			t.Errorf("%s: %v in\n%s", d.Name, ps, text)
		}
	}
}

// TestPassphraseOfFile holds how a passphrase file is read.
func TestPassphraseOfFile(t *testing.T) {
	dir := t.TempDir()
	for content, want := range map[string]string{"secret": "secret", "secret\n": "secret", "secret\r\n": "secret", " a b \nsecond": " a b ", "\n": "", "": ""} {
		name := filepath.Join(dir, "f")
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		c := &cobra.Command{}
		p := passphraseFlag(c)
		p.file = name
		got, err := p.read("")
		if want == "" && err == nil || want != "" && !bytes.Equal(got, []byte(want)) {
			t.Errorf("%q: %q, %v", content, got, err)
		}
	}
}
