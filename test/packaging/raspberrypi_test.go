package packaging_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// TestRaspberryPiSoftwareTPM starts the software TPM as its unit does, and lets
// factsd make its keys there with the configuration of docs/raspberry-pi.md.
func TestRaspberryPiSoftwareTPM(t *testing.T) {
	swtpm := program(t, "swtpm", "swtpm")
	must(t, []string{"SYSTEMD_LOG_LEVEL=notice"}, program(t, "systemd-analyze", "systemd"), "verify", "--man=no", "--recursive-errors=no", filepath.Join(root, "configs/raspberry-pi/factsd-swtpm.service"))
	dir := t.TempDir()
	unit := read(t, "configs/raspberry-pi/factsd-swtpm.service")
	words := strings.Fields(regexp.MustCompile(`(?m)^ExecStart=(.*)$`).FindStringSubmatch(unit)[1])
	if words[0] != "/usr/bin/swtpm" {
		t.Fatalf("the unit starts %s", words[0])
	}
	for i, w := range words {
		w = strings.ReplaceAll(w, "/run/factsd-swtpm", dir)
		words[i] = strings.ReplaceAll(w, "/var/lib/factsd-swtpm", dir)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tpm := exec.CommandContext(ctx, swtpm, words[1:]...)
	log := new(strings.Builder)
	tpm.Stdout, tpm.Stderr = log, log
	if err := tpm.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- tpm.Wait() }()
	defer func() { cancel(); <-ended }()
	for there := false; !there; {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("the software TPM ended: %v\n%s", err, log)
		case <-time.After(20 * time.Millisecond):
			_, err := os.Stat(filepath.Join(dir, "sock"))
			there = err == nil
		}
	}

	// The block of the guide, in a configuration that has the rest.
	block := regexp.MustCompile("(?s)```toml\n(.*?)```").FindStringSubmatch(read(t, "docs/raspberry-pi.md"))[1]
	var conf map[string]map[string]any
	if err := toml.Unmarshal([]byte(block), &conf); err != nil {
		t.Fatal(err)
	}
	key := strings.ReplaceAll(conf["key"]["tpm"].(string), "/run/factsd-swtpm", dir)
	text := fmt.Sprintf("state = %q\n[device]\nvendor = \"v\"\nmodel = \"m\"\n[reference]\nmanifest = \"m\"\nmanufacturer_roots = [\"r\"]\n[key]\ntpm = %q\n[enforcer]\nnv = %v\n",
		filepath.Join(dir, "state"), key, conf["enforcer"]["nv"])
	if err := os.WriteFile(filepath.Join(dir, "factsd.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, []string{"CGO_ENABLED=0"}, "go", "build", "-C", root, "-o", filepath.Join(dir, "factsd"), "./cmd/factsd")
	first := must(t, nil, filepath.Join(dir, "factsd"), "provision", "-config", filepath.Join(dir, "factsd.toml"))
	if again := must(t, nil, filepath.Join(dir, "factsd"), "provision", "-config", filepath.Join(dir, "factsd.toml")); again != first || len(strings.TrimSpace(first)) == 0 {
		t.Errorf("the identity was %q and is %q", first, again)
	}
}
