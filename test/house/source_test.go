package house_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestPackages(t *testing.T) {
	documented := map[string]bool{}
	for _, f := range goFiles(t) {
		if slices.Contains([]string{"util", "utils", "common", "helpers", "helper", "pkg", "misc", "base"}, strings.TrimSuffix(f.ast.Name.Name, "_test")) {
			t.Errorf("%s: package %s: a package is named after what it provides", f.path, f.ast.Name.Name)
		}
		documented[f.dir()] = documented[f.dir()] || f.ast.Doc != nil
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("%s has no package comment", dir)
		}
	}
}

func TestSource(t *testing.T) {
	for _, f := range goFiles(t) {
		for _, problem := range sourceProblems(f) {
			t.Error(problem)
		}
	}
}

// sourceProblems says what one file does that no file may.
func sourceProblems(f file) []string {
	var problems []string
	bad := func(n ast.Node, text string) { problems = append(problems, f.at(n)+": "+text) }
	for _, imp := range f.ast.Imports {
		if imp.Path.Value == `"C"` {
			bad(imp, "cgo")
		}
	}
	if f.isTest() {
		bubbles := uses(f.ast, "synctest.Test")
		for _, sleep := range uses(f.ast, "time.Sleep") {
			// In a bubble of testing/synctest a sleep takes no time.
			inBubble := false
			ast.Inspect(f.ast, func(n ast.Node) bool {
				if call, ok := n.(*ast.CallExpr); ok && slices.Contains(bubbles, ast.Node(call.Fun)) {
					inBubble = inBubble || call.Pos() < sleep.Pos() && sleep.End() < call.End()
				}
				return true
			})
			if !inBubble {
				bad(sleep, "a test sleeps: wait on a condition, or use testing/synctest")
			}
		}
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if n.Name.Name == "init" && n.Recv == nil {
				bad(n, "func init: what is needed enters through a constructor")
			}
		case *ast.CallExpr:
			if text, ok := errorText(n); ok && strings.Contains(strings.ToLower(text), "failed to") {
				bad(n, `an error says "cannot verb object"`)
			}
		case *ast.StructType:
			for _, field := range n.Fields.List {
				if field.Tag != nil && strings.Contains(field.Tag.Value, "cbor:") && hasFloat(field.Type) {
					bad(field, "a float in a document: scaled integers only")
				}
			}
		}
		return true
	})
	return problems
}

// errorText returns the constant text that an error is made with.
func errorText(call *ast.CallExpr) (string, bool) {
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || len(call.Args) == 0 {
		return "", false
	}
	x, ok := sel.X.(*ast.Ident)
	if !ok || x.Name+"."+sel.Sel.Name != "errors.New" && x.Name+"."+sel.Sel.Name != "fmt.Errorf" {
		return "", false
	}
	lit, ok := call.Args[0].(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	text, err := strconv.Unquote(lit.Value)
	return text, err == nil
}

func hasFloat(typ ast.Expr) bool {
	found := false
	ast.Inspect(typ, func(n ast.Node) bool {
		id, ok := n.(*ast.Ident)
		found = found || ok && (id.Name == "float32" || id.Name == "float64")
		return true
	})
	return found
}

// The checks themselves have to be able to fail.
func TestSourceProblemsAreSeen(t *testing.T) {
	for _, c := range []struct{ body, problem string }{
		{`func ok() error { return errors.New("cannot open it") }`, ""},
		{`func init() {}`, "func init"},
		{`func (t T) init() {}`, ""},
		{`func x() { time.Sleep(1) }`, "a test sleeps"},
		{`func x(t T) { synctest.Test(t, func(t T) { time.Sleep(1) }) }`, ""},
		{`func x(t T) { synctest.Test(t, y); time.Sleep(1) }`, "a test sleeps"},
		{`var e = errors.New("failed to open it")`, "cannot verb object"},
		{`var e = fmt.Errorf("it Failed to %w", x)`, "cannot verb object"},
		{"type r struct { x float64 `cbor:\"1,keyasint\"` }", "a float"},
		{"type r struct { x []float32 `cbor:\"1,keyasint\"` }", "a float"},
		{"type r struct { x float64; y int64 `cbor:\"1,keyasint\"` }", ""},
		{`import "C"`, "cgo"},
	} {
		fset := token.NewFileSet()
		parsed, err := parser.ParseFile(fset, "x_test.go", "package x\n"+c.body, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Join(sourceProblems(file{path: "x_test.go", ast: parsed, fset: fset}), "\n")
		if (c.problem == "") != (got == "") || !strings.Contains(got, c.problem) {
			t.Errorf("%s: problem %q, want %q", c.body, got, c.problem)
		}
	}
}

// Package-level variables hold what never changes: tables, errors, encoders.
func TestNoPackageState(t *testing.T) {
	exports := map[string]string{}
	dec := json.NewDecoder(bytes.NewReader(goCommand(t, "list", "-export", "-deps", "-json=ImportPath,Export", "./...")))
	for {
		var p struct{ ImportPath, Export string }
		err := dec.Decode(&p)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		exports[p.ImportPath] = p.Export
	}
	fset := token.NewFileSet()
	imports := importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) {
		if exports[path] == "" {
			return nil, errors.New("no export data of " + path)
		}
		return os.Open(exports[path])
	})
	for _, p := range packages(t) {
		var files []*ast.File
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, f)
		}
		for _, problem := range stateProblems(t, fset, imports, p.ImportPath, files) {
			t.Error(problem)
		}
	}
}

