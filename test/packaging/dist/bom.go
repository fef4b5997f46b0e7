package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A module is a library as the binaries say that it is linked.
type module struct {
	path, version string
	sum           string   // as in go.sum
	in            []string // commands that link it
	licence       string   // from docs/dependencies.md
	dir           string   // in the module cache
}

func (m module) purl() string { return "pkg:golang/" + m.path + "@" + m.version }

// linked reads from the binaries in bin which modules they consist of. The first
// one is Go's standard library.
func (r *release) linked(bin string, names ...string) ([]module, error) {
	licences, err := r.licences()
	if err != nil {
		return nil, err
	}
	var list []module
	for _, name := range names {
		info, err := buildinfo.ReadFile(filepath.Join(bin, name))
		if err != nil {
			return nil, err
		}
		all := []module{{path: "std", version: strings.TrimPrefix(info.GoVersion, "go"), licence: "BSD-3-Clause"}}
		for _, d := range info.Deps {
			if d.Replace != nil {
				return nil, fmt.Errorf("%s links %s in place of %s", name, d.Replace.Path, d.Path)
			}
			m := module{path: d.Path, version: d.Version, sum: d.Sum, licence: licences[d.Path]}
			if m.licence == "" {
				return nil, fmt.Errorf("%s links %s, whose licence docs/dependencies.md does not have", name, d.Path)
			}
			all = append(all, m)
		}
		for _, m := range all {
			i := slices.IndexFunc(list, func(have module) bool { return have.path == m.path })
			if i < 0 {
				i = len(list)
				list = append(list, m)
			}
			list[i].in = append(list[i].in, name)
		}
	}
	slices.SortFunc(list[1:], func(a, b module) int { return strings.Compare(a.path, b.path) })
	for i := range list {
		m := &list[i]
		args := []string{"list", "-m", "-f", "{{.Dir}}", m.path}
		if i == 0 {
			args = []string{"env", "GOROOT"}
		}
		cmd := exec.Command("go", args...)
		cmd.Dir = r.root
		out, err := output(cmd)
		if err != nil {
			return nil, err
		}
		m.dir = strings.TrimSpace(string(out))
	}
	return list, nil
}

// licences reads the tables of docs/dependencies.md.
func (r *release) licences() (map[string]string, error) {
	data, err := os.ReadFile(filepath.Join(r.root, "docs/dependencies.md"))
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for line := range strings.Lines(string(data)) {
		if cells := strings.Split(line, "|"); len(cells) == 6 && strings.HasPrefix(cells[1], " `") {
			out[strings.Trim(cells[1], " `")] = strings.TrimSpace(cells[3])
		}
	}
	return out, nil
}

// notices are the licence texts that have to come with what is linked.
func (r *release) notices(linked []module) ([]byte, error) {
	var out bytes.Buffer
	for _, m := range linked {
		var files []string
		for _, pattern := range []string{"LICENSE*", "LICENCE*", "COPYING*", "NOTICE*", "PATENTS"} {
			found, err := filepath.Glob(filepath.Join(m.dir, pattern))
			if err != nil {
				return nil, err
			}
			files = append(files, found...)
		}
		texts := 0
		for _, f := range files {
			info, err := os.Stat(f)
			if err != nil {
				return nil, err
			}
			if info.IsDir() {
				continue
			}
			data, err := os.ReadFile(f)
			if err != nil {
				return nil, err
			}
			fmt.Fprintf(&out, "==== %s %s: %s\n\n%s\n\n", m.path, m.version, filepath.Base(f), bytes.TrimSpace(data))
			texts++
		}
		if texts == 0 {
			return nil, fmt.Errorf("cannot find the licence of %s", m.path)
		}
	}
	return out.Bytes(), nil
}

