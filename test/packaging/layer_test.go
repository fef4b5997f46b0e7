package packaging_test

import (
	"archive/zip"
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const layer = "yocto/meta-miotfacts"

// updateLayer makes TestModulesOfTheLayer write the files it would compare.
var updateLayer = flag.Bool("update", false, "write the lists of modules and licences of the Yocto layer")

func goOutput(t *testing.T, env []string, args ...string) string {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

// A module that the recipe has to fetch.
type module struct{ path, version, dir string }

// modules are those that factsd and factstalk link on any architecture.
func modules(t *testing.T) []module {
	t.Helper()
	var list []module
	for _, arch := range []string{"amd64", "arm64", "arm", "riscv64", "386"} {
		out := goOutput(t, []string{"GOOS=linux", "CGO_ENABLED=0", "GOARCH=" + arch}, "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}", "./cmd/factsd", "./cmd/factstalk")
		for line := range strings.Lines(out) {
			if f := strings.Fields(line); len(f) == 3 {
				if m := (module{f[0], f[1], f[2]}); !slices.Contains(list, m) {
					list = append(list, m)
				}
			}
		}
	}
	if len(list) < 5 {
		t.Fatalf("found %d modules", len(list))
	}
	slices.SortFunc(list, func(a, b module) int { return strings.Compare(a.path, b.path) })
	return list
}

// escaped writes upper case letters as the module cache does.
func escaped(path string) string {
	return regexp.MustCompile(`[A-Z]`).ReplaceAllStringFunc(path, func(s string) string { return "!" + strings.ToLower(s) })
}

// cached is a file of a module in the download cache.
func cached(t *testing.T, m module, ext string) string {
	t.Helper()
	cache := strings.TrimSpace(goOutput(t, nil, "env", "GOMODCACHE"))
	path := filepath.Join(cache, "cache/download", escaped(m.path), "@v", escaped(m.version)+ext)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v (go mod download gets it)", err)
	}
	return path
}

// The recipe fetches exactly what is linked, with the checksum of the very
// archive whose content go.sum names.
func TestModulesOfTheLayer(t *testing.T) {
	spdx := map[string]string{}
	for line := range strings.Lines(read(t, "docs/dependencies.md")) {
		if cells := strings.Split(line, "|"); len(cells) == 6 && strings.HasPrefix(cells[1], " `") {
			licence := strings.TrimSpace(cells[3])
			if licence == "EPL-2.0 or EDL-1.0" { // SPDX calls EDL-1.0 BSD-3-Clause
				licence = "(EPL-2.0 | BSD-3-Clause)"
			}
			spdx[strings.Trim(cells[1], " `")] = licence
		}
	}
	sums := read(t, "go.sum")
	var mods, licences strings.Builder
	mods.WriteString("# Made by `go test ./test/packaging -run ModulesOfTheLayer -update`.\nSRC_URI += \"\\\n")
	licences.WriteString("# Made by `go test ./test/packaging -run ModulesOfTheLayer -update`.\nLIC_FILES_CHKSUM += \"\\\n")
	all := []string{"Apache-2.0"}
	for _, m := range modules(t) {
		h1, err := os.ReadFile(cached(t, m, ".ziphash"))
		if err != nil {
			t.Fatal(err)
		}
		if want := m.path + " " + m.version + " " + strings.TrimSpace(string(h1)) + "\n"; !strings.Contains(sums, want) {
			t.Errorf("go.sum does not have %s", want)
		}
		data, err := os.ReadFile(cached(t, m, ".zip"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&mods, "    gomod://%s;version=%s;sha256sum=%x \\\n", m.path, m.version, sha256.Sum256(data))
		if spdx[m.path] == "" {
			t.Errorf("docs/dependencies.md has no licence of %s", m.path)
		}
		if !slices.Contains(all, spdx[m.path]) {
			all = append(all, spdx[m.path])
		}
		name := ""
		for _, n := range []string{"LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "COPYING"} {
			if text, err := os.ReadFile(filepath.Join(m.dir, n)); err == nil && name == "" {
				name = n
				fmt.Fprintf(&licences, "    file://pkg/mod/%s@%s/%s;md5=%x;spdx=%s \\\n", escaped(m.path), escaped(m.version), n, md5.Sum(text), strings.ReplaceAll(strings.Trim(spdx[m.path], "()"), " ", ""))
			}
		}
		if name == "" {
			t.Errorf("%s has no licence file", m.path)
		}
	}
	mods.WriteString("\"\n")
	licences.WriteString("\"\n")
	for name, text := range map[string]string{"miotfacts-go-mods.inc": mods.String(), "miotfacts-licenses.inc": licences.String()} {
		path := layer + "/recipes-core/miotfacts/" + name
		if *updateLayer {
			if err := os.WriteFile(filepath.Join(root, path), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if read(t, path) != text {
			t.Errorf("%s is not what go list says: run go test ./test/packaging -run ModulesOfTheLayer -update", path)
		}
	}
	slices.Sort(all)
	for _, recipe := range []string{"miotfacts/miotfacts_git.bb", "miotfacts-bin/miotfacts-bin_0.1.0.bb"} {
		text := read(t, layer+"/recipes-core/"+recipe)
		m := regexp.MustCompile(`(?m)^LICENSE = "(.*)"$`).FindStringSubmatch(text)
		if m == nil {
			t.Fatalf("%s has no LICENSE", recipe)
		}
		have := strings.Split(m[1], " & ")
		slices.Sort(have)
		if !slices.Equal(have, all) {
			t.Errorf("%s: LICENSE has %q, what is linked %q", recipe, have, all)
		}
		if own := fmt.Sprintf("LICENSE;md5=%x", md5.Sum([]byte(read(t, "LICENSE")))); !strings.Contains(text, own) {
			t.Errorf("%s does not have %s", recipe, own)
		}
	}
}

// With the modules of the recipe, and no others, the go command finds all it
// needs without a network, as it has to in do_compile.
func TestModulesOfTheLayerSuffice(t *testing.T) {
	cache := t.TempDir()
	line := regexp.MustCompile(`gomod://(\S+);version=([^;]+);(mod=1;)?sha256sum=([0-9a-f]{64})`)
	for _, f := range line.FindAllStringSubmatch(read(t, layer+"/recipes-core/miotfacts/miotfacts-go-mods.inc"), -1) {
		m := module{path: f[1], version: f[2]}
		data, err := os.ReadFile(cached(t, m, ".zip"))
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(cache, "cache/download", escaped(m.path), "@v")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		// The fetcher takes go.mod out of the archive.
		archive, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		mod := []byte("module " + m.path + "\n")
		if g, err := archive.Open(m.path + "@" + m.version + "/go.mod"); err == nil {
			mod, err = io.ReadAll(g)
			if err := errors.Join(err, g.Close()); err != nil {
				t.Fatal(err)
			}
		}
		for ext, content := range map[string][]byte{".zip": data, ".mod": mod} {
			if err := os.WriteFile(filepath.Join(dir, escaped(m.version)+ext), content, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	goOutput(t, []string{"GOMODCACHE=" + cache, "GOPROXY=off", "GOSUMDB=off", "GOFLAGS=-modcacherw", "GOTOOLCHAIN=local", "CGO_ENABLED=0", "GOARCH=arm64"}, "list", "-deps", "./cmd/factsd", "./cmd/factstalk")
}

// layerFiles are the files of the layer with one of the endings.
func layerFiles(t *testing.T, endings ...string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(filepath.Join(root, layer), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && slices.Contains(endings, filepath.Ext(path)) {
			rel, rerr := filepath.Rel(root, path)
			list, err = append(list, rel), rerr
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(list) == 0 {
		t.Fatalf("no %s in the layer", endings)
	}
	return list
}

var (
	assignment = regexp.MustCompile(`^(export )?[A-Za-z_][A-Za-z0-9_${}.+/-]*(:[A-Za-z0-9_${}.+-]+)*(\[[A-Za-z0-9_.+-]+\])? *(=|\?=|\?\?=|:=|\+=|=\+|\.=|=\.) *("[^"]*"|'[^']*')$`)
	directive  = regexp.MustCompile(`^(inherit|require|include) +\S.*$`)
	function   = regexp.MustCompile(`^(python +)?[A-Za-z_][A-Za-z0-9_:]* *\(\) *\{$`)
	oldStyle   = regexp.MustCompile(`_(append|prepend|remove)\b|\bEXTRA_OEMAKE_|^FILES_`)
)

// bitbakeProblems finds lines that bitbake would not read, and overrides written
// as they were before honister.
func bitbakeProblems(text string) []string {
	var problems []string
	logical, inside := "", false
	for i, line := range strings.Split(text, "\n") {
		switch {
		case inside:
			inside = line != "}"
			continue
		case strings.HasSuffix(line, `\`):
			logical += strings.TrimSuffix(line, `\`)
			continue
		}
		line, logical = logical+line, ""
		switch {
		case strings.TrimSpace(line) == "", strings.HasPrefix(line, "#"):
		case function.MatchString(line):
			inside = true
		case oldStyle.MatchString(line):
			problems = append(problems, fmt.Sprintf("line %d: override of the old form: %s", i+1, line))
		case !assignment.MatchString(line) && !directive.MatchString(line):
			problems = append(problems, fmt.Sprintf("line %d: neither assignment nor directive: %s", i+1, line))
		}
	}
	if inside || logical != "" {
		problems = append(problems, "the last line is not the end of something that began before")
	}
	return problems
}

func TestLayerParses(t *testing.T) {
	for _, path := range layerFiles(t, ".bb", ".bbappend", ".inc", ".conf") {
		for _, p := range bitbakeProblems(read(t, path)) {
			t.Errorf("%s: %s", path, p)
		}
	}
	for _, c := range []struct {
		text string
		bad  bool
	}{
		{"A = \"b\"\nA:append = \" \\\n c \\\n\"\ndo_x() {\n  foo\n}\npython () {\n    pass\n}\nA[b] = '\"x\"'\n", false},
		{"A = \"b\n", true}, {"A = b\n", true}, {"A_append = \"x\"\n", true}, {"do_x() {\n foo\n", true}, {"A = \"x \\\n", true}, {"require\n", true},
	} {
		if got := bitbakeProblems(c.text); (len(got) > 0) != c.bad {
			t.Errorf("%q: problems %q", c.text, got)
		}
	}
}

func TestLayerIsInStep(t *testing.T) {
	if read(t, layer+"/recipes-core/miotfacts-conf/files/factsd.toml") != read(t, "configs/factsd.toml") {
		t.Error("factsd.toml of miotfacts-conf is not configs/factsd.toml")
	}
	conf := read(t, layer+"/conf/layer.conf")
	if want := `LAYERSERIES_COMPAT_miotfacts = "scarthgap wrynose blacksail"`; !strings.Contains(conf, want) {
		t.Errorf("layer.conf does not say %s: it names only what it was parsed with (docs/tested-on.md)", want)
	}
	version := regexp.MustCompile(`\nvar version = "(.*)"\n`).FindStringSubmatch(read(t, "cmd/factsd/main.go"))[1]
	for path, want := range map[string]string{
		layer + "/recipes-core/miotfacts/miotfacts_git.bb":                     `PV = "` + version + `+git"`,
		layer + "/recipes-core/miotfacts-bin/miotfacts-bin_" + version + ".bb": "MIOTFACTS_SHA256",
		"configs/buildroot/package/miotfacts/miotfacts.mk":                     "MIOTFACTS_VERSION = " + version + "\n",
	} {
		if !strings.Contains(read(t, path), want) {
			t.Errorf("%s does not have %q", path, want)
		}
	}
	// factsd is built with the same flags everywhere.
	dense := regexp.MustCompile(`\nconst dense = "(.*)"\n`).FindStringSubmatch(read(t, "test/packaging/dist/main.go"))[1]
	make, err := exec.Command("make", "-s", "-f", "Makefile", "--eval", "print-dense:;@echo $(DENSE)", "-C", root, "print-dense").CombinedOutput()
	if err != nil || strings.TrimSpace(string(make)) != dense {
		t.Errorf("DENSE in the Makefile is %s, want %s (%v)", make, dense, err)
	}
	for _, path := range []string{layer + "/recipes-core/miotfacts/miotfacts_git.bb", "configs/buildroot/package/miotfacts/miotfacts.mk"} {
		if !strings.Contains(read(t, path), dense) {
			t.Errorf("%s does not build factsd with %s", path, dense)
		}
	}
	recipe := read(t, layer+"/recipes-core/miotfacts/miotfacts_git.bb")
	for _, want := range []string{`GOBUILDFLAGS:remove = "-buildmode=pie"`, `CGO_ENABLED = "0"`, `export GOTOOLCHAIN = "local"`, `GO_LINKSHARED = ""`, "miotfacts_assert_static"} {
		if !strings.Contains(recipe, want) {
			t.Errorf("the recipe does not have %s", want)
		}
	}
	// What is optional is built and installed by both recipes or by neither, and not
	// enabled by either.
	common := read(t, layer+"/recipes-core/include/miotfacts-common.inc")
	for _, want := range []string{`PACKAGECONFIG[talk] = ",,,"`, `PACKAGES =+ "${PN}-talk"`, `SYSTEMD_AUTO_ENABLE:${PN}-talk = "disable"`} {
		if !strings.Contains(common, want) {
			t.Errorf("miotfacts-common.inc does not have %s", want)
		}
	}
	for _, text := range []string{recipe, read(t, layer+"/recipes-core/miotfacts-bin/miotfacts-bin_"+version+".bb")} {
		if !strings.Contains(text, "${D}${bindir}/factstalk") {
			t.Error("a recipe does not install factstalk")
		}
	}
	if !regexp.MustCompile(`SRCREV = "[0-9a-f]{40}"`).MatchString(recipe) {
		t.Error("the recipe names no commit")
	}
	// What yocto-check-layer wants of a README.
	readme := read(t, layer+"/README.md")
	for _, want := range []string{"aintainer", "patch", "@"} {
		if !strings.Contains(readme, want) {
			t.Errorf("README.md of the layer has no %q", want)
		}
	}
	// A bbappend that is more than this line changes signatures even while the
	// feature is off.
	for _, path := range layerFiles(t, ".bbappend") {
		if text := strings.TrimSpace(read(t, path)); text != `require ${@bb.utils.contains('DISTRO_FEATURES', 'miotfacts', 'recipes-kernel/linux/miotfacts-kernel.inc', '', d)}` {
			t.Errorf("%s: %s", path, text)
		}
	}
}

// The fragment; with LINUX= a tree of kernel sources, its symbols too.
func TestKernelFragment(t *testing.T) {
	var symbols []string
	for line := range strings.Lines(read(t, layer+"/recipes-kernel/linux/files/miotfacts.cfg")) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "# ") {
			continue
		}
		m := regexp.MustCompile(`^CONFIG_([A-Z0-9_]+)=[ym]$`).FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("not a line of a kernel configuration: %q", line)
		}
		if slices.Contains(symbols, m[1]) {
			t.Errorf("%s stands there twice", m[1])
		}
		symbols = append(symbols, m[1])
	}
	if len(symbols) == 0 {
		t.Fatal("the fragment is empty")
	}
	tree := os.Getenv("LINUX")
	if tree == "" {
		t.Log("skipped: LINUX= names no kernel sources, whether the symbols exist was not looked at")
		return
	}
	known := map[string]bool{}
	err := filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasPrefix(d.Name(), "Kconfig") {
			return err
		}
		data, err := os.ReadFile(path)
		for _, m := range regexp.MustCompile(`(?m)^\s*(?:menu)?config ([A-Z0-9_]+)\s*$`).FindAllSubmatch(data, -1) {
			known[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range symbols {
		if !known[s] {
			t.Errorf("no CONFIG_%s in %s", s, tree)
		}
	}
}

// With OE= openembedded-core and BB= bitbake bitbake itself parses the layer. It
// refuses to run as root, so as nobody there.
func TestBitbakeParses(t *testing.T) {
	oe, bb := os.Getenv("OE"), os.Getenv("BB")
	if oe == "" || bb == "" {
		t.Log("skipped: OE= and BB= name no checkouts")
		return
	}
	layerDir, err := filepath.Abs(filepath.Join(root, layer))
	if err != nil {
		t.Fatal(err)
	}
	build, err := os.MkdirTemp("", "miotfacts-bitbake-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(build)
	conf := filepath.Join(build, "conf")
	if err := os.Mkdir(conf, 0o755); err != nil {
		t.Fatal(err)
	}
	local := "MACHINE = \"qemuarm64\"\nDISTRO_FEATURES:append = \" miotfacts\"\nBB_NO_NETWORK = \"1\"\nCONNECTIVITY_CHECK_URIS = \"\"\nINHERIT:remove = \"uninative\"\nBB_NUMBER_PARSE_THREADS = \"2\"\n" +
		"PACKAGECONFIG:append:pn-miotfacts = \" talk\"\nPACKAGECONFIG:append:pn-miotfacts-bin = \" talk\"\n" +
		"MIOTFACTS_SHA256 = \"" + strings.Repeat("0", 64) + "\"\n"
	layers := "BBPATH = \"${TOPDIR}\"\nBBFILES ?= \"\"\nBBLAYERS = \"" + oe + "/meta " + layerDir + "\"\n"
	for name, text := range map[string]string{"local.conf": local, "bblayers.conf": layers} {
		if err := os.WriteFile(filepath.Join(conf, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	script := `cd "$OE" && . ./oe-init-build-env "$BUILD" "$BB" >/dev/null && bitbake -p && ` +
		`for r in miotfacts miotfacts-bin; do if bitbake -e $r >$BUILD/$r.env; then grep -E '^(export )?(PV|S|GOBUILDFLAGS|CGO_ENABLED|GO_LDFLAGS|GO_INSTALL|PACKAGES|SYSTEMD_PACKAGES|USERADD_PACKAGES|SRC_URI)=' $BUILD/$r.env | cut -c1-200; else echo "bitbake -e $r ended with an error"; fi; done`
	args := []string{"bash", "-c", script}
	if os.Geteuid() == 0 {
		must(t, nil, "chown", "-R", "nobody", build)
		args = append([]string{"setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"}, args...)
	}
	out := must(t, []string{"OE=" + oe, "BB=" + bb, "BUILD=" + build, "HOME=" + build, "LC_ALL=en_US.UTF-8"}, args[0], args[1:]...)
	t.Log(out)
	if !strings.Contains(out, " 0 errors") {
		t.Error("bitbake -p does not say 0 errors")
	}
	if strings.Contains(out, "buildmode=pie") {
		t.Error("the recipe would build position independent executables, which are not static")
	}
}
