package main

import (
	"encoding/hex"
	"errors"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/miotfacts/miotfacts/advisory"
	"github.com/miotfacts/miotfacts/label"
	"github.com/spf13/cobra"
)

// maxAdvisories bounds a folder of advisories. The whole of OSV has some 300,000.
const maxAdvisories = 1 << 20

// A softwareFiles is where the software of a device and its vulnerabilities are
// described.
type softwareFiles struct{ bom, advisories string }

func softwareFlags(c *cobra.Command) *softwareFiles {
	s := new(softwareFiles)
	c.Flags().StringVar(&s.bom, "sbom", "", "bill of materials `file` that the label names, CycloneDX")
	c.Flags().StringVar(&s.advisories, "vulnerabilities", "", "advisory `file`, or folder of them: OSV, CSAF, CycloneDX VEX")
	return s
}

// load reads what the flags name; nil where they name nothing. What cannot be read
// is refused whole: a vulnerability that is passed over would be one fewer.
func (s *softwareFiles) load(c *cobra.Command, l *label.Label) (*label.Software, error) {
	if s.bom == "" {
		if s.advisories != "" {
			return nil, fail(exitUsage, "give the bill of materials that the label names with --sbom", "--vulnerabilities needs something to compare with")
		}
		return nil, nil
	}
	data, err := read(c, s.bom, advisory.MaxFile)
	if err != nil {
		return nil, err
	}
	b, err := l.OpenBOM(data)
	if errors.Is(err, label.ErrBOM) {
		return nil, fail(exitRefused, "get the file from the address in the label", "%s: %w", s.bom, err)
	}
	if err != nil {
		return nil, fail(exitUsage, "give a bill of materials in CycloneDX, JSON", "%s: %w", s.bom, err)
	}
	m, err := l.Advisories(b)
	if err != nil {
		return nil, fail(exitUsage, "give a bill of materials in CycloneDX, JSON", "%s: %w", s.bom, err)
	}
	if s.advisories != "" {
		files, err := jsonFiles(s.advisories)
		if err != nil {
			return nil, err
		}
		for _, name := range files {
			data, err := read(c, name, advisory.MaxFile)
			if err != nil {
				return nil, err
			}
			if err := m.Add(data); err != nil {
				return nil, fail(exitUsage, "give OSV, CSAF 2.0 or CycloneDX, JSON; take the file out if it is none of them", "%s: %w", name, err)
			}
		}
	}
	software := &label.Software{BOM: b}
	if r := m.Result(); r.Documents > 0 {
		software.Flaws = r
	}
	return software, nil
}

// jsonFiles returns a file, or all files of a folder whose names end with .json, in
// the order of their names.
func jsonFiles(path string) ([]string, error) {
	if path == "-" {
		return []string{path}, nil
	}
	var files []string
	err := filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.IsDir() && (name == path || strings.HasSuffix(name, ".json")) {
			files = append(files, name)
		}
		if len(files) > maxAdvisories {
			return fail(exitUsage, "give a smaller folder", "%s has more than %d files", path, maxAdvisories)
		}
		return nil
	})
	if _, ours := errors.AsType[*failure](err); ours {
		return nil, err
	}
	if err != nil {
		return nil, ioFailure(err)
	}
	if len(files) == 0 {
		return nil, fail(exitUsage, "give a folder with files whose names end with .json", "%s has no advisory", path)
	}
	return files, nil
}

// A shownSoftware is software as --json prints it.
type shownSoftware struct {
	SHA256          string               `json:"sha256"`
	Components      int                  `json:"components"`
	Compared        bool                 `json:"compared"` // false: with no advisories
	Vulnerabilities []shownVulnerability `json:"vulnerabilities"`
	Notes           []string             `json:"notes"`
}

type shownVulnerability struct {
	ID       string   `json:"id"`
	Aliases  []string `json:"aliases,omitempty"`
	Severity string   `json:"severity"`
	Basis    string   `json:"basis,omitempty"`
	Open     bool     `json:"open"`
	State    string   `json:"state"`
	Where    []string `json:"where"`
	Why      string   `json:"why"`
	Source   string   `json:"source"`
}

func newShownSoftware(s *label.Software, lang label.Lang) *shownSoftware {
	if s == nil {
		return nil
	}
	x := &shownSoftware{SHA256: hex.EncodeToString(s.BOM.SHA256[:]), Components: len(s.BOM.Components), Compared: s.Flaws != nil, Vulnerabilities: []shownVulnerability{}, Notes: s.Notes(lang)}
	if s.Flaws != nil {
		for _, v := range s.Flaws.Vulnerabilities {
			x.Vulnerabilities = append(x.Vulnerabilities, shownVulnerability{v.ID, v.Aliases, v.Severity.String(), v.Basis, v.State.Open(), v.State.String(), v.Where, v.Why, v.Source})
		}
	}
	return x
}