// stateProblems type-checks a package and finds package-level variables that
// are written, whose address is taken, or whose type exists to be changed.
func stateProblems(t *testing.T, fset *token.FileSet, imports types.Importer, path string, files []*ast.File) []string {
	t.Helper()
	info := types.Info{Uses: map[*ast.Ident]types.Object{}, Types: map[ast.Expr]types.TypeAndValue{}}
	config := types.Config{Importer: imports}
	checked, err := config.Check(strings.Replace(path, "./", module+"/", 1), fset, files, &info)
	if err != nil {
		t.Fatal(err)
	}
	var problems []string
	bad := func(pos token.Pos, text string) {
		p := fset.Position(pos)
		problems = append(problems, path+"/"+filepath.Base(p.Filename)+":"+strconv.Itoa(p.Line)+": "+text)
	}
	written := func(e ast.Expr, how string) {
		if v := packageVar(&info, e); v != nil {
			bad(e.Pos(), "package-level "+v.Name()+" "+how)
		}
	}
	for _, name := range checked.Scope().Names() {
		v, ok := checked.Scope().Lookup(name).(*types.Var)
		if !ok {
			continue
		}
		if _, isChan := v.Type().Underlying().(*types.Chan); isChan {
			bad(v.Pos(), "package-level channel "+name)
		}
		if named, ok := types.Unalias(v.Type()).(*types.Named); ok && named.Obj().Pkg() != nil {
			if from := named.Obj().Pkg().Path(); from == "sync" || from == "sync/atomic" {
				bad(v.Pos(), "package-level "+name+" is state: "+v.Type().String())
			}
		}
	}
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.AssignStmt:
				for _, lhs := range n.Lhs {
					written(lhs, "is assigned")
				}
			case *ast.IncDecStmt:
				written(n.X, "is assigned")
			case *ast.RangeStmt:
				if n.Key != nil {
					written(n.Key, "is assigned")
				}
				if n.Value != nil {
					written(n.Value, "is assigned")
				}
			case *ast.UnaryExpr:
				if n.Op == token.AND {
					written(n.X, "has its address taken")
				}
			case *ast.CallExpr:
				if info.Types[n.Fun].IsBuiltin() && len(n.Args) > 0 {
					if id, ok := n.Fun.(*ast.Ident); ok && slices.Contains([]string{"delete", "clear", "copy"}, id.Name) {
						written(n.Args[0], "is changed by "+id.Name)
					}
				}
			}
			return true
		})
	}
	return problems
}

