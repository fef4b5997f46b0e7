package failsafe

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/miotfacts/miotfacts/appraise"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/referencetest"
)

// What becomes of the manifest's file, before the first start and after it was
// opened once. Without a manifest that opens, a clear latch is not claimed.
func TestManifestFile(t *testing.T) {
	sign := func(d *device, change func(*reference.Manifest)) []byte {
		m := referencetest.Example()
		change(&m)
		return must(reference.SignManifest(&m, d.world.Manifest))
	}
	for _, tt := range []struct {
		name   string
		damage func(d *device) error
		words  string
	}{
		{"missing", func(d *device) error { return os.Remove(d.path("manifest")) }, "no such file"},
		{"empty", func(d *device) error { return os.WriteFile(d.path("manifest"), nil, 0o600) }, "cannot parse"},
		{"garbage", func(d *device) error { return os.WriteFile(d.path("manifest"), []byte("manifest"), 0o600) }, "cannot parse"},
		{"oversize", func(d *device) error { return os.WriteFile(d.path("manifest"), make([]byte, 1<<20), 0o600) }, "longer than 65536"},
		{"a pipe", func(d *device) error {
			return errors.Join(os.Remove(d.path("manifest")), syscall.Mkfifo(d.path("manifest"), 0o600))
		}, "not a regular file"},
		{"a directory", func(d *device) error {
			return errors.Join(os.Remove(d.path("manifest")), os.Mkdir(d.path("manifest"), 0o700))
		}, "not a regular file"},
		{"forged", func(d *device) error {
			m := referencetest.Example()
			d.write("manifest", must(reference.SignManifest(&m, referencetest.Signer(d.t))))
			return nil
		}, reference.ErrUnknownKey.Error()},
		{"signed by an operator", func(d *device) error {
			m := referencetest.Example()
			d.write("manifest", must(reference.SignManifest(&m, d.world.Resume)))
			return nil
		}, reference.ErrRole.Error()},
		{"expired", func(d *device) error {
			d.write("manifest", sign(d, func(m *reference.Manifest) { m.NotAfter = referencetest.Now - 1 }))
			return nil
		}, reference.ErrExpired.Error()},
		{"another model", func(d *device) error {
			d.write("manifest", sign(d, func(m *reference.Manifest) { m.Model = "pump-2" }))
			return nil
		}, reference.ErrModel.Error()},
		{"a newer agent", func(d *device) error {
			d.write("manifest", sign(d, func(m *reference.Manifest) { m.MinAgent = "9.0.0" }))
			return nil
		}, reference.ErrAgent.Error()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDevice(t, nil)
			if err := tt.damage(d); err != nil {
				t.Fatal(err)
			}
			r := d.start()
			if s := r.status(); s.Latch != appraise.LatchUnknown || !strings.Contains(s.Reason, tt.words) {
				t.Errorf("never opened: %+v, want %q", s, tt.words)
			}
			if _, err := r.client.Pause(ctx10(t), crossing()); !errors.Is(err, ErrRule) {
				t.Errorf("a pause without a manifest: %v", err)
			}
			r.stop()

			d = newDevice(t, nil)
			r = d.start()
			if err := tt.damage(d); err != nil {
				t.Fatal(err)
			}
			r.reload()
			if s := r.status(); s.Latch != appraise.LatchClear || !strings.Contains(strings.Join(s.Degraded, "\n"), tt.words) {
				t.Errorf("opened before: %+v, want %q", s, tt.words)
			}
			r.stop()
			r = d.start()
			if s := r.status(); s.Latch != appraise.LatchClear || s.Sequence != 3 {
				t.Errorf("after a restart: %+v", s)
			}
			r.mustPause(t)
		})
	}
}

// The own copy is worth no more than the file was: it expires, and its key can
// be revoked. A pause holds all the same, and still ends.
func TestOwnCopyExpires(t *testing.T) {
	d := newDevice(t, nil)
	r := d.start()
	id := r.mustPause(t).PauseID
	r.untilPhase(t, PhasePaused)
	r.stop()
	d.now.Store(2_000_000_001)
	r = d.start()
	s := r.status()
	if s.Latch != appraise.LatchPaused || len(s.Effects) != 1 || !s.Effects[0].Done || !strings.Contains(strings.Join(s.Degraded, "\n"), reference.ErrExpired.Error()) {
		t.Fatalf("%+v", s)
	}
	if _, err := r.client.Resume(ctx10(t), d.resume(id, d.world.Resume, nil)); err != nil {
		t.Fatal(err)
	}
	if s := r.untilPhase(t, PhaseClear); s.Latch != appraise.LatchUnknown {
		t.Errorf("resumed without a valid manifest: %+v", s)
	}
}

