package failsafe

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/agent/quarantine"
	"github.com/miotfacts/miotfacts/attest/tpm"
	"github.com/miotfacts/miotfacts/reference"
)

// TestDryRun looks at a chain of all sorts, on a device where all of it is there
// (GPIO, LED, USB and systemd are simulated) and one where little is. Afterwards
// everything is as it was.
func TestDryRun(t *testing.T) {
	cgroup := workload(t)
	d := newDevice(t, nil)
	simulate(t, d)
	program := startPump(t, d)
	f := startBus(t)
	f.add(t, "pump.service", "active", nil)
	f.add(t, "guard.service", "active", nil)
	f.add(t, "main.service", "active", map[string][]string{"RequiredBy": {"guard.service"}})
	chip := &fileChip{d.path("dev")}
	d.cfg.AppSocket, d.cfg.Hooks, d.cfg.Network, d.cfg.Verifier = d.path("app"), d.path("hooks"), "/proc/thread-self/ns/net", verifierPeers()
	d.cfg.Sysfs, d.cfg.NeverTouch = []string{"/sys/kernel/pump", "/sys/kernel/gone"}, []string{"/opt/vent/run", "guard.service"}
	pretend(t, d.cfg.AppSocket, func(_ string, conn net.Conn) { io.WriteString(conn, "ok\n") })
	all, err := newHands(&d.cfg)
	if err != nil {
		t.Fatal(err)
	}
	all.sys, all.dev, all.ioctl = d.path("sys"), d.path("dev"), chip.ioctl
	little, err := newHands(&Config{CgroupRoot: d.path("none"), Sysfs: d.cfg.Sysfs})
	if err != nil {
		t.Fatal(err)
	}
	little.sys, little.dev = d.path("none"), d.path("none")
	at := func(do reference.ReactionKind, target string) reference.Reaction {
		r := d.reaction(do, target)
		r.Target = target
		return r
	}
	steps := []struct {
		r           reference.Reaction
		now, refuse string // parts of the words where all is there
		little      string // part of the refusal where little is
	}{
		{d.reaction(reference.Tell, ""), "its socket is there", "", "no application socket"},
		{d.reaction(reference.Freeze, cgroup), "frozen 0", "", "no such file"},
		{at(reference.Freeze, "no-such.slice"), "not known", "no such file", "no such file"},
		{d.reaction(reference.Signal, ""), "1 processes, 0 of them stopped", "", ""},
		{at(reference.Signal, "/opt/vent/run"), "0 processes", "never to be touched", ""},
		{d.reaction(reference.StopUnit, ""), "unit is loaded, active", "", ""},
		{at(reference.StopUnit, "guard.service"), "unit is loaded, active", "never to be touched", ""},
		{at(reference.StopUnit, "main.service"), "unit is loaded, active", "guard.service would stop with it", ""},
		{d.reaction(reference.MaskUnit, ""), "unit is loaded, active", "", ""},
		{d.reaction(reference.Quarantine, ""), "would stay reachable: [192.0.2.2:8883]", "", "no address of the verifier"},
		{d.reaction(reference.BlockUSB, ""), "2 switches: usb1/authorized_default=1 1-1/authorized=1", "", "no such file"},
		{d.reaction(reference.GPIO, ""), "an input", "", "no such file"},
		{at(reference.GPIO, "gpiochip9:1"), "not known", "no such file", "no such file"},
		{d.reaction(reference.LED, ""), "trigger is none, brightness 0", "", "no such file"},
		{d.reaction(reference.Beep, ""), "its device is there", "", "no such file"},
		{d.reaction(reference.Sysfs, ""), `reads "100"`, "", "no such file"},
		{at(reference.Sysfs, "/sys/kernel/gone"), "not known", "no such file", "no such file"},
		{at(reference.Sysfs, "/sys/kernel/other"), "not known", "not on the device's list", "not on the device's list"},
		{d.reaction(reference.Hook, ""), "is sound", "", "no hooks"},
		{at(reference.Hook, "absent"), "not known", "no such file", "no hooks"},
	}
	d.manifest(func(m *reference.Manifest) {
		m.Reaction = nil
		for _, s := range steps {
			m.Reaction = append(m.Reaction, s.r)
		}
	})
	// The enforcer has been here: its floors and copies are there.
	d.start().stop()
	before := files(t, d.dir)
	in := ownNetwork(t)
	for _, h := range []*hands{all, little} {
		var got Rehearsal
		in(func() { got, err = h.rehearse(t.Context(), d.cfg) })
		if err != nil || len(got.Steps) != len(steps) || (len(got.Notes) != 0) != (h == all) {
			t.Fatalf("%d steps, %q, %v", len(got.Steps), got.Notes, err)
		}
		for i, s := range steps {
			p, now, refuse := got.Steps[i], s.now, s.refuse
			if h == little {
				now, refuse = "", s.little
			}
			if p.Do != s.r.Do.String() || !strings.Contains(p.Now, now) || (p.Refuse == "") != (refuse == "") || !strings.Contains(p.Refuse, refuse) {
				t.Errorf("step %d: %+v, want now %q, refuse %q", i, p, now, refuse)
			}
			if (p.Refuse != "") != (p.Would == "nothing") {
				t.Errorf("step %d would do %q and fails %q", i, p.Would, p.Refuse)
			}
		}
	}
	var present bool
	in(func() { present, err = (quarantine.Network{}).Present(t.Context()) })
	if after := files(t, d.dir); frozen(t, cgroup) || stoppedNow(t, all, program.Process.Pid) || present || err != nil || len(f.did()) != 0 || len(all.lines) != 0 || after != before {
		t.Errorf("it changed something: frozen %v, network %v, %v, systemd was asked to %q, files from\n%s to\n%s", frozen(t, cgroup), present, err, f.did(), before, after)
	}
}

