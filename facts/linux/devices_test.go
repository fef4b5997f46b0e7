package linux

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miotfacts/miotfacts/facts"
)

var update = flag.Bool("update", false, "write the golden files anew")

const devices = "../../testdata/devices"

// deviceNames returns the fixtures.
func deviceNames(t testing.TB) []string {
	t.Helper()
	entries, err := os.ReadDir(devices)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	if len(names) == 0 {
		t.Fatalf("%s holds no fixture", devices)
	}
	return names
}

// openRoot opens dir with a clock that goes on by a second with each look.
func openRoot(t testing.TB, dir string) *Root {
	t.Helper()
	r, err := OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	now := int64(0)
	r.now = func() int64 { now += int64(time.Second); return now }
	return r
}

var fixtureOptions = Options{AgentVersion: "v0.1.0", Services: true, Application: "system.slice/pump.service", Processes: []string{"kthreadd", "/usr/bin/pumpd"}}

func mustSources(t testing.TB, r *Root, opt Options) []facts.Source {
	t.Helper()
	s, err := Sources(r, opt)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// readAll reads every fast source n times and the others once, and returns the
// last readings by name.
func readAll(t testing.TB, sources []facts.Source, n int) map[string]facts.Reading {
	t.Helper()
	v, err := facts.NewVocabulary(nil)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]facts.Reading{}
	for i := range n {
		for _, s := range sources {
			if s.Cadence() != facts.Fast && i < n-1 {
				continue
			}
			readings := s.Read(nil)
			if len(readings) != len(s.Keys()) {
				t.Fatalf("source %s: %d readings for %d facts", s.Name(), len(readings), len(s.Keys()))
			}
			for i, r := range readings {
				if r.Key != s.Keys()[i] {
					t.Fatalf("source %s: reading %d is of fact %d, not %d", s.Name(), i, r.Key, s.Keys()[i])
				}
				check(t, v, r)
				got[v.Name(r.Key)] = r
			}
		}
	}
	return got
}

// readTwice reads all sources of root twice, a second apart. The clock stands
// still within a round: how many sources look at it makes no difference.
func readTwice(t testing.TB, root *Root) map[string]facts.Reading {
	t.Helper()
	now := int64(0)
	root.now = func() int64 { return now }
	sources := mustSources(t, root, fixtureOptions)
	readAll(t, sources, 1)
	now += int64(time.Second)
	return readAll(t, sources, 1)
}

// check tells what no reading may ever be.
func check(t testing.TB, v *facts.Vocabulary, r facts.Reading) {
	t.Helper()
	d, ok := v.ByKey(r.Key)
	switch {
	case !ok:
		t.Errorf("fact %d is not in the catalogue", r.Key)
	case !r.Status.Known() || r.Status == facts.Stale:
		t.Errorf("%s: status %s", d.Name, r.Status)
	case r.Status == facts.OK && (r.Value.Kind() != d.Kind || r.Reason != ""):
		t.Errorf("%s: ok with a value of kind %s and reason %q; the catalogue says %s", d.Name, r.Value.Kind(), r.Reason, d.Kind)
	case r.Status != facts.OK && (r.Reason == "" || r.Value.Kind() != 0):
		t.Errorf("%s: %s with value %v and reason %q", d.Name, r.Status, r.Value, r.Reason)
	case strings.Contains(r.Reason, "did not report"):
		t.Errorf("%s: %s", d.Name, r.Reason)
	}
	if r.Status == facts.OK {
		if _, err := r.Value.MarshalCBOR(); err != nil {
			t.Errorf("%s: %v", d.Name, err)
		}
	}
}

func format(readings map[string]facts.Reading) []byte {
	var b bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(readings)) {
		r := readings[name]
		if r.Status == facts.OK {
			fmt.Fprintf(&b, "%s ok %v\n", name, r.Value)
		} else {
			fmt.Fprintf(&b, "%s %s %s\n", name, r.Status, r.Reason)
		}
	}
	return b.Bytes()
}

