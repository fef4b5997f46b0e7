package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestBench does the whole of it, short.
func TestBench(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", dir, "github.com/miotfacts/miotfacts/cmd/factsctl", "github.com/miotfacts/miotfacts/test/benchalarms").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var out strings.Builder
	b := &bench{factsctl: filepath.Join(dir, "factsctl"), self: filepath.Join(dir, "benchalarms"), runs: 2, repeats: 1, sound: 2,
		length: 300 * time.Millisecond, period: 100 * time.Millisecond, long: time.Second, after: time.Second, sick: 3 * time.Second, out: &out}
	if err := b.within(b.run); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"margin 1 %, later runs: predicted from what drafts made of the runs that they did not see, against what the manifest makes of 2 fresh runs",
		"rules outside their interval",
		"recorded: a-port-is-opened.jsonl, from 700ms on, in 1 runs",
		"injected: jump",
		"process.missing nothing but {}: seen in 1 runs",
		"injected: new-listener",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	// What a container needs is not everywhere; then the bench says so.
	switch _, of, _ := strings.Cut(out.String(), "a service of a real systemd, in a container"); {
	case strings.Contains(of, "NOT RUN"):
		t.Log(of)
	case !strings.Contains(of, "recorded: a-service-of-systemd-is-killed.jsonl") || !strings.Contains(of, "service.active all of {"):
		t.Errorf("no service was missed in a container: %s", of)
	}
	if left, err := os.ReadDir(b.dir); err == nil {
		t.Errorf("it left %d files behind", len(left))
	}
}
