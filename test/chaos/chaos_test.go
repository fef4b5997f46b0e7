// Package chaos kills the device's processes at random moments of the demo's
// story and looks at what must hold all the same.
package chaos

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miotfacts/miotfacts/test/lab"
)

var (
	kills = flag.Int("kills", 50, "how many kills")
	seed  = flag.Uint64("seed", uint64(time.Now().UnixNano()), "of the random moments")
)

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "infusion" {
		if err := lab.Infusion(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "error:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// TestKills kills `factsd run` or `factsd enforce` with -9 at random moments
// while the simulated pump runs away, is paused and is resumed, over and over.
// Then: every report that the device numbered is at the verifier, so none was
// acknowledged and lost; and no report says operating between a latched pause
// and its resume.
func TestKills(t *testing.T) {
	t.Logf("seed %d", *seed)
	rng := rand.New(rand.NewPCG(*seed, 1))
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	l, err := lab.New(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Clean()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	must(err)
	for _, step := range []func() error{
		l.Build, func() error { return l.StartWorkload(self) }, l.MakeKeys, l.InitVerifier, l.ConfigureVerifier, l.SignKeyLists,
		func() error { return l.Draft(2 * time.Second) }, l.FinishManifest, l.StartVerifier,
	} {
		must(step())
	}
	id, err := l.Provision()
	must(err)
	enforce, err := l.StartEnforce()
	must(err)
	run, err := l.StartRun()
	must(err)
	must(l.Enrol(id))
	if !l.Until("operating", 30*time.Second, func() bool { return l.Device(id).Stage == "operating" }) {
		t.Fatal("the device did not come into operation")
	}

	// The demo's story, over and over, and a killer beside it.
	resumed := map[string]time.Time{}
	// A resume that was on its way when its reader was killed is lost; the
	// operator sees that the device is still paused and gives another.
	resume := func(d lab.Device) {
		if d.Stage == "paused" && d.Pause != nil && d.Pause.ID != "" && time.Since(resumed[d.Pause.ID]) > 3*time.Second {
			must(l.SetFlow(120))
			must(l.Resume(id, d.Pause.ID))
			resumed[d.Pause.ID] = time.Now()
		}
	}
	nextKill := time.Now()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	killed := 0
	for killed < *kills {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("out of time")
		}
		d := l.Device(id)
		if d.Stage == "operating" {
			must(l.SetFlow(620))
		}
		resume(d)
		if time.Now().Before(nextKill) {
			continue
		}
		nextKill = time.Now().Add(time.Duration(rng.IntN(2500)) * time.Millisecond)
		if rng.IntN(2) == 0 {
			run.Stop(syscall.SIGKILL)
			run, err = l.StartRun()
		} else {
			enforce.Stop(syscall.SIGKILL)
			enforce, err = l.StartEnforce()
		}
		must(err)
		killed++
	}

	// The dust settles: paused or operating, and everything has arrived.
	must(l.SetFlow(120))
	settled := l.Until("the device to settle", 60*time.Second, func() bool {
		d := l.Device(id)
		resume(d)
		return d.Stage == "operating"
	})
	if !settled {
		t.Fatalf("the device is stuck: %+v", l.Device(id))
	}
	run.Stop(syscall.SIGTERM)
	last := l.Device(id).Sequence
	records := l.AllReports(id)
	have := map[uint64]lab.Record{}
	for _, r := range records {
		have[r.Sequence] = r
	}
	if last < uint64(killed) || len(resumed) < killed/4 {
		t.Errorf("only %d reports and %d pauses for %d kills: the story did not run", last, len(resumed), killed)
	}
	pausedAt := ""
	for n := uint64(1); n <= last; n++ {
		r, ok := have[n]
		if !ok {
			t.Errorf("report %d is lost", n)
			continue
		}
		switch {
		case r.Stage == "paused" && r.Pause != "":
			pausedAt = r.Pause
		case r.Stage == "operating" && pausedAt != "" && resumed[pausedAt].IsZero():
			t.Errorf("report %d says operating, pause %s was never resumed", n, pausedAt)
		}
	}
	for _, p := range l.Procs {
		if data, err := os.ReadFile(p.Log); err == nil && strings.Contains(string(data), "panic:") {
			t.Errorf("%s panicked:\n%s", p.Name, data)
		}
	}
	if t.Failed() {
		for _, name := range []string{"run", "enforce", "verifier"} {
			data, err := os.ReadFile(l.Path(name + ".log"))
			if err == nil {
				t.Logf("the end of %s.log:\n%s", name, data[max(0, len(data)-6000):])
			}
		}
	}
	t.Logf("%d kills, %d pauses resumed, %d reports, none lost", killed, len(resumed), last)
}