// packageVar returns the package-level variable of this module that an
// expression reaches into.
func packageVar(info *types.Info, e ast.Expr) *types.Var {
	for {
		switch x := e.(type) {
		case *ast.ParenExpr:
			e = x.X
		case *ast.StarExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.SliceExpr:
			e = x.X
		case *ast.SelectorExpr:
			if id, ok := x.X.(*ast.Ident); ok {
				if _, ok := info.Uses[id].(*types.PkgName); ok {
					e = x.Sel
					continue
				}
			}
			e = x.X
		case *ast.Ident:
			v, ok := info.Uses[x].(*types.Var)
			if !ok || v.Pkg() == nil || v.Parent() != v.Pkg().Scope() || !strings.HasPrefix(v.Pkg().Path(), module) {
				return nil
			}
			return v
		default:
			return nil
		}
	}
}

func TestStateProblemsAreSeen(t *testing.T) {
	for _, c := range []struct{ body, problem string }{
		{`var table = map[string]int{"a": 1}; func f() int { return table["a"] }`, ""},
		{`var table = map[string]int{}; func f() { table["a"] = 1 }`, "table is assigned"},
		{`var table = map[string]int{}; func f() { delete(table, "a") }`, "changed by delete"},
		{`var n int; func f() { n++ }`, "n is assigned"},
		{`var n int; func f() { n := 1; n++; _ = n }`, ""},
		{`var list []struct{ n int }; func f() { list[0].n = 1 }`, "list is assigned"},
		{`var n int; func f() *int { return &n }`, "address taken"},
		{`var c = make(chan int)`, "channel c"},
	} {
		fset := token.NewFileSet()
		parsed, err := parser.ParseFile(fset, "x.go", "package x\n"+c.body, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Join(stateProblems(t, fset, nil, "./x", []*ast.File{parsed}), "\n")
		if (c.problem == "") != (got == "") || !strings.Contains(got, c.problem) {
			t.Errorf("%s: problem %q, want %q", c.body, got, c.problem)
		}
	}
}

// A fuzz target without seeds starts from nothing each time, silently. Seeds
// may come from f.Add or from testdata/fuzz, so what counts is what really runs.
func TestFuzzTargetsHaveSeeds(t *testing.T) {
	args := []string{"test", "-json", "-run", "^Fuzz"}
	var targets []string
	for _, f := range goFiles(t) {
		if !f.isTest() {
			continue
		}
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Fuzz") {
				targets = append(targets, f.dir()+" "+fn.Name.Name)
				if !slices.Contains(args, f.dir()) {
					args = append(args, f.dir())
				}
			}
		}
	}
	if len(targets) == 0 {
		t.Fatal("found no fuzz target")
	}
	seeds := map[string]int{}
	cmd := exec.Command("go", args...)
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("cannot run the seeds: %v", err) // the events say more
	}
	dec := json.NewDecoder(bytes.NewReader(out))
	for {
		var event struct{ Action, Package, Test string }
		err := dec.Decode(&event)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(event.Action, "fail") {
			t.Errorf("%s %s: %s", event.Package, event.Test, event.Action)
		}
		if target, seed, ok := strings.Cut(event.Test, "/"); ok && seed != "" && event.Action == "pass" {
			seeds[own(event.Package)+" "+target]++
		}
	}
	for _, target := range targets {
		if seeds[target] == 0 {
			t.Errorf("%s has no seeds", target)
		}
	}
}

// Vectors are read by people and by other implementations: each document has
// its diagnostic notation beside it.
func TestVectorsHaveNotation(t *testing.T) {
	files := tree(t)
	vectors := 0
	for _, path := range files {
		if !strings.Contains(path, "testdata/vectors/") {
			continue
		}
		for ext, other := range map[string]string{".cbor": ".diag", ".diag": ".cbor"} {
			if base, ok := strings.CutSuffix(path, ext); ok {
				vectors++
				if !slices.Contains(files, base+other) {
					t.Errorf("%s has no %s beside it", path, other)
				}
			}
		}
	}
	if vectors == 0 {
		t.Error("no vectors in testdata/vectors")
	}
}

func TestNothingIsLeftToDo(t *testing.T) {
	// In pieces, so that this file does not find itself.
	left := regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME)\b`)
	for _, path := range tree(t) {
		if strings.Contains(path, "testdata/") || bytes.IndexByte(read(t, path), 0) >= 0 {
			continue
		}
		for i, line := range strings.Split(string(read(t, path)), "\n") {
			if left.MatchString(line) {
				t.Errorf("%s:%d: %s", path, i+1, strings.TrimSpace(line))
			}
		}
	}
}
