package house_test

import (
	"encoding/json"
	"go/version"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

type goMod struct {
	Go        string
	Toolchain string
	Require   []struct {
		Path     string
		Indirect bool
	}
}

func readGoMod(t *testing.T) goMod {
	t.Helper()
	var m goMod
	if err := json.Unmarshal(goCommand(t, "mod", "edit", "-json"), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// Yocto and Buildroot build with the Go that they ship.
func TestGoVersion(t *testing.T) {
	const newest = "go1.26.3"
	m := readGoMod(t)
	if v := "go" + m.Go; version.Lang(v) != "go1.26" || version.Compare(v, newest) > 0 {
		t.Errorf("go.mod says go %s; it must be 1.26, at most %s", m.Go, newest)
	}
	if m.Toolchain != "" && version.Compare(m.Toolchain, newest) > 0 {
		t.Errorf("go.mod asks for toolchain %s, above %s", m.Toolchain, newest)
	}
}

// docs/dependencies.md is what a manufacturer takes into the list of software
// of unknown provenance: complete, and true about what is on the device.
func TestDependenciesAreInStep(t *testing.T) {
	const doc = "docs/dependencies.md"
	linked := map[string]bool{}
	for _, path := range strings.Fields(string(goCommand(t, "list", "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", "./cmd/factsd"))) {
		linked[path] = true
	}
	direct, indirect := map[string]bool{}, map[string]bool{}
	for _, r := range readGoMod(t).Require {
		if r.Indirect {
			indirect[r.Path] = true
		} else {
			direct[r.Path] = true
		}
	}
	compare := func(kind string, inMod map[string]bool, rows [][]string) {
		inDoc := map[string]bool{}
		for _, cells := range rows {
			names := quoted(cells[0])
			if len(names) != 1 {
				t.Fatalf("%s: not one module in %q", doc, cells[0])
			}
			inDoc[names[0]] = true
			if !inMod[names[0]] {
				t.Errorf("%s has %s, which is no %s requirement of go.mod", doc, names[0], kind)
			}
			if cells[2] == "" {
				t.Errorf("%s: %s has no licence", doc, names[0])
			}
			if want := map[bool]string{true: "yes", false: "no"}[linked[names[0]]]; cells[3] != want {
				t.Errorf("%s: %s in factsd: %q, it is %q", doc, names[0], cells[3], want)
			}
		}
		for path := range inMod {
			if !inDoc[path] {
				t.Errorf("go.mod requires %s (%s), %s does not have it", path, kind, doc)
			}
		}
	}
	compare("direct", direct, table(t, doc, "module", "for", "licence", "in factsd"))
	compare("indirect", indirect, table(t, doc, "module", "brought in by", "licence", "in factsd"))
}

// Each `make target` and each relative link in a document leads somewhere.
func TestDocumentsPointSomewhere(t *testing.T) {
	targets := regexp.MustCompile(`(?m)^([a-z0-9-]+):`).FindAllStringSubmatch(string(read(t, "Makefile")), -1)
	isTarget := func(name string) bool {
		return slices.ContainsFunc(targets, func(m []string) bool { return m[1] == name })
	}
	command := regexp.MustCompile("`make ([^`]+)`")
	link := regexp.MustCompile(`\]\(([^)#]+)[^)]*\)`)
	for _, path := range tree(t) {
		if !strings.HasSuffix(path, ".md") || strings.Contains(path, "testdata/") {
			continue
		}
		text := string(read(t, path))
		for _, m := range command.FindAllStringSubmatch(text, -1) {
			for _, word := range strings.Fields(m[1]) {
				if !strings.Contains(word, "=") && !isTarget(word) {
					t.Errorf("%s: `make %s`: the Makefile has no %s", path, m[1], word)
				}
			}
		}
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(path), m[1])); err != nil {
				t.Errorf("%s: link to %s, which is not there", path, m[1])
			}
		}
	}
}

// .ci/run runs what the README tells people to run.
func TestCIRunsTheReadme(t *testing.T) {
	lines := strings.Split(strings.TrimSpace(string(read(t, ".ci/run"))), "\n")
	command := lines[len(lines)-1]
	if !strings.HasPrefix(command, "make ") {
		t.Fatalf(".ci/run ends with %q", command)
	}
	if !strings.Contains(string(read(t, "README.md")), command) {
		t.Errorf("README.md does not have the test command of .ci/run: %s", command)
	}
}

// What is committed is about the product, not about a machine it was made on:
// no paths of this checkout, no private hosts that packages came from.
func TestNothingOfThisMachineIsCommitted(t *testing.T) {
	here, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	// In pieces, so that this file does not find itself. Yocto's tmp/.. is fine.
	needles := []string{`(^|[^\w.}])/wo` + `rk/`}
	if strings.Count(here, "/") > 1 {
		needles = append(needles, regexp.QuoteMeta(here)+`\b`)
	}
	var env struct{ GOPROXY string }
	if err := json.Unmarshal(goCommand(t, "env", "-json", "GOPROXY"), &env); err != nil {
		t.Fatal(err)
	}
	sources := strings.FieldsFunc(env.GOPROXY, func(r rune) bool { return r == ',' || r == '|' })
	for _, name := range []string{"PIP_INDEX_URL", "NPM_CONFIG_REGISTRY", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		sources = append(sources, os.Getenv(name))
	}
	public := []string{"proxy." + "golang.org", "pypi.org", "registry." + "npmjs.org", "localhost", "127.0.0.1", ""}
	for _, s := range sources {
		if u, err := url.Parse(s); err == nil && !slices.Contains(public, u.Hostname()) {
			needles = append(needles, regexp.QuoteMeta(u.Hostname()))
		}
	}
	leak := regexp.MustCompile(strings.Join(needles, "|"))
	for _, path := range tree(t) {
		text := read(t, path)
		if loc := leak.FindIndex(text); loc != nil {
			t.Errorf("%s names something of the machine it was made on: %q", path, text[loc[0]:loc[1]])
		}
	}
	for _, sample := range []string{"in /wo" + "rk/x"} {
		if !leak.MatchString(sample) {
			t.Errorf("the search does not find %q", sample)
		}
	}
}

// Each control in docs/safety.md has a test, and each test that is named exists.
func TestSafetyNamesTests(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(root, "docs", "safety.md"))
	if err != nil {
		t.Fatal(err)
	}
	var source strings.Builder
	err = filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		code, err := os.ReadFile(path)
		source.Write(code)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, "| without") {
			break // TestDegraded holds these rows
		}
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|---") || strings.HasPrefix(line, "| hazard") {
			continue
		}
		rows++
		names := regexp.MustCompile("`(Test[A-Za-z]+)`").FindAllStringSubmatch(line, -1)
		if len(names) == 0 {
			t.Errorf("no test holds: %s", line)
		}
		for _, n := range names {
			if !strings.Contains(source.String(), "func "+n[1]+"(t *testing.T)") {
				t.Errorf("docs/safety.md names %s, which does not exist", n[1])
			}
		}
	}
	if rows < 10 {
		t.Errorf("only %d hazards", rows)
	}
}
