package verifier

import (
	"crypto/sha256"
	"fmt"
	"path"
	"strings"

	"github.com/miotfacts/miotfacts/label"
)

// A Software is what files say of the software that a label names.
type Software struct {
	*label.Software         // nil: the bill of materials is not here
	Verdict         Verdict // whether the file is the one that the label names
	Text            string  // in words
	NoFlaws         string  // why it was compared with no advisories; "" when it was
}

// softwareOf finds the bill of materials that a label names among files, and
// compares it with advisories. One advisory that cannot be read keeps all of them
// from counting: a flaw fewer would be a later day of inspection.
func softwareOf(l *label.Label, boms, advisories []LabelFile) *Software {
	s := &Software{Verdict: Open}
	switch {
	case l.SBOM == nil:
		s.Text = "the label names no bill of materials"
		return s
	case len(boms) == 0:
		s.Text = "no bill of materials was given to the verifier"
		return s
	}
	var found *LabelFile
	name := path.Base(l.SBOM.URL)
	for i := range boms {
		f := &boms[i]
		sum := sha256.Sum256(f.Data)
		switch {
		case f.Err == nil && string(sum[:]) == string(l.SBOM.SHA256):
			found = f
		case f.Name == name && f.Err != nil:
			s.Text = fmt.Sprintf("%s, which has the name that the label gives, cannot be read: %v", f.Name, f.Err)
		case f.Name == name:
			s.Verdict = Contradicts
			s.Text = fmt.Sprintf("%s has the name that the label gives and sha256 %.8x…, the label says %.8x…", f.Name, sum, []byte(l.SBOM.SHA256))
		}
	}
	if found == nil {
		if s.Text == "" {
			s.Text = fmt.Sprintf("none of %d files is the bill of materials that the label names, sha256 %.8x…", len(boms), []byte(l.SBOM.SHA256))
		}
		return s
	}
	bom, err := l.OpenBOM(found.Data)
	if err != nil {
		s.Verdict, s.Text = Open, fmt.Sprintf("%s is the file that the label names: %v", found.Name, err)
		return s
	}
	s.Software = &label.Software{BOM: bom}
	s.Verdict, s.Text = Fits, fmt.Sprintf("%s is the file that the label names, with %d components", found.Name, len(bom.Components))
	m, err := l.Advisories(bom)
	if err != nil {
		s.NoFlaws = fmt.Sprintf("%s: %v", found.Name, err)
		return s
	}
	for i := range advisories {
		err := advisories[i].Err
		if err == nil {
			err = m.Add(advisories[i].Data)
		}
		if err != nil {
			s.NoFlaws = fmt.Sprintf("%s: %v", advisories[i].Name, err)
			return s
		}
	}
	if r := m.Result(); r.Documents > 0 {
		s.Flaws = r
	} else {
		s.NoFlaws = "no advisories were given to the verifier"
	}
	return s
}

// materials holds the bill of materials against the device: the version that a
// quote proves to have booted, where the manifest has references by events for a
// group called system.
func (c *comparison) materials(s *Software) {
	const about = "bill of materials"
	if s.Software == nil || s.Verdict != Fits {
		c.add(ReasonLabelSBOM, about, s.Verdict, "%s", s.Text)
		return
	}
	of := s.BOM.Subject.Version
	booted := ""
	if b := c.device.Boot; b != nil && b.Quoted {
		for _, v := range b.Versions {
			if name, ok := strings.CutPrefix(v, "system "); ok {
				booted = name
			}
		}
	}
	if of != "" && booted != "" && of != booted {
		c.add(ReasonLabelSBOM, about, Contradicts, "%s; it is of version %s, and system %s booted", s.Text, of, booted)
		return
	}
	text := s.Text + "; no proved boot names a version to compare it with"
	if of != "" && booted == of {
		text = fmt.Sprintf("%s; it is of version %s, which booted", s.Text, of)
	}
	c.add(ReasonLabelSBOM, about, Fits, "%s", text)
}
