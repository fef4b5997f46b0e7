// Package house_test holds the rules of the repository as a whole: which
// package may import which, what factsd may link, how code is written, and that
// documents say what the code says. The rules with their reasons stand in
// CONTRIBUTING.md, the map of packages in ARCHITECTURE.md; the tests read the
// map from there, so that there is one of it.
//
// The tests ask the go command and the parser. They run nothing of the project.
package house_test

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const (
	module = "github.com/miotfacts/miotfacts"
	root   = "../.." // of the repository, seen from here
)

// A pkg is a package of this module as `go list -json` tells it. Paths of own
// packages are relative to the module.
type pkg struct {
	ImportPath string
	Name       string
	Dir        string
	GoFiles    []string
	Imports    []string // by files that are not tests
}

func goCommand(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return out
}

// packages lists the packages of this module. An empty list is an error of the
// test, never a pass.
func packages(t *testing.T) []pkg {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(goCommand(t, "list", "-json=ImportPath,Name,Dir,GoFiles,Imports", "./...")))
	var list []pkg
	for {
		var p pkg
		err := dec.Decode(&p)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		p.ImportPath = own(p.ImportPath)
		for i, imp := range p.Imports {
			p.Imports[i] = own(imp)
		}
		list = append(list, p)
	}
	if len(list) < 2 {
		t.Fatalf("go list found %d packages", len(list))
	}
	return list
}

// own shortens the import path of a package of this module; "./" marks it.
func own(path string) string {
	if rest, ok := strings.CutPrefix(path, module+"/"); ok {
		return "./" + rest
	}
	return path
}

// A file is one parsed Go file.
type file struct {
	path string // from the root of the repository
	ast  *ast.File
	fset *token.FileSet
	text []byte
}

func (f file) isTest() bool { return strings.HasSuffix(f.path, "_test.go") }

// dir is the package's path as in pkg.ImportPath.
func (f file) dir() string { return "./" + filepath.ToSlash(filepath.Dir(f.path)) }

func (f file) at(n ast.Node) string {
	return f.path + ":" + strings.SplitN(f.fset.Position(n.Pos()).String(), ":", 2)[1]
}

// goFiles parses every Go file of the repository, whatever its build tags.
func goFiles(t *testing.T) []file {
	t.Helper()
	var files []file
	for _, path := range tree(t) {
		if !strings.HasSuffix(path, ".go") || strings.Contains(path, "testdata/") {
			continue
		}
		text := read(t, path)
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, filepath.Base(path), text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file{path: path, ast: f, fset: fset, text: text})
	}
	if len(files) < 2 {
		t.Fatalf("found %d Go files", len(files))
	}
	return files
}

// tree lists the files of the repository from its root: those that git knows,
// or all where there is no git (a release archive).
func tree(t *testing.T) []string {
	t.Helper()
	cmd := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	cmd.Dir = root
	if out, err := cmd.Output(); err == nil {
		var files []string
		for _, path := range strings.Split(strings.Trim(string(out), "\x00"), "\x00") {
			// A file may be deleted and not committed yet.
			if info, err := os.Lstat(filepath.Join(root, path)); err == nil && info.Mode().IsRegular() {
				files = append(files, path)
			}
		}
		return files
	}
	var files []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		path, err = filepath.Rel(root, path)
		if d.IsDir() && (path == ".git" || path == "bin") {
			return filepath.SkipDir
		}
		if d.Type().IsRegular() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// table returns the rows of the Markdown table with this header in a document,
// each as its cells.
func table(t *testing.T, path string, header ...string) [][]string {
	t.Helper()
	var rows [][]string
	inside := false
	for line := range strings.Lines(string(read(t, path))) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			inside = false
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		switch {
		case strings.Join(cells, "|") == strings.Join(header, "|"):
			inside = true
		case !inside || strings.Trim(line, "|-: ") == "":
		case len(cells) != len(header):
			t.Fatalf("%s: row has %d cells, not %d: %s", path, len(cells), len(header), line)
		default:
			rows = append(rows, cells)
		}
	}
	if len(rows) == 0 {
		t.Fatalf("%s has no table with the header %s", path, strings.Join(header, " | "))
	}
	return rows
}

// quoted returns what stands between backquotes.
func quoted(cell string) []string {
	var names []string
	for i, part := range strings.Split(cell, "`") {
		if i%2 == 1 {
			names = append(names, part)
		}
	}
	return names
}
