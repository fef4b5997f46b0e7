package failsafe

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/reference"
)

// TestDryRun looks at a chain of all sorts on a device where some of it is there,
// and wants nothing to have changed.
func TestDryRun(t *testing.T) {
	cgroup := workload(t)
	steps := []struct {
		r           reference.Reaction
		now, refuse string // parts of the words
	}{
		{reference.Reaction{Do: reference.Tell, Deadline: 100}, "its socket is there", ""},
		{reference.Reaction{Do: reference.Freeze, Target: cgroup, Deadline: 1000}, "frozen 0", ""},
		{reference.Reaction{Do: reference.Freeze, Target: "no-such.slice", Deadline: 1000}, "not known", "no such file"},
		{reference.Reaction{Do: reference.Signal, Target: "/usr/bin/sleep", Signal: sigStop, Deadline: 1000}, "0 of them stopped", ""},
		{reference.Reaction{Do: reference.Signal, Target: "/opt/vent/run", Signal: sigStop, Deadline: 1000}, "0 processes", "never to be touched"},
		{reference.Reaction{Do: reference.Sysfs, Target: "/sys/kernel/listed", Value: "1", Deadline: 100}, "not known", "no such file"},
		{reference.Reaction{Do: reference.Sysfs, Target: "/sys/kernel/other", Value: "1", Deadline: 100}, "not known", "not on the device's list"},
		{reference.Reaction{Do: reference.GPIO, Target: "gpiochip77:1", Value: "1", Deadline: 100}, "not known", "no such file"},
		{reference.Reaction{Do: reference.LED, Target: "none:here", Value: "1", Deadline: 100}, "not known", "no such file"},
		{reference.Reaction{Do: reference.Beep, Target: "event77", Value: "2000", Deadline: 100}, "not known", "no such file"},
		{reference.Reaction{Do: reference.Hook, Target: "absent", Deadline: 100}, "not known", "no such file"},
		{reference.Reaction{Do: reference.Quarantine, Deadline: 100}, "not known", "no address of the verifier"},
	}
	d := newDevice(t, func(m *reference.Manifest) {
		m.Reaction = nil
		for _, s := range steps {
			m.Reaction = append(m.Reaction, s.r)
		}
	})
	d.cfg.AppSocket = d.path("app")
	d.cfg.Hooks = d.dir
	d.cfg.Sysfs = []string{"/sys/kernel/listed"}
	d.cfg.NeverTouch = append(d.cfg.NeverTouch, "/opt/vent/run")
	l, err := net.Listen("unix", d.cfg.AppSocket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	before := files(t, d.dir)
	got, err := DryRun(t.Context(), d.cfg)
	if err != nil || len(got) != len(steps) {
		t.Fatalf("%d steps, %v", len(got), err)
	}
	for i, s := range steps {
		p := got[i]
		if p.Do != s.r.Do.String() || !strings.Contains(p.Now, s.now) || (p.Refuse == "") != (s.refuse == "") || !strings.Contains(p.Refuse, s.refuse) {
			t.Errorf("step %d: %+v, want now %q, refuse %q", i, p, s.now, s.refuse)
		}
		if (p.Refuse != "") != (p.Would == "nothing") {
			t.Errorf("step %d would do %q and fails %q", i, p.Would, p.Refuse)
		}
	}
	if frozen(t, cgroup) {
		t.Error("the cgroup was frozen")
	}
	if after := files(t, d.dir); after != before {
		t.Errorf("files changed from %s to %s", before, after)
	}
	d.write("manifest", []byte("damaged"))
	if got, err := DryRun(t.Context(), d.cfg); err == nil || got != nil {
		t.Errorf("%v of a damaged manifest, %v", got, err)
	}
}

func files(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, filepath.Base(e.Name()))
	}
	return strings.Join(names, " ")
}
