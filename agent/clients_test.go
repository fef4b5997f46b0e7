package agent

import (
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/miotfacts/miotfacts/facts"
)

// TestClients compiles the client in configs/application and hands facts in by it
// and by the one in shell.
func TestClients(t *testing.T) {
	for tool, pkg := range map[string]string{"gcc": "gcc", "socat": "socat"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%s is missing: install the package %s", tool, pkg)
		}
	}
	dir := t.TempDir()
	client := filepath.Join(dir, "facts")
	if out, err := exec.Command("gcc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-o", client, "../configs/application/facts.c").CombinedOutput(); err != nil {
		t.Fatalf("facts.c does not compile: %v\n%s", err, out)
	}
	socket := filepath.Join(dir, "app.sock")
	defs := []facts.Def{{Name: "app.flow", Key: 1000, Kind: facts.Int, Min: 0, Max: 1000}, {Name: "app.pressure", Key: 1001, Kind: facts.Int, Min: 0, Max: 50}}
	for _, name := range []string{client, "../configs/application/facts.sh"} {
		t.Run(filepath.Base(name), func(t *testing.T) {
			run := func(args ...string) error {
				return exec.Command(name, args...).Run()
			}
			if err := run(socket, "app.flow", "7"); err == nil {
				t.Error("it did not tell that nobody listens")
			}
			spoke := make(chan struct{}, 4)
			a, err := listenApp(socket, defs, []uint32{uint32(os.Getuid())}, time.Now, func(facts.Key) { spoke <- struct{}{} }, slog.New(slog.NewTextHandler(io.Discard, nil)))
			if err != nil {
				t.Fatal(err)
			}
			go a.serve()
			defer os.Remove(socket)
			defer a.close()
			if err := run(socket, "app.flow", "120", "app.pressure", "13"); err != nil {
				t.Fatal(err)
			}
			<-spoke
			if r := a.Read(nil); r[0].Value.Int() != 120 || r[1].Value.Int() != 13 {
				t.Errorf("%+v", r)
			}
			if err := run(socket); err == nil {
				t.Error("it took no facts for some")
			}
		})
	}
}
