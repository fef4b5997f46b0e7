package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestFactsNowOnFixtures holds that the command shows of each fixture what its
// golden file says, of each fact but the version of the agent, which is this
// build's, and the energy used, which grows between two looks.
func TestFactsNowOnFixtures(t *testing.T) {
	const devices = "../../testdata/devices"
	golden, err := filepath.Glob(filepath.Join(devices, "*.golden"))
	if err != nil || len(golden) < 8 {
		t.Fatalf("%d golden files, %v", len(golden), err)
	}
	for _, name := range golden {
		want, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		c := newRootCommand()
		c.SetOut(&out)
		c.SetArgs([]string{"facts", "now", "--json", "--wait", "20ms", "--root", strings.TrimSuffix(name, ".golden"),
			"--cgroup", "system.slice/pump.service", "--process", "kthreadd", "--process", "/usr/bin/pumpd"})
		if err := c.Execute(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var shown []struct {
			Name, Status, Reason string
			Value                any
		}
		dec := json.NewDecoder(&out)
		dec.UseNumber()
		if err := dec.Decode(&shown); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		lines := map[string]string{}
		for line := range strings.Lines(string(want)) {
			fact, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
			lines[fact] = rest
		}
		if len(shown) != len(lines) {
			t.Errorf("%s: %d facts are shown, %d are in the golden file", name, len(shown), len(lines))
		}
		for _, f := range shown {
			if f.Name == "software.agent" || f.Name == "energy.used" {
				continue
			}
			got := f.Status + " " + f.Reason
			if f.Status == "ok" {
				got = "ok " + fmt.Sprint(f.Value)
				switch v := f.Value.(type) {
				case string:
					if strings.HasPrefix(lines[f.Name], `ok "`) { // a text; bytes are not quoted
						got = fmt.Sprintf("ok %q", v)
					}
				case []any:
					members := make([]string, len(v))
					for i, m := range v {
						members[i] = fmt.Sprint(m)
					}
					got = "ok {" + strings.Join(members, ", ") + "}"
				}
			}
			if got != lines[f.Name] {
				t.Errorf("%s: %s is %s, the golden file says %s", filepath.Base(name), f.Name, got, lines[f.Name])
			}
		}
	}
}