// The parts of CycloneDX 1.6 that are used here.
type (
	cdx struct {
		Format       string          `json:"bomFormat"`
		Spec         string          `json:"specVersion"`
		Serial       string          `json:"serialNumber"`
		Version      int             `json:"version"`
		Metadata     cdxMetadata     `json:"metadata"`
		Components   []cdxComponent  `json:"components"`
		Dependencies []cdxDependency `json:"dependencies"`
	}
	cdxMetadata struct {
		Time      string       `json:"timestamp"`
		Component cdxComponent `json:"component"`
	}
	cdxComponent struct {
		Type       string        `json:"type"`
		Ref        string        `json:"bom-ref"`
		Name       string        `json:"name"`
		Version    string        `json:"version"`
		Hashes     []cdxHash     `json:"hashes,omitempty"`
		Licences   []cdxLicence  `json:"licenses,omitempty"`
		Purl       string        `json:"purl,omitempty"`
		Properties []cdxProperty `json:"properties,omitempty"`
	}
	cdxHash struct {
		Alg     string `json:"alg"`
		Content string `json:"content"`
	}
	cdxLicence struct {
		License struct {
			ID   string `json:"id,omitempty"`
			Name string `json:"name,omitempty"`
		} `json:"license"`
	}
	cdxProperty struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
	cdxDependency struct {
		Ref       string   `json:"ref"`
		DependsOn []string `json:"dependsOn,omitempty"`
	}
)

// licence puts an SPDX identifier apart from what is more than one.
func licence(text string) []cdxLicence {
	var l cdxLicence
	if strings.Contains(text, " ") {
		l.License.Name = text
	} else {
		l.License.ID = text
	}
	return []cdxLicence{l}
}

// bom returns the bill of materials of one port.
func (r *release) bom(p port, bin string, linked []module) ([]byte, error) {
	const own = "pkg:golang/github.com/miotfacts/miotfacts"
	main := cdxComponent{Type: "application", Ref: own + "@v" + r.version, Name: "miotfacts", Version: r.version, Licences: licence("Apache-2.0"), Purl: own + "@v" + r.version,
		Properties: []cdxProperty{{"miotfacts:port", p.name}}}
	b := cdx{Format: "CycloneDX", Spec: "1.6", Version: 1, Metadata: cdxMetadata{r.time.Format(time.RFC3339), main}}
	top := cdxDependency{Ref: main.Ref}
	for _, name := range commands() {
		data, err := os.ReadFile(filepath.Join(bin, name))
		if err != nil {
			return nil, err
		}
		c := cdxComponent{Type: "application", Ref: main.Ref + "#cmd/" + name, Name: name, Version: r.version, Licences: licence("Apache-2.0"),
			Hashes: []cdxHash{{"SHA-256", fmt.Sprintf("%x", sha256.Sum256(data))}}}
		d := cdxDependency{Ref: c.Ref}
		for _, m := range linked {
			if slices.Contains(m.in, name) {
				d.DependsOn = append(d.DependsOn, m.purl())
			}
		}
		b.Components, b.Dependencies = append(b.Components, c), append(b.Dependencies, d)
		top.DependsOn = append(top.DependsOn, c.Ref)
	}
	for _, m := range linked {
		c := cdxComponent{Type: "library", Ref: m.purl(), Name: m.path, Version: m.version, Licences: licence(m.licence), Purl: m.purl()}
		if m.sum != "" {
			c.Properties = []cdxProperty{{"go.sum", m.sum}}
		}
		b.Components, b.Dependencies = append(b.Components, c), append(b.Dependencies, cdxDependency{Ref: c.Ref})
	}
	b.Dependencies = append([]cdxDependency{top}, b.Dependencies...)
	// A serial number that the content decides: made again it is the same
	// (RFC 9562, version 8).
	text, err := json.Marshal(b)
	if err != nil {
		return nil, err
	}
	id := sha256.Sum256(text)
	id[6], id[8] = id[6]&0x0f|0x80, id[8]&0x3f|0x80
	b.Serial = fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:16])
	text, err = json.MarshalIndent(b, "", "  ")
	return append(text, '\n'), err
}