// An expired manifest that was valid when the enforcer opened it still lets a
// crossing pause the device.
func TestPauseUnderExpiredManifest(t *testing.T) {
	d := newDevice(t, nil)
	r := d.start()
	d.now.Store(2_000_000_001)
	r.reload()
	if s := r.status(); s.Latch != appraise.LatchUnknown {
		t.Errorf("%+v", s)
	}
	r.mustPause(t)
}

func TestFloors(t *testing.T) {
	d := newDevice(t, func(m *reference.Manifest) { m.Sequence = 5 })
	r := d.start()
	if s := r.status(); s.Sequence != 5 {
		t.Fatalf("%+v", s)
	}
	d.manifest(func(m *reference.Manifest) { m.Sequence = 4 })
	r.reload()
	if s := r.status(); s.Sequence != 5 || !strings.Contains(strings.Join(s.Degraded, "\n"), reference.ErrRollback.Error()) {
		t.Errorf("an older manifest: %+v", s)
	}
	r.stop()
	// Also when the own copy is lost.
	if err := os.Remove(r.file(fileRef)); err != nil {
		t.Fatal(err)
	}
	r = d.start()
	if s := r.status(); s.Latch != appraise.LatchUnknown || !strings.Contains(s.Reason, reference.ErrRollback.Error()) {
		t.Errorf("an older manifest, own copy lost: %+v", s)
	}
	d.manifest(func(m *reference.Manifest) { m.Sequence = 6 })
	r.reload()
	if s := r.status(); s.Latch != appraise.LatchClear || s.Sequence != 6 || len(s.Degraded) != 0 {
		t.Errorf("a newer manifest: %+v", s)
	}
	// An older key list, with the own copy of the newer one lost.
	w := d.world
	l := reference.Keys{Version: 1, Owner: reference.Operator, Sequence: 9}
	d.write("keys-o", must(reference.SignKeys(&l, w.OperatorRoot)))
	r.reload()
	d.write("keys-o", w.OperatorKeys)
	if err := os.Remove(r.file(fileKeys + "2")); err != nil {
		t.Fatal(err)
	}
	r.reload()
	if s := r.status(); !strings.Contains(strings.Join(s.Degraded, "\n"), reference.ErrRollback.Error()) {
		t.Errorf("an older key list: %+v", s)
	}
	id := r.mustPause(t).PauseID
	if _, err := r.client.Resume(ctx10(t), d.resume(id, w.Resume, nil)); !errors.Is(err, reference.ErrUnknownKey) {
		t.Errorf("a resume under the older key list: %v", err)
	}
}

// A manifest that comes during a pause adds its steps, and a resume undoes all.
func TestManifestDuringPause(t *testing.T) {
	first, second := workload(t), workload(t)
	d := newDevice(t, freezeStep(first))
	r := d.start()
	id := r.mustPause(t).PauseID
	r.untilPhase(t, PhasePaused)
	d.manifest(func(m *reference.Manifest) { m.Sequence = 4; freezeStep(second)(m) })
	r.reload()
	r.until(t, "both frozen", func(Status) bool { return frozen(t, first) && frozen(t, second) })
	if _, err := r.client.Resume(ctx10(t), d.resume(id, d.world.Resume, nil)); err != nil {
		t.Fatal(err)
	}
	r.untilPhase(t, PhaseClear)
	if frozen(t, first) || frozen(t, second) {
		t.Errorf("frozen after the resume: %v, %v", frozen(t, first), frozen(t, second))
	}
}

func TestConfig(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no roots":     func(c *Config) { c.Roots = nil },
		"no device":    func(c *Config) { c.Device = nil },
		"no users":     func(c *Config) { c.AllowUIDs = nil },
		"no model":     func(c *Config) { c.Model = "" },
		"no clock":     func(c *Config) { c.Now = nil },
		"no parent":    func(c *Config) { c.StateDir += "/a/b" },
		"not a folder": func(c *Config) { c.StateDir = c.ManifestPath },
	} {
		d := newDevice(t, nil)
		change(&d.cfg)
		if e, err := New(d.cfg); err == nil {
			e.Close()
			t.Errorf("%s was accepted", name)
		}
	}
}
