package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/label-demo.txt anew")

// TestDemo runs the demo and holds that docs/label-demo.txt is what it says, but for
// what new keys change: key ids, digests, sizes of what is compressed.
func TestDemo(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	var out bytes.Buffer
	ok, err := demo(t.Context(), "", &out)
	if err != nil || !ok {
		t.Fatalf("%v\n%s", err, &out)
	}
	if left, err := filepath.Glob(filepath.Join(temp, "miotfacts-*")); err != nil || len(left) != 0 {
		t.Errorf("it left files behind: %v %v", left, err)
	}
	const doc = "../../docs/label-demo.txt"
	if *update {
		if err := os.WriteFile(doc, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	shown, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	have, want := strings.Split(plain(out.String()), "\n"), strings.Split(plain(string(shown)), "\n")
	for i := range max(len(have), len(want)) {
		if i >= len(have) || i >= len(want) || have[i] != want[i] {
			t.Fatalf("%s is not what the demo says from line %d on; go test ./test/demolabel -update writes it anew:\n%s", doc, i+1, strings.Join(have[i:min(i+5, len(have))], "\n"))
		}
	}
	for _, must := range []string{"EXAMPLE", "VERIFIED", "REFUSED", "NEGATIVE", "declared IT, NL, talks to US"} {
		if !strings.Contains(out.String(), must) {
			t.Errorf("it does not say %s", must)
		}
	}
}

// TestDemoFails holds that a check that fails makes the demo fail.
func TestDemoFails(t *testing.T) {
	var out bytes.Buffer
	s := &story{out: &out}
	s.check(true, "a")
	s.check(false, "b")
	if s.failed != 1 || s.checks != 2 || out.String() != "  ok   a\n  FAIL b\n" {
		t.Errorf("%d of %d failed: %s", s.failed, s.checks, &out)
	}
}

func plain(s string) string {
	s = regexp.MustCompile(`[0-9a-f]{32,}`).ReplaceAllString(s, "HEX")
	return regexp.MustCompile(`\d+ characters, QR version \d+, level [HQM]`).ReplaceAllString(s, "N characters, QR version N")
}