// A floorNV is a TPM that holds a floor and is not written.
type floorNV struct {
	t     *testing.T
	floor uint64
}

func (n floorNV) DefineLatch() error                  { n.t.Error("defined"); return nil }
func (n floorNV) WriteLatch(tpm.LatchRecord) error    { n.t.Error("written"); return nil }
func (n floorNV) ReadLatch() (tpm.LatchRecord, error) { return tpm.LatchRecord{Floor: n.floor}, nil }

// A dry run opens the manifest as the enforcer does: what that would refuse it
// refuses, and where that falls back on its own copy it says so.
func TestDryRunFloors(t *testing.T) {
	d := newDevice(t, nil)
	d.start().stop()
	d.manifest(func(m *reference.Manifest) { m.Sequence--; m.Reaction[0].Target = "/nonexistent/older" })
	r, err := DryRun(t.Context(), d.cfg)
	if err != nil || len(r.Steps) != 1 || r.Steps[0].Target != "/nonexistent/pump" || len(r.Notes) != 1 || !strings.Contains(r.Notes[0], reference.ErrRollback.Error()) || !strings.Contains(r.Notes[0], "the last good manifest is in force") {
		t.Errorf("rolled back: %+v, %v", r, err)
	}
	// Without its own copy, and with the TPM's floor alone.
	d.cfg.StateDir, d.cfg.NV = d.path("none"), floorNV{t, 3}
	if r, err := DryRun(t.Context(), d.cfg); !errors.Is(err, reference.ErrRollback) && (err == nil || !strings.Contains(err.Error(), reference.ErrRollback.Error())) || r.Steps != nil {
		t.Errorf("below the TPM's floor: %+v, %v", r, err)
	}
	d.cfg.NV = floorNV{t, 2}
	if r, err := DryRun(t.Context(), d.cfg); err != nil || len(r.Steps) != 1 || r.Steps[0].Target != "/nonexistent/older" {
		t.Errorf("at the floor: %+v, %v", r, err)
	}
	d.write("manifest", []byte("damaged"))
	if r, err := DryRun(t.Context(), d.cfg); err == nil || r.Steps != nil {
		t.Errorf("%+v of a damaged manifest, %v", r, err)
	}
	if _, err := os.Stat(d.cfg.StateDir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a state folder was made: %v", err)
	}
}

// files returns all names, modes, times and contents below dir.
func files(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s %v %v", path, info.Mode(), info.ModTime())
		if info.Mode().IsRegular() && info.Size() < 1<<16 {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %q", data)
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}
