package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestDemo runs the demo as people do and looks at what it leaves behind. The
// lines that the README shows of it must be among what it says.
func TestDemo(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "demo")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("cannot build the demo: %v\n%s", err, out)
	}
	temp := t.TempDir()
	before := cgroups(t)
	cmd := exec.Command(bin)
	cmd.Env = append(os.Environ(), "ONCE=1", "TMPDIR="+temp)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("the demo failed: %v\n%s\n%s", err, out, errs.String())
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) != 0 {
		t.Errorf("it left files behind: %v %v", left, err)
	}
	// Another test's lab may be making its own just now: that one gets a process.
	for deadline := time.Now().Add(5 * time.Second); ; <-time.After(50 * time.Millisecond) {
		left := slices.DeleteFunc(cgroups(t), func(dir string) bool { return slices.Contains(before, dir) })
		if len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Errorf("it left cgroups behind: %q", left)
			break
		}
	}
	if left := processes(t, temp); left != "" {
		t.Errorf("it left processes behind:\n%s", left)
	}

	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	head := strings.Split(string(readme), "\n")[:15]
	shown := 0
	for _, line := range head {
		line = strings.TrimPrefix(line, "    ")
		if !strings.HasPrefix(line, "ok ") && !strings.Contains(line, "checks passed") {
			continue
		}
		shown++
		if !strings.Contains(plain(string(out)), plain(line)) {
			t.Errorf("README shows %q, the demo did not say it", line)
		}
	}
	if shown < 5 || !strings.Contains(strings.Join(head, "\n"), "make demo ONCE=1") {
		t.Errorf("the first 15 lines of README show the demo with %d lines of its output", shown)
	}
}

// plain makes numbers, which differ from run to run, alike.
func plain(s string) string { return regexp.MustCompile(`\d+(\.\d+)?`).ReplaceAllString(s, "N") }

// cgroups returns the labs' cgroups that no process is in.
func cgroups(t *testing.T) []string {
	t.Helper()
	var empty []string
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		names, err := filepath.Glob(root + "/miotfacts-lab-*")
		if err != nil {
			t.Fatal(err)
		}
		for _, dir := range names {
			data, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
			if err == nil && bytes.Contains(data, []byte("populated 0")) {
				empty = append(empty, dir)
			}
		}
	}
	return empty
}

// processes returns the command lines that name dir.
func processes(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	found := ""
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err == nil && bytes.Contains(data, []byte(dir)) {
			found += strings.ReplaceAll(string(data), "\x00", " ") + "\n"
		}
	}
	return found
}