func TestDevices(t *testing.T) {
	for _, name := range deviceNames(t) {
		t.Run(name, func(t *testing.T) {
			got := readTwice(t, openRoot(t, filepath.Join(devices, name)))
			if want := len(facts.Catalogue()); len(got) != want {
				t.Errorf("%d facts were reported, the catalogue has %d", len(got), want)
			}
			for fact, r := range got {
				if r.Status == facts.Unreadable || r.Status == facts.Malformed {
					t.Errorf("%s: %s: %s", fact, r.Status, r.Reason)
				}
			}
			golden := filepath.Join(devices, name+".golden")
			if *update {
				if err := os.WriteFile(golden, format(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			for _, line := range diff(string(want), string(format(got))) {
				t.Error(line)
			}
		})
	}
}

// TestBareContainer is a device without systemd, without hwmon, without cgroup v2,
// in a container: every fact is ok or absent, none unreadable, and none but those
// that such a device can know is ok.
func TestBareContainer(t *testing.T) {
	x := &tree{t: t, dir: filepath.Join(t.TempDir(), "root")}
	if err := os.CopyFS(x.dir, os.DirFS(filepath.Join(devices, "container"))); err != nil {
		t.Fatal(err)
	}
	for _, none := range []string{".calls/systemd", "sys/class/hwmon", "sys/class/thermal", "sys/fs/cgroup", "run/systemd"} {
		if _, err := os.Lstat(filepath.Join(x.dir, none)); err == nil {
			t.Errorf("the container has /%s", none)
		}
	}
	x.root = openRoot(t, x.dir)
	x.root.now = func() int64 { return x.now }
	x.list = mustSources(t, x.root, fixtureOptions)
	x.write(map[string]string{"proc/stat": procStat(1000, 9000)})
	x.round(0, nil)
	x.write(map[string]string{"proc/stat": procStat(1010, 9090)})
	x.now += int64(time.Second)
	for name, r := range readAll(t, x.list, 1) {
		if r.Status != facts.OK && r.Status != facts.Absent {
			t.Errorf("%s is %s: %s", name, r.Status, r.Reason)
		}
		group, _, _ := strings.Cut(name, ".")
		if r.Status == facts.OK && (slices.Contains([]string{"energy", "thermal", "application", "container", "service"}, group) ||
			slices.Contains(strings.Fields("boot.firmware boot.loader boot.kernel boot.initrd boot.userspace boot.energy boot.secure boot.loader_verified network.unowned network.owners"), name)) {
			t.Errorf("%s is %v, which nothing there tells", name, r.Value)
		}
	}
}

// diff returns the lines that are only in one of both.
func diff(want, got string) (lines []string) {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for _, l := range w {
		if !slices.Contains(g, l) {
			lines = append(lines, "- "+l)
		}
	}
	for _, l := range g {
		if !slices.Contains(w, l) {
			lines = append(lines, "+ "+l)
		}
	}
	return lines
}

func TestLive(t *testing.T) {
	r, err := OpenRoot("/")
	if err != nil {
		t.Fatal(err)
	}
	if !r.Live() {
		t.Fatal("the root / is not live")
	}
	opt := fixtureOptions
	opt.StateDir = t.TempDir()
	sources := mustSources(t, r, opt)
	readAll(t, sources, 1)
	first := Uptime()
	for Uptime() < first+20 { // two ticks of /proc/stat
	}
	got := readAll(t, sources, 1)
	if len(got) != len(facts.Catalogue()) {
		t.Errorf("%d facts were reported, the catalogue has %d", len(got), len(facts.Catalogue()))
	}
	for name, r := range got {
		if r.Status != facts.OK && r.Status != facts.Absent && r.Status != facts.Pending {
			t.Errorf("%s: %s: %s", name, r.Status, r.Reason)
		}
	}
	for _, name := range strings.Fields("cpu.usage cpu.load memory.available storage.used network.listening network.rx process.count integrity.taint software.kernel boot.cmdline time.operating_hours boot.count") {
		if got[name].Status != facts.OK {
			t.Errorf("%s: %s: %s; every Linux has it", name, got[name].Status, got[name].Reason)
		}
	}
	t.Logf("this machine:\n%s", format(got))
}

// TestFixtureIsSealed reads a tree that holds nothing: whatever is ok then was
// read from this machine.
func TestFixtureIsSealed(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("/proc", filepath.Join(dir, "proc")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../../../../../../../../../etc", filepath.Join(dir, "etc")); err != nil {
		t.Fatal(err)
	}
	for name, r := range readAll(t, mustSources(t, openRoot(t, dir), fixtureOptions), 2) {
		if r.Status == facts.OK && name != "software.agent" {
			t.Errorf("%s is %v, which is this machine's", name, r.Value)
		}
	}
}
