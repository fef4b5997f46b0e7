// Command dist makes what is handed out: an archive for each port with the
// commands, a bill of materials beside it, Debian packages, and the checksums of
// all. Made twice from one commit, in whatever folder, the files are the same.
//
// It trusts the work tree that it is run in and the module cache that go.sum
// pins. It signs nothing and uploads nothing. The bill of materials follows
// CycloneDX 1.6, the packages deb(5).
package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A port is what one set of binaries runs on.
type port struct {
	name          string // as in the Makefile
	goarch, goarm string
	debian        string // Debian's name of it, "" where no package is made
}

func ports() []port {
	return []port{
		{name: "amd64", goarch: "amd64", debian: "amd64"},
		{name: "arm64", goarch: "arm64", debian: "arm64"},
		{name: "armv7", goarch: "arm", goarm: "7", debian: "armhf"},
		{name: "armv6", goarch: "arm", goarm: "6"},
		{name: "riscv64", goarch: "riscv64"},
		{name: "386", goarch: "386"},
	}
}

func commands() []string { return []string{"factsd", "factstalk", "factsctl", "factsverifier"} }

// dense are the flags of DENSE in the Makefile, which has the reasons.
const dense = "-gcflags=all=-l -gcflags=crypto/internal/fips140/nistec/...= -gcflags=crypto/internal/fips140/bigmod= -gcflags=crypto/internal/fips140/aes/...= -gcflags=crypto/internal/fips140/sha256= -gcflags=crypto/internal/fips140/sha512= -gcflags=crypto/internal/fips140/subtle= -gcflags=encoding/binary= -gcflags=internal/...= -gcflags=math/bits= -gcflags=runtime/...="

// A release is what all files of one run have in common.
type release struct {
	root    string    // of the repository
	out     string    // folder for what is handed out
	work    string    // folder for what is not
	version string    // of factsd
	time    time.Time // stands in every file instead of the present
	xz      int       // how hard packages are compressed, 0 to 9
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	r := release{}
	var names, kinds string
	flag.StringVar(&r.root, "root", ".", "`DIR` of the repository")
	flag.StringVar(&r.out, "out", "bin/dist", "`DIR` to write to; what is in it is replaced")
	flag.StringVar(&names, "ports", "all", "`PORTS` to build for, separated by commas or spaces")
	flag.StringVar(&kinds, "kinds", "archive,source,deb", "`KINDS` of files to make: archive, source, deb")
	flag.IntVar(&r.xz, "xz", 6, "`LEVEL` of compression of packages, 0 to 9")
	flag.Parse()
	if r.version, err = versionOf(r.root); err != nil {
		return err
	}
	if r.time, err = timeOf(r.root); err != nil {
		return err
	}
	listed := strings.FieldsFunc(names, func(r rune) bool { return r == ',' || r == ' ' })
	var chosen []port
	for _, p := range ports() {
		if names == "all" || slices.Contains(listed, p.name) {
			chosen = append(chosen, p)
		}
	}
	if len(chosen) == 0 {
		return fmt.Errorf("cannot build for %q: no such port", names)
	}
	if r.work, err = os.MkdirTemp("", "miotfacts-dist-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(r.work)) }()
	if err := errors.Join(os.RemoveAll(r.out), os.MkdirAll(r.out, 0o755)); err != nil {
		return err
	}
	want := strings.Split(kinds, ",")
	if slices.Contains(want, "source") {
		if err := r.source(); err != nil {
			return err
		}
	}
	for _, p := range chosen {
		if err := r.port(p, want); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return r.checksums()
}

// port makes the files of one port.
func (r *release) port(p port, want []string) error {
	bin := filepath.Join(r.work, p.name)
	deb := slices.Contains(want, "deb") && p.debian != ""
	if !deb && !slices.Contains(want, "archive") {
		return nil
	}
	if err := r.build(p, bin); err != nil {
		return err
	}
	if slices.Contains(want, "archive") {
		if err := r.archive(p, bin); err != nil {
			return err
		}
	}
	if deb {
		return r.packages(p, bin)
	}
	return nil
}

// build builds the commands for p into dir.
func (r *release) build(p port, dir string) error {
	for _, c := range commands() {
		args := []string{"build", "-trimpath", "-buildvcs=false", "-ldflags", fmt.Sprintf("-s -w -buildid= -X main.version=%s -X main.buildTime=%d", r.version, r.time.Unix()), "-o", dir + "/"}
		if c == "factsd" {
			args = append(args, strings.Fields(dense)...)
		}
		cmd := exec.Command("go", append(args, "./cmd/"+c)...)
		cmd.Dir = r.root
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+p.goarch, "GOARM="+p.goarm, "GOFLAGS=-mod=readonly")
		if _, err := output(cmd); err != nil {
			return err
		}
	}
	return nil
}

// checksums writes SHA256SUMS in the form that sha256sum -c reads.
func (r *release) checksums() error {
	entries, err := os.ReadDir(r.out)
	if err != nil {
		return err
	}
	var sums bytes.Buffer
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(r.out, e.Name()))
		if err != nil {
			return err
		}
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(data), e.Name())
	}
	return os.WriteFile(filepath.Join(r.out, "SHA256SUMS"), sums.Bytes(), 0o644)
}

// versionOf reads the version from where factsd has it.
func versionOf(root string) (string, error) {
	data, err := os.ReadFile(filepath.Join(root, "cmd/factsd/main.go"))
	if err != nil {
		return "", err
	}
	_, rest, _ := strings.Cut(string(data), "\nvar version = \"")
	v, _, ok := strings.Cut(rest, "\"\n")
	if !ok {
		return "", errors.New("cannot find the version in cmd/factsd/main.go")
	}
	return v, nil
}

// timeOf is SOURCE_DATE_EPOCH, or the time of the commit.
func timeOf(root string) (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		cmd := exec.Command("git", "log", "-1", "--format=%ct")
		cmd.Dir = root
		out, err := output(cmd)
		if err != nil {
			return time.Time{}, fmt.Errorf("cannot tell the time of the source, set SOURCE_DATE_EPOCH: %w", err)
		}
		text = strings.TrimSpace(string(out))
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("cannot read the time of the source: %w", err)
	}
	return time.Unix(n, 0).UTC(), nil
}

func output(cmd *exec.Cmd) ([]byte, error) {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("cannot run %s: %w\n%s", strings.Join(cmd.Args, " "), err, stderr.Bytes())
	}
	return out, nil
}
