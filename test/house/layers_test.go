package house_test

import (
	"debug/elf"
	"fmt"
	"go/ast"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A row of the map in ARCHITECTURE.md.
type row struct {
	layer int
	test  bool     // stands above all layers, for tests only
	pure  bool     // no I/O, no clock, no goroutine
	may   []string // own packages it imports
	any   bool     // may import any lower layer
}

// readMap reads the map. Its form: a layer is a number or "test", a package is
// one quoted path, "pure" begins the job of a pure package, and the last column
// is "nothing", "any lower layer" or a list of quoted paths.
func readMap(t *testing.T) map[string]row {
	t.Helper()
	rows := map[string]row{}
	for _, cells := range table(t, "ARCHITECTURE.md", "layer", "package", "its one job", "may import") {
		names := quoted(cells[1])
		if len(names) != 1 {
			t.Fatalf("map: not one package in %q", cells[1])
		}
		name := "./" + names[0]
		if _, twice := rows[name]; twice {
			t.Errorf("map: %s stands there twice", name)
		}
		r := row{test: cells[0] == "test", pure: strings.HasPrefix(cells[2], "pure: ")}
		if !r.test {
			n, err := strconv.Atoi(cells[0])
			if err != nil {
				t.Fatalf("map: layer of %s: %v", name, err)
			}
			r.layer = n
		}
		switch cells[3] {
		case "nothing":
		case "any lower layer":
			r.any = true
		default:
			for _, m := range quoted(cells[3]) {
				r.may = append(r.may, "./"+m)
			}
			if len(r.may) == 0 {
				t.Errorf("map: imports of %s: cannot read %q", name, cells[3])
			}
		}
		rows[name] = r
	}
	return rows
}

func TestMapIsInStep(t *testing.T) {
	rows := readMap(t)
	list := packages(t)
	for _, p := range list {
		if _, ok := rows[p.ImportPath]; !ok {
			t.Errorf("%s is not in the map of ARCHITECTURE.md", p.ImportPath)
		}
	}
	for name := range rows {
		if !slices.ContainsFunc(list, func(p pkg) bool { return p.ImportPath == name }) {
			t.Errorf("the map of ARCHITECTURE.md has %s, the module has not", name)
		}
	}
}

func TestLayers(t *testing.T) {
	rows := readMap(t)
	for _, p := range packages(t) {
		for _, problem := range layerProblems(rows, p) {
			t.Error(problem)
		}
	}
}

// layerProblems says what is wrong with a package's imports.
func layerProblems(rows map[string]row, p pkg) []string {
	r, ok := rows[p.ImportPath]
	if !ok {
		return nil // TestMapIsInStep says so
	}
	var problems []string
	bad := func(format string, args ...any) {
		problems = append(problems, p.ImportPath+" "+fmt.Sprintf(format, args...))
	}
	if forTests(p.ImportPath) != r.test {
		bad("must stand in the layer test if and only if it is below test/ or named after its parent, parent/parenttest")
	}
	for _, imp := range p.Imports {
		if !strings.HasPrefix(imp, "./") {
			continue
		}
		to := rows[imp]
		switch {
		case r.test: // may import anything
		case to.test:
			bad("imports %s, which is for tests only", imp)
		case to.layer >= r.layer:
			bad("(layer %d) imports %s (layer %d): only strictly lower layers", r.layer, imp, to.layer)
		case !r.any && !slices.Contains(r.may, imp):
			bad("imports %s: wanted? Then the map of ARCHITECTURE.md has to say so", imp)
		}
	}
	for _, may := range r.may {
		if !slices.Contains(p.Imports, may) {
			bad("does not import %s, as the map of ARCHITECTURE.md says", may)
		}
	}
	return problems
}

func forTests(path string) bool {
	dir, base := filepath.Split(path)
	return strings.HasPrefix(path, "./test/") || base == filepath.Base(dir)+"test"
}

// The check itself has to be able to fail.
func TestLayerProblemsAreSeen(t *testing.T) {
	rows := map[string]row{
		"./low":         {layer: 0},
		"./low2":        {layer: 0},
		"./high":        {layer: 1, may: []string{"./low"}},
		"./low/lowtest": {test: true},
		"./attest":      {layer: 1},
		"./cmd/x":       {layer: 2, any: true},
	}
	for _, c := range []struct {
		pkg     pkg
		problem string
	}{
		{pkg{ImportPath: "./high", Imports: []string{"fmt", "./low"}}, ""},
		{pkg{ImportPath: "./high"}, "does not import ./low"},
		{pkg{ImportPath: "./high", Imports: []string{"./low", "./low2"}}, "imports ./low2: wanted?"},
		{pkg{ImportPath: "./low", Imports: []string{"./low2"}}, "only strictly lower"},
		{pkg{ImportPath: "./low", Imports: []string{"./high"}}, "only strictly lower"},
		{pkg{ImportPath: "./low", Imports: []string{"./low/lowtest"}}, "for tests only"},
		{pkg{ImportPath: "./low/lowtest", Imports: []string{"./high"}}, ""},
		{pkg{ImportPath: "./attest", Imports: []string{"./high"}}, "only strictly lower"},
		{pkg{ImportPath: "./cmd/x", Imports: []string{"./low", "./high"}}, ""},
	} {
		got := strings.Join(layerProblems(rows, c.pkg), "\n")
		if (c.problem == "") != (got == "") || !strings.Contains(got, c.problem) {
			t.Errorf("%s importing %v: problem %q, want %q", c.pkg.ImportPath, c.pkg.Imports, got, c.problem)
		}
	}
}

// What factsd must not link, and why. A path stands for itself and all below.
func TestForbiddenInFactsd(t *testing.T) {
	forbidden := []struct{ path, why string }{
		{module + "/verifier", "the device is judged, it does not judge others; and what it does not have cannot be attacked"},
		{module + "/reference/baseline", "reference values are made on the manufacturer's bench, never on a device in the field"},
		{"html/template", "the device has no web page; reflection over templates also keeps methods from being left out"},
		{"database/sql", "the device keeps a spool and a state file"},
		{"modernc.org/sqlite", "5 MB, and a database is the verifier's"},
		{"github.com/mochi-mqtt/server/v2", "the broker is the verifier's; the device listens on no network"},
		{"github.com/spf13/cobra", "two subcommands need the standard flag package only; templates keep methods from being left out"},
		{"github.com/shirou/gopsutil/v3/host", "its Info runs lsb_release and takes 260 ms"},
		{"github.com/shirou/gopsutil/v3/process", "allocates 880 kB a round; listening sockets come by sock_diag"},
		{"net/http/pprof", "registers handlers in a process that must not have any"},
		{"expvar", "registers handlers in a process that must not have any"},
		{"plugin", "code that nobody signed"},
		{"testing", "a helper of tests has slipped into the product"},
	}
	linked := strings.Fields(string(goCommand(t, "list", "-deps", "./cmd/factsd")))
	paths := []string{"list", "-find"}
	for _, f := range forbidden {
		paths = append(paths, f.path)
		for _, dep := range linked {
			if dep == f.path || strings.HasPrefix(dep, f.path+"/") {
				t.Errorf("factsd links %s: %s", dep, f.why)
			}
		}
	}
	// A rule about a package that is gone guards nothing.
	goCommand(t, paths...)
}

// What factstalk must not link: it parses what anybody sends.
func TestForbiddenInFactstalk(t *testing.T) {
	linked := strings.Fields(string(goCommand(t, "list", "-deps", "./cmd/factstalk")))
	for path, why := range map[string]string{
		"/agent/failsafe": "it has no way to the enforcer", "/agent/quarantine": "it changes nothing of the network", "/agent/mqtt": "it sends nothing to anybody",
		"/attest/tpm": "it has no key", "/reference": "it knows no manifest", "/label": "what a record means is said on the workbench",
	} {
		for _, dep := range linked {
			if own := module + path; dep == own || strings.HasPrefix(dep, own+"/") {
				t.Errorf("factstalk links %s: %s", dep, why)
			}
		}
		goCommand(t, "list", "-find", module+path)
	}
	for _, path := range []string{"net/http", "os/exec", "github.com/spf13/cobra"} {
		if slices.Contains(linked, path) {
			t.Errorf("factstalk links %s", path)
		}
	}
}

// Only agent/failsafe runs programs and signals processes. Others reach os/exec
// through libraries that we do not call for it, so importers of ours count.
func TestOnlyFailsafeRunsAndSignals(t *testing.T) {
	const only = "./agent/failsafe"
	rows := readMap(t)
	for _, f := range goFiles(t) {
		if f.isTest() || f.dir() == only || rows[f.dir()].test {
			continue
		}
		for _, imp := range f.ast.Imports {
			if imp.Path.Value == `"os/exec"` {
				t.Errorf("%s imports os/exec; only %s may", f.at(imp), only)
			}
		}
		for _, name := range []string{
			"os.StartProcess", "os.FindProcess", "syscall.Exec", "syscall.ForkExec", "syscall.StartProcess", "syscall.Kill",
			"unix.Exec", "unix.Kill", "unix.Tgkill", "unix.PidfdSendSignal",
		} {
			for _, n := range uses(f.ast, name) {
				t.Errorf("%s uses %s; only %s runs programs and signals processes", f.at(n), name, only)
			}
		}
	}
}

// A pure package can be run by the verifier over what a device said, and by a
// test over every state.
func TestPurePackages(t *testing.T) {
	rows := readMap(t)
	pure := 0
	for _, r := range rows {
		if r.pure {
			pure++
		}
	}
	if pure == 0 {
		t.Fatal("the map of ARCHITECTURE.md calls no package pure")
	}
	for _, f := range goFiles(t) {
		if f.isTest() || !rows[f.dir()].pure {
			continue
		}
		for _, imp := range f.ast.Imports {
			path := strings.Trim(imp.Path.Value, `"`)
			if path == "net/netip" {
				continue // addresses as values; it opens nothing
			}
			if path == "embed" && imp.Name != nil && imp.Name.Name == "_" {
				continue // a text that is part of the program; there is no file system to read
			}
			for _, io := range []string{"os", "net", "io/fs", "io/ioutil", "syscall", "golang.org/x/sys", "embed", "log"} {
				if path == io || strings.HasPrefix(path, io+"/") {
					t.Errorf("%s: a pure package imports %s", f.at(imp), path)
				}
			}
		}
		for _, name := range []string{"Now", "Since", "Until", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker", "Sleep"} {
			for _, n := range uses(f.ast, "time."+name) {
				t.Errorf("%s: a pure package uses time.%s", f.at(n), name)
			}
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if g, ok := n.(*ast.GoStmt); ok {
				t.Errorf("%s: a pure package starts a goroutine", f.at(g))
			}
			return true
		})
	}
}

func TestFactsdIsStatic(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "factsd")
	cmd := exec.Command("go", "build", "-o", bin, "./cmd/factsd")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cannot build factsd: %v\n%s", err, out)
	}
	f, err := elf.Open(bin)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("factsd has a segment %v: it is not static", p.Type)
		}
	}
}

// uses finds uses of a name of another package, "time.Now". It goes by the
// usual name of the package; nothing here renames those that matter.
func uses(f *ast.File, name string) []ast.Node {
	x, sel, _ := strings.Cut(name, ".")
	var found []ast.Node
	ast.Inspect(f, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok && s.Sel.Name == sel {
			if id, ok := s.X.(*ast.Ident); ok && id.Name == x {
				found = append(found, s)
			}
		}
		return true
	})
	return found
}
